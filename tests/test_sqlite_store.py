"""SQLiteStore keeps the contract of all stores, in a file that processes share."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_process import StoreProcess

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores import Arrival, EventStore, SessionRecord, StoredEvent
from avaturn_async.webhooks.stores._sqlite_engine import Desk, Engine
from avaturn_async.webhooks.stores._sqlite_run import mark_of
from avaturn_async.webhooks.stores.memory import MemoryStore
from avaturn_async.webhooks.stores.sqlite import SQLiteStore

_AVATAR = "avatar:a"


class TestSQLiteStore(EventStoreContract):
    @pytest.fixture(autouse=True)
    def _own_file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.db"

    async def make_store(self, *, max_events: int, max_bytes: int) -> SQLiteStore:
        return SQLiteStore(
            self.path,
            ttl=self.ttl,
            max_events=max_events,
            max_bytes=max_bytes,
            takeover=self.takeover,
            clock=self.clock,
        )

    async def make_another(self, store: EventStore) -> SQLiteStore:
        del store
        return SQLiteStore(self.path, ttl=self.ttl, takeover=self.takeover, clock=self.clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@asynccontextmanager
async def opened(
    path: Path, *, look_every: float = 3600.0, **options: Any
) -> AsyncGenerator[SQLiteStore, None]:
    """A store that is started; it looks for what others appended only when it is told."""
    store = SQLiteStore(path, **options)
    store._look_every = look_every
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def engine_of(store: SQLiteStore) -> Engine:
    assert store._engine is not None
    return store._engine


def arrival(key: str, body: bytes = b"x", **options: Any) -> Arrival:
    return Arrival(key=key, body=body, subjects=(_AVATAR,), **options)


class Pause:
    """Holds up the thread that writes, so that what is asked meanwhile comes to it at a time."""

    def __init__(self, store: SQLiteStore) -> None:
        self._go_on = threading.Event()
        self._store = store

    async def __aenter__(self) -> None:
        loop, here = asyncio.get_running_loop(), asyncio.Event()

        def wait(_: Desk) -> None:
            loop.call_soon_threadsafe(here.set)
            self._go_on.wait()

        self._done = engine_of(self._store).write(wait)
        await here.wait()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # whoever was begun gets to ask
        self._go_on.set()
        await self._done


def _files(path: Path) -> list[Path]:
    return sorted(path.parent.iterdir())


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _size(path: Path) -> int:
    return path.stat().st_size


def _touch(path: Path, mode: int = 0o600) -> None:
    path.touch()
    path.chmod(mode)


def _remove(path: Path) -> None:
    path.unlink()


# What it is made of


@pytest.mark.parametrize("option", ["ttl", "max_events", "max_bytes", "takeover"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_bound_that_makes_no_sense_is_refused(option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match="must be above zero"):
        SQLiteStore("store.db", **options)


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must name a file"):
        SQLiteStore(path)


async def test_a_path_means_the_same_file_wherever_the_process_goes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    store = SQLiteStore(path.name)
    monkeypatch.chdir("/")
    await store.start()
    await store.close()
    assert _files(path) == [path]
    assert repr(store) == f"SQLiteStore({str(path)!r})"


async def test_it_must_be_started_first(path: Path) -> None:
    with pytest.raises(StoreError, match="not started"):
        await SQLiteStore(path).append(arrival("one"))


# The file


async def test_only_the_owner_may_read_what_is_kept(path: Path) -> None:
    async with opened(path) as store:
        await store.append(arrival("one"))
        assert {_mode(file) for file in _files(path)} == {0o600}


async def test_the_rights_of_a_file_that_is_there_are_left_alone(path: Path) -> None:
    _touch(path, 0o660)
    async with opened(path):
        assert _mode(path) == 0o660


async def test_a_file_that_stays_locked_while_it_is_made_is_an_error_in_time(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with pytest.raises(StoreError, match=r"locked by another process for 1\.5 s"):
            await SQLiteStore(path).start()
        assert time.monotonic() - begun < 2.5


def _text(path: Path) -> None:
    path.write_text("Dear diary, today I was mistaken for a database. " * 100)


def _other_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (id)")


def _other_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 1")


def _other_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")


def _newer(path: Path) -> None:
    asyncio.run(_start_and_close(SQLiteStore(path)))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
        connection.execute("PRAGMA journal_mode = DELETE")


async def _start_and_close(store: SQLiteStore) -> None:
    await store.start()
    await store.close()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_text, "is no SQLite database: give the store a file of its own"),
        (_other_tables, "is a database of something else: give the store a file of its own"),
        (_other_application, "is a database of something else"),
        (_other_version, "is a database of something else"),
        (
            _newer,
            r"written by a newer release of avaturn_async \(its version is 1000, this release knows 1\)",
        ),
    ],
)
def test_a_file_that_is_not_its_own_is_refused_and_left_alone(
    path: Path, make: Callable[[Path], None], problem: str
) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=problem):
        asyncio.run(_start_and_close(SQLiteStore(path)))
    assert path.read_bytes() == before
    assert _files(path) == [path]


@pytest.mark.parametrize("place", [".", "nowhere/store.db"])
async def test_a_place_where_no_file_can_be_is_refused(path: Path, place: str) -> None:
    store = SQLiteStore(path.parent / place)
    with pytest.raises(StoreError, match="unable to open"):
        await store.start()
    await store.close()


async def test_an_empty_file_is_taken(path: Path) -> None:
    _touch(path)
    async with opened(path) as store:
        assert await store.append(arrival("one")) == 1


async def test_many_may_make_the_file_at_a_time(path: Path) -> None:
    stores = [SQLiteStore(path) for _ in range(8)]
    await asyncio.gather(*(store.start() for store in stores))
    positions = await asyncio.gather(*(store.append(arrival(f"{n}")) for n, store in enumerate(stores)))
    await asyncio.gather(*(store.close() for store in stores))
    assert sorted(positions) == list(range(1, 9))


async def test_a_file_that_was_removed_or_replaced_takes_nothing_more(path: Path) -> None:
    async with opened(path) as store:
        await store.append(arrival("one"))
        _remove(path)
        with pytest.raises(StoreError, match="was removed or replaced"):
            await store.append(arrival("two"))
        with pytest.raises(StoreError, match="was removed or replaced"):
            await store.read(_AVATAR)
        engine_of(store).look()  # finds nothing, and says nothing
        _touch(path)
        with pytest.raises(StoreError, match="was removed or replaced"):
            await store.append(arrival("two"))
        with pytest.raises(StoreError, match="was removed or replaced"):
            await store.read(_AVATAR)


async def test_a_file_that_is_removed_while_it_is_written_to_takes_nothing(path: Path) -> None:
    async with opened(path) as store:
        async with Pause(store):
            before = asyncio.ensure_future(store.append(arrival("before")))
            await asyncio.sleep(0)
            removed = engine_of(store).write(lambda _: _remove(path))
            after = asyncio.ensure_future(store.append(arrival("after")))
        for asked in (before, removed, after):
            with pytest.raises(StoreError, match="was removed or replaced"):
                await asked


async def test_a_text_that_is_no_unicode_is_refused_and_not_repeated(path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(StoreError, match="lone surrogates") as caught:
            await store.append(arrival("secret \ud800"))
        assert "secret" not in str(caught.value)


async def test_a_mistake_of_the_caller_is_told_as_it_is(path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(OverflowError):
            await store.read(_AVATAR, after=2**70)


async def test_space_is_used_again(path: Path) -> None:
    now = 0.0
    sizes: list[int] = []
    async with opened(path, ttl=10.0, clock=lambda: now) as store:
        for _ in range(6):
            await asyncio.gather(*(store.append(arrival(f"{n}", b"x" * 5_000)) for n in range(100)))
            await store.close()
            await store.start()
            sizes.append(_size(path))
            now += 11.0
    assert max(sizes) <= sizes[0] * 1.2


# The rules, with those of MemoryStore as the measure

# The first two of each have the same mark.
_SESSION_NAMES = ["plumless", "buckeroo", "s3"]
_SUBJECT_NAMES = ["avatar:plumless", "avatar:buckeroo", "render:1"]
_KEYS = ["plumless", "buckeroo", *(f"{n}" for n in range(2, 13))]
_SESSIONS = st.sampled_from(_SESSION_NAMES)
_SUBJECTS = st.sampled_from(_SUBJECT_NAMES)
_GROUPS = st.sampled_from(["g", "h"])
_NUMBERS = st.lists(st.integers(0, 6), max_size=3, unique=True)
_ACTS = st.one_of(
    st.tuples(
        st.just("append"),
        st.builds(
            lambda n, session, subjects, bound: Arrival(
                key=_KEYS[n],
                body=b"x" * n,
                session_id=session,
                subjects=tuple(subjects),
                binds=tuple(subjects[:bound]),
            ),
            st.integers(0, 12),
            st.none() | _SESSIONS,
            st.lists(_SUBJECTS, max_size=3, unique=True),
            st.integers(0, 3),
        ),
    ),
    st.tuples(st.just("bind"), _SUBJECTS, _SESSIONS),
    st.tuples(st.just("save"), _SESSIONS, st.lists(_SUBJECTS, max_size=2)),
    # All at once: which come first of those that are late is not promised.
    st.tuples(st.just("claim"), _GROUPS, st.just(100)),
    st.tuples(st.sampled_from(["hold", "finish", "release"]), _GROUPS, _NUMBERS),
    st.tuples(st.just("expire"), st.integers(0, 3)),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 4.0, 11.0])),
)


class _Played:
    """A store, and what of it can be compared: its n-th event is called n, whatever its position."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self._positions: list[int] = []

    async def do(self, name: str, *args: Any) -> Any:
        store = self.store
        if name == "append":
            return await self._append(args[0])
        if name == "save":
            record = SessionRecord(id=args[0], user_id="u", context="null")
            return await store.save_session(record, binds=args[1])
        if name == "claim":
            return sorted(self._called(event) for event in await store.claim(args[0], limit=args[1]))
        if name == "expire":
            return await store.expire(limit=args[0])
        if name == "bind":
            return await store.bind(*args)
        group, numbers = args
        known = [self._positions[n] for n in numbers if n < len(self._positions)]
        return await getattr(store, name)(group, known)

    async def _append(self, arrival: Arrival) -> bool | None:
        try:
            position = await self.store.append(arrival)
        except StoreFullError:
            return None
        if position:
            self._positions.append(position)
        return position > 0

    async def state(self) -> Any:
        store = self.store
        topics = [*_SUBJECT_NAMES, *(f"session:{session}" for session in _SESSION_NAMES)]
        # Which of what is over is dropped first is nobody's concern.
        while await store.expire(limit=3):
            pass
        return (
            {topic: [self._called(event) for event in await store.read(topic)] for topic in topics},
            [await store.bound(subject) for subject in _SUBJECT_NAMES],
            [await store.load_session(session) for session in _SESSION_NAMES],
            [await store.seen(key) for key in _KEYS],
            await store.sizes(),
        )

    def _called(self, event: StoredEvent) -> tuple[int, str | None]:
        return self._positions.index(event.position), event.session_id


