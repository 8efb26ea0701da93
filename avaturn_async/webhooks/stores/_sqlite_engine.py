"""What a started SQLiteStore runs on: a thread that writes, one that reads, and word from other processes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from attrs import define, frozen

from avaturn_async.webhooks.stores import Arrival
from avaturn_async.webhooks.stores._sqlite_groups import Groups
from avaturn_async.webhooks.stores._sqlite_hints import Hints
from avaturn_async.webhooks.stores._sqlite_room import Terms
from avaturn_async.webhooks.stores._sqlite_tables import Tables
from avaturn_async.webhooks.stores._sqlite_worker import Mergeable, Worker

T = TypeVar("T")
Tell = Callable[[tuple[str, ...] | None], None]

# In looks: a process says that it is still there, lest it be taken for dead.
_ENROL_EVERY = 60


@frozen
class Desk:
    """What a job works on."""

    tables: Tables
    groups: Groups


@define(eq=False)
class Append(Mergeable[Desk, int]):
    """Keep an event."""

    arrival: Arrival

    def __call__(self, desk: Desk) -> int:
        return self.together(desk, [self])[0]

    @staticmethod
    def together(desk: Desk, jobs: Sequence[Append]) -> Sequence[int]:
        return desk.tables.append([job.arrival for job in jobs])


class Engine:
    """Lives from the start of a store to its close, in one process and one event loop.

    Args:
        path: The file.
        terms: What the store was told at its construction.
        holder: Whose claims these are, among all processes.
        tell: Called in the event loop with the topics under which something appeared.
        look_every: Seconds between looks at what others have appended, in case that a hint was lost.
    """

    def __init__(self, path: Path, terms: Terms, *, holder: str, tell: Tell, look_every: float) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self._path = path
        self._terms = terms
        self._holder = holder
        self._tell = tell
        self._look_every = look_every
        self._told = 0
        self._looking = False
        self._again = False
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._hints = Hints(self.look)
        self._writer = self._worker("IMMEDIATE", self._spread)
        self._reader = self._worker("DEFERRED", _nothing)

    async def open(self) -> None:
        """Make the file ready and have this process be told of what others append.

        Raises:
            StoreError: The file cannot be used.
        """
        await self._hints.open()
        self._told = await self.write(self._enrol)
        await self.read(lambda desk: desk.tables.number())  # so that both have the file open
        self._tick()

    async def close(self) -> None:
        """Answer all that was asked, and let go of the file."""
        self._hints.close()
        if self._timer is None:
            self._writer.stop()
        else:
            self._timer.cancel()
            leaving = self.write(lambda desk: desk.groups.leave(self._hints.token))
            # Behind the answers: if one is to a claim that was cancelled, it has that handed back.
            leaving.add_done_callback(lambda _: self._writer.stop())
            unheeded(leaving)
        self._reader.stop()
        await asyncio.wait((self._reader.ended, self._writer.ended))

    def abandon(self) -> None:
        """Let go of the file when the event loop is closed, and nobody left to answer."""
        self._writer.stop()
        self._reader.stop()
        with suppress(RuntimeError):
            self._hints.close()

    def write(self, work: Callable[[Desk], T]) -> asyncio.Future[T]:
        """Have something done that writes; the answer comes when it is on the disk."""
        return self._writer.ask(work)

    def read(self, work: Callable[[Desk], T]) -> asyncio.Future[T]:
        """Have something done that reads what is committed."""
        return self._reader.ask(work)

    def look(self) -> None:
        """See what other processes have appended."""
        if self._looking:
            self._again = True
            return
        self._looking = True
        self.read(partial(_news, self._told)).add_done_callback(self._looked)

    def _looked(self, news: asyncio.Future[tuple[int, tuple[str, ...] | None]]) -> None:
        self._looking = False
        # Away, or locked: the next look finds it.
        if not news.cancelled() and news.exception() is None:
            self._pass_on(*news.result())
        if self._again:
            self._again = False
            self.look()

    def _spread(self, desk: Desk) -> Callable[[], None]:
        """What was just committed is news to other processes, and to who listens here."""
        if not desk.tables.moved:
            return _nothing(desk)
        desk.tables.moved = False
        self._hints.tell(desk.groups.others(self._hints.token))
        return partial(self._pass_on, *_news(self._told, desk))

    def _pass_on(self, number: int, topics: tuple[str, ...] | None) -> None:
        # Both threads look, so that the same news may come twice, or old news late.
        if number > self._told:
            self._told = number
            self._tell(topics)

    def _tick(self) -> None:
        self.look()
        self._ticks += 1
        if self._ticks % _ENROL_EVERY == 0:
            unheeded(self.write(self._enrol))
        self._timer = self.loop.call_later(self._look_every, self._tick)

    def _enrol(self, desk: Desk) -> int:
        return desk.groups.enrol(self._hints.token, self._hints.port)

    def _worker(self, kind: str, after: Callable[[Desk], Callable[[], None]]) -> Worker[Desk]:
        return Worker(self._path, self._desk, kind=kind, after=after, loop=self.loop)

    def _desk(self, connection: sqlite3.Connection) -> Desk:
        tables = Tables(connection, self._terms)
        return Desk(tables, Groups(connection, tables, self._terms, holder=self._holder))


def unheeded(future: asyncio.Future[T]) -> None:
    """Nobody waits for this: an error in it is no news."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())


def _news(told: int, desk: Desk) -> tuple[int, tuple[str, ...] | None]:
    """The last number given out, and what appeared behind the one that was told."""
    number = desk.tables.number()
    return number, desk.tables.appeared(told) if number > told else ()


def _nothing(_: Desk) -> Callable[[], None]:
    return lambda: None
