"""A process of its own for tests: does what its lines on stdin say, each answered with a line on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from avaturn_async.webhooks.stores import Arrival
from avaturn_async.webhooks.stores.redis import RedisStore


async def main(url: str) -> None:
    store = RedisStore.from_url(url)
    await store.start()
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await act(store, *json.loads(line))), flush=True)  # noqa: T201 - our answer
    await store.close()


async def act(store: RedisStore, command: str, *words: str) -> Any:
    """``append <key> <topic>``, ``claim <how many>`` (tells bodies), ``wait <topic>`` (tells how many)."""
    if command == "append":
        key, topic = words
        return await store.append(Arrival(key=key, body=key.encode(), subjects=(topic,)))
    if command == "claim":
        return [event.body.decode() for event in await store.claim("g", limit=int(words[0]))]
    hinted = asyncio.Event()
    stop = store.listen(lambda _: hinted.set())
    while not (found := await store.read(words[0])):
        await hinted.wait()
        hinted.clear()
    stop()
    return len(found)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
