"""Who opened a session gets its events, whenever they come and whoever else waits."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import attrs
import pytest
import redis.asyncio
from support.routing import (
    Api,
    avatar_id,
    avatar_ready,
    export_ready,
    has_waiters,
    publish,
    render_id,
    render_ready,
    session_id,
    unknown,
)
from support.virtual_time import virtual

from avaturn_async import (
    AvaturnTimeoutError,
    Create,
    EditExisting,
    RouterClosedError,
    StoreError,
    StoreFullError,
    UnknownSessionError,
)
from avaturn_async.webhooks.events import (
    AvatarReady,
    Event,
    ExportReady,
    RenderReady,
    UnknownEvent,
)
from avaturn_async.webhooks.router import RoutedSession, SessionRouter
from avaturn_async.webhooks.stores.base import Entry, NewEntry
from avaturn_async.webhooks.stores.memory import MemoryStore


async def opened(router: SessionRouter, count: int = 1) -> list[RoutedSession]:
    """Sessions 1 to count, each of a user of its own."""
    api = Api()
    return [await router.open_session(api.client, f"user{n}", context=n) for n in range(1, count + 1)]


def now() -> float:
    return asyncio.get_running_loop().time()


# Opening


@virtual
async def test_a_session_is_opened_and_found_again() -> None:
    api, router = Api(), SessionRouter()
    session = await router.open_session(api.client, "user", Create(), context={"account": [42, None, 0.5]})
    again = await router.session(str(session.id))
    assert api.calls == ["new_session user Create()"]
    assert session == again
    assert (session.id, session.user_id, session.context) == (
        session_id(1),
        "user",
        {"account": [42, None, 0.5]},
    )
    assert again.context == {"account": [42, None, 0.5]}
    assert session.url == "https://example.test/?token=secret"
    assert again.url is None


@virtual
async def test_neither_url_nor_context_shows_in_a_repr() -> None:
    session = await SessionRouter().open_session(Api().client, "user", context="account 42")
    assert "secret" not in repr(session)
    assert "42" not in repr(session)


@virtual
async def test_a_session_that_nobody_opened_is_unknown() -> None:
    router = SessionRouter()
    with pytest.raises(UnknownSessionError, match=str(session_id(7))):
        await router.session(session_id(7))
    for text in ("7", "", "nonsense", "{" + str(session_id(7)) + "}"):
        with pytest.raises(UnknownSessionError, match="canonical"):
            await router.session(text)
    for wrong in (None, 7, b"7"):
        with pytest.raises(TypeError, match="session_id must be"):
            await router.session(wrong)  # type: ignore[arg-type]


class Odd:
    pass


@pytest.mark.parametrize(
    ("context", "error", "says"),
    [
        ({"a": [1, {2}]}, TypeError, r"\$\.a\[1\] is a set"),
        ((1, 2), TypeError, r"\$ is a tuple"),
        ({"a": {1: 2}}, TypeError, r"the keys of \$\.a must be str, not int"),
        ([math.nan], ValueError, r"\$\[0\] is not a finite number"),
        ({"a": math.inf}, ValueError, r"\$\.a is not a finite number"),
        (Odd(), TypeError, r"\$ is a Odd"),
        (b"bytes", TypeError, r"\$ is a bytes"),
    ],
)
@virtual
async def test_a_context_that_is_not_json_is_refused_before_anything_is_sent(
    context: Any, error: type[Exception], says: str
) -> None:
    api = Api()
    with pytest.raises(error, match=says):
        await SessionRouter().open_session(api.client, "user", context=context)
    assert api.calls == []


async def test_session_is_not_opened_with_client_and_user_mixed_up() -> None:
    mixed_up: Any = ("user", Api().client)
    with pytest.raises(TypeError, match="client must be an AvaturnClient, not str"):
        await SessionRouter().open_session(*mixed_up)


@virtual
async def test_a_context_that_holds_itself_is_refused() -> None:
    context: list[Any] = []
    context.append(context)
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        await SessionRouter().open_session(Api().client, "user", context=context)


@virtual
async def test_an_edited_avatar_belongs_to_the_session_that_edits_it() -> None:
    router = SessionRouter()
    await publish(router, export_ready(5))
    session = await router.open_session(Api().client, "user", EditExisting(avatar_id=avatar_id(5)))
    assert await session.wait_for(ExportReady, timeout=0) == export_ready(5)


# Waiting


@virtual
async def test_an_event_wakes_who_waits_for_it() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        waiter = asyncio.create_task(session.wait_for(AvatarReady, timeout=600))
        await asyncio.sleep(300)
        assert await publish(router, avatar_ready(1, 1))
        assert await waiter == avatar_ready(1, 1)
        assert now() == 300
        assert not has_waiters(router)


@virtual
async def test_an_event_that_came_before_is_there_for_everybody_again_and_again() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        await publish(router, avatar_ready(1, 1))
        for timeout in (0, -1, 1, math.inf):
            assert await session.wait_for(AvatarReady, timeout=timeout) == avatar_ready(1, 1)
        both = [router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=1) for _ in range(2)]
        assert await asyncio.gather(*both) == [avatar_ready(1, 1)] * 2


@virtual
async def test_a_wait_ends_when_its_time_is_over_and_leaves_nothing_behind() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        await publish(router, export_ready(1, 1))
        for timeout in (0, 5):
            with pytest.raises(AvaturnTimeoutError, match=f"no AvatarReady of session {session.id} within {timeout} s"):
                await session.wait_for(AvatarReady, timeout=timeout)
        assert now() == 5
        assert not has_waiters(router)


@virtual
async def test_a_cancelled_wait_leaves_nothing_behind_and_takes_nothing_with_it() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        waiters = [asyncio.create_task(session.wait_for(AvatarReady, timeout=60)) for _ in range(2)]
        await asyncio.sleep(1)
        await publish(router, avatar_ready(1, 1))
        waiters[0].cancel()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] == avatar_ready(1, 1)
        assert await session.wait_for(AvatarReady, timeout=0) == avatar_ready(1, 1)
        assert not has_waiters(router)


@virtual
async def test_a_thousand_waiters_that_give_up_leave_nothing_behind() -> None:
    async with SessionRouter() as router:
        waits = [
            asyncio.create_task(router.wait_for(AvatarReady, session_id=session_id(n % 10), timeout=60))
            for n in range(1_000)
        ]
        await asyncio.sleep(1)
        for wait in waits[::2]:
            wait.cancel()
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError, AvaturnTimeoutError}
        assert not has_waiters(router)


@virtual
async def test_a_wait_passes_over_other_types() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        waiter = asyncio.create_task(session.wait_for(RenderReady, timeout=60))
        strange = unknown("avatar.deleted", avatar_id=avatar_id(1), session_id=session_id(1))
        for event in (avatar_ready(1, 1), export_ready(1), strange, render_ready(1, 1)):
            await asyncio.sleep(1)
            await publish(router, event)
        assert await waiter == render_ready(1, 1)
        assert await session.wait_for(UnknownEvent, timeout=0) == strange


@virtual
async def test_after_means_those_that_arrived_later() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        await publish(router, avatar_ready(1, 1), key="1")
        first = await session.wait_for(AvatarReady, timeout=0)
        with pytest.raises(AvaturnTimeoutError):
            await session.wait_for(AvatarReady, timeout=1, after=first)
        await publish(router, avatar_ready(1, 1), key="2")
        second = await session.wait_for(AvatarReady, timeout=0, after=first)
        assert second == first
        assert second.position > first.position > 0
        assert await anext(session.events(after=first)) == second


@virtual
async def test_one_can_wait_by_session_by_avatar_and_by_render() -> None:
    async with SessionRouter() as router:
        await publish(router, render_ready(1, 2, 3))
        for where in (
            {"session_id": session_id(3)},
            {"avatar_id": str(avatar_id(1)).upper()},
            {"render_id": render_id(2)},
        ):
            options: dict[str, Any] = where
            assert await router.wait_for(RenderReady, **options, timeout=0) == render_ready(1, 2, 3)


@pytest.mark.parametrize(
    ("event_type", "options", "error"),
    [
        (AvatarReady, {}, ValueError),
        (AvatarReady, {"avatar_id": avatar_id(1), "render_id": render_id(1)}, ValueError),
        (AvatarReady, {"avatar_id": "{" + str(avatar_id(1)) + "}"}, ValueError),
        (AvatarReady, {"avatar_id": 5}, TypeError),
        (AvatarReady, {"avatar_id": avatar_id(1), "timeout": math.nan}, ValueError),
        (AvatarReady, {"avatar_id": avatar_id(1), "timeout": None}, TypeError),
        (AvatarReady, {"avatar_id": avatar_id(1), "timeout": "5"}, TypeError),
        (AvatarReady, {"avatar_id": avatar_id(1), "after": 5}, TypeError),
        (AvatarReady, {"session_id": session_id(1), "after": AvatarReady}, TypeError),
        (str, {"avatar_id": avatar_id(1)}, TypeError),
        ("avatar.ready", {"avatar_id": avatar_id(1)}, TypeError),
        (Event, {"avatar_id": avatar_id(1)}, TypeError),
        (avatar_ready(1), {"avatar_id": avatar_id(1)}, TypeError),
    ],
)
@virtual
async def test_a_wait_that_makes_no_sense_is_refused(
    event_type: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await SessionRouter().wait_for(event_type, **{"timeout": 1, **options})
    # It names the argument.
    assert any(name in str(caught.value) for name in ("_id", "timeout", "after must be an event", "give one of"))


@virtual
async def test_a_timeout_that_is_not_that_of_the_wait_is_not_taken_for_it() -> None:
    class Hasty(MemoryStore):
        async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
            raise TimeoutError(topics, limit)

    with pytest.raises(TimeoutError) as caught:
        await SessionRouter(Hasty()).wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=5)
    assert not isinstance(caught.value, AvaturnTimeoutError)


# Iterating


@virtual
async def test_an_iteration_gives_each_event_once_and_then_those_that_come() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        seen: list[Event] = []

        async def watch() -> None:
            async for event in session.events():
                seen.append(event)  # noqa: PERF401 - one by one, as they come

        for n in range(250):
            await publish(router, avatar_ready(n, 1))
        watcher = asyncio.create_task(watch())
        await asyncio.sleep(1)
        for n in range(250, 300):
            await publish(router, avatar_ready(n, 1))
        await asyncio.sleep(1)
        assert seen == [avatar_ready(n, 1) for n in range(300)]
        assert has_waiters(router)
        watcher.cancel()
        await asyncio.wait((watcher,))
        assert not has_waiters(router)


@virtual
async def test_an_iteration_gives_what_is_bound_late_behind_what_is_newer() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        events = session.events()
        await publish(router, export_ready(1))
        await publish(router, avatar_ready(2, 1))
        assert await anext(events) == avatar_ready(2, 1)
        await publish(router, avatar_ready(1, 1))
        assert {type(await anext(events)) for _ in range(2)} == {AvatarReady, ExportReady}


@virtual
async def test_an_iteration_that_nobody_goes_on_with_leaves_nothing_behind() -> None:
    async with SessionRouter() as router:
        await publish(router, avatar_ready(1, 1))
        async for _ in router.events(session_id=session_id(1)):
            break
        assert not has_waiters(router)


@virtual
async def test_a_step_that_is_cancelled_loses_nothing() -> None:
    async with SessionRouter() as router:
        events = router.events(session_id=session_id(1))
        step = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
        await publish(router, avatar_ready(1, 1))
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert await anext(events) == avatar_ready(1, 1)


@virtual
async def test_an_iteration_can_be_closed_like_a_generator() -> None:
    router = SessionRouter()
    await publish(router, avatar_ready(1, 1))
    events: Any = router.events(session_id=session_id(1))
    async with contextlib.aclosing(events):
        assert await anext(events) == avatar_ready(1, 1)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


@virtual
async def test_iteration_that_is_closed_before_its_first_step_is_empty() -> None:
    async with SessionRouter() as router:
        await publish(router, avatar_ready(1, 1))
        events: Any = router.events(session_id=session_id(1))
        await events.aclose()
        assert [event async for event in events] == []


@virtual
async def test_closing_an_iteration_ends_the_wait_of_another_task() -> None:
    async with SessionRouter() as router:
        events: Any = router.events(session_id=session_id(1))
        step = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(1)
        await events.aclose()
        async with asyncio.timeout(1):
            assert await step is None
        assert not has_waiters(router)


class SlowStore(MemoryStore):
    """Takes a moment for everything, as a store elsewhere does."""

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        rows = await super().read(topics, limit=limit)
        await asyncio.sleep(0.01)
        return rows


@virtual
async def test_two_tasks_that_share_an_iteration_get_each_event_once() -> None:
    async with SessionRouter(SlowStore()) as router:
        for n in range(4):
            await publish(router, avatar_ready(n, 1))
        events = router.events(session_id=session_id(1))
        got = await asyncio.gather(*(asyncio.ensure_future(anext(events)) for _ in range(4)))
        assert sorted(event.position for event in got) == [1, 2, 3, 4]
        await publish(router, avatar_ready(4, 1))
        assert (await anext(events)).position == 5


@pytest.mark.parametrize("make", [MemoryStore, SlowStore])
@virtual
async def test_two_tasks_that_wait_in_one_iteration_get_one_event_each(make: Callable[[], MemoryStore]) -> None:
    async with SessionRouter(make()) as router:
        events = router.events(session_id=session_id(1))
        both = [asyncio.ensure_future(anext(events)) for _ in range(2)]
        await asyncio.sleep(1)
        await publish(router, avatar_ready(1, 1))
        await asyncio.sleep(1)
        assert [task.done() for task in both].count(True) == 1
        await publish(router, avatar_ready(2, 1))
        assert sorted(event.position for event in await asyncio.gather(*both)) == [1, 2]


@virtual
async def test_any_kind_of_number_is_a_timeout() -> None:
    class Seconds(float):
        pass

    for timeout in (1, 0.5, Seconds(1)):
        with pytest.raises(AvaturnTimeoutError):
            await SessionRouter().wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=timeout)


@pytest.mark.parametrize("store", ["redis://user:hush@host", MemoryStore, object(), redis.asyncio.Redis()])
def test_wrong_store_is_refused_and_not_shown(store: Any) -> None:
    with pytest.raises(TypeError, match="store must be a store such as") as caught:
        SessionRouter(store)
    assert "hush" not in str(caught.value)


@virtual
async def test_a_store_that_gives_something_else_than_it_keeps_is_read() -> None:
    class Turned(MemoryStore):
        """Keeps bodies backwards, as another would encrypt them."""

        async def append(self, entry: NewEntry) -> int:
            return await super().append(attrs.evolve(entry, body=entry.body[::-1]))

        async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
            return [attrs.evolve(entry, body=entry.body[::-1]) for entry in await super().read(topics, limit=limit)]

    async with SessionRouter(Turned()) as router:
        waiting = asyncio.create_task(router.wait_for(AvatarReady, session_id=session_id(1), timeout=60))
        await asyncio.sleep(1)
        await publish(router, avatar_ready(1, 1))
        assert await waiting == avatar_ready(1, 1)


# Routing


async def maker(router: SessionRouter, api: Api, session: RoutedSession) -> None:
    del api, session
    await publish(router, avatar_ready(1, 1))


async def export_asked(router: SessionRouter, api: Api, session: RoutedSession) -> None:
    await router.create_export(api.client, avatar_id(1), session=session)


async def export_came(router: SessionRouter, api: Api, session: RoutedSession) -> None:
    del api, session
    await publish(router, export_ready(1))


async def render_asked(router: SessionRouter, api: Api, session: RoutedSession) -> None:
    await router.render_user_avatar(api.client, avatar_id(1), session=session)


async def render_came(router: SessionRouter, api: Api, session: RoutedSession) -> None:
    del api, session
    await publish(router, render_ready(1, 1))


Step = Callable[[SessionRouter, Api, RoutedSession], Awaitable[None]]


@pytest.mark.parametrize(
    "steps",
    [
        (maker, export_came, render_came),
        (export_asked, export_came),
        (render_asked, render_came),
        (maker, export_asked, export_came, render_asked, render_came),
    ],
)
def test_what_has_no_session_id_reaches_the_session_in_every_order(steps: Iterable[Step]) -> None:
    @virtual
    async def reached(order: Iterable[Step]) -> None:
        api = Api()
        async with SessionRouter() as router:
            [session, other] = await opened(router, 2)
            waiters = {
                event_type: asyncio.create_task(session.wait_for(event_type, timeout=60))
                for step, event_type in ((export_came, ExportReady), (render_came, RenderReady))
                if step in order
            }
            for step in order:
                await step(router, api, session)
                await asyncio.sleep(1)
            for event_type, waiter in waiters.items():
                assert type(await waiter) is event_type
                assert type(await session.wait_for(event_type, timeout=0)) is event_type
            assert await everything(other) == []

    for order in permutations(steps):
        reached(order)


async def everything(session: RoutedSession) -> list[Event]:
    """All events that reached a session until now."""
    found: list[Event] = []
    events = session.events()
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.001):
                found.append(await anext(events))
    return found


@virtual
async def test_the_newest_session_takes_what_comes_after_it_opened() -> None:
    api = Api()
    async with SessionRouter() as router:
        edit = EditExisting(avatar_id=avatar_id(1))
        old = await router.open_session(api.client, "user", edit)
        await publish(router, export_ready(1, user_id="first"), key="1")
        new = await router.open_session(api.client, "user", edit)
        await publish(router, export_ready(1, user_id="second"), key="2")
        assert [event.user_id for event in await everything(old)] == ["first"]
        assert [event.user_id for event in await everything(new)] == ["second"]


@virtual
async def test_a_render_reaches_who_asked_for_it_although_the_avatar_is_anothers() -> None:
    api = Api()
    async with SessionRouter() as router:
        owner, asker = await opened(router, 2)
        await publish(router, avatar_ready(1, 1))
        await router.render_user_avatar(api.client, avatar_id(1), session=asker)
        await publish(router, render_ready(1, 1))
        assert await asker.wait_for(RenderReady, timeout=0) == render_ready(1, 1)
        assert await everything(owner) == [avatar_ready(1, 1)]


@virtual
async def test_what_is_asked_for_goes_to_the_api_as_it_is() -> None:
    api = Api()
    async with SessionRouter() as router:
        [session] = await opened(router)
        assert await router.create_export(api.client, str(avatar_id(1)), session=session.id) == api.export
        render = await router.render_user_avatar(
            api.client, avatar_id(1), session=str(session.id), scene="common/city_full_body", format="png"
        )
        assert render.id == render_id(1)
        assert api.calls == [
            f"create_export {avatar_id(1)}",
            f"render {avatar_id(1)} common/city_full_body png",
        ]


@virtual
async def test_nothing_is_asked_for_in_the_name_of_a_session_that_nobody_opened() -> None:
    api = Api()
    async with SessionRouter() as router:
        with pytest.raises(UnknownSessionError):
            await router.create_export(api.client, avatar_id(1), session=session_id(9))
        with pytest.raises(UnknownSessionError):
            await router.render_user_avatar(api.client, avatar_id(1), session=str(session_id(9)))
        assert api.calls == []


@virtual
async def test_an_export_that_is_faster_than_the_answer_reaches_the_session() -> None:
    api = Api()
    async with SessionRouter() as router:
        [session] = await opened(router)

        async def webhook(_: str) -> None:
            await publish(router, export_ready(1))

        api.during = webhook
        await router.create_export(api.client, avatar_id(1), session=session)
        assert await session.wait_for(ExportReady, timeout=0) == export_ready(1)


async def test_session_among_two_thousand_interleaved_ones_gets_only_its_own_events() -> None:
    count = 2_000
    chance = random.Random(1)
    api = Api()
    async with SessionRouter() as router:
        sessions = [await router.open_session(api.client, f"user{n}", context=n) for n in range(count)]
        waits = [asyncio.create_task(s.wait_for(AvatarReady, timeout=600)) for s in sessions[::2]]
        events: list[Event] = [avatar_ready(n, n) for n in range(1, count + 1)]
        events += [export_ready(n) for n in range(1, count + 1)]
        chance.shuffle(events)
        for n, event in enumerate(events):
            await publish(router, event, key=f"{n}")
        got = await asyncio.gather(*waits)
        got += [await session.wait_for(AvatarReady, timeout=0) for session in sessions[1::2]]
        assert [event.session_id for event in got] == [s.id for s in (*sessions[::2], *sessions[1::2])]
        for n, session in enumerate(sessions, 1):
            export = await session.wait_for(ExportReady, timeout=0)
            assert export.avatar_id == avatar_id(n)
        assert not has_waiters(router)


# Storing


@virtual
async def test_a_duplicate_is_stored_once() -> None:
    async with SessionRouter() as router:
        assert not await router.contains("key")
        assert await publish(router, avatar_ready(1, 1), key="key") is True
        assert await publish(router, avatar_ready(2, 1), key="key") is False
        assert await router.contains("key")
        [session] = await opened(router)
        assert await everything(session) == [avatar_ready(1, 1)]


@virtual
async def test_a_full_store_refuses_and_keeps_what_it_has() -> None:
    async with SessionRouter(MemoryStore(max_events=1)) as router:
        await publish(router, avatar_ready(1, 1))
        with pytest.raises(StoreFullError):
            await publish(router, avatar_ready(2, 1))
        assert await router.wait_for(AvatarReady, session_id=session_id(1), timeout=0) == avatar_ready(1, 1)


@virtual
async def test_events_of_an_earlier_router_are_read_from_the_store() -> None:
    store = MemoryStore()
    large = avatar_ready(2, 1, user_id="u" * 20_000)
    async with SessionRouter(store) as router:
        for event in (avatar_ready(1, 1), large, *(avatar_ready(n, 2) for n in range(200))):
            await publish(router, event)
        events = router.events(session_id=session_id(1))
        assert [await anext(events) for _ in range(2)] == [avatar_ready(1, 1), large]
    async with SessionRouter(store) as later:
        event = await later.wait_for(AvatarReady, session_id=session_id(2), timeout=0)
        assert (event, event.position) == (avatar_ready(0, 2), 3)


@virtual
async def test_what_expired_is_dropped_while_the_router_runs() -> None:
    store = MemoryStore(ttl=100, clock=now)
    async with SessionRouter(store) as router:
        await opened(router, 300)
        for n in range(300):
            await publish(router, avatar_ready(n, n))
        await asyncio.sleep(220)
        assert set((await store.stats()).values()) == {0}


@virtual
async def test_a_store_that_cannot_expire_is_asked_again_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(MemoryStore):
        async def purge_expired(self, *, limit: int = 1000) -> int:
            raise StoreError(f"away {limit}")

    async with SessionRouter(Away()):
        await asyncio.sleep(25)
    logged = [record.getMessage() for record in caplog.records if record.name == "avaturn_async.webhooks"]
    assert logged == ["expired entries of the event store could not be deleted: away 200"] * 2


# Closing


@virtual
async def test_at_close_waiters_and_iterators_are_told() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        waits = [
            asyncio.create_task(session.wait_for(AvatarReady, timeout=600)),
            asyncio.ensure_future(anext(session.events())),
        ]
        await asyncio.sleep(1)
        assert not router.closing
        await router.close()
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(result) for result in results] == [RouterClosedError] * 2
        assert router.closing
        assert not has_waiters(router)
        await router.close()


@virtual
async def test_what_comes_in_the_tick_of_the_close_still_arrives() -> None:
    async with SessionRouter() as router:
        waiter = asyncio.create_task(router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=60))
        await asyncio.sleep(1)
        await publish(router, avatar_ready(1))
        await router.close()
        assert await waiter == avatar_ready(1)


@virtual
async def test_a_closed_router_does_nothing_more() -> None:
    api, router = Api(), SessionRouter()
    await router.close()
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: publish(router, avatar_ready(1)),
        lambda: router.contains("key"),
        lambda: router.session(session_id(1)),
        lambda: router.open_session(api.client, "user"),
        lambda: router.create_export(api.client, avatar_id(1), session=session_id(1)),
        lambda: router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=0),
        lambda: router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=9),
        lambda: anext(router.events(avatar_id=avatar_id(1))),
    ]
    for use in uses:
        with pytest.raises(RouterClosedError):
            await use()
    assert api.calls == []


@virtual
async def test_a_closed_router_can_be_started_again_and_knows_what_its_store_knows() -> None:
    router = SessionRouter()
    for n in range(3):
        async with router:
            await router.start()
            assert await publish(router, avatar_ready(n, 1))
            events = router.events(session_id=session_id(1))
            assert [await anext(events) for _ in range(n + 1)] == [avatar_ready(m, 1) for m in range(n + 1)]


def test_a_router_serves_one_event_loop_after_the_other() -> None:
    router = SessionRouter(SlowStore())

    @virtual
    async def session() -> None:
        async with router:
            both = [router.session(session_id(n)) for n in range(2)]
            assert len(await asyncio.gather(*both, return_exceptions=True)) == 2

    session()
    session()


@virtual
async def test_simultaneous_first_uses_start_the_store_once() -> None:
    class Slow(MemoryStore):
        started = 0

        async def start(self) -> None:
            await asyncio.sleep(1)
            await super().start()
            self.started += 1

    store = Slow()
    router = SessionRouter(store)
    assert await asyncio.gather(*(router.contains("key") for _ in range(5))) == [False] * 5
    assert store.started == 1
    assert len(store._listeners) == 1
    await router.close()
    assert len(store._listeners) == 0


@virtual
async def test_calls_that_wait_for_a_start_fail_when_the_router_is_closed_meanwhile() -> None:
    class Slow(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        async def start(self) -> None:
            await asyncio.sleep(2)
            await super().start()
            self.calls.append("started")

        async def close(self) -> None:
            await super().close()
            self.calls.append("closed")

    store = Slow()
    router = SessionRouter(store)
    calls = [asyncio.ensure_future(router.contains("key")) for _ in range(3)]
    await asyncio.sleep(1)
    await router.close()
    assert store.calls == ["started", "closed"]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [RouterClosedError] * 3
    assert store.calls == ["started", "closed"]
    assert store._listeners == {}


@virtual
async def test_calls_that_wait_for_a_start_that_fails_fail_with_it() -> None:
    class Away(MemoryStore):
        async def start(self) -> None:
            await asyncio.sleep(2)
            raise StoreError("away")

    router = SessionRouter(Away())
    calls = [asyncio.ensure_future(router.contains("key")) for _ in range(5)]
    began = now()
    assert [str(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == ["away"] * 5
    assert now() == began + 2
    # The next call tries again.
    with pytest.raises(StoreError, match="away"):
        await router.contains("key")
    assert now() == began + 4


@virtual
async def test_start_that_is_cancelled_is_tried_by_the_next_call() -> None:
    class Slow(MemoryStore):
        async def start(self) -> None:
            await asyncio.sleep(2)
            await super().start()

    router = SessionRouter(Slow())
    first, second = (asyncio.ensure_future(router.contains("key")) for _ in range(2))
    await asyncio.sleep(1)
    first.cancel()
    assert await second is False
    await router.close()


@virtual
async def test_a_store_that_is_away_when_a_wait_begins_is_the_waiters_error_unless_the_router_closes() -> None:
    class Failing(SlowStore):
        async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
            await super().read(topics, limit=limit)
            raise StoreError("away")

    router = SessionRouter(Failing())
    with pytest.raises(StoreError, match="away"):
        await router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=60)
    waiter = asyncio.create_task(router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=60))
    await asyncio.sleep(0.001)
    await router.close()
    with pytest.raises(RouterClosedError):
        await waiter
    assert not has_waiters(router)


@virtual
async def test_who_waits_already_goes_on_when_the_store_is_back() -> None:
    class Moody(MemoryStore):
        away = False

        async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
            if self.away:
                raise StoreError("away")
            return await super().read(topics, limit=limit)

    store = Moody()
    async with SessionRouter(store) as router:
        [session] = await opened(router)
        events = session.events()
        await publish(router, avatar_ready(1, 1))
        assert await anext(events) == avatar_ready(1, 1)
        waits = [
            asyncio.ensure_future(anext(events)),
            asyncio.create_task(session.wait_for(ExportReady, timeout=60)),
        ]
        await asyncio.sleep(1)
        store.away = True
        # They are woken, and nothing wakes them later.
        await publish(router, export_ready(1))
        await asyncio.sleep(30)
        assert not any(wait.done() for wait in waits)
        with pytest.raises(StoreError, match="away"):
            await session.wait_for(ExportReady, timeout=0)
        store.away = False
        assert await asyncio.gather(*waits) == [export_ready(1)] * 2
        store.away = True
        late = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
    with pytest.raises(RouterClosedError):
        await late
    assert not has_waiters(router)


@virtual
async def test_notifications_while_the_store_is_unavailable_add_no_later_reads() -> None:
    class Counting(MemoryStore):
        reads = 0

        async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
            self.reads += 1
            if self.reads > 1:
                raise StoreError("away")
            return await super().read(topics, limit=limit)

    store = Counting()
    async with SessionRouter(store) as router:
        waiter = asyncio.create_task(router.wait_for(ExportReady, avatar_id=avatar_id(1), timeout=600))
        await asyncio.sleep(1)
        for n in range(100):
            await publish(router, avatar_ready(1, n))
            await asyncio.sleep(0.001)
        assert store.reads == 1 + 100
        # Only the timer after the last notification reads again, each two seconds.
        await asyncio.sleep(11)
        assert store.reads == 1 + 100 + 5
        waiter.cancel()


@virtual
async def test_a_store_that_says_look_at_everything_wakes_everybody() -> None:
    class Mute(MemoryStore):
        """Says nothing of what came, until it hints at everything."""

        def __init__(self) -> None:
            super().__init__()
            self.wakes: list[Any] = []

        def listen(self, wake: Any) -> Callable[[], None]:
            self.wakes.append(wake)
            return self.wakes.clear

    store = Mute()
    async with SessionRouter(store) as router:
        waits = [
            asyncio.create_task(router.wait_for(AvatarReady, avatar_id=avatar_id(n), timeout=60)) for n in range(3)
        ]
        await asyncio.sleep(1)
        for n in range(3):
            await publish(router, avatar_ready(n))
        await asyncio.sleep(1)
        assert not any(wait.done() for wait in waits)
        store.wakes[0](None)
        assert await asyncio.gather(*waits) == [avatar_ready(n) for n in range(3)]


@virtual
async def test_opener_and_owner_are_found_behind_more_entries_than_one_page() -> None:
    owners: list[Any] = []
    async with SessionRouter(MemoryStore(clock=now)) as router:

        @router.on(ExportReady)
        async def note(_: ExportReady, session: RoutedSession | None) -> None:
            owners.append(session and session.context)

        for n in range(150):
            await publish(router, unknown("early", session_id=session_id(1), user_id=str(n)))
        first, second = await opened(router, 2)
        assert (await router.session(first.id)).context == 1
        for _ in range(150):
            await router.create_export(Api().client, avatar_id(1), session=first)
        await router.create_export(Api().client, avatar_id(1), session=second)
        await publish(router, export_ready(1))
        await asyncio.sleep(1)
    assert owners == [2]


@virtual
async def test_render_of_an_expired_session_reaches_no_other_session_of_its_avatar() -> None:
    api, owners = Api(), list[Any]()
    async with SessionRouter(MemoryStore(ttl=100, clock=now)) as router:

        @router.on(RenderReady)
        async def note(_: RenderReady, session: RoutedSession | None) -> None:
            owners.append(session)

        first = await router.open_session(api.client, "user")
        await asyncio.sleep(150)
        second = await router.open_session(api.client, "user", EditExisting(avatar_id=avatar_id(1)))
        await router.render_user_avatar(api.client, avatar_id(1), session=first)
        await asyncio.sleep(60)
        # The link of the render is stored for longer than the session that it names.
        await publish(router, render_ready(1, 1))
        await asyncio.sleep(1)
        assert owners == [None]
        with pytest.raises(AvaturnTimeoutError):
            await second.wait_for(RenderReady, timeout=0)


@virtual
async def test_event_behind_a_page_of_records_is_found() -> None:
    async with SessionRouter() as router:
        [session] = await opened(router)
        for _ in range(150):
            await router.create_export(Api().client, avatar_id(1), session=session)
        await publish(router, avatar_ready(1))
        assert await router.wait_for(AvatarReady, avatar_id=avatar_id(1), timeout=0) == avatar_ready(1)
        assert await anext(router.events(avatar_id=avatar_id(1))) == avatar_ready(1)


@virtual
async def test_event_that_a_late_link_finds_again_is_returned_once() -> None:
    api = Api()
    async with SessionRouter(MemoryStore(clock=now)) as router:
        session = await router.open_session(api.client, "user", EditExisting(avatar_id=avatar_id(1)))
        events = session.events()
        await publish(router, render_ready(1, 1))
        assert await anext(events) == render_ready(1, 1)
        # The event is of the avatar's session already; now its render has a link to that session, too.
        assert (await router.render_user_avatar(api.client, avatar_id(1), session=session)).id == render_id(1)
        for event in (export_ready(1), avatar_ready(1, 1)):
            await publish(router, event)
            assert await anext(events) == event


@virtual
async def test_record_of_a_newer_release_is_skipped() -> None:
    async with SessionRouter(MemoryStore(clock=now)) as router:
        [session] = await opened(router)
        record = b'\x01["of a newer release",{}]'
        await router.bus.store.append(NewEntry((f"session:{session.id}",), record, dispatch=False))
        await publish(router, avatar_ready(1, 1))
        assert await session.wait_for(AvatarReady, timeout=1) == avatar_ready(1, 1)
        assert (await router.session(session.id)).context == 1


@pytest.mark.parametrize(
    "option",
    [
        {"handler_timeout": 0},
        {"handler_timeout": math.nan},
        {"handler_attempts": 0},
        {"handler_attempts": "3"},
        {"handler_timeout": "3"},
        {"handler_backoff": "3"},
        {"unrouted_delay": "3"},
        {"handler_concurrency": "3"},
        {"handler_concurrency": 0},
        {"handler_backoff": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        SessionRouter(**option)
