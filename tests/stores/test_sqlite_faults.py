"""SQLiteStore when processes fork, files vanish, the disk is full, or the file cannot be used."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.in_time import in_time

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores import sqlite
from avaturn_async.webhooks.stores.base import NewEntry
from avaturn_async.webhooks.stores.sqlite import SQLiteStore

APPLICATION_ID = 0x41567472
FORKING_PROGRAM = Path(__file__).parents[1] / "support" / "forking.py"
NOBODY = 65534
# A program that opens the file and closes it, which moves the log into the file and removes the log.
# It opens the file when a line comes, so that the time between a copy and the close is short.
OPEN_AND_CLOSE = "import sqlite3, sys; print(flush=True); input(); c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM totals'); c.close()"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Return a folder that other users can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def event(body: bytes = b"{}", **options: Any) -> NewEntry:
    return NewEntry(topics=("t",), body=body, **options)


@asynccontextmanager
async def started(store: SQLiteStore) -> AsyncIterator[SQLiteStore]:
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def stored_bodies(path: Path) -> list[str]:
    async with started(SQLiteStore(path)) as store:
        return [entry.body.decode() for entry in await store.read({"t": 0}, limit=10_000)]


async def run_python(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@contextmanager
def without_rights() -> Iterator[None]:
    """Act as a user whom file modes bind, in all threads."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


# Forks.


async def test_store_of_another_process_refuses_calls_and_a_second_store_on_its_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(SQLiteStore(path)) as store:
        pid = os.getpid()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid + 1)  # as in a child that was forked
            with pytest.raises(StoreError, match="the store was started before a fork"):
                await store.append(event())
            with pytest.raises(StoreError, match="was open when this process was forked"):
                await SQLiteStore(path).start()
        assert await store.append(event()) > 0


@pytest.mark.parametrize(
    ("scenario", "refused"),
    [
        ("same store", ["start refused", "append refused"]),
        ("same store, in the running loop", ["start refused", "append refused"]),
        ("new store", ["start refused", "append refused"]),
        ("new store, the parent closes first", ["start refused", "append refused"]),
        ("forked before the start", []),
        ("forked after the close", []),
    ],
)
async def test_store_after_fork_loses_nothing_acknowledged(path: Path, scenario: str, refused: list[str]) -> None:
    output = await run_python(str(FORKING_PROGRAM), str(path), scenario)
    lines = [json.loads(line) for line in output.splitlines()]
    acknowledged = [body for _, what, body in lines if what == "acknowledged"]
    assert sorted(await stored_bodies(path)) == sorted(acknowledged)
    assert [what for side, what, _ in lines if side == "child" and what != "acknowledged"] == refused
    assert sum(body.startswith("child") for body in acknowledged) == (0 if refused else 5)
    assert sum(body.startswith("parent") for body in acknowledged) == (10 if "running" in scenario else 5)
    if refused:
        assert "start the store after the fork" in next(text for _, what, text in lines if what == "start refused")


# Files that vanish.


@pytest.mark.parametrize("change", ["removed", "replaced", "file removed", "file replaced"])
async def test_append_after_file_or_log_vanished_raises(path: Path, change: str) -> None:
    async with started(SQLiteStore(path)) as store:
        await store.append(event())
        target = path if "file" in change else Path(f"{path}-wal")
        if "replaced" in change:
            copy = path.with_name("copy")
            copy.write_bytes(target.read_bytes())
            copy.rename(target)
        else:
            target.unlink()
        for call in (store.append(event()), store.read({"t": 0}), store.stats()):
            with pytest.raises(StoreError, match="removed or replaced: stop all processes that use it"):
                await call


async def test_append_whose_log_vanishes_within_its_transaction_raises(path: Path) -> None:
    vanishing = False

    def clock() -> float:
        if vanishing:
            Path(f"{path}-wal").unlink(missing_ok=True)
        return time.time()

    async with started(SQLiteStore(path, clock=clock)) as store:
        await store.append(event(b"first"))
        vanishing = True
        with pytest.raises(StoreError, match="removed or replaced"):
            await store.append(event(b"second"))


