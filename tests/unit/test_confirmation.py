"""ConfirmByApi: what the API does not confirm reaches nobody, and nobody makes us ask it for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.routing import (
    Api,
    avatar_id,
    avatar_ready,
    export_ready,
    publish,
    render_id,
    render_ready,
    session_id,
    unknown,
)
from support.virtual_time import virtual

from avaturn_async import (
    AvaturnClient,
    AvaturnConnectionError,
    AvaturnError,
    EditExisting,
    Export,
    NotFoundError,
    RouterClosedError,
    ScanStatus,
    StoreError,
    TaskStatus,
    UnknownSessionError,
)
from avaturn_async.webhooks import SharedSecret, WebhookReceiver, WebhookRequest, routing
from avaturn_async.webhooks.confirmation import ConfirmByApi
from avaturn_async.webhooks.events import Event, ExportReady, RenderReady, event_body, parse_event
from avaturn_async.webhooks.router import SessionRouter
from avaturn_async.webhooks.stores.base import EventStore, NewEntry
from avaturn_async.webhooks.stores.memory import MemoryStore

ANNA, BERT = "anna", "bert"
URL = "https://example.test/file.glb?signature=1"
FORGED = "https://forged.test/"
READY = Export(status=TaskStatus.READY, url=URL)


class Scene:
    """Anna has session 1 and avatar 1, Bert has session 2 and avatar 2, and the API knows that."""

    def __init__(self, store: EventStore | None = None, *, concurrency: int = 8) -> None:
        self.api = Api()
        self.api.avatars = {ANNA: {1: "ready"}, BERT: {2: "ready"}}
        self.api.export = READY
        self.router = SessionRouter(store)
        self.confirm = ConfirmByApi(self.api.client, self.router, max_concurrency=concurrency)

    async def open(self, *, edit: bool = True) -> Scene:
        for n, user in ((1, ANNA), (2, BERT)):
            config = EditExisting(avatar_id=avatar_id(n)) if edit else None
            await self.router.open_session(self.api.client, user, config)
        self.api.calls.clear()
        return self

    async def check(self, event: Event) -> Event | None:
        return await self.confirm.check(event)


LIST_ANNA, LIST_BERT = "list_user_avatars anna True", "list_user_avatars bert True"
EXPORT_1, EXPORT_2 = f"create_export {avatar_id(1)}", f"create_export {avatar_id(2)}"


# What is believed


def test_client_and_router_the_other_way_round_are_refused() -> None:
    swapped: Any = (SessionRouter(), Api().client)
    with pytest.raises(TypeError, match="takes an AvaturnClient and a SessionRouter, not SessionRouter and"):
        ConfirmByApi(*swapped)
    a_class: Any = AvaturnClient
    with pytest.raises(TypeError, match="takes an AvaturnClient and a SessionRouter"):
        ConfirmByApi(a_class, SessionRouter())
    with pytest.raises(ValueError, match="max_concurrency must be a number above zero"):
        ConfirmByApi(Api().client, SessionRouter(), max_concurrency=0)


@virtual
async def test_an_avatar_has_the_user_and_the_status_that_the_api_says() -> None:
    scene = await Scene().open(edit=False)
    scene.api.avatars[ANNA][1] = "failed"
    event = await scene.check(avatar_ready(1, 1, user_id=BERT, status=ScanStatus.READY, raw={"x": 1}))
    assert event == avatar_ready(
        1,
        1,
        user_id=ANNA,
        status=ScanStatus.FAILED,
        raw={
            "event": "avatar.ready",
            "avatar_id": str(avatar_id(1)),
            "session_id": str(session_id(1)),
            "user_id": ANNA,
            "status": "failed",
        },
    )
    assert scene.api.calls == [LIST_ANNA]


@virtual
async def test_an_avatar_without_a_session_is_asked_of_the_user_who_edits_it() -> None:
    scene = await Scene().open()
    event = await scene.check(avatar_ready(2, user_id=ANNA))
    assert event is not None
    assert (event.user_id, event.session_id) == (BERT, None)
    assert scene.api.calls == [LIST_BERT]


@virtual
async def test_an_export_has_the_url_that_the_api_says() -> None:
    scene = await Scene().open()
    event = await scene.check(export_ready(1, user_id=BERT, status=TaskStatus.FAILED, export_url=FORGED))
    assert isinstance(event, ExportReady)
    assert (event.user_id, event.status, event.export_url) == (ANNA, TaskStatus.READY, URL)
    assert "forged" not in str(event.raw)
    assert scene.api.calls == [EXPORT_1]


@virtual
async def test_what_is_kept_is_what_was_confirmed_and_not_what_was_posted() -> None:
    store = MemoryStore()
    scene = await Scene(store).open()
    secret = SharedSecret("hush-0123456789abcdef", header="X-Key")
    receiver = WebhookReceiver(scene.router, verifier=secret, confirm=scene.confirm)
    body = event_body(export_ready(1, user_id=BERT, export_url=FORGED))
    headers = [(name.encode(), value.encode()) for name, value in secret.sign(body).items()]
    assert (await receiver.receive(WebhookRequest(method="POST", headers=headers, body=body))).status == 200
    # Another process, or this one in an hour, knows nothing but the body.
    kept = (await store.read({f"avatar:{avatar_id(1)}": 0}))[-1]
    event = parse_event(kept.body)
    assert isinstance(event, ExportReady)
    assert (event.user_id, event.export_url) == (ANNA, URL)


@virtual
async def test_an_export_of_an_avatar_that_only_the_api_knows_reaches_the_session_it_names() -> None:
    scene = await Scene().open(edit=False)
    event = await scene.check(export_ready(1, 1))
    assert event is not None
    assert event.session_id == session_id(1)
    assert scene.api.calls == [LIST_ANNA, EXPORT_1]


@virtual
async def test_a_render_is_believed_if_it_was_asked_for() -> None:
    scene = await Scene().open()
    await scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1))
    scene.api.calls.clear()
    event = await scene.check(render_ready(1, 1, user_id=BERT, render_url=URL))
    assert isinstance(event, RenderReady)
    assert (event.user_id, event.render_url) == (ANNA, URL)
    assert scene.api.calls == []


@pytest.mark.parametrize(
    ("named", "kept"),
    [(None, None), (1, session_id(1)), (2, None), (9, None)],
    ids=["none", "their own", "another's", "unknown"],
)
@virtual
async def test_a_session_id_is_kept_only_if_it_is_of_the_same_user(named: int | None, kept: Any) -> None:
    scene = await Scene().open()
    await scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1))
    for event in (export_ready(1, named), render_ready(1, 1, named)):
        believed = await scene.check(event)
        assert believed is not None
        assert believed.session_id == kept
        await publish(scene.router, believed)
        bert = await scene.router.session(session_id(2))
        with pytest.raises(AvaturnError):
            await bert.wait_for(type(believed), timeout=0)


# What is not believed


@pytest.mark.parametrize(
    ("event", "calls"),
    [
        (avatar_ready(9), []),
        (avatar_ready(2, 1, user_id=BERT), [LIST_ANNA]),
        (avatar_ready(9, 1), [LIST_ANNA]),
        (export_ready(9), []),
        (export_ready(9, 1), [LIST_ANNA]),
        (render_ready(1, 9), []),
        (render_ready(1, 9, 1), []),
        (render_ready(2, 1), []),
        (render_ready(9, 1), []),
        (unknown("avatar.deleted", avatar_id=avatar_id(1), session_id=session_id(1)), []),
    ],
)
@virtual
async def test_a_forged_event_is_not_believed(event: Event, calls: list[str]) -> None:
    scene = await Scene().open()
    await scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1))
    scene.api.calls.clear()
    assert await scene.check(event) is None
    assert scene.api.calls == calls


@pytest.mark.parametrize("event", [avatar_ready(1, 9), avatar_ready(9, 9), export_ready(9, 9), render_ready(9, 9, 9)])
@virtual
async def test_an_event_of_a_session_that_the_store_does_not_know_is_an_error_that_names_it(event: Event) -> None:
    scene = await Scene().open()
    with pytest.raises(
        UnknownSessionError, match=f"session {session_id(9)} is unknown.*several workers need a shared store"
    ):
        await scene.check(event)
    assert scene.api.calls == []


@virtual
async def test_an_avatar_of_another_user_is_not_exported_in_the_name_of_a_session() -> None:
    scene = await Scene().open(edit=False)
    assert await scene.check(export_ready(2, 1)) is None
    assert scene.api.calls == [LIST_ANNA]


@virtual
async def test_what_the_api_does_not_find_is_refuted() -> None:
    scene = await Scene().open()
    missing = NotFoundError(404, "POST", "/")
    scene.api.export = missing
    assert await scene.check(export_ready(1)) is None

    async def gone(_: str) -> None:
        raise missing

    scene.api.during = gone
    assert await scene.check(avatar_ready(1)) is None


# What cannot be decided now


@pytest.mark.parametrize("status", ["pending", "processing"])
@virtual
async def test_an_avatar_that_is_not_done_is_asked_again_later(status: str) -> None:
    scene = await Scene().open()
    scene.api.avatars[ANNA][1] = status
    with pytest.raises(AvaturnError, match=f"avatar {avatar_id(1)} is still {status}"):
        await scene.check(avatar_ready(1))


@virtual
async def test_an_export_that_is_pending_is_asked_again_later() -> None:
    scene = await Scene().open()
    scene.api.export = Export(status=TaskStatus.PENDING)
    with pytest.raises(AvaturnError, match="still pending"):
        await scene.check(export_ready(1))


@pytest.mark.parametrize("event", [avatar_ready(1, 1), export_ready(1)])
@virtual
async def test_an_api_that_is_away_decides_nothing(event: Event) -> None:
    scene = await Scene().open()
    await scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1))

    async def away(_: str) -> None:
        raise AvaturnConnectionError("refused")

    scene.api.during = away
    with pytest.raises(AvaturnConnectionError, match="refused"):
        await scene.check(event)


@virtual
async def test_a_render_that_is_faster_than_the_answer_waits_for_it() -> None:
    scene = await Scene().open()

    async def slow(_: str) -> None:
        await asyncio.sleep(5)

    scene.api.during = slow
    asked = [
        asyncio.create_task(scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1)))
        for _ in range(2)
    ]
    await asyncio.sleep(1)
    event, forged = await asyncio.gather(scene.check(render_ready(1, 1)), scene.check(render_ready(1, 9)))
    assert event is not None
    assert forged is None
    assert {(await task).id for task in asked} == {render_id(1), render_id(2)}


@virtual
async def test_a_render_whose_answer_takes_too_long_is_asked_again_later() -> None:
    scene = await Scene().open()

    async def slow(_: str) -> None:
        await asyncio.sleep(15)

    scene.api.during = slow
    asked = asyncio.create_task(scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1)))
    await asyncio.sleep(1)
    with pytest.raises(AvaturnError, match=f"a render of avatar {avatar_id(1)} is being requested"):
        await scene.check(render_ready(1, 1))
    await asked
    assert await scene.check(render_ready(1, 1)) is not None


@virtual
async def test_wait_for_a_render_that_is_being_requested_ends_when_the_router_closes() -> None:
    scene = await Scene().open()

    async def slow(_: str) -> None:
        await asyncio.sleep(5)

    scene.api.during = slow
    asked = asyncio.create_task(scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1)))
    await asyncio.sleep(1)
    checked = asyncio.create_task(scene.check(render_ready(1, 1)))
    await asyncio.sleep(1)
    scene.router.begin_close()
    await asyncio.sleep(0.001)
    assert isinstance(checked.exception(), RouterClosedError)
    await asked


async def opened_and_told_elsewhere() -> tuple[Scene, ConfirmByApi]:
    """The scene, and what another process with the same store makes of events."""
    store = MemoryStore()
    scene = await Scene(store).open()
    return scene, ConfirmByApi(scene.api.client, SessionRouter(store))


@virtual
async def test_a_render_that_another_process_is_asking_for_is_decided_later() -> None:
    scene, elsewhere = await opened_and_told_elsewhere()
    told: list[Event | None] = []

    async def slow(_: str) -> None:
        # Whoever ends meanwhile does not end the question of the others.
        with pytest.raises(AvaturnError, match=f"a render of avatar {avatar_id(1)} is being requested"):
            await elsewhere.check(render_ready(1, 1))
        told.append(await elsewhere.check(render_ready(2, 9)))
        await asyncio.sleep(len(told))

    scene.api.during = slow
    ask = scene.router.render_user_avatar
    await asyncio.gather(*[ask(scene.api.client, avatar_id(1), session=session_id(1)) for _ in range(3)])
    assert await elsewhere.check(render_ready(1, 1)) is not None
    assert await elsewhere.check(render_ready(1, 9)) is None
    assert told == [None] * 3


@virtual
async def test_a_request_that_is_given_up_closes_no_other_request() -> None:
    scene, elsewhere = await opened_and_told_elsewhere()

    async def fail_first(_: str) -> None:
        is_first = len(scene.api.calls) == 1
        await asyncio.sleep(1 if is_first else 100)
        if is_first:
            raise AvaturnConnectionError("no")

    scene.api.during = fail_first
    ask = scene.router.render_user_avatar
    asked = [asyncio.create_task(ask(scene.api.client, avatar_id(1), session=session_id(1))) for _ in range(2)]
    await asyncio.sleep(2)
    assert asked[0].done()
    with pytest.raises(AvaturnError, match="is being requested"):
        await elsewhere.check(render_ready(1, 9))
    await asyncio.wait(asked)
    assert await elsewhere.check(render_ready(1, 9)) is None
    assert isinstance(asked[0].exception(), AvaturnConnectionError)


@virtual
async def test_record_of_a_newer_release_opens_and_closes_no_request() -> None:
    scene = await Scene().open()

    async def append_newer() -> None:
        entry = NewEntry((f"asking:{avatar_id(1)}",), b'\x01["of a newer release",{}]', dispatch=False)
        await scene.router.bus.store.append(entry)

    async def responds_late(_: str) -> None:
        await append_newer()
        await asyncio.sleep(60)

    await append_newer()
    assert await scene.check(render_ready(1, 9)) is None
    scene.api.during = responds_late
    asking = asyncio.create_task(scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1)))
    await asyncio.sleep(1)
    with pytest.raises(AvaturnError, match="is being requested"):
        await scene.check(render_ready(1, 9))
    await asking


@virtual
async def test_the_request_of_a_process_that_died_lapses_after_300_seconds() -> None:
    store = MemoryStore(clock=asyncio.get_running_loop().time)
    scene = await Scene(store).open()
    request = routing.RenderRequest(request_id="1", avatar_id=str(avatar_id(1)))
    await store.append(routing.build_record_entry(request))
    with pytest.raises(AvaturnError, match="is being requested"):
        await scene.check(render_ready(1, 9))
    await asyncio.sleep(300)
    assert await scene.check(render_ready(1, 9)) is None


@virtual
@pytest.mark.parametrize("error", [AvaturnConnectionError("no"), asyncio.CancelledError()])
async def test_a_question_that_failed_keeps_nobody_waiting(error: BaseException) -> None:
    scene, elsewhere = await opened_and_told_elsewhere()

    async def broken(_: str) -> None:
        raise error

    scene.api.during = broken
    with pytest.raises(type(error)):
        await scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1))
    assert await elsewhere.check(render_ready(1, 9)) is None


@virtual
async def test_a_store_that_fails_after_a_failed_call_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, elsewhere = await opened_and_told_elsewhere()

    async def fail(_: str) -> None:
        async def unavailable(entry: NewEntry) -> int:
            raise StoreError(f"unavailable for {entry.topics}")

        monkeypatch.setattr(scene.router.bus.store, "append", unavailable)
        raise AvaturnConnectionError("refused")

    scene.api.during = fail
    with pytest.raises(AvaturnConnectionError, match="refused"):
        await scene.router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1))
    with pytest.raises(AvaturnError, match="is being requested"):
        await elsewhere.check(render_ready(1, 9))


def test_a_program_may_have_one_event_loop_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # In each, several have to wait for one another: that ties a lock to its loop.
    store = MemoryStore()
    scene, bind = Scene(store, concurrency=1), store.append

    async def slow_append(entry: NewEntry) -> int:
        await asyncio.sleep(0)
        return await bind(entry)

    monkeypatch.setattr(store, "append", slow_append)

    async def crowd() -> None:
        scene.api.during = _nothing
        async with scene.router as router:
            await scene.open()
            scene.api.during = lambda _: asyncio.sleep(0.001)
            await asyncio.gather(
                *[router.render_user_avatar(scene.api.client, avatar_id(1), session=session_id(1)) for _ in range(5)],
                *[scene.check(event) for n in (1, 2) for event in (avatar_ready(n, n), export_ready(n))],
            )

    for _ in range(3):
        asyncio.run(crowd())


async def _nothing(_: str) -> None:
    pass


# Floods


@virtual
async def test_a_flood_of_made_up_ids_makes_no_call() -> None:
    scene = await Scene().open()
    for n in range(10, 1_010):
        for event in (avatar_ready(n), export_ready(n), render_ready(n, n)):
            assert await scene.check(event) is None
        for event in (avatar_ready(n, n), export_ready(n, n), render_ready(n, n, n)):
            with pytest.raises(UnknownSessionError):
                await scene.check(event)
    assert scene.api.calls == []


@virtual
async def test_simultaneous_questions_are_asked_once_and_few_at_a_time() -> None:
    scene = Scene()
    flying = most = 0

    async def slow(_: str) -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(1)
        flying -= 1

    for n in range(1, 21):
        await scene.router.open_session(scene.api.client, f"user{n}")
        scene.api.avatars[f"user{n}"] = {n: "ready"}
    scene.api.calls.clear()
    scene.api.during = slow
    events = [avatar_ready(n, n) for n in range(1, 21)]
    results = await asyncio.gather(*(scene.check(event) for event in events * 5))
    assert None not in results
    assert len(scene.api.calls) == 20
    assert most == 8
    assert scene.confirm._in_flight == {}


@virtual
async def test_who_joins_a_question_that_was_asked_too_early_asks_again() -> None:
    scene = await Scene().open()
    scene.api.avatars[ANNA][1] = "processing"

    async def slow(_: str) -> None:
        await asyncio.sleep(2)

    async def slow_answer(user_id: str, *, include_not_ready: bool) -> Any:
        answer = await Api.list_user_avatars(scene.api, user_id, include_not_ready=include_not_ready)
        await asyncio.sleep(2)
        return answer

    vars(scene.api)["list_user_avatars"] = slow_answer
    early = asyncio.create_task(scene.check(avatar_ready(1)))
    await asyncio.sleep(1)
    scene.api.avatars[ANNA][1] = "ready"
    late = await asyncio.gather(*(scene.check(avatar_ready(1)) for _ in range(3)))
    with pytest.raises(AvaturnError, match="still processing"):
        await early
    assert None not in late
    assert len(scene.api.calls) == 2


@virtual
async def test_who_gives_up_ends_no_call_of_others() -> None:
    scene = await Scene().open()

    async def slow(_: str) -> None:
        await asyncio.sleep(1)

    scene.api.during = slow
    checks = [asyncio.create_task(scene.check(avatar_ready(1))) for _ in range(2)]
    await asyncio.sleep(0.5)
    checks[0].cancel()
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] is not None
    assert scene.api.calls == [LIST_ANNA]


@virtual
async def test_an_error_that_nobody_waits_for_any_more_is_no_news() -> None:
    scene = await Scene().open()

    async def fails_late(_: str) -> None:
        await asyncio.sleep(1)
        raise AvaturnConnectionError("refused")

    scene.api.during = fails_late
    check = asyncio.create_task(scene.check(avatar_ready(1)))
    await asyncio.sleep(0.5)
    check.cancel()
    await asyncio.sleep(1)
    assert scene.confirm._in_flight == {}


def test_a_call_that_is_cut_with_its_loop_leaves_nothing() -> None:
    scene = Scene()

    @virtual
    async def cut() -> None:
        await scene.open()

        async def hangs(_: str) -> None:
            await asyncio.Event().wait()

        scene.api.during = hangs
        check = asyncio.create_task(scene.check(avatar_ready(1)))
        await asyncio.sleep(1)
        [flight] = scene.confirm._in_flight.values()
        flight.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check

    cut()
    assert scene.confirm._in_flight == {}


async def test_request_is_cancelled_when_all_its_callers_are_cancelled() -> None:
    api, ended = Api(), asyncio.Event()

    async def hang(_: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with SessionRouter() as router:
        await router.open_session(api.client, "user")
        api.during = hang
        confirm = ConfirmByApi(api.client, router)
        callers = [asyncio.create_task(confirm.check(avatar_ready(1, 1))) for _ in range(2)]
        await asyncio.sleep(0.01)
        callers[0].cancel()
        await asyncio.sleep(0.01)
        assert not ended.is_set()
        callers[1].cancel()
        await asyncio.wait_for(ended.wait(), 5)
        # The next event begins a request of its own.
        api.during, api.avatars["user"] = _respond, {1: "ready"}
        assert await confirm.check(avatar_ready(1, 1)) is not None


async def _respond(_: str) -> None:
    pass
