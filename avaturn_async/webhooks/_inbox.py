"""The part of the router that events go through: into the store, and out again to those who wait."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, TypeVar

from avaturn_async._ids import text_of
from avaturn_async._unguarded import maker
from avaturn_async.errors import AvaturnTimeoutError, RouterClosedError, StoreError
from avaturn_async.webhooks.events import (
    AvatarReady,
    Event,
    ExportReady,
    RenderReady,
    UnknownEvent,
    at_position,
    parse_event,
)
from avaturn_async.webhooks.stores import Arrival, EventStore, StoredEvent
from avaturn_async.webhooks.stores.memory import MemoryStore

_make = maker(Arrival)
_log = logging.getLogger("avaturn_async.webhooks")

_Hint = asyncio.Future[StoredEvent | None]

E = TypeVar("E", bound=Event)
EVENT_TYPES: tuple[type[Event], ...] = (AvatarReady, ExportReady, RenderReady, UnknownEvent)

# A waiter that is woken right after an event came need not parse its body again.
_MOST_RECENT = 128
_LONGEST_RECENT = 16_384
# Seconds after which a waiter asks a store again that was away; a hint ends them early.
_LOOK_AGAIN = 2.0


class Inbox:
    """A store that is started when it is first used, and those who wait for something to appear in it.

    Waiting is: say what for, read the store, wait for a hint, read again. A hint carries nothing that
    could be lost, and a waiter leaves nothing behind, however it ends.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.wake_handlers: Callable[[], None] = _nothing
        """Called when something appeared; there is nothing to call while there are no handlers."""
        self.closing: bool = False
        """Whether nothing more is taken and nobody may wait; what runs may still use the store."""
        self._closed = False
        self.started: bool = False
        self._lock = asyncio.Lock()
        self._unlisten: Callable[[], None] = _nothing
        self._hints: dict[str, set[_Hint]] = {}
        self._recent: dict[int, tuple[bytes, Event]] = {}
        self.newest: int = 0
        """The position of the last event that came in here."""

    async def open(self) -> None:
        """Start the store, also after a close."""
        self.closing = self._closed = False
        await self.ready()

    async def ready(self) -> EventStore:
        """The store, started.

        Raises:
            RouterClosedError: The router is closed.
        """
        if not self.started:
            async with self._lock:
                await self._start()
        return self._store

    async def _start(self) -> None:
        if self._closed:
            raise RouterClosedError("the router is closed")
        if not self.started:
            await self._store.start()
            # A subclass may give something else than it keeps, and is read.
            if type(self._store) is MemoryStore:
                self._unlisten = self._store.listen_closely(self._hear)
            else:
                self._unlisten = self._store.listen(self._wake)
            self.started = True

    def check_open(self) -> None:
        """Raise RouterClosedError if the router is closed or about to be."""
        if self.closing:
            raise RouterClosedError("the router is closed")

    def refuse(self) -> None:
        """Take nothing more, and have everybody who waits find that out."""
        self.closing = True
        self._give_hints(dict.fromkeys(self._hints))

    async def close(self) -> None:
        """Stop the store. Twice is fine."""
        self.refuse()
        async with self._lock:
            self._closed = True
            if self.started:
                self.started = False
                self._unlisten()
                await self._store.close()
        # A lock belongs to the event loop in which somebody had to wait for it.
        self._lock = asyncio.Lock()

    async def add(self, event: Event, *, key: str, body: bytes) -> bool:
        """Store an event; False for a duplicate."""
        self.check_open()
        store = self._store if self.started else await self.ready()
        position = await store.append(_arrival(event, key, body))
        if not position:
            return False
        self.newest = max(self.newest, position)
        if len(body) <= _LONGEST_RECENT:
            self._recent[position] = (body, at_position(event, position))
            if len(self._recent) > _MOST_RECENT:
                del self._recent[next(iter(self._recent))]
        return True

    def event(self, stored: StoredEvent) -> Event:
        """The event in a body, with its position."""
        body, event = self._recent.get(stored.position, (None, None))
        # A store that was emptied from outside begins to count anew: the body decides.
        if event is None or body != stored.body:
            return at_position(parse_event(stored.body), stored.position)
        return event

    def expect(self, topic: str) -> _Hint:
        """A future that is done when something appears under a topic; hand it to ``forget`` in the end.

        Its result is what appeared, if that is known.
        """
        hint: _Hint = asyncio.get_running_loop().create_future()
        self._hints.setdefault(topic, set()).add(hint)
        return hint

    def forget(self, topic: str, hint: _Hint) -> None:
        """Leave nothing behind of a future, done or not."""
        hints = self._hints[topic]
        hints.remove(hint)
        if not hints:
            del self._hints[topic]

    def _wake(self, topics: Iterable[str] | None) -> None:
        self._hear(dict.fromkeys(self._hints if topics is None else topics))

    def _hear(self, topics: Mapping[str, StoredEvent | None]) -> None:
        self._give_hints(topics)
        self.wake_handlers()

    def _give_hints(self, topics: Mapping[str, StoredEvent | None]) -> None:
        for topic, appeared in topics.items():
            if topic in self._hints:
                for hint in self._hints[topic]:
                    if not hint.done():
                        hint.set_result(appeared)