async def test_append_whose_log_vanished_at_the_commit_raises(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, armed = Path(f"{path}-wal"), list[bool]()

    def trace(statement: str) -> None:
        if armed and statement == "COMMIT":
            armed.clear()
            log.unlink()

    connect = sqlite3.connect

    def connect_and_trace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(trace)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_and_trace)
    async with started(SQLiteStore(path)) as store:
        await store.append(event())
        await store.stats()
        armed.append(True)
        appending = store.append(event())
        with pytest.raises(StoreError, match="removed or replaced"):
            await appending


async def test_store_whose_log_was_removed_works_after_close_and_start(path: Path) -> None:
    store = SQLiteStore(path)
    async with started(store):
        await store.append(event(b"first"))
    async with started(store):
        Path(f"{path}-wal").unlink()
        with pytest.raises(StoreError):
            await store.append(event(b"lost"))
    async with started(store):
        await store.append(event(b"second"))
    assert await stored_bodies(path) == ["first", "second"]


async def test_store_whose_locks_were_dropped_loses_nothing_acknowledged(path: Path) -> None:
    """A copy by the process itself drops its locks; another program then removes the log that is in use."""
    acknowledged: list[str] = []
    is_removed = False
    store = SQLiteStore(path)
    async with started(store):
        for number in range(10):
            body = str(number)
            if number == 5:
                for _ in range(20):
                    process = await asyncio.create_subprocess_exec(
                        sys.executable, "-c", OPEN_AND_CLOSE, str(path), stdin=PIPE, stdout=PIPE
                    )
                    assert process.stdout is not None
                    await process.stdout.readline()
                    shutil.copy(path, path.with_name("copy"))
                    await process.communicate(b"\n")
                    is_removed = not Path(f"{path}-wal").exists()
                    if is_removed:
                        break  # On a busy machine the store can take its locks again before the program ends.
            try:
                await store.append(event(body.encode()))
            except StoreError:
                continue
            acknowledged.append(body)
    # The SQLite of Python 3.15 in Debian keeps its locks, so that the log stays.
    assert acknowledged == [str(number) for number in range(5 if is_removed else 10)]
    assert await stored_bodies(path) == acknowledged


# Paths and files that cannot be used.


@pytest.mark.parametrize("name", ["file/below.db", "folder", "missing/events.db"])
async def test_start_on_path_that_cannot_be_opened_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    store = SQLiteStore(tmp_path / name)
    async with in_time():
        with pytest.raises(StoreError, match="cannot be"):
            await store.start()
        with pytest.raises(StoreError, match=r"call start\(\) first"):
            await store.append(event())
        await store.close()


@pytest.mark.parametrize("exists", [True, False])
async def test_store_on_symlink_uses_its_target(tmp_path: Path, path: Path, exists: bool) -> None:  # noqa: FBT001
    folder = tmp_path / "data"
    folder.mkdir()
    if exists:
        async with started(SQLiteStore(folder / "target.db")) as store:
            await store.append(event(b"first"))
    path.symlink_to(folder / "target.db")
    async with started(SQLiteStore(path)) as store:
        await store.append(event(b"second"))
        path.unlink()
        path.touch()
        with pytest.raises(StoreError, match="removed or replaced"):
            await store.append(event(b"third"))
    assert await stored_bodies(folder / "target.db") == (["first"] if exists else []) + ["second"]


