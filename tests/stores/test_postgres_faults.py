"""PostgresStore while its server is unavailable: webhooks get a 503 in time, waiters and handlers go on afterwards."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from attrs import define, field
from support.in_time import in_time
from support.postgres_server import PostgresServer, needs_postgres, running_postgres
from support.routing import Api, avatar_id

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks import (
    AvatarReady,
    RoutedSession,
    RouterClosedError,
    SessionRouter,
    SharedSecret,
    WebhookReceiver,
)
from avaturn_async.webhooks.request import WebhookRequest
from avaturn_async.webhooks.stores.base import NewEntry
from avaturn_async.webhooks.stores.postgres import PostgresStore

pytestmark = needs_postgres

MAX_CONNECTIONS = 20
ENTRY = NewEntry(topics=("t",), body=b"{}")
SCHEMAS = map("faults_{}".format, count())
Fault = Callable[[PostgresServer, str], AbstractAsyncContextManager[None]]
"""Makes the server of a schema unavailable for the time of the block."""


@contextmanager
def running_for_worker(directory: Path | None = None) -> Iterator[PostgresServer]:
    """Run a server on which ``worker`` may create schemas, and which has few connections."""
    with running_postgres({"max_connections": str(MAX_CONNECTIONS)}, directory) as server:
        script = "CREATE ROLE worker LOGIN; GRANT CREATE ON DATABASE postgres TO worker; CREATE ROLE other LOGIN"
        asyncio.run(execute(server, script))
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_for_worker() as running:
        yield running


@asynccontextmanager
async def connected(server: PostgresServer, role: str = "tester") -> AsyncIterator[Any]:
    connection: Any = await asyncpg.connect(server.url.replace("tester", role))
    try:
        yield connection
    finally:
        await connection.close()


async def execute(server: PostgresServer, *statements: str) -> None:
    async with connected(server) as connection:
        for statement in statements:
            await connection.execute(statement)


def get_url(server: PostgresServer) -> str:
    return server.url.replace("tester", "worker")


def make_store(server: PostgresServer, schema: str) -> PostgresStore:
    return PostgresStore.from_url(get_url(server), schema=schema)


async def get_error(work: Awaitable[object]) -> str:
    """Return the text of the StoreError that the call raises in time; empty if it succeeds in time."""
    async with in_time():
        result: object = (await asyncio.gather(work, return_exceptions=True))[0]
    assert not isinstance(result, StoreFullError)
    if isinstance(result, BaseException) and not isinstance(result, StoreError):
        raise result
    text = str(result) if isinstance(result, StoreError) else ""
    assert "secret" not in text
    return text


async def get_append_error(store: PostgresStore, padding: int) -> str:
    """Return the text of the StoreError of an append, as get_error does.

    asyncpg raises InternalClientError on a connection whose end it has read, but not yet noticed: the next append has
    another one.
    """
    while "InternalClientError" in (
        text := await get_error(store.append(NewEntry(topics=("t",), body=secrets.token_bytes(padding))))
    ):
        pass
    return text


@define(eq=False)
class Backend:
    """A backend that receives webhooks, waits for their events in a session, and handles them."""

    store: PostgresStore
    router: SessionRouter
    session: RoutedSession
    padding: int
    acknowledged: set[UUID] = field(factory=set[UUID])
    seen: set[UUID | None] = field(factory=set[UUID | None])
    """What a waiter of the session has seen."""
    handled: set[UUID | None] = field(factory=set[UUID | None])
    refused: int = 0
    numbers: count[int] = field(factory=count)

    async def post(self) -> int:
        """Send the next webhook of the session, and return the status of its reply, which comes in time."""
        avatar = avatar_id(next(self.numbers))
        event = {"event": "avatar.ready", "avatar_id": str(avatar), "session_id": str(self.session.id)}
        body = json.dumps({**event, "padding": secrets.token_urlsafe(self.padding)}).encode()
        headers = [(b"content-type", b"application/json"), (b"x-secret", b"key")]
        async with in_time():
            reply = await self.receiver.receive(WebhookRequest(method="POST", headers=headers, body=body))
        if reply.status == 200:
            self.acknowledged.add(avatar)
        else:
            self.refused += 1
        return reply.status

    async def post_until_acknowledged(self) -> None:
        while await self.post() != 200:
            await asyncio.sleep(0.01)

    async def settle(self) -> None:
        """Wait until all that was acknowledged was seen and handled."""
        while not self.acknowledged <= self.seen & self.handled:
            await asyncio.sleep(0.001)

    async def wait_for_events(self) -> None:
        with suppress(RouterClosedError):
            async for event in self.session.events():
                self.seen.add(event.avatar_id)

    @property
    def receiver(self) -> WebhookReceiver:
        return WebhookReceiver(self.router, verifier=SharedSecret("key", header="X-Secret"))


@asynccontextmanager
async def running_backend(url: str, schema: str, padding: int = 1) -> AsyncIterator[Backend]:
    # A claim whose reply is lost with its connection holds its events until the lease ends.
    store = PostgresStore.from_url(url, schema=schema, lease=3)
    async with SessionRouter(store) as router:
        backend = Backend(store, router, await router.open_session(Api().client, "user"), padding)

        @router.on(AvatarReady, name="handler")
        async def handle(event: AvatarReady, _: RoutedSession | None) -> None:
            backend.handled.add(event.avatar_id)

        waiter = asyncio.create_task(backend.wait_for_events())
        yield backend
    await waiter


async def check_fault(
    server: PostgresServer, fault: Fault, append_error: str, start_error: str, *, padding: int = 1
) -> None:
    """See what a backend and new stores do during the fault, and that the backend goes on afterwards."""
    schema = next(SCHEMAS)
    async with asyncio.timeout(40), running_backend(get_url(server), schema, padding) as backend:
        assert [await backend.post() for _ in range(3)] == [200] * 3
        await backend.settle()
        async with fault(server, schema):
            statuses, on_append, on_start = await asyncio.gather(
                asyncio.gather(*(backend.post() for _ in range(5))),
                get_append_error(backend.store, padding),
                get_error(start_and_close(make_store(server, schema))),
            )
            assert statuses == [503] * 5
            assert append_error in on_append
            assert bool(append_error) == bool(on_append)
            assert start_error in on_start
            assert bool(start_error) == bool(on_start)
        await backend.post_until_acknowledged()
        await backend.settle()
        # A late reader finds everything, too.
        async with SessionRouter(make_store(server, schema)) as late:
            missing = set(backend.acknowledged)
            async for event in (await late.session(backend.session.id)).events():
                missing.discard(event.avatar_id)
                if not missing:
                    break


async def start_and_close(store: PostgresStore) -> None:
    await store.start()
    await store.close()


# The faults


@asynccontextmanager
async def stopped(server: PostgresServer, _: str) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    yield
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def killed(server: PostgresServer, _: str) -> AsyncIterator[None]:
    await asyncio.to_thread(server.kill)
    yield
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def starting_up(server: PostgresServer, _: str) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start_as_standby, hot_standby="off")
    yield
    await asyncio.to_thread(server.promote)


@asynccontextmanager
async def in_recovery(server: PostgresServer, _: str) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start_as_standby)
    yield
    await asyncio.to_thread(server.promote)


async def reload(server: PostgresServer, statement: str, name: str, value: str) -> None:
    """Change a parameter, and wait until every session has it."""
    await execute(server, statement, "SELECT pg_reload_conf()")
    # pg_reload_conf() only asks. The server signals its sessions before it accepts a connection with the new value.
    while True:
        async with connected(server) as connection:
            if await connection.fetchval(f"SHOW {name}") == value:
                return
        await asyncio.sleep(0.01)


@asynccontextmanager
async def parameter(server: PostgresServer, name: str, value: str) -> AsyncIterator[None]:
    """Give a parameter of the server another value for the time of the block."""
    async with connected(server) as connection:
        before = await connection.fetchval(f"SHOW {name}")
    await reload(server, f"ALTER SYSTEM SET {name} = '{value}'", name, value)
    try:
        yield
    finally:
        await reload(server, f"ALTER SYSTEM RESET {name}", name, before)


@asynccontextmanager
async def read_only(server: PostgresServer, _: str) -> AsyncIterator[None]:
    async with parameter(server, "default_transaction_read_only", "on"):
        yield


@asynccontextmanager
async def silent(server: PostgresServer, _: str) -> AsyncIterator[None]:
    server.set_signal(signal.SIGSTOP)
    yield
    server.set_signal(signal.SIGCONT)


@asynccontextmanager
async def locked(server: PostgresServer, schema: str, table: str = "entries") -> AsyncIterator[None]:
    async with connected(server) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {schema}.{table}")
        yield


@asynccontextmanager
async def timing_out(server: PostgresServer, schema: str) -> AsyncIterator[None]:
    async with parameter(server, "statement_timeout", "200ms"), locked(server, schema):
        yield


async def end_sessions(server: PostgresServer) -> None:
    """End all sessions of the role, and wait until they are gone."""
    query = "FROM pg_stat_activity WHERE usename = 'worker'"
    async with connected(server) as connection:
        while await connection.fetch(f"SELECT pg_terminate_backend(pid) {query}"):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def role_at_its_limit(server: PostgresServer, _: str) -> AsyncIterator[None]:
    await execute(server, "ALTER ROLE worker CONNECTION LIMIT 0")
    await end_sessions(server)
    yield
    await execute(server, "ALTER ROLE worker CONNECTION LIMIT -1")


@asynccontextmanager
async def server_at_its_limit(server: PostgresServer, schema: str) -> AsyncIterator[None]:
    others: list[Any] = []
    async with role_at_its_limit(server, schema):
        # Three more are reserved for superusers. An attempt of the store that is being refused takes a place, too.
        while len(others) < MAX_CONNECTIONS - 3:
            try:
                others.append(await asyncpg.connect(server.url.replace("tester", "other")))
            except asyncpg.TooManyConnectionsError:
                await asyncio.sleep(0.01)
    yield
    for connection in others:
        await connection.close()


@pytest.mark.parametrize(
    ("fault", "append_error", "start_error"),
    [
        (stopped, "[Errno 111]", "[Errno 111]"),
        (killed, "[Errno 111]", "[Errno 111]"),
        (starting_up, "CannotConnectNowError (57P03)", "CannotConnectNowError (57P03)"),
        (
            in_recovery,
            "ReadOnlySQLTransactionError (25006)",
            "in recovery (a standby): PostgresStore needs the primary",
        ),
        (read_only, "ReadOnlySQLTransactionError (25006)", "default_transaction_read_only = on: set it to off"),
        (silent, "no response within 2 s", "no response within 2 s"),
        (locked, "no response within 2 s", ""),
        (timing_out, "QueryCanceledError (57014): canceling statement due to statement timeout", ""),
        (role_at_its_limit, "TooManyConnectionsError (53300)", "TooManyConnectionsError (53300)"),
        (server_at_its_limit, "TooManyConnectionsError (53300)", "TooManyConnectionsError (53300)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_webhooks_get_503_in_time_and_waiters_go_on_after(
    server: PostgresServer, fault: Fault, append_error: str, start_error: str
) -> None:
    await check_fault(server, fault, append_error, start_error)


@contextmanager
def mounted_disk(size: str) -> Generator[Path]:
    """Mount a file system of this size."""
    folder = Path(tempfile.mkdtemp(prefix="avaturn-disk-"))
    folder.chmod(0o755)
    try:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("file systems can only be mounted by root, and not in every container")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - as mount
    finally:
        folder.rmdir()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with mounted_disk("150m") as folder:
        yield folder


@pytest.fixture
def server_on_small_disk(small_disk: Path) -> Iterator[PostgresServer]:
    with running_for_worker(small_disk) as running:
        yield running


async def test_webhooks_get_503_while_the_disk_is_full(small_disk: Path, server_on_small_disk: PostgresServer) -> None:
    @asynccontextmanager
    async def filled(*_: object) -> AsyncIterator[None]:
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(65_536))
        yield
        ballast.unlink()

    await check_fault(server_on_small_disk, filled, "DiskFullError (53100)", "", padding=100_000)


async def wait_for_locks(server: PostgresServer, number: int) -> None:
    """Wait until so many statements of the role wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'worker' AND wait_event_type = 'Lock'"
    async with connected(server) as connection:
        while await connection.fetchval(query) != number:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def started(server: PostgresServer, schema: str) -> AsyncIterator[PostgresStore]:
    store = make_store(server, schema)
    await store.start()
    yield store
    await store.close()


