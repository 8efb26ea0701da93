"""Events that SQLite keeps at once leave behind what one after the other would."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import NAMESPACE_URL, uuid5

import pytest
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st

from avaturn_async.errors import StoreFullError
from avaturn_async.webhooks.stores import Arrival, SessionRecord
from avaturn_async.webhooks.stores._sqlite_file import open_file, transaction
from avaturn_async.webhooks.stores._sqlite_room import Terms
from avaturn_async.webhooks.stores._sqlite_tables import Tables

_TTL = 10.0

subjects = st.lists(st.sampled_from("abcd"), max_size=3).map(tuple)
arrivals = st.builds(
    Arrival,
    key=st.sampled_from("123456789"),
    body=st.sampled_from([b"", b"{}", b"12345"]),
    session_id=st.sampled_from([None, None, "s", "t"]),
    subjects=subjects,
    binds=subjects,
)


@frozen
class Step:
    """What happens at a time: some seconds pass, perhaps a session is opened, and events arrive."""

    seconds: float
    opens: str | None
    arrivals: Sequence[Arrival]


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from([0.0, 0.5, 6.0, 9.75]),
        st.sampled_from([None, "s", "t"]),
        st.lists(arrivals, max_size=8),
    ),
    max_size=5,
)


def _outcome(path: Path, taken: Sequence[Step], *, most: int, at_once: int) -> list[object]:
    """What is told, and what is in the tables, behind each step."""
    now = 0.0
    found: list[object] = []
    terms = Terms(ttl=_TTL, max_events=most, max_bytes=12, takeover=30.0, clock=lambda: now)
    with closing(open_file(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        tables = Tables(connection, terms)
        for step in taken:
            now += step.seconds
            try:
                with transaction(connection):
                    found.append(_positions(tables, step, at_once))
            except StoreFullError as error:
                found.append(str(error))
            found.append(_alive(connection, tables))
    return found


def _alive(connection: sqlite3.Connection, tables: Tables) -> list[str]:
    """What the tables hold, without what is past its time and was not in anybody's way yet."""
    connection.execute("BEGIN")
    tables.expire(1_000)
    alive = sorted(connection.iterdump())
    connection.execute("ROLLBACK")
    return alive


def _positions(tables: Tables, step: Step, at_once: int) -> list[int]:
    if step.opens is not None:
        tables.save_session(SessionRecord(id=step.opens, user_id="u", context="null"), "ab")
    starts = range(0, len(step.arrivals), at_once)
    return [n for start in starts for n in tables.append(step.arrivals[start : start + at_once])]


def _event(key: str, session_id: str | None, *subjects: str, binds: Sequence[str] = ()) -> Arrival:
    return Arrival(key=key, body=b"{}", session_id=session_id, subjects=subjects, binds=tuple(binds))


def _large(key: str) -> Arrival:
    return Arrival(key=key, body=b"12345")


def _now(*arrivals: Arrival, opens: str | None = None, seconds: float = 0.0) -> Step:
    return Step(seconds, opens, arrivals)


@given(steps, st.integers(1, 6))
@example([_now(_event("1", None, "a"), _event("2", "s", "a", binds="a"), _event("3", None, "a"))], 6)
@example([_now(_event("1", None, "c", "a"), _event("2", "t", "c", binds="c"), opens="s")], 6)
@example([_now(_event("1", None, "a", "b", binds="a"), _event("2", "t", "a", binds="a"), opens="s")], 6)
@example([_now(_event("1", "s")), _now(_event("1", "s"), _event("2", "s"), seconds=12.0)], 1)
@example([_now(*(_event(f"{n}", "s") for n in range(3))), _now(_event("4", "s"), opens="t", seconds=12.0)], 3)
@example([_now(_event("1", "s"), _event("2", "s"), _event("1", "s"))], 1)
@example(
    [_now(_event("1", "s")), _now(_event("2", "s"), seconds=9.75), _now(_event("1", "s"), seconds=0.5)], 6
)
@example([_now(opens="s"), _now(_event("1", "s"), _event("2", None, "a"), seconds=6.0)], 6)
@example(
    [
        _now(_large("1"), _large("2")),
        _now(_large("1"), seconds=9.75),
        _now(_large("3"), _event("1", None), seconds=0.5),
    ],
    6,
)
def test_they_leave_behind_what_one_after_the_other_would(taken: list[Step], most: int) -> None:
    with TemporaryDirectory() as name:
        each = _outcome(Path(name) / "each.db", taken, most=most, at_once=1)
        together = _outcome(Path(name) / "together.db", taken, most=most, at_once=100)
    assert together == each


def _statements(tables: Tables, connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> int:
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    with transaction(connection):
        tables.append(arrivals)
    connection.set_trace_callback(None)
    return len(seen)


@pytest.mark.parametrize(("many", "most"), [(1, 12), (2, 12), (64, 12), (100, 18), (127, 30), (500, 51)])
def test_many_take_a_statement_for_each_of_few_things(tmp_path: Path, many: int, most: int) -> None:
    terms = Terms(ttl=_TTL, max_events=1_000, max_bytes=10_000, takeover=30.0, clock=lambda: 0.0)
    events = [_event(f"{n}", f"s{n}", f"a{n}", binds=[f"a{n}"]) for n in range(many)]
    with closing(open_file(tmp_path / "store.db")) as connection:
        tables = Tables(connection, terms)
        # With the beginning and the end of the transaction, and a look for what is past its time.
        assert _statements(tables, connection, events) <= most


def test_little_is_written_for_events_whose_ids_come_in_no_order(tmp_path: Path) -> None:
    terms = Terms(ttl=_TTL, max_events=10_000, max_bytes=1_000_000, takeover=30.0, clock=lambda: 0.0)
    ids = [uuid5(NAMESPACE_URL, f"{n}").hex for n in range(4_000)]
    events = [_event(i, f"s{i}", f"avatar:{i}", binds=[f"avatar:{i}"]) for i in ids]
    with closing(open_file(tmp_path / "store.db")) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        tables = Tables(connection, terms)
        for start in range(0, len(events), 100):
            with transaction(connection):
                tables.append(events[start : start + 100])
        _, pages, _ = connection.execute("PRAGMA wal_checkpoint").fetchone()
    # With the texts themselves in the indexes it is three times as much.
    assert pages / len(events) < 0.7
