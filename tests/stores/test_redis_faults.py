"""RedisStore when the server, the network, the user's rights or the event loop fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from support.in_time import in_time
from support.redis_server import WITH_AOF, RedisServer, needs_redis, running_redis
from support.tcp_proxy import TcpProxy

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores.base import NewEntry
from avaturn_async.webhooks.stores.redis import RedisStore

pytestmark = needs_redis


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[TcpProxy]:
    admin: Any = Redis.from_url(redis_server.url)
    await admin.flushall()
    await admin.aclose()
    proxy = TcpProxy(redis_server.port)
    await proxy.start()
    yield proxy
    proxy.flow()
    await proxy.refuse()


def event(body: bytes = b"{}", **options: Any) -> NewEntry:
    return NewEntry(topics=("t",), body=body, **options)


@asynccontextmanager
async def started(store: RedisStore) -> AsyncIterator[RedisStore]:
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def append_until_stored(store: RedisStore, body: bytes) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreError):
                await store.append(event(body, key=body.decode()))
                return
            await asyncio.sleep(0)


async def fill(store: RedisStore) -> int:
    """Append until the server is full, and return how many entries it accepted."""
    for number in range(10_000):
        try:
            await store.append(event(b"x" * 50_000, key=str(number)))
        except StoreFullError:
            return number
    raise AssertionError("the server is never full")


async def test_silent_server_is_an_error_within_the_time_of_a_webhook(proxy: TcpProxy) -> None:
    async with started(RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")) as store:
        proxy.blackhole()
        async with in_time():
            with pytest.raises(StoreError, match=r"no response within|Timeout"):
                await store.append(event())
        proxy.flow()
        await append_until_stored(store, b"x")


async def test_start_without_a_server_is_an_error_and_can_be_repeated(proxy: TcpProxy) -> None:
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")
    await proxy.refuse()
    with pytest.raises(StoreError, match="ConnectionError"):
        await store.start()
    await store.close()
    with pytest.raises(StoreError, match="not started"):
        await store.append(event())
    await proxy.start()
    async with started(store):
        assert await store.append(event())


async def test_listeners_receive_none_after_each_lost_connection(proxy: TcpProxy) -> None:
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")
    received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    store.listen(received.put_nowait)
    async with started(store), asyncio.timeout(20):
        assert await received.get() is None
        await proxy.reset()
        assert await received.get() is None
        await append_until_stored(store, b"x")
        assert await received.get() == ["t"]


async def test_subscription_without_messages_is_tested_with_ping(
    redis_server: RedisServer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.stores.redis.SILENCE", 0.05)
    await redis.config_resetstat()
    async with started(RedisStore.from_url(redis_server.url)), asyncio.timeout(10):
        while "cmdstat_ping" not in await redis.info("commandstats"):
            await asyncio.sleep(0)


async def test_listeners_receive_none_after_a_silence_on_another_connection(
    proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.stores.redis.SILENCE", 0.05)
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")
    received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    store.listen(received.put_nowait)
    async with started(store), asyncio.timeout(10):
        assert await received.get() is None
        connections = len(proxy._connections)
        proxy.stall()
        while len(proxy._connections) == connections:
            await asyncio.sleep(0)
        proxy.flow()
        assert await received.get() is None


async def test_event_whose_reply_was_lost_is_stored_once(proxy: TcpProxy) -> None:
    async with started(RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")) as store:
        await store.append(event())
        proxy.lose_reply_to(b"needle")
        with pytest.raises(StoreError):
            await store.append(event(b"needle", key="k"))
        assert await store.append(event(b"needle", key="k")) == 0
        assert (await store.stats())["events"] == 2


async def test_command_whose_caller_gave_up_is_not_sent(proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each command is a batch of its own, so that the second one waits from before the first one is sent.
    monkeypatch.setattr("avaturn_async.webhooks.stores.redis.MAX_BATCH", 1)
    async with started(RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")) as store:
        proxy.stall()
        appends = [asyncio.create_task(store.append(event(body))) for body in (b"first", b"second")]
        for append in appends:
            with pytest.raises(StoreError):
                await append
        proxy.flow()
        await append_until_stored(store, b"third")
        bodies = [entry.body for entry in await store.read({"t": 0})]
        assert b"second" not in bodies
        assert b"third" in bodies


async def test_flushed_scripts_are_registered_again(redis_server: RedisServer, redis: Any) -> None:
    async with started(RedisStore.from_url(redis_server.url)) as store:
        await redis.script_flush()
        assert await store.append(event())
        await redis.script_flush()
        assert len(await store.read({"t": 0})) == 1


@pytest.mark.parametrize("name", ["topic:b", "pending:g", "events"])
async def test_append_that_fails_at_a_foreign_key_changes_nothing(
    redis_server: RedisServer, redis: Any, name: str
) -> None:
    entry = NewEntry(("a", "b"), b"x", key="k")
    async with started(RedisStore.from_url(redis_server.url)) as store:
        await store.create_group("g")
        await redis.set(f"{{avaturn}}:{name}", "foreign")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await store.append(entry)
        await redis.delete(f"{{avaturn}}:{name}")
        assert not await store.contains("k")
        assert await store.read({"a": 0}) == []
        assert await store.claim("g", limit=2) == []
        assert await store.stats() == {"events": 0, "bytes": 0, "records": 0}
        position = await store.append(entry)
        assert [each.position for each in await store.read({"a": 0, "b": 0})] == [position]
        assert [each.entry.position for each in await store.claim("g", limit=2)] == [position]


async def test_full_server_refuses_new_entries_and_drops_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path, {"maxmemory": "6mb"}) as server:
        async with started(RedisStore.from_url(server.url)) as store:
            stored = await fill(store)
            with pytest.raises(StoreFullError, match="nothing that is stored was dropped"):
                await store.append(event(b"x" * 50_000, key=str(stored)))
            # Nor beside a command that the server accepts.
            late = event(b"x" * 50_000, key=str(stored))
            outcomes = await asyncio.gather(store.create_group("g"), store.append(late), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None), StoreFullError]
            assert await store.append(event(key="0")) == 0
            assert not await store.contains(str(stored))
            assert (await store.stats())["events"] == stored > 3
            assert len(await store.read({"t": 0}, limit=1000)) == stored
            # Groups go on, also far above the bound.
            admin: Any = Redis.from_url(server.url)
            await admin.config_set("maxmemory", "1mb")
            await admin.aclose()
            first, second, third = [claimed.entry.position for claimed in await store.claim("g", limit=3)]
            await store.renew("g", [first], count=True)
            await store.ack("g", [first])
            await store.nack("g", [second])
            await store.fail("g", third, "reason")
            await store.retry("g", [third])
            assert len(await store.claim("new", limit=2)) == 2


async def test_full_server_takes_new_entries_when_others_have_expired(tmp_path: Path) -> None:
    with running_redis(tmp_path, {"maxmemory": "6mb"}) as server:
        client: Any = Redis.from_url(server.url)
        async with started(RedisStore(client)) as store:
            await fill(store)
            await client.config_set("maxmemory", "0")
            for entry in (await store.read({"t": 0}))[:20]:
                await client.zadd("{avaturn}:events", {str(entry.position): 1})
                await client.hset(f"{{avaturn}}:entry:{entry.position}", "expires", 1)
            await client.config_set("maxmemory", "6mb")
            assert await store.append(event(b"x" * 50_000))
        await client.aclose()


async def test_demoted_primary_is_left_after_readonly(tmp_path: Path) -> None:
    with running_redis(tmp_path / "a") as old, running_redis(tmp_path / "b") as new:
        address = TcpProxy(old.port)
        await address.start()
        admin: Any = Redis(port=old.port)
        received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
        store = RedisStore.from_url(f"redis://127.0.0.1:{address.port}")
        store.listen(received.put_nowait)
        async with started(store), asyncio.timeout(20):
            before = await store.append(event())
            # The address moves to a replica that had received nothing; connections stay on the demoted primary.
            await admin.replicaof("127.0.0.1", new.port)
            address.move(new.port)
            while not received.empty():
                received.get_nowait()
            with pytest.raises(StoreError, match="ReadOnly"):
                await store.append(event())
            assert await store.append(event()) > before
            while await received.get() is not None:
                pass
            await store.append(event())
            while await received.get() != ["t"]:
                pass
        await admin.aclose()
        await address.refuse()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Return three nodes of one Redis Cluster, which share the slots."""
    with contextlib.ExitStack() as stack:
        options = {"cluster-enabled": "yes"}
        nodes = [stack.enter_context(running_redis(tmp_path_factory.mktemp("node"), options)) for _ in range(3)]
        admins: list[Any] = [sync_redis.Redis.from_url(node.url, decode_responses=True) for node in nodes]
        for index, admin in enumerate(admins):
            stack.callback(admin.close)
            slots = range(16_384 * index // 3, 16_384 * (index + 1) // 3)
            admin.execute_command("CLUSTER ADDSLOTS", *slots)
            admin.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
            admin.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">geheim", "~*", "&*", "+@all", "-info")
        for node in nodes:
            node.wait_for_output("Cluster state changed: ok")
        yield nodes


