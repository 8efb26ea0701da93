"""MemoryStore: events, sessions and bindings in this process, for as long as it lives."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import attrgetter

from avaturn_async.errors import StoreFullError
from avaturn_async.webhooks.stores import Arrival, SessionRecord, StoredEvent, Wake
from avaturn_async.webhooks.stores._event_log import EventLog, Kept, Late, stored
from avaturn_async.webhooks.stores._tables import Claims, Place, Places

# What is past its time is dropped in slices, so that no access waits for a long clean-up.
_SLICE = 100
_MOST_READ = 100
_NAMED = -1
_cursor = attrgetter("cursor")

Hear = Callable[[Mapping[str, StoredEvent | None]], None]
"""Gets the topics under which something appeared, and what; None is for what has to be read."""


class MemoryStore:
    """Keeps everything in this process: a 200 means "known here until the process ends".

    Full is full: what is stored and not expired is never dropped to make room.

    Args:
        ttl: Seconds that an event, a session or a binding is kept.
        max_events: Most events kept at a time.
        max_bytes: Most bytes of bodies kept at a time.
        clock: Gives seconds, which only rise.
        takeover: Seconds after which a claim of a handler that was not renewed has lapsed.

    Raises:
        ValueError: A number is not above zero.
    """

    def __init__(
        self,
        *,
        ttl: float = 86_400.0,
        max_events: int = 200_000,
        max_bytes: int = 268_435_456,
        clock: Callable[[], float] = time.monotonic,
        takeover: float = 30.0,
    ) -> None:
        if not all(number > 0 for number in (ttl, max_events, max_bytes, takeover)):
            raise ValueError("ttl, max_events, max_bytes and takeover must be above zero")
        self._ttl = ttl
        self._clock = clock
        self._takeover = takeover
        # By its bare id who opened a session, by its name to which one a subject is bound; and what is there.
        self._sessions = Places[SessionRecord]()
        self._subjects = Places[str]()
        self._log = EventLog(max_events=max_events, max_bytes=max_bytes)
        # Nothing ends before that.
        self._quiet_until = float("-inf")
        self._groups: dict[str, Claims] = {}
        self._listeners: dict[object, Hear] = {}

    @property
    def takeover(self) -> float:
        """Seconds after which a claim that was not renewed has lapsed."""
        return self._takeover

    async def start(self) -> None:
        """Nothing is to be got ready."""

    async def close(self) -> None:
        """Everything stays, for another router or a later start."""

    def listen(self, wake: Wake) -> Callable[[], None]:
        """Call ``wake`` with the topics under which something appears; the returned function ends that."""
        return self.listen_closely(lambda topics: wake(tuple(topics)))

    def listen_closely(self, hear: Hear) -> Callable[[], None]:
        """The same for who wants to know what appears there, in the very step in which it does.

        It gets around ``read``: whoever changes what that gives must not be listened to in this way.
        """
        ticket = object()
        self._listeners[ticket] = hear

        def stop() -> None:
            self._listeners.pop(ticket, None)

        return stop

    async def append(self, arrival: Arrival) -> int:
        """Keep an event.

        Returns:
            Its position; 0 if an event with its key is kept already.

        Raises:
            StoreFullError: ``max_events`` or ``max_bytes`` is reached.
        """
        now = self._clock()
        self._tidy(now)
        twin = self._log.by_key.get(arrival.key)
        if twin is not None:
            if twin.expires > now:
                return 0
            self._drop(twin, now)
        self._make_room(len(arrival.body), now)
        event = self._keep(arrival, now)
        appeared = stored(event, event.cursor)
        topics: dict[str, StoredEvent | None] = dict.fromkeys(event.subjects, appeared)
        if event.session_id is not None:
            topics[f"session:{event.session_id}"] = appeared
        self._wake(topics)
        return event.cursor

    async def seen(self, key: str) -> bool:
        """Whether an event with this key is kept."""
        event = self._log.by_key.get(key)
        return event is not None and event.expires > self._clock()

    async def read(self, topic: str, *, after: int = 0) -> Sequence[StoredEvent]:
        """The events under a topic that appeared behind a cursor, or the oldest hundred of them."""
        named = topic.startswith("session:")
        place = self._sessions.get(topic[8:]) if named else self._subjects.get(topic)
        found: list[StoredEvent] = []
        if place is None:
            return found
        rows = place.rows
        later = islice(rows, bisect_right(rows, after, key=_cursor), None) if after else rows
        now = self._clock()
        for row in later:
            event = row.event
            if event.expires > now:
                found.append(stored(event, row.cursor))
                if len(found) == _MOST_READ:
                    break
        return found

    async def bind(self, subject: str, session_id: str) -> None:
        """Bring the events of a subject to a session from now on, and those that have none yet."""
        now = self._clock()
        self._tidy(now)
        opened = self._sessions.get(session_id)
        if opened is not None and opened.ends > now:
            self._sessions.renew(opened, now + self._ttl, with_event=False)
        self._bind(self._subjects[subject], session_id, now, with_event=False)
        self._wake({f"session:{session_id}": None})

    async def bound(self, subject: str) -> str | None:
        """The session that a subject is bound to."""
        return self._subjects.lasting(subject, self._clock())

    async def save_session(self, record: SessionRecord, *, binds: Sequence[str] = ()) -> None:
        """Remember who opened a session, and bind subjects to it."""
        now = self._clock()
        self._tidy(now)
        self._sessions.put(self._sessions[record.id], record, now + self._ttl, with_event=False)
        for subject in binds:
            self._bind(self._subjects[subject], record.id, now, with_event=False)
        self._wake({f"session:{record.id}": None})

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """Who opened a session."""
        return self._sessions.lasting(session_id, self._clock())

    async def join(self, group: str) -> None:
        """Make a group of handlers, if it is not there yet; it begins with the oldest event kept."""
        self._groups.setdefault(group, Claims(self._takeover))

    async def claim(self, group: str, *, limit: int) -> Sequence[StoredEvent]:
        """At most ``limit`` events that this group has to handle, held by the caller from now on."""
        now = self._clock()
        claims, newest = self._groups[group], self._log.number
        claimed: list[StoredEvent] = []
        while len(claimed) < limit:
            first = self._log.first()
            position = claims.next(first.cursor if first else newest, newest, now)
            if position is None:
                break
            event = self._log.by_position.get(position)
            if event is not None and event.expires > now:
                claims.hold(position, now)
                claimed.append(stored(event, position))
        return claimed

    async def hold(self, group: str, positions: Sequence[int]) -> None:
        """Go on holding claimed events; those that are gone or finished are passed over."""
        self._groups[group].renew(positions, self._clock())

    async def finish(self, group: str, positions: Sequence[int]) -> None:
        """The group is through with these events."""
        for position in positions:
            self._groups[group].forget(position)

    async def release(self, group: str, positions: Sequence[int]) -> None:
        """Hand claimed events back, for others to claim at once."""
        self._groups[group].release(positions)
        self._wake({})

    async def expire(self, *, limit: int = 1000) -> int:
        """Drop at most ``limit`` things past their time; how many there were."""
        return self._drop_expired(limit, self._clock())

    async def sizes(self) -> Mapping[str, int]:
        """How much is kept: ``events``, ``bytes`` (of bodies), ``sessions``, ``bindings``."""
        return {
            "events": len(self._log.by_position),
            "bytes": self._log.bytes,
            "sessions": self._sessions.held,
            "bindings": self._subjects.held,
        }

    def _keep(self, arrival: Arrival, now: float) -> Kept:
        event = self._log.add(arrival, now + self._ttl)
        for subject in event.subjects:
            self._subjects[subject].add(event)
        if arrival.session_id is not None:
            self._lead(event, arrival.session_id, _NAMED, now)
        else:
            self._lead_by_subject(event, now)
        if event.session_id is not None:
            for subject in arrival.binds:
                place = self._subjects[subject]
                self._bind(place, event.session_id, now, with_event=subject in event.subjects)
        return event

    def _lead_by_subject(self, event: Kept, now: float) -> None:
        """Bring an event to the session that the first bound one of its subjects leads to."""
        for rank, subject in enumerate(event.subjects):
            place = self._subjects[subject]
            session_id = place.lasting(now)
            if session_id is not None:
                self._subjects.renew(place, event.expires, with_event=True)
                self._lead(event, session_id, rank, now)
                return

    def _lead(self, event: Kept, session_id: str, rank: int, now: float) -> None:
        """Bring an event to its session as it arrives."""
        place = self._sessions[session_id]
        place.add(event)
        if place.ends > now:
            self._sessions.renew(place, event.expires, with_event=True)
        # The id is kept once for all who mention it: with 100,000 sessions that counts.
        event.session_id = place.topic
        event.rank = rank

    def _bind(self, place: Place[str], session_id: str, now: float, *, with_event: bool) -> None:
        # While a subject is bound, its events are routed as they come: none can be waiting for it.
        waiting = () if place.ends > now else place.rows
        self._subjects.put(place, session_id, now + self._ttl, with_event=with_event)
        for row in waiting:
            event = row.event
            rank = event.subjects.index(place.topic)
            if rank < event.rank and event.expires > now:
                event.rank = rank
                self._lead_late(event, session_id)

    def _lead_late(self, event: Kept, session_id: str) -> None:
        """Bring an event to a session, beside one that it may have already."""
        if event.session_id == session_id:
            return
        if event.session_id is None:
            event.session_id = session_id
        event.later += (session_id,)
        self._log.number += 1
        self._sessions[session_id].add(Late(self._log.number, event))

    def _make_room(self, size: int, now: float) -> None:
        while not self._log.has_room(size):
            oldest = self._log.first()
            if oldest is None or oldest.expires > now:
                held = f"{len(self._log.by_position)} events and {self._log.bytes} bytes"
                raise StoreFullError(f"the store holds {held}: no room for {size} bytes more")
            self._drop(oldest, now)

    def _tidy(self, now: float) -> None:
        if now >= self._quiet_until:
            self._drop_expired(_SLICE, now)

    def _drop_expired(self, limit: int, now: float) -> int:
        gone = 0
        while gone < limit and self._drop_next(now):
            gone += 1
        if gone < limit:
            first = self._log.first()
            end = now + self._ttl if first is None else first.expires
            self._quiet_until = min(end, self._sessions.first_end(), self._subjects.first_end())
        return gone

    def _drop_next(self, now: float) -> bool:
        # What ended with an event goes before the next event, lest it piles up.
        if self._sessions.drop_next(now) or self._subjects.drop_next(now):
            return True
        first = self._log.first()
        if first is None or first.expires > now:
            return False
        self._drop(first, now)
        return True

    def _drop(self, event: Kept, now: float) -> None:
        self._log.remove(event)
        for subject in event.subjects:
            self._subjects.remove(subject, event, now)
        if event.session_id is not None and event.session_id not in event.later:
            self._sessions.remove(event.session_id, event, now)
        for session_id in event.later:
            self._sessions.remove(session_id, event, now)
        for claims in self._groups.values():
            claims.forget(event.cursor)

    def _wake(self, topics: Mapping[str, StoredEvent | None]) -> None:
        for hear in tuple(self._listeners.values()):
            hear(topics)
