"""EventBus: the log, started on first use, with the tasks that wait for entries of it.

Waiting is: register for topics, read the log, sleep until a notification, read again. A notification carries nothing
that could be lost, and a waiter leaves nothing behind, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, get_args
from uuid import UUID

from avaturn_async.errors import AvaturnTimeoutError, RouterClosedError, StoreError
from avaturn_async.webhooks import routing
from avaturn_async.webhooks.events import Event
from avaturn_async.webhooks.stores.base import Entry, EventStore

_log = logging.getLogger("avaturn_async.webhooks")

E = TypeVar("E", bound=Event)
EVENT_TYPES: tuple[type[Event], ...] = get_args(Event)

PAGE_SIZE = 100
STORE_RETRY_SECONDS = 2.0
"""After this time a waiter reads again from a store that was unavailable; a notification ends it early."""

LAST_READ_SECONDS = 3.0
"""The longest that ``close()`` waits for the last reads of waiters; a store fails after 2.5 seconds."""


class EventBus:
    """The log of a router, and the waiters in the running loop.

    Args:
        store: The log.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.on_notification: Callable[[Iterable[str] | None], None] | None = None
        """Called at each notification of the store, after the waiters were woken."""
        self.closing: bool = False
        """Whether new events and new waiters are refused; running handlers can still use the store."""
        self.newest: int = 0
        """Position of the last event that was published here."""
        self._closed = False
        # The loop that the attributes below belong to.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = False
        self._start_lock = asyncio.Lock()
        self.close_lock: asyncio.Lock = asyncio.Lock()
        """Held by ``close()`` of the router."""
        self._start_failure: StoreError | None = None
        self._stop_listening: Callable[[], None] | None = None
        # For each topic, what wakes the tasks that wait for it.
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._no_waiters = asyncio.Event()

    @property
    def is_started(self) -> bool:
        """Whether the store was started in this loop."""
        return self._started and self._loop is not None and self._loop.is_running()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call a function in the loop in which the store was started, if it was. Any thread can call this."""
        loop = self._loop
        if loop is not None and self.is_started:
            loop.call_soon_threadsafe(callback)

    @property
    def waiting_topics(self) -> Mapping[str, int]:
        """The topics that tasks wait for, with the number of waiters."""
        return {topic: len(waiters) for topic, waiters in self._waiters.items()}

    async def open(self) -> EventStore:
        """Start the store, also after ``close()``."""
        self.bind_loop()
        self.closing = self._closed = False
        return await self.ready()

    async def ready(self) -> EventStore:
        """Return the store, started in the running loop.

        Raises:
            RouterClosedError: The router is closed.
            StoreError: The store is unavailable, or another running loop uses this router.
        """
        if self._closed:
            raise RouterClosedError("the router is closed")
        if self._loop is not asyncio.get_running_loop():
            self.bind_loop()
        if not self._started:
            await self._start()
        return self.store

    async def _start(self) -> None:
        """Start the store, unless another call does."""
        earlier = self._start_failure
        async with self._start_lock:
            if self._closed:
                raise RouterClosedError("the router is closed")
            if self._started:
                return
            if self._start_failure is not earlier:
                # Starts that fail one after the other would hold this call for longer than a store may.
                raise StoreError(str(self._start_failure)) from self._start_failure
            try:
                await self.store.start()
            except StoreError as error:
                self._start_failure = error
                raise
            if self._closed:
                # close() came meanwhile. It does not close a store that was not started.
                await self.store.close()
                raise RouterClosedError("the router is closed")
            self._stop_listening = self.store.listen(self._notify)
            self._started = True

    def check_open(self) -> None:
        """Raise RouterClosedError if the router is closed, or about to be."""
        if self.closing:
            raise RouterClosedError("the router is closed")

    def begin_close(self) -> None:
        """Refuse new events and waiters, and wake the present waiters, which raise RouterClosedError."""
        self.closing = True
        if self._loop is None or not self._loop.is_closed():
            for waiters in self._waiters.values():
                for notified in waiters:
                    notified.set()

    async def close(self) -> None:
        """Close the store. Repeating it is harmless, also in another loop after the first one ended."""
        self.bind_loop()
        self.begin_close()
        try:
            if self._waiters:
                # Each reads once more, so that an event that arrived just before is not lost.
                self._no_waiters.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_READ_SECONDS):
                        await self._no_waiters.wait()
        finally:
            self._closed = True
            async with self._start_lock:
                was_started, self._started = self._started, False
                self._unlisten()
                if was_started:
                    await self.store.close()

    @contextmanager
    def waiting(self, topics: Iterable[str]) -> Generator[asyncio.Event]:
        """Give the block an event that notifications of ``topics`` set. The block clears it before it reads the log.

        Args:
            topics: The topics; they can grow in the block, see ``add_topics``.
        """
        notified = asyncio.Event()
        self.add_topics(notified, topics)
        try:
            yield notified
        finally:
            for topic in topics:
                waiters = self._waiters.get(topic, set())
                waiters.discard(notified)
                if not waiters:
                    self._waiters.pop(topic, None)
            if not self._waiters:
                self._no_waiters.set()

    def add_topics(self, notified: asyncio.Event, topics: Iterable[str]) -> None:
        """Register the event of ``waiting`` for all topics, those included that its collection has got since."""
        for topic in topics:
            self._waiters.setdefault(topic, set()).add(notified)

    async def read_all(self, topics: Iterable[str]) -> list[Entry]:
        """Return all entries of topics, by position."""
        store = await self.ready()
        positions = dict.fromkeys(topics, 0)
        found: list[Entry] = []
        while positions:  # an event may name neither an avatar nor a render
            entries = await store.read(positions, limit=PAGE_SIZE)
            found += entries
            if len(entries) < PAGE_SIZE:
                break
            positions = dict.fromkeys(positions, entries[-1].position)
        return found

    async def find_opened(self, session_id: UUID | str) -> routing.Opened | None:
        """Return the record of a session; None if it was not opened through this store."""
        store = await self.ready()
        topic, position = f"session:{session_id}", 0
        while True:
            entries = await store.read({topic: position}, limit=PAGE_SIZE)
            opened = routing.find_opened(entries, session_id)
            if opened is not None or len(entries) < PAGE_SIZE:
                return opened
            position = entries[-1].position

    async def find_owner(
        self,
        avatar_id: UUID | str | None,
        render_id: UUID | str | None = None,
        *,
        position: float = math.inf,
        at: float = math.inf,
    ) -> routing.Opened | None:
        """Return the session that a render or an avatar belongs to at a position, by default at the log's end."""
        entries = await self.read_all(routing.get_owner_topics(avatar_id, render_id))
        owner = routing.find_owner(entries, avatar_id=avatar_id, render_id=render_id, position=position, at=at)
        return None if owner is None else await self.find_opened(owner)

    def bind_loop(self) -> None:
        """Bind this object to the running loop, and drop the state of a loop that ended without ``close()``.

        Raises:
            StoreError: Another running loop uses this router.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise StoreError("this router is used by another running event loop: give each loop its own router")
        self._loop = loop
        self._started = False
        self._start_lock = asyncio.Lock()
        self.close_lock = asyncio.Lock()
        self._unlisten()
        self._waiters = {}
        self._no_waiters = asyncio.Event()

    def _unlisten(self) -> None:
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None

    def _notify(self, topics: Iterable[str] | None) -> None:
        """Receive a notification of the store."""
        for topic in self._waiters if topics is None else topics:
            for notified in self._waiters.get(topic, ()):
                notified.set()
        if self.on_notification is not None:
            self.on_notification(topics)


class EventStream(AsyncIterator[Event]):
    """The events that a reader finds, each once: the stored ones, and then new ones as they arrive.

    Args:
        bus: The log.
        reader: Finds the events.
        description: Names the session, avatar or render in errors.
    """

    def __init__(self, bus: EventBus, reader: routing.Reader, description: str) -> None:
        self._bus = bus
        self._reader = reader
        self._description = description
        self._found: deque[Event] = deque()
        self._has_read = False
        self._ended = False
        # Wakes the task that waits for the next event.
        self._notified: asyncio.Event | None = None
        # Two tasks that iterate over one stream take turns.
        self._lock = asyncio.Lock()

    async def __anext__(self) -> Event:
        """Return the next event; wait for it without limit.

        Raises:
            RouterClosedError: The router was closed.
            StoreError: The store was unavailable when the wait began; later it only delays.
        """
        async with self._lock:
            if not self._found and not self._ended:
                self._bus.check_open()
                await self._bus.ready()
                with self._bus.waiting(self._reader.positions) as notified:
                    self._notified = notified
                    while not self._ended:
                        notified.clear()
                        retry: asyncio.TimerHandle | None = None
                        try:
                            # While the router closes, too: what arrived before is still returned.
                            if await self._read(notified):
                                break
                        except StoreError as error:
                            if not self._has_read:
                                self._bus.check_open()
                                raise
                            _log.debug("waiting for %s: the store is unavailable: %s", self._description, error)
                            retry = asyncio.get_running_loop().call_later(STORE_RETRY_SECONDS, notified.set)
                        try:
                            self._bus.check_open()
                            await notified.wait()
                        finally:
                            if retry is not None:
                                retry.cancel()
            if self._ended:
                raise StopAsyncIteration
            return self._found.popleft()

    async def first(self, event_type: type[E], *, timeout: float) -> E:
        """Return the first event of a type.

        Args:
            event_type: Its type.
            timeout: Seconds to wait; at 0 or less, only stored events are returned.

        Raises:
            AvaturnTimeoutError: No such event arrived in time.
            RouterClosedError: The router was closed.
        """
        _validate_timeout(timeout)
        if timeout <= 0:
            self._bus.check_open()
            while await self._read():
                for event in self._found:
                    if isinstance(event, event_type):
                        return event
                self._found.clear()
        else:
            deadline = asyncio.timeout(timeout)
            try:
                async with deadline:
                    async for event in self:
                        if isinstance(event, event_type):
                            return event
            except TimeoutError:
                if not deadline.expired():
                    raise
        raise AvaturnTimeoutError(f"no {event_type.__name__} of {self._description} within {timeout:g} s")

    async def aclose(self) -> None:
        """End the iteration, also in a task that waits for the next event."""
        self._ended = True
        self._found.clear()
        if self._notified is not None:
            self._notified.set()

    async def _read(self, notified: asyncio.Event | None = None) -> bool:
        """Read pages until one has an event; False if there are no more."""
        store = await self._bus.ready()
        while not self._found:
            topics = len(self._reader.positions)
            entries = await store.read(self._reader.positions, limit=PAGE_SIZE)
            self._found += self._reader.feed(entries)
            self._has_read = True
            if len(self._reader.positions) > topics:
                # Registered before the next read, so that no entry is missed.
                if notified is not None:
                    self._bus.add_topics(notified, self._reader.positions)
            elif len(entries) < PAGE_SIZE:
                break
        return bool(self._found)


def _validate_timeout(timeout: Any) -> None:
    try:
        is_nan = math.isnan(timeout)
    except TypeError:
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}") from None
    if is_nan:
        raise ValueError("timeout must be a number of seconds, not NaN")


def validate_event_type(event_type: Any) -> None:
    """Raise TypeError unless this is one of the four event types."""
    if event_type not in EVENT_TYPES:
        names = ", ".join(cls.__name__ for cls in EVENT_TYPES)
        raise TypeError(f"not an event type: give one of {names}, not {event_type!r:.60}")