async def test_client_of_a_cluster_is_refused_at_construction(cluster: list[RedisServer]) -> None:
    client: Any = RedisCluster(host="127.0.0.1", port=cluster[0].port)
    assert await client.set("key", "value")
    with pytest.raises(TypeError, match="Redis Cluster are not supported"):
        RedisStore(client)
    await client.aclose()


@pytest.mark.parametrize("user", ["", "limited:geheim@"])
async def test_start_on_a_node_of_a_cluster_says_so(cluster: list[RedisServer], user: str) -> None:
    for node in cluster:
        with pytest.raises(StoreError, match="node of a Redis Cluster"):
            await RedisStore.from_url(f"redis://{user}127.0.0.1:{node.port}").start()


@pytest.mark.parametrize("command", ["publish", "subscribe", "zrangebyscore", "hincrby", "evalsha", "time"])
async def test_start_names_a_command_that_the_user_may_not_run(
    redis_server: RedisServer, redis: Any, command: str
) -> None:
    await redis.execute_command(
        "ACL", "SETUSER", "limited", "reset", "on", ">geheim", "~*", "&*", "+@all", f"-{command}"
    )
    with pytest.raises(StoreError, match=f"(?i){command}") as raised:
        await RedisStore.from_url(f"redis://limited:geheim@127.0.0.1:{redis_server.port}").start()
    assert "geheim" not in str(raised.value)


