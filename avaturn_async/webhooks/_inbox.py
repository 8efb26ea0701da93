"""The part of the router that events go through: into the store, and out again to those who wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

import attrs

from avaturn_async.errors import RouterClosedError, StoreError
from avaturn_async.webhooks.events import AvatarReady, Event, RenderReady, parse_event
from avaturn_async.webhooks.stores import Arrival, EventStore, StoredEvent

# A waiter that is woken right after an event came need not parse its body again.
_MOST_RECENT = 128
_LONGEST_RECENT = 16_384


class Inbox:
    """A store that is started when it is first used, and those who wait for something to appear in it.

    Waiting is: say what for, read the store, wait for a hint, read again. A hint carries nothing that
    could be lost, and a waiter leaves nothing behind, however it ends.
    """

    def __init__(self, store: EventStore, wake: Callable[[], None]) -> None:
        self.store = store
        self.closing = False
        self._wake_others = wake
        self._started = False
        self._lock = asyncio.Lock()
        self._unlisten: Callable[[], None] | None = None
        self._hints: dict[str, set[asyncio.Future[None]]] = {}
        self._recent: dict[int, tuple[bytes, Event]] = {}

    async def open(self) -> None:
        """Start the store, also after a close."""
        self.closing = False
        await self.ready()

    async def ready(self) -> EventStore:
        """The store, started.

        Raises:
            RouterClosedError: The router is closed or about to be.
        """
        self.check_open()
        if not self._started:
            async with self._lock:
                if not self._started:
                    await self.store.start()
                    self._unlisten = self.store.listen(self._wake)
                    self._started = True
            self.check_open()
        return self.store

    def check_open(self) -> None:
        """Raise RouterClosedError if the router is closed or about to be."""
        if self.closing:
            raise RouterClosedError("the router is closed")

    def refuse(self) -> None:
        """Take nothing more, and have everybody who waits find that out."""
        self.closing = True
        self._wake(None)

    async def close(self) -> None:
        """Stop the store. Twice is fine."""
        self.refuse()
        async with self._lock:
            if self._unlisten is not None:
                self._unlisten()
                self._unlisten = None
            if self._started:
                self._started = False
                await self.store.close()
        # A lock belongs to the event loop in which somebody had to wait for it.
        self._lock = asyncio.Lock()

    async def add(self, event: Event, *, key: str, body: bytes) -> int:
        """Store an event; its position, or 0 for a duplicate."""
        store = await self.ready()
        position = await store.append(_arrival(event, key, body))
        if position and len(body) <= _LONGEST_RECENT:
            self._recent[position] = (body, attrs.evolve(event, position=position))
            if len(self._recent) > _MOST_RECENT:
                del self._recent[next(iter(self._recent))]
        return position

    def event(self, stored: StoredEvent) -> Event:
        """The event in a body, with its position."""
        body, event = self._recent.get(stored.position, (None, None))
        # A store that was emptied from outside begins to count anew: the body decides.
        if event is not None and body == stored.body:
            return event
        parsed = parse_event(stored.body)
        return attrs.evolve(parsed, position=stored.position)

    def expect(self, topic: str) -> asyncio.Future[None]:
        """A future that is done when something appears under a topic; hand it to ``forget`` in the end."""
        hint = asyncio.get_running_loop().create_future()
        self._hints.setdefault(topic, set()).add(hint)
        return hint

    def forget(self, topic: str, hint: asyncio.Future[None]) -> None:
        """Leave nothing behind of a future, done or not."""
        hints = self._hints[topic]
        hints.remove(hint)
        if not hints:
            del self._hints[topic]

    def _wake(self, topics: Iterable[str] | None) -> None:
        for topic in self._hints if topics is None else topics:
            for hint in self._hints.get(topic, ()):
                if not hint.done():
                    hint.set_result(None)
        self._wake_others()


class Reader(AsyncIterator[Event]):
    """The events under one topic, each once: what is there, and then what comes."""

    def __init__(self, inbox: Inbox, topic: str, *, after: Event | None) -> None:
        self._inbox = inbox
        self._topic = topic
        self._behind = 0 if after is None else after.position
        self._cursor = 0
        self._fetched: deque[StoredEvent] = deque()
        self._ended = False

    async def __anext__(self) -> Event:
        """The next event, however long that takes.

        Raises:
            RouterClosedError: The router was closed.
        """
        store = await self._inbox.ready()
        while not self._ended:
            hint = self._inbox.expect(self._topic)
            try:
                event = await self._next(store)
                if event is not None:
                    return event
                self._inbox.check_open()
                await hint
            finally:
                self._inbox.forget(self._topic, hint)
        raise StopAsyncIteration

    async def look(self) -> Event | None:
        """The next event, if it is there."""
        return await self._next(await self._inbox.ready())

    async def _next(self, store: EventStore) -> Event | None:
        while True:
            while self._fetched:
                stored = self._fetched.popleft()
                if stored.position > self._behind:
                    return self._inbox.event(stored)
            try:
                rows = await store.read(self._topic, after=self._cursor)
            except StoreError:
                self._inbox.check_open()
                raise
            if not rows:
                return None
            # Two tasks that iterate over one reader may have read the same rows.
            self._fetched.extend(row for row in rows if row.cursor > self._cursor)
            self._cursor = max(self._cursor, rows[-1].cursor)

    async def aclose(self) -> None:
        """End the iteration. There is nothing to let go of, but ``contextlib.aclosing`` asks for this."""
        self._ended = True


def _arrival(event: Event, key: str, body: bytes) -> Arrival:
    subjects = () if event.avatar_id is None else (f"avatar:{event.avatar_id}",)
    named = None if event.session_id is None else str(event.session_id)
    # What a session made is an avatar: that is how its exports and renders find the way back to it.
    binds = subjects if named is not None and isinstance(event, AvatarReady) else ()
    if isinstance(event, RenderReady):
        subjects = (f"render:{event.id}", *subjects)
    return Arrival(key=key, body=body, session_id=named, subjects=subjects, binds=binds)