async def test_store_whose_start_failed_starts_in_another_loop_after_close(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    store = SQLiteStore(folder / "events.db")
    with pytest.raises(StoreError, match="cannot be opened"):
        await store.start()
    await store.close()
    folder.mkdir()

    async def use() -> int:
        async with started(store):
            return await store.append(event())

    # In a thread, since this loop goes on.
    assert await asyncio.to_thread(asyncio.run, use()) > 0


async def test_start_in_folder_of_another_user_raises(public_folder: Path) -> None:
    folder = public_folder / "private"
    folder.mkdir()
    folder.chmod(0)
    store = SQLiteStore(folder / "events.db")
    with without_rights():
        async with in_time():
            with pytest.raises(StoreError, match="cannot be opened: Permission denied"):
                await store.start()
    folder.chmod(0o700)
    async with started(store):
        assert await store.append(event()) > 0


async def test_start_on_read_only_file_raises_and_leaves_it(public_folder: Path) -> None:
    path = public_folder / "events.db"
    async with started(SQLiteStore(path)) as store:
        await store.append(event(b"kept"))
    path.chmod(0o444)
    public_folder.chmod(0o555)
    with without_rights():
        async with in_time():
            with pytest.raises(StoreError, match="cannot be used"):
                async with started(SQLiteStore(path)) as store:
                    await store.append(event())
    public_folder.chmod(0o755)
    path.chmod(0o600)
    assert await stored_bodies(path) == ["kept"]


@pytest.mark.parametrize(
    ("statements", "remedy"),
    [
        ("CREATE TABLE users (id)", "database of another program: give the store a file of its own"),
        ("PRAGMA user_version = 2", "database of another program: give the store a file of its own"),
        ("PRAGMA application_id = 1", "database of another program: give the store a file of its own"),
        (f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 2", "remove it, or give the store another"),
        (f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 4", "newer release.*update this process"),
        (None, "not an SQLite database: give the store a file of its own"),
    ],
)
async def test_start_on_foreign_file_names_remedy_and_leaves_it(
    path: Path, statements: str | None, remedy: str
) -> None:
    if statements is None:
        path.write_bytes(b"Dear diary, " * 100)
    else:
        connection = sqlite3.connect(path)
        connection.executescript(statements)
        connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=remedy):
        await SQLiteStore(path).start()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_file_that_becomes_newer_while_in_use_is_not_written(path: Path) -> None:
    async with started(SQLiteStore(path)) as store:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 4")
        connection.close()
        with pytest.raises(StoreError, match="newer release"):
            await store.append(event())


async def test_file_and_its_log_are_created_for_owner_only(path: Path) -> None:
    umask = os.umask(0)
    try:
        async with started(SQLiteStore(path)) as store:
            await store.append(event())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(["events.db", "events.db-wal", "events.db-shm"], 0o600)


# Locks, and full disks.


async def test_calls_on_locked_file_raise_in_time_and_work_again_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_BATCH", 100)
    async with started(SQLiteStore(path)) as store:
        await store.append(event(b"before"))
        with locked(path):
            async with in_time():
                # More than one batch: those that queue behind the first one have waited as long.
                calls = [store.append(event()) for _ in range(700)]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StoreError] * len(calls)
            assert {str(outcome) for outcome in outcomes} == {f"{path} was locked by another process for 1.5 s"}
            assert len({id(outcome) for outcome in outcomes}) == len(calls)
            assert (await store.stats())["events"] == 1
        assert await store.append(event(b"after")) > 0
    assert await stored_bodies(path) == ["before", "after"]


async def test_group_whose_first_claim_fails_receives_what_is_appended_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.1)
    async with started(SQLiteStore(path)) as store:
        with locked(path), pytest.raises(StoreError, match="was locked by another process"):
            await store.claim("g", limit=1)
        position = await store.append(event())
        assert [each.entry.position for each in await store.claim("g", limit=1)] == [position]