async def _play(path: Path, acts: list[tuple[Any, ...]]) -> None:
    now = 0.0
    options: dict[str, Any] = {
        "ttl": 10.0,
        "takeover": 3.0,
        "max_events": 6,
        "max_bytes": 40,
        "clock": lambda: now,
    }
    async with opened(path, **options) as store:
        ours, theirs = _Played(store), _Played(MemoryStore(**options))
        for group in ("g", "h"):
            await ours.store.join(group)
            await theirs.store.join(group)
        for name, *args in acts:
            if name == "pass":
                now += args[0]
            else:
                assert await ours.do(name, *args) == await theirs.do(name, *args)
        assert await ours.state() == await theirs.state()


@settings(max_examples=40, deadline=None)
@given(acts=st.lists(_ACTS, max_size=25))
def test_it_does_what_a_store_in_memory_does(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[Any, ...]]
) -> None:
    asyncio.run(_play(tmp_path_factory.mktemp("played") / "store.db", acts))


@pytest.mark.parametrize(("one", "other"), [("plumless", "buckeroo"), ("buckeroo", "plumless")])
async def test_texts_with_the_same_mark_are_told_apart(path: Path, one: str, other: str) -> None:
    assert mark_of(one) == mark_of(other)
    assert mark_of(f"session:{one}") == mark_of(f"session:{other}")
    async with opened(path) as store:
        assert await store.append(Arrival(key=one, body=b"1", subjects=(one,))) == 1
        assert (await store.seen(one), await store.seen(other)) == (True, False)
        assert await store.append(Arrival(key=other, body=b"2", subjects=(other,))) == 2
        # Of the two that wait, each waits for its own.
        await store.bind(other, "s")
        assert (await store.bound(one), await store.bound(other)) == (None, "s")
        assert [event.body for event in await store.read("session:s")] == [b"2"]
        await store.bind(one, one)
        await store.bind(one, other)
        assert (await store.bound(one), await store.bound(other)) == (other, "s")
        assert [event.body for event in await store.read(f"session:{one}")] == [b"1"]
        assert await store.read(f"session:{other}") == ()
        assert [event.body for event in await store.read(one)] == [b"1"]
        # And so it is for one that leads others at once.
        await store.append(Arrival(key="3", body=b"3", session_id="t", subjects=(one,), binds=(one,)))
        assert (await store.bound(one), await store.bound(other)) == ("t", "s")


