"""What RedisStore promises holds when Redis, the network or a process does not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis_server import WITH_AOF, RedisServer, needs_redis, running_redis
from tcp_proxy import TcpProxy, running_proxy

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores import Arrival, StoredEvent
from avaturn_async.webhooks.stores.redis import RedisStore

pytestmark = needs_redis

T = TypeVar("T")
AVATAR = "avatar:00000000-0000-4000-8000-00000000000a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[TcpProxy]:
    async with running_proxy(server.port) as running:
        yield running


def through(proxy: TcpProxy, *, silence: float = 1.0) -> RedisStore:
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}", prefix=f"{uuid4()}")
    store._silence = silence
    return store


def lose_patience(store: RedisStore) -> None:
    """Let a command have a moment only, where it will not be answered anyway."""
    assert store._link is not None
    store._link.deadline = 0.05


@asynccontextmanager
async def started(store: RedisStore) -> AsyncIterator[RedisStore]:
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def arrival(key: str) -> Arrival:
    return Arrival(key=key, body=key.encode(), subjects=(AVATAR,))


async def bodies(store: RedisStore) -> list[str]:
    found: list[StoredEvent] = []
    while page := await patiently(partial(store.read, AVATAR, after=found[-1].cursor if found else 0)):
        found += page
    return [event.body.decode() for event in found]


async def delivered(store: RedisStore, key: str) -> None:
    """Do as the sender of a webhook: repeat until it is taken."""
    await patiently(lambda: store.append(arrival(key)))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except StoreError:
            await asyncio.sleep(0)


class Hints:
    """What a store tells whoever listens."""

    def __init__(self, store: RedisStore) -> None:
        self._queue: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
        store.listen(self._queue.put_nowait)

    async def until(self, wanted: Callable[[Iterable[str] | None], bool]) -> None:
        async with asyncio.timeout(10):
            while not wanted(await self._queue.get()):
                pass

    async def look_at_everything(self) -> None:
        await self.until(lambda topics: topics is None)

    async def look_at(self, topic: str) -> None:
        # On a busy machine the server may seem to be silent once more, and everything is to be looked at.
        await self.until(lambda topics: topics is None or topic in topics)


# Away


async def test_a_redis_that_is_silent_is_an_error_within_the_time_of_a_webhook(proxy: TcpProxy) -> None:
    # The caller's client would wait for ever, and then try again.
    patient: Any = Redis.from_url(f"redis://127.0.0.1:{proxy.port}", socket_timeout=None)
    async with started(through(proxy)) as store, started(RedisStore(patient)) as on_a_client:
        proxy.blackhole()
        begun = time.monotonic()
        tries = [each.append(arrival(f"{n}")) for n in range(40) for each in (store, on_a_client)]
        found = await asyncio.gather(*tries, return_exceptions=True)
        # The promise is 2.5 s; a machine that is busy with other tests gets some more.
        assert time.monotonic() - begun < 6
        assert {type(each) for each in found} == {StoreError}
        proxy.flow()
        for each in (store, on_a_client):
            await delivered(each, "after")
            assert await bodies(each) == ["after"]
    await patient.aclose()


async def test_a_redis_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with started(RedisStore.from_url(server.url)) as store:
            server.stop()
            with pytest.raises(StoreError, match="Redis"):
                await store.append(arrival("one"))
            with pytest.raises(StoreError, match="Redis"):
                await store.seen("one")
            server.start()
            await delivered(store, "one")


async def test_a_start_without_redis_is_an_error_and_can_be_repeated(proxy: TcpProxy) -> None:
    store = through(proxy)
    await proxy.refuse()
    with pytest.raises(StoreError):
        await store.start()
    await proxy.start()
    async with started(store):
        assert await store.append(arrival("one")) > 0


async def test_a_start_that_nobody_answers_is_an_error(proxy: TcpProxy) -> None:
    store = through(proxy)
    store._deadline = 0.05
    proxy.blackhole()
    with pytest.raises(StoreError, match="no answer"):
        await store.start()


async def test_a_start_that_is_not_let_listen_is_an_error(server: RedisServer) -> None:
    # Commands pass, but the confirmation of the subscription never comes.
    client: Any = Redis.from_url(server.url)
    deaf = client.pubsub
    client.pubsub = lambda: Deaf(deaf())
    store = RedisStore(client)
    with pytest.raises(StoreError, match="not confirmed"):
        await store.start()
    await client.aclose()


class Deaf:
    """A subscription on which nothing is heard."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    async def get_message(self, timeout: float) -> None:
        del timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pubsub, name)