async def test_append_waits_for_a_lock_that_is_released(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    def get_pause(low: float, _: float) -> float:
        waits.set()
        return low

    monkeypatch.setattr("random.uniform", get_pause)
    async with started(SQLiteStore(path)) as store:
        with locked(path):
            appending = asyncio.create_task(store.append(event()))
            assert await asyncio.to_thread(waits.wait, 5)
        assert await appending > 0


async def test_listeners_are_called_later_if_the_look_after_a_commit_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails: list[bool] = []

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if fails and "sqlite_sequence" in sql:
                fails.clear()
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **options: connect(*a, factory=Connection, **options))
    async with started(SQLiteStore(path)) as store, asyncio.timeout(20):
        calls: asyncio.Queue[object] = asyncio.Queue()
        store.listen(calls.put_nowait)
        fails.append(True)
        assert await store.append(event()) > 0
        assert await calls.get() == {"t"}
        assert not fails


async def test_start_on_locked_file_raises_and_works_again_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.1)
    store = SQLiteStore(path)
    with locked(path), pytest.raises(StoreError, match="was locked by another process"):
        await store.start()
    async with started(store):
        assert await store.append(event()) > 0


async def test_start_on_disk_that_hangs_raises_in_time_and_works_again_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_works = threading.Event()
    connect = sqlite3.connect

    def connect_late(*arguments: Any, **options: Any) -> sqlite3.Connection:
        disk_works.wait(30)
        connection: sqlite3.Connection = connect(*arguments, **options)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_late)
    store = SQLiteStore(path)
    try:
        async with in_time():
            outcomes = await asyncio.gather(store.start(), store.start(), return_exceptions=True)
        assert {str(outcome) for outcome in outcomes} == {f"{path}: no response of the disk within 2.2 s"}
        with pytest.raises(StoreError, match=r"call start\(\) first"):
            await store.append(event())
    finally:
        disk_works.set()
    async with started(store):
        assert await store.append(event()) > 0


async def test_append_on_disk_that_hangs_raises_in_time_and_works_again_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_works = threading.Event()
    disk_works.set()

    def clock() -> float:
        disk_works.wait(30)
        return 1000.0

    async with started(SQLiteStore(path, clock=clock)) as store:
        disk_works.clear()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(sqlite, "DEADLINE", 0.05)
                with pytest.raises(StoreError, match=r"events.db: no response of the disk within 0.05 s"):
                    await store.append(event(key="k"))
        finally:
            disk_works.set()
        # It was appended late.
        assert await store.append(event(key="k")) == 0


async def test_close_on_disk_that_hangs_ends_in_time_and_store_works_again_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_works = threading.Event()
    disk_works.set()

    def clock() -> float:
        if threading.current_thread().name == "SQLiteStore":
            disk_works.wait(30)
        return 1000.0

    store = SQLiteStore(path, clock=clock)
    await store.start()
    disk_works.clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "DEADLINE", 0.05)
            claiming = asyncio.create_task(store.claim("g", limit=1))
            appending = asyncio.create_task(store.append(event(key="k")))
            await asyncio.sleep(0)
            claiming.cancel()
            async with in_time():
                await store.close()
            with pytest.raises(StoreError, match="no response of the disk"):
                await appending
    finally:
        disk_works.set()
    async with started(store):
        # It was appended late.
        assert await store.append(event(key="k")) == 0


async def test_start_in_place_where_files_cannot_be_shared_raises(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *arguments)

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **options: connect(*a, factory=Connection, **options))
        with pytest.raises(StoreError, match=r"cannot share a file in this place \(journal mode delete, not wal\)"):
            await SQLiteStore(path).start()
    async with started(SQLiteStore(path)) as store:
        assert await store.append(event()) > 0


async def test_start_while_another_process_creates_the_tables_uses_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[Path] = []
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql == "BEGIN IMMEDIATE" and not created:
                created.append(path)
                with closing(connect(path, isolation_level=None)) as other:
                    for statement in sqlite._TABLES:
                        other.execute(statement)
            return super().execute(sql, *arguments)

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **options: connect(*a, factory=Connection, **options))
    async with started(SQLiteStore(path)) as store:
        assert created == [path]
        assert await store.append(event()) == 1


