"""Handlers see each event once, outside the request, and whatever they do disturbs nobody else."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from support.loop_thread import running_loop
from support.routing import Api, avatar_id, avatar_ready, export_ready, publish, render_ready, session_id, unknown
from support.virtual_time import VirtualLoop, virtual

from avaturn_async import RouterClosedError, StoreError
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady, UnknownEvent, parse_event
from avaturn_async.webhooks.router import FailedEvent, RoutedSession, SessionRouter
from avaturn_async.webhooks.stores.base import Claimed, Entry
from avaturn_async.webhooks.stores.memory import MemoryStore


def now() -> float:
    return asyncio.get_running_loop().time()


def router_on(store: MemoryStore | None = None, **options: Any) -> SessionRouter:
    """A router whose backoff is not left to chance."""
    store = MemoryStore(clock=now) if store is None else store
    return SessionRouter(store, **{"random": lambda: 1.0, **options})


def of_handlers(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if record.name == "avaturn_async.webhooks" and record.levelno > logging.DEBUG
    ]


# What is handled


@virtual
async def test_a_handler_gets_the_event_and_the_session_with_its_context() -> None:
    seen: list[Any] = []
    async with router_on() as router:

        @router.on(AvatarReady)
        async def handler(event: AvatarReady, session: RoutedSession | None) -> None:
            seen.append((event, session and session.context, session and session.url, event.position))

        await router.open_session(Api().client, "user", context={"account": 42})
        await publish(router, avatar_ready(1, 1))
        assert seen == []  # Not within the request.
        await asyncio.sleep(1)
        await publish(router, avatar_ready(2, 9))
        await publish(router, avatar_ready(3))
        await asyncio.sleep(1)
    assert seen == [
        (avatar_ready(1, 1), {"account": 42}, None, 2),
        (avatar_ready(2, 9), None, None, 3),
        (avatar_ready(3), None, None, 4),
    ]


@virtual
async def test_each_handler_gets_the_events_that_it_is_for() -> None:
    seen: list[tuple[str, Event]] = []
    router = router_on()

    @router.on(AvatarReady)
    @router.on(ExportReady)
    async def both(event: AvatarReady | ExportReady, _session: RoutedSession | None) -> None:
        seen.append(("both", event))

    @router.on(AvatarReady)
    async def avatars(event: AvatarReady, _session: RoutedSession | None) -> None:
        seen.append(("avatars", event))

    @router.on(UnknownEvent)
    async def others(event: UnknownEvent, _session: RoutedSession | None) -> None:
        seen.append(("others", event))

    strange = unknown("avatar.deleted", avatar_id=avatar_id(1))
    async with router:
        for event in (avatar_ready(1), export_ready(2), render_ready(3, 3), strange):
            await publish(router, event)
        await asyncio.sleep(1)
    assert sorted(seen, key=lambda item: (item[0], item[1].position)) == [
        ("avatars", avatar_ready(1)),
        ("both", avatar_ready(1)),
        ("both", export_ready(2)),
        ("others", strange),
    ]


@virtual
async def test_raw_that_a_handler_or_a_waiter_changes_is_changed_for_no_further_reader() -> None:
    posted = b'{"event":"avatar.ready","avatar_id":"%s","meta":{"tags":["a"]}}' % str(avatar_id(1)).encode()
    event = parse_event(posted)
    seen: list[str] = []

    def change(found: Event) -> None:
        seen.append(json.dumps(found.raw))
        found.raw["meta"]["tags"].append("changed")
        del cast("dict[str, Any]", found.raw)["event"]

    async with router_on(handler_attempts=2) as router:

        @router.on_failed
        async def report(failed: FailedEvent) -> None:
            change(failed.event)

        @router.on(AvatarReady, name="one")
        @router.on(AvatarReady, name="two")
        async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
            change(event)
            raise ValueError

        for n in range(2):
            await router.publish(event, key=str(n), body=posted)
            await asyncio.sleep(10)
            change(await router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=0))
            for failed in await router.failed_events():
                change(failed.event)
    assert seen == [json.dumps(event.raw)] * len(seen)
    # For each event two handlers with two attempts and a report each, and the waiter; and what has failed so far.
    assert len(seen) == 2 * (2 * 3 + 1) + 2 + 4


@virtual
async def test_a_handler_sees_what_came_before_it_was_registered() -> None:
    seen = AsyncMock()
    async with router_on() as router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
        router.on(AvatarReady)(seen)
        await asyncio.sleep(1)
        seen.assert_awaited_once_with(avatar_ready(1), None)


@virtual
async def test_a_router_that_was_never_entered_handles_too_and_leaves_no_task() -> None:
    seen = AsyncMock()
    router = router_on()
    router.on(AvatarReady)(seen)
    await publish(router, avatar_ready(1))
    await asyncio.sleep(30)
    seen.assert_awaited_once()


@virtual
async def test_handler_that_is_registered_in_a_used_router_that_was_never_entered_gets_each_event_once() -> None:
    began: list[int] = []
    router = router_on()
    await publish(router, avatar_ready(1))

    @router.on(AvatarReady)
    async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
        began.append(event.position)
        await asyncio.sleep(50)  # longer than the lease

    await asyncio.sleep(1)
    await publish(router, avatar_ready(2))
    await asyncio.sleep(200)
    assert began == [1, 2]


@virtual
async def test_a_handler_that_nothing_is_known_of_but_that_it_is_async_is_taken() -> None:
    class Bare:
        __signature__ = "none"
        seen: Event | None = None

        async def __call__(self, event: AvatarReady, _: RoutedSession | None) -> None:
            self.seen = event

    handler = Bare()
    async with router_on() as router:
        router.on(AvatarReady)(handler)
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
    assert handler.seen == avatar_ready(1)


def test_handlers_can_be_registered_without_a_loop() -> None:
    router = SessionRouter()

    @virtual
    async def used() -> None:
        await publish(router, avatar_ready(1))

    used()
    seen = AsyncMock()
    router.on(AvatarReady)(seen)

    @virtual
    async def closed() -> None:
        async with router:
            await asyncio.sleep(1)

    closed()
    seen.assert_awaited_once()


@virtual
async def test_two_routers_on_one_store_share_the_events() -> None:
    store = MemoryStore(clock=now)
    seen: list[tuple[int, int]] = []

    def registered(number: int) -> SessionRouter:
        router = router_on(store, handler_concurrency=2)

        @router.on(AvatarReady)
        async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
            await asyncio.sleep(1)
            seen.append((number, event.position))

        return router

    async with registered(1) as one, registered(2):
        for n in range(20):
            await publish(one, avatar_ready(n))
        await asyncio.sleep(10)
    assert sorted(position for _, position in seen) == list(range(1, 21))
    assert Counter(number for number, _ in seen) == {1: 10, 2: 10}


@virtual
async def test_what_a_dead_process_held_is_taken_over() -> None:
    store = MemoryStore(clock=now)
    seen = AsyncMock()
    router = router_on(store)
    router.on(AvatarReady, name="seen")(seen)
    group = "seen:AvatarReady"
    async with router_on(store) as other:
        await publish(other, avatar_ready(1))
        assert len(await store.claim(group, limit=1)) == 1
        async with router:
            await asyncio.sleep(29)
            seen.assert_not_awaited()
            await asyncio.sleep(20)
            seen.assert_awaited_once()


@virtual
async def test_a_handler_that_takes_long_keeps_its_event() -> None:
    store = MemoryStore(clock=now)
    started: list[float] = []

    def registered() -> SessionRouter:
        router = router_on(store, handler_timeout=500)

        @router.on(AvatarReady)
        async def slow(_event: AvatarReady, _session: RoutedSession | None) -> None:
            started.append(now())
            await asyncio.sleep(400)

        return router

    async with registered() as one, registered():
        await publish(one, avatar_ready(1))
        await asyncio.sleep(450)
    assert started == [0]


# Bounds


@virtual
async def test_no_more_handlers_run_at_a_time_than_allowed() -> None:
    running = most = done = 0
    router = router_on(handler_concurrency=4)

    async def handler(_event: Event, _session: RoutedSession | None) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        done += 1

    router.on(AvatarReady)(handler)
    router.on(ExportReady)(handler)
    async with router:
        for n in range(50):
            await publish(router, avatar_ready(n))
            await publish(router, export_ready(n))
        await asyncio.sleep(26)
    assert (most, done) == (4, 100)


@virtual
async def test_one_that_hangs_and_one_that_fails_disturb_no_other() -> None:
    router = router_on(handler_concurrency=3)
    seen: list[float] = []

    @router.on(AvatarReady)
    async def hangs(_event: AvatarReady, _session: RoutedSession | None) -> None:
        await asyncio.Event().wait()

    @router.on(AvatarReady)
    async def fails(_event: AvatarReady, _session: RoutedSession | None) -> None:
        raise ValueError

    @router.on(AvatarReady)
    async def works(_event: AvatarReady, _session: RoutedSession | None) -> None:
        seen.append(now())

    async with router:
        for n in range(10):
            await publish(router, avatar_ready(n))
        await asyncio.sleep(1)
        assert seen == [0] * 10


@virtual
async def test_those_that_wait_for_their_next_attempt_leave_room_for_others() -> None:
    router = router_on(handler_concurrency=1)
    done: list[tuple[int, float]] = []

    @router.on(AvatarReady)
    async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
        if event.position < 4 and now() < 0.5:
            raise ValueError
        done.append((event.position, now()))

    async with router:
        for n in range(5):
            await publish(router, avatar_ready(n))
        await asyncio.sleep(2)
    assert done == [(4, 0), (5, 0), (1, 1), (2, 1), (3, 1)]


@virtual
async def test_a_long_backlog_does_not_keep_others_from_their_turn() -> None:
    seen: list[Event] = []
    router = router_on()
    async with router:
        for n in range(2_000):
            await publish(router, export_ready(n))
        await publish(router, avatar_ready(1))

        @router.on(AvatarReady)
        async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
            seen.append(event)

        turns = 0
        while not seen:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100


# Failures


@virtual
async def test_a_handler_that_fails_is_tried_again_later_and_later(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[float] = []
    router = router_on()

    @router.on(AvatarReady)
    async def fails(_event: AvatarReady, _session: RoutedSession | None) -> None:
        tried.append(now())
        raise ValueError("of no use")

    async with router:
        await publish(router, avatar_ready(1, user_id="somebody"))
        await asyncio.sleep(1_000)
        assert tried == [0, 1, 3, 7, 15, 31, 63, 127]
        logged = of_handlers(caplog)
        assert [record.levelname for record in logged] == ["WARNING"] * 7 + ["ERROR"]
        name = f"{__name__}.{fails.__qualname__}:AvatarReady"
        assert [record.getMessage() for record in logged[-2:]] == [
            f"handler {name} failed at AvatarReady (position 1), attempt 7 of 8",
            f"handler {name} failed at AvatarReady (position 1), attempt 8 of 8: giving up",
        ]
        assert "of no use" in caplog.text
        assert "somebody" not in caplog.text


@virtual
async def test_the_waits_between_attempts_are_spread_and_end_at_five_minutes() -> None:
    tried: list[float] = []
    router = router_on(handler_attempts=40, handler_backoff=100, random=lambda: 0.0)

    @router.on(AvatarReady)
    async def fails(_event: AvatarReady, _session: RoutedSession | None) -> None:
        tried.append(now())
        raise ValueError

    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(10_000)
    assert tried[:5] == [0, 50, 150, 300, 450]
    assert len(tried) == 40


@virtual
async def test_a_handler_that_succeeds_in_the_end_is_done() -> None:
    tried: list[float] = []
    router = router_on()

    @router.on(AvatarReady)
    async def moody(_event: AvatarReady, _session: RoutedSession | None) -> None:
        tried.append(now())
        if len(tried) < 3:
            raise ValueError

    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1_000)
    assert tried == [0, 1, 3]


@virtual
async def test_an_attempt_that_takes_too_long_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[float] = []
    router = router_on(handler_timeout=5, handler_attempts=2)

    @router.on(AvatarReady)
    async def hangs(_event: AvatarReady, _session: RoutedSession | None) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(now())

    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(20)
    assert ended == [5, 11]
    assert [record.levelname for record in of_handlers(caplog)] == ["WARNING", "ERROR"]


@virtual
async def test_a_cancellation_inside_a_handler_is_a_failure_like_others() -> None:
    tried: list[float] = []
    router = router_on(handler_attempts=2)

    @router.on(AvatarReady)
    async def cancelled(_event: AvatarReady, _session: RoutedSession | None) -> None:
        tried.append(now())
        raise asyncio.CancelledError

    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(20)
    assert tried == [0, 1]


@virtual
async def test_a_single_attempt_is_the_last(caplog: pytest.LogCaptureFixture) -> None:
    failing = AsyncMock(side_effect=OSError)
    async with router_on(handler_attempts=1) as router:
        router.on(AvatarReady)(failing)
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1_000)
        failing.assert_awaited_once()
    assert "attempt 1 of 1: giving up" in caplog.text


class Moody(MemoryStore):
    """A store that is away whenever a test says so."""

    def __init__(self, **options: Any) -> None:
        super().__init__(clock=now, **options)
        self.away: set[str] = set()

    def _check(self, call: str) -> None:
        if call in self.away:
            raise StoreError(f"no {call}")

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        self._check("claim")
        return await super().claim(group, limit=limit)

    async def ack(self, group: str, positions: Sequence[int]) -> None:
        self._check("ack")
        await super().ack(group, positions)

    async def fail(self, group: str, position: int, reason: str) -> None:
        self._check("fail")
        await super().fail(group, position, reason)

    async def renew(self, group: str, positions: Sequence[int], *, count: bool = False) -> None:
        self._check("renew")
        await super().renew(group, positions, count=count)

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        if "read hangs" in self.away:
            await asyncio.Event().wait()
        self._check("read")
        return await super().read(topics, limit=limit)


@virtual
async def test_a_store_that_is_away_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    store, seen = Moody(), AsyncMock(__name__="seen")
    store.away = {"claim"}
    async with router_on(store) as router:
        router.on(AvatarReady)(seen)
        await publish(router, avatar_ready(1))
        await asyncio.sleep(11)
        seen.assert_not_awaited()
        assert "no events can be claimed: no claim" in caplog.text
        store.away = {"ack"}
        await asyncio.sleep(10)
        seen.assert_awaited_once()
        assert "the end of position 1 was not stored: no ack" in caplog.text
        await asyncio.sleep(100)
        store.away = {"renew"}
        await asyncio.sleep(100)
        seen.assert_awaited_once()


@virtual
@pytest.mark.parametrize("away", ["read", "read hangs"])
async def test_a_store_that_is_away_costs_a_handler_none_of_its_attempts(
    away: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, seen = Moody(), AsyncMock(side_effect=[StoreError("of its own"), None])
    async with router_on(store, handler_attempts=2) as router:
        router.on(AvatarReady)(seen)
        await router.open_session(Api().client, "user")
        store.away = {away}
        await publish(router, avatar_ready(1, 1))
        await asyncio.sleep(1_000)
        seen.assert_not_awaited()
        assert "waits for the store" in caplog.text
        assert "attempt" not in caplog.text
        store.away = set()
        await asyncio.sleep(100)
        assert seen.await_count == 2
        assert "attempt 1 of 2" in caplog.text


@virtual
async def test_what_could_not_be_handled_for_want_of_the_store_is_left_to_others_at_close() -> None:
    store, seen = Moody(), AsyncMock()
    router = router_on(store)
    router.on(AvatarReady)(seen)
    async with router:
        store.away = {"read"}
        await publish(router, avatar_ready(1, 1))
        await asyncio.sleep(1)
    seen.assert_not_awaited()
    store.away = set()
    async with router:
        await asyncio.sleep(1)
    seen.assert_awaited_once()


@virtual
async def test_a_close_does_not_wait_for_a_store_that_is_away() -> None:
    store, seen = Moody(), AsyncMock()
    router = router_on(store)
    router.on(AvatarReady)(seen)
    async with router:
        store.away = {"ack", "renew"}
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
    assert now() == 1
    seen.assert_awaited_once()


@virtual
async def test_close_ends_at_once_when_the_store_lets_nothing_be_claimed() -> None:
    store, seen = Moody(), AsyncMock()
    store.away = {"claim"}
    async with router_on(store) as router:
        router.on(AvatarReady)(seen)
        await publish(router, avatar_ready(1))
    assert now() == 0
    seen.assert_not_awaited()


@virtual
async def test_failed_entry_that_is_no_event_is_not_listed() -> None:
    store, seen = MemoryStore(clock=now), AsyncMock()
    async with router_on(store) as writer:
        await writer.publish(avatar_ready(1), key="1", body=b"of another release")
        await publish(writer, avatar_ready(2))
        for position in (1, 2):
            await store.fail("mail:AvatarReady", position, "no mail server")
    async with router_on(store) as router:
        router.on(AvatarReady, name="mail")(seen)
        [failed] = await router.failed_events()
        assert (failed.event, failed.event.position) == (avatar_ready(2), 2)
    seen.assert_not_awaited()


@virtual
async def test_a_body_that_is_no_event_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    store, seen = MemoryStore(clock=now), AsyncMock()
    async with router_on(store) as writer:
        await writer.publish(avatar_ready(1), key="1", body=b"secret")
        await publish(writer, avatar_ready(2))
    async with router_on(store) as router:
        router.on(AvatarReady)(seen)
        await asyncio.sleep(1)
        seen.assert_awaited_once_with(avatar_ready(2), None)
    assert "the entry at position 1 of the event store is not an event" in caplog.text
    assert "secret" not in caplog.text


# Unrouted


@virtual
async def test_what_belongs_to_nobody_is_told_after_a_grace() -> None:
    seen: list[tuple[Event, float]] = []
    router = router_on()

    @router.on_unrouted
    async def unrouted(event: Event) -> None:
        seen.append((event, now()))

    async with router:
        await router.open_session(Api().client, "user")
        await router.create_export(Api().client, avatar_id(2), session=session_id(1))
        await router.render_user_avatar(Api().client, avatar_id(3), session=session_id(1))
        await publish(router, avatar_ready(1, 1))
        await publish(router, export_ready(2))
        await publish(router, render_ready(3, 1))
        await publish(router, avatar_ready(4, 9))
        await publish(router, export_ready(5))
        await publish(router, render_ready(6, 6))
        await publish(router, unknown("strange"))
        await asyncio.sleep(60)
    assert sorted(seen, key=lambda item: item[0].position) == [
        (avatar_ready(4, 9), 5),
        (export_ready(5), 5),
        (render_ready(6, 6), 5),
        (unknown("strange"), 5),
    ]


@virtual
async def test_an_opener_may_appear_within_the_grace() -> None:
    seen = AsyncMock()
    router = router_on()
    router.on_unrouted(seen)
    async with router:
        await publish(router, avatar_ready(1, 1))
        await asyncio.sleep(4)
        await router.open_session(Api().client, "user")
        await asyncio.sleep(60)
        seen.assert_not_awaited()


@virtual
async def test_a_grace_of_many_keeps_no_other_waiting() -> None:
    seen: list[float] = []
    router = router_on(handler_concurrency=2)

    @router.on_unrouted
    async def unrouted(_event: Event) -> None:
        seen.append(now())

    async with router:
        for n in range(500):
            await publish(router, avatar_ready(n))
        await asyncio.sleep(6)
    assert seen == [5] * 500


@virtual
async def test_a_store_that_is_away_is_no_reason_to_call_an_event_unrouted() -> None:
    store, seen = Moody(), AsyncMock()
    router = router_on(store)
    router.on_unrouted(seen)
    async with router:
        await router.open_session(Api().client, "user")
        await router.create_export(Api().client, avatar_id(1), session=session_id(1))
        store.away = {"read"}
        await publish(router, export_ready(1))
        await asyncio.sleep(10)
        store.away = set()
        await asyncio.sleep(10)
        seen.assert_not_awaited()


# Closing


@virtual
async def test_at_close_what_runs_is_awaited_and_what_waits_is_tried_once_more() -> None:
    tried: list[tuple[int, float]] = []
    store = MemoryStore(clock=now)
    router = router_on(store)

    @router.on(AvatarReady)
    async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
        tried.append((event.position, now()))
        if event.position == 1:
            raise ValueError
        await asyncio.sleep(20)
        tried.append((event.position, now()))

    async with router:
        await publish(router, avatar_ready(1))
        await publish(router, avatar_ready(2))
        await asyncio.sleep(4)
    assert tried == [(1, 0), (2, 0), (1, 1), (1, 3), (1, 4), (2, 20)]
    # What failed is free for others, what was done is not.
    await store.start()
    [group] = await store.groups()
    assert [claimed.entry.position for claimed in await store.claim(group, limit=5)] == [1]


@virtual
async def test_an_attempt_that_fails_while_the_router_closes_is_left_to_others() -> None:
    seen: list[tuple[str, float]] = []
    store = MemoryStore(clock=now)

    def registered(name: str) -> SessionRouter:
        router = router_on(store)

        @router.on(AvatarReady)
        async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
            seen.append((name, now()))
            await asyncio.sleep(5)
            if name == "one":
                raise ValueError

        return router

    async with registered("two") as two:
        await two.close()
        async with registered("one") as one:
            await publish(one, avatar_ready(1))
            await asyncio.sleep(1)
            closing = asyncio.create_task(one.close())
            await asyncio.sleep(1)
            await two.start()
            await closing
            await asyncio.sleep(20)
    assert seen == [("one", 0), ("two", 5)]


@virtual
async def test_what_came_just_before_the_close_is_handled() -> None:
    seen = AsyncMock()
    router = router_on(handler_concurrency=2)
    router.on(AvatarReady)(seen)
    async with router:
        for n in range(50):
            await publish(router, avatar_ready(n))
    assert seen.await_count == 50


@virtual
async def test_close_that_is_cancelled_leaves_the_events_that_were_published_here() -> None:
    store = MemoryStore(clock=now)
    router = router_on(store, handler_concurrency=2)

    @router.on(AvatarReady, name="mail")
    async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
        await asyncio.sleep(10)

    async with router:
        for n in range(9):
            await publish(router, avatar_ready(n))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(25):
                await router.close()
    assert now() == 25
    await store.start()
    claimed = await store.claim("mail:AvatarReady", limit=9)
    assert [each.entry.position for each in claimed] == [5, 6, 7, 8, 9]


@virtual
async def test_what_is_being_claimed_at_the_close_is_handled() -> None:
    class Slow(MemoryStore):
        async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
            await asyncio.sleep(1)
            return await super().claim(group, limit=limit)

    seen = AsyncMock()
    router = router_on(Slow(clock=now))
    router.on(AvatarReady)(seen)
    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(0.5)
    seen.assert_awaited_once()


@virtual
async def test_a_handler_may_go_on_asking_while_the_router_closes_but_not_wait() -> None:
    api, said = Api(), list[str]()
    router = router_on()

    @router.on(AvatarReady)
    async def handler(event: AvatarReady, session: RoutedSession | None) -> None:
        assert session is not None
        await asyncio.sleep(5)
        await router.create_export(api.client, event.avatar_id, session=session)
        try:
            await session.wait_for(ExportReady, timeout=60)
        except RouterClosedError:
            said.append("closed")

    async with router:
        await router.open_session(api.client, "user")
        await publish(router, avatar_ready(1, 1))
        await asyncio.sleep(1)
    assert said == ["closed"]
    assert api.calls[-1] == f"create_export {avatar_id(1)}"


class Hanging:
    """A handler, also of failed events, that runs for 50 seconds unless it is cancelled."""

    ended: float

    async def handle(self, _event: Any, _session: RoutedSession | None = None) -> None:
        try:
            await asyncio.sleep(50)
        finally:
            self.ended = now()


async def publish_and_cancel_close(router: SessionRouter, event: Any) -> None:
    """Start a router at 0 seconds, publish an event, and cancel close() at 11 seconds."""
    await router.start()
    await publish(router, event)
    await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await router.close()


@virtual
async def test_a_close_that_is_cancelled_ends_what_runs() -> None:
    hanging = Hanging()
    router = router_on()
    router.on(AvatarReady)(hanging.handle)
    await publish_and_cancel_close(router, avatar_ready(1))
    assert hanging.ended == 11


@virtual
async def test_close_that_is_cancelled_returns_events_that_no_handler_wants_and_could_not_be_acknowledged() -> None:
    class Slow(MemoryStore):
        async def ack(self, group: str, positions: Sequence[int]) -> None:
            await asyncio.sleep(50)
            await super().ack(group, positions)

    store = Slow(clock=now)
    router = router_on(store)
    router.on(AvatarReady, name="mail")(AsyncMock())
    await publish_and_cancel_close(router, export_ready(1))
    await store.start()
    assert [claimed.entry.position for claimed in await store.claim("mail:AvatarReady", limit=5)] == [1]


@virtual
async def test_close_that_is_cancelled_ends_the_handler_of_failed_events_without_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hanging = Hanging()
    router = router_on(handler_attempts=1)
    router.on(AvatarReady)(AsyncMock(side_effect=ValueError))
    router.on_failed(hanging.handle)
    await publish_and_cancel_close(router, avatar_ready(1))
    assert hanging.ended == 11
    assert "the handler of failed events failed" not in caplog.text


@virtual
async def test_a_router_that_is_started_again_handles_again() -> None:
    seen = AsyncMock()
    router = router_on()
    router.on(AvatarReady)(seen)
    for n in range(3):
        async with router:
            await publish(router, avatar_ready(n))
    assert seen.await_count == 3


@virtual
async def test_start_waits_until_a_close_has_ended() -> None:
    handled: list[tuple[int, float]] = []
    async with router_on() as router:

        @router.on(AvatarReady)
        async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
            await asyncio.sleep(5)
            handled.append((event.position, now()))

        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
        closing = asyncio.create_task(router.close())
        await asyncio.sleep(1)
        await router.start()
        assert closing.done()
        assert handled == [(1, 5)]
        assert await publish(router, avatar_ready(2))
        await asyncio.sleep(20)
    assert handled == [(1, 5), (2, 10)]


@virtual
async def test_close_behind_a_start_that_waits_for_a_close_closes_again() -> None:
    handled: list[tuple[int, float]] = []
    router = router_on()

    @router.on(AvatarReady)
    async def handler(event: AvatarReady, _session: RoutedSession | None) -> None:
        await asyncio.sleep(5)
        handled.append((event.position, now()))

    async def restart() -> None:
        await router.start()
        await publish(router, avatar_ready(2))

    await router.start()
    await publish(router, avatar_ready(1))
    await asyncio.sleep(1)
    calls = [asyncio.create_task(each) for each in (router.close(), restart(), router.close())]
    await asyncio.sleep(7)
    assert [call.done() for call in calls] == [True, True, False]
    assert router.closing
    await asyncio.gather(*calls)
    assert handled == [(1, 5), (2, 10)]
    with pytest.raises(RouterClosedError):
        await publish(router, avatar_ready(3))


@virtual
async def test_router_is_not_started_by_a_handler_that_its_close_waits_for() -> None:
    store = MemoryStore(clock=now)
    router = router_on(store, handler_attempts=1)
    later = router_on(store)

    @router.on(AvatarReady, name="mail")
    async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
        await router.start()  # harmless
        await asyncio.sleep(5)
        await router.start()

    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
    assert now() == 5
    later.on(AvatarReady, name="mail")(AsyncMock())
    async with later:
        [failed] = await later.failed_events()
    assert failed.reason.startswith("RuntimeError: a handler cannot start its router")


@pytest.mark.parametrize("has_loop", [True, False])
def test_handler_that_another_thread_registers_runs_in_the_loop_of_the_router(*, has_loop: bool) -> None:
    handled: SimpleQueue[tuple[str, object]] = SimpleQueue()
    goes_on = asyncio.Event()
    router = SessionRouter()

    @router.on(AvatarReady)
    async def first(event: AvatarReady, _session: RoutedSession | None) -> None:
        handled.put(("first", event.position))
        await goes_on.wait()
        handled.put(("first", "done"))

    async def second(event: AvatarReady, _session: RoutedSession | None) -> None:
        handled.put(("second", event.position))
        handled.put(("second", asyncio.get_running_loop() is thread.loop))

    async def register() -> None:
        router.on(AvatarReady)(second)

    async def close() -> None:
        asyncio.get_running_loop().call_later(0.01, goes_on.set)
        await router.close()
        handled.put(("router", "closed"))

    with running_loop() as thread:
        thread.run(router.start())
        thread.run(publish(router, avatar_ready(1)))
        assert handled.get(timeout=30) == ("first", 1)
        if has_loop:
            asyncio.run(register())
        else:
            router.on(AvatarReady)(second)
        assert handled.get(timeout=30) == ("second", 1)
        assert handled.get(timeout=30) == ("second", True)
        thread.run(close())
        assert handled.get(timeout=30) == ("first", "done")
        assert handled.get(timeout=30) == ("router", "closed")


@pytest.mark.parametrize("delayed", [True, False])
def test_tasks_of_a_loop_that_was_dropped_disturb_no_later_one(*, delayed: bool) -> None:
    called: list[int] = []
    router = SessionRouter(MemoryStore(), handler_concurrency=1, unrouted_delay=100)

    async def handler(event: Event, _session: RoutedSession | None = None) -> None:
        called.append(event.position)
        if event.position == 1:
            await asyncio.sleep(100)

    if delayed:
        router.on_unrouted(handler)
    else:
        router.on(AvatarReady)(handler)

    async def use(*avatars: int, seconds: float) -> None:
        for n in avatars:
            await publish(router, avatar_ready(n))
            await asyncio.sleep(seconds)
            gc.collect()  # ends the tasks of the dropped loop

    loop = VirtualLoop()
    loop.run_until_complete(use(1, seconds=1))
    loop.close()
    del loop
    assert called == [] if delayed else [1]
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(use(2, 3, 4, seconds=1000))
        runner.run(router.close())
    assert called == [2, 3, 4] if delayed else [1, 2, 3, 4]


# Registering


async def two(event: Any, session: Any) -> None: ...
async def one(event: Any) -> None: ...
def not_async(event: Any, session: Any) -> None: ...


@virtual
async def test_no_claim_asks_for_less_than_one_event() -> None:
    created, limits = asyncio.Event(), list[int]()

    class Slow(MemoryStore):
        async def create_group(self, group: str) -> None:
            if group.startswith("late"):
                await created.wait()
            await super().create_group(group)

        async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
            limits.append(limit)
            return await super().claim(group, limit=limit)

    async with router_on(Slow(clock=now), handler_concurrency=2, handler_backoff=10) as router:
        blocked = asyncio.Event()
        calls = 0

        @router.on(AvatarReady)
        async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
            nonlocal calls
            calls += 1
            if calls <= 4:
                raise ValueError
            await blocked.wait()

        for number in range(1, 5):
            await publish(router, avatar_ready(number))
        await asyncio.sleep(1)  # all four wait for their second attempt
        late = AsyncMock()
        router.on(AvatarReady, name="late")(late)
        await asyncio.sleep(20)
        created.set()
        await asyncio.sleep(1)
        blocked.set()
        await asyncio.sleep(100)
    assert (calls, late.await_count, min(limits)) == (8, 4, 1)


@virtual
async def test_router_is_not_closed_by_its_own_handler() -> None:
    router = router_on(handler_attempts=1, handler_timeout=10)

    @router.on(AvatarReady)
    async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
        await router.close()

    async with router:
        await publish(router, avatar_ready(1))
        await asyncio.sleep(20)
        assert not router.closing
        [failed] = await router.failed_events()
    assert failed.reason.startswith("RuntimeError: a handler cannot close its router")


class Callable2:
    async def __call__(self, event: Any, session: Any) -> None: ...

    async def method(self, event: Any, session: Any) -> None: ...


@pytest.mark.parametrize("handler", [not_async, one, "text", None, Callable2, lambda _e, _s: None])
def test_what_cannot_be_a_handler_is_refused(handler: Any) -> None:
    with pytest.raises(ValueError, match="a handler "):
        SessionRouter().on(AvatarReady)(handler)


@pytest.mark.parametrize("handler", [not_async, two, "text"])
def test_what_cannot_be_a_handler_of_the_rest_is_refused(handler: Any) -> None:
    with pytest.raises(ValueError, match="a handler "):
        SessionRouter().on_unrouted(handler)


@pytest.mark.parametrize("event_type", [str, "avatar.ready", None, Event, two, avatar_ready(1)])
def test_a_handler_of_something_that_is_no_event_is_refused(event_type: Any) -> None:
    with pytest.raises(TypeError, match="not an event"):
        SessionRouter().on(event_type)


def test_the_same_handler_twice_is_refused() -> None:
    router, bound = SessionRouter(), Callable2()
    for handler in (two, bound, bound.method):
        router.on(AvatarReady)(handler)
        router.on(ExportReady)(handler)
        with pytest.raises(ValueError, match="is registered for AvatarReady already"):
            router.on(AvatarReady)(handler)
    router.on_unrouted(one)
    with pytest.raises(ValueError, match="a handler of unrouted events is registered already"):
        router.on_unrouted(one)


@pytest.mark.parametrize("name", ["", "mail#2"])
def test_name_of_a_handler_that_the_store_could_confuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name must be text without #"):
        SessionRouter().on(AvatarReady, name=name)(two)


def test_name_of_a_handler_is_taken_for_one_type_of_event() -> None:
    router = SessionRouter()
    router.on(AvatarReady, name="mail")(two)
    router.on(ExportReady, name="mail")(two)
    with pytest.raises(ValueError, match="a handler with name='mail' is registered for AvatarReady already"):
        router.on(AvatarReady, name="mail")(Callable2())


def test_second_handler_of_failed_events_is_refused() -> None:
    router = SessionRouter()
    router.on_failed(one)
    with pytest.raises(ValueError, match="a handler of failed events is registered already"):
        router.on_failed(one)


def test_on_unrouted_with_empty_parentheses_is_a_decorator() -> None:
    router = SessionRouter()
    assert router.on_unrouted()(one) is one
    assert [handler.function for handler in router._dispatcher.handlers] == [one]


def test_each_handler_has_a_name_of_its_own_in_the_store() -> None:
    router = SessionRouter()

    def made() -> Any:
        async def handler(event: Any, session: Any) -> None: ...

        return handler

    for handler in (two, made(), made(), functools.partial(two), Callable2(), Callable2().method):
        router.on(RenderReady)(handler)
    local = "test_each_handler_has_a_name_of_its_own_in_the_store.<locals>.made.<locals>.handler"
    assert [handler.group for handler in router._dispatcher.handlers] == [
        f"{__name__}.{name}"
        for name in (
            "two:RenderReady",
            f"{local}:RenderReady",
            f"{local}:RenderReady#2",
            "two:RenderReady#2",
            "Callable2:RenderReady",
            "Callable2.method:RenderReady",
        )
    ]


class CountingStore(MemoryStore):
    """Counts the calls of ``claim()``."""

    def __init__(self) -> None:
        super().__init__(clock=now)
        self.claims = 0

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        self.claims += 1
        return await super().claim(group, limit=limit)


@virtual
async def test_events_are_handled_at_once_by_their_receiver_and_others_seldom_look() -> None:
    store = CountingStore()
    seen: list[tuple[str, float]] = []

    def registered(name: str) -> SessionRouter:
        router = router_on(store)

        @router.on(AvatarReady, name="handler")
        async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
            seen.append((name, round(now(), 6)))

        return router

    async with registered("receiver") as receiver, registered("other"), router_on(store) as sender:
        await asyncio.sleep(1)
        store.claims = 0
        for n in range(200):
            await publish(receiver, avatar_ready(n))
            await asyncio.sleep(0.01)
        assert [at for _, at in seen] == [round(1 + n * 0.01, 6) for n in range(200)]
        assert [name for name, _ in seen].count("receiver") > 180
        # A claim of the receiver for each event, and a look of each router in 0.1 s that doubles up to 0.4 s.
        assert store.claims <= 200 + 2 * 7
        # What a process without handlers receives is handled by another one.
        await publish(sender, avatar_ready(200))
        await asyncio.sleep(0.41)
        assert len(seen) == 201


@virtual
async def test_a_process_that_finds_events_of_others_looks_for_them_within_a_tenth_of_a_second() -> None:
    store = MemoryStore(clock=now)
    delays: list[float] = []
    handling, sender = router_on(store), router_on(store)

    @handling.on(AvatarReady)
    async def handler(_event: AvatarReady, _session: RoutedSession | None) -> None:
        delays.append(now() - published_at)

    async with handling, sender:
        for n in range(10):
            await asyncio.sleep(1)
            published_at = now()
            await publish(sender, avatar_ready(n))
    assert len(delays) == 10
    assert max(delays) < 0.11
