"""Waiting: the webhook or polling, whichever is first, never longer than the timeout. Time is virtual."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from attrs import define, field
from support.scripted_server import response, serve
from support.virtual_time import virtual

from avaturn_async import (
    Avatar,
    AvaturnClient,
    AvaturnConnectionError,
    AvaturnDecodeError,
    AvaturnError,
    AvaturnTimeoutError,
    Customization,
    Export,
    NewAvatar,
    NotFoundError,
    PollPolicy,
    RateLimitError,
    RouterClosedError,
    ScanStatus,
    ServerError,
    Session,
    StoreError,
    TaskFailedError,
    TaskStatus,
    TransferError,
    create_avatar,
    export_avatar,
    wait_for_avatar,
    wait_for_export,
    wait_for_new_avatar,
    wait_for_render,
)
from avaturn_async.webhooks import AvatarReady, Event, ExportReady, MemoryStore, RenderReady, SessionRouter
from avaturn_async.webhooks.events import event_body

AVATAR = UUID("0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11")
OTHER = UUID("11111111-1111-4111-8111-111111111111")
RENDER = UUID("497f6eca-6276-4993-bfeb-53cbbbba6f08")
PENDING = Export(status=TaskStatus.PENDING)
FAILED = Export(status=TaskStatus.FAILED)
READY = Export(status=TaskStatus.READY, url="https://files.example/a.glb")
URL = "https://files.example/b.glb"
HANG = object()
AT_ONCE = PollPolicy(first=0)
PHOTOS: dict[str, Any] = {
    "frontal": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "side_1": b"\xff\xd8\xff\xe0" + bytes(20),
    "side_2": b"RIFF\x14\x00\x00\x00WEBPVP8 " + bytes(20),
    "body_type": "female",
}


def avatar(status: str, avatar_id: UUID = AVATAR) -> Avatar:
    return Avatar(id=avatar_id, status=ScanStatus(status))


def avatars(status: str) -> tuple[Avatar, ...]:
    return (avatar("ready", OTHER), avatar(status))


@define
class Api:
    """A client that returns results in order; the last one is repeated. It is not hashable, as stubs may be."""

    results: list[Any]
    polled: list[float] = field(factory=list[float])
    """When each result was requested."""
    calls: list[Any] = field(factory=list[Any])
    """The other calls."""
    errors: dict[str, Exception] = field(factory=dict[str, Exception])
    """Errors of these, by name."""

    async def _poll(self) -> Any:
        self.polled.append(asyncio.get_running_loop().time())
        result = self.results[min(len(self.polled), len(self.results)) - 1]
        if isinstance(result, Exception):
            raise result
        if result is HANG:
            await asyncio.Event().wait()
        return result

    async def list_user_avatars(self, user_id: str, *, include_not_ready: bool) -> Any:
        assert (user_id, include_not_ready) == ("u", True)
        return await self._poll()

    async def request(self, method: str, path: str, *, params: Any) -> Any:
        assert (method, path, params) == ("GET", "/api/v1/users/u/avatars", {"include_not_ready": True})
        return await self._poll()

    async def create_export(self, avatar_id: UUID) -> Any:
        assert avatar_id == AVATAR
        return await self._poll()

    def _record(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.errors:
            raise self.errors[name]

    async def new_session(self, user_id: str, config: object) -> Session:
        assert (user_id, config) == ("u", None)
        return Session(id=RENDER, url="https://session.example")

    async def new_avatar(self, user_id: str) -> NewAvatar:
        self._record("new_avatar", user_id)
        return NewAvatar(avatar_id=AVATAR, upload_url="https://up.example/1")

    async def upload_photos(self, upload_url: str, **form: Any) -> None:
        self._record("upload_photos", upload_url, form)

    async def set_customization(self, avatar_id: UUID, customization: Customization) -> None:
        self._record("set_customization", avatar_id, customization)

    async def download(self, url: str, destination: Any, *, on_progress: Any) -> Path:
        self._record("download", url, on_progress)
        return Path(destination)


def client(*results: Any) -> tuple[Api, AvaturnClient]:
    api = Api(list(results))
    return api, cast("AvaturnClient", api)


async def publish(router: SessionRouter, event: Event) -> None:
    await router.publish(event, key=str(uuid4()), body=event_body(event))


def avatar_ready(status: str | None, avatar_id: UUID = AVATAR, session_id: UUID | None = None) -> AvatarReady:
    return AvatarReady(avatar_id=avatar_id, status=ScanStatus(status) if status else None, session_id=session_id)


def export_ready(status: str = "ready", url: str | None = URL) -> ExportReady:
    return ExportReady(avatar_id=AVATAR, user_id="u", status=TaskStatus(status), export_url=url)


Wait = Callable[..., Awaitable[object]]


def wait_avatar(c: AvaturnClient, **options: Any) -> Awaitable[object]:
    return wait_for_avatar(c, "u", str(AVATAR), **{"timeout": 600, **options})


def wait_export(c: AvaturnClient, **options: Any) -> Awaitable[object]:
    return wait_for_export(c, AVATAR, **{"timeout": 600, **options})


@pytest.mark.parametrize("with_router", [False, True])
@pytest.mark.parametrize(
    ("wait", "results", "found"),
    [
        (wait_avatar, [(), *map(avatars, ("pending", "processing", "unheard-of", "ready"))], avatar("ready")),
        (
            wait_export,
            [PENDING, Export(status=TaskStatus.PENDING, url=URL), Export(status=TaskStatus.READY), READY],
            READY,
        ),
    ],
)
@virtual
async def test_result_is_found_by_polling_also_when_the_webhook_is_lost(
    wait: Wait, results: list[Any], found: object, *, with_router: bool
) -> None:
    api, c = client(*results)
    async with SessionRouter() as router:
        assert await wait(c, router=router if with_router else None) == found
    assert len(api.polled) == len(results)


@virtual
async def test_pauses_grow_with_jitter_up_to_the_cap() -> None:
    api, c = client(PENDING)
    with pytest.raises(AvaturnTimeoutError, match="within 600 s"):
        await wait_export(c)
    pauses = [after - before for before, after in itertools.pairwise(api.polled)]
    assert api.polled[0] == 0
    assert all(min(15, 1.5**n) / 2 <= pause <= min(15, 1.5**n) for n, pause in enumerate(pauses))
    assert len(set(pauses)) == len(pauses)


@virtual
async def test_waiters_that_began_together_do_not_poll_together() -> None:
    apis = [client(PENDING, READY) for _ in range(50)]
    await asyncio.gather(*(wait_export(c) for _, c in apis))
    assert len({api.polled[1] for api, _ in apis}) == 50


@pytest.mark.parametrize(
    ("wait", "results", "event", "found"),
    [
        (wait_avatar, [avatars("processing")], avatar_ready("ready"), avatar("ready")),
        (wait_avatar, [avatars("processing")], avatar_ready("failed"), f"avatar {AVATAR} failed"),
        # Without a final status the list is requested at once.
        (wait_avatar, [avatars("processing"), avatars("ready")], avatar_ready(None), avatar("ready")),
        (wait_avatar, [avatars("processing"), avatars("ready")], avatar_ready("processing"), avatar("ready")),
        (wait_export, [PENDING], export_ready(), Export(status=TaskStatus.READY, url=URL)),
        (wait_export, [PENDING, READY], export_ready(url=None), READY),
        (wait_export, [PENDING], export_ready("failed", None), f"the export of avatar {AVATAR} failed"),
    ],
)
@virtual
async def test_webhook_ends_the_wait_before_the_next_poll(
    wait: Wait, results: list[Any], event: Event, found: object
) -> None:
    api, c = client(*results)
    async with SessionRouter() as router:
        waiter = asyncio.ensure_future(wait(c, router=router))
        await asyncio.sleep(0.1)
        await publish(router, event)
        if isinstance(found, str):
            with pytest.raises(TaskFailedError, match=found) as caught:
                await waiter
            assert caught.value.avatar_id == AVATAR
        else:
            assert await waiter == found
    assert asyncio.get_running_loop().time() == pytest.approx(0.1)
    assert len(api.polled) == len(results)


@pytest.mark.parametrize("result", [avatars("processing"), ServerError(502, "GET", "/x")])
@virtual
async def test_polling_goes_on_after_a_webhook_that_does_not_tell_enough(result: Any) -> None:
    _, c = client(avatars("processing"), result, avatars("ready"))
    async with SessionRouter() as router:
        await publish(router, avatar_ready(None))
        assert await wait_avatar(c, router=router) == avatar("ready")


@virtual
async def test_earlier_export_webhooks_are_not_used_for_the_new_export() -> None:
    api, c = client(PENDING, READY)
    async with SessionRouter() as router:
        for name in ("old", "older"):
            await publish(router, export_ready(url=f"https://files.example/{name}.glb"))
        assert await wait_export(c, router=router) == READY
    assert len(api.polled) == 2


@pytest.mark.parametrize(("wait", "result"), [(wait_avatar, avatars("failed")), (wait_export, FAILED)])
@virtual
async def test_failed_status_of_a_poll_is_raised(wait: Wait, result: Any) -> None:
    _, c = client(result)
    with pytest.raises(TaskFailedError, match=f"avatar {AVATAR} failed") as caught:
        await wait(c)
    assert caught.value.avatar_id == AVATAR


@virtual
async def test_render_is_waited_for_by_its_webhook() -> None:
    async with SessionRouter() as router:
        event = RenderReady(avatar_id=AVATAR, user_id="u", id=RENDER, status=TaskStatus.READY, render_url=URL)
        await publish(router, event)
        found = await wait_for_render(str(RENDER), timeout=600, router=router)
        assert (found.id, found.render_url) == (RENDER, URL)
        with pytest.raises(AvaturnTimeoutError):
            await wait_for_render(OTHER, timeout=600, router=router)
        await publish(router, RenderReady(avatar_id=AVATAR, user_id="u", id=OTHER, status=TaskStatus.FAILED))
        with pytest.raises(TaskFailedError, match=f"render {OTHER} failed"):
            await wait_for_render(OTHER, timeout=600, router=router)


@virtual
async def test_poll_that_fails_temporarily_is_repeated_and_retry_after_is_respected() -> None:
    api, c = client(
        AvaturnConnectionError("GET /x: reset"),
        AvaturnTimeoutError("GET /x: no response within 30 s"),
        ServerError(503, "GET", "/x", "", (), None, 90.0),
        RateLimitError(429, "GET", "/x", "", (), None, 80.0),
        avatars("ready"),
    )
    assert await wait_avatar(c) == avatar("ready")
    pauses = [after - before for before, after in itertools.pairwise(api.polled)]
    assert max(pauses[:2]) < 2
    assert pauses[2:] == pytest.approx([90, 80])


@pytest.mark.parametrize("error", [NotFoundError(404, "GET", "/x"), AvaturnError("other"), TimeoutError("mine")])
@pytest.mark.parametrize("with_router", [False, True])
@virtual
async def test_other_error_of_a_poll_is_raised_as_it_is(error: Exception, *, with_router: bool) -> None:
    async with SessionRouter() as router:
        _, c = client(avatars("processing"), error)
        with pytest.raises(type(error)) as caught:
            await wait_avatar(c, router=router if with_router else None)
    assert caught.value is error
    assert getattr(error, "avatar_id", AVATAR) == AVATAR


@virtual
async def test_error_about_another_avatar_keeps_its_avatar_id() -> None:
    error = NotFoundError(404, "GET", "/x")
    error.avatar_id = OTHER
    _, c = client(error)
    with pytest.raises(NotFoundError) as caught:
        await wait_avatar(c)
    assert caught.value.avatar_id == OTHER


@pytest.mark.parametrize("with_router", [False, True])
@virtual
async def test_cancelled_wait_leaves_no_task(*, with_router: bool) -> None:
    _, c = client(HANG)
    router = SessionRouter()
    waiter = asyncio.ensure_future(wait_avatar(c, router=router if with_router else None))
    await asyncio.sleep(1)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await router.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("timeout", [0, 0.25, 17, 601.5])
@virtual
async def test_timeout_holds_while_the_api_hangs(timeout: float) -> None:
    _, c = client(HANG)
    with pytest.raises(AvaturnTimeoutError, match=f"avatar {AVATAR} was not ready within {timeout:g} s") as caught:
        await wait_avatar(c, timeout=timeout)
    assert asyncio.get_running_loop().time() == pytest.approx(timeout)
    assert caught.value.avatar_id == AVATAR


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), None, "5"])
@virtual
async def test_invalid_timeout_is_refused_before_a_request(timeout: Any) -> None:
    api, c = client(READY)
    with pytest.raises(ValueError, match="timeout must be a number"):
        await wait_export(c, timeout=timeout)
    assert api.polled == []


@virtual
async def test_closed_router_ends_the_wait() -> None:
    _, c = client(PENDING)
    router = SessionRouter()
    waiter = asyncio.ensure_future(wait_export(c, router=router))
    await asyncio.sleep(0.1)
    await router.close()
    with pytest.raises(RouterClosedError):
        await waiter


class UnreadableStore(MemoryStore):
    async def read(self, *args: Any, **options: Any) -> Any:
        raise StoreError(f"unavailable: {args}, {options}")


@pytest.mark.parametrize(("wait", "results"), [(wait_export, [PENDING, READY]), (wait_avatar, [(), avatars("ready")])])
@virtual
async def test_polling_goes_on_while_the_store_is_unavailable(wait: Wait, results: list[Any]) -> None:
    api, c = client(*results)
    async with SessionRouter(UnreadableStore()) as router:
        await wait(c, router=router)
    assert len(api.polled) == 2


class StoreWithOneError(MemoryStore):
    was_read = False

    async def read(self, *args: Any, **options: Any) -> Any:
        if not self.was_read:
            self.was_read = True
            raise StoreError("unavailable")
        return await super().read(*args, **options)


@virtual
async def test_earlier_export_webhook_is_not_used_after_an_error_of_the_store() -> None:
    _, c = client(PENDING, READY)
    async with SessionRouter(StoreWithOneError()) as router:
        await publish(router, export_ready(url="https://files.example/old.glb"))
        assert await wait_export(c, router=router) == READY


class BreakingStore(MemoryStore):
    """A store whose connection breaks when a read is cancelled."""

    async def read(self, *args: Any, **options: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            raise StoreError(f"broken: {args}, {options}")


@virtual
async def test_store_error_after_the_result_is_not_logged_by_asyncio() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    _, c = client(avatars("ready"))
    async with SessionRouter(BreakingStore()) as router:
        await wait_avatar(c, router=router)
    gc.collect()
    assert reported == []


DRIFT = AvaturnDecodeError("the response does not have the documented shape", ("expected str at $[0].status",))


@virtual
async def test_drift_in_another_row_does_not_end_the_wait(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"id": str(OTHER), "status": None},
        *({"id": "not an id", "status": "ready"}, {"status": "ready"}, "not a row", []),
        {"id": str(AVATAR), "status": "ready"},
    ]
    _, c = client(avatars("processing"), DRIFT, rows)
    assert await wait_avatar(c) == avatar("ready")
    assert "expected str at $[0].status" in caplog.text


@pytest.mark.parametrize("rows", [[{"id": str(AVATAR), "status": None}], {"avatars": []}])
@virtual
async def test_drift_in_the_awaited_row_ends_the_wait(rows: Any) -> None:
    _, c = client(DRIFT, rows)
    with pytest.raises(AvaturnDecodeError) as caught:
        await wait_avatar(c)
    assert caught.value.problems


async def test_error_of_a_row_names_the_call_and_the_place_in_the_list() -> None:
    rows = [{"id": str(OTHER), "status": "ready"}, {"id": str(AVATAR), "status": None}]
    async with serve(response(200, rows)) as server, AvaturnClient("token", base_url=server.url) as real:
        with pytest.raises(AvaturnDecodeError) as listed:
            await real.list_user_avatars("u")
        for wait in (
            wait_for_avatar(real, "u", AVATAR, timeout=30),
            wait_for_new_avatar(real, "u", known=[OTHER], timeout=30),
        ):
            with pytest.raises(AvaturnDecodeError) as caught:
                await wait
            assert caught.value.problems == ("expected str at $[1].status",)
            assert str(caught.value) == str(listed.value)
            assert caught.value.avatar_id == AVATAR
    assert str(listed.value).startswith("GET /api/v1/users/u/avatars: ")


@virtual
async def test_new_avatar_is_found_by_polling_beside_known_ones() -> None:
    known = avatar("ready", OTHER)
    api, c = client((known,), (known, avatar("processing")), (known, avatar("ready")))
    for given in ([known], {OTHER}, [str(OTHER)]):
        api.polled.clear()
        assert await wait_for_new_avatar(c, "u", known=given, timeout=600) == avatar("ready")
        assert len(api.polled) == 3


@virtual
async def test_new_avatar_that_failed_is_an_error_unless_another_one_is_ready() -> None:
    failed = avatar("failed")
    _, c = client((failed, avatar("processing", OTHER)), (failed, avatar("ready", OTHER)))
    assert (await wait_for_new_avatar(c, "u", known=(), timeout=600)).id == OTHER
    _, c = client((failed,))
    with pytest.raises(TaskFailedError) as caught:
        await wait_for_new_avatar(c, "u", known=(), timeout=600)
    assert caught.value.avatar_id == AVATAR


@virtual
async def test_drift_in_the_row_of_a_new_avatar_only_is_an_error() -> None:
    _, c = client(DRIFT, [{"id": str(OTHER), "status": None}, {"id": str(AVATAR), "status": "ready"}])
    assert (await wait_for_new_avatar(c, "u", known=[OTHER], timeout=600)).id == AVATAR
    _, c = client(DRIFT, [{"id": str(AVATAR), "status": None}])
    with pytest.raises(AvaturnDecodeError):
        await wait_for_new_avatar(c, "u", known=[OTHER], timeout=600)


@pytest.mark.parametrize("by", ["session", "id"])
@pytest.mark.parametrize("status", ["ready", None, "processing"])
@virtual
async def test_webhook_of_the_session_brings_a_new_avatar_or_an_edited_one(by: str, status: str | None) -> None:
    _, c = client((avatar("ready"),))
    async with SessionRouter() as router:
        session = await router.open_session(c, "u")
        given: dict[str, Any] = (
            {"session": session} if by == "session" else {"session": str(session.id), "router": router}
        )
        waiter = asyncio.create_task(wait_for_new_avatar(c, "u", known=[AVATAR], timeout=600, **given))
        await asyncio.sleep(0.1)
        await publish(router, avatar_ready("failed", OTHER, session.id))
        await publish(router, avatar_ready(status, AVATAR, session.id))
        assert await waiter == avatar("ready")
    assert asyncio.get_running_loop().time() < 1


@virtual
async def test_new_avatar_is_found_by_polling_when_the_webhook_is_lost() -> None:
    _, c = client((), (avatar("processing"),), (avatar("ready"),))
    async with SessionRouter() as router:
        session = await router.open_session(c, "u")
        found = await wait_for_new_avatar(c, "u", known=(), timeout=600, session=session, router=router)
    assert found == avatar("ready")


@virtual
async def test_wait_for_new_avatar_refuses_wrong_arguments_and_times_out() -> None:
    api, c = client(())
    with pytest.raises(ValueError, match="router= needs session="):
        await wait_for_new_avatar(c, "u", known=(), timeout=5, router=SessionRouter())
    with pytest.raises(ValueError, match="known is not a UUID"):
        await wait_for_new_avatar(c, "u", known=["nonsense"], timeout=5)
    for known in (None, str(AVATAR), AVATAR, avatar("ready")):
        with pytest.raises(TypeError, match="known must be avatars or ids"):
            await wait_for_new_avatar(c, "u", known=cast("Any", known), timeout=5)
    with pytest.raises(ValueError, match="session= is an id: give router="):
        await wait_for_new_avatar(c, "u", known=(), timeout=5, session=OTHER)
    unrouted: Any = Session(id=OTHER, url="", custom_upload_url="")
    with pytest.raises(TypeError, match=r"what router\.open_session returned, .*, not Session"):
        await wait_for_new_avatar(c, "u", known=(), timeout=5, session=unrouted)
    assert api.polled == []
    with pytest.raises(AvaturnTimeoutError, match="user u had no new avatar within 5 s"):
        await wait_for_new_avatar(c, "u", known=(), timeout=5)


@virtual
async def test_export_avatar_downloads_the_export() -> None:
    api, c = client(PENDING, READY)
    progress: Callable[[int, int | None], None] = lambda _done, _total: None  # noqa: E731
    assert await export_avatar(c, AVATAR, "avatar.glb", timeout=600, on_progress=progress) == Path("avatar.glb")
    assert api.calls == [("download", READY.url, progress)]


@virtual
async def test_error_of_export_avatar_has_the_avatar_id() -> None:
    api, c = client(READY)
    for error in (TransferError("cut"), AvaturnTimeoutError("download: no progress for 30 s")):
        api.errors["download"] = error
        with pytest.raises(AvaturnError) as caught:
            await export_avatar(c, AVATAR, "x", timeout=5)
        assert caught.value is error
        assert caught.value.avatar_id == AVATAR
    _, c = client(PENDING)
    with pytest.raises(AvaturnTimeoutError, match="within 5 s"):
        await export_avatar(c, AVATAR, "x", timeout=5)


@virtual
async def test_export_avatar_refuses_wrong_arguments_before_the_export() -> None:
    api, c = client(READY)
    with pytest.raises(ValueError, match="no directory 'nowhere': make it first"):
        await export_avatar(c, AVATAR, "nowhere/avatar.glb", timeout=600)
    with pytest.raises(TypeError, match="on_progress must be a plain function"):
        await export_avatar(c, AVATAR, "avatar.glb", timeout=600, on_progress=asyncio.sleep)
    assert api.polled == []


@pytest.mark.parametrize("on_created_is", ["plain", "async"])
async def test_create_avatar_reports_the_id_uploads_waits_and_customizes(on_created_is: str) -> None:
    api, c = client(avatars("processing"), avatars("ready"))
    custom = Customization(body="body_0")

    def on_created(avatar_id: UUID) -> None:
        api.calls.append(("on_created", avatar_id))

    async def on_created_async(avatar_id: UUID) -> None:
        await asyncio.sleep(0)
        on_created(avatar_id)

    created: Callable[[UUID], Any] = on_created if on_created_is == "plain" else on_created_async
    made = await create_avatar(c, "u", **PHOTOS, customization=custom, timeout=600, poll=AT_ONCE, on_created=created)
    assert made == avatar("ready")
    assert api.calls == [
        ("new_avatar", "u"),
        ("on_created", AVATAR),
        ("upload_photos", "https://up.example/1", {**PHOTOS, "telephoto": False, "on_progress": None}),
        ("set_customization", AVATAR, custom),
    ]


async def test_create_avatar_continues_with_an_avatar_that_exists() -> None:
    api, c = client(avatars("processing"), avatars("ready"))
    custom = Customization(body="body_0")
    created: list[UUID] = []
    options: dict[str, Any] = {"timeout": 600, "poll": AT_ONCE, "on_created": created.append}
    made = await create_avatar(c, "u", **PHOTOS, customization=custom, avatar_id=str(AVATAR), **options)
    assert made == avatar("ready")
    assert (api.calls, created) == ([("set_customization", AVATAR, custom)], [])


@pytest.mark.parametrize(
    ("upload_error", "results", "kind"),
    [
        (TransferError("cut"), (), TransferError),
        (AvaturnTimeoutError("PUT /x: silence"), (), AvaturnTimeoutError),
        (None, (avatars("failed"),), TaskFailedError),
        (None, (HANG,), AvaturnTimeoutError),
    ],
)
async def test_error_of_create_avatar_has_the_avatar_id(
    upload_error: AvaturnError | None, results: tuple[Any, ...], kind: type[AvaturnError]
) -> None:
    api, c = client(*results)
    if upload_error is not None:
        api.errors["upload_photos"] = upload_error
    timeout = 1.0 if HANG in results else 600.0
    with pytest.raises(kind) as caught:
        await create_avatar(c, "u", **PHOTOS, customization=Customization(), timeout=timeout)
    assert caught.value.avatar_id == AVATAR
    assert ("within 1 s" in str(caught.value)) == (HANG in results)


async def test_error_before_the_avatar_exists_has_no_avatar_id() -> None:
    api, c = client()
    api.errors["new_avatar"] = ServerError(500, "POST", "/x")
    with pytest.raises(ServerError) as caught:
        await create_avatar(c, "u", **PHOTOS, customization=Customization(), timeout=600)
    assert caught.value.avatar_id is None
    assert api.calls == [("new_avatar", "u")]


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"frontal": "nowhere.jpg"}, ValueError, "frontal: there is no file"),
        ({"side_2": b"not a photo"}, ValueError, "side_2: it is no image"),
        ({"body_type": "other"}, ValueError, "body_type must be"),
        ({"telephoto": "yes"}, ValueError, "telephoto must be"),
        ({"customization": {}}, TypeError, "customization must be a Customization"),
        ({"customization": Customization(skin_tone_correction=math.nan)}, ValueError, "JSON"),
        ({"on_created": 5}, TypeError, "on_created must be callable"),
        ({"on_progress": 5}, TypeError, "on_progress must be callable"),
        ({"on_progress": asyncio.sleep}, TypeError, "on_progress must be a plain function"),
        ({"on_progress": asyncio.sleep, "avatar_id": AVATAR}, TypeError, "on_progress must be a plain function"),
    ],
)
async def test_create_avatar_refuses_invalid_arguments_before_a_request(
    wrong: dict[str, Any], kind: type[Exception], words: str
) -> None:
    api, c = client(avatars("ready"))
    create: Any = create_avatar
    with pytest.raises(kind, match=words):
        await create(c, "u", **{**PHOTOS, "customization": Customization(), "timeout": 600, **wrong})
    assert (api.calls, api.polled) == ([], [])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"client": AVATAR}, "client must be an AvaturnClient, not UUID"),
        ({"client": AvaturnClient}, "client must be an AvaturnClient, not the class AvaturnClient"),
        ({"router": "events.db"}, "router must be a SessionRouter, not str"),
        ({"poll": 5}, "poll must be a PollPolicy, not int"),
    ],
)
@pytest.mark.parametrize(
    ("wait", "arguments"),
    [
        (wait_for_avatar, {"user_id": "u", "avatar_id": AVATAR}),
        (wait_for_new_avatar, {"user_id": "u", "known": ()}),
        (wait_for_export, {"avatar_id": AVATAR}),
        (export_avatar, {"avatar_id": AVATAR, "destination": "a.glb"}),
        (create_avatar, {"user_id": "u", **PHOTOS, "customization": Customization()}),
    ],
)
async def test_mixed_up_arguments_are_refused_before_a_request(
    wait: Callable[..., Awaitable[object]], arguments: dict[str, Any], wrong: dict[str, Any], words: str
) -> None:
    api, c = client(HANG)
    with pytest.raises(TypeError, match=words):
        await wait(**{"client": c, "timeout": 5, **arguments, **wrong})
    assert (api.calls, api.polled) == ([], [])


async def test_wait_for_render_refuses_another_router() -> None:
    router: Any = "events.db"
    with pytest.raises(TypeError, match="router must be a SessionRouter, not str"):
        await wait_for_render(RENDER, timeout=5, router=router)


@pytest.mark.parametrize(
    "wrong",
    [{"first": -1}, {"cap": float("inf")}, {"factor": 0.5}, {"factor": 11}, {"factor": "2"}, {"first": True}],
)
def test_poll_policy_refuses_an_invalid_number(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a number"):
        PollPolicy(**wrong)


def test_poll_policy_does_not_overflow() -> None:
    assert PollPolicy(factor=10).pause(10**9, lambda: 1.0) == 15
