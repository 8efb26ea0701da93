"""A 200 is kept when the receiver that said it, or the Redis behind it, is killed at a random moment.

The accounts are those of Jepsen's total-queue: acknowledged minus delivered is nothing, delivered minus sent is
nothing, duplicates are counted. AVATURN_TEST_KILLS says how many receivers are killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fleet
from attrs import define, field
from fleet import Sender, avatar_body, number
from forks import Process, Processes, processes
from redis_server import WITH_AOF, RedisServer, needs_redis, running_redis
from routing import Api

from avaturn_async.webhooks import AvatarReady, RoutedSession, SessionRouter
from avaturn_async.webhooks.events import parse_event

pytestmark = needs_redis

_KILLS = int(os.environ.get("AVATURN_TEST_KILLS", "12"))
_OUTAGES = 5
_SENDERS = 8


@define
class Load:
    """Receivers on one Redis, webhooks that come without end, and who gets their events."""

    url: str
    processes: Processes
    router: SessionRouter
    sender: Sender
    numbers: itertools.count[int] = field(factory=itertools.count)
    receivers: list[tuple[Process, int]] = field(factory=list[tuple[Process, int]])
    handled: Counter[int] = field(factory=Counter[int])
    delivered: Counter[int] = field(factory=Counter[int])
    sessions: list[RoutedSession] = field(factory=list[RoutedSession])
    api: Api = field(factory=Api)
    openers: list[asyncio.Task[None]] = field(factory=list[asyncio.Task[None]])
    senders: list[asyncio.Task[None]] = field(factory=list[asyncio.Task[None]])
    enough: bool = False

    async def open_session(self) -> RoutedSession:
        session = await self.router.open_session(self.api.client, "user")
        self.sessions.append(session)
        self.openers.append(asyncio.create_task(self._get(session)))
        return session

    async def begin(self) -> None:
        for _ in range(2):
            await self.add_receiver()
        for _ in range(_SENDERS):
            session = await self.open_session()
            self.senders.append(asyncio.create_task(self._send(session)))

    async def add_receiver(self) -> None:
        ports: list[int] = []

        def hear(said: Any) -> None:
            if said[0] == "listening":
                ports.append(said[1])
            elif said[0] == "handled":
                self.handled[said[2]] += 1

        receiver = self.processes.start(fleet.receive, self.url, "free", heard=hear)
        await self.processes.until(lambda: bool(ports))
        self.receivers.append((receiver, ports[0]))
        self.sender.ports.append(ports[0])

    def kill_receiver(self) -> None:
        receiver, port = self.receivers.pop(0)
        receiver.kill()
        self.sender.ports.remove(port)

    async def post(self, session: RoutedSession) -> int:
        """Send the next event to a session; returns when it is acknowledged."""
        n = next(self.numbers)
        await self.sender.send(avatar_body(n, session.id))
        return n

    async def _send(self, session: RoutedSession) -> None:
        while not self.enough:
            await self.post(session)

    async def _get(self, session: RoutedSession) -> None:
        async for event in session.events():
            self.delivered[number(event.avatar_id)] += 1
            self.processes.look()

    async def balance(self) -> str:
        """End the load, and check the accounts; the figures."""
        self.enough = True
        await asyncio.gather(*self.senders)
        sent, acknowledged = numbers(self.sender.sent), numbers(self.sender.acknowledged)
        stored = await self._stored()
        assert acknowledged - set(stored) == set()
        assert set(stored) - sent == set()
        assert len(stored) == len(set(stored))
        await self.processes.until(lambda: acknowledged <= self.delivered.keys() & self.handled.keys())
        assert (self.delivered | self.handled).keys() - sent == set()
        assert set(self.delivered.values()) == {1}
        assert not any(opener.done() for opener in self.openers)
        again = sum(self.handled.values()) - len(self.handled)
        return (
            f"{len(sent)} sent, {len(acknowledged)} acknowledged, {len(stored)} stored, "
            f"{len(self.delivered)} delivered, {len(self.handled)} handled, {again} of them again; "
            f"{self.sender.cut} connections cut, {self.sender.refused} answers of 503"
        )

    async def _stored(self) -> list[int]:
        """What is in the store, as somebody finds it who comes late."""
        store = fleet.store_at(self.url)
        await store.start()
        found: list[int] = []
        for session in self.sessions:
            cursor = 0
            while page := await store.read(f"session:{session.id}", after=cursor):
                found += [number(parse_event(stored.body).avatar_id) for stored in page]
                cursor = page[-1].cursor
        await store.close()
        return found


def numbers(bodies: set[bytes]) -> set[int]:
    return {number(parse_event(body).avatar_id) for body in bodies}


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    async with (
        processes() as running,
        SessionRouter(fleet.store_at(url)) as router,
        fleet.sender() as sender,
    ):
        made = Load(url, running, router, sender)
        try:
            await made.begin()
            yield made
        finally:
            tasks = (*made.senders, *made.openers)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def some_moment(chance: random.Random, sender: Sender, *, least: int = 10) -> None:
    """Until the middle of whatever the receivers do, some answers from now."""
    goal = len(sender.acknowledged) + least + chance.randrange(40)
    await sender.until(lambda: len(sender.acknowledged) >= goal)
    for _ in range(chance.randrange(50)):
        await asyncio.sleep(0)
    for _ in range(chance.randrange(20_000)):
        pass


async def test_nothing_acknowledged_is_lost_when_receivers_are_killed_at_random(tmp_path: Path) -> None:
    chance = random.Random(5)
    with running_redis(tmp_path) as server:
        async with load(server.url) as work:
            repeated = 0

            async def cut(key: str) -> None:
                nonlocal repeated
                repeated += await work.router.seen(key)

            work.sender.on_cut = cut
            for _ in range(_KILLS):
                await some_moment(chance, work.sender)
                work.kill_receiver()
                await work.add_receiver()
            figures = await work.balance()
    assert work.sender.cut > 0
    print(f"{_KILLS} receivers killed: {figures}; {repeated} of the cut were stored")  # noqa: T201 - with -s


async def test_nothing_acknowledged_is_lost_and_waiters_go_on_when_redis_is_killed(tmp_path: Path) -> None:
    chance = random.Random(6)
    with running_redis(tmp_path, WITH_AOF) as server:
        async with load(server.url) as work:
            patient = await work.open_session()
            last = asyncio.create_task(patient.wait_for(AvatarReady, timeout=600))
            for _ in range(_OUTAGES):
                await outage(work, server, chance)
            assert not last.done()
            n = await work.post(patient)
            assert number((await last).avatar_id) == n
            figures = await work.balance()
    assert work.sender.refused > 0
    print(f"{_OUTAGES} times Redis killed: {figures}")  # noqa: T201 - with -s


async def outage(work: Load, server: RedisServer, chance: random.Random) -> None:
    """Redis is killed under load, and what is sent meanwhile reaches its opener afterwards."""
    session = await work.open_session()
    waiting = asyncio.create_task(session.wait_for(AvatarReady, timeout=600))
    # It waits by then: who begins to wait while Redis is away gets an error.
    await some_moment(chance, work.sender, least=5 * _SENDERS)
    server.kill()
    refused = work.sender.refused
    sending = asyncio.create_task(work.post(session))
    await work.sender.until(lambda: work.sender.refused > refused + 2 * _SENDERS)
    assert not waiting.done()
    assert not sending.done()
    server.start()
    n = await sending
    assert number((await waiting).avatar_id) == n