async def test_start_names_publish_when_the_channel_is_forbidden(redis_server: RedisServer, redis: Any) -> None:
    await redis.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">geheim", "~*", "+@all")
    with pytest.raises(StoreError, match="PUBLISH"):
        await RedisStore.from_url(f"redis://limited:geheim@127.0.0.1:{redis_server.port}").start()


async def test_user_without_info_starts_with_a_warning(
    redis_server: RedisServer, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.execute_command(
        "ACL", "SETUSER", "limited", "reset", "on", ">geheim", "~{avaturn}:*", "&*", "+@all", "-info"
    )
    async with started(RedisStore.from_url(f"redis://limited:geheim@127.0.0.1:{redis_server.port}")) as store:
        await store.append(event())
    assert "make sure that it is noeviction" in caplog.text


async def test_older_server_is_refused(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = redis.execute_command

    async def respond_as_older(command: str, *arguments: Any, **options: Any) -> Any:
        return {"version": "6.0.16"} if command == "HELLO" else await execute(command, *arguments, **options)

    monkeypatch.setattr(redis, "execute_command", respond_as_older)
    with pytest.raises(StoreError, match=r"needs Redis 6.2 or later, or Valkey; this one is 6\.0$"):
        await RedisStore(redis).start()


async def test_evicting_policy_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path, {"maxmemory-policy": "allkeys-lru"}) as server,
        pytest.raises(StoreError, match=r"allkeys-lru.*noeviction"),
    ):
        await RedisStore.from_url(server.url).start()


@pytest.mark.parametrize(("options", "warned"), [({}, True), (WITH_AOF, False)])
async def test_start_warns_without_aof(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, str], *, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    with running_redis(tmp_path, options) as server:
        async with started(RedisStore.from_url(server.url)):
            assert ("without AOF" in caplog.text) is warned


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # redis-py 5.1
@pytest.mark.parametrize("owned", [True, False])
def test_store_starts_anew_after_its_loop_ended_without_close(redis_server: RedisServer, *, owned: bool) -> None:
    async def use(store: RedisStore) -> int:
        with pytest.raises(StoreError, match="not started"):
            await store.append(event())
        await store.start()
        return await store.append(event())

    def use_in_three_loops() -> list[int]:
        store = RedisStore.from_url(redis_server.url) if owned else RedisStore(Redis.from_url(redis_server.url))
        return [asyncio.run(use(store)) for _ in range(3)]

    first, second, third = use_in_three_loops()
    assert first < second < third
    # The connections of the ended loops warn here, where the warnings are ignored.
    gc.collect()


async def test_use_from_a_second_running_loop_is_an_error(redis_server: RedisServer) -> None:
    async with started(RedisStore.from_url(redis_server.url)) as store:

        async def use() -> None:
            with pytest.raises(StoreError, match="another running event loop"):
                await store.start()
            with pytest.raises(StoreError, match="another running event loop"):
                await store.append(event())

        await asyncio.to_thread(asyncio.run, use())
        assert await store.append(event())


async def test_cancelled_caller_ends_at_once_and_closing_does_not_wait_for_a_silent_server(proxy: TcpProxy) -> None:
    async with started(RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}")) as store, asyncio.timeout(4):
        proxy.stall()
        tasks = [asyncio.create_task(store.append(event(b"x"))) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        # In the next batch, which is not sent any more.
        tasks.append(asyncio.create_task(store.append(event(b"y"))))
        await asyncio.sleep(0)
        await store.close()
        for task in tasks[1:]:
            with pytest.raises(StoreError, match="the store is closed"):
                await task
