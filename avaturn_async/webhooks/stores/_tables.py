"""What MemoryStore is made of: what is known under each topic, and how far a group of handlers is."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from attrs import define

from avaturn_async.webhooks.stores._event_log import Kept, Row

V = TypeVar("V")


@define(weakref_slot=False, eq=False)
class Place(Generic[V]):
    """What is known under a topic: the rows that appeared there in their order, and a value for a time.

    Most topics have one row, which stands there without a list around it: of 100,000 lists the garbage
    collector would have more work than the store.
    """

    topic: str
    _rows: Row | list[Row] | None = None
    value: V | None = None
    ends: float = -math.inf

    @property
    def rows(self) -> Sequence[Row]:
        there = self._rows
        if there is None:
            return ()
        return there if isinstance(there, list) else (there,)

    def add(self, row: Row) -> None:
        """Have a row appear here."""
        there = self._rows
        if there is None:
            self._rows = row
        elif isinstance(there, list):
            there.append(row)
        else:
            self._rows = [there, row]

    def remove(self, event: Kept) -> None:
        """Have an event disappear from here."""
        there = self._rows
        if isinstance(there, list) and len(there) > 1:
            # Events end in the order of their arrival, so that it is nearly always the first.
            del there[next(i for i, row in enumerate(there) if row.event is event)]
        else:
            self._rows = None

    def lasting(self, now: float) -> V | None:
        """The value, unless its time is over."""
        return self.value if self.ends > now else None


class Places(dict[str, Place[V]]):
    """The topics under which something is known; the place of one is made when it is asked for.

    There is one table for rows and values together, since each look into a table of 100,000 costs as much as
    a dozen lines. A value that an event puts or renews ends with the event, which then looks after it; all
    others are noted.
    """

    def __init__(self) -> None:
        super().__init__()
        # In the order in which their values end, since all live equally long.
        self.ends: OrderedDict[str, Place[V]] = OrderedDict()
        """The places whose values end by themselves."""
        self.held: int = 0
        """How many places have a value, over or not."""

    def __missing__(self, topic: str) -> Place[V]:
        place: Place[V] = Place(topic)
        self[topic] = place
        return place

    def lasting(self, topic: str, now: float) -> V | None:
        """The value of a topic, unless its time is over."""
        place = self.get(topic)
        return None if place is None else place.lasting(now)

    def put(self, place: Place[V], value: V, ends: float, *, with_event: bool) -> None:
        """Give a place a value until a time, at which an event there ends as well or else something else."""
        if place.value is None:
            self.held += 1
        place.value = value
        self.renew(place, ends, with_event=with_event)

    def renew(self, place: Place[V], ends: float, *, with_event: bool) -> None:
        """Keep the value of a place until a later time."""
        place.ends = ends
        if with_event:
            self.ends.pop(place.topic, None)
        else:
            self.ends[place.topic] = place
            self.ends.move_to_end(place.topic)

    def remove(self, topic: str, event: Kept, now: float) -> None:
        """Have an event disappear from a topic."""
        place = self[topic]
        place.remove(event)
        if place.value is None:
            self._leave(place)
        elif place.ends <= now:
            self.ends[topic] = place
            self.ends.move_to_end(topic, last=False)

    def first_end(self) -> float:
        """When the first of the values is over that are noted; never, if there is none."""
        return next(iter(self.ends.values())).ends if self.ends else math.inf

    def drop_next(self, now: float) -> bool:
        """Drop the value that is over for longest, if one is."""
        if self.first_end() > now:
            return False
        place = self.ends.popitem(last=False)[1]
        place.value = None
        self.held -= 1
        self._leave(place)
        return True

    def _leave(self, place: Place[V]) -> None:
        if not place.rows:
            del self[place.topic]


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