async def test_lease_of_a_claim_that_was_late_is_returned(server: PostgresServer) -> None:
    schema = next(SCHEMAS)
    async with asyncio.timeout(20), started(server, schema) as store, started(server, schema) as other:
        await store.create_group("g")
        await other.create_group("g")
        position = await store.append(ENTRY)
        async with locked(server, schema, "deliveries"):
            assert "no response within 2 s" in await get_error(store.claim("g", limit=1))
        while not (claimed := await other.claim("g", limit=1)):
            await asyncio.sleep(0)
        assert claimed[0].entry.position == position


async def test_close_ends_calls_that_wait_for_the_server_and_leaves_no_lease(server: PostgresServer) -> None:
    schema = next(SCHEMAS)
    async with asyncio.timeout(20), started(server, schema) as other:
        store = make_store(server, schema)
        await store.start()
        await other.create_group("g")
        await store.create_group("g")
        position = await store.append(ENTRY)
        async with locked(server, schema, "deliveries"):
            calls: list[asyncio.Future[Any]]
            calls = [asyncio.ensure_future(store.append(ENTRY)), asyncio.ensure_future(store.claim("g", limit=1))]
            await wait_for_locks(server, 2)
            # It waits for the transaction of the other one.
            calls.append(asyncio.ensure_future(store.append(ENTRY)))
            cancelled = asyncio.ensure_future(store.append(ENTRY))
            await asyncio.sleep(0)
            cancelled.cancel()
            assert await get_error(store.close()) == ""
            for call in calls:
                assert "the store is closed" in await get_error(call)
            await wait_for_locks(server, 0)
        assert [claimed.entry.position for claimed in await other.claim("g", limit=5)] == [position]
        await store.start()
        assert await store.append(ENTRY) > position
        await store.close()


