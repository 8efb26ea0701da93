"""Receive Avaturn's webhooks in a serverless function, such as AWS Lambda behind a function URL.

Deploy it with AVATURN_API_TOKEN, AVATURN_WEBHOOK_SECRET and REDIS_URL, and register the URL of the function with
?key=SECRET. Each call opens a router on the shared store and closes it. The code that waits for the event
runs elsewhere, on the same store.
"""

import asyncio
import base64
import os
from typing import Any

from avaturn_async import AvaturnClient
from avaturn_async.webhooks import (
    ConfirmByApi,
    RedisStore,
    SessionRouter,
    SharedSecret,
    SQLiteStore,
    WebhookReceiver,
    WebhookRequest,
)

VERIFIER = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], query="key")


def open_store() -> RedisStore | SQLiteStore:
    if url := os.environ.get("REDIS_URL"):
        return RedisStore.from_url(url)
    return SQLiteStore(os.environ.get("AVATURN_EVENTS", "avaturn-events.db"))  # on one machine, for a try


async def receive(event: dict[str, Any]) -> dict[str, Any]:
    body = event.get("body") or ""
    async with AvaturnClient.from_env() as client, SessionRouter(open_store()) as router:
        receiver = WebhookReceiver(router, verifier=VERIFIER, confirm=ConfirmByApi(client, router))
        reply = await receiver.receive(
            WebhookRequest(
                method=event["requestContext"]["http"]["method"],
                headers=event["headers"],
                query=event.get("rawQueryString", ""),
                # The raw bytes: a signature covers them.
                body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
                peer=event["requestContext"]["http"].get("sourceIp", ""),
            )
        )
    return {"statusCode": reply.status, "headers": dict(reply.headers), "body": ""}


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    return asyncio.run(receive(event))
