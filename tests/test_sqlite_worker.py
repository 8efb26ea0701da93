"""The thread that does SQLite's work answers all that it was asked, in batches, and then ends.

What waits for the thread depends on how fast it is. Here it is held up until the right things wait.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from avaturn_async.errors import StoreError
from avaturn_async.webhooks.stores._sqlite_worker import Mergeable, Worker

pytestmark = pytest.mark.parametrize("kind", ["IMMEDIATE", "DEFERRED"])


class Batches:
    """What a worker works on; counts its transactions."""

    def __init__(self) -> None:
        self.count = 0

    def after(self, _: sqlite3.Connection) -> Callable[[], None]:
        self.count += 1
        return lambda: None


def begin(path: Path, kind: str, batches: Batches) -> Worker[sqlite3.Connection]:
    loop = asyncio.get_running_loop()
    return Worker(path, lambda connection: connection, kind=kind, after=batches.after, loop=loop)


@asynccontextmanager
async def held_up(worker: Worker[sqlite3.Connection]) -> AsyncGenerator[None, None]:
    """Whatever is asked inside waits until the end of the block."""
    here, go_on = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection) -> None:
        here.set()
        go_on.wait()

    held = worker.ask(wait)
    await asyncio.to_thread(here.wait)
    try:
        yield
    finally:
        go_on.set()
    await held


async def end_of(worker: Worker[sqlite3.Connection]) -> None:
    async with asyncio.timeout(10):
        await worker.ended


def one(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT 1").fetchone()
    return int(number)


@pytest.mark.parametrize(("asked", "transactions"), [(1, 1), (2, 1), (500, 1), (501, 2), (1_200, 3)])
async def test_all_that_was_asked_before_the_stop_is_answered(
    tmp_path: Path, kind: str, asked: int, transactions: int
) -> None:
    batches = Batches()
    worker = begin(tmp_path / "store.db", kind, batches)
    async with held_up(worker):
        answers = [worker.ask(one) for _ in range(asked)]
        worker.stop()
    await end_of(worker)
    assert await asyncio.gather(*answers) == [1] * asked
    # Before them there was the one that held it up.
    assert batches.count == 1 + transactions


@pytest.mark.parametrize(
    ("early", "late", "transactions"), [(1, 1, 1), (2, 498, 1), (2, 499, 2), (500, 1, 2)]
)
async def test_who_comes_while_a_transaction_begins_shares_it_if_it_is_to_write(
    tmp_path: Path, kind: str, early: int, late: int, transactions: int
) -> None:
    here, go_on, held = threading.Event(), threading.Event(), list[bool]()

    def wait(statement: str) -> None:
        if statement == f"BEGIN {kind}" and held:
            here.set()
            go_on.wait()

    def desk(connection: sqlite3.Connection) -> sqlite3.Connection:
        connection.set_trace_callback(wait)
        return connection

    batches = Batches()
    loop = asyncio.get_running_loop()
    worker = Worker(tmp_path / "store.db", desk, kind=kind, after=batches.after, loop=loop)
    async with held_up(worker):
        answers = [worker.ask(one) for _ in range(early)]
        held.append(True)
    await asyncio.to_thread(here.wait)
    answers += [worker.ask(one) for _ in range(late)]
    go_on.set()
    worker.stop()
    await end_of(worker)
    assert await asyncio.gather(*answers) == [1] * (early + late)
    # What one that reads sees is settled by then, and may lack what the latecomer knows of.
    assert batches.count == 1 + (transactions if kind == "IMMEDIATE" else 2)


async def test_one_that_fails_takes_no_transaction_of_their_own_from_those_beside_it(
    tmp_path: Path, kind: str
) -> None:
    statements: list[str] = []

    def desk(connection: sqlite3.Connection) -> sqlite3.Connection:
        connection.set_trace_callback(statements.append)
        return connection

    def fail(_: sqlite3.Connection) -> None:
        raise ValueError("no")

    loop = asyncio.get_running_loop()
    worker = Worker(tmp_path / "store.db", desk, kind=kind, after=Batches().after, loop=loop)
    async with held_up(worker):
        before = [worker.ask(one) for _ in range(50)]
        failed = worker.ask(fail)
        after = [worker.ask(one) for _ in range(50)]
        worker.stop()
    await end_of(worker)
    assert await asyncio.gather(*before, *after) == [1] * 100
    with pytest.raises(ValueError, match="no"):
        await failed
    # The one that held it up, all at once, and all once more with a way back for each.
    assert (statements.count(f"BEGIN {kind}"), statements.count("COMMIT")) == (3, 2)
    assert statements.count("SAVEPOINT job") == 101


class Number(Mergeable[sqlite3.Connection, int]):
    """A job that tells how many were done at once."""

    def __init__(self, value: int, *, fails: bool = False) -> None:
        self.value = value
        self.fails = fails

    def __call__(self, desk: sqlite3.Connection) -> int:
        return self.together(desk, [self])[0]

    @staticmethod
    def together(desk: sqlite3.Connection, jobs: Sequence[Number]) -> list[int]:
        one(desk)
        if any(job.fails for job in jobs):
            raise ValueError("no")
        return [100 * len(jobs) + job.value for job in jobs]


async def test_what_is_alike_and_side_by_side_is_done_at_once(tmp_path: Path, kind: str) -> None:
    worker = begin(tmp_path / "store.db", kind, Batches())
    async with held_up(worker):
        answers = [worker.ask(Number(n)) for n in range(3)]
        answers.append(worker.ask(one))
        answers += [worker.ask(Number(n)) for n in range(2)]
        worker.stop()
    await end_of(worker)
    assert await asyncio.gather(*answers) == [300, 301, 302, 1, 200, 201]


async def test_one_that_fails_leaves_those_it_was_done_with_to_themselves(tmp_path: Path, kind: str) -> None:
    worker = begin(tmp_path / "store.db", kind, Batches())
    async with held_up(worker):
        answers = [worker.ask(Number(n, fails=n == 1)) for n in range(3)]
        worker.stop()
    await end_of(worker)
    first, failed, last = await asyncio.gather(*answers, return_exceptions=True)
    assert (first, last) == (100, 102)
    assert isinstance(failed, ValueError)


async def test_a_stop_ends_a_thread_that_has_nothing_to_do(tmp_path: Path, kind: str) -> None:
    batches = Batches()
    worker = begin(tmp_path / "store.db", kind, batches)
    assert await worker.ask(one) == 1
    worker.stop()
    await end_of(worker)
    assert batches.count == 1


async def test_a_thread_that_cannot_open_the_file_refuses_all_that_it_is_asked(
    tmp_path: Path, kind: str
) -> None:
    worker = begin(tmp_path / "nowhere" / "store.db", kind, Batches())
    for _ in range(2):
        with pytest.raises(StoreError, match="unable to open"):
            await worker.ask(one)
    asked = [worker.ask(one) for _ in range(3)]
    worker.stop()
    await end_of(worker)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreError}


async def test_what_nobody_waits_for_any_more_is_no_error(tmp_path: Path, kind: str) -> None:
    worker = begin(tmp_path / "store.db", kind, Batches())
    async with held_up(worker):
        given_up, answer = worker.ask(one), worker.ask(one)
        given_up.cancel()
    assert await answer == 1
    worker.stop()
    await end_of(worker)


def test_a_thread_ends_also_when_its_event_loop_is_gone(tmp_path: Path, kind: str) -> None:
    go_on = threading.Event()

    async def leave_it() -> None:
        worker = begin(tmp_path / "store.db", kind, Batches())
        here = threading.Event()

        def wait(_: sqlite3.Connection) -> None:
            here.set()
            go_on.wait()

        worker.ask(wait)
        await asyncio.to_thread(here.wait)
        worker.stop()

    asyncio.run(leave_it())
    [thread] = [each for each in threading.enumerate() if each.name == f"SQLiteStore {kind.lower()}"]
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()
