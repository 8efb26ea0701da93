"""The webhooks of Avaturn in a FastAPI app, which answers a request with what became of a session.

Set AVATURN_API_TOKEN and AVATURN_WEBHOOK_SECRET, register https://your.host/avaturn?key=SECRET at Avaturn,
and run fastapi_app.py, or uvicorn --workers 2 --timeout-graceful-shutdown 5 fastapi_app:app. Without that timeout, a
request that waits delays the end of the server. The workers of this host share the events in the SQLite file
AVATURN_STORE (avaturn.db); with several hosts, use RedisStore or PostgresStore. A MemoryStore is for one worker.
"""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

import uvicorn
from fastapi import FastAPI, HTTPException
from starlette.routing import Route

from avaturn_async import AvaturnClient, AvaturnTimeoutError, UnknownSessionError
from avaturn_async.webhooks import (
    AccessLogFilter,
    AvatarReady,
    ConfirmByApi,
    SessionRouter,
    SharedSecret,
    SQLiteStore,
    WebhookReceiver,
)

client = AvaturnClient.from_env()
router = SessionRouter(SQLiteStore(os.environ.get("AVATURN_STORE", "avaturn.db")))
secret = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], query="key")
receiver = WebhookReceiver(router, verifier=secret, confirm=ConfirmByApi(client, router))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with client, router:
        yield


# The URL of a webhook holds the secret, which the filter keeps out of the log.
logging.getLogger("uvicorn.access").addFilter(AccessLogFilter())
app = FastAPI(lifespan=lifespan, routes=[Route("/avaturn", receiver.asgi)])


@app.post("/sessions")
async def start() -> dict[str, str | None]:
    user = await client.create_user()  # once for each of your accounts: keep the id there
    session = await router.open_session(client, user.id)
    return {"id": str(session.id), "url": session.url}


@app.get("/sessions/{session_id}/avatar")
async def avatar(session_id: UUID) -> dict[str, str | None]:
    try:
        session = await router.session(session_id)
        event = await session.wait_for(AvatarReady, timeout=30)
    except (UnknownSessionError, AvaturnTimeoutError) as error:
        raise HTTPException(404, str(error)) from None
    return {"id": str(event.avatar_id), "status": event.status}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=8080, timeout_graceful_shutdown=5)
