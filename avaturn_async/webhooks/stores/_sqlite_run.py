"""A run of events that SQLite keeps at once: what one after the other would leave behind, in few statements.

A statement by itself is cheap. But a thread lets go of the interpreter for each of them, and under load waits
for its turn every time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, TypeVar
from zlib import crc32

from attrs import Factory, define

from avaturn_async.webhooks.stores import Arrival

T = TypeVar("T")

# Ranks of events: one that named its session itself, and one without a session.
_NAMED = -1
BEHIND_ALL = 1_000
"""The rank of what is no subject: behind every one that is."""

# So many rows or values go into one statement. Of few lengths the connection keeps all prepared, and of these
# each is needed once at most, behind the longest. The widest rows are of seven, and a statement may take 999.
_LENGTHS = (128, 64, 32, 16, 8, 4, 2, 1)


class Marks(dict[str, int]):
    """What texts are found by: 32 bits for each, so that an index of what comes in no order stays small.

    Every entry of it goes to a page of its own, and those pages are most of what is written for an event.
    Other texts may have the same mark: whatever finds something by it looks at the text too.
    """

    def __missing__(self, text: str) -> int:
        mark = self[text] = mark_of(text)
        return mark


def mark_of(text: str) -> int:
    """The mark of one text."""
    return crc32(text.encode()) - 0x8000_0000  # SQLite has signed numbers, and four bytes for this one


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
    expires: float
    """When these events will be over."""
    marks: Marks
    positions: dict[str, int] = Factory(dict[str, int])
    """Of the events that were taken, by their keys."""
    events: list[object] = Factory(list[object])
    """Of each of them expiry, position, mark, key, session, rank and body, one after the other."""
    appearances: list[object] = Factory(list[object])
    """Where these are found: cursor, rank, mark, topic and position of each."""
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
        self.positions[arrival.key] = position = self.number
        self.events += (
            self.expires,
            position,
            self.marks[arrival.key],
            arrival.key,
            session_id,
            rank,
            arrival.body,
        )
        self.waiting.update(arrival.subjects[: max(rank, 0)])
        for place, subject in enumerate(arrival.subjects):
            # One that is given twice appears once, at its first place.
            if arrival.subjects.index(subject) == place:
                self.appearances += (position, place, self.marks[subject], subject, position)
        if session_id is not None:
            topic = f"session:{session_id}"
            self.appearances += (position, BEHIND_ALL, mark_of(topic), topic, position)
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
        return None, BEHIND_ALL

    def _bind(self, subjects: Sequence[str], session_id: str) -> None:
        # While a subject is bound, its events are routed as they come: none can be waiting for it.
        if not self.waiting.isdisjoint(subjects):
            self.late = [(subject, session_id) for subject in subjects]
            return
        for subject in subjects:
            self.bound[subject] = self.bindings[subject] = session_id


def among(
    connection: sqlite3.Connection, statement: str, *parameters: object, values: Collection[T]
) -> list[Any]:
    """The rows of a statement that ends before the values that ``IN`` takes."""
    rows: list[Any] = []
    rest = [*values]
    while rest:
        part, rest = rest[: _LENGTHS[0]], rest[_LENGTHS[0] :]
        length = min(length for length in _LENGTHS if length >= len(part))
        # One that stands there more than once is as good.
        part += part[-1:] * (length - len(part))
        rows += connection.execute(f"{statement} ({', '.join('?' * length)})", (*parameters, *part))
    return rows


def insert_all(connection: sqlite3.Connection, statement: str, width: int, values: Sequence[object]) -> None:
    """Execute a statement that ends before its ``VALUES``, with rows of so many, one behind the other."""
    marks, start = f"({', '.join('?' * width)})", 0
    for length in _LENGTHS:
        while len(values) - start >= length * width:
            part = values[start : start + length * width]
            connection.execute(f"{statement} VALUES {', '.join([marks] * length)}", part)
            start += length * width
