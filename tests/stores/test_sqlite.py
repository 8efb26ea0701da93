"""SQLiteStore: the contract, and what only a file has."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.store_machine import check_store

from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores import sqlite
from avaturn_async.webhooks.stores.base import EventStore, NewEntry
from avaturn_async.webhooks.stores.sqlite import SQLiteStore


class TestSQLiteStore(EventStoreContract):
    @pytest.fixture(autouse=True)
    def use_file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.db"

    async def make_store(self, *, max_events: int, max_bytes: int) -> SQLiteStore:
        return SQLiteStore(
            self.path, ttl=self.ttl, max_events=max_events, max_bytes=max_bytes, lease=self.lease, clock=self.clock
        )

    async def make_another(self, store: EventStore) -> SQLiteStore:
        del store
        return SQLiteStore(self.path, ttl=self.ttl, lease=self.lease, clock=self.clock)


def test_store_behaves_as_the_model(tmp_path: Path) -> None:
    names = map(str, count())

    def make_contract() -> TestSQLiteStore:
        contract = TestSQLiteStore()
        contract.path = tmp_path / next(names)
        return contract

    check_store(make_contract, examples=40)


async def test_group_vanishes_three_ttls_after_its_last_use(tmp_path: Path) -> None:
    now = 1_000.0
    store = SQLiteStore(tmp_path / "store.db", ttl=100, lease=10, clock=lambda: now)
    await store.start()
    first = await store.append(NewEntry((), b"1", ttl=10_000))
    second = await store.append(NewEntry((), b"2", ttl=10_000))

    async def claim() -> list[tuple[int, int]]:
        return [(each.entry.position, each.attempt) for each in await store.claim("g", limit=5)]

    assert await claim() == [(first, 1), (second, 1)]
    await store.ack("g", [first])
    for attempt in (2, 3, 4, 5):
        now += 150
        assert await claim() == [(second, attempt)]
    now += 301
    assert await store.groups() == []
    third = await store.append(NewEntry((), b"3"))
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        assert connection.execute("SELECT position FROM deliveries").fetchall() == [(second,)]
    assert await claim() == [(first, 1), (second, 1), (third, 1)]
    assert await store.groups() == ["g"]
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (3,)
    await store.close()


async def test_appends_are_synchronized_with_the_disk_and_acknowledgements_of_groups_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    connect = sqlite3.connect

    def connect_and_trace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_and_trace)
    store = SQLiteStore(tmp_path / "store.db")
    await store.start()

    async def get_modes(*calls: Any) -> list[str]:
        statements.clear()
        await asyncio.gather(*calls)
        return [each for each in statements if "synchronous" in each]

    position = await store.append(NewEntry((), b"1"))
    await store.claim("g", limit=1)
    assert await get_modes(store.append(NewEntry((), b"2"))) == ["PRAGMA synchronous = FULL"]
    assert await get_modes(store.ack("g", [position])) == ["PRAGMA synchronous = NORMAL"]
    # The thread takes both at once.
    modes = await get_modes(store.stats(), store.nack("g", [1]), store.append(NewEntry((), b"3")))
    assert modes[-1] == "PRAGMA synchronous = FULL"
    await store.close()


async def test_listener_is_called_with_none_for_more_entries_than_one_notification_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_TOPICS", 3)
    store = SQLiteStore(tmp_path / "store.db")
    await store.start()
    calls: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    store.listen(calls.put_nowait)
    await asyncio.gather(*(store.append(NewEntry((str(n),), b"")) for n in range(3)))
    named: set[str] = set()
    while len(named) < 3:
        named.update(await calls.get() or ())
    # All of one transaction: the thread is busy with the first call when the others arrive.
    await asyncio.gather(*(store.append(NewEntry((str(n),), b"")) for n in range(50)))
    assert None in [await calls.get() for _ in range(calls.qsize())]
    await store.close()


async def test_call_that_fails_halfway_changes_nothing_and_the_others_of_its_transaction_go_on(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    await store.start()
    wrong: Any = NewEntry(("t",), b"wrong", key="k", unique_for="1")  # type: ignore[arg-type]
    entries = [NewEntry(("t",), b"1"), wrong, NewEntry(("t",), b"2")]
    results = await asyncio.gather(*map(store.append, entries), return_exceptions=True)
    assert [type(result) for result in results] == [int, TypeError, int]
    assert [entry.body for entry in await store.read({"t": 0})] == [b"1", b"2"]
    assert not await store.contains("k")
    assert (await store.stats())["events"] == 2
    await store.close()


async def test_appends_delete_expired_entries_by_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PURGE_INTERVAL", 0)
    now = 1_000.0
    store = SQLiteStore(tmp_path / "store.db", ttl=100, clock=lambda: now)
    await store.start()
    await asyncio.gather(*(store.append(NewEntry(("t",), b"", key=str(n))) for n in range(5)))
    now += 101
    last = await store.append(NewEntry(("t",), b""))
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        for table, rows in (("entries", [(last,)]), ("topics", [(last,)])):
            assert connection.execute(f"SELECT position FROM {table}").fetchall() == rows  # noqa: S608 - constants
        assert connection.execute("SELECT count(*) FROM keys").fetchone() == (0,)
    await store.close()