async def test_expiry_never_takes_more_than_was_asked_for(path: Path) -> None:
    now = 0.0
    async with opened(path, ttl=10.0, clock=lambda: now) as store:
        for n in range(20):
            await store.save_session(
                SessionRecord(id=f"{n}", user_id="u", context="null"), binds=(f"avatar:{n}",)
            )
            await store.append(Arrival(key=f"{n}", body=b"x"))
        now = 11.0
        dropped = [await store.expire(limit=7) for _ in range(10)]
    assert dropped == [7, 7, 7, 7, 7, 7, 7, 7, 4, 0]


@pytest.mark.parametrize("use", ["append", "bind", "save_session"])
async def test_what_is_past_its_time_is_dropped_by_whoever_writes_next(path: Path, use: str) -> None:
    now = 100.0
    async with opened(path, ttl=10.0, clock=lambda: now) as store:

        async def write() -> None:
            if use == "append":
                await store.append(arrival("another"))
            elif use == "bind":
                await store.bind("avatar:another", "session")
            else:
                await store.save_session(SessionRecord(id="session", user_id="u", context="null"))

        await store.append(arrival("one"))
        now = 111.0
        await write()
        assert not await events_with(store, "one")
        # It is looked for once a second, also when the clock is set back.
        await store.append(arrival("two"))
        now = 50.0
        await store.append(arrival("three"))
        now = 61.0
        await write()
        assert await events_with(store, "two")
        assert not await events_with(store, "three")


