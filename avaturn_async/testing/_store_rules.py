"""What the contract of event stores is written with: a store, a clock, and ways to look."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager

import pytest

from avaturn_async.webhooks.stores import Arrival, EventStore, SessionRecord, StoredEvent

A, B, C = (f"00000000-0000-4000-8000-00000000000{n}" for n in "abc")
AVATAR, OTHER_AVATAR = f"avatar:{A}", f"avatar:{B}"
RENDER = f"render:{A}"


def arrival(
    key: str,
    *,
    session: str | None = None,
    subjects: tuple[str, ...] = (AVATAR,),
    binds: tuple[str, ...] = (),
) -> Arrival:
    """An event whose body is its key."""
    return Arrival(key=key, body=key.encode(), session_id=session, subjects=subjects, binds=binds)


def record(session_id: str) -> SessionRecord:
    """Somebody who opened a session."""
    return SessionRecord(id=session_id, user_id="user", context='{"account":42}')


def bodies(events: Iterable[StoredEvent]) -> list[str]:
    """Their bodies, as text."""
    return [event.body.decode() for event in events]


async def read_all(store: EventStore, topic: str, *, after: int = 0) -> list[StoredEvent]:
    """All pages of a topic."""
    found: list[StoredEvent] = []
    while page := await store.read(topic, after=found[-1].cursor if found else after):
        found += page
    return found


async def under(store: EventStore, topic: str) -> list[str]:
    """The bodies of a topic."""
    return bodies(await read_all(store, topic))


async def claimed(store: EventStore, group: str = "g") -> Sequence[str]:
    """All that can be claimed now, which is not finished then."""
    found: list[StoredEvent] = []
    while some := await store.claim(group, limit=100):
        found += some
    return bodies(found)


async def expire_all(store: EventStore) -> None:
    """Drop whatever is past its time."""
    while await store.expire(limit=10):
        pass


class Hints:
    """Collects what a store tells whoever listens."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._topics: set[str] | None = set()
        self._came = asyncio.Event()
        self.count = 0
        self.stop = store.listen(self._wake)

    def _wake(self, topics: Iterable[str] | None) -> None:
        self.count += 1
        # None hints at everything, from then on until it was looked at.
        self._topics = None if topics is None or self._topics is None else {*self._topics, *topics}
        self._came.set()

    async def told(self, *topics: str) -> None:
        """Wait for a hint that has these topics in it, see that they can be read, and forget it."""
        async with asyncio.timeout(10):
            while not (self._came.is_set() and self._covers(topics)):
                self._came.clear()
                await self._came.wait()
        for topic in topics:
            assert await self._store.read(topic)
        self._came.clear()
        self._topics = set()

    def _covers(self, topics: Iterable[str]) -> bool:
        return self._topics is None or self._topics.issuperset(topics)


class StoreRules(ABC):
    """What a subclass for a store says about it.

    Each test begins with a new instance, so that ``self`` may hold what belongs to one test.
    """

    ttl: float = 100.0
    """Seconds that the stores of ``make_store`` keep things."""
    takeover: float = 10.0
    """Seconds after which a claim lapses in the stores of ``make_store``."""
    has_bounds: bool = True
    """Whether the store itself refuses what goes beyond ``max_events`` and ``max_bytes``."""
    now: float = 1_000.0
    """What ``clock`` says."""

    def clock(self) -> float:
        """The time, in seconds, for stores that take a clock."""
        return self.now

    async def pass_time(self, seconds: float) -> None:
        """Let time pass. For a store that takes no clock: sleep, with a short ``ttl`` and ``takeover``."""
        self.now += seconds

    @abstractmethod
    async def make_store(self, *, max_events: int, max_bytes: int) -> EventStore:
        """A store with nothing in it, not started."""

    async def make_another(self, store: EventStore) -> EventStore | None:
        """The store as another process has it, not started; None if it is in one process only."""
        del store
        return None

    @asynccontextmanager
    async def opened(
        self, *, max_events: int = 10_000, max_bytes: int = 10_000_000
    ) -> AsyncGenerator[EventStore, None]:
        """A store that is started, and closed in the end."""
        store = await self.make_store(max_events=max_events, max_bytes=max_bytes)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    def needs_bounds(self) -> None:
        """Skip a test that a store without bounds cannot pass."""
        if not self.has_bounds:
            pytest.skip("this store has no bounds of its own")
