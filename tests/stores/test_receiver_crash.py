"""An acknowledged webhook is kept when its receiver, or the server of its store, is killed at a random moment.

The accounts are those of Jepsen's total-queue: acknowledged minus delivered is empty, delivered minus sent is empty,
and duplicates are counted. ``pytest -s --kills 50`` kills 50 times and prints the figures.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from support import fleet
from support.fleet import Sender, avatar_body, get_number
from support.postgres_server import PostgresServer, needs_postgres, running_postgres
from support.processes import Process, Processes, running_processes
from support.redis_server import WITH_AOF, RedisServer, needs_redis, running_redis
from support.routing import Api

from avaturn_async.webhooks import RoutedSession, SessionRouter
from avaturn_async.webhooks.events import Event, parse_event

SENDERS = 8


@define
class Load:
    """Receivers on one store, webhooks without end, and the sessions that receive their events."""

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
    ended: bool = False

    async def open_session(self) -> RoutedSession:
        session = await self.router.open_session(self.api.client, "user")
        self.sessions.append(session)
        self.openers.append(asyncio.create_task(self._receive(session)))
        return session

    async def begin(self) -> None:
        for _ in range(2):
            await self.add_receiver()
        for _ in range(SENDERS):
            session = await self.open_session()
            self.senders.append(asyncio.create_task(self._send(session)))

    async def add_receiver(self) -> None:
        ports: list[int] = []

        def on_message(message: Any) -> None:
            if message[0] == "listening":
                ports.append(message[1])
            elif message[0] == "handled":
                self.handled[message[2]] += 1

        receiver = self.processes.start(fleet.receive, self.url, "free", on_message=on_message)
        await self.processes.wait_until(lambda: bool(ports))
        self.receivers.append((receiver, ports[0]))
        self.sender.ports.append(ports[0])

    def kill_receiver(self) -> None:
        receiver, port = self.receivers.pop(0)
        receiver.kill()
        self.sender.ports.remove(port)

    async def post(self, session: RoutedSession) -> int:
        """Send the next event to a session, and return its number when it is acknowledged."""
        n = next(self.numbers)
        await self.sender.send(avatar_body(n, session.id))
        return n

    async def _send(self, session: RoutedSession) -> None:
        while not self.ended:
            await self.post(session)

    async def _receive(self, session: RoutedSession) -> None:
        async for event in session.events():
            self.delivered[get_number(event.avatar_id)] += 1
            self.processes.notify()

    async def balance(self) -> str:
        """End the load, check the accounts, and return the figures."""
        self.ended = True
        await asyncio.gather(*self.senders)
        sent, acknowledged = get_numbers(self.sender.sent), get_numbers(self.sender.acknowledged)
        stored = await self._read_stored()
        assert acknowledged - set(stored) == set()
        assert set(stored) - sent == set()
        assert len(stored) == len(set(stored))
        await self.processes.wait_until(lambda: acknowledged <= self.delivered.keys() & self.handled.keys())
        assert (self.delivered | self.handled).keys() - sent == set()
        assert set(self.delivered.values()) == {1}
        assert not any(opener.done() for opener in self.openers)
        again = sum(self.handled.values()) - len(self.handled)
        return (
            f"{len(sent)} sent, {len(acknowledged)} acknowledged, {len(stored)} stored, "
            f"{len(self.delivered)} delivered, {len(self.handled)} handled, {again} of them again; "
            f"{self.sender.cut} connections cut, {self.sender.refused} responses of 503"
        )

    async def _read_stored(self) -> list[int]:
        """Return the numbers of all events in the store, read by another store."""
        store = fleet.new_store(self.url)
        await store.start()
        found: list[int] = []
        for session in self.sessions:
            position = 0
            while page := await store.read({f"session:{session.id}": position}):
                # The router's own records do not begin as JSON does.
                events = [parse_event(entry.body) for entry in page if entry.body.startswith(b"{")]
                found += [get_number(event.avatar_id) for event in events]
                position = page[-1].position
        await store.close()
        return found


def get_numbers(bodies: set[bytes]) -> set[int]:
    return {get_number(parse_event(body).avatar_id) for body in bodies}


@asynccontextmanager
async def running_load(url: str) -> AsyncIterator[Load]:
    async with (
        running_processes() as processes,
        SessionRouter(fleet.new_store(url)) as router,
        fleet.new_sender() as sender,
    ):
        load = Load(url, processes, router, sender)
        try:
            await load.begin()
            yield load
        finally:
            tasks = (*load.senders, *load.openers)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def wait_for_a_random_moment(generator: random.Random, sender: Sender, *, at_least: int = 10) -> None:
    """Wait for some responses, and then into the middle of the work of the receivers."""
    goal = len(sender.acknowledged) + at_least + generator.randrange(40)
    await sender.wait_until(lambda: len(sender.acknowledged) >= goal)
    for _ in range(generator.randrange(50)):
        await asyncio.sleep(0)
    for _ in range(generator.randrange(20_000)):
        pass


@pytest.fixture(params=[pytest.param("redis", marks=needs_redis), pytest.param("postgres", marks=needs_postgres)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer | PostgresServer]:
    with running_redis(tmp_path, WITH_AOF) if request.param == "redis" else running_postgres() as running:
        yield running


async def test_acknowledged_webhooks_survive_receivers_killed_at_random(shared_url: str, kills: int) -> None:
    generator = random.Random(5)
    async with running_load(shared_url) as load:
        stored = 0

        async def on_cut(key: str) -> None:
            nonlocal stored
            stored += await load.router.contains(key)

        load.sender.on_cut = on_cut
        for _ in range(kills):
            await wait_for_a_random_moment(generator, load.sender)
            load.kill_receiver()
            await load.add_receiver()
        figures = await load.balance()
    assert load.sender.cut > 0
    print(f"{kills} receivers killed: {figures}; {stored} of the cut were stored")  # noqa: T201 - shown with -s


async def test_acknowledged_webhooks_survive_and_waiters_go_on_when_the_server_is_killed(
    server: RedisServer | PostgresServer, kills: int
) -> None:
    generator = random.Random(6)
    async with running_load(server.url) as load:
        session, waiting = await begin_to_wait(load)
        for _ in range(kills):
            await kill_server(load, server, generator)
        assert not waiting.done()
        n = await load.post(session)
        assert get_number((await waiting).avatar_id) == n
        figures = await load.balance()
    assert load.sender.refused > 0
    print(f"server killed {kills} times: {figures}")  # noqa: T201 - shown with -s


async def begin_to_wait(load: Load) -> tuple[RoutedSession, asyncio.Future[Event]]:
    """Wait for the second event of a new session: a wait that begins while the server is unavailable is an error."""
    session = await load.open_session()
    events = session.events()
    n = await load.post(session)
    assert get_number((await anext(events)).avatar_id) == n
    return session, asyncio.ensure_future(anext(events))


async def kill_server(load: Load, server: RedisServer | PostgresServer, generator: random.Random) -> None:
    """Kill the server under load; a webhook that is sent meanwhile reaches its opener afterwards."""
    session, waiting = await begin_to_wait(load)
    await wait_for_a_random_moment(generator, load.sender, at_least=5 * SENDERS)
    await asyncio.to_thread(server.kill)
    refused = load.sender.refused
    sending = asyncio.create_task(load.post(session))
    await load.sender.wait_until(lambda: load.sender.refused > refused + 2 * SENDERS)
    assert not waiting.done()
    assert not sending.done()
    await asyncio.to_thread(server.start)
    n = await sending
    assert get_number((await waiting).avatar_id) == n
