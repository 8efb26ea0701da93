"""A process on a shared store: ``python -m tests.benchmarks.store_child wait|publish|handle URL [bare]``.

``wait`` reads a number, answers when it waits for that session's event, and then with the time when it had it.
``publish`` reads a number and answers with the time when it began to publish that session's event. ``handle`` has one
handler; ``run FIRST COUNT RATE`` publishes events, ``report`` answers with the CPU seconds, and ``finish`` with the CPU
seconds and the handled events once the router has handled all that was published here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from avaturn_async import webhooks
from avaturn_async.webhooks import AvatarReady, EventStore, SessionRouter, parse_event

from .webhook_server import build_event, make_id

STREAM, CHANNEL = "bare:events", "bare:notifications"


def make_store(url: str) -> EventStore:
    """Return the store of a URL of Redis or PostgreSQL, or of the path of a SQLite file."""
    if url.startswith("redis://"):
        return webhooks.RedisStore.from_url(url)
    return webhooks.PostgresStore.from_url(url) if url.startswith("postgresql://") else webhooks.SQLiteStore(url)


async def publish(router: SessionRouter, n: int) -> None:
    body = json.dumps(build_event(n)).encode()
    await router.publish(parse_event(body), key=f"id:{n}", body=body)


async def run_wakes(role: str, router: SessionRouter) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        n = int(line)
        if role == "publish":
            print(time.perf_counter(), flush=True)
            await publish(router, n)
            continue
        waiting = asyncio.ensure_future(router.wait_for(AvatarReady, session_id=make_id("session", n), timeout=60))
        await asyncio.sleep(0.02)  # it has read, found nothing, and sleeps
        print("waiting", flush=True)
        await waiting
        print(time.perf_counter(), flush=True)


async def run_bare_redis_wakes(role: str, url: str) -> None:
    """XADD and PUBLISH in one pipeline; XRANGE when the message arrives."""
    from redis.asyncio import Redis  # noqa: PLC0415 - only here

    redis: Any = Redis.from_url(url)
    pubsub = redis.pubsub()
    await pubsub.subscribe(CHANNEL)
    await pubsub.get_message(timeout=10)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if role == "publish":
            entry = f"{int(line) + 1}-0"
            print(time.perf_counter(), flush=True)
            body = json.dumps(build_event(int(line)))
            await (
                redis.pipeline(transaction=False).xadd(STREAM, {"body": body}, entry).publish(CHANNEL, entry).execute()
            )
            continue
        print("waiting", flush=True)
        while (message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=60)) is None:
            pass
        await redis.xrange(STREAM, message["data"], message["data"])
        print(time.perf_counter(), flush=True)


async def run_bare_postgres_wakes(role: str, url: str) -> None:
    """INSERT and pg_notify() in one statement; SELECT when the notification arrives."""
    import asyncpg  # noqa: PLC0415 - only here

    connection: Any = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(1)")  # both processes may be first
        await connection.execute("CREATE TABLE IF NOT EXISTS bare (n bigint PRIMARY KEY, body text)")
    received: asyncio.Queue[int] = asyncio.Queue()
    await connection.add_listener("bare", lambda *notification: received.put_nowait(int(notification[-1])))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if role == "publish":
            print(time.perf_counter(), flush=True)
            body = json.dumps(build_event(int(line)))
            await connection.fetch(
                "WITH new AS (INSERT INTO bare VALUES ($1, $2) RETURNING n) SELECT pg_notify('bare', n::text) FROM new",
                int(line),
                body,
            )
            continue
        print("waiting", flush=True)
        await connection.fetch("SELECT body FROM bare WHERE n = $1", await received.get())
        print(time.perf_counter(), flush=True)


async def run_handler(router: SessionRouter, handled: list[object]) -> None:
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        if words[0] == "run":
            first, count, rate = int(words[1]), int(words[2]), float(words[3])
            for n in range(first, first + count):
                await publish(router, n)
                await asyncio.sleep(1 / rate)
        elif words[0] == "finish":
            await router.close()
        print(time.process_time(), len(handled), flush=True)


async def main(role: str, url: str, bare: str = "") -> None:
    if bare:
        await (run_bare_redis_wakes if url.startswith("redis://") else run_bare_postgres_wakes)(role, url)
        return
    router = SessionRouter(make_store(url))
    handled: list[object] = []
    if role == "handle":

        @router.on(AvatarReady, name="benchmark")
        async def handle(event: AvatarReady, _: object) -> None:
            handled.append(event.avatar_id)

    async with router:
        print("ready", flush=True)
        await (run_handler(router, handled) if role == "handle" else run_wakes(role, router))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
