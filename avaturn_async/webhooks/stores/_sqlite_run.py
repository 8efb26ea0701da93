"""A run of events that SQLite keeps at once: what one after the other would leave behind, in few statements.

A statement by itself is cheap. But a thread lets go of the interpreter for each of them, and under load waits
for its turn every time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from attrs import Factory, define

from avaturn_async.webhooks.stores import Arrival

T = TypeVar("T")

# Ranks of events: one that named its session itself, and one without a session, behind every subject.
_NAMED = -1
_UNROUTED = 1_000

Appearance = tuple[int, str, int, int | None]
"""A row of appearances: cursor, topic, position and rank."""

_Event = tuple[int, str, str | None, int, bytes]

# So many rows or values go into one statement. Of few lengths the connection keeps all prepared, and of these
# each is needed once at most, behind the longest.
_LENGTHS = (64, 32, 16, 8, 4, 2, 1)


@define(kw_only=True)
class Run:
    """Takes events as long as there is room for them, and nothing that was written has to change for them."""

    number: int
    """The last position or cursor given out."""
    events_left: int
    """How many more there is room for."""
    bytes_left: int
    """How many more of bodies there is room for."""
    bound: dict[str, str]
    """The sessions of the subjects that have one."""
    waiting: set[str]
    """The subjects under which events wait for a session, or for one that a better subject leads to."""
    events: list[_Event] = Factory(list[_Event])
    """Position, key, session, rank and body of each that was taken."""
    appearances: list[Appearance] = Factory(list[Appearance])
    """Where these are found."""
    bindings: dict[str, str] = Factory(dict[str, str])
    """The sessions of subjects that are bound, or bound again."""
    sessions: set[str] = Factory(set[str])
    """Those that were heard of."""
    late: list[tuple[str, str]] = Factory(list[tuple[str, str]])
    """Subjects that others wait for, and the session that the last event binds them to: for afterwards."""

    def take(self, arrival: Arrival) -> bool:
        """Take an event with a new key, if it can be."""
        if self.late or not self.events_left or len(arrival.body) > self.bytes_left:
            return False
        session_id, rank = self._lead(arrival)
        self.number += 1
        self.events_left -= 1
        self.bytes_left -= len(arrival.body)
        self.events.append((self.number, arrival.key, session_id, rank, arrival.body))
        self.waiting.update(arrival.subjects[: max(rank, 0)])
        for place, subject in enumerate(arrival.subjects):
            self.appearances.append((self.number, subject, self.number, place))
        if session_id is not None:
            self.appearances.append((self.number, f"session:{session_id}", self.number, None))
            self._bind(arrival.binds, session_id)
        return True

    def _lead(self, arrival: Arrival) -> tuple[str | None, int]:
        """The session of an event, and the place of the subject that leads to it."""
        if arrival.session_id is not None:
            self.sessions.add(arrival.session_id)
            return arrival.session_id, _NAMED
        for rank, subject in enumerate(arrival.subjects):
            session_id = self.bound.get(subject)
            if session_id is not None:
                self.bindings[subject] = session_id
                self.sessions.add(session_id)
                return session_id, rank
        return None, _UNROUTED

    def _bind(self, subjects: Sequence[str], session_id: str) -> None:
        # While a subject is bound, its events are routed as they come: none can be waiting for it.
        if not self.waiting.isdisjoint(subjects):
            self.late = [(subject, session_id) for subject in subjects]
            return
        for subject in subjects:
            self.bound[subject] = self.bindings[subject] = session_id


def among(
    connection: sqlite3.Connection, statement: str, *parameters: object, values: Collection[str]
) -> list[Any]:
    """The rows of a statement that ends before the values that ``IN`` takes."""
    rows: list[Any] = []
    for part in _parts([*values]):
        marks = ", ".join("?" * len(part))
        rows += connection.execute(f"{statement} ({marks})", (*parameters, *part))
    return rows


def insert_all(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Execute a statement that ends before its ``VALUES``."""
    for part in _parts(rows):
        marks = f"({', '.join('?' * len(part[0]))})"
        values = [*chain.from_iterable(part)]
        connection.execute(f"{statement} VALUES {', '.join([marks] * len(part))}", values)


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    start = 0
    for length in _LENGTHS:
        while len(rows) - start >= length:
            yield rows[start : start + length]
            start += length
