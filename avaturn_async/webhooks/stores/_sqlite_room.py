"""The room that a SQLiteStore has, and what is past its time in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from attrs import frozen

from avaturn_async.errors import StoreFullError

# What is past its time is dropped in slices, so that no access waits for a long clean-up.
_SLICE = 100
# Seconds between two looks for it.
_TIDY_EVERY = 1.0


@frozen(kw_only=True)
class Terms:
    """What a store was told at its construction."""

    ttl: float
    max_events: int
    max_bytes: int
    takeover: float
    clock: Callable[[], float]


class Room:
    """How much one connection may put into the tables; whoever calls sees to the transaction."""

    def __init__(self, connection: sqlite3.Connection, terms: Terms) -> None:
        self._db = connection
        self._terms = terms
        self._tidied = float("-inf")

    def make(self, size: int, now: float) -> tuple[int, int, int]:
        """Have room for an event; the last number given out, and how many events and bytes there are."""
        while True:
            number, events, held = self._db.execute("SELECT number, events, bytes FROM counters").fetchone()
            if events < self._terms.max_events and held + size <= self._terms.max_bytes:
                return int(number), int(events), int(held)
            if not self._drop_expired_events(_SLICE, now):
                raise StoreFullError(
                    f"the store holds {events} events and {held} bytes: no room for {size} bytes more"
                )

    def tidy(self, now: float) -> None:
        # Asked for each of many webhooks it would be a tenth of their price; a clock may also be set back.
        if abs(now - self._tidied) >= _TIDY_EVERY and self.drop_expired(_SLICE, now) < _SLICE:
            self._tidied = now

    def drop_expired(self, limit: int, now: float) -> int:
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
            "DELETE FROM bindings WHERE rowid IN (SELECT rowid FROM bindings WHERE expires <= ? LIMIT ?)",
            (now, limit - gone),
        ).rowcount
        return gone

    def _drop_expired_events(self, limit: int, now: float) -> int:
        rows = self._db.execute(
            "SELECT position, length(body) FROM events WHERE expires <= ? ORDER BY expires LIMIT ?",
            (now, limit),
        ).fetchall()
        if rows:
            self.drop(rows)
        return len(rows)

    def drop(self, rows: Sequence[tuple[int, int]]) -> None:
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