async def test_close_does_not_wait_for_a_silent_server(server: PostgresServer) -> None:
    schema = next(SCHEMAS)
    store = make_store(server, schema)
    await store.start()
    async with silent(server, schema):
        call = asyncio.ensure_future(store.append(ENTRY))
        await asyncio.sleep(0)
        assert await get_error(store.close()) == ""
        assert "the store is closed" in await get_error(call)
    assert await get_error(start_and_close(make_store(server, schema))) == ""


async def test_start_fails_in_time_while_another_start_holds_its_lock(server: PostgresServer) -> None:
    schema = next(SCHEMAS)
    async with connected(server) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", schema)
        assert "no response within 2 s" in await get_error(make_store(server, schema).start())
    assert await get_error(start_and_close(make_store(server, schema))) == ""


async def test_restart_under_load_loses_nothing_that_was_acknowledged(server: PostgresServer) -> None:
    async with asyncio.timeout(40), running_backend(get_url(server), next(SCHEMAS)) as backend:
        stop = asyncio.Event()

        async def post_all_the_time() -> None:
            while not stop.is_set():
                await backend.post()
                await asyncio.sleep(0)

        senders = [asyncio.ensure_future(post_all_the_time()) for _ in range(10)]
        for restart in (server.stop, server.kill):
            goal = len(backend.acknowledged) + 200
            while len(backend.acknowledged) < goal:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(restart)
            refused = backend.refused
            while backend.refused < refused + 20:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(server.start)
        await backend.post_until_acknowledged()
        stop.set()
        await asyncio.gather(*senders)
        await backend.settle()


async def test_failover_to_a_replica_that_lags_hides_no_later_event(server: PostgresServer) -> None:
    schema = next(SCHEMAS)
    await start_and_close(make_store(server, schema))
    await asyncio.to_thread(server.stop)
    folder = server.directory / "replica"
    folder.mkdir()
    replica = server.copy(folder)
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(replica.start)
    try:
        both = f"{get_url(server).rpartition('/postgres')[0]},127.0.0.1:{replica.port}/postgres"
        async with asyncio.timeout(20), running_backend(both, schema) as backend:
            assert [await backend.post() for _ in range(3)] == [200] * 3
            await backend.settle()
            await asyncio.to_thread(server.kill)
            # What the replica had not received is lost; what comes now is not.
            backend.acknowledged.clear()
            await backend.post_until_acknowledged()
            await backend.settle()
    finally:
        await asyncio.to_thread(replica.stop)
        await asyncio.to_thread(server.start)
