"""Each public coroutine of the stores and of the router, cancelled in its first 100 steps.

It is cancelled after each of them, on a server after each third; ``pytest --every-step`` cancels it after each there too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen
from support.cancellation import Outcome, Stepper, run_steps
from support.loop_thread import LoopThread, running_loop
from support.postgres_server import needs_postgres
from support.redis_server import needs_redis
from support.routing import Api, avatar_id, avatar_ready, export_ready, has_waiters, publish

from avaturn_async import StoreError, TaskStatus
from avaturn_async.models import Export
from avaturn_async.webhooks import (
    AvatarReady,
    ConfirmByApi,
    ExportReady,
    MemoryStore,
    SessionRouter,
    SharedSecret,
    SQLiteStore,
    WebhookReceiver,
    WebhookRequest,
)
from avaturn_async.webhooks.events import event_body
from avaturn_async.webhooks.stores.base import EventStore, NewEntry

Work = Callable[[], Coroutine[Any, Any, object]]
Hook = Callable[[], Awaitable[object]]
After = Callable[[Outcome], Awaitable[object]]
GROUP = "group"
numbers = count(1)


@frozen
class Engine:
    """Makes stores with one log, as several processes have it."""

    make: Callable[[], EventStore]
    folders: tuple[Path, ...] = ()
    counts: dict[str, Callable[[], int]] = field(factory=dict[str, Callable[[], int]])
    stride: int = 1

    def run(self, test: Callable[[Stepper, Engine], Coroutine[Any, Any, None]]) -> None:
        run_steps(lambda stepper: test(stepper.watch(*self.folders, stride=self.stride, **self.counts), self))


@pytest.fixture(scope="module")
def thread() -> Iterator[LoopThread]:
    with running_loop() as running:
        yield running


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=needs_redis),
        pytest.param("postgres", marks=needs_postgres),
    ]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    name = f"cancel_{next(numbers)}"
    stride = 1 if request.config.getoption("--every-step") else 3
    match request.param:
        case "memory":
            store = MemoryStore()
            yield Engine(lambda: store)
        case "sqlite":
            yield Engine(lambda: SQLiteStore(tmp_path / "events.db"))
        case "redis":
            import redis  # noqa: PLC0415 - not installed everywhere

            from avaturn_async.webhooks import RedisStore  # noqa: PLC0415 - the same

            url = request.getfixturevalue("redis_url")
            admin: Any = redis.Redis.from_url(url)
            connections = {"connection": lambda: len(admin.client_list())}
            yield Engine(lambda: RedisStore.from_url(url, prefix=name), counts=connections, stride=stride)
            admin.close()
        case _:
            import asyncpg  # noqa: PLC0415 - the same

            from avaturn_async.webhooks import PostgresStore  # noqa: PLC0415 - the same

            url = request.getfixturevalue("postgres_url")
            thread: LoopThread = request.getfixturevalue("thread")
            connection: Any = thread.run(asyncpg.connect(url))
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            connections = {"connection": lambda: thread.run(connection.fetchval(query))}
            yield Engine(lambda: PostgresStore.from_url(url, schema=name), counts=connections, stride=stride)
            thread.run(connection.close())


async def close_all(*stores: EventStore) -> None:
    for store in stores:
        await store.close()


async def append(store: EventStore, *topics: str) -> int:
    return await store.append(NewEntry(topics=topics or ("topic",), body=b"{}"))


async def claim_all(store: EventStore, positions: list[int], group: str = GROUP) -> None:
    """Claim these entries, and acknowledge them; each must be free at once, or as soon as a reply has come."""
    found: list[int] = []
    async with asyncio.timeout(20):
        while len(found) < len(positions):
            found += [claimed.entry.position for claimed in await store.claim(group, limit=10)]
    assert sorted(found) == positions
    await store.ack(group, found)


# The stores


def test_a_method_of_a_store_leaves_nothing_when_it_is_cancelled(engine: Engine) -> None:
    engine.run(check_methods)


async def check_methods(stepper: Stepper, engine: Engine) -> None:
    store, other = engine.make(), engine.make()
    await store.start()
    await other.start()
    await store.create_group(GROUP)
    positions: list[int] = []
    # Pools of connections grow to what concurrent calls need.
    for each in (store, other):
        await asyncio.gather(*(each.read({f"t{n}": 0}) for n in range(40)), *(append(each) for _ in range(20)))
    while claimed := await store.claim(GROUP, limit=100):
        await store.ack(GROUP, [each.entry.position for each in claimed])

    async def publish_three() -> None:
        positions[:] = [await append(store) for _ in range(3)]

    async def lease_three() -> None:
        await publish_three()
        assert len(await store.claim(GROUP, limit=10)) == 3

    async def fail_three() -> None:
        await lease_three()
        for position in positions:
            await store.fail(GROUP, position, "no")

    entries: list[NewEntry] = []

    async def make_entry() -> None:
        entries[:] = [NewEntry(topics=(f"topic {next(numbers)}",), body=b"{}", key=f"key {next(numbers)}")]

    async def check_append(outcome: Outcome) -> None:
        (entry,) = entries
        position = await store.append(entry)
        assert outcome == "cancelled" or position == 0
        (stored,) = await other.read({entry.topics[0]: 0})
        await claim_all(other, [stored.position])

    async def check_claim(outcome: Outcome) -> None:
        if outcome == "finished":
            await store.nack(GROUP, positions)
        await claim_all(other, positions)

    async def check_renew(_: Outcome) -> None:
        assert await other.claim(GROUP, limit=10) == []
        await store.renew(GROUP, positions)
        await store.nack(GROUP, positions)
        await claim_all(other, positions)

    async def check_ack(_: Outcome) -> None:
        await store.ack(GROUP, positions)
        assert await other.claim(GROUP, limit=10) == []

    async def check_nack(_: Outcome) -> None:
        await store.nack(GROUP, positions)
        await claim_all(other, positions)

    async def check_fail(_: Outcome) -> None:
        await store.fail(GROUP, positions[0], "no")
        assert [failed.entry.position for failed in await other.failed(GROUP)] == positions[:1]
        await store.ack(GROUP, positions)

    async def check_retry(_: Outcome) -> None:
        await store.retry(GROUP, positions)
        await claim_all(other, positions)

    async def check_stats(_: Outcome) -> None:
        assert (await store.stats())["events"] == (await other.stats())["events"]

    methods: list[tuple[Work, Hook | None, After]] = [
        (lambda: store.append(entries[0]), make_entry, check_append),
        (lambda: store.read({"topic": 0}), None, check_stats),
        (lambda: store.contains("key"), None, check_stats),
        (lambda: store.create_group(f"group {next(numbers)}"), None, check_stats),
        (lambda: store.claim(GROUP, limit=10), publish_three, check_claim),
        (lambda: store.renew(GROUP, positions), lease_three, check_renew),
        (lambda: store.ack(GROUP, positions), lease_three, check_ack),
        (lambda: store.nack(GROUP, positions), lease_three, check_nack),
        (lambda: store.fail(GROUP, positions[0], "no"), lease_three, check_fail),
        (lambda: store.failed(GROUP), None, check_stats),
        (lambda: store.retry(GROUP, positions), fail_three, check_retry),
        (store.purge_expired, None, check_stats),
        (store.stats, None, check_stats),
    ]
    for run, before, after in methods:
        await stepper.cancel_each(run, before=before, after=after)
    await close_all(store, other)


def test_a_claim_that_is_cancelled_before_close_leaves_no_lease(engine: Engine) -> None:
    engine.run(check_claim_and_close)


async def check_claim_and_close(stepper: Stepper, engine: Engine) -> None:
    other = engine.make()
    await other.start()
    await other.create_group(GROUP)
    stores: list[EventStore] = []
    positions: list[int] = []

    async def prepare() -> None:
        stores[:] = [engine.make()]
        await stores[0].start()
        positions[:] = [await append(stores[0]) for _ in range(3)]

    has_claimed: list[bool] = []

    async def claim_and_close() -> None:
        has_claimed.clear()
        store = stores[0]
        try:
            has_claimed.append(bool(await store.claim(GROUP, limit=10)))
        finally:
            if store is not other:
                await store.close()

    async def check(_: Outcome) -> None:
        if has_claimed:
            await other.ack(GROUP, positions)
        else:
            await claim_all(other, positions)

    await stepper.cancel_each(claim_and_close, before=prepare, after=check, first=1)
    await other.close()


def test_start_of_a_store_leaves_nothing_when_it_is_cancelled(engine: Engine) -> None:
    engine.run(check_start)


async def check_start(stepper: Stepper, engine: Engine) -> None:
    stores: list[EventStore] = []

    async def make() -> None:
        stores[:] = [engine.make()]

    async def start() -> None:
        await stores[0].start()

    async def use(_: Outcome) -> None:
        await stores[0].start()
        assert await append(stores[0])
        await stores[0].close()

    for times in (1, 2):
        await stepper.cancel_each(start, before=make, after=use, times=times, is_kept=True)


def test_a_start_that_is_cancelled_does_not_end_another_start(engine: Engine) -> None:
    engine.run(check_two_starts)


async def check_two_starts(stepper: Stepper, engine: Engine) -> None:
    stores: list[EventStore] = []
    starts: list[asyncio.Task[None]] = []

    async def make() -> None:
        stores[:] = [engine.make()]

    async def start() -> None:
        starts[:] = [asyncio.create_task(stores[0].start())]
        await stores[0].start()

    async def use(_: Outcome) -> None:
        for task in starts:
            await task
        if not starts:
            await stores[0].start()
        assert await append(stores[0])
        await stores[0].close()

    await stepper.cancel_each(start, before=make, after=use, is_kept=True, is_kept_when_cancelled=True)


def test_close_of_a_store_leaves_nothing_when_it_is_cancelled(engine: Engine) -> None:
    engine.run(check_close)


async def check_close(stepper: Stepper, engine: Engine) -> None:
    stores: list[EventStore] = []
    calls: list[asyncio.Task[Any]] = []
    runs = count()
    stepper.look()  # opens the connections of the test itself
    nothing = stepper.look()

    async def start() -> None:
        store = engine.make()
        await store.start()
        await store.create_group(GROUP)
        await append(store)
        stores[:] = [store]
        calls[:] = [
            asyncio.create_task(append(store)),
            asyncio.create_task(store.read({"topic": 0})),
            asyncio.create_task(store.claim(GROUP, limit=10)),
        ]

    async def close() -> None:
        await stores[0].close()

    async def check(_: Outcome) -> None:
        for call in calls:
            try:
                async with asyncio.timeout(20):
                    await call
            except StoreError:
                pass
        await stepper.check_nothing_left(nothing, "close()")
        if next(runs) % 8 == 0:  # it takes longer than the rest
            await stores[0].start()
            assert await append(stores[0])
            await stores[0].close()

    await stepper.cancel_each(close, before=start, after=check, first=1)


# The router, its handlers, the receiver and the confirmation


def test_a_method_of_a_router_leaves_nothing_when_it_is_cancelled(engine: Engine) -> None:
    engine.run(check_router_methods)


async def check_router_methods(stepper: Stepper, engine: Engine) -> None:
    router, api = SessionRouter(engine.make(), handler_attempts=1), Api()
    receiver = WebhookReceiver(router, verifier=SharedSecret("secret", header="X-Secret"))
    confirm = ConfirmByApi(api.client, router)
    events: list[Any] = []

    @router.on(ExportReady)
    async def refuse(event: ExportReady, session: object) -> None:
        raise ValueError(f"no: {event} {session}")

    async def respond_slowly(_: str) -> None:
        await asyncio.sleep(0.001)

    async def make_event() -> None:
        events[:] = [avatar_ready(next(numbers), 1)]

    def post() -> WebhookRequest:
        headers = [(b"content-type", b"application/json"), (b"x-secret", b"secret")]
        return WebhookRequest(method="POST", headers=headers, body=event_body(events[0]))

    async def check_published(_: Outcome) -> None:
        await publish(router, events[0])
        await router.wait_for(AvatarReady, avatar_id=events[0].avatar_id, timeout=20)
        assert not has_waiters(router)

    async def check_works(_: Outcome) -> None:
        await session.wait_for(AvatarReady, timeout=20)
        assert not has_waiters(router)

    async def check_failed(_: Outcome) -> None:
        async with asyncio.timeout(20):
            while not await router.failed_events():
                await asyncio.sleep(0.001)

    async def retry() -> None:
        await router.retry(await router.failed_events())

    async def next_of_nothing() -> None:
        # It waits until its cancellation; each try takes some further steps.
        async with asyncio.timeout(0.02):
            await anext(aiter(router.events(avatar_id=avatar_id(999_999))))

    async def wait_in_vain() -> None:
        with contextlib.suppress(TimeoutError):
            await next_of_nothing()

    api.during = respond_slowly
    api.export = Export(status=TaskStatus.READY, url="https://files.test/glb")
    api.avatars["user"] = {1: "ready"}
    async with router:
        session = await router.open_session(api.client, "user")
        await publish(router, avatar_ready(1, 1))
        await publish(router, export_ready(1))
        await check_failed("finished")
        # Pools of connections grow to what concurrent calls need.
        await asyncio.gather(
            *(router.session(session.id) for _ in range(40)), *(router.failed_events() for _ in range(9))
        )
        methods: list[tuple[Work, Hook | None, After]] = [
            (lambda: router.open_session(api.client, "user"), None, check_works),
            (lambda: router.session(session.id), None, check_works),
            (lambda: session.wait_for(AvatarReady, timeout=20), None, check_works),
            (lambda: router.create_export(api.client, avatar_id(1), session=session), None, check_works),
            (lambda: router.render_user_avatar(api.client, avatar_id(1), session=session), None, check_works),
            (wait_in_vain, None, check_works),
            (lambda: publish(router, events[0]), make_event, check_published),
            (lambda: receiver.receive(post()), make_event, check_published),
            (lambda: confirm.check(avatar_ready(1, 1)), None, check_works),
            (lambda: confirm.check(export_ready(1)), None, check_works),
            (router.failed_events, None, check_failed),
            (retry, None, check_failed),
        ]
        for run, before, after in methods:
            await stepper.cancel_each(run, before=before, after=after)


def test_start_and_close_of_a_router_leave_nothing_when_they_are_cancelled(engine: Engine) -> None:
    engine.run(check_router_lifetime)


async def check_router_lifetime(stepper: Stepper, engine: Engine) -> None:
    """Cancel the whole life of a router, with a handler that runs, and a waiter."""
    api = Api()
    group = f"hang{next(numbers)}:ExportReady"
    positions: list[int] = []
    routers: list[SessionRouter] = []

    async def make() -> None:
        router = SessionRouter(engine.make())

        @router.on(ExportReady, name=group.partition(":")[0])
        async def hang(event: ExportReady, session: object) -> None:
            await asyncio.sleep(0.005)
            raise ValueError(f"not yet: {event} {session}")

        routers[:] = [router]

    async def live() -> None:
        async with routers[0] as router:
            session = await router.open_session(api.client, "user")
            async with asyncio.TaskGroup() as tasks:
                waiter = tasks.create_task(session.wait_for(AvatarReady, timeout=20))
                await publish(router, export_ready(next(numbers)))
                await asyncio.sleep(0.002)
                waiter.cancel()

    async def check(_: Outcome) -> None:
        # Whatever happened, no process keeps the event from the others.
        await routers[0].close()
        other = engine.make()
        await other.start()
        await other.create_group(group)
        position = await other.append(NewEntry(topics=("avatar:x",), body=b"{}"))
        found: list[int] = []
        async with asyncio.timeout(20):
            while position not in found:
                found += [claimed.entry.position for claimed in await other.claim(group, limit=10)]
        positions.extend(found)
        await other.ack(group, found)
        stats = await other.stats()
        # Each event that was published was free at once.
        assert len(positions) == stats["events"]
        await other.close()

    await stepper.cancel_each(live, before=make, after=check)


def test_close_of_a_router_can_be_repeated_after_it_was_cancelled_before_a_handler_began() -> None:
    run_steps(check_repeated_close)


async def check_repeated_close(stepper: Stepper) -> None:
    for steps in range(1, 10):
        router = SessionRouter(handler_attempts=1)

        @router.on(ExportReady)
        async def handle(event: ExportReady, session: object) -> None:
            del event, session

        await router.start()
        await publish(router, export_ready(1))
        await stepper.cancel(router.close(), steps)
        await router.close()
