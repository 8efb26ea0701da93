"""What a SQLiteStore does to its tables for groups of handlers, and for the processes that share the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from avaturn_async.webhooks.stores import StoredEvent
from avaturn_async.webhooks.stores._sqlite_room import Terms
from avaturn_async.webhooks.stores._sqlite_tables import Tables

# A process that did not enrol again for so long has died without a word.
_ENROLLED = 180.0


class Groups:
    """Who handles what; whoever calls sees to the transaction.

    Each event up to ``groups.behind`` was claimed at least once. Of these the ones that are not finished have
    a row in ``claims``.
    """

    def __init__(self, connection: sqlite3.Connection, tables: Tables, terms: Terms, *, holder: str) -> None:
        self._db = connection
        self._tables = tables
        self._terms = terms
        self._holder = holder

    def join(self, group: str) -> None:
        """Make a group of handlers, if it is not there yet."""
        self._db.execute("INSERT OR IGNORE INTO groups (name, behind) VALUES (?, 0)", (group,))

    def claim(self, group: str, limit: int) -> tuple[StoredEvent, ...]:
        """At most ``limit`` events, oldest first: what lapsed or was handed back is older than new ones."""
        now = self._terms.clock()
        rows = self._db.execute(
            """SELECT position, body, session_id FROM claims JOIN events USING (position)
            WHERE name = ? AND until <= ? AND expires > ? ORDER BY position LIMIT ?""",
            (group, now, now, limit),
        ).fetchall()
        new = self._db.execute(
            """SELECT position, body, session_id FROM events
            WHERE position > (SELECT behind FROM groups WHERE name = ?) AND expires > ?
            ORDER BY position LIMIT ?""",
            (group, now, limit - len(rows)),
        ).fetchall()
        if new:
            self._db.execute("UPDATE groups SET behind = ? WHERE name = ?", (new[-1][0], group))
        rows += new
        until = now + self._terms.takeover
        self._db.executemany(
            "INSERT OR REPLACE INTO claims (position, name, holder, until) VALUES (?, ?, ?, ?)",
            [(position, group, self._holder, until) for position, _, _ in rows],
        )
        return tuple(
            StoredEvent(position=position, cursor=position, body=body, session_id=session_id)
            for position, body, session_id in rows
        )

    def hold(self, group: str, positions: Sequence[int]) -> None:
        """Go on holding what nobody else has taken over."""
        until = self._terms.clock() + self._terms.takeover
        self._db.executemany(
            "UPDATE claims SET until = ? WHERE position = ? AND name = ? AND holder = ?",
            [(until, position, group, self._holder) for position in positions],
        )

    def finish(self, group: str, positions: Sequence[int]) -> None:
        """The group is through with these events, whoever holds them now."""
        self._db.executemany(
            "DELETE FROM claims WHERE position = ? AND name = ?",
            [(position, group) for position in positions],
        )

    def release(self, group: str, positions: Sequence[int]) -> None:
        """Hand back what nobody else has taken over, for others to claim at once."""
        # The least of times, whatever the clock counts from.
        self._db.executemany(
            "UPDATE claims SET holder = NULL, until = -1e999 WHERE position = ? AND name = ? AND holder = ?",
            [(position, group, self._holder) for position in positions],
        )
        self._tables.announce()

    def enrol(self, token: bytes, port: int) -> int:
        """Be told when something appears; the last number until now."""
        now = self._terms.clock()
        self._db.execute("DELETE FROM processes WHERE until <= ?", (now,))
        self._db.execute("INSERT OR REPLACE INTO processes VALUES (?, ?, ?)", (token, port, now + _ENROLLED))
        return self._tables.number()

    def leave(self, token: bytes) -> None:
        """Be told no longer."""
        self._db.execute("DELETE FROM processes WHERE token = ?", (token,))

    def others(self, token: bytes) -> list[tuple[bytes, int]]:
        """Whom to tell: token and port of every other process."""
        return self._db.execute("SELECT token, port FROM processes WHERE token <> ?", (token,)).fetchall()
