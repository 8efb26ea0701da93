"""EventStore: the protocol of an append-only log with topics, consumer groups, notifications and a TTL.

A store knows nothing of sessions, avatars or users. All that the router knows is in the log, and
:mod:`avaturn_async.webhooks.routing` computes the owner of each event when it reads. ``EventStoreContract`` in
:mod:`avaturn_async.testing.stores` checks these rules for any store:

1.  ``append`` is atomic, and durable as far as the engine promises. It returns a position above every position
    returned before: by other processes, before a restart, and when all entries have expired. Positions need not
    be dense. **Publication order is position order**: a reader that can read position p can read every live
    entry below p.
2.  An entry with a ``key`` is a duplicate while an entry with that key was appended less than that earlier
    entry's ``unique_for`` seconds ago (None: the lifetime of the entry). ``append`` then returns 0 and changes
    nothing, also when the store is full. A duplicate does not extend the time.
3.  Entries with ``dispatch=True`` are events from outside. They count against the bounds ``max_events`` and
    ``max_bytes``, live one TTL, and consumer groups receive them. Entries with ``dispatch=False`` are records of
    the router. They do not count, live two TTLs, and no group receives them. ``NewEntry.ttl`` replaces either
    lifetime. Nothing renews a lifetime. An expired entry is invisible, whether it was purged or not.
4.  ``read`` returns each live entry once that has one of the topics behind that topic's position, in order of
    position. One call sees one state of the log, and filters expired entries before it applies ``limit``. Fewer
    than ``limit`` entries: there are no more.
5.  A listener is called in the event loop that called ``start()``, after the entry can be read, with the topics
    of entries that any process appended; with no topics when a group has entries to claim again; with None when
    the listener must look at everything (for instance after a lost connection). Calls can be late or repeated,
    but are never missing. Notifications under load are coalesced.
6.  ``claim`` leases entries that are not acknowledged, failed or leased in the group, oldest first, and counts the
    attempt. Fewer than ``limit`` entries: there are no more now. It can find an entry of another process as late as
    listeners are called for it. A lease ends after ``lease_seconds``. ``renew`` and ``nack`` do nothing to a lease
    that another process has now. ``ack`` and ``fail`` always count. A new group begins with the oldest live entry.
    Each method treats a missing group as a new one: a group can vanish that was not used for two TTLs. Acknowledged
    state, attempts and failures live as long as their entry. ``groups`` names every group with live failed entries,
    and can omit a group that was not used for two TTLs.
7.  Bounds reached: StoreFullError. Engine unavailable, or the store not started: StoreError, within 2.5 seconds.
    Neither leaves a trace that a repetition would not mend. After a StoreError from ``append`` the outcome is
    unknown; with a ``key`` it is safe to repeat.
8.  A cancelled ``claim`` leaves no lease behind. ``start()`` in another event loop works once the earlier loop
    has ended, also without ``close()``; the use from two running loops raises StoreError ("another running event
    loop").
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import field, frozen

from avaturn_async._validation import validate_positive
from avaturn_async.errors import StoreError

__all__ = ["Claimed", "Entry", "EventStore", "Failed", "Listener", "NewEntry", "StoreBase"]

_log = logging.getLogger("avaturn_async.webhooks")


@frozen
class NewEntry:
    """An entry to append."""

    topics: tuple[str, ...]
    """Names under which the entry can be read, such as ``session:<uuid>``."""
    body: bytes = field(repr=False)
    """Opaque bytes, returned as they are."""
    key: str | None = None
    """Identifies duplicates; None: the entry is never a duplicate."""
    unique_for: float | None = None
    """Seconds for which another entry with the same key is a duplicate; None: the lifetime of the entry."""
    ttl: float | None = None
    """Lifetime in seconds; None: the store's TTL, or two TTLs with ``dispatch=False``."""
    dispatch: bool = True
    """Whether consumer groups receive the entry, and whether it counts against the bounds."""


@frozen
class Entry:
    """An entry of the log."""

    position: int
    """Its place in the log, at least 1."""
    topics: tuple[str, ...]
    """As appended."""
    body: bytes = field(repr=False)
    """As appended."""
    at: float
    """When it was appended, in seconds of the store's clock."""


@frozen
class Claimed:
    """An entry that the caller has leased."""

    entry: Entry
    """The entry."""
    attempt: int
    """Number of this attempt in the group, from 1: earlier claims and counted renewals are included."""


@frozen
class Failed:
    """An entry that a group gave up."""

    entry: Entry
    """The entry."""
    attempts: int
    """How many attempts were counted."""
    reason: str
    """The ``reason`` that was passed to ``fail``."""


Listener = Callable[[Iterable[str] | None], None]
"""Receives the topics of new entries: see rule 5."""