async def events_with(store: SQLiteStore, key: str) -> int:
    """How many rows there are, expired or not."""
    sql = "SELECT count(*) FROM events WHERE key = ?"
    (count,) = await engine_of(store).read(lambda desk: desk.tables._db.execute(sql, (key,)).fetchone())
    return int(count)


async def test_what_is_over_stands_in_nobodys_way_before_it_is_dropped(path: Path) -> None:
    now = 0.0
    async with opened(path, ttl=10.0, max_bytes=400, clock=lambda: now) as store:
        await asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(400)))
        now = 11.0
        # A hundred are dropped at a time: its twin is among those that are left.
        assert await store.append(arrival("399")) == 401
        assert await store.append(arrival("big", bytes(399))) == 402
        assert (await store.sizes())["events"] == 2


async def test_a_binding_that_is_over_leads_nobody_before_it_is_dropped(path: Path) -> None:
    now = 0.0
    async with opened(path, ttl=10.0, clock=lambda: now) as store:
        subjects = [f"{n}" for n in range(400)]
        await store.save_session(SessionRecord(id="s", user_id="u", context="null"), binds=subjects)
        now = 11.0
        await asyncio.gather(*(store.append(Arrival(key=n, body=b"x", subjects=(n,))) for n in subjects))
        assert await store.read("session:s") == ()
        assert {event.session_id for n in subjects for event in await store.read(n)} == {None}


