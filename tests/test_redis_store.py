"""RedisStore keeps the contract of all stores, and leaves Redis as one wants to find it."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer, needs_redis, running_redis

from avaturn_async.errors import StoreError
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores import Arrival, SessionRecord, StoredEvent
from avaturn_async.webhooks.stores._redis_link import Link
from avaturn_async.webhooks.stores._redis_lua import Script
from avaturn_async.webhooks.stores.memory import MemoryStore
from avaturn_async.webhooks.stores.redis import RedisStore

pytestmark = needs_redis

A, B = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
AVATAR = f"avatar:{A}"
THREE_DAYS = 259_200_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster of one node, which has all slots."""
    with running_redis(tmp_path_factory.mktemp("cluster"), {"cluster-enabled": "yes"}) as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Any]:
    """A client of the caller's, with nothing on the server."""
    client: Any = Redis.from_url(server.url)
    await client.flushall()
    yield client
    await client.aclose()


@asynccontextmanager
async def started(store: RedisStore) -> AsyncIterator[RedisStore]:
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def arrival(key: str, *, session: str | None = None, subjects: tuple[str, ...] = (AVATAR,)) -> Arrival:
    return Arrival(key=key, body=key.encode(), session_id=session, subjects=subjects, binds=subjects)


def record(session_id: str = A, context: str = "{}") -> SessionRecord:
    return SessionRecord(id=session_id, user_id="user", context=context)


class TestRedisStore(EventStoreContract):
    has_bounds = False

    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: RedisServer) -> None:
        self.url = server.url

    async def make_store(self, *, max_events: int, max_bytes: int) -> RedisStore:
        del max_events, max_bytes
        self.prefix = f"{{{uuid4()}}}"
        return self.make_one()

    async def make_another(self, store: object) -> RedisStore:
        del store
        return self.make_one()

    def make_one(self) -> RedisStore:
        return RedisStore.from_url(
            self.url, ttl=self.ttl, prefix=self.prefix, takeover=self.takeover, clock=self.clock
        )


