"""``avaturn failed`` and ``avaturn retry`` on real stores, beside a running app."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.postgres_server import needs_postgres, running_postgres
from support.redis_server import WITH_AOF, needs_redis, running_redis
from support.routing import Api, avatar_ready, export_ready, publish

from avaturn_async.cli import main
from avaturn_async.webhooks import (
    AvatarReady,
    ExportReady,
    PostgresStore,
    RedisStore,
    SessionRouter,
    SQLiteStore,
)

Run = Callable[..., Any]
PASSWORD = "secret-password"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options = {"requirepass": PASSWORD, **WITH_AOF}
    with running_redis(tmp_path_factory.mktemp("redis") / "data", options) as server:
        yield server.url.replace("redis://", f"redis://:{PASSWORD}@")


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with running_postgres() as server:
        yield server.url


@pytest.fixture(
    params=["file", "sqlite", pytest.param("redis", marks=needs_redis), pytest.param("postgres", marks=needs_postgres)]
)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        found: str = request.getfixturevalue("redis_url")
        client: Any = importlib.import_module("redis.asyncio").Redis.from_url(found)
        await client.flushall()
        await client.aclose()
        return found
    if request.param == "postgres":
        found = request.getfixturevalue("postgres_url")
        connection: Any = await asyncpg.connect(found)
        await connection.execute("DROP SCHEMA IF EXISTS avaturn CASCADE")
        await connection.close()
        return found
    return f"{'sqlite:///' if request.param == 'sqlite' else ''}{tmp_path}/events.db"


def make_store(url: str) -> Any:
    if url.startswith("redis"):
        return RedisStore.from_url(url)
    return PostgresStore.from_url(url) if url.startswith("postgres") else SQLiteStore(url.removeprefix("sqlite:///"))


def drop_slow_steps(errors: str) -> str:
    """Drop what asyncio says in development mode about slow steps, on a busy machine."""
    return "".join(line for line in errors.splitlines(keepends=True) if not line.startswith("Executing <Task"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    async def run(*argv: str) -> tuple[int, str, str]:
        """Return the exit code, the output and the errors of a command in this process."""
        code = await asyncio.to_thread(main, argv)
        captured = capsys.readouterr()
        assert PASSWORD not in captured.out + captured.err
        return code, captured.out, drop_slow_steps(captured.err)

    return run


class App:
    """An app whose handlers fail until ``is_mended``."""

    def __init__(self, url: str) -> None:
        self.router = SessionRouter(make_store(url), handler_attempts=2, handler_backoff=0)
        self.is_mended = False
        self.handled: list[Any] = []
        self.failed: asyncio.Queue[str] = asyncio.Queue()
        self.router.on(AvatarReady, name="mail")(self.handle)
        self.router.on(ExportReady, name="copy")(self.handle)

        @self.router.on_failed
        async def note(failed: Any) -> None:
            self.failed.put_nowait(failed.handler)

        del note

    async def handle(self, event: Any, session: Any) -> None:
        if not self.is_mended:
            raise RuntimeError("no \x1b[31mroom")
        self.handled.append((event.event, session.user_id))


@pytest.fixture
async def app(url: str) -> AsyncIterator[App]:
    app = App(url)
    async with asyncio.timeout(20), app.router:
        session = await app.router.open_session(Api().client, "user")
        await publish(app.router, avatar_ready(1, 1))
        assert await app.failed.get() == "mail"
        await publish(app.router, export_ready(1))
        assert await app.failed.get() == "copy"
        assert session.user_id == "user"
        yield app


async def test_failed_events_are_listed_and_handled_after_retry_by_the_running_app(
    app: App, url: str, run: Run
) -> None:
    code, out, err = await run("failed", url)
    copied, mailed = [line.split("  ") for line in out.splitlines()]
    session = "5e551011-0000-4000-8000-000000000001"
    assert (code, err) == (0, "")
    assert [copied[0], *copied[2:]] == [
        *("copy:ExportReady", "2 attempts", "export.ready", session, r"RuntimeError: no \x1b[31mroom")
    ]
    assert [mailed[0], *mailed[2:5]] == ["mail:AvatarReady", "2 attempts", "avatar.ready", session]

    app.is_mended = True
    position = next(each.event.position for each in await app.router.failed_events() if each.handler == "mail")
    assert mailed[1] == str(position)
    # As a user runs it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avaturn_async", "retry", url, "mail:AvatarReady", mailed[1]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (output, drop_slow_steps(errors.decode())) == (b"returned to their handlers: 1\n", "")
    while not app.handled:
        await asyncio.sleep(0.01)
    assert app.handled == [("avatar.ready", "user")]

    assert (await run("retry", url, "--all"))[:2] == (0, "returned to their handlers: 1\n")
    while len(app.handled) < 2:
        await asyncio.sleep(0.01)
    assert (await run("failed", url))[:2] == (0, "no failed events\n")


async def test_unknown_handler_or_position_is_refused_and_creates_nothing(app: App, url: str, run: Run) -> None:
    code, out, err = await run("retry", url, "mial:AvatarReady")
    assert (code, out) == (1, "")
    assert err == "error: no handler 'mial:AvatarReady' in this store, but copy:ExportReady, mail:AvatarReady\n"
    assert list(await app.router.bus.store.groups()) == ["copy:ExportReady", "mail:AvatarReady"]
    code, out, err = await run("retry", url, "mail:AvatarReady", "12345")
    assert (code, err) == (1, "error: mail:AvatarReady: no failed event at position 12345\n")
    assert len(await app.router.failed_events()) == 2


@pytest.mark.parametrize("words", [(), ("--all", "mail:AvatarReady")])
async def test_retry_needs_a_handler_or_all(words: tuple[str, ...], run: Run, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        await run("retry", *words[:1], "events.db", *words[1:])
    assert "name a HANDLER, as avaturn failed shows it, or give --all" in capsys.readouterr().err


async def test_more_failed_events_than_one_page_are_all_retried(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avaturn_async.cli.failed.MAX_LISTED", 2)  # not ten thousand events
    path = str(tmp_path / "events.db")
    store = SQLiteStore(path)
    await store.start()
    await store.create_group("mail")
    new = importlib.import_module("avaturn_async.webhooks.stores.base").NewEntry((), b"x")
    positions = [await store.append(new) for _ in range(4)]
    for position in positions:
        await store.fail("mail", position, "reason")
    await store.close()
    assert "mail  there may be more than these 2" in (await run("failed", path))[1]
    code, _, err = await run("retry", path, "mail", "12345")
    assert (code, err) == (1, "error: mail: no failed event at position 12345 among the oldest 2\n")
    first = str(positions[0])
    assert (await run("retry", path, "mail", first))[:2] == (0, "returned to their handlers: 1\n")
    assert (await run("retry", path, "--all"))[:2] == (0, "returned to their handlers: 3\n")
    assert (await run("failed", path))[:2] == (0, "no failed events\n")


async def test_entry_that_is_no_event_is_listed_too(tmp_path: Path, run: Run) -> None:
    path = str(tmp_path / "events.db")
    store = SQLiteStore(path)
    await store.start()
    await store.create_group("g")
    position = await store.append(importlib.import_module("avaturn_async.webhooks.stores.base").NewEntry((), b"x"))
    await store.fail("g", position, "reason")
    await store.close()
    assert (await run("failed", path))[1] == f"g  {position}  0 attempts  unreadable  -  reason\n"


@pytest.mark.parametrize("command", [("failed",), ("retry", "--all")])
async def test_wrong_file_is_named_and_not_created(command: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("something else" * 100)
    for name, message in (
        ("missing.db", "cannot read {}: No such file or directory"),
        ("empty.db", "{} is empty"),
        ("text.db", "{} is not an SQLite database: give the store a file of its own"),
    ):
        path = tmp_path / name
        assert await run(*command, str(path)) == (1, "", f"error: {message.format(path)}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "text.db"]
    assert not (tmp_path / "empty.db").stat().st_size


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"mysql://user:{PASSWORD}@host/db", "STORE must be an SQLite file, or begin with sqlite:///, redis:// or"),
        (f"redis://user:{PASSWORD}@localhost:nothing/0", "not a URL of Redis"),
        (f"redis://user:{PASSWORD}@127.0.0.1:1/0", "Redis: ConnectionError"),
        (f"postgresql://user:{PASSWORD}@localhost:nothing/db", "dsn is not a URL of PostgreSQL"),
        (f"postgresql://user:{PASSWORD}@127.0.0.1:1/db", "PostgreSQL: ConnectionRefusedError"),
    ],
)
async def test_wrong_url_is_a_failure_without_the_password(url: str, message: str, run: Run) -> None:
    code, out, err = await run("failed", url)
    assert (code, out) == (1, "")
    assert message in err


@needs_redis
async def test_redis_without_the_store_is_a_failure(redis_url: str, run: Run) -> None:
    code, _, err = await run("failed", "--prefix", "{mistyped}", redis_url)
    assert (code, err) == (
        1,
        "error: no handler has used this store: are its address, --prefix and --schema those of the app?\n",
    )


@needs_postgres
async def test_postgres_without_the_schema_is_a_failure_and_creates_none(postgres_url: str, run: Run) -> None:
    code, _, err = await run("failed", "--schema", "mistyped", postgres_url)
    assert (code, err) == (1, "error: the database has no schema 'mistyped' of avaturn_async\n")
    connection: Any = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'mistyped'") == 0
    await connection.close()


@pytest.mark.parametrize(("url", "extra"), [("redis://host", "redis"), ("postgresql://host/db", "postgres")])
async def test_missing_library_is_named(url: str, extra: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"avaturn_async.webhooks.stores.{extra}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for name in ("redis.asyncio", "asyncpg"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = await run("failed", url)
    assert code == 1
    assert f'pip install "avaturn_async[{extra}]"' in err