async def test_claim_that_fails_after_its_cancellation_logs_no_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(SQLiteStore(path)) as store:
        await store.append(event())
        path.unlink()  # all calls fail now
        claiming = asyncio.create_task(store.claim("g", limit=1))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
    assert "Exception in callback" not in caplog.text


async def test_start_that_is_cancelled_leaves_store_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.1)
    store = SQLiteStore(path)
    with locked(path):
        starting = asyncio.create_task(store.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    with pytest.raises(StoreError, match=r"call start\(\) first"):
        await store.append(event())
    async with started(store):
        assert await store.append(event()) > 0


async def test_append_on_full_disk_raises_store_full_and_keeps_what_was_acknowledged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(SQLiteStore(path)) as store:
        await store.append(event(b"0"))
    connect = sqlite3.connect

    def connect_to_small_disk(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 60")
        return connection

    acknowledged = ["0"]
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_to_small_disk)
        async with started(SQLiteStore(path)) as store:
            for number in range(1, 100):
                body = str(number) * 4000
                try:
                    await store.append(event(body.encode(), key=str(number)))
                except StoreFullError as error:
                    assert str(path) in str(error)  # noqa: PT017 - the loop ends with it
                    break
                acknowledged.append(body)
            assert 1 < len(acknowledged) < 100
            assert not await store.contains(str(number))
            assert len(await store.read({"t": 0})) == len(acknowledged)
    assert await stored_bodies(path) == acknowledged
    async with started(SQLiteStore(path)) as store:
        assert await store.append(event(key=str(number))) > 0


# Exceptions in the thread, and event loops.


class FailingClock:
    """A clock that raises ``error``, if there is one, in the thread of the store."""

    error: BaseException | None = None

    def __call__(self) -> float:
        if self.error is not None:
            raise self.error
        return 1000.0


async def test_exception_in_thread_is_raised_by_call_and_store_goes_on(path: Path) -> None:
    clock = FailingClock()
    async with in_time():
        store = SQLiteStore(path, clock=clock)
        async with started(store):
            await store.append(event())
            clock.error = LookupError("no time")
            with pytest.raises(LookupError, match="no time"):
                await store.append(event())
            clock.error = None
            assert await store.append(event()) > 0


@pytest.mark.parametrize("calls", [1, 3])
async def test_thread_that_ends_answers_all_callers(path: Path, calls: int) -> None:
    clock = FailingClock()
    async with in_time():
        store = SQLiteStore(path, clock=clock)
        async with started(store):
            clock.error = SystemExit(3)
            outcomes = await asyncio.gather(*(store.append(event()) for _ in range(calls)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StoreError] * calls
            with pytest.raises(StoreError, match="has ended"):
                await store.append(event())
        clock.error = None
        async with started(store):
            assert await store.append(event()) > 0


def test_store_whose_loop_ended_without_close_starts_anew(path: Path) -> None:
    store = SQLiteStore(path)

    async def start_and_append(body: bytes) -> int:
        await store.start()
        return await store.append(event(body))

    async def append_without_start() -> None:
        with pytest.raises(StoreError, match=r"call start\(\) first"):
            await store.append(event())

    first = asyncio.run(start_and_append(b"first"))
    asyncio.run(append_without_start())
    assert asyncio.run(start_and_append(b"second")) > first
    asyncio.run(store.close())
    assert asyncio.run(stored_bodies(path)) == ["first", "second"]


def test_store_has_one_thread_however_often_it_starts(path: Path) -> None:
    store = SQLiteStore(path)

    def get_threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "SQLiteStore"}

    before = get_threads()

    async def start() -> None:
        await asyncio.gather(store.start(), store.start())
        await store.start()
        assert await store.append(event())

    asyncio.run(start())
    (first,) = get_threads() - before
    # That loop ended without close(); its thread ends when the store is used in the next one.
    asyncio.run(start())
    first.join(10)
    (second,) = get_threads() - before
    asyncio.run(start())
    second.join(10)
    assert not first.is_alive()
    assert not second.is_alive()
    assert len(get_threads() - before) == 1


@pytest.mark.parametrize(
    "call",
    [SQLiteStore.start, SQLiteStore.close, lambda store: store.append(event())],
    ids=["start", "close", "append"],
)
async def test_use_from_second_running_loop_raises(path: Path, call: Callable[[SQLiteStore], Any]) -> None:
    async with started(SQLiteStore(path)) as store:

        async def use() -> None:
            with pytest.raises(StoreError, match="in use in another running event loop: give each loop a store"):
                await call(store)

        await asyncio.to_thread(asyncio.run, use())
        assert await store.append(event()) > 0


# Options.


def test_defaults_are_three_days_and_bounds(path: Path) -> None:
    store = SQLiteStore(path)
    assert (store.ttl_seconds, store.lease_seconds) == (259_200.0, 30.0)
    assert repr(store) == f"SQLiteStore({str(path)!r})"


@pytest.mark.parametrize("option", ["ttl", "max_events", "max_bytes", "lease"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "5"])
def test_number_that_is_not_above_zero_is_refused(path: Path, option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"{option} must be a number above zero"):
        SQLiteStore(path, **options)


async def test_bound_that_is_larger_than_an_integer_of_sqlite_is_none(path: Path) -> None:
    async with started(SQLiteStore(path, max_events=2**64, max_bytes=10**300)) as store:
        assert await store.append(event()) > 0


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_path_that_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must name a file"):
        SQLiteStore(name)


def test_path_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="path must be the path of a file, not a URL"):
        SQLiteStore("sqlite:///events.db")
    nothing: Any = None
    with pytest.raises(TypeError, match="path must be the path of a file, not NoneType"):
        SQLiteStore(nothing)