async def test_a_subject_that_is_given_twice_appears_once(path: Path) -> None:
    async with opened(path) as store:
        await store.append(Arrival(key="1", body=b"x", subjects=("a", "b", "a")))
        assert [len(await store.read(subject)) for subject in "ab"] == [1, 1]


async def test_each_of_many_is_known_when_it_comes_again(path: Path) -> None:
    async with opened(path) as store:
        for expected in ([*range(1, 401)], [0] * 400):
            given = await asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(400)))
            assert sorted(given) == expected


async def test_bounds_are_those_of_all_processes_together(path: Path) -> None:
    async with opened(path, max_events=50) as one, opened(path, max_events=50) as two:
        asked = (store.append(arrival(f"{n}")) for n in range(40) for store in (one, two))
        asked_apart = (
            store.append(arrival(f"{store is one} {n}")) for n in range(40) for store in (one, two)
        )
        answers = await asyncio.gather(*asked, *asked_apart, return_exceptions=True)
        assert sum(isinstance(answer, int) and answer > 0 for answer in answers) == 50
        assert sum(isinstance(answer, StoreFullError) for answer in answers) == 70
        assert sum(answer == 0 for answer in answers) == 40
        assert (
            await one.sizes()
            == await two.sizes()
            == {
                "events": 50,
                "bytes": 50,
                "sessions": 0,
                "bindings": 0,
            }
        )


async def test_too_many_topics_to_tell_are_told_as_everything(path: Path) -> None:
    async with opened(path) as store:
        heard: list[Iterable[str] | None] = []
        store.listen(heard.append)
        await store.append(Arrival(key="one", body=b"", subjects=tuple(f"avatar:{n}" for n in range(10_001))))
    assert heard == [None]


# Commits


async def test_what_is_asked_at_a_time_shares_a_commit(path: Path) -> None:
    async with opened(path) as store:
        commits: list[Iterable[str] | None] = []
        store.listen(commits.append)
        async with Pause(store):
            asked = asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(100)))
        assert sorted(await asked) == list(range(1, 101))
    assert len(commits) == 1


async def test_one_that_fails_does_not_disturb_those_it_shares_a_commit_with(path: Path) -> None:
    async with opened(path, max_bytes=100) as store:
        bodies = [b"x" * 40, b"y" * 101, b"z" * 40]
        async with Pause(store):
            asked = asyncio.gather(
                *(store.append(arrival(f"{n}", body)) for n, body in enumerate(bodies)),
                return_exceptions=True,
            )
        first, failed, last = await asked
        assert (first, last) == (1, 2)
        assert isinstance(failed, StoreFullError)
        assert [event.body for event in await store.read(_AVATAR)] == bodies[::2]


async def test_one_that_fails_halfway_leaves_nothing_behind(path: Path) -> None:
    def fail_halfway(desk: Desk) -> None:
        desk.tables.append([arrival("half")])
        raise ValueError("halfway")

    async with opened(path) as store:
        async with Pause(store):
            first = asyncio.ensure_future(store.append(arrival("one")))
            await asyncio.sleep(0)
            failed = engine_of(store).write(fail_halfway)
            last = asyncio.ensure_future(store.append(arrival("two")))
        with pytest.raises(ValueError, match="halfway"):
            await failed
        assert (await first, await last) == (1, 2)
        assert not await store.seen("half")
        assert (await store.sizes())["events"] == 2


