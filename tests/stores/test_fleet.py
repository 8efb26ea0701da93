"""Several processes on one store: they open, receive, wait and handle, and one of them is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from attrs import define, field
from support import fleet
from support.fleet import Sender, avatar_body
from support.processes import Process, Processes, running_processes
from support.routing import export_ready

from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks.events import event_body

RECEIVERS = 4
# A handler gets three of the four slots of its process, since there are two handlers. So each receiver has events in
# its handlers when one of them is killed.
EVENTS_OF_EACH = 3
SESSIONS = EVENTS_OF_EACH * RECEIVERS


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    async with running_processes() as made:
        yield made


@define(eq=False)
class Receiver:
    """A process that receives, and its messages."""

    process: Process | None = None
    port: int = 0
    begun: set[int] = field(factory=set[int])
    """Avatars whose handler has begun, and waits."""
    handled: Counter[tuple[str, int]] = field(factory=Counter[tuple[str, int]])

    def on_message(self, message: Any) -> None:
        match message:
            case "listening", port:
                self.port = port
            case "begun", _, n:
                self.begun.add(n)
            case "handled", kind, n:
                self.handled[kind, n] += 1
            case _:
                raise AssertionError(message)


@define(eq=False)
class Waiter:
    """The messages of a process that waits."""

    contexts: dict[str, Any] = field(factory=dict[str, Any])
    received: set[tuple[str, str, int]] = field(factory=set[tuple[str, str, int]])

    def on_message(self, message: Any) -> None:
        session_id, kind, value = message
        if kind == "context":
            self.contexts[session_id] = value
        else:
            assert (session_id, kind, value) not in self.received
            self.received.add((session_id, kind, value))


async def open_sessions(processes: Processes, url: str) -> dict[str, int]:
    """Open sessions in two processes, end these, and return the account of each session by its id."""
    accounts: dict[str, int] = {}
    async with FakeAvaturn() as fake:
        for half in (range(0, SESSIONS, 2), range(1, SESSIONS, 2)):
            processes.start(
                fleet.open_sessions, url, fake.url, half, on_message=lambda message: accounts.update([message])
            )
        await processes.wait_until(lambda: len(accounts) == SESSIONS)
    processes.kill()
    return accounts


async def start_receivers(processes: Processes, url: str) -> list[Receiver]:
    receivers = [Receiver() for _ in range(RECEIVERS)]
    for receiver in receivers:
        receiver.process = processes.start(fleet.receive, url, "gated", on_message=receiver.on_message)
    await processes.wait_until(lambda: all(receiver.port for receiver in receivers))
    return receivers


def start_waiter(processes: Processes, url: str, session_ids: list[str], *, timeout: float) -> Waiter:
    waiter = Waiter()
    processes.start(fleet.wait_for_events, url, session_ids, timeout, on_message=waiter.on_message)
    return waiter


async def test_nothing_is_lost_when_a_process_of_a_fleet_is_killed(processes: Processes, shared_url: str) -> None:
    accounts = await open_sessions(processes, shared_url)
    waiters = [start_waiter(processes, shared_url, list(accounts), timeout=600) for _ in range(2)]
    await processes.wait_until(lambda: all(len(waiter.contexts) == SESSIONS for waiter in waiters))
    receivers = await start_receivers(processes, shared_url)
    async with fleet.new_sender() as sender:
        sender.ports += [receiver.port for receiver in receivers]
        await asyncio.gather(*(sender.send(avatar_body(n, UUID(id_))) for id_, n in accounts.items()))
        # All handlers wait, and waiters do not wait for them.
        avatars = {(id_, "avatar", n) for id_, n in accounts.items()}
        await processes.wait_until(lambda: all(waiter.received == avatars for waiter in waiters))
        await processes.wait_until(lambda: all(len(receiver.begun) == EVENTS_OF_EACH for receiver in receivers))
        dead = receivers[2]
        # The published export events name no session.
        await send_while_killed(sender, dead, [event_body(export_ready(n)) for n in accounts.values()])
    survivors = [receiver for receiver in receivers if receiver is not dead]
    for receiver in survivors:
        assert receiver.process is not None
        receiver.process.send("go on")

    # Each waiter receives the events of its sessions, each once.
    events = avatars | {(id_, "export", n) for id_, n in accounts.items()}
    await processes.wait_until(lambda: all(len(waiter.received) >= len(events) for waiter in waiters))
    assert [waiter.received for waiter in waiters] == [events] * 2
    # Each event is handled; those in the handlers of the killed process, by another one.
    wanted = {(kind, n) for kind in ("avatar", "export") for n in accounts.values()}

    def count_handled() -> Counter[tuple[str, int]]:
        return sum((receiver.handled for receiver in receivers), Counter[tuple[str, int]]())

    await processes.wait_until(lambda: count_handled().keys() >= wanted)
    assert count_handled().keys() == wanted
    assert {kind for kind, _ in dead.handled} <= {"export"}
    taken_over = {n for receiver in survivors for kind, n in receiver.handled if kind == "avatar"}
    assert taken_over >= dead.begun
    print(  # noqa: T201 - figures, shown with -s
        f"{len(sender.acknowledged)} events to {len(events) * 2} waits, {count_handled().total()} times handled, "
        f"{len(dead.begun)} avatars of the killed process handled again, {sender.cut} connections cut"
    )

    # A new process finds all of it in the store.
    processes.kill()
    late = start_waiter(processes, shared_url, list(accounts), timeout=0)
    await processes.wait_until(lambda: late.received == events)
    for waiter in (*waiters, late):
        assert waiter.contexts == {id_: {"account": n} for id_, n in accounts.items()}


async def send_while_killed(sender: Sender, receiver: Receiver, bodies: list[bytes]) -> None:
    """Send half of the webhooks while a receiver is killed, and the others afterwards to all ports."""
    before = len(sender.acknowledged)
    sending = [asyncio.create_task(sender.send(body)) for body in bodies[::2]]
    await sender.wait_until(lambda: len(sender.acknowledged) > before)
    assert receiver.process is not None
    receiver.process.kill()
    await asyncio.gather(*sending, *(sender.send(body) for body in bodies[1::2]))
    assert sender.sent == sender.acknowledged
    assert sender.cut > 0