async def test_relative_path_is_the_same_file_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("events.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with started(store):
        await store.append(event())
    assert (tmp_path / "events.db").exists()


# What a fleet of processes costs.


async def test_claim_in_vain_writes_nothing(path: Path) -> None:
    """Each process claims after each notification, mostly in vain; a commit of each would wake all others again."""
    async with started(SQLiteStore(path)) as store, started(SQLiteStore(path)) as other:
        await store.append(event())
        assert len(await store.claim("group", limit=10)) == 1
        with closing(sqlite3.connect(path)) as watcher:
            before = watcher.execute("PRAGMA data_version").fetchone()
            for _ in range(20):
                assert await other.claim("group", limit=10) == []
            assert watcher.execute("PRAGMA data_version").fetchone() == before
            await store.ack("group", (1,))
            assert watcher.execute("PRAGMA data_version").fetchone() != before


async def test_append_that_is_refused_or_a_duplicate_writes_nothing(path: Path) -> None:
    async with started(SQLiteStore(path, max_events=1)) as store:
        await store.append(event(key="k"))
        with closing(sqlite3.connect(path)) as watcher:
            before = watcher.execute("PRAGMA data_version").fetchone()
            assert await store.append(event(key="k")) == 0
            with pytest.raises(StoreFullError):
                await store.append(event(key="new"))
            assert watcher.execute("PRAGMA data_version").fetchone() == before


async def test_entries_of_another_process_are_told_in_few_notifications(path: Path) -> None:
    async with started(SQLiteStore(path)) as store, started(SQLiteStore(path)) as other:
        told: list[Iterable[str] | None] = []
        complete = asyncio.Event()

        def listener(topics: Iterable[str] | None) -> None:
            told.append(topics)
            if topics is None or "t199" in topics:
                complete.set()

        stop = other.listen(listener)
        await asyncio.gather(*(store.append(NewEntry(topics=(f"t{n}",), body=b"{}")) for n in range(200)))
        await asyncio.wait_for(complete.wait(), 20)
        stop()
        assert len(told) < 20
