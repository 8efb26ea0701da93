"""A contender that is posted to: ``python -m tests.benchmarks.hook_server ours|in_one|by_hand|bare [STORE]``.

STORE is a file for a SQLiteStore or the URL of a Redis; ours keeps events in memory without it.

It prints its port. ``wait FIRST COUNT`` has openers wait for the events of so many sessions; ``cpu`` lets
them end, and both answer with the CPU seconds of the process so far.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from avaturn_async.webhooks import (
    AvatarReady,
    Event,
    EventStore,
    HmacSha256,
    RedisStore,
    SessionRouter,
    SQLiteStore,
    WebhookReceiver,
    parse_event,
)
from avaturn_async.webhooks._answer import Answer

from . import load

MOST = 262_144
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


def in_one(app: web.Application) -> Wait:
    """What the SDK promises of a webhook, in one function without layers and choices: the least it can cost."""
    secret, header = load.SECRET.encode(), load.HEADER
    kept: dict[str, tuple[float, bytes]] = {}
    topics: dict[str, list[tuple[float, bytes]]] = {}
    bindings: dict[str, str] = {}
    waiting: dict[str, list[asyncio.Future[Event]]] = {}

    async def handle(request: web.Request) -> web.Response:
        headers = request.headers
        if (request.content_length or 0) > MOST or "Content-Encoding" in headers:
            return web.Response(status=413)
        body = await request.read()
        given = headers.getall(header, ())
        expected = hmac.digest(secret, body, "sha256").hex()
        if len(given) != 1 or not hmac.compare_digest(expected.encode(), given[0].encode()):
            return web.Response(status=401)
        event = parse_event(body)
        key, now = hashlib.sha256(body).hexdigest(), time.monotonic()
        if len(kept) >= MOST or (key in kept and kept[key][0] > now):
            return Answer(status=503 if len(kept) >= MOST else 200)
        kept[key] = row = (now + 86_400, body)
        avatar, session = str(event.avatar_id), str(event.session_id)
        for topic in (avatar, session):
            topics.setdefault(topic, []).append(row)
        bindings[avatar] = session
        for future in waiting.get(session, ()):
            if not future.done():
                future.set_result(event)
        return Answer()

    async def wait(session: str) -> object:
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        waiting.setdefault(session, []).append(future)
        try:
            async with asyncio.timeout(600):
                event = await future
        finally:
            waiting[session].remove(future)
        return event if isinstance(event, AvatarReady) else None

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
    make: Callable[..., Wait] = {
        "ours": ours,
        "by_hand": by_hand,
        "in_one": in_one,
        "bare": bare,
    }[which]
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
