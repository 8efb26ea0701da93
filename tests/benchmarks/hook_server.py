"""A contender that is posted to: ``python -m tests.benchmarks.hook_server ours|by_hand|bare [STORE]``.

STORE is a file for a SQLiteStore or the URL of a Redis; ours keeps events in memory without it.

It prints its port. ``wait FIRST COUNT`` has openers wait for the events of so many sessions; ``cpu`` lets
them end, and both answer with the CPU seconds of the process so far.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from avaturn_async.webhooks import (
    AvatarReady,
    EventStore,
    HmacSha256,
    RedisStore,
    SessionRouter,
    SQLiteStore,
    WebhookReceiver,
)

from . import load

Wait = Callable[[str], Awaitable[object]]


def _store(where: str) -> EventStore:
    return RedisStore.from_url(where) if "://" in where else SQLiteStore(where)


def ours(app: web.Application, where: str = "") -> Wait:
    """The SDK as its README mounts it."""
    router = SessionRouter(_store(where) if where else None)
    WebhookReceiver(router, verifier=HmacSha256(load.SECRET, header=load.HEADER)).add_to(app, "/webhook")
    return lambda session_id: router.wait_for(AvatarReady, session_id=session_id, timeout=600)


def by_hand(app: web.Application) -> Wait:
    """The least that one would write: the signature, json.loads, and a future in a dict."""
    waiting: dict[str, asyncio.Future[Any]] = {}
    secret = load.SECRET.encode()

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        expected = hmac.new(secret, body, "sha256").hexdigest()
        if not hmac.compare_digest(expected, request.headers[load.HEADER]):
            return web.Response(status=401)
        event = json.loads(body)
        future = waiting.pop(event["session_id"], None)
        if future is not None and not future.done():
            future.set_result(event)
        return web.Response()

    async def wait(session_id: str) -> object:
        future = waiting[session_id] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(600):
            return await future

    app.router.add_post("/webhook", handle)
    return wait


def bare(app: web.Application) -> Wait:
    """A handler that reads the body and answers; nobody waits."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def wait(_: str) -> None:
        return

    app.router.add_post("/webhook", handle)
    return wait


async def _main(which: str, *where: str) -> None:
    app = web.Application()
    make: Callable[..., Wait] = {"ours": ours, "by_hand": by_hand, "bare": bare}[which]
    wait = make(app, *where)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    waiting: list[asyncio.Task[object]] = []
    while words := (await reader.readline()).split():
        if words[0] == b"wait":
            first, count = map(int, words[1:])
            ids = [load.session_id(n) for n in range(first, first + count)]
            waiting = [asyncio.ensure_future(wait(session_id)) for session_id in ids]
            await asyncio.sleep(0.01)
        else:
            await asyncio.gather(*waiting)
        print(time.process_time(), flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
