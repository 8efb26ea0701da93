"""RedisStore on a real server: the log, groups and notifications."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis as sync_redis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from support.redis_server import RedisServer, needs_redis
from support.store_machine import check_store

from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores.base import EventStore, NewEntry
from avaturn_async.webhooks.stores.redis import RedisStore

pytestmark = needs_redis


@pytest.fixture
async def store(redis: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis)
    await store.start()
    yield store
    await store.close()


def event(body: bytes = b"{}", *topics: str, **options: Any) -> NewEntry:
    return NewEntry(topics=topics or ("t",), body=body, **options)


async def expire(redis: Any, position: int) -> None:
    """Let an entry expire now, without waiting."""
    await redis.hset(f"{{avaturn}}:entry:{position}", "expires", 1)
    for name in ("events", "records"):
        await redis.zadd(f"{{avaturn}}:{name}", {str(position): 1}, xx=True)


class TestRedisStore(EventStoreContract):
    has_bounds = False

    @pytest.fixture(autouse=True)
    def use_server(self, redis_server: RedisServer) -> Iterator[None]:
        self.url = redis_server.url
        self.admin: Any = sync_redis.Redis.from_url(redis_server.url)
        self.admin.flushall()
        yield
        self.admin.close()

    async def make_store(self, *, max_events: int, max_bytes: int) -> RedisStore:
        del max_events, max_bytes
        return RedisStore.from_url(self.url, ttl=self.ttl, lease=self.lease)

    async def make_another(self, store: EventStore) -> RedisStore:
        del store
        return RedisStore.from_url(self.url, ttl=self.ttl, lease=self.lease)

    async def pass_time(self, seconds: float) -> None:
        """Move all times in the server back: its clock cannot be set, and a test does not wait."""
        past = round(seconds * 1000)
        for key in self.admin.keys("*"):
            kind = key.split(b":")[1]
            if kind in {b"events", b"records", b"groups", b"pending"}:
                for member in self.admin.zrangebyscore(key, 1, "+inf"):
                    self.admin.zincrby(key, -past, member)
            elif kind == b"entry":
                self.admin.hincrby(key, "expires", -past)
                self.admin.hincrby(key, "at", -past * 1000)
            self.admin.pexpire(key, self.admin.pttl(key) - past)

    @pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    )  # redis-py 5.1
    async def test_store_starts_in_a_new_loop_after_the_first_loop_ended(self) -> None:
        await super().test_store_starts_in_a_new_loop_after_the_first_loop_ended()
        # The connections of the ended loop warn here, where the warnings are ignored.
        gc.collect()


def test_store_behaves_as_the_model(redis_server: RedisServer) -> None:
    with sync_redis.Redis.from_url(redis_server.url) as admin:

        def make_contract() -> TestRedisStore:
            admin.flushall()
            contract = TestRedisStore()
            contract.url, contract.admin = redis_server.url, admin
            return contract

        check_store(make_contract, examples=25)


async def test_read_returns_each_entry_of_the_topics_once_in_order(store: RedisStore) -> None:
    a = await store.append(event(b"a", "x", "y"))
    b = await store.append(event(b"b", "y"))
    c = await store.append(event(b"\x00\xff", "x"))
    await store.append(event(b"d", "z"))
    assert [(e.position, e.body) for e in await store.read({"x": 0, "y": 0})] == [
        (a, b"a"),
        (b, b"b"),
        (c, b"\x00\xff"),
    ]
    assert [e.position for e in await store.read({"x": a, "y": b})] == [c]
    assert [e.position for e in await store.read({"x": 0, "y": 0}, limit=2)] == [a, b]
    assert (await store.read({"x": 0}))[0].topics == ("x", "y")


@pytest.mark.parametrize("limit", [0, -1])
async def test_read_with_a_limit_below_1_returns_nothing(store: RedisStore, limit: int) -> None:
    await store.append(event())
    assert await store.read({"t": 0}, limit=limit) == []


async def test_expired_entries_are_filtered_before_the_limit(store: RedisStore, redis: Any) -> None:
    positions = [await store.append(event(b"%d" % i)) for i in range(6)]
    for position in positions[:4]:
        await expire(redis, position)
    assert [e.position for e in await store.read({"t": 0}, limit=2)] == positions[4:]
    assert await store.stats() == {"events": 2, "bytes": 2, "records": 0}
    assert await store.purge_expired(limit=3) == 3
    assert await store.purge_expired() == 1
    assert await store.purge_expired() == 0


async def test_duplicate_returns_0_and_changes_nothing(store: RedisStore) -> None:
    assert await store.append(event(key="k"))
    assert await store.append(event(key="k")) == 0
    assert await store.contains("k")
    assert not await store.contains("other")
    assert (await store.stats())["events"] == 1


async def test_concurrent_duplicates_are_stored_once(store: RedisStore) -> None:
    positions = await asyncio.gather(*(store.append(event(key="k")) for _ in range(60)))
    assert len([position for position in positions if position]) == 1


async def test_positions_rise_after_all_data_has_expired(store: RedisStore, redis: Any) -> None:
    first = await store.append(event())
    await redis.flushall()
    assert await store.append(event()) > first


async def test_positions_rise_on_a_server_whose_last_position_is_ahead_or_behind(store: RedisStore, redis: Any) -> None:
    ahead = 2_000_000_000_000_000
    await redis.set("{avaturn}:last", ahead)
    first = await store.append(event())
    # A replica that lagged, and whose clock is behind, has become the primary.
    await redis.delete("{avaturn}:last")
    second = await store.append(event())
    assert ahead < first < second


async def test_records_live_two_ttls_and_are_not_dispatched(store: RedisStore, redis: Any) -> None:
    position = await store.append(event(dispatch=False))
    own = await store.append(event(dispatch=False, ttl=50.0))
    assert await store.claim("g", limit=5) == []
    assert await store.stats() == {"events": 0, "bytes": 0, "records": 2}
    (entry, other) = await store.read({"t": 0})
    for stored, life in ((entry, 2 * store.ttl_seconds), (other, 50.0)):
        expiry = int(await redis.hget(f"{{avaturn}}:entry:{stored.position}", "expires")) / 1000
        assert expiry - stored.at == pytest.approx(life, abs=0.01)
    assert (entry.position, other.position) == (position, own)


async def test_group_claims_oldest_first_and_counts_attempts(store: RedisStore) -> None:
    positions = [await store.append(event()) for _ in range(3)]
    await store.create_group("g")
    claimed = await store.claim("g", limit=2)
    assert [(c.entry.position, c.attempt) for c in claimed] == [(positions[0], 1), (positions[1], 1)]
    await store.renew("g", positions[:1], count=True)
    await store.nack("g", positions[:1])
    await store.ack("g", positions[1:2])
    claimed = await store.claim("g", limit=5)
    assert [(c.entry.position, c.attempt) for c in claimed] == [(positions[0], 3), (positions[2], 1)]
    assert await store.claim("g", limit=5) == []


async def test_lease_of_another_store_is_not_renewed_or_returned(store: RedisStore, redis: Any) -> None:
    position = await store.append(event())
    await store.claim("g", limit=1)
    await redis.zadd("{avaturn}:pending:g", {str(position): 1})
    other = RedisStore(redis)
    await other.start()
    (claimed,) = await other.claim("g", limit=1)
    assert claimed.attempt == 2
    await store.renew("g", [position], count=True)
    await store.nack("g", [position])
    assert await store.claim("g", limit=1) == []
    await store.ack("g", [position])
    assert await other.claim("g", limit=1) == []
    await other.close()


async def test_acknowledged_before_the_first_claim_is_not_claimed(store: RedisStore) -> None:
    first, second = [await store.append(event()) for _ in range(2)]
    await store.ack("g", [first])
    assert [c.entry.position for c in await store.claim("g", limit=5)] == [second]


async def test_failed_entries_are_listed_and_can_be_retried(store: RedisStore) -> None:
    position = await store.append(event(b"x"))
    await store.claim("g", limit=1)
    await store.fail("g", position, "höchst \ud800")
    assert await store.claim("g", limit=1) == []
    (failed,) = await store.failed("g")
    assert (failed.entry.body, failed.attempts, failed.reason) == (b"x", 1, "höchst \ud800")
    await store.retry("g", [position])
    assert await store.failed("g") == []
    assert [c.attempt for c in await store.claim("g", limit=1)] == [1]


async def test_cancelled_claim_leaves_no_lease(store: RedisStore) -> None:
    await store.append(event())
    for _ in range(5):
        task = asyncio.create_task(store.claim("g", limit=1))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    async with asyncio.timeout(20):
        while not await store.claim("g", limit=1):
            await asyncio.sleep(0)


async def test_listener_in_another_store_receives_topics_after_the_entry_can_be_read(
    store: RedisStore, redis_server: RedisServer
) -> None:
    other = RedisStore.from_url(redis_server.url)
    received: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    other.listen(received.put_nowait)
    await other.start()
    async with asyncio.timeout(20):
        assert await received.get() is None
        await store.append(event(b"1", "a b", "c\nd%", ""))
        while await received.get() != ["a b", "c\nd%", ""]:
            pass
        assert await other.read({"c\nd%": 0})
        (claimed, *_) = await store.claim("g", limit=1)
        await store.nack("g", [claimed.entry.position])
        while await received.get() != []:
            pass
    await other.close()


async def test_every_key_has_the_prefix_and_a_time_to_live(store: RedisStore, redis: Any) -> None:
    positions = [await store.append(event(b"a", "t", key=str(i), dispatch=i != 2)) for i in range(4)]
    await store.create_group("empty")
    await store.claim("g", limit=3)
    await store.fail("g", positions[0], "r")
    await store.nack("g", positions[1:2])
    keys = await redis.keys("*")
    assert len(keys) > 10
    assert [key for key in keys if not key.startswith(b"{avaturn}:") or await redis.ttl(key) <= 0] == []


async def test_state_of_a_group_lives_as_long_as_the_entry_that_it_is_about(store: RedisStore, redis: Any) -> None:
    life = 5 * store.ttl_seconds
    await store.create_group("g")
    position = await store.append(event(ttl=life))

    async def get_life(kind: str) -> float:
        return float(await redis.pttl(f"{{avaturn}}:{kind}")) / 1000

    await store.create_group("new")
    assert await get_life("pending:g") >= life - 5
    assert await get_life("pending:new") >= life - 5
    await store.claim("g", limit=1)
    await store.fail("g", position, "reason")
    assert await get_life("failed:g") >= life - 5
    assert await get_life(f"entry:{position}") >= life - 5
    assert (await redis.hmget(f"{{avaturn}}:entry:{position}", "attempts:g", "reason:g")) == [b"1", b"reason"]
    await store.retry("g", [position])
    assert await get_life("pending:g") >= life - 5
    assert await get_life("last") >= life - 5


async def test_purge_leaves_nothing_of_an_entry_in_its_groups(store: RedisStore, redis: Any) -> None:
    leased, failed, pending = [await store.append(event()) for _ in range(3)]
    assert [c.entry.position for c in await store.claim("g", limit=2)] == [leased, failed]
    await store.fail("g", failed, "reason")
    assert await redis.zcard("{avaturn}:pending:g") == 2
    for position in (leased, failed, pending):
        await expire(redis, position)
    assert await store.purge_expired() == 3
    keys = {key.decode() for key in await redis.keys("*")}
    assert {key for key in keys if "probe" not in key} == {"{avaturn}:groups", "{avaturn}:last"}


async def test_appends_that_wait_go_in_few_scripts(store: RedisStore, redis: Any) -> None:
    await redis.config_resetstat()
    positions = await asyncio.gather(*(store.append(event(b"%d" % i)) for i in range(100)))
    stats = await redis.info("commandstats")
    assert all(a < b for a, b in pairwise(positions))
    assert sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha")) <= 6
    assert stats["cmdstat_publish"]["calls"] <= 4


@pytest.mark.parametrize("client", [sync_redis.Redis, lambda: RedisCluster(host="127.0.0.1", port=1), object])
def test_other_clients_are_refused_at_construction(client: Any) -> None:
    with pytest.raises(TypeError, match=r"redis\.asyncio\.Redis"):
        RedisStore(client())


@pytest.mark.parametrize("options", [{"ttl": 0}, {"lease": float("inf")}, {"prefix": ""}])
def test_invalid_options_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        RedisStore.from_url("redis://127.0.0.1", **options)


def test_invalid_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="not a URL") as raised:
        RedisStore.from_url("redis://user:se/cret@host:x")
    assert "cret" not in str(raised.value)
    assert "host" not in repr(RedisStore.from_url("redis://user:pass@host"))


async def test_client_that_decodes_replies_works(redis_server: RedisServer, redis: Any) -> None:
    client: Any = Redis.from_url(redis_server.url, decode_responses=True)
    store = RedisStore(client, prefix="p")
    await store.start()
    await store.append(event(b"\xff", "ü"))
    assert [(e.body, e.topics) for e in await store.read({"ü": 0})] == [(b"\xff", ("ü",))]
    assert all(key.startswith(b"p:{avaturn}:") for key in await redis.keys("*"))
    await store.close()
    await client.aclose()


def test_import_without_redis_py_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "avaturn_async.webhooks.stores.redis")
    with pytest.raises(ImportError, match=r"avaturn_async\[redis\]"):
        importlib.import_module("avaturn_async.webhooks.stores.redis")
