"""A process that appends to a store until it is killed, and prints what it sent and what was acknowledged.

Usage: store_writer.py URL NAME, with a URL of Redis or PostgreSQL, or the path of a file for SQLiteStore.
"""

from __future__ import annotations

import asyncio
import sys

from avaturn_async import webhooks
from avaturn_async.webhooks import EventStore
from avaturn_async.webhooks.stores.base import NewEntry


def make_store(url: str) -> EventStore:
    if url.startswith("redis:"):
        return webhooks.RedisStore.from_url(url)
    if url.startswith("postgresql:"):
        return webhooks.PostgresStore.from_url(url)
    return webhooks.SQLiteStore(url)


async def main(url: str, name: str) -> None:
    store = make_store(url)
    await store.start()

    async def write(writer: int) -> None:
        number = 0
        while True:
            body = f"{name}-{writer}-{number}"
            sys.stdout.write(f"sent {body}\n")
            sys.stdout.flush()
            if await store.append(NewEntry(topics=("t",), body=body.encode(), key=body)):
                sys.stdout.write(f"acknowledged {body}\n")
                sys.stdout.flush()
            number += 1

    await asyncio.gather(*map(write, range(8)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
