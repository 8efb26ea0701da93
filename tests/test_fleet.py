"""Several processes on one store: whoever opened, received, waits or handles, and whoever of them dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import fleet
import pytest
from attrs import define, field
from fleet import Sender, avatar_body
from forks import Process, Processes, processes
from redis_server import needs_redis, running_redis
from routing import export_ready

from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks.events import event_body

_RECEIVERS = 4
# As many avatars as the handlers of all receivers hold at a time: a handler gets three of four slots, for there
# is another one. So each receiver holds something when one of them dies.
_EACH = 3
_SESSIONS = _EACH * _RECEIVERS


@pytest.fixture(params=[pytest.param("redis", marks=needs_redis), "sqlite"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The store that all share."""
    if request.param == "sqlite":
        yield str(tmp_path / "events.db")
        return
    with running_redis(tmp_path) as server:
        yield server.url


@pytest.fixture
async def running() -> AsyncIterator[Processes]:
    async with processes() as made:
        yield made


@define(eq=False)
class Receiver:
    """What one receiver has said."""

    process: Process | None = None
    port: int = 0
    begun: set[int] = field(factory=set[int])
    """Avatars whose handler has begun, and waits at the gate."""
    handled: Counter[tuple[str, int]] = field(factory=Counter[tuple[str, int]])

    def hear(self, said: Any) -> None:
        match said:
            case "listening", port:
                self.port = port
            case "begun", _, n:
                self.begun.add(n)
            case "handled", kind, n:
                self.handled[kind, n] += 1
            case _:
                raise AssertionError(said)


@define(eq=False)
class Waiter:
    """What one process that waits has said."""

    contexts: dict[str, Any] = field(factory=dict[str, Any])
    got: set[tuple[str, str, int]] = field(factory=set[tuple[str, str, int]])

    def hear(self, said: Any) -> None:
        session_id, what, value = said
        if what == "context":
            self.contexts[session_id] = value
        else:
            assert (session_id, what, value) not in self.got
            self.got.add((session_id, what, value))


async def opened_elsewhere(running: Processes, where: str) -> dict[str, int]:
    """Sessions that two processes opened, which are gone then: their ids, with the account of each."""
    accounts: dict[str, int] = {}

    def hear(said: Any) -> None:
        session_id, account = said
        accounts[session_id] = account

    async with FakeAvaturn() as fake:
        for half in (range(0, _SESSIONS, 2), range(1, _SESSIONS, 2)):
            running.start(fleet.open_sessions, where, fake.url, half, heard=hear)
        await running.until(lambda: len(accounts) == _SESSIONS)
    running.kill()
    return accounts


async def receivers(running: Processes, where: str) -> list[Receiver]:
    made = [Receiver() for _ in range(_RECEIVERS)]
    for receiver in made:
        receiver.process = running.start(fleet.receive, where, "gated", heard=receiver.hear)
    await running.until(lambda: all(receiver.port for receiver in made))
    return made


def waiter(running: Processes, where: str, session_ids: list[str], *, timeout: float) -> Waiter:
    made = Waiter()
    running.start(fleet.wait_for_events, where, session_ids, timeout, heard=made.hear)
    return made


def export_body(account: int) -> bytes:
    """It names no session, as the published ones do not."""
    return event_body(export_ready(account))


async def test_a_fleet_loses_nothing_when_a_process_of_it_is_killed(running: Processes, where: str) -> None:
    accounts = await opened_elsewhere(running, where)
    waiters = [waiter(running, where, list(accounts), timeout=600) for _ in range(2)]
    await running.until(lambda: all(len(each.contexts) == _SESSIONS for each in waiters))
    team = await receivers(running, where)
    async with fleet.sender() as sender:
        sender.ports += [receiver.port for receiver in team]
        await asyncio.gather(*(sender.send(avatar_body(n, UUID(id_))) for id_, n in accounts.items()))
        # Whoever waits need not wait for handlers, all of which hang.
        avatars = {(id_, "avatar", n) for id_, n in accounts.items()}
        await running.until(lambda: all(each.got == avatars for each in waiters))
        await running.until(lambda: all(len(receiver.begun) == _EACH for receiver in team))
        dead = team[2]
        await kill_amid_of(sender, dead, [export_body(n) for n in accounts.values()])
    survivors = [receiver for receiver in team if receiver is not dead]
    for receiver in survivors:
        assert receiver.process is not None
        receiver.process.tell("go on")

    # Every opener gets its events, and nobody else does.
    everything = avatars | {(id_, "export", n) for id_, n in accounts.items()}
    await running.until(lambda: all(len(each.got) >= len(everything) for each in waiters))
    assert [each.got for each in waiters] == [everything] * 2
    # Every event is handled, and by another what the dead one held.
    handled: Counter[tuple[str, int]] = Counter()
    wanted = {(kind, n) for kind in ("avatar", "export") for n in accounts.values()}

    def all_is_handled() -> bool:
        handled.clear()
        for receiver in team:
            handled.update(receiver.handled)
        return handled.keys() >= wanted

    await running.until(all_is_handled)
    assert handled.keys() == wanted
    assert {kind for kind, _ in dead.handled} <= {"export"}
    taken_over = {n for receiver in survivors for kind, n in receiver.handled if kind == "avatar"}
    assert taken_over >= dead.begun
    print(  # noqa: T201 - the figures of the day, with -s
        f"{len(sender.acknowledged)} events to {len(everything) * 2} waits, {sum(handled.values())} times handled, "
        f"{len(dead.begun)} avatars taken over, {sender.cut} connections cut"
    )

    # Nothing of it is left but the store.
    running.kill()
    late = waiter(running, where, list(accounts), timeout=0)
    await running.until(lambda: late.got == everything)
    for each in (*waiters, late):
        assert each.contexts == {id_: {"account": n} for id_, n in accounts.items()}


async def kill_amid_of(sender: Sender, receiver: Receiver, bodies: list[bytes]) -> None:
    """Send webhooks, half of them while a receiver is killed; it stays in the round."""
    before = len(sender.acknowledged)
    sending = [asyncio.create_task(sender.send(body)) for body in bodies[::2]]
    await sender.until(lambda: len(sender.acknowledged) > before)
    assert receiver.process is not None
    receiver.process.kill()
    await asyncio.gather(*sending, *(sender.send(body) for body in bodies[1::2]))
    assert sender.sent == sender.acknowledged
    assert sender.cut > 0
