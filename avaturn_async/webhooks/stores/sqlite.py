"""SQLiteStore: events, sessions and bindings in a file, shared by the processes of one host."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from avaturn_async.errors import StoreError
from avaturn_async.webhooks.stores import Arrival, SessionRecord, StoredEvent, Wake
from avaturn_async.webhooks.stores._sqlite_engine import Append, Engine, unheeded
from avaturn_async.webhooks.stores._sqlite_room import Terms

__all__ = ["SQLiteStore"]

# A connection that came over a fork belongs to the parent: it must not even be closed.
_left_to_parent: list[Engine] = []


class SQLiteStore:
    """Keeps everything in one SQLite file: a 200 means "committed", also past a power loss.

    Any number of processes of one host may share the file, which has to lie on a local disk (no NFS). It is
    written ahead of (WAL) and synchronised at each commit; what several callers write at a time shares one.
    Space of what has expired is used again, but the file does not get smaller. Full is full: what is stored
    and not expired is never dropped to make room.

    The file is made when it is not there, for its owner only. Start the store in each process: not before a
    fork.

    Args:
        path: The file, which has to be the store's own.
        ttl: Seconds that an event, a session or a binding is kept.
        max_events: Most events kept at a time.
        max_bytes: Most bytes of bodies kept at a time; the file gets larger than that.
        takeover: Seconds after which a claim of a handler that was not renewed has lapsed.
        clock: Gives seconds, the same in each process; called in a thread.

    Raises:
        ValueError: A number is not above zero, or the path names no file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ttl: float = 259_200.0,
        max_events: int = 1_000_000,
        max_bytes: int = 1_073_741_824,
        takeover: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if os.fspath(path) in {"", ":memory:"}:
            raise ValueError("path must name a file; to keep events in memory only there is MemoryStore")
        if not all(number > 0 for number in (ttl, max_events, max_bytes, takeover)):
            raise ValueError("ttl, max_events, max_bytes and takeover must be above zero")
        self._path = Path(path).absolute()
        self._terms = Terms(
            ttl=ttl, max_events=max_events, max_bytes=max_bytes, takeover=takeover, clock=clock
        )
        self._look_every = 1.0
        self._name = uuid4().hex
        self._listeners: dict[object, Wake] = {}
        self._engine: Engine | None = None
        # Only one starts or closes at a time.
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    @property
    def takeover(self) -> float:
        """Seconds after which a claim that was not renewed has lapsed."""
        return self._terms.takeover

    async def start(self) -> None:
        """Open the file, made or brought up to date if need be.

        Raises:
            StoreError: It is something else, or newer than this release, or it cannot be opened.
        """
        self._forget_the_past()
        async with self._lock:
            if self._engine is not None:
                self._started()
                return
            engine = Engine(
                self._path,
                self._terms,
                holder=f"{self._name}-{os.getpid()}",
                tell=self._tell,
                look_every=self._look_every,
            )
            try:
                await engine.open()
            except BaseException:
                await engine.close()
                raise
            self._engine = engine

    async def close(self) -> None:
        """Answer all that was asked, and let go of the file."""
        self._forget_the_past()
        async with self._lock:
            if self._engine is not None:
                engine = self._started()
                self._engine = None
                await engine.close()
                # asyncio lets go of a socket one turn of its loop after it was told to.
                await asyncio.sleep(0)

    def listen(self, wake: Wake) -> Callable[[], None]:
        """Call ``wake`` with the topics under which something appears, in whatever process.

        Returns:
            What ends that.
        """
        ticket = object()
        self._listeners[ticket] = wake

        def stop() -> None:
            self._listeners.pop(ticket, None)

        return stop

    async def append(self, arrival: Arrival) -> int:
        """Keep an event.

        Returns:
            Its position; 0 if an event with its key is kept already. Either way it is on the disk.

        Raises:
            StoreFullError: ``max_events`` or ``max_bytes`` is reached, or the disk is full.
            StoreError: The file cannot be used, or others had it locked for 1.5 seconds.
        """
        return await self._started().write(Append(arrival))

    async def seen(self, key: str) -> bool:
        """Whether an event with this key is kept."""
        return await self._started().read(lambda desk: desk.tables.seen(key))

    async def read(self, topic: str, *, after: int = 0) -> Sequence[StoredEvent]:
        """The events under a topic that appeared behind a cursor, or the oldest hundred of them."""
        return await self._started().read(lambda desk: desk.tables.read(topic, after))

    async def bind(self, subject: str, session_id: str) -> None:
        """Bring the events of a subject to a session from now on, and those that have none yet."""
        await self._started().write(lambda desk: desk.tables.bind(subject, session_id))

    async def bound(self, subject: str) -> str | None:
        """The session that a subject is bound to."""
        return await self._started().read(lambda desk: desk.tables.bound(subject))

    async def save_session(self, record: SessionRecord, *, binds: Sequence[str] = ()) -> None:
        """Remember who opened a session, and bind subjects to it."""
        await self._started().write(lambda desk: desk.tables.save_session(record, binds))

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """Who opened a session."""
        return await self._started().read(lambda desk: desk.tables.load_session(session_id))

    async def join(self, group: str) -> None:
        """Make a group of handlers, if it is not there yet; it begins with the oldest event kept."""
        await self._started().write(lambda desk: desk.groups.join(group))

    async def claim(self, group: str, *, limit: int) -> Sequence[StoredEvent]:
        """At most ``limit`` events that this group has to handle, held by this store from now on."""
        engine = self._started()
        asked = engine.write(lambda desk: desk.groups.claim(group, limit))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Nobody would handle what comes of it until it lapses.
            asked.add_done_callback(partial(_hand_back, engine, group))
            raise

    async def hold(self, group: str, positions: Sequence[int]) -> None:
        """Go on holding claimed events; those that are gone, finished or taken over are passed over."""
        await self._started().write(lambda desk: desk.groups.hold(group, positions))

    async def finish(self, group: str, positions: Sequence[int]) -> None:
        """The group is through with these events."""
        await self._started().write(lambda desk: desk.groups.finish(group, positions))

    async def release(self, group: str, positions: Sequence[int]) -> None:
        """Hand claimed events back, for others to claim at once."""
        await self._started().write(lambda desk: desk.groups.release(group, positions))

    async def expire(self, *, limit: int = 1000) -> int:
        """Drop at most ``limit`` things past their time; how many there were."""
        return await self._started().write(lambda desk: desk.tables.expire(limit))

    async def sizes(self) -> Mapping[str, int]:
        """How much is kept: ``events``, ``bytes`` (of bodies), ``sessions``, ``bindings``."""
        return await self._started().read(lambda desk: desk.tables.sizes())

    def _started(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise StoreError("the store is not started, or closed: await start(), or enter its router")
        if engine.pid != os.getpid():
            raise StoreError("the store was started before a fork: start it in each process")
        if engine.loop is not asyncio.get_running_loop():
            raise StoreError("the store was started in another event loop: close it there first")
        return engine

    def _forget_the_past(self) -> None:
        """Part with an engine that was not closed, and whose event loop or process is not ours any more."""
        engine = self._engine
        if engine is None:
            return
        if engine.pid != os.getpid():
            _left_to_parent.append(engine)
        elif engine.loop.is_closed():
            engine.abandon()
        else:
            return
        self._engine = None
        self._lock = asyncio.Lock()

    def _tell(self, topics: tuple[str, ...] | None) -> None:
        for wake in tuple(self._listeners.values()):
            wake(topics)


def _hand_back(engine: Engine, group: str, claimed: asyncio.Future[tuple[StoredEvent, ...]]) -> None:
    if claimed.exception() is None and claimed.result():
        positions = [event.position for event in claimed.result()]
        unheeded(engine.write(lambda desk: desk.groups.release(group, positions)))
