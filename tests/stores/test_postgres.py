"""PostgresStore on a real server: the log, groups, notifications and the schema."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import logging
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import asyncpg
import pytest
from support.postgres_server import (
    PostgresServer,
    needs_pgbouncer,
    needs_postgres,
    running_pgbouncer,
    running_postgres,
)
from support.store_machine import check_store

from avaturn_async.errors import StoreError
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores.base import EventStore, NewEntry
from avaturn_async.webhooks.stores.postgres import PostgresStore

pytestmark = needs_postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres({"fsync": "off", "autovacuum": "off"}) as running:
        yield running


@pytest.fixture(scope="module")
def pgbouncer(server: PostgresServer) -> Iterator[str]:
    """The URL of a PgBouncer in transaction mode."""
    with running_pgbouncer(server) as url:
        yield url


@pytest.fixture
async def connection(server: PostgresServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url)
    await connection.execute("DROP SCHEMA IF EXISTS avaturn CASCADE")
    yield connection
    await connection.close()


@pytest.fixture
async def store(server: PostgresServer, connection: Any) -> AsyncIterator[PostgresStore]:
    del connection
    store = PostgresStore.from_url(server.url)
    await store.start()
    yield store
    await store.close()


def event(body: bytes = b"{}", *topics: str, **options: Any) -> NewEntry:
    return NewEntry(topics=topics or ("t",), body=body, **options)


SCHEMAS = map("test_{}".format, count())


class TestPostgresStore(EventStoreContract):
    @pytest.fixture(autouse=True)
    def use_server(self, server: PostgresServer) -> None:
        self.url, self.schema = server.url, next(SCHEMAS)

    async def make_store(self, *, max_events: int, max_bytes: int) -> PostgresStore:
        return PostgresStore.from_url(
            self.url, schema=self.schema, ttl=self.ttl, lease=self.lease, max_events=max_events, max_bytes=max_bytes
        )

    async def make_another(self, store: EventStore) -> PostgresStore:
        del store
        return PostgresStore.from_url(self.url, schema=self.schema, ttl=self.ttl, lease=self.lease)

    async def pass_time(self, seconds: float) -> None:
        """Move all times in the tables back: the server's clock cannot be set, and a test does not wait."""
        connection: Any = await asyncpg.connect(self.url)
        await connection.execute(
            f"UPDATE {self.schema}.entries SET at = at - {seconds}, expires_at = expires_at - {seconds};"  # noqa: S608
            f"UPDATE {self.schema}.topics SET expires_at = expires_at - {seconds};"
            f"UPDATE {self.schema}.keys SET expires_at = expires_at - {seconds};"
            f"UPDATE {self.schema}.deliveries SET leased_until = leased_until - {seconds}"
        )
        await connection.close()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of the loop that ended
    async def test_store_starts_in_a_new_loop_after_the_first_loop_ended(self) -> None:
        await super().test_store_starts_in_a_new_loop_after_the_first_loop_ended()
        gc.collect()


@needs_pgbouncer
class TestPostgresStoreBehindPgBouncer(TestPostgresStore):
    @pytest.fixture(autouse=True)
    def use_pgbouncer(self, pgbouncer: str) -> None:
        self.pooled_url = pgbouncer

    async def make_store(self, *, max_events: int, max_bytes: int) -> PostgresStore:
        options: dict[str, Any] = {"max_events": max_events, "max_bytes": max_bytes, "listen_dsn": self.url}
        return PostgresStore.from_url(self.pooled_url, schema=self.schema, ttl=self.ttl, lease=self.lease, **options)

    async def make_another(self, store: EventStore) -> PostgresStore:
        del store
        return await self.make_store(max_events=10**6, max_bytes=10**9)