class TestRedisStoreOnACluster(TestRedisStore):
    @pytest.fixture(autouse=True)
    async def _on_a_server(self, cluster: RedisServer) -> None:
        client: Any = Redis.from_url(cluster.url)
        if (await client.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":
            await client.execute_command("CLUSTER ADDSLOTS", *range(16_384))
            while (await client.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":
                pass
        await client.aclose()
        self.url = cluster.url


# Against the store in memory


async def test_it_does_what_the_store_in_memory_does(server: RedisServer) -> None:
    for seed in range(12):
        await Twins(seed, server.url).compare()


class Twins:
    """The same random life in both stores."""

    def __init__(self, seed: int, url: str) -> None:
        self.random = random.Random(seed)
        self.now = 1_000.0
        prefix = f"{{{uuid4()}}}"
        self.model = MemoryStore(ttl=100, takeover=30, clock=lambda: self.now)
        self.store = RedisStore.from_url(url, ttl=100, takeover=30, prefix=prefix, clock=lambda: self.now)
        # Positions in memory, and what they are in Redis.
        self.positions: dict[int, int] = {}
        self.claimed: list[int] = []
        self.subjects = [f"{kind}:{n}" for kind in ("avatar", "render") for n in range(3)]
        self.sessions = [f"s{n}" for n in range(3)]

    async def compare(self) -> None:
        acts = (self.append, self.append, self.append, self.bind, self.save, self.claim, self.treat)
        async with started(self.store):
            for _ in range(60):
                await self.random.choice(acts)()
                if self.random.random() < 0.2:
                    self.now += self.random.choice((1, 29, 30, 50, 100))
            await self.same_view()
            await self.model.expire()
            await self.store.expire()
            assert dict(await self.model.sizes()) == dict(await self.store.sizes())

    async def append(self) -> None:
        subjects = self.random.sample(self.subjects, self.random.randint(0, 2))
        event = Arrival(
            key=f"{self.random.randint(0, 30)}",
            body=self.random.randbytes(4),
            session_id=self.random.choice((None, None, *self.sessions)),
            subjects=tuple(subjects),
            binds=tuple(subjects[: self.random.randint(0, 2)]),
        )
        ours, theirs = await self.model.append(event), await self.store.append(event)
        assert bool(ours) == bool(theirs)
        if ours:
            self.positions[ours] = theirs

    async def bind(self) -> None:
        subject, session = self.random.choice(self.subjects), self.random.choice(self.sessions)
        await self.model.bind(subject, session)
        await self.store.bind(subject, session)

    async def save(self) -> None:
        made = record(self.random.choice(self.sessions), f"{self.random.random()}")
        binds = self.random.sample(self.subjects, self.random.randint(0, 2))
        await self.model.save_session(made, binds=binds)
        await self.store.save_session(made, binds=binds)

    async def claim(self) -> None:
        # All of them: what comes first of those that lapsed and those that were released is not promised.
        await self.model.join("g")
        ours = await self.model.claim("g", limit=1_000)
        theirs = await self.store.claim("g", limit=1_000)
        assert self.seen_as(ours) == sorted(
            (event.position, event.body, event.session_id) for event in theirs
        )
        self.claimed += [event.position for event in ours]

    async def treat(self) -> None:
        some = self.random.sample(self.claimed, self.random.randint(0, len(self.claimed)))
        act = self.random.choice(("hold", "finish", "release"))
        await self.model.join("g")
        await getattr(self.model, act)("g", some)
        await getattr(self.store, act)("g", [self.positions[position] for position in some])

    async def same_view(self) -> None:
        for topic in (*self.subjects, *(f"session:{session}" for session in self.sessions)):
            ours, theirs = await self.model.read(topic), await self.store.read(topic)
            assert [event.body for event in ours] == [event.body for event in theirs]
            assert self.seen_as(ours) == sorted((e.position, e.body, e.session_id) for e in theirs)
        for subject in self.subjects:
            assert await self.model.bound(subject) == await self.store.bound(subject)
        for session in self.sessions:
            assert await self.model.load_session(session) == await self.store.load_session(session)

    def seen_as(self, events: Any) -> list[tuple[int, bytes, str | None]]:
        return sorted((self.positions[e.position], e.body, e.session_id) for e in events)


# What is left in Redis


async def test_every_key_begins_with_the_prefix_and_has_a_time_to_live(redis: Any) -> None:
    async with started(RedisStore(redis, prefix="shop:{avatars}:")) as store:
        await fill(store)
        keys = await redis.keys("*")
        assert len(keys) > 10
        assert all(key.startswith(b"shop:{avatars}:") for key in keys)
        assert all([0 < await redis.pttl(key) <= THREE_DAYS for key in keys])


async def fill(store: RedisStore) -> None:
    """Make every kind of key there is."""
    await store.save_session(record(), binds=(AVATAR,))
    await store.append(arrival("one"))
    await store.append(arrival("two", session=B, subjects=()))
    await store.append(arrival("late", subjects=("render:1",)))
    await store.bind("render:1", B)
    await store.join("g")
    await store.claim("g", limit=2)


async def test_a_group_without_any_event_has_a_time_to_live_too(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        await store.join("g")
        await store.join("g")
        [log] = await redis.keys("*")
        assert 0 < await redis.pttl(log) <= THREE_DAYS


@pytest.mark.parametrize(
    ("prefix", "root"),
    [
        ("{avaturn}", "{avaturn}:"),
        ("shop", "shop:{avaturn}:"),
        ("{}", "{}:{avaturn}:"),
        ("a{b}c", "a{b}c:"),
    ],
)
async def test_all_keys_are_in_one_slot_whatever_the_prefix(redis: Any, prefix: str, root: str) -> None:
    async with started(RedisStore(redis, prefix=prefix)) as store:
        await fill(store)
        assert all(key.decode().startswith(root) for key in await redis.keys("*"))


async def test_positions_go_on_rising_when_everything_was_gone(redis: Any) -> None:
    # An iterator may have been waiting for longer than events live.
    now = 1_000.0
    async with started(RedisStore(redis, ttl=10, clock=lambda: now)) as store:
        first = await store.append(arrival("one"))
        now += 10
        await redis.flushall()
        assert await store.append(arrival("two")) > first


async def test_positions_go_on_rising_when_the_clock_goes_back(server: RedisServer) -> None:
    now = 2_000.0
    store = RedisStore.from_url(server.url, prefix=f"{uuid4()}", clock=lambda: now)
    async with started(store):
        first = await store.append(arrival("one"))
        now = 1_000.0
        assert await store.append(arrival("two")) == first + 1


async def test_appending_sweeps_by_itself(server: RedisServer) -> None:
    now = 1_000.0
    store = RedisStore.from_url(server.url, ttl=10, prefix=f"{uuid4()}", clock=lambda: now)
    async with started(store):
        for n in range(50):
            await store.append(arrival(f"{n}"))
        now += 11
        kept: list[int] = []
        for n in range(3):
            await store.append(arrival(f"new {n}"))
            kept.append((await store.sizes())["events"])
        assert kept == [31, 12, 3]
        assert (await store.sizes())["bytes"] == 3 * len("new 0")


async def test_expiry_never_takes_more_than_was_asked_for(server: RedisServer) -> None:
    now = 1_000.0
    store = RedisStore.from_url(server.url, ttl=10, prefix=f"{uuid4()}", clock=lambda: now)
    async with started(store):
        for n in range(5):
            await store.save_session(record(f"{n}"), binds=(f"avatar:{n}",))
            await store.append(arrival(f"{n}", subjects=()))
        now += 11
        assert [await store.expire(limit=4) for _ in range(5)] == [4, 4, 4, 3, 0]


async def test_a_large_backlog_comes_in_portions_of_a_megabyte(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        for n in range(10):
            await store.append(Arrival(key=f"{n}", body=b"x" * 256 * 1024, subjects=(AVATAR,)))
        pages: list[int] = []
        after = 0
        while page := await store.read(AVATAR, after=after):
            pages.append(len(page))
            after = page[-1].cursor
        assert pages == [4, 4, 2]


async def test_what_is_gone_from_the_log_hides_nothing_behind_it(server: RedisServer) -> None:
    now = 1_000.0
    store = RedisStore.from_url(server.url, ttl=10, prefix=f"{uuid4()}", clock=lambda: now)
    async with started(store):
        for n in range(120):
            await store.append(arrival(f"old {n}", subjects=("render:1",)))
        now += 9
        await store.bind("render:1", A)
        await store.append(arrival("new", session=A))
        now += 2
        assert [event.body for event in await store.read(f"session:{A}")] == [b"new"]


# Consumers


async def consumers(redis: Any) -> int:
    return len(await redis.xinfo_consumers("{avaturn}:log", "g"))


async def test_a_store_that_holds_nothing_leaves_no_consumer_behind(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        await store.append(arrival("one"))
        [event] = await store.claim("g", limit=1)
        await store.finish("g", (event.position,))
        assert await consumers(redis) == 1
    assert await consumers(redis) == 0


async def test_what_a_store_holds_outlives_it(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        await store.append(arrival("one"))
        await store.claim("g", limit=1)
    assert await consumers(redis) == 1
    assert (await redis.xpending("{avaturn}:log", "g"))["pending"] == 1


async def test_consumers_that_are_gone_are_forgotten_when_they_hold_nothing(redis: Any) -> None:
    log = "{avaturn}:log"
    async with started(RedisStore(redis, takeover=0.001)) as store:
        await store.append(arrival("one"))
        await store.join("g")
        await redis.xgroup_createconsumer(log, "g", "idle")
        await redis.xreadgroup("g", "busy", {log: ">"}, count=1)
        while len(names := {c["name"] for c in await redis.xinfo_consumers(log, "g")}) > 1:
            await store.expire()
        assert names == {b"busy"}


async def test_what_was_trimmed_while_it_was_held_is_not_given_out_again(redis: Any) -> None:
    async with started(RedisStore(redis, takeover=0.001)) as store:
        await store.append(arrival("one"))
        await store.append(arrival("two"))
        assert len(await store.claim("g", limit=2)) == 2
        await redis.xtrim("{avaturn}:log", maxlen=1, approximate=False)
        again: list[StoredEvent] = []
        while not again:
            again += await store.claim("g", limit=1)
        assert [event.body for event in again] == [b"two"]
        assert (await redis.xpending("{avaturn}:log", "g"))["pending"] == 1


async def test_a_claim_clears_what_is_past_its_time(redis: Any) -> None:
    now = 1_000.0
    async with started(RedisStore(redis, ttl=10, takeover=1, clock=lambda: now)) as store:
        await store.append(arrival("held"))
        await store.claim("g", limit=1)
        await store.append(arrival("new"))
        now += 11
        assert await store.claim("g", limit=1) == ()
        assert (await redis.xpending("{avaturn}:log", "g"))["pending"] == 0


async def test_the_handlers_go_on_when_the_log_was_gone(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        await store.join("g")
        await redis.flushall()
        for act in (store.hold, store.release, store.finish):
            await act("g", (1,))
        await store.append(arrival("one"))
        assert len(await store.claim("g", limit=1)) == 1
        assert await store.claim("g", limit=0) == ()


# Clients and constructors


@pytest.mark.parametrize(
    "options",
    [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}, {"encoding": "latin-1"}],
    ids=str,
)
async def test_any_client_of_the_callers_will_do(server: RedisServer, options: dict[str, Any]) -> None:
    client: Any = Redis.from_url(server.url, **options)
    told: asyncio.Queue[Any] = asyncio.Queue()
    prefix = f"{uuid4()}-é"
    async with started(RedisStore(client, prefix=prefix)) as store:
        store.listen(told.put_nowait)
        await store.append(Arrival(key="é\udc80", body=b"\xff\x00", subjects=(AVATAR,)))
        assert [event.body for event in await store.read(AVATAR)] == [b"\xff\x00"]
        await store.save_session(record(context='"\ud800"'))
        assert await store.load_session(A) == record(context='"\ud800"')
        assert await told.get() == [AVATAR]
    assert await client.ping(), "the caller's client was closed"
    await client.aclose()


async def test_two_stores_hear_of_each_other(server: RedisServer) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()
    one, two = (RedisStore.from_url(server.url, prefix="{pair}") for _ in range(2))
    async with started(one), started(two):
        two.listen(told.put_nowait)
        await one.append(arrival("one", session=A))
        assert set(await told.get()) == {AVATAR, f"session:{A}"}


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("option", ["ttl", "takeover"])
def test_a_number_that_makes_no_sense_is_refused(option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match="above zero"):
        RedisStore.from_url("redis://127.0.0.1", **options)


def test_an_empty_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix"):
        RedisStore.from_url("redis://127.0.0.1", prefix="")


@pytest.mark.parametrize(
    "url", ["", "http://host", "redis://:hush@host:port", "redis://:hu/sh@host", "redis://[::hush"]
)
def test_what_is_no_url_of_redis_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL of Redis") as caught:
        RedisStore.from_url(url)
    assert "hu" not in str(caught.value).replace("such as", "")
    assert caught.value.__suppress_context__


async def test_a_store_that_is_not_started_or_closed_says_so(server: RedisServer) -> None:
    store = RedisStore.from_url(server.url)
    await store.close()
    with pytest.raises(StoreError, match="not started"):
        await store.seen("key")
    await store.start()
    await store.start()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.seen("key")


def test_without_the_extra_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "avaturn_async.webhooks.stores._redis_link", None)
    with pytest.raises(ImportError, match=r'pip install "avaturn_async\[redis\]"'):
        RedisStore.from_url("redis://127.0.0.1")


def test_redis_py_is_imported_when_it_is_needed() -> None:
    code = "import sys, avaturn_async.webhooks.stores.redis; print('redis' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


# What start() looks at


async def test_a_policy_that_evicts_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with running_redis(tmp_path, {"maxmemory-policy": "allkeys-lru"}) as evicting:
        store = RedisStore.from_url(evicting.url)
        with pytest.raises(StoreError, match=r"allkeys-lru.*set it to noeviction"):
            await store.start()
        client: Any = Redis.from_url(evicting.url)
        await client.config_set("maxmemory-policy", "noeviction")
        await client.aclose()
        async with started(store):
            assert await store.append(arrival("one")) > 0


async def test_without_aof_one_is_warned(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with started(RedisStore.from_url(server.url)):
        assert "without AOF" in caplog.text


async def test_with_aof_nobody_is_warned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_redis(tmp_path, {"appendonly": "yes"}) as durable:
        async with started(RedisStore.from_url(durable.url)):
            assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


async def test_a_redis_that_tells_nothing_of_itself_is_taken_with_a_warning(
    redis: Any, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.execute_command(
        "ACL", "SETUSER", "app", "on", ">hush", "~*", "&*", "+@all", "-info", "-config"
    )
    url = server.url.replace("//", "//app:hush@")
    async with started(RedisStore.from_url(url)) as store:
        assert await store.append(arrival("one")) > 0
    assert "make sure that it is noeviction" in caplog.text


async def test_a_user_who_may_not_listen_is_told_at_the_start(redis: Any, server: RedisServer) -> None:
    await redis.execute_command("ACL", "SETUSER", "deaf", "on", ">hush", "~*", "resetchannels", "+@all")
    store = RedisStore.from_url(server.url.replace("//", "//deaf:hush@"))
    with pytest.raises(StoreError, match=r"NoPermissionError|NOPERM") as caught:
        await store.start()
    assert "hush" not in str(caught.value)


class Old:
    """A client of a server of another time."""

    def __init__(self, version: str) -> None:
        self.version = version

    async def execute_command(self, *_: str, **__: object) -> dict[str, str]:
        return {"redis_version": self.version, "maxmemory_policy": "noeviction"}


@pytest.mark.parametrize("version", ["2.8.24", "5.0.14", "6.0.16"])
async def test_a_redis_that_is_too_old_is_refused(version: str) -> None:
    client: Any = Old(version)
    with pytest.raises(StoreError, match=r"6\.2 or later"):
        await Link(client, deadline=1).check()


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "10.0", "unstable"])
async def test_a_redis_that_is_new_enough_is_taken(version: str) -> None:
    client: Any = Old(version)
    await Link(client, deadline=1).check()


# Secrets


async def test_the_password_is_nowhere_to_be_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_redis(tmp_path, {"requirepass": "sesame-street"}) as guarded:
        wrong = RedisStore.from_url(guarded.url.replace("//", "//:open-sesame@"))
        with pytest.raises(StoreError) as caught:
            await wrong.start()
        right = RedisStore.from_url(guarded.url.replace("//", "//:sesame-street@"))
        async with started(right):
            guarded.kill()
            with pytest.raises(StoreError) as gone:
                await right.append(arrival("one"))
    shown = [caplog.text, *(f"{thing!r} {thing}" for thing in (wrong, right, caught.value, gone.value))]
    assert not [text for text in shown if "sesame" in text]


async def test_an_error_repeats_no_argument_of_a_command() -> None:
    client: Any = Redis.from_url("redis://:hush@127.0.0.1")
    link = Link(client, deadline=1)
    error = ValueError("unknown command 'HELLO', with args beginning with: 'AUTH' 'default' 'hush'")
    assert str(link.refusal(error)) == "Redis: ValueError: unknown command 'HELLO'"
    assert "hush" not in str(link.refusal(ValueError("hush\n" * 100)))
    await client.aclose()


def test_the_repr_tells_the_prefix_only() -> None:
    store = RedisStore.from_url("redis://user:hush@127.0.0.1", prefix="{shop}")
    assert repr(store) == "RedisStore(prefix='{shop}')"


# Batches


async def test_what_is_asked_at_a_time_travels_together(redis: Any) -> None:
    batches: list[Any] = []
    make = redis.pipeline

    def pipeline(**options: Any) -> Any:
        batches.append(make(**options))
        return batches[-1]

    redis.pipeline = pipeline
    async with started(RedisStore(redis)) as store:
        # From then on the server knows the script: else all of them would be asked twice.
        await store.append(arrival("first"))
        for asked, expected in ((2, 1), (50, 1), (60, 2), (130, 3)):
            batches.clear()
            kept = await asyncio.gather(*(store.append(arrival(f"{asked} {n}")) for n in range(asked)))
            assert len(set(kept)) == asked
            assert len(batches) == expected


async def test_one_that_fails_does_not_disturb_those_it_travels_with(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        link = store._link
        assert link is not None
        broken = link.run(Script(b"return redis.call('NONSENSE')", b"unknown"), (), ())
        await redis.script_flush()
        asked = (store.append(arrival("one")), broken, store.append(arrival("two")))
        answers: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers.pop(1), StoreError)
        assert [event.position for event in await store.read(AVATAR)] == answers


async def test_what_was_given_up_before_it_left_is_not_sent(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        asked = [asyncio.create_task(store.append(arrival(f"{n}"))) for n in range(4)]
        await asyncio.sleep(0)
        for task in asked[::2]:
            task.cancel()
        await asyncio.wait(asked)
        assert [event.body for event in await store.read(AVATAR)] == [b"1", b"3"]
        alone = asyncio.create_task(store.append(arrival("alone")))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.wait((alone,))
        assert not await store.seen("alone")


# Cancellation


async def test_a_cancelled_caller_is_gone_at_once_and_harms_nobody(redis: Any) -> None:
    async with started(RedisStore(redis)) as store:
        cancelled = 0
        for n in range(300):
            task = asyncio.create_task(store.append(arrival(f"{n}")))
            for _ in range(n % 30):
                await asyncio.sleep(0)
            asked = task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled() == asked
            cancelled += asked
        assert cancelled > 20
        assert await store.append(arrival("last")) > 0