class Reader(AsyncIterator[Event]):
    """The events under one topic, each once: what is there, and then what comes."""

    def __init__(self, inbox: Inbox, topic: str, *, after: Event | None) -> None:
        self._inbox = inbox
        self._topic = topic
        self._behind = 0 if after is None else after.position
        self._cursor = 0
        self._fetched: list[StoredEvent] = []
        self._has_read = False
        self._ended = False

    async def __anext__(self) -> Event:
        """The next event, however long that takes.

        A store that is away at the first look is the caller's error; later ones it is waited for.

        Raises:
            RouterClosedError: The router was closed.
            StoreError: The store was away when the wait began.
        """
        self._inbox.check_open()
        store = await self._inbox.ready()
        while not self._ended:
            hint = self._inbox.expect(self._topic)
            try:
                event = await self._next(store)
                if event is None:
                    self._inbox.check_open()
                    appeared = await hint
                    # What was hinted at can be read by now, if it is not there already.
                    event = await self._next(store) if appeared is None else self._passed(appeared)
                if event is not None:
                    return event
            except StoreError as error:
                if not self._has_read:
                    raise
                _log.debug("a waiter asks again, for the store is away: %s", error)
                await asyncio.wait((hint,), timeout=_LOOK_AGAIN)
            finally:
                self._inbox.forget(self._topic, hint)
        raise StopAsyncIteration

    async def first(self, event_type: type[E], *, timeout: float) -> E:
        """The first event of a type; a timeout of 0 only looks.

        Raises:
            AvaturnTimeoutError: There was none in time.
            RouterClosedError: The router was closed.
        """
        try:
            is_none = math.isnan(timeout)
        except TypeError:
            raise TypeError(f"timeout must be a number of seconds, not {timeout!r}") from None
        if is_none:
            raise ValueError("timeout must be a number of seconds, not NaN")
        if timeout <= 0:
            self._inbox.check_open()
            store = await self._inbox.ready()
            while (event := await self._next(store)) is not None:
                if isinstance(event, event_type):
                    return event
        else:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    async for event in self:
                        if isinstance(event, event_type):
                            return event
            except TimeoutError:
                if not limit.expired():
                    raise
        raise AvaturnTimeoutError(f"no {event_type.__name__} within {timeout:g} s")

    def _passed(self, appeared: StoredEvent) -> Event | None:
        """The event that appeared, unless it is not for this reader."""
        if appeared.cursor <= self._cursor:
            # Another task that iterates over this reader has it.
            return None
        self._cursor = appeared.cursor
        return self._inbox.event(appeared) if appeared.position > self._behind else None

    async def _next(self, store: EventStore) -> Event | None:
        while True:
            while self._fetched:
                stored = self._fetched.pop(0)
                if stored.position > self._behind:
                    return self._inbox.event(stored)
            try:
                rows = await store.read(self._topic, after=self._cursor)
            except StoreError:
                self._inbox.check_open()
                raise
            self._has_read = True
            if not rows:
                return None
            if rows[0].cursor <= self._cursor:
                # Two tasks that iterate over one reader have read the same rows.
                rows = [row for row in rows if row.cursor > self._cursor]
            if rows:
                self._cursor = rows[-1].cursor
                self._fetched += rows

    async def aclose(self) -> None:
        """End the iteration. There is nothing to let go of, but ``contextlib.aclosing`` asks for this."""
        self._ended = True


def check_event_type(event_type: Any) -> None:
    """Raise TypeError for what is not a type of event."""
    if event_type not in EVENT_TYPES:
        names = ", ".join(cls.__name__ for cls in EVENT_TYPES)
        raise TypeError(f"not an event: give one of {names}, not {event_type!r:.60}")


def _arrival(event: Event, key: str, body: bytes) -> Arrival:
    subjects = () if event.avatar_id is None else ("avatar:" + text_of(event.avatar_id),)
    named = None if event.session_id is None else text_of(event.session_id)
    # What a session made is an avatar: that is how its exports and renders find the way back to it.
    binds = subjects if named is not None and isinstance(event, AvatarReady) else ()
    if isinstance(event, RenderReady):
        subjects = ("render:" + text_of(event.id), *subjects)
    return _make(key=key, body=body, session_id=named, subjects=subjects, binds=binds)


def _nothing() -> None:
    """What is called while there is nothing to call."""