def test_store_behaves_as_the_model(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.stores.postgres.GROUP_PAGE", 2)

    def make_contract() -> TestPostgresStore:
        contract = TestPostgresStore()
        contract.url, contract.schema = server.url, next(SCHEMAS)
        return contract

    check_store(make_contract, examples=25)


@pytest.mark.parametrize("name", ["", "a\0b", "\udc80", "x" * 10_000, "ü' \"[]"])
async def test_topics_keys_and_groups_are_any_text(store: PostgresStore, name: str) -> None:
    position = await store.append(event(b"a", name, key=name))
    assert [(e.position, e.topics) for e in await store.read({name: 0})] == [(position, (name,))]
    assert await store.contains(name)
    await store.create_group(name)
    assert [c.entry.position for c in await store.claim(name, limit=1)] == [position]
    await store.fail(name, position, name)
    assert [f.reason for f in await store.failed(name)] == [name]
    assert await store.groups() == [name]


async def test_listener_of_another_store_receives_topics_after_they_can_be_read(
    store: PostgresStore, server: PostgresServer
) -> None:
    received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    stop = store.listen(received.put_nowait)
    other = PostgresStore.from_url(server.url)
    await other.start()
    async with asyncio.timeout(20):
        await other.append(event(b"a", "x\0", "y"))
        assert await received.get() == ["x\0", "y"]
        await other.append(event(b"a", *(f"topic-{i}" * 20 for i in range(100))))
        assert await received.get() is None
        await other.append(event(dispatch=True))
        assert await received.get() == ["t"]
        await other.create_group("g")
        (claimed,) = await other.claim("g", limit=1)
        await other.nack("g", [claimed.entry.position])
        assert await received.get() == []
    stop()
    await other.close()


async def test_reader_never_misses_an_entry_of_concurrent_writers(store: PostgresStore, server: PostgresServer) -> None:
    writers = [PostgresStore.from_url(server.url) for _ in range(4)]
    await asyncio.gather(*(writer.start() for writer in writers))
    seen: list[int] = []

    async def write(writer: PostgresStore) -> list[int]:
        return [await writer.append(event()) for _ in range(60)]

    async def follow() -> None:
        while len(seen) < 240:
            seen.extend(e.position for e in await store.read({"t": seen[-1] if seen else 0}))

    async with asyncio.timeout(20):
        *written, _ = await asyncio.gather(*(write(writer) for writer in writers), follow())
    assert seen == sorted(position for positions in written for position in positions or [])
    await asyncio.gather(*(writer.close() for writer in writers))


async def test_large_log_without_statistics_is_read_through_its_indexes(store: PostgresStore, connection: Any) -> None:
    await store.create_group("g")
    group, topic = (hashlib.sha256(name).hexdigest() for name in (b"g", b"t"))
    await connection.execute(f"""
        CREATE TEMP TABLE new AS SELECT i, CASE WHEN i <= 10 THEN 1 ELSE 1e10 END AS x FROM generate_series(1, 20000) i;
        INSERT INTO avaturn.entries SELECT i, '["t"]', 'body', 1, x, true FROM new;
        INSERT INTO avaturn.topics SELECT '\\x{topic}', i, x FROM new;
        INSERT INTO avaturn.deliveries (name, position) SELECT '\\x{group}', i FROM new;
        UPDATE avaturn.totals SET last = 20000, events = 20000, bytes = 80000""")  # noqa: S608 - hexadecimal digits
    assert [c.entry.position for c in await store.claim("g", limit=2)] == [11, 12]
    assert [e.position for e in await store.read({"t": 0}, limit=2)] == [11, 12]
    assert await store.purge_expired() == 10
    assert await store.stats() == {"events": 19_990, "bytes": 79_960, "records": 0}
    await store.create_group("new")
    await store.close()
    statement = (
        "SELECT sum(n_tup_del), sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables"
        " WHERE schemaname = 'avaturn' AND relname <> 'totals'"
    )
    async with asyncio.timeout(20):
        # A session of the server counts when it ends.
        while (counts := await connection.fetchrow(statement))[0] < 30:
            await asyncio.sleep(0.01)
    # Most of them for the new group.
    assert counts[1] < 60_000


async def test_new_group_receives_a_long_log_in_pages(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.stores.postgres.GROUP_PAGE", 3)
    positions = [await store.append(event(dispatch=n % 4 != 0)) for n in range(12)]
    claimed = [c.entry.position for c in await store.claim("g", limit=20)]
    assert claimed == [position for n, position in enumerate(positions) if n % 4 != 0]


async def test_entry_that_cannot_be_stored_does_not_fail_the_others_of_its_batch(store: PostgresStore) -> None:
    wrong: list[Any] = [
        event(b"a", "t", 1),  # type: ignore[arg-type]
        event("text"),  # type: ignore[arg-type]
        event(key=b"k"),
        event(ttl=float("inf")),
        event(unique_for=float("nan")),
        event(ttl="1"),
    ]
    right = [event(), event(dispatch=1), event(b"", key="k")]
    results = await asyncio.gather(*(store.append(each) for each in (*wrong, *right)), return_exceptions=True)
    assert [type(result) for result in results] == [TypeError] * 3 + [ValueError] * 2 + [TypeError] + [int] * 3
    assert [e.position for e in await store.read({"t": 0})] == results[6:]


async def test_twenty_stores_start_at_once(server: PostgresServer, connection: Any) -> None:
    stores = [PostgresStore.from_url(server.url) for _ in range(20)]
    await asyncio.gather(*(store.start() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    assert await connection.fetchval("SELECT count(*) FROM avaturn.version") == 1


async def test_start_refuses_a_schema_of_something_else_or_of_a_newer_release(
    server: PostgresServer, connection: Any
) -> None:
    await connection.execute("CREATE SCHEMA avaturn; CREATE TABLE avaturn.users (id integer)")
    store = PostgresStore.from_url(server.url)
    with pytest.raises(StoreError, match="holds something else"):
        await store.start()
    await connection.execute("DROP SCHEMA avaturn CASCADE")
    await connection.execute(PostgresStore.ddl())
    await connection.execute("UPDATE avaturn.version SET version = 2")
    with pytest.raises(StoreError, match="has version 2, and this release of avaturn_async needs 1"):
        await store.start()


async def test_missing_schema_is_refused_and_not_created_without_create(
    server: PostgresServer, connection: Any
) -> None:
    store = PostgresStore.from_url(server.url, create=False)
    with pytest.raises(StoreError, match="has no schema 'avaturn'"):
        await store.start()
    assert await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'avaturn'") == 0


async def test_role_without_rights_to_create_uses_a_schema_made_with_ddl(
    server: PostgresServer, connection: Any
) -> None:
    await connection.execute(
        PostgresStore.ddl()
        + "DROP ROLE IF EXISTS worker; CREATE ROLE worker LOGIN; GRANT USAGE ON SCHEMA avaturn TO worker;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA avaturn TO worker"
    )
    store = PostgresStore.from_url(server.url.replace("tester", "worker"))
    await store.start()
    await store.create_group("g")
    position = await store.append(event())
    assert [c.entry.position for c in await store.claim("g", limit=1)] == [position]
    await store.close()
    await connection.execute("DROP SCHEMA avaturn CASCADE; DROP ROLE worker")


async def test_pool_of_the_caller_is_not_closed(server: PostgresServer, connection: Any) -> None:
    del connection
    async with asyncpg.create_pool(server.url, min_size=1, max_size=2) as pool:
        store = PostgresStore(pool)
        await store.start()
        assert await store.append(event())
        await store.close()
        assert await pool.fetchval("SELECT count(*) FROM avaturn.entries") == 1
        assert pool.get_idle_size() == pool.get_size()


async def test_pool_of_one_connection_is_refused(server: PostgresServer, connection: Any) -> None:
    del connection
    async with asyncpg.create_pool(server.url, min_size=1, max_size=1) as pool:
        with pytest.raises(StoreError, match="at least two connections"):
            await PostgresStore(pool).start()


@needs_pgbouncer
async def test_concurrent_calls_through_pgbouncer_do_not_mix(server: PostgresServer, pgbouncer: str) -> None:
    async with asyncpg.create_pool(pgbouncer, max_size=10, statement_cache_size=0) as pool:
        store = PostgresStore(pool, schema="mixed", listen_dsn=server.url)
        await store.start()
        received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
        store.listen(received.put_nowait)
        positions = await asyncio.gather(*(store.append(event(topic.encode(), topic)) for topic in map(str, range(50))))

        # PgBouncer can give each transaction another connection of the server.
        async def call(n: int, position: int) -> None:
            (entry,) = await store.read({str(n): 0})
            assert (entry.position, entry.body) == (position, b"%d" % n)
            assert not await store.contains(str(n))
            assert await store.stats() == {"events": 50, "bytes": 90, "records": 0}

        await asyncio.gather(*(call(n, position) for _ in range(4) for n, position in enumerate(positions)))
        async with asyncio.timeout(20):
            assert await received.get() is not None
        await store.close()


@needs_pgbouncer
async def test_pgbouncer_without_a_direct_dsn_is_refused_with_the_remedy(pgbouncer: str) -> None:
    with pytest.raises(StoreError, match="the DSN of a direct connection as listen_dsn"):
        await PostgresStore.from_url(pgbouncer, schema="without").start()
    async with asyncpg.create_pool(pgbouncer, statement_cache_size=0) as pool:
        with pytest.raises(StoreError, match="the DSN of a direct connection as listen_dsn"):
            await PostgresStore(pool, schema="without").start()


def _run_and_abandon(work: Coroutine[Any, Any, int]) -> int:
    loop = asyncio.new_event_loop()
    result = loop.run_until_complete(work)
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    return result


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of the loop that ended
def test_store_whose_loop_ended_without_close_starts_in_the_next_loop(server: PostgresServer) -> None:
    store = PostgresStore.from_url(server.url, schema="loops")

    async def use() -> int:
        await store.start()
        return await store.append(event())

    async def use_and_close() -> int:
        position = await use()
        await store.close()
        return position

    async def use_without_start() -> None:
        with pytest.raises(StoreError, match=r"call start\(\) first"):
            await store.append(event())

    first = _run_and_abandon(use())
    asyncio.run(use_without_start())
    assert asyncio.run(use_and_close()) > first
    gc.collect()


async def test_store_of_another_running_loop_is_refused(store: PostgresStore) -> None:
    with pytest.raises(StoreError, match="another running event loop"):
        await asyncio.to_thread(asyncio.run, store.start())
    with pytest.raises(StoreError, match="another running event loop"):
        await asyncio.to_thread(asyncio.run, store.append(event()))


async def test_settings_that_lose_entries_are_warned_of(
    server: PostgresServer, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute("ALTER ROLE tester SET synchronous_commit = off")
    store = PostgresStore.from_url(server.url)
    with caplog.at_level(logging.WARNING):
        await store.start()
    await store.close()
    await connection.execute("ALTER ROLE tester RESET synchronous_commit")
    assert "synchronous_commit = off" in caplog.text


async def test_url_of_several_servers_leads_to_the_one_that_runs(server: PostgresServer, connection: Any) -> None:
    del connection
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    store = PostgresStore.from_url(server.url.replace("@", f"@127.0.0.1:{port},"))
    await store.start()
    assert await store.append(event())
    await store.close()


async def test_another_default_isolation_level_changes_nothing(server: PostgresServer, connection: Any) -> None:
    await connection.execute("ALTER ROLE tester SET default_transaction_isolation = serializable")
    stores = [PostgresStore.from_url(server.url) for _ in range(4)]
    try:
        await asyncio.gather(*(store.start() for store in stores))
        positions = await asyncio.gather(*(store.append(event()) for store in stores for _ in range(20)))
        assert len(set(positions)) == 80
        claimed = await asyncio.gather(*(store.claim("g", limit=20) for store in stores))
        assert sorted(c.entry.position for each in claimed for c in each) == sorted(positions)
    finally:
        await connection.execute("ALTER ROLE tester RESET default_transaction_isolation")
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize(
    "dsn",
    [
        "secret-password",
        "mysql://u:secret-password@h/d",
        "postgresql://u:secret-p#1@h:x/d",
        "postgresql://h:1,secret:0/d",
        "postgresql://u:?secret-password@h/d",
        "postgresql://u:#secret-password@h/d",
        "postgresql://u:12/secret-password@h/d",
        "postgresql://h/d?secret-password",
    ],
)
def test_wrong_dsn_is_refused_without_its_password(dsn: str) -> None:
    with pytest.raises(ValueError, match=r"is not a URL of PostgreSQL.*percent-encode the password") as caught:
        PostgresStore.from_url(dsn)
    assert "secret" not in str(caught.value)


def test_wrong_arguments_are_refused() -> None:
    wrong: Any = object()
    with pytest.raises(TypeError, match=r"must be an asyncpg.Pool"):
        PostgresStore(wrong)
    with pytest.raises(ValueError, match="ttl must be a number above zero"):
        PostgresStore.from_url("postgresql://h/d", ttl=0)
    with pytest.raises(ValueError, match="letters, digits"):
        PostgresStore.ddl('a"; DROP TABLE users')


async def test_methods_before_start_raise_store_error() -> None:
    store = PostgresStore.from_url("postgresql://u:secret-password@h/d")
    assert "secret" not in repr(store)
    with pytest.raises(StoreError, match="not started"):
        await store.append(event())


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("REVOKE INSERT ON avaturn.entries FROM worker", "lacks rights in the schema 'avaturn': INSERT on entries$"),
        ("REVOKE UPDATE, DELETE ON avaturn.keys FROM worker", "'avaturn': DELETE on keys, UPDATE on keys$"),
        ("REVOKE EXECUTE ON FUNCTION avaturn.purge FROM public", "'avaturn': EXECUTE on purge$"),
        (
            "ALTER ROLE worker SET default_transaction_read_only = on",
            "default_transaction_read_only = on: set it to off",
        ),
    ],
)
async def test_start_with_a_role_that_cannot_write_says_so(
    server: PostgresServer, connection: Any, statement: str, error: str
) -> None:
    await connection.execute(
        PostgresStore.ddl()
        + "DROP ROLE IF EXISTS worker; CREATE ROLE worker LOGIN; GRANT USAGE ON SCHEMA avaturn TO worker;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA avaturn TO worker;"
    )
    await connection.execute(statement)
    store = PostgresStore.from_url(server.url.replace("tester", "worker"))
    with pytest.raises(StoreError, match=error):
        await store.start()
    await connection.execute("DROP SCHEMA avaturn CASCADE; DROP ROLE worker")


async def test_bound_that_is_larger_than_an_integer_of_postgresql_is_none(
    server: PostgresServer, connection: Any
) -> None:
    del connection
    store = PostgresStore.from_url(server.url, max_events=2**63, max_bytes=10**300)
    await store.start()
    assert await store.append(event()) > 0
    await store.close()


async def test_option_that_asyncpg_refuses_is_named(server: PostgresServer) -> None:
    with pytest.raises(StoreError, match="sslmode") as caught:
        await PostgresStore.from_url(f"{server.url}?sslmode=bogus").start()
    assert "secret" not in str(caught.value)


async def test_argument_that_the_server_cannot_store_is_not_in_the_error(store: PostgresStore) -> None:
    with pytest.raises(StoreError, match=r"^PostgreSQL: DataError$"):
        await store.read({"t": 2**70})


async def test_start_whose_connection_times_out_in_asyncpg_says_how_long_it_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def time_out(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(asyncpg, "create_pool", time_out)
    store = PostgresStore.from_url("postgresql://h/d")
    with pytest.raises(StoreError, match=r"^PostgreSQL: no response within 2 s$"):
        await store.start()
    await store.close()


async def test_older_server_is_refused(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.stores.postgres.MIN_VERSION", 990_000)
    with pytest.raises(StoreError, match=r"needs PostgreSQL 13 or later; this one is \d\d$"):
        await PostgresStore.from_url(server.url).start()


def test_missing_asyncpg_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "avaturn_async.webhooks.stores.postgres")
    with pytest.raises(ImportError, match=r"avaturn_async\[postgres\]"):
        importlib.import_module("avaturn_async.webhooks.stores.postgres")


@pytest.mark.parametrize(("constant", "limit", "transactions"), [("MAX_BATCH", 2, 3), ("MAX_BATCH_BYTES", 15, 5)])
async def test_appends_that_wait_share_a_transaction_up_to_a_bound(
    store: PostgresStore, connection: Any, monkeypatch: pytest.MonkeyPatch, constant: str, limit: int, transactions: int
) -> None:
    await asyncio.gather(*(store.append(event(b"x" * 10)) for _ in range(5)))
    query = "SELECT count(DISTINCT xmin::text) FROM avaturn.entries"
    shared = await connection.fetchval(query)
    assert shared <= 2  # an eager task takes the first one before the others come
    monkeypatch.setattr(f"avaturn_async.webhooks.stores.postgres.{constant}", limit)
    await asyncio.gather(*(store.append(event(b"x" * 10)) for _ in range(5)))
    assert await connection.fetchval(query) == shared + transactions


async def test_many_topics_arrive_in_several_notifications(store: PostgresStore) -> None:
    missing = {f"{n}-{'x' * 90}" for n in range(150)}
    received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    store.listen(received.put_nowait)
    await asyncio.gather(*(store.append(event(b"", topic)) for topic in missing))
    async with asyncio.timeout(20):
        while missing:
            topics = await received.get()
            assert topics
            missing.difference_update(topics)


async def test_listener_that_raises_does_not_stop_the_others(
    store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    received = asyncio.Event()

    def fail(_: Iterable[str] | None) -> None:
        raise ValueError("the listener's error")

    store.listen(fail)
    store.listen(lambda _: received.set())
    async with asyncio.timeout(20):
        await store.append(event())
        await received.wait()
    assert "the listener's error" in caplog.text


async def test_connection_for_notifications_is_tested_in_silence_and_stays(
    server: PostgresServer, connection: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.stores.postgres.SILENCE", 0.05)
    statement = "SELECT pid, query_start FROM pg_stat_activity WHERE query = 'SELECT pg_is_in_recovery()'"
    rows: list[Any] = []
    store = PostgresStore.from_url(server.url)
    await store.start()
    async with asyncio.timeout(10):
        # At least two tests, between which the connection would be replaced.
        while not rows or rows[-1]["query_start"] - rows[0]["query_start"] < timedelta(seconds=0.1):
            rows += await connection.fetch(statement)
    await store.close()
    assert len({row["pid"] for row in rows}) == 1
    assert "the connection was lost" not in caplog.text


async def test_lost_notifications_return_in_a_pool_of_two(server: PostgresServer, connection: Any) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    async with asyncio.timeout(20), asyncpg.create_pool(server.url, min_size=0, max_size=2) as pool:
        store = PostgresStore(pool)
        await store.start()
        received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
        store.listen(received.put_nowait)
        for _ in range(3):
            assert await connection.fetchval(end)
            # At the loss, and when they are back.
            assert (await received.get(), await received.get()) == (None, None)
            await store.append(event())
            assert await received.get() == ["t"]
        await store.close()
