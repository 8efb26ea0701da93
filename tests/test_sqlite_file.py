"""The file of a SQLiteStore goes from version to version, whole or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from avaturn_async.errors import StoreError
from avaturn_async.webhooks.stores import Arrival
from avaturn_async.webhooks.stores._sqlite_file import _MIGRATIONS, _prepare, open_file
from avaturn_async.webhooks.stores.sqlite import SQLiteStore

_OLD = ("CREATE TABLE pets (name TEXT)", "INSERT INTO pets VALUES ('Rex')")
_STEP = ("ALTER TABLE pets ADD COLUMN legs INTEGER", "UPDATE pets SET legs = 4")
_BAD_STEP = ("UPDATE pets SET name = 'gone'", "CREATE TABLE pets (name TEXT)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_an_older_file_is_brought_up_to_date_step_by_step(path: Path) -> None:
    open_file(path, migrations=(_OLD,)).close()
    with closing(open_file(path, migrations=(_OLD, _STEP, ("UPDATE pets SET legs = legs - 1",)))) as file:
        assert file.execute("SELECT * FROM pets").fetchall() == [("Rex", 3)]
        assert file.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    open_file(path, migrations=(_OLD,)).close()
    with pytest.raises(StoreError, match="pets already exists"):
        open_file(path, migrations=(_OLD, _STEP, _BAD_STEP))
    with closing(open_file(path, migrations=(_OLD,))) as file:
        assert file.execute("SELECT * FROM pets").fetchall() == [("Rex",)]


def test_an_older_release_refuses_what_a_newer_one_has_written(path: Path) -> None:
    open_file(path, migrations=(_OLD, _STEP)).close()
    with pytest.raises(StoreError, match=r"newer release.*its version is 2, this release knows 1"):
        open_file(path, migrations=(_OLD,))


async def test_an_older_release_that_still_runs_takes_nothing_more(path: Path) -> None:
    store = SQLiteStore(path)
    await store.start()
    await store.append(Arrival(key="one", body=b"x"))
    open_file(path, migrations=(*_MIGRATIONS, _OLD)).close()
    with pytest.raises(StoreError, match="newer release"):
        await store.append(Arrival(key="two", body=b"x"))
    await store.close()


async def test_what_the_store_kept_is_there_in_the_next_version(path: Path) -> None:
    store = SQLiteStore(path)
    await store.start()
    await store.append(Arrival(key="one", body=b"x"))
    await store.close()
    with closing(open_file(path, migrations=(*_MIGRATIONS, _OLD))) as file:
        assert file.execute("SELECT key FROM events").fetchall() == [("one",)]


def test_a_commit_is_on_the_disk_before_it_is_answered(path: Path) -> None:
    with closing(open_file(path)) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_nothing_is_written_beside_the_file_and_its_log(path: Path) -> None:
    # A statement for many rows keeps what it would need to take itself back.
    with closing(open_file(path)) as file:
        assert file.execute("PRAGMA temp_store").fetchone() == (2,)  # MEMORY


def test_a_place_where_processes_cannot_share_a_file_is_refused(path: Path) -> None:
    # This way of locking has no shared memory, as on some network disks.
    uri = f"file:{path}?vfs=unix-dotfile"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as file,
        pytest.raises(StoreError, match="cannot share a file in this place"),
    ):
        _prepare(file, path, _MIGRATIONS)


async def test_a_file_that_many_open_at_a_time_is_brought_up_to_date_once(path: Path) -> None:
    open_file(path, migrations=(_OLD,)).close()

    def open_and_close() -> None:
        open_file(path, migrations=(_OLD, _STEP, ("INSERT INTO pets VALUES ('Tom', 4)",))).close()

    await asyncio.gather(*(asyncio.to_thread(open_and_close) for _ in range(8)))
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM pets").fetchone() == (2,)
