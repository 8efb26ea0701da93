"""What MemoryStore is made of: the events, in the order of their arrival."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from avaturn_async._unguarded import written
from avaturn_async.webhooks.stores import Arrival, StoredEvent

UNROUTED = 1_000
"""The rank of an event without a session: behind every subject."""


@define(weakref_slot=False, eq=False)
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


@define(weakref_slot=False, eq=False)
class Late:
    """The appearance of an event under a session that it was brought to after its arrival."""

    cursor: int
    event: Kept


Row = Kept | Late

stored: Callable[[Kept, int], StoredEvent] = written(
    "event, cursor",
    [
        "made = begin()",
        "made.position, made.cursor = event.cursor, cursor",
        "made.body, made.session_id = event.body, event.session_id",
        "made.__class__ = cls",
        "return made",
    ],
    StoredEvent,
    {},
)
"""What a store gives back of an event that appeared at a cursor."""


class EventLog:
    """All events, by their position and by their key."""

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.bytes: int = 0
        """Bytes of their bodies."""
        self.number: int = 0
        """The last one given out: positions and cursors come from one row, and a late appearance has one."""
        self.by_position: dict[int, Kept] = {}
        self.by_key: dict[str, Kept] = {}
        self._oldest = 1

    def has_room(self, size: int) -> bool:
        """Whether another event with so many bytes may be added."""
        return len(self.by_position) < self._max_events and self.bytes + size <= self._max_bytes

    def add(self, arrival: Arrival, expires: float) -> Kept:
        """Keep an event that is not there yet."""
        self.number += 1
        event = Kept(self.number, expires, arrival.key, arrival.body, arrival.subjects)
        self.by_position[event.cursor] = self.by_key[event.key] = event
        self.bytes += len(event.body)
        return event

    def remove(self, event: Kept) -> None:
        """Keep an event no longer."""
        del self.by_position[event.cursor]
        del self.by_key[event.key]
        self.bytes -= len(event.body)

    def first(self) -> Kept | None:
        """The oldest event."""
        # Asking a dict for its first key again and again walks over all that was deleted before it.
        while self._oldest <= self.number:
            event = self.by_position.get(self._oldest)
            if event is not None:
                return event
            self._oldest += 1
        return None