async def test_closing_does_not_wait_for_a_redis_that_is_gone(proxy: TcpProxy) -> None:
    async with started(through(proxy)) as store:
        await store.join("g")
        lose_patience(store)
        proxy.blackhole()
        under_way = asyncio.create_task(store.append(arrival("one")))
        await asyncio.sleep(0)
    with pytest.raises(StoreError):
        await under_way


async def test_what_is_under_way_when_a_store_closes_is_an_error(proxy: TcpProxy) -> None:
    async with started(through(proxy)) as store:
        proxy.stall()
        link = store._link
        assert link is not None
        under_way = [asyncio.create_task(store.append(arrival("one")))]
        for _ in range(5):
            await asyncio.sleep(0)
        # These have only just been asked for, and not been sent yet.
        under_way.append(asyncio.create_task(store.append(arrival("not sent"))))
        other = asyncio.create_task(link.within(60, asyncio.Event().wait()))
        await asyncio.sleep(0)
        await link.close()
        for task in (*under_way, other):
            with pytest.raises(StoreError, match="closed"):
                await task
        with pytest.raises(StoreError, match="closed"):
            await store.append(arrival("two"))


# A bad network


async def test_a_connection_that_is_reset_costs_one_repetition(proxy: TcpProxy) -> None:
    async with started(through(proxy)) as store:
        for n in range(20):
            under_way = asyncio.create_task(store.append(arrival(f"{n}")))
            for _ in range(n):
                await asyncio.sleep(0)
            await proxy.reset()
            try:
                await under_way
            except StoreError:
                await delivered(store, f"{n}")
        assert sorted(map(int, await bodies(store))) == list(range(20))


async def test_connections_that_the_server_closed_while_nobody_used_them_cost_nothing(
    server: RedisServer,
) -> None:
    async with started(RedisStore.from_url(server.url, prefix=f"{uuid4()}")) as store:
        # More than go together, so that there is more than one connection.
        await asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(100)))
        assert store._link is not None
        idle = tuple(store._link.redis.connection_pool._available_connections)
        other: Any = Redis.from_url(server.url)
        await other.client_kill_filter(_type="normal", skipme=True)
        await other.aclose()
        while not all(connection._reader.at_eof() for connection in idle):
            await asyncio.sleep(0)
        assert len(idle) > 1
        assert 0 not in await asyncio.gather(*(store.append(arrival(f"later {n}")) for n in range(10)))


async def test_an_event_whose_reply_was_lost_is_kept_once(proxy: TcpProxy) -> None:
    async with started(through(proxy)) as store:
        hints = Hints(store)
        await store.append(arrival("known"))
        proxy.lose_reply_to(b"lost reply")
        with pytest.raises(StoreError):
            await store.append(arrival("lost reply"))
        assert proxy.lost == 1
        await hints.look_at(AVATAR)
        assert await store.append(arrival("lost reply")) == 0
        assert await bodies(store) == ["known", "lost reply"]


async def test_what_was_claimed_by_a_lost_reply_is_taken_over(proxy: TcpProxy, server: RedisServer) -> None:
    now = time.time()
    prefix = f"{uuid4()}"
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}", prefix=prefix, clock=lambda: now)
    async with started(store):
        await store.append(arrival("one"))
        assert await store.claim("known", limit=1)
        proxy.lose_reply_to(b"lost")
        with pytest.raises(StoreError):
            await store.claim("lost", limit=1)
        assert await store.claim("lost", limit=1) == ()
        later = RedisStore.from_url(server.url, prefix=prefix, clock=lambda: now + 31)
        async with started(later):
            assert [event.body for event in await later.claim("lost", limit=1)] == [b"one"]


async def test_what_was_stalled_may_arrive_after_all_and_is_kept_once(proxy: TcpProxy) -> None:
    async with started(through(proxy)) as store:
        await store.append(arrival("known"))
        lose_patience(store)
        proxy.stall()
        with pytest.raises(StoreError, match="no answer"):
            await store.append(arrival("slow"))
        proxy.flow()
        await delivered(store, "slow")
        assert sorted(await bodies(store)) == ["known", "slow"]


