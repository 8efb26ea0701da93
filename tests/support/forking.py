"""A program that forks with a store, and prints what each side experienced.

Usage: forking.py STORE SCENARIO, where STORE is the path of a SQLite file, or the URL of Redis or PostgreSQL. Each line
is a JSON list: the side, what happened, and the body or the error.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from avaturn_async.errors import StoreError
from avaturn_async.webhooks import SQLiteStore
from avaturn_async.webhooks.stores.base import EventStore, NewEntry


def make_store(where: str) -> EventStore:
    if where.startswith("redis:"):
        from avaturn_async.webhooks import RedisStore  # noqa: PLC0415 - not installed everywhere

        return RedisStore.from_url(where)
    if where.startswith("postgresql:"):
        from avaturn_async.webhooks import PostgresStore  # noqa: PLC0415 - the same

        return PostgresStore.from_url(where)
    return SQLiteStore(where)


def report(*values: str) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


async def use(store: EventStore, side: str) -> None:
    """Start the store and append; report each acknowledgement and each error."""
    try:
        await store.start()
    except StoreError as error:
        report(side, "start refused", str(error))
    for number in range(5):
        body = f"{side}-{number}"
        try:
            await store.append(NewEntry(topics=("t",), body=body.encode()))
        except StoreError as error:
            report(side, "append refused", str(error))
            return
        report(side, "acknowledged", body)


class Child:
    """A forked process, which uses ``store`` when it is told to, and then is killed."""

    def __init__(self, store: EventStore) -> None:
        begin, self._begin = os.pipe()
        self._finished, finished = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._begin)
            os.read(begin, 1)
            # Beside the loop of the parent, if the fork was inside of it.
            asyncio.run(use(store, "child"))
            os.write(finished, b".")
            signal.pause()
        os.close(begin)
        os.close(finished)

    def run(self) -> None:
        os.close(self._begin)
        os.read(self._finished, 1)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


async def use_and_fork(store: EventStore) -> Child:
    await use(store, "parent")
    return Child(store)


def main(where: str, scenario: str) -> None:
    store = make_store(where)
    with asyncio.Runner() as runner:
        if scenario == "forked before the start":
            child = Child(store)
            runner.run(use(store, "parent"))
            child.run()
            runner.run(store.close())
            return
        if scenario == "same store, in the running loop":
            child = runner.run(use_and_fork(store))
            child.run()
            runner.run(use(store, "parent again"))
            runner.run(store.close())
            return
        runner.run(use(store, "parent"))
        if scenario == "forked after the close":
            runner.run(store.close())
        child = Child(store if scenario == "same store" else make_store(where))
        if scenario == "new store, the parent closes first":
            runner.run(store.close())
        child.run()
        runner.run(store.close())


if __name__ == "__main__":
    main(*sys.argv[1:])
