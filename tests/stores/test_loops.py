"""All objects of an app together: in one event loop after another without close(), and in two that run at once."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.loop_thread import LoopThread, running_loop
from support.postgres_server import needs_postgres
from support.redis_server import needs_redis

from avaturn_async import AvaturnClient, AvaturnError, StoreError
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import (
    AvatarReady,
    ConfirmByApi,
    MemoryStore,
    RoutedSession,
    SessionRouter,
    SharedSecret,
    SQLiteStore,
    WebhookReceiver,
    WebhookRequest,
)
from avaturn_async.webhooks.stores.base import EventStore

SECRET = SharedSecret("hush-0123456789abcdef", header="X-Secret")
# Python reports the connections of a loop that ended without close(): they can neither be used nor closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
numbers = count(1)


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=needs_redis),
        pytest.param("postgres", marks=needs_postgres),
    ]
)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], EventStore]]:
    name = f"loops_{next(numbers)}"
    match request.param:
        case "memory":
            yield MemoryStore
        case "sqlite":
            yield lambda: SQLiteStore(tmp_path / "events.db")
        case "redis":
            from avaturn_async.webhooks import RedisStore  # noqa: PLC0415 - not installed everywhere

            url = request.getfixturevalue("redis_url")
            yield lambda: RedisStore.from_url(url, prefix=name)
        case _:
            from avaturn_async.webhooks import PostgresStore  # noqa: PLC0415 - the same

            url = request.getfixturevalue("postgres_url")
            yield lambda: PostgresStore.from_url(url, schema=name)
    gc.collect()  # here, where these warnings are ignored


@pytest.fixture
def api() -> Iterator[tuple[LoopThread, FakeAvaturn]]:
    """FakeAvaturn in the loop of another thread."""
    with running_loop() as thread:
        fake = thread.run(_enter(FakeAvaturn()))
        yield thread, fake
        thread.run(fake.close())


async def _enter(fake: FakeAvaturn) -> FakeAvaturn:
    return await fake.__aenter__()


class App:
    """The objects that an app creates once, at import."""

    def __init__(self, url: str, store: EventStore, folder: Path) -> None:
        self.url = url
        self.store = store
        self.folder = folder
        self.client = AvaturnClient("token", base_url=url)
        self.router = SessionRouter(store)
        confirm = ConfirmByApi(self.client, self.router)
        self.receiver = WebhookReceiver(self.router, verifier=SECRET, confirm=confirm)
        self.handled: list[UUID] = []

        @self.router.on(AvatarReady, name="collect")
        async def collect(event: AvatarReady, session: RoutedSession | None) -> None:
            assert session is not None
            self.handled.append(event.avatar_id)

    async def run(self, api: tuple[LoopThread, FakeAvaturn]) -> None:
        """Open a session, receive its webhook, and wait for the event, the handler and the file."""
        thread, fake = api
        user = await self.client.create_user()
        session = await self.router.open_session(self.client, user.id)
        waiting = asyncio.ensure_future(session.wait_for(AvatarReady, timeout=20))
        avatar_id = await asyncio.to_thread(thread.run, fake.finish_session(session.id))
        assert (await self.receive(avatar_id, session.id)) == 200
        event = await waiting
        assert (event.avatar_id, event.user_id) == (avatar_id, user.id)
        export = await self.client.create_export(avatar_id)
        while export.url is None:
            export = await self.client.create_export(avatar_id)
        assert (await self.client.download(export.url, self.folder)).read_bytes().startswith(b"glTF")
        async with asyncio.timeout(20):
            while avatar_id not in self.handled:
                await asyncio.sleep(0.001)

    async def receive(self, avatar_id: UUID, session_id: UUID) -> int:
        body = f'{{"event": "avatar.ready", "avatar_id": "{avatar_id}", "session_id": "{session_id}"}}'.encode()
        request = WebhookRequest(method="POST", headers=SECRET.sign(body), body=body)
        return (await self.receiver.receive(request)).status

    async def close(self) -> None:
        await self.router.close()
        await self.client.close()


def test_the_same_objects_work_in_one_loop_after_another(
    make_store: Callable[[], EventStore], api: tuple[LoopThread, FakeAvaturn], tmp_path: Path
) -> None:
    """As with ``asyncio.run`` in a script, in Celery and in cron jobs; nothing is closed in between."""
    app = App(api[1].url, make_store(), tmp_path)
    for _ in range(3):
        asyncio.run(app.run(api))
    asyncio.run(app.close())
    assert len(set(app.handled)) == 3
    assert app.receiver.outcomes["stored"] == 3


def test_objects_of_another_running_loop_are_refused_and_its_loop_goes_on(
    make_store: Callable[[], EventStore], api: tuple[LoopThread, FakeAvaturn], tmp_path: Path
) -> None:
    app = App(api[1].url, make_store(), tmp_path)
    calls: list[Callable[[], Any]] = [
        app.client.create_user,
        lambda: app.client.download(f"{app.url}/x.glb", tmp_path),
        app.router.start,
        lambda: app.router.session(uuid4()),
        lambda: app.router.open_session(app.client, "user"),
        lambda: app.router.wait_for(AvatarReady, avatar_id=uuid4(), timeout=1),
        lambda: anext(app.router.events(avatar_id=uuid4())),
        app.router.failed_events,
        app.router.close,
        app.client.close,
        app.store.start,
        app.store.stats,
        app.store.close,
    ]

    async def call_all() -> None:
        for call in calls:
            with pytest.raises(AvaturnError, match=r"another running event loop|two running event loops"):
                await call()
        assert await app.receive(uuid4(), uuid4()) == 503
        assert app.receiver.outcomes["store_unavailable"] == 1

    with running_loop() as first:
        first.run(app.run(api))
        asyncio.run(call_all())
        first.run(app.run(api))
        # Nor does the refused start() of another loop undo the beginning of the end.
        app.router.begin_close()
        with pytest.raises(StoreError):
            asyncio.run(app.router.start())
        assert app.router.closing
        first.run(app.close())
    assert len(set(app.handled)) == 2


FORKING_PROGRAM = Path(__file__).parents[1] / "support" / "forking.py"


@pytest.mark.parametrize(
    "url", [pytest.param("redis_url", marks=needs_redis), pytest.param("postgres_url", marks=needs_postgres)]
)
@pytest.mark.parametrize("scenario", ["same store", "same store, in the running loop"])
def test_store_that_was_started_before_a_fork_starts_anew_in_the_child(
    url: str, scenario: str, request: pytest.FixtureRequest
) -> None:
    words = [sys.executable, str(FORKING_PROGRAM), request.getfixturevalue(url), scenario]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    found = Counter(tuple(json.loads(line)[:2]) for line in done.stdout.splitlines())
    again = {("parent again", "acknowledged"): 5} if "running" in scenario else {}
    assert found == {("parent", "acknowledged"): 5, ("child", "acknowledged"): 5, **again}, done.stdout


def test_two_threads_with_objects_of_their_own_share_a_store(
    make_store: Callable[[], EventStore], api: tuple[LoopThread, FakeAvaturn], tmp_path: Path
) -> None:
    first, second = (App(api[1].url, make_store(), tmp_path) for _ in range(2))
    if isinstance(first.store, MemoryStore):
        pytest.skip("a MemoryStore is not shared")

    async def open_session() -> RoutedSession:
        user = await first.client.create_user()
        return await first.router.open_session(first.client, user.id)

    async def wait_for(session_id: UUID) -> AvatarReady:
        return await (await second.router.session(session_id)).wait_for(AvatarReady, timeout=20)

    with running_loop() as one, running_loop() as two:
        sessions = [one.run(open_session()) for _ in range(5)]
        waits = [asyncio.run_coroutine_threadsafe(wait_for(session.id), two.loop) for session in sessions]
        avatars = [api[0].run(api[1].finish_session(session.id)) for session in sessions]
        for avatar_id, session in zip(avatars, sessions, strict=True):
            assert one.run(first.receive(avatar_id, session.id)) == 200
        assert [wait.result(30).avatar_id for wait in waits] == avatars
        one.run(first.close())
        two.run(second.close())
    assert sorted(first.handled + second.handled) == sorted(avatars)