@pytest.mark.parametrize("fault", ["reset", "blackhole", "refuse"])
async def test_waiters_go_on_when_redis_is_back(proxy: TcpProxy, server: RedisServer, fault: str) -> None:
    async with started(through(proxy, silence=0.05)) as store:
        hints = Hints(store)
        if fault == "blackhole":
            lose_patience(store)
            proxy.blackhole()
            found, _ = await asyncio.gather(
                store.seen("key"), proxy.forwards(b"PING"), return_exceptions=True
            )
            assert isinstance(found, StoreError)
            proxy.flow()
        else:
            await (proxy.reset() if fault == "reset" else proxy.refuse())
        if fault == "refuse":
            with pytest.raises(StoreError):
                await store.seen("key")
            await proxy.start()
        await hints.look_at_everything()
        other = RedisStore.from_url(server.url, prefix=store._root)
        async with started(other):
            await other.append(arrival("one"))
        await hints.look_at(AVATAR)
        assert await bodies(store) == ["one"]


async def test_a_waiter_goes_on_also_when_only_silence_tells_of_the_outage(proxy: TcpProxy) -> None:
    with said("the server is silent") as silent, said("hears of new events again") as back:
        async with started(through(proxy, silence=0.02)) as store:
            hints = Hints(store)
            lose_patience(store)
            proxy.stall()
            await silent.wait()
            proxy.flow()
            await hints.look_at_everything()
            await back.wait()


async def test_a_waiter_goes_on_also_when_redis_is_not_back_at_the_first_look(proxy: TcpProxy) -> None:
    with said("still hears of no new events") as still:
        async with started(through(proxy)) as store:
            hints = Hints(store)
            await proxy.refuse()
            await still.wait()
            await proxy.start()
            await hints.look_at_everything()


@contextmanager
def said(words: str) -> Iterator[asyncio.Event]:
    """An event that is set when a line with these words comes into the log."""
    log, handler = logging.getLogger("avaturn_async.webhooks"), _Said(words)
    log.addHandler(handler)
    yield handler.event
    log.removeHandler(handler)


class _Said(logging.Handler):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.event = asyncio.Event()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.event.set()


async def test_a_quiet_connection_is_kept(proxy: TcpProxy, caplog: pytest.LogCaptureFixture) -> None:
    async with started(through(proxy, silence=0.1)) as store:
        hints = Hints(store)
        for _ in range(4):
            await proxy.forwards(b"PING")
        await store.append(arrival("one"))
        await hints.look_at(AVATAR)
    assert "for now" not in caplog.text


# A server that forgets, dies or is full


async def test_a_server_that_forgot_the_scripts_is_told_them_again(server: RedisServer) -> None:
    client: Any = Redis.from_url(server.url)
    async with started(RedisStore(client, prefix=f"{uuid4()}")) as store:
        for key in ("one", "two"):
            await client.script_flush()
            assert await store.append(arrival(key)) > 0
        assert await bodies(store) == ["one", "two"]
    await client.aclose()


async def test_a_killed_server_comes_back_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    with running_redis(tmp_path, WITH_AOF) as server:
        async with started(RedisStore.from_url(server.url)) as store:
            hints = Hints(store)
            await store.join("g")
            acknowledged: set[str] = set()
            # By a handler, and those of them whose end was acknowledged.
            handled: set[str] = set()
            finished: set[str] = set()
            for life in range(3):
                await hunted(store, server, life, acknowledged, handled, finished)
                server.start()
                await hints.look_at_everything()
            assert len(acknowledged) > 30
            assert acknowledged <= set(await bodies(store))
            assert len(await bodies(store)) == len(set(await bodies(store)))
            later = RedisStore.from_url(server.url, takeover=0.001)
            async with started(later):
                left = await left_to_do(later)
            assert not finished & left
            assert acknowledged <= handled | left