async def test_one_with_which_sqlite_gives_up_the_whole_transaction_does_not_either(path: Path) -> None:
    def give_up(desk: Desk) -> None:
        desk.tables._db.execute("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    def fail(_: Desk) -> None:
        raise ValueError("its own")

    async with opened(path) as store:
        async with Pause(store):
            before = asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(3)))
            await asyncio.sleep(0)
            failed = engine_of(store).write(give_up)
            wrong = engine_of(store).write(fail)
            after = asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(3, 6)))
        assert await before == [1, 2, 3]
        assert await after == [4, 5, 6]
        with pytest.raises(StoreError, match="disk I/O error"):
            await failed
        with pytest.raises(ValueError, match="its own"):
            await wrong
        assert len(await store.read(_AVATAR)) == 6


@pytest.mark.parametrize("locked_in", ["the first pass", "the second"])
async def test_a_transaction_that_was_given_up_is_not_repeated_without_end(
    path: Path, locked_in: str
) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    passes = iter(["the first pass", "the second"])

    def give_up(desk: Desk) -> None:
        desk.tables._db.execute("ROLLBACK")
        if next(passes, "") == locked_in:
            other.execute("BEGIN IMMEDIATE")
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(path) as store:
        begun = time.monotonic()
        async with Pause(store):
            asked = [engine_of(store).write(give_up)]
            rest = asyncio.gather(
                *(store.append(arrival(f"{n}")) for n in range(400)), return_exceptions=True
            )
        answers = await asyncio.gather(*asked, return_exceptions=True) + await rest
        assert time.monotonic() - begun < 2.5
        assert {type(answer) for answer in answers} == {StoreError}
        other.close()
        assert await store.append(arrival("0")) == 1


async def test_a_full_disk_refuses_what_does_not_fit_and_keeps_the_rest(path: Path) -> None:
    async with opened(path) as store:
        await store.append(arrival("one"))
        await _limit_pages(store, 40)
        async with Pause(store):
            big = asyncio.gather(
                *(store.append(arrival(f"big {n}", bytes(100_000))) for n in range(3)), return_exceptions=True
            )
            small = asyncio.gather(store.append(arrival("two")), store.append(arrival("three")))
        for error in await big:
            assert isinstance(error, StoreFullError)
            assert str(error) == f"no room for {path}: database or disk is full"
        assert list(await small) == [2, 3]
        await _limit_pages(store, 1_000_000)
        assert await store.append(arrival("big 0", bytes(100_000))) == 4
        assert await store.sizes() == {"events": 4, "bytes": 100_003, "sessions": 0, "bindings": 0}


async def _limit_pages(store: SQLiteStore, most: int) -> None:
    def limit(desk: Desk) -> None:
        desk.tables._db.execute(f"PRAGMA max_page_count = {most}")

    await engine_of(store).write(limit)


async def test_a_disk_that_is_full_at_the_commit_loses_nothing_that_was_answered(path: Path) -> None:
    with StoreProcess(path) as process:
        assert await process.call("append", arrival("one")) == 1
        await process.call("limit_files", 1_000_000)
        kept = 1
        with suppress(StoreError):
            while kept < 100:
                await process.call("append", arrival(f"big {kept}", bytes(100_000)))
                kept += 1
        with pytest.raises(StoreError):
            await process.call("append", arrival("one more", bytes(100_000)))
        await process.call("limit_files", 100_000_000)
        assert await process.call("append", arrival("last")) > kept
        process.kill()
    async with opened(path) as store:
        assert kept > 1
        assert (await store.sizes())["events"] == kept + 1


async def test_a_locked_file_is_an_error_within_two_and_a_half_seconds_for_all_who_wait(path: Path) -> None:
    async with opened(path) as store:
        await store.append(arrival("one"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            first = asyncio.ensure_future(store.append(arrival("two")))
            # Reading goes on, and while it does the first has begun to wait.
            assert len(await store.read(_AVATAR)) == 1
            rest = [asyncio.ensure_future(store.append(arrival(f"{n}"))) for n in range(600)]
            answers = await asyncio.gather(first, *rest, return_exceptions=True)
            assert time.monotonic() - begun < 2.5
            other.execute("ROLLBACK")
        assert {str(answer) for answer in answers} == {f"{path} was locked by another process for 1.5 s"}
        assert {type(answer) for answer in answers} == {StoreError}
        assert await store.append(arrival("two")) == 2


async def test_whoever_gives_up_takes_nobody_along(path: Path) -> None:
    async with opened(path) as store:
        async with Pause(store):
            asked = [asyncio.ensure_future(store.append(arrival(f"{n}"))) for n in range(10)]
            await asyncio.sleep(0)
            for task in asked[::2]:
                task.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, int)] == [2, 4, 6, 8, 10]
        assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 5