class EventStore(Protocol):
    """An append-only log; the module's docstring has the rules."""

    @property
    def lease_seconds(self) -> float:
        """Seconds until a lease ends that is not renewed."""
        ...

    @property
    def ttl_seconds(self) -> float:
        """Lifetime of an event in seconds."""
        ...

    async def start(self) -> None:
        """Open the engine. Called before the other methods, and again after ``close()``; repeating it is harmless.

        Raises:
            StoreError: The engine is unavailable, or holds data that this release cannot use.
        """
        ...

    async def close(self) -> None:
        """Release all resources of the running loop. Repeating it is harmless."""
        ...

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call ``callback`` for new entries (rule 5), until the returned function is called."""
        ...

    async def append(self, entry: NewEntry) -> int:
        """Append an entry.

        Returns:
            Its position; 0 for a duplicate.

        Raises:
            TypeError: A field of the entry has a wrong type. Calls that run at the same time are not affected.
            StoreFullError: A bound is reached.
            StoreError: The engine is unavailable; the entry may have been appended all the same.
        """
        ...

    async def contains(self, key: str) -> bool:
        """Return whether an entry with this key would be a duplicate now."""
        ...

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        """Return the live entries of ``topics`` (topic to the position to read behind), oldest first (rule 4)."""
        ...

    async def create_group(self, group: str) -> None:
        """Create a consumer group unless it exists; it begins with the oldest live entry."""
        ...

    async def groups(self) -> Sequence[str]:
        """Return the names of the consumer groups in order (rule 6)."""
        ...

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        """Lease at most ``limit`` entries for the caller, oldest first, and count an attempt for each (rule 6)."""
        ...

    async def renew(self, group: str, positions: Sequence[int], *, count: bool = False) -> None:
        """Extend leases of this process to ``lease_seconds`` from now; with ``count``, count another attempt."""
        ...

    async def ack(self, group: str, positions: Sequence[int]) -> None:
        """Mark entries as handled by the group."""
        ...

    async def nack(self, group: str, positions: Sequence[int]) -> None:
        """Return leased entries of this process to the group, which can claim them at once."""
        ...

    async def fail(self, group: str, position: int, reason: str) -> None:
        """Mark an entry as failed in the group: it is not claimed again, and ``failed`` lists it."""
        ...

    async def failed(self, group: str, *, limit: int = 100) -> Sequence[Failed]:
        """Return failed live entries of the group, oldest first."""
        ...

    async def retry(self, group: str, positions: Sequence[int]) -> None:
        """Return failed entries to the group with no attempts counted, and notify listeners with no topics."""
        ...

    async def purge_expired(self, *, limit: int = 1000) -> int:
        """Delete at most about ``limit`` expired entries, and return how many; 0: there are no more."""
        ...

    async def stats(self) -> Mapping[str, int]:
        """Return how much is stored: ``events`` (live, ``dispatch=True``), ``bytes`` of their bodies, ``records``."""
        ...


class StoreBase:
    """What the stores of this package have in common: two options, listeners, and the event loop that uses a store."""

    def __init__(self, *, ttl: float, lease: float) -> None:
        validate_positive(ttl=ttl, lease=lease)
        self.ttl_seconds = ttl
        self.lease_seconds = lease
        # The loop that called start(), until close(); and the lock that start() holds in it.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start_lock = asyncio.Lock()
        # The process of that loop. In a forked process the loop of its parent seems to run.
        self._pid = os.getpid()
        self._listeners: dict[object, Listener] = {}
        # The task of the last _finish(); asyncio itself keeps no reference.
        self._ending: asyncio.Task[None] | None = None

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call ``callback`` for new entries, until the returned function is called."""
        registration = object()
        self._listeners[registration] = callback

        def stop() -> None:
            self._listeners.pop(registration, None)

        return stop

    def _notify(self, topics: Iterable[str] | None) -> None:
        for callback in tuple(self._listeners.values()):
            try:
                callback(topics)
            except Exception:  # noqa: BLE001 - a listener's error must stop neither the store nor the other listeners
                _log.exception("a listener of %s failed", type(self).__name__)

    def _check_entry(self, entry: NewEntry) -> None:
        """Check the types of an entry: a wrong one must not fail the entries that are appended with it.

        Raises:
            TypeError: A field has a wrong type.
        """
        topics: object = entry.topics
        if not isinstance(topics, tuple | list):
            raise TypeError(f"the topics of an entry must be a tuple of str, not {type(topics).__name__}")
        for topic in entry.topics:
            if not isinstance(topic, str):
                raise TypeError(f"the topics of an entry must be str, not {type(topic).__name__}")
        if not isinstance(entry.body, bytes):
            raise TypeError(f"the body of an entry must be bytes, not {type(entry.body).__name__}")
        if not isinstance(entry.key, str | None):
            raise TypeError(f"the key of an entry must be str or None, not {type(entry.key).__name__}")

    def _is_in_new_loop(self) -> bool:
        """Return whether the running loop is not the one that started the store.

        Raises:
            StoreError: The other loop is running, too.
        """
        loop = asyncio.get_running_loop()
        other = None if self._loop is loop or self._pid != os.getpid() else self._loop
        if other is not None and other.is_running():
            name = type(self).__name__
            raise StoreError(f"this {name} is in use in another running event loop: give each loop a store")
        return self._loop is not loop

    def _enter_loop(self) -> bool:
        """Bind the store to the running loop; return whether an earlier loop left anything behind."""
        if not self._is_in_new_loop():
            return False
        self._loop = asyncio.get_running_loop()
        self._start_lock = asyncio.Lock()
        self._pid = os.getpid()
        return True

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work that goes on if this call is cancelled.

        In a task of its own: asyncio.timeout() of Python 3.11.2 ends work halfway in a task that was cancelled before.
        """
        self._ending = asyncio.get_running_loop().create_task(work)
        await asyncio.shield(self._ending)