async def hunted(
    store: RedisStore,
    server: RedisServer,
    life: int,
    acknowledged: set[str],
    handled: set[str],
    finished: set[str],
) -> None:
    """Append and finish at full speed until the server is killed in the middle of it."""
    enough = asyncio.Event()

    async def send(worker: int) -> None:
        for n in range(10_000):
            key = f"{life}-{worker}-{n}"
            await store.append(arrival(key))
            acknowledged.add(key)
            if len(acknowledged) > 60 * (life + 1):
                enough.set()

    async def handle() -> None:
        while True:
            for event in await store.claim("g", limit=3):
                handled.add(event.body.decode())
                await store.finish("g", (event.position,))
                finished.add(event.body.decode())

    tasks = [asyncio.create_task(work) for work in (*(send(n) for n in range(4)), handle())]
    await enough.wait()
    server.kill()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in found} == {StoreError}


async def left_to_do(store: RedisStore) -> set[str]:
    left: set[str] = set()
    while claimed := await store.claim("g", limit=100):
        left |= {event.body.decode() for event in claimed}
        await store.finish("g", [event.position for event in claimed])
    return left


async def test_a_full_redis_refuses_and_drops_nothing(tmp_path: Path) -> None:
    now = 1_000.0
    with running_redis(tmp_path, {"maxmemory": "6mb"}) as server:
        store = RedisStore.from_url(server.url, ttl=100, clock=lambda: now)
        async with started(store):
            await store.join("g")
            kept = await filled(store)
            for _ in range(3):
                with pytest.raises(StoreFullError, match="nothing that is stored was dropped"):
                    await store.append(Arrival(key="more", body=b"x" * 50_000, subjects=(AVATAR,)))
            assert await store.append(Arrival(key="0", body=b"", subjects=(AVATAR,))) == 0
            assert not await store.seen("more")
            assert len(await bodies(store)) == kept
            # Handlers work on, and so does whoever reads.
            claimed = await store.claim("g", limit=2)
            await store.hold("g", [event.position for event in claimed])
            await store.finish("g", [claimed[0].position])
            await store.release("g", [claimed[1].position])
            assert kept > 3
            now += 101
            assert await store.append(Arrival(key="more", body=b"x" * 50_000, subjects=(AVATAR,))) > 0
            assert (await store.sizes())["events"] < kept


async def filled(store: RedisStore) -> int:
    for n in range(10_000):
        try:
            await store.append(Arrival(key=f"{n}", body=b"x" * 50_000, subjects=(AVATAR,)))
        except StoreFullError:
            return n
    raise AssertionError("it is never full")


# Other processes


class Worker:
    """A process with a store of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, *words: str) -> Any:
        await self.tell(*words)
        return await self.answer()

    async def tell(self, *words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        await self.process.stdin.drain()

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return json.loads(await self.process.stdout.readline())


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[Worker]:
    pipe = asyncio.subprocess.PIPE
    script = Path(__file__).with_name("redis_worker.py")
    root = str(Path(__file__).parent.parent)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), url, stdin=pipe, stdout=pipe, env={**os.environ, "PYTHONPATH": root}
    )
    try:
        yield Worker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_processes_share_the_work_and_take_over_from_one_that_was_killed(server: RedisServer) -> None:
    client: Any = Redis.from_url(server.url)
    await client.flushall()
    await client.aclose()
    # For this one, the claims of the others lapsed a second ago.
    late = RedisStore.from_url(server.url, clock=lambda: time.time() + 31)
    async with started(RedisStore.from_url(server.url)) as store, started(late):
        async with worker(server.url) as one, worker(server.url) as two:
            await store.join("g")
            await asyncio.gather(*(store.append(arrival(f"{n}")) for n in range(30)))
            first, second = await asyncio.gather(one.ask("claim", "10"), two.ask("claim", "10"))
            assert len({*first, *second}) == 20
            assert len(await store.claim("g", limit=100)) == 10
            assert await store.claim("g", limit=100) == ()
            one.process.kill()
            await one.process.wait()
        taken = {event.body.decode() for event in await late.claim("g", limit=100)}
        assert taken >= set(first)


async def test_a_waiter_in_another_process_wakes_up(server: RedisServer) -> None:
    topic = f"avatar:{uuid4()}"
    async with worker(server.url) as waiting, worker(server.url) as sending:
        await waiting.tell("wait", topic)
        assert await sending.ask("append", f"{uuid4()}", topic) > 0
        assert await waiting.answer() == 1
