"""MemoryStore: the log in the memory of this process."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from attrs import define, field

from avaturn_async._validation import validate_positive
from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores.base import Claimed, Entry, Failed, NewEntry, StoreBase

__all__ = ["MemoryStore"]

_log = logging.getLogger("avaturn_async.webhooks")

# Each append purges at most this many expired entries, so that no call waits for a long clean-up.
_PURGE_PER_APPEND = 100


@define
class _Stored:
    """An entry with what the store has to know about it."""

    entry: Entry
    expires_at: float
    key: str | None
    dispatch: bool


@define
class _Group:
    """The state of a consumer group. A live event that is not queued, leased or failed was acknowledged."""

    queue: list[int]
    """Positions that can be claimed, ascending."""
    leases: dict[int, float] = field(factory=dict[int, float])
    """Position to the end of the lease."""
    attempts: dict[int, int] = field(factory=dict[int, int])
    failed: dict[int, Failed] = field(factory=dict[int, Failed])

    def forget(self, position: int) -> None:
        """Drop the state of an acknowledged or deleted entry."""
        _remove(self.queue, position)
        self.leases.pop(position, None)
        self.attempts.pop(position, None)
        self.failed.pop(position, None)


class MemoryStore(StoreBase):
    """Store the log in this process: a 200 means "known here until the process ends".

    Several worker processes do not share it. At a bound ``append`` raises StoreFullError: a live entry is never
    dropped to make room. ``close()`` keeps all entries for a later ``start()``.

    Args:
        ttl: Lifetime of an event in seconds.
        max_events: Maximum number of live events.
        max_bytes: Maximum size of their bodies in bytes.
        lease: Seconds until a lease of a consumer group ends that is not renewed.
        clock: Returns seconds that never decrease.

    Raises:
        ValueError: A number is not above zero, or a duration is not finite.
    """

    def __init__(
        self,
        *,
        ttl: float = 86_400.0,
        max_events: int = 200_000,
        max_bytes: int = 268_435_456,
        lease: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(ttl=ttl, lease=lease)
        validate_positive(max_events=max_events, max_bytes=max_bytes)
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._clock = clock
        self._last_position = 0
        self._stored: dict[int, _Stored] = {}
        # Positions of each topic, ascending.
        self._topics: dict[str, list[int]] = {}
        # Until when an entry with a key is a duplicate.
        self._keys: dict[str, float] = {}
        # A heap of (time, position, key) of what expires: an entry with its key, or a key alone with the position 0.
        self._expiry: list[tuple[float, int, str | None]] = []
        self._events = 0
        self._bytes = 0
        self._groups: dict[str, _Group] = {}

    async def start(self) -> None:
        """Bind the store to the running loop. An earlier loop that has ended is forgotten."""
        self._enter_loop()

    async def close(self) -> None:
        """Unbind the store from the running loop; all entries stay."""
        self._is_in_new_loop()
        self._loop = None

    async def append(self, entry: NewEntry) -> int:
        """Append an entry; return its position, or 0 for a duplicate."""
        now = self._check_started()
        self._check_entry(entry)
        self._purge(now, _PURGE_PER_APPEND)
        if entry.key is not None and self._keys.get(entry.key, now) > now:
            return 0
        size = len(entry.body)
        while entry.dispatch and (self._events >= self._max_events or self._bytes + size > self._max_bytes):
            if not self._purge(now, _PURGE_PER_APPEND):
                raise StoreFullError(
                    f"the MemoryStore is full: {self._events} events, {self._bytes} bytes "
                    f"(max_events={self._max_events}, max_bytes={self._max_bytes})"
                )
        position = self._last_position = self._last_position + 1
        default_ttl = self.ttl_seconds if entry.dispatch else 2 * self.ttl_seconds
        expires_at = now + (default_ttl if entry.ttl is None else entry.ttl)
        stored = Entry(position, tuple(entry.topics), entry.body, now)
        self._stored[position] = _Stored(stored, expires_at, entry.key, entry.dispatch)
        heapq.heappush(self._expiry, (expires_at, position, entry.key))
        if entry.key is not None:
            self._keys[entry.key] = expires_at
            if entry.unique_for is not None:
                self._keys[entry.key] = now + entry.unique_for
                heapq.heappush(self._expiry, (now + entry.unique_for, 0, entry.key))
        for topic in set(entry.topics):
            self._topics.setdefault(topic, []).append(position)
        if entry.dispatch:
            self._events += 1
            self._bytes += size
            for group in self._groups.values():
                group.queue.append(position)
        self._notify(entry.topics)
        return position

    async def contains(self, key: str) -> bool:
        """Return whether an entry with this key would be a duplicate now."""
        now = self._check_started()
        return self._keys.get(key, now) > now

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        """Return the live entries of ``topics`` behind the position of each topic, oldest first."""
        now = self._check_started()
        found: list[Entry] = []
        tails: list[list[int]] = []
        for topic, after in topics.items():
            positions = self._topics.get(topic, [])
            tails.append(positions[bisect_right(positions, after) :])
        for position in heapq.merge(*tails):
            stored = self._stored[position]
            if stored.expires_at > now and (not found or found[-1].position != position):
                if len(found) == limit:
                    break
                found.append(stored.entry)
        return found

    async def create_group(self, group: str) -> None:
        """Create a consumer group unless it exists."""
        self._group(group)

    async def groups(self) -> Sequence[str]:
        """Return the names of the consumer groups in order."""
        self._check_started()
        return sorted(self._groups)

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        """Lease at most ``limit`` entries, oldest first, and count an attempt for each."""
        state, now = self._group(group), self._clock()
        for position in [position for position, ends_at in state.leases.items() if ends_at <= now]:
            del state.leases[position]
            insort(state.queue, position)
        claimed: list[Claimed] = []
        taken = 0
        for position in state.queue:
            if len(claimed) == limit:
                break
            taken += 1
            entry = self._live_event(position, now)
            if entry is not None:
                state.attempts[position] = attempt = state.attempts.get(position, 0) + 1
                state.leases[position] = now + self.lease_seconds
                claimed.append(Claimed(entry, attempt))
        del state.queue[:taken]
        return claimed

    async def renew(self, group: str, positions: Sequence[int], *, count: bool = False) -> None:
        """Extend leases to ``lease_seconds`` from now; with ``count``, count another attempt."""
        state, ends_at = self._group(group), self._clock() + self.lease_seconds
        for position in state.leases.keys() & positions:
            state.leases[position] = ends_at
            state.attempts[position] += count

    async def ack(self, group: str, positions: Sequence[int]) -> None:
        """Mark entries as handled by the group."""
        state = self._group(group)
        for position in positions:
            state.forget(position)

    async def nack(self, group: str, positions: Sequence[int]) -> None:
        """Return leased entries to the group, and notify listeners with no topics."""
        state = self._group(group)
        self._return(state, [position for position in positions if state.leases.pop(position, None) is not None])

    async def fail(self, group: str, position: int, reason: str) -> None:
        """Mark an entry as failed in the group."""
        state = self._group(group)
        entry = self._live_event(position, self._clock())
        if entry is not None:
            _remove(state.queue, position)
            state.leases.pop(position, None)
            state.failed[position] = Failed(entry, state.attempts.get(position, 0), reason)

    async def failed(self, group: str, *, limit: int = 100) -> Sequence[Failed]:
        """Return failed live entries of the group, oldest first."""
        state, now = self._group(group), self._clock()
        live = (state.failed[p] for p in sorted(state.failed) if self._live_event(p, now) is not None)
        return list(islice(live, limit))

    async def retry(self, group: str, positions: Sequence[int]) -> None:
        """Return failed entries to the group with no attempts counted, and notify listeners with no topics."""
        state = self._group(group)
        failed = [position for position in positions if state.failed.pop(position, None) is not None]
        for position in failed:
            state.attempts.pop(position, None)
        self._return(state, failed)

    async def purge_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` expired entries and keys, and return how many."""
        return self._purge(self._check_started(), limit)

    async def stats(self) -> Mapping[str, int]:
        """Return ``events`` and ``bytes`` of live events, and ``records`` of the router."""
        now = self._check_started()
        while self._purge(now, 1000):
            pass
        return {"events": self._events, "bytes": self._bytes, "records": len(self._stored) - self._events}

    def _check_started(self) -> float:
        """Return the time, if the store is started in the running loop."""
        if self._loop is not asyncio.get_running_loop():
            self._is_in_new_loop()
            raise StoreError("the store is not started, or closed: call start() first")
        return self._clock()

    def _group(self, name: str) -> _Group:
        """Return the state of a group, which is created unless it exists."""
        self._check_started()
        if name not in self._groups:
            self._groups[name] = _Group([position for position, stored in self._stored.items() if stored.dispatch])
        return self._groups[name]

    def _return(self, group: _Group, positions: Sequence[int]) -> None:
        for position in positions:
            insort(group.queue, position)
        if positions:
            self._notify(())

    def _live_event(self, position: int, now: float) -> Entry | None:
        stored = self._stored.get(position)
        return stored.entry if stored is not None and stored.dispatch and stored.expires_at > now else None

    def _purge(self, now: float, limit: int) -> int:
        purged = 0
        while self._expiry and self._expiry[0][0] <= now and purged < limit:
            _, position, key = heapq.heappop(self._expiry)
            if key is not None and self._keys.get(key, now + 1) <= now:
                del self._keys[key]
            if position:
                self._delete(position)
            purged += 1
        return purged

    def _delete(self, position: int) -> None:
        stored = self._stored.pop(position)
        for topic in set(stored.entry.topics):
            _remove(self._topics[topic], position)
            if not self._topics[topic]:
                del self._topics[topic]
        if stored.dispatch:
            self._events -= 1
            self._bytes -= len(stored.entry.body)
            for group in self._groups.values():
                group.forget(position)


def _remove(positions: list[int], position: int) -> None:
    """Remove a position from an ascending list, if it is there."""
    index = bisect_left(positions, position)
    if positions[index : index + 1] == [position]:
        del positions[index]