async def test_what_was_claimed_for_one_who_gave_up_can_be_claimed_at_once(path: Path) -> None:
    async with opened(path) as store:
        await store.join("g")
        await store.append(arrival("one"))
        async with Pause(store):
            asked = [asyncio.ensure_future(store.claim("g", limit=5)) for _ in range(2)]
            await asyncio.sleep(0)
            for task in asked:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asked[1]
        await store.expire()  # behind the claims; now they are answered
        assert len(await store.claim("g", limit=5)) == 1


async def test_an_error_in_who_listens_loses_no_answer(path: Path) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with opened(path) as store:

        def fail(_: Iterable[str] | None) -> None:
            raise RuntimeError("who listens fails")

        store.listen(fail)
        assert await store.append(arrival("one")) == 1
    assert [str(problem["exception"]) for problem in problems] == ["who listens fails"]


async def test_news_that_cannot_be_read_now_lose_no_answer(path: Path) -> None:
    def others(_: bytes) -> list[tuple[bytes, int]]:
        raise sqlite3.OperationalError("disk I/O error")

    def fail(desk: Desk) -> None:
        vars(desk.groups)["others"] = others

    async with opened(path, look_every=0.0) as store:
        came = asyncio.Event()
        store.listen(lambda _: came.set())
        await engine_of(store).write(fail)
        assert await store.append(arrival("one")) == 1
        async with asyncio.timeout(10):
            await came.wait()


# Beginning and end


async def test_closing_answers_all_that_was_asked_and_leaves_one_file(path: Path) -> None:
    async with opened(path) as store:
        async with Pause(store):
            asked = [asyncio.ensure_future(store.append(arrival(f"{n}"))) for n in range(600)]
            await asyncio.sleep(0)
            closing_ = asyncio.gather(store.close(), store.close())
        await closing_
        assert sorted(await asyncio.gather(*asked)) == list(range(1, 601))
        assert _files(path) == [path]
        with pytest.raises(StoreError, match="or closed"):
            await store.append(arrival("one more"))
        await store.start()
        assert (await store.sizes())["events"] == 600


async def test_a_start_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    store = SQLiteStore(path)
    begun = asyncio.ensure_future(store.start())
    await asyncio.sleep(0)
    begun.cancel()
    with suppress(asyncio.CancelledError):
        await begun
    await _start_and_close(store)
    assert _files(path) == [path]


def test_an_event_loop_that_ended_without_a_close_can_be_followed_by_another(path: Path) -> None:
    store = SQLiteStore(path)
    left: list[Any] = []

    async def use(key: str) -> int:
        await store.start()
        left.append(vars(store)["_engine"])
        return await store.append(arrival(key))

    async def close_and_use() -> None:
        await store.close()
        await store.append(arrival("third"))

    assert asyncio.run(use("first")) == 1
    assert asyncio.run(use("second")) == 2
    with pytest.raises(StoreError, match="not started"):
        asyncio.run(close_and_use())
    for thread in threading.enumerate():
        if thread.name.startswith("SQLiteStore"):
            thread.join()
    # What is open when a loop ends can no longer be closed by it, and asyncio would complain at some later time.
    for engine in left:
        hints = engine._hints
        hints._voice.close()
        hints._transport._sock.close()
        hints._transport._sock = None


async def test_another_event_loop_is_told_that_it_is_not_the_one(path: Path) -> None:
    async with opened(path) as store:
        for act in (store.start, store.close, store.sizes):
            with pytest.raises(StoreError, match="another event loop"):
                await asyncio.to_thread(lambda act=act: asyncio.run(act()))  # type: ignore[misc]


