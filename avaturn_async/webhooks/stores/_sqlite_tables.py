"""What a SQLiteStore does to its tables: the rules of EventStore as statements of SQL.

Nothing here opens or ends a transaction, or knows of threads: ``_sqlite_worker`` does that around it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from avaturn_async.errors import StoreFullError
from avaturn_async.webhooks.stores import Arrival, SessionRecord, StoredEvent

# What is past its time is dropped in slices, so that no access waits for a long clean-up.
_SLICE = 100
# Seconds between two looks for it.
_TIDY_EVERY = 1.0
_MOST_READ = 100
_MOST_TOPICS = 10_000
_NAMED = -1
_UNROUTED = 1_000

_Appearance = tuple[int, str, int, int | None]
"""A row of appearances: cursor, topic, position, rank."""


@frozen(kw_only=True)
class Terms:
    """What a store was told at its construction."""

    ttl: float
    max_events: int
    max_bytes: int
    takeover: float
    clock: Callable[[], float]


class Tables:
    """The tables of one connection; whoever calls sees to the transaction."""

    def __init__(self, connection: sqlite3.Connection, terms: Terms) -> None:
        self._db = connection
        self._terms = terms
        self._tidied = float("-inf")
        self.moved = False
        """Whether something appeared through this connection; for the caller to set back."""

    def append(self, arrival: Arrival) -> int:
        """Keep an event; its position, or 0 if its key was there."""
        now = self._terms.clock()
        self._tidy(now)
        twin = self._db.execute(
            "SELECT expires > ?, position, length(body) FROM events WHERE key = ?", (now, arrival.key)
        ).fetchone()
        if twin is not None:
            alive, *row = twin
            if alive:
                return 0
            self._drop([tuple(row)])
        position = 1 + self._make_room(len(arrival.body), now)
        session_id, rank = self._lead(arrival, now)
        self._count(1, len(arrival.body))
        self._db.execute(
            "INSERT INTO events (position, expires, key, session_id, rank, body) VALUES (?, ?, ?, ?, ?, ?)",
            (position, now + self._terms.ttl, arrival.key, session_id, rank, arrival.body),
        )
        appearances: list[_Appearance] = [
            (position, subject, position, place) for place, subject in enumerate(arrival.subjects)
        ]
        if session_id is not None:
            appearances.append((position, f"session:{session_id}", position, None))
        self._appear(appearances)
        if session_id is not None:
            for subject in arrival.binds:
                self._bind(subject, session_id, now)
        return position

    def seen(self, key: str) -> bool:
        """Whether an event with this key is kept."""
        row = self._db.execute(
            "SELECT 1 FROM events WHERE key = ? AND expires > ?", (key, self._terms.clock())
        ).fetchone()
        return row is not None

    def read(self, topic: str, after: int) -> tuple[StoredEvent, ...]:
        """The events under a topic that appeared behind a cursor, or the oldest hundred of them."""
        rows = self._db.execute(
            """SELECT position, cursor, body, session_id FROM appearances JOIN events USING (position)
            WHERE topic = ? AND cursor > ? AND expires > ? ORDER BY cursor LIMIT ?""",
            (topic, after, self._terms.clock(), _MOST_READ),
        )
        return tuple(
            StoredEvent(position=position, cursor=cursor, body=body, session_id=session_id)
            for position, cursor, body, session_id in rows
        )

    def bind(self, subject: str, session_id: str) -> None:
        """Bring the events of a subject to a session from now on, and those that have none yet."""
        now = self._terms.clock()
        self._tidy(now)
        self._bind(subject, session_id, now)
        self._renew(session_id, now)

    def bound(self, subject: str) -> str | None:
        """The session that a subject is bound to."""
        return self._bound(subject, self._terms.clock())

    def save_session(self, record: SessionRecord, binds: Sequence[str]) -> None:
        """Remember who opened a session, and bind subjects to it."""
        now = self._terms.clock()
        self._tidy(now)
        self._db.execute(
            "INSERT OR REPLACE INTO sessions (id, expires, user_id, context) VALUES (?, ?, ?, ?)",
            (record.id, now + self._terms.ttl, record.user_id, record.context),
        )
        for subject in binds:
            self._bind(subject, record.id, now)

    def load_session(self, session_id: str) -> SessionRecord | None:
        """Who opened a session."""
        row = self._db.execute(
            "SELECT id, user_id, context FROM sessions WHERE id = ? AND expires > ?",
            (session_id, self._terms.clock()),
        ).fetchone()
        return None if row is None else SessionRecord(id=row[0], user_id=row[1], context=row[2])

    def expire(self, limit: int) -> int:
        """Drop at most ``limit`` things past their time; how many there were."""
        return self._drop_expired(limit, self._terms.clock())

    def sizes(self) -> Mapping[str, int]:
        """How much is kept."""
        events, size, sessions, bindings = self._db.execute(
            """SELECT events, bytes, (SELECT count(*) FROM sessions), (SELECT count(*) FROM bindings)
            FROM counters"""
        ).fetchone()
        return {"events": events, "bytes": size, "sessions": sessions, "bindings": bindings}

    def announce(self) -> None:
        """Take a number for something that appeared under no topic."""
        self._next_number()

    def number(self) -> int:
        """The last number given out: whenever something appears, the next one is."""
        (number,) = self._db.execute("SELECT number FROM counters").fetchone()
        return int(number)

    def appeared(self, after: int) -> tuple[str, ...] | None:
        """The topics under which something appeared behind a number; None: too many to tell."""
        rows = self._db.execute(
            "SELECT topic FROM appearances WHERE cursor > ? LIMIT ?", (after, _MOST_TOPICS + 1)
        ).fetchall()
        return tuple({topic for (topic,) in rows}) if len(rows) <= _MOST_TOPICS else None

    def _lead(self, arrival: Arrival, now: float) -> tuple[str | None, int]:
        """The session of an event that arrives, and the place of the subject that leads to it."""
        if arrival.session_id is not None:
            self._renew(arrival.session_id, now)
            return arrival.session_id, _NAMED
        for rank, subject in enumerate(arrival.subjects):
            session_id = self._bound(subject, now)
            if session_id is not None:
                self._bind(subject, session_id, now)
                self._renew(session_id, now)
                return session_id, rank
        return None, _UNROUTED

    def _bind(self, subject: str, session_id: str, now: float) -> None:
        # While a subject is bound, its events are routed as they come: none can be waiting for it.
        if self._bound(subject, now) is None:
            self._lead_late(subject, session_id, now)
        self._db.execute(
            """INSERT INTO bindings (subject, expires, session_id) VALUES (?, ?, ?) ON CONFLICT (subject)
            DO UPDATE SET expires = excluded.expires, session_id = excluded.session_id""",
            (subject, now + self._terms.ttl, session_id),
        )

    def _lead_late(self, subject: str, session_id: str, now: float) -> None:
        """Bring the events that wait for a subject to a session, beside one that they may have already."""
        topic = f"session:{session_id}"
        waiting = self._db.execute(
            """SELECT position, session_id, appearances.rank FROM appearances JOIN events USING (position)
            WHERE topic = ? AND appearances.rank < events.rank AND expires > ? ORDER BY cursor""",
            (subject, now),
        ).fetchall()
        for position, first, rank in waiting:
            self._db.execute(
                "UPDATE events SET rank = ?, session_id = ? WHERE position = ?",
                (rank, session_id if first is None else first, position),
            )
            if first != session_id and not self._came_late(topic, position):
                self._appear([(self._next_number(), topic, position, None)])

    def _came_late(self, topic: str, position: int) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM appearances WHERE position = ? AND cursor <> position AND topic = ?",
            (position, topic),
        ).fetchone()
        return row is not None

    def _appear(self, rows: Sequence[_Appearance]) -> None:
        # A subject that is given twice appears once, at its first place.
        self._db.executemany(
            "INSERT OR IGNORE INTO appearances (cursor, topic, position, rank) VALUES (?, ?, ?, ?)", rows
        )

    def _bound(self, subject: str, now: float) -> str | None:
        row = self._db.execute(
            "SELECT session_id FROM bindings WHERE subject = ? AND expires > ?", (subject, now)
        ).fetchone()
        return None if row is None else str(row[0])

    def _renew(self, session_id: str, now: float) -> None:
        self._db.execute(
            "UPDATE sessions SET expires = ? WHERE id = ? AND expires > ?",
            (now + self._terms.ttl, session_id, now),
        )

    def _next_number(self) -> int:
        """The next position or cursor."""
        self._count(0, 0)
        return self.number()

    def _count(self, events: int, size: int) -> None:
        """Take a number, with so many events and bytes more."""
        self.moved = True
        self._db.execute(
            "UPDATE counters SET number = number + 1, events = events + ?, bytes = bytes + ?", (events, size)
        )

    def _make_room(self, size: int, now: float) -> int:
        """Have room for an event; the last number given out."""
        while True:
            number, events, held = self._db.execute("SELECT number, events, bytes FROM counters").fetchone()
            if events < self._terms.max_events and held + size <= self._terms.max_bytes:
                return int(number)
            if not self._drop_expired_events(_SLICE, now):
                raise StoreFullError(
                    f"the store holds {events} events and {held} bytes: no room for {size} bytes more"
                )

    def _tidy(self, now: float) -> None:
        # Asked for each of many webhooks it would be a tenth of their price; a clock may also be set back.
        if abs(now - self._tidied) >= _TIDY_EVERY and self._drop_expired(_SLICE, now) < _SLICE:
            self._tidied = now

    def _drop_expired(self, limit: int, now: float) -> int:
        # Mostly nothing has, and asking is cheaper than trying.
        (some,) = self._db.execute(
            """SELECT EXISTS (SELECT 1 FROM events WHERE expires <= ?)
            OR EXISTS (SELECT 1 FROM sessions WHERE expires <= ?)
            OR EXISTS (SELECT 1 FROM bindings WHERE expires <= ?)""",
            (now, now, now),
        ).fetchone()
        if not some:
            return 0
        gone = self._drop_expired_events(limit, now)
        gone += self._db.execute(
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires <= ? LIMIT ?)",
            (now, limit - gone),
        ).rowcount
        gone += self._db.execute(
            "DELETE FROM bindings WHERE subject IN (SELECT subject FROM bindings WHERE expires <= ? LIMIT ?)",
            (now, limit - gone),
        ).rowcount
        return gone

    def _drop_expired_events(self, limit: int, now: float) -> int:
        rows = self._db.execute(
            "SELECT position, length(body) FROM events WHERE expires <= ? ORDER BY expires LIMIT ?",
            (now, limit),
        ).fetchall()
        if rows:
            self._drop(rows)
        return len(rows)

    def _drop(self, rows: Sequence[tuple[int, int]]) -> None:
        """Drop events, given as position and size."""
        positions = [(position,) for position, _ in rows]
        self._db.executemany("DELETE FROM events WHERE position = ?", positions)
        self._db.executemany("DELETE FROM appearances WHERE cursor = ?", positions)
        self._db.executemany("DELETE FROM appearances WHERE position = ? AND cursor <> position", positions)
        self._db.executemany("DELETE FROM claims WHERE position = ?", positions)
        self._db.execute(
            "UPDATE counters SET events = events - ?, bytes = bytes - ?",
            (len(rows), sum(size for _, size in rows)),
        )
