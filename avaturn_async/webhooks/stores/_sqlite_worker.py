"""A thread that does SQLite's work in batches, so that the event loop never waits and commits are shared."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar, cast

from attrs import define

from avaturn_async.errors import StoreError
from avaturn_async.webhooks.stores._sqlite_file import (
    PATIENCE,
    as_told,
    check_version,
    is_locked,
    open_file,
    patiently,
    transaction,
)

C = TypeVar("C")
T = TypeVar("T")

_MOST_AT_ONCE = 500


class Mergeable(ABC, Generic[C, T]):
    """Something to do that is cheaper when it is done at once with more of its kind."""

    @abstractmethod
    def __call__(self, desk: C) -> T:
        """Do it."""

    @staticmethod
    @abstractmethod
    def together(desk: C, jobs: Sequence[Any]) -> Sequence[Any]:
        """Do all of them, in their order; what comes of each."""


@define(eq=False)
class Job(Generic[C]):
    """Something to do, and whoever waits for its answer."""

    work: Callable[[C], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None

    def answer(self, path: Path) -> None:
        """Tell the one who waits, unless they gave up; in the event loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(as_told(self.error, path))


_Do = Callable[[sqlite3.Connection, C, list[Job[C]]], None]


class Worker(Generic[C]):
    """A thread with a connection of its own, which does what it is asked in the order in which it came.

    All that waits for it goes into one transaction, and gets its answers after that.

    Args:
        path: The file.
        desk: Makes, of the thread's connection, what the work is done on.
        kind: Of the transactions: IMMEDIATE to write, DEFERRED to read.
        after: Called in the thread behind each transaction; what it gives is called in the event loop just
            before the answers arrive.
        loop: Where work comes from, and is answered.
    """

    def __init__(
        self,
        path: Path,
        desk: Callable[[sqlite3.Connection], C],
        *,
        kind: str,
        after: Callable[[C], Callable[[], None]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._path = path
        self._desk = desk
        self._kind = kind
        self._after = after
        self._loop = loop
        self._jobs = SimpleQueue[Job[C] | None]()
        self._stopping = False
        self._opened: tuple[int, int] | None = None
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the thread has let go of the file."""
        # A daemon, so that a program ends also when it forgot to close the store.
        Thread(target=self._run, name=f"SQLiteStore {kind.lower()}", daemon=True).start()

    def ask(self, work: Callable[[C], T]) -> asyncio.Future[T]:
        """Have something done; the answer comes when it is committed."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(work, future))
        return future

    def stop(self) -> None:
        """End the thread when all that was asked until now is answered; nothing may be asked after this."""
        self._jobs.put(None)

    def _run(self) -> None:
        try:
            connection = open_file(self._path)
        except StoreError as error:
            while batch := self._next_batch():
                self._refuse(batch, error)
        else:
            with closing(connection):
                self._serve(connection)
        self._call(partial(self.ended.set_result, None))

    def _serve(self, connection: sqlite3.Connection) -> None:
        desk = self._desk(connection)
        self._opened = _identity(self._path)
        while batch := self._next_batch():
            self._do(connection, desk, batch, time.monotonic() + PATIENCE)
            self._call(partial(self._answer, batch, self._after_them(desk)))
        if self._kind == "IMMEDIATE":
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _do(self, connection: sqlite3.Connection, desk: C, batch: list[Job[C]], deadline: float) -> None:
        def attempt(jobs: list[Job[C]], do: _Do[C]) -> Exception | None:
            return self._failure(partial(self._do_all, connection, desk, jobs, do), deadline)

        # First as if nothing could fail, which is nearly always so: a savepoint for each has its price.
        failure = attempt(batch, self._do_with_latecomers)
        if failure is not None and not is_locked(failure):
            failure = attempt(batch, _do_apart)
        if failure is None:
            return
        for job in batch:
            job.error = failure
        if is_locked(failure):
            # Whoever came meanwhile would have to wait as long again.
            while late := self._waiting(_MOST_AT_ONCE):
                self._refuse(late, failure)
        elif len(batch) > 1:
            # SQLite gave up the whole transaction. Each on its own: perhaps only one does not fit.
            for job in batch:
                if time.monotonic() < deadline:
                    job.error = attempt([job], _do_apart) or job.error

    def _failure(self, work: Callable[[], None], deadline: float) -> Exception | None:
        try:
            patiently(work, deadline)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the thread goes on
            return error
        return None

    def _do_all(self, connection: sqlite3.Connection, desk: C, batch: list[Job[C]], do: _Do[C]) -> None:
        with transaction(connection, self._kind):
            check_version(connection, self._path)
            do(connection, desk, batch)
            now = _identity(self._path)
            if now is None or now != self._opened:
                # What is written to its remains is lost, so that nothing may be said to be kept.
                raise StoreError(f"{self._path} was removed or replaced: restart what uses it")

    def _do_with_latecomers(self, connection: sqlite3.Connection, desk: C, batch: list[Job[C]]) -> None:
        # A transaction takes a moment to begin, and who comes in that need not wait for the next. One that
        # reads is another matter: what it sees may be older than what the latecomer has been told of.
        if self._kind == "IMMEDIATE":
            batch += self._waiting(_MOST_AT_ONCE - len(batch))
        _do_together(connection, desk, batch)

    def _after_them(self, desk: C) -> Callable[[], None] | None:
        # What is committed must be answered, whatever goes wrong now.
        with suppress(sqlite3.Error):
            return self._after(desk)
        return None

    def _next_batch(self) -> list[Job[C]]:
        """All that waits, as soon as something does; nothing when it is time to end."""
        if self._stopping:
            return []
        first = self._jobs.get()
        return [] if first is None else [first, *self._waiting(_MOST_AT_ONCE - 1)]

    def _waiting(self, most: int) -> list[Job[C]]:
        jobs: list[Job[C]] = []
        with suppress(Empty):
            while not self._stopping and len(jobs) < most:
                job = self._jobs.get_nowait()
                if job is None:
                    self._stopping = True
                else:
                    jobs.append(job)
        return jobs

    def _refuse(self, batch: Sequence[Job[C]], error: Exception) -> None:
        for job in batch:
            job.error = error
        self._call(partial(self._answer, batch, None))

    def _answer(self, batch: Sequence[Job[C]], first: Callable[[], None] | None) -> None:
        try:
            if first is not None:
                first()
        finally:
            for job in batch:
                job.answer(self._path)

    def _call(self, callback: Callable[[], object]) -> None:
        # The loop may be closed already, with nobody left to answer.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)


def _do_together(_: sqlite3.Connection, desk: C, batch: Sequence[Job[C]]) -> None:
    """Do jobs, those of a kind at once; one that fails ends the transaction."""
    for kind, jobs in groupby(batch, lambda job: type(job.work)):
        alike = [*jobs]
        if issubclass(kind, Mergeable):
            results = cast("type[Mergeable[C, Any]]", kind).together(desk, [job.work for job in alike])
        else:
            results = [job.work(desk) for job in alike]
        for job, result in zip(alike, results, strict=True):
            job.result, job.error = result, None


def _do_apart(connection: sqlite3.Connection, desk: C, batch: Sequence[Job[C]]) -> None:
    """Do jobs; one that fails leaves nothing behind, and those beside it alone."""
    for job in batch:
        connection.execute("SAVEPOINT job")
        try:
            job.result, job.error = job.work(desk), None
        except Exception as error:
            if is_locked(error) or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO job")
            job.error = error
        connection.execute("RELEASE job")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
