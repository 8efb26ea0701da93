"""What a SQLiteStore does to its tables: the rules of EventStore as statements of SQL.

Nothing here opens or ends a transaction, or knows of threads: ``_sqlite_worker`` does that around it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from avaturn_async.webhooks.stores import Arrival, SessionRecord, StoredEvent
from avaturn_async.webhooks.stores._sqlite_room import Room, Terms
from avaturn_async.webhooks.stores._sqlite_run import (
    BEHIND_ALL,
    Marks,
    Run,
    among,
    insert_all,
    mark_of,
)

_MOST_READ = 100
_MOST_TOPICS = 10_000
# Events that are kept together: whatever they depend on is looked up once for so many.
_MOST_AT_ONCE = 128


class Tables:
    """The tables of one connection; whoever calls sees to the transaction."""

    def __init__(self, connection: sqlite3.Connection, terms: Terms) -> None:
        self._db = connection
        self._terms = terms
        self._room = Room(connection, terms)
        self.moved = False
        """Whether something appeared through this connection; for the caller to set back."""

    def append(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Keep events in their order; the position of each, or 0 if its key was there."""
        now, marks = self._terms.clock(), Marks()
        self._room.tidy(now)
        there = self._twins({marks[arrival.key] for arrival in arrivals}, now)
        fresh: dict[str, Arrival] = {}
        for arrival in arrivals:
            if arrival.key not in there:
                fresh.setdefault(arrival.key, arrival)
        rest, given = [*fresh.values()], dict[str, int]()
        while rest:
            taken = self._append_some(rest[:_MOST_AT_ONCE], marks, now)
            given |= taken
            rest = rest[len(taken) :]
        # The first one with a key gets what was given for it, those behind it nothing.
        return [given.pop(arrival.key, 0) for arrival in arrivals]

    def seen(self, key: str) -> bool:
        """Whether an event with this key is kept."""
        row = self._db.execute(
            "SELECT 1 FROM events WHERE mark = ? AND key = ? AND expires > ?",
            (mark_of(key), key, self._terms.clock()),
        ).fetchone()
        return row is not None

    def read(self, topic: str, after: int) -> tuple[StoredEvent, ...]:
        """The events under a topic that appeared behind a cursor, or the oldest hundred of them."""
        rows = self._db.execute(
            """SELECT position, cursor, body, session_id FROM appearances JOIN events USING (position)
            WHERE appearances.mark = ? AND topic = ? AND cursor > ? AND expires > ?
            ORDER BY cursor LIMIT ?""",
            (mark_of(topic), topic, after, self._terms.clock(), _MOST_READ),
        )
        return tuple(
            StoredEvent(position=position, cursor=cursor, body=body, session_id=session_id)
            for position, cursor, body, session_id in rows
        )

    def bind(self, subject: str, session_id: str) -> None:
        """Bring the events of a subject to a session from now on, and those that have none yet."""
        now = self._terms.clock()
        self._room.tidy(now)
        self._bind(subject, session_id, now)
        self._renew(session_id, now)

    def bound(self, subject: str) -> str | None:
        """The session that a subject is bound to."""
        return self._bound(subject, self._terms.clock())

    def save_session(self, record: SessionRecord, binds: Sequence[str]) -> None:
        """Remember who opened a session, and bind subjects to it."""
        now = self._terms.clock()
        self._room.tidy(now)
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
        return self._room.drop_expired(limit, self._terms.clock())

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

    def _twins(self, marks: Collection[int], now: float) -> set[str]:
        """The keys that are there with these marks; events of them that are past their time are dropped."""
        there: set[str] = set()
        gone: list[tuple[int, int]] = []
        select = "SELECT key, expires > ?, position, length(body) FROM events WHERE mark IN"
        for key, alive, position, size in among(self._db, select, now, values=marks):
            if alive:
                there.add(key)
            else:
                gone.append((position, size))
        if gone:
            self._room.drop(gone)
        return there

    def _append_some(self, arrivals: Sequence[Arrival], marks: Marks, now: float) -> dict[str, int]:
        """Keep the first of these events, and as many as go with it; their positions by key."""
        number, events, size = self._room.make(len(arrivals[0].body), now)
        binds = {subject for arrival in arrivals for subject in arrival.binds}
        subjects = binds.union(*(arrival.subjects for arrival in arrivals))
        # What is found of other texts with these marks is as true.
        known = "SELECT subject, session_id, expires > ?, rowid FROM bindings WHERE mark IN"
        bindings = among(self._db, known, now, values={marks[subject] for subject in subjects})
        waiting = """SELECT topic FROM appearances JOIN events USING (position)
            WHERE appearances.rank < events.rank AND expires > ? AND appearances.mark IN"""
        topics = among(self._db, waiting, now, values={marks[subject] for subject in binds})
        run = Run(
            number=number,
            events_left=self._terms.max_events - events,
            bytes_left=self._terms.max_bytes - size,
            bound={subject: session_id for subject, session_id, alive, _ in bindings if alive},
            waiting={topic for (topic,) in topics},
            expires=now + self._terms.ttl,
            marks=marks,
        )
        for arrival in arrivals:
            if not run.take(arrival):
                break
        self._write(run, [rowid for subject, *_, rowid in bindings if subject in run.bindings], now)
        return run.positions

    def _write(self, run: Run, replaced: Sequence[int], now: float) -> None:
        self.moved = True
        insert_all(
            self._db,
            "INSERT INTO events (expires, position, mark, key, session_id, rank, body)",
            7,
            run.events,
        )
        self._appear(run.appearances)
        among(self._db, "DELETE FROM bindings WHERE rowid IN", values=replaced)
        self._keep_bindings(
            [
                value
                for subject, session_id in run.bindings.items()
                for value in (run.expires, run.marks[subject], subject, session_id)
            ]
        )
        renew = "UPDATE sessions SET expires = ? WHERE expires > ? AND id IN"
        among(self._db, renew, run.expires, now, values=run.sessions)
        self._db.execute(
            "UPDATE counters SET number = ?, events = ?, bytes = ?",
            (run.number, self._terms.max_events - run.events_left, self._terms.max_bytes - run.bytes_left),
        )
        for subject, session_id in run.late:
            self._bind(subject, session_id, now)

    def _bind(self, subject: str, session_id: str, now: float) -> None:
        # While a subject is bound, its events are routed as they come: none can be waiting for it.
        if self._bound(subject, now) is None:
            self._lead_late(subject, session_id, now)
        mark = mark_of(subject)
        self._db.execute("DELETE FROM bindings WHERE mark = ? AND subject = ?", (mark, subject))
        self._keep_bindings([now + self._terms.ttl, mark, subject, session_id])

    def _lead_late(self, subject: str, session_id: str, now: float) -> None:
        """Bring the events that wait for a subject to a session, beside one that they may have already."""
        topic = f"session:{session_id}"
        waiting = self._db.execute(
            """SELECT position, session_id, appearances.rank FROM appearances JOIN events USING (position)
            WHERE appearances.mark = ? AND topic = ? AND appearances.rank < events.rank AND expires > ?
            ORDER BY cursor""",
            (mark_of(subject), subject, now),
        ).fetchall()
        for position, first, rank in waiting:
            self._db.execute(
                "UPDATE events SET rank = ?, session_id = ? WHERE position = ?",
                (rank, session_id if first is None else first, position),
            )
            if first != session_id and not self._came_late(topic, position):
                self._appear([self._next_number(), BEHIND_ALL, mark_of(topic), topic, position])

    def _came_late(self, topic: str, position: int) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM appearances WHERE position = ? AND cursor <> position AND topic = ?",
            (position, topic),
        ).fetchone()
        return row is not None

    def _appear(self, values: Sequence[object]) -> None:
        insert_all(self._db, "INSERT INTO appearances (cursor, rank, mark, topic, position)", 5, values)

    def _keep_bindings(self, values: Sequence[object]) -> None:
        insert_all(self._db, "INSERT INTO bindings (expires, mark, subject, session_id)", 4, values)

    def _bound(self, subject: str, now: float) -> str | None:
        row = self._db.execute(
            "SELECT session_id FROM bindings WHERE mark = ? AND subject = ? AND expires > ?",
            (mark_of(subject), subject, now),
        ).fetchone()
        return None if row is None else str(row[0])

    def _renew(self, session_id: str, now: float) -> None:
        self._db.execute(
            "UPDATE sessions SET expires = ? WHERE id = ? AND expires > ?",
            (now + self._terms.ttl, session_id, now),
        )

    def _next_number(self) -> int:
        """The next position or cursor."""
        self.moved = True
        self._db.execute("UPDATE counters SET number = number + 1")
        return self.number()