async def test_a_fork_is_told_to_start_for_itself(path: Path) -> None:
    async with opened(path) as store:
        await store.append(arrival("one"))
        parent = engine_of(store)
        parent.pid = -1
        with pytest.raises(StoreError, match="started before a fork"):
            await store.append(arrival("two"))
        await store.start()
        assert await store.append(arrival("two")) == 2
        await store.close()
        await parent.close()


async def test_parent_and_child_of_a_fork_use_one_file(path: Path) -> None:
    script = """
import asyncio, os, sys
from avaturn_async.webhooks.stores import Arrival
from avaturn_async.webhooks.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])

async def append(key):
    return await store.append(Arrival(key=key, body=b"x"))

async def child():
    await store.start()
    print("child", await append("two"), flush=True)
    await store.close()

async def parent():
    await store.start()
    await append("one")
    pid = await asyncio.to_thread(fork)
    os.waitpid(pid, 0)
    print("parent", await append("three"), flush=True)
    await store.close()

def fork():
    pid = os.fork()
    if not pid:
        asyncio.run(child())
        os._exit(0)
    return pid

asyncio.run(parent())
"""
    ignored = ("-W", "ignore::DeprecationWarning")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *ignored, "-c", script, str(path), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert said.decode().split() == ["child", "2", "parent", "3"]


# Word from other processes


async def test_whoever_listens_in_another_process_is_told(path: Path) -> None:
    with StoreProcess(path) as other:
        await other.call("sizes")
        async with asyncio.timeout(10), opened(path) as store:
            heard: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
            store.listen(heard.put_nowait)
            await store.append(Arrival(key="one", body=b"x", session_id="s", subjects=(_AVATAR,)))
            assert set(await heard.get() or ()) == {_AVATAR, "session:s"}
            assert set(await other.call("heard")) == {_AVATAR, "session:s"}
            await other.call("append", Arrival(key="two", body=b"x", subjects=("avatar:b",)))
            assert await heard.get() == ("avatar:b",)
            await other.call("bind", "avatar:b", "t")
            assert await heard.get() == ("session:t",)
            await other.call("join", "g")
            [event, _] = await other.call("claim", "g", limit=5)
            await other.call("release", "g", [event.position])
            assert await heard.get() == ()


async def test_a_hint_that_was_lost_is_made_good(path: Path) -> None:
    async with opened(path, look_every=0.0) as store, opened(path) as other:
        heard: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
        store.listen(heard.put_nowait)
        await _forget_everybody(other)
        await other.append(arrival("one"))
        async with asyncio.timeout(10):
            assert await heard.get() == (_AVATAR,)


async def test_a_process_that_was_forgotten_is_told_again(path: Path) -> None:
    async with opened(path, look_every=0.0), opened(path) as other:
        await _forget_everybody(other)
        async with asyncio.timeout(10):
            while not await _enrolled(other):
                pass


async def test_a_process_that_died_is_forgotten(path: Path) -> None:
    now = 0.0
    with StoreProcess(path) as other:
        await other.call("sizes")
        async with opened(path, clock=time.time) as store:
            assert len(await _enrolled(store)) == 2
    now = time.time() + 200.0
    async with opened(path, clock=lambda: now) as store:
        assert len(await _enrolled(store)) == 1


async def test_hints_that_come_all_at_once_are_all_heard(path: Path) -> None:
    async with opened(path) as store, opened(path) as other:
        heard: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
        store.listen(heard.put_nowait)
        topics = {f"avatar:{n}" for n in range(50)}
        for topic in topics:
            await other.append(Arrival(key=topic, body=b"x", subjects=(topic,)))
        async with asyncio.timeout(10):
            while topics:
                topics -= set(await heard.get() or ())
        for _ in range(3):
            engine_of(store).look()


async def _forget_everybody(store: SQLiteStore) -> None:
    def forget(desk: Desk) -> None:
        desk.tables._db.execute("DELETE FROM processes")

    await engine_of(store).write(forget)


async def _enrolled(store: SQLiteStore) -> list[tuple[bytes, int]]:
    return await engine_of(store).read(lambda desk: desk.groups.others(b""))
