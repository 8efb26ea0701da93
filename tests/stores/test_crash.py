"""What a store acknowledged survives kill -9 of its processes, and of Redis with AOF ``always``.

The accounts are those of Jepsen's total-queue: acknowledged minus delivered is empty, delivered minus sent is empty,
and no entry is delivered twice. ``pytest -s --kills 50 tests/stores/test_crash.py`` kills 50 times and prints figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path

from attrs import define, field
from stores.store_writer import make_store
from support.redis_server import WITH_AOF, needs_redis, running_redis

from avaturn_async import StoreError
from avaturn_async.webhooks import EventStore, RedisStore
from avaturn_async.webhooks.stores.base import NewEntry

WRITER = Path(__file__).with_name("store_writer.py")
chance = random.Random(7)


@define
class Accounts:
    """The bodies that were sent, and those whose append returned."""

    sent: set[bytes] = field(factory=set[bytes])
    acknowledged: set[bytes] = field(factory=set[bytes])

    async def check(self, store: EventStore) -> str:
        """Read and claim all entries, compare them with the accounts, and return the figures."""
        bodies: list[bytes] = []
        after = 0
        while page := await store.read({"t": after}):
            bodies += [entry.body for entry in page]
            after = page[-1].position
        claimed: list[bytes] = []
        while leases := await store.claim("accounts", limit=100):
            claimed += [lease.entry.body for lease in leases]
            await store.ack("accounts", [lease.entry.position for lease in leases])
        assert claimed == bodies
        assert self.acknowledged - set(bodies) == set()
        assert set(bodies) - self.sent == set()
        assert [body for body, count in Counter(bodies).items() if count > 1] == []
        assert self.acknowledged
        return f"{len(self.sent)} sent, {len(self.acknowledged)} acknowledged, {len(bodies)} delivered"


async def test_killed_writers_lose_and_invent_nothing(shared_url: str, kills: int) -> None:
    """Two processes write; one after the other is killed while it does."""
    accounts = Accounts()

    async def write_and_be_killed(name: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(WRITER), shared_url, name, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        lines = 0
        last = chance.randrange(40, 120)
        # What it printed before it was killed counts; a line can be cut.
        async for line in process.stdout:
            kind, body = line.split()
            if line.endswith(b"\n"):
                (accounts.sent if kind == b"sent" else accounts.acknowledged).add(body)
            lines += 1
            if lines == last:
                os.kill(process.pid, signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL

    async def take_turns(writer: int) -> None:
        for turn in range(writer, kills, 2):
            await write_and_be_killed(f"{writer}-{turn}")

    async with asyncio.timeout(60 + 5 * kills):
        await asyncio.gather(take_turns(0), take_turns(1))
    store = make_store(shared_url)
    await store.start()
    figures = await accounts.check(store)
    await store.close()
    if "://" not in shared_url:
        with contextlib.closing(sqlite3.connect(shared_url)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    print(f"{kills} writers killed: {figures}")  # noqa: T201 - with -s


@needs_redis
async def test_killed_redis_returns_with_all_acknowledged_entries(tmp_path: Path, kills: int) -> None:
    accounts = Accounts()
    with running_redis(tmp_path, WITH_AOF) as server:
        store = RedisStore.from_url(server.url)
        await store.start()

        async def write(name: str, stop: asyncio.Event) -> None:
            number = 0
            while not stop.is_set():
                body = f"{name}-{number}".encode()
                accounts.sent.add(body)
                try:
                    await store.append(NewEntry(("t",), body, key=body.decode()))
                except StoreError:
                    return
                accounts.acknowledged.add(body)
                number += 1
                await asyncio.sleep(0)

        for turn in range(kills):
            stop = asyncio.Event()
            goal = len(accounts.acknowledged) + chance.randrange(20, 80)
            async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
                for writer in range(8):
                    tasks.create_task(write(f"{turn}-{writer}", stop))
                while len(accounts.acknowledged) < goal:
                    await asyncio.sleep(0)
                # In a thread, so that appends are under way.
                await asyncio.to_thread(server.kill)
                stop.set()
            server.start()
        last = NewEntry(("t",), b"last", key="last")
        accounts.sent.add(b"last")
        async with asyncio.timeout(20):
            while b"last" not in accounts.acknowledged:
                with contextlib.suppress(StoreError):
                    await store.append(last)
                    accounts.acknowledged.add(b"last")
        assert accounts.sent > accounts.acknowledged
        figures = await accounts.check(store)
        await store.close()
    print(f"Redis killed {kills} times: {figures}")  # noqa: T201 - with -s
