"""A contender that is handed webhooks without HTTP: ``python -m tests.benchmarks.receiving ours|by_hand``."""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable

from avaturn_async.webhooks import HmacSha256, SessionRouter, WebhookReceiver, WebhookRequest

from . import load

Take = Callable[[WebhookRequest], Awaitable[object]]


def by_hand() -> Take:
    """The signature, json.loads, and a look into a dict."""
    secret, header = load.SECRET.encode(), load.HEADER.lower().encode()
    sessions: dict[str, object] = {}

    async def take(request: WebhookRequest) -> object:
        expected = hmac.new(secret, request.body, "sha256").hexdigest().encode()
        given = next(value for name, value in request.headers if name.lower() == header)
        if not hmac.compare_digest(expected, given):
            return None
        return sessions.get(json.loads(request.body)["session_id"], request)

    return take


def as_request(n: int) -> WebhookRequest:
    head, _, body = load.request(n).partition(b"\r\n\r\n")
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    return WebhookRequest(method="POST", headers=tuple((name, value) for name, _, value in lines), body=body)


async def _main(which: str) -> None:
    async with SessionRouter() as router:
        receiver = WebhookReceiver(router, verifier=HmacSha256(load.SECRET, header=load.HEADER))
        take: Take = receiver.receive if which == "ours" else by_hand()
        first = 0
        for line in sys.stdin:
            requests = [as_request(n) for n in range(first, first + int(line))]
            first += len(requests)
            started = time.process_time()
            for request in requests:
                await take(request)
            print(time.process_time() - started, flush=True)
        taken = receiver.outcomes["stored"]
        if which == "ours" and taken != first:
            raise RuntimeError(f"only {taken} of {first} webhooks were stored")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
