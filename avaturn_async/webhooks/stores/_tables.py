"""What MemoryStore is made of: its rows, values that end, and how far a group of handlers is."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from attrs import define

V = TypeVar("V")
UNROUTED = 1_000
"""The rank of an event without a session: behind every subject."""


@define(weakref_slot=False)
class Kept:
    """An event, and its own appearance under the topics that it had when it came."""

    cursor: int
    """Its position."""
    expires: float
    key: str
    body: bytes
    subjects: tuple[str, ...]
    session_id: str | None = None
    rank: int = UNROUTED
    """The place in ``subjects`` of the one that led to its session; before them all if it named it."""
    later: tuple[str, ...] = ()
    """The sessions under which it appeared after its arrival."""

    @property
    def event(self) -> Kept:
        return self


@define(weakref_slot=False)
class Late:
    """The appearance of an event under a session that it was brought to after its arrival."""

    cursor: int
    event: Kept


Row = Kept | Late


class Topics:
    """The rows under each topic, in the order in which they appeared there.

    Most topics have one row, which stands there without a list around it: of 100,000 lists the garbage
    collector would have more work than the store.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Row | list[Row]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, topic: str, row: Row) -> None:
        """Have a row appear under a topic."""
        there = self._rows.get(topic)
        if there is None:
            self._rows[topic] = row
        elif isinstance(there, list):
            there.append(row)
        else:
            self._rows[topic] = [there, row]

    def under(self, topic: str) -> Sequence[Row]:
        """The rows under a topic."""
        there = self._rows.get(topic)
        if there is None:
            return ()
        return there if isinstance(there, list) else (there,)

    def remove(self, topic: str, event: Kept) -> None:
        """Have an event disappear from a topic."""
        there = self._rows[topic]
        if isinstance(there, list) and len(there) > 1:
            # Events end in the order of their arrival, so that it is nearly always the first.
            del there[next(i for i, row in enumerate(there) if row.event is event)]
        else:
            del self._rows[topic]


class Lasting(Generic[V]):
    """Values that are gone a fixed time after they were put there for the last time."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        # In the order in which they end, since all live equally long.
        self._rows: OrderedDict[str, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: str, value: V, now: float) -> None:
        """Keep a value, or one that is there for longer."""
        self._rows[key] = (now + self._ttl, value)
        self._rows.move_to_end(key)

    def get(self, key: str, now: float) -> V | None:
        """The value, unless its time is over."""
        row = self._rows.get(key)
        return row[1] if row is not None and row[0] > now else None

    def first_end(self) -> float:
        """When the first of them is over; never, if there is none."""
        return next(iter(self._rows.values()))[0] if self._rows else math.inf

    def drop_expired(self, limit: int, now: float) -> int:
        """Drop at most ``limit`` of what is over; how many there were."""
        gone = 0
        while gone < limit and self._rows and next(iter(self._rows.values()))[0] <= now:
            self._rows.popitem(last=False)
            gone += 1
        return gone


class Claims:
    """Which positions a group of handlers has claimed, and which it has to claim next."""

    def __init__(self, takeover: float) -> None:
        self._takeover = takeover
        # Every position up to this one was claimed at least once.
        self._behind = 0
        # Claimed and not finished, and until when that holds, soonest first.
        self._held: OrderedDict[int, float] = OrderedDict()
        self._released: OrderedDict[int, None] = OrderedDict()

    def next(self, oldest: int, newest: int, now: float) -> int | None:
        """The position to claim next, among those from ``oldest`` to ``newest``; its event may be gone."""
        if self._held and next(iter(self._held.values())) <= now:
            return self._held.popitem(last=False)[0]
        if self._released:
            return self._released.popitem(last=False)[0]
        if self._behind >= newest:
            return None
        self._behind = max(self._behind + 1, oldest)
        return self._behind

    def hold(self, position: int, now: float) -> None:
        """Hold a position from now on."""
        self._held[position] = now + self._takeover

    def renew(self, positions: Sequence[int], now: float) -> None:
        """Go on holding those that are held."""
        for position in positions:
            if self._held.pop(position, None) is not None:
                self.hold(position, now)

    def release(self, positions: Sequence[int]) -> None:
        """Hand back those that are held."""
        for position in positions:
            if self._held.pop(position, None) is not None:
                self._released[position] = None

    def forget(self, position: int) -> None:
        """Have nothing more to do with a position."""
        self._held.pop(position, None)
        self._released.pop(position, None)
