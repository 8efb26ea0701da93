"""Half of a wake-up: ``python -m tests.benchmarks.waking wait|tell ours|bare URL``, with the Redis at URL.

``wait`` reads a number, says that it waits for the event of that session, and then when it had it; ``tell`` reads a
number, and says when it began to bring that event in. The clock is the same in all processes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from avaturn_async.webhooks import AvatarReady, RedisStore, SessionRouter
from avaturn_async.webhooks.events import parse_event

from . import load

Do = Callable[[int], Awaitable[object]]
STREAM, CHANNEL = "bare:events", "bare:news"


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[tuple[Do, Do]]:
    """What a waiter and a webhook do in the SDK."""
    async with SessionRouter(RedisStore.from_url(url)) as router:

        async def wait(n: int) -> object:
            return await router.wait_for(AvatarReady, session_id=load.session_id(n), timeout=60)

        async def tell(n: int) -> object:
            body = load.body(n)
            return await router.publish(parse_event(body), key=f"id:{n}", body=body)

        yield wait, tell


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[tuple[Do, Do]]:
    """The least that does it: XADD and PUBLISH on one way, and the entry read when a message comes."""
    redis: Any = Redis.from_url(url)  # its own types are partial
    news = redis.pubsub()
    await news.subscribe(CHANNEL)
    await news.get_message(timeout=10)

    async def wait(_: int) -> object:
        while (message := await news.get_message(ignore_subscribe_messages=True, timeout=60)) is None:
            pass
        return await redis.xrange(STREAM, message["data"], message["data"])

    async def tell(n: int) -> object:
        entry = f"{n + 1}-0"
        async with redis.pipeline(transaction=False) as pipe:
            return await pipe.xadd(STREAM, {"body": load.body(n)}, entry).publish(CHANNEL, entry).execute()

    yield wait, tell
    await news.aclose()
    await redis.aclose()


async def _main(role: str, which: str, url: str) -> None:
    async with {"ours": ours, "bare": bare}[which](url) as (wait, tell):
        print("begun", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            n = int(line)
            if role == "wait":
                waiting = asyncio.ensure_future(wait(n))
                # Long enough to have looked, found nothing, and be asleep.
                await asyncio.sleep(0.01)
                print("waits", flush=True)
                await waiting
                print(time.perf_counter(), flush=True)
            else:
                print(time.perf_counter(), flush=True)
                await tell(n)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
