"""Waiting: webhook or polling, whichever is first, and never past the deadline. In virtual time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from attrs import define, field
from transfer_rig import JPEG, PNG, WEBP
from virtual_time import virtual

from avaturn_async import (
    Avatar,
    AvaturnClient,
    AvaturnConnectionError,
    AvaturnError,
    AvaturnStatusError,
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
    StoreError,
    TaskFailedError,
    TaskStatus,
    TransferError,
    create_avatar,
    export_avatar,
    wait_for_avatar,
    wait_for_export,
    wait_for_render,
)
from avaturn_async._polling import _loops_of
from avaturn_async.webhooks import AvatarReady, Event, ExportReady, RenderReady, SessionRouter
from avaturn_async.webhooks.events import event_body
from avaturn_async.webhooks.stores import StoredEvent
from avaturn_async.webhooks.stores.memory import MemoryStore

AVATAR = UUID("0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11")
RENDER = UUID("497f6eca-6276-4993-bfeb-53cbbbba6f08")
PENDING = Export(status=TaskStatus.PENDING)
READY = Export(status=TaskStatus.READY, url="https://files.example/a.glb")
URL = "https://files.example/b.glb"


@define(eq=False)
class Api:
    """A client that answers by script; the last answer is given again and again."""

    answers: list[Any]
    asked: list[tuple[float, str]] = field(factory=list[tuple[float, str]])
    downloads: list[tuple[str, Any]] = field(factory=list[tuple[str, Any]])
    made: list[str] = field(factory=list[str])
    uploads: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    upload: Exception | None = None

    def _next(self, what: str) -> Any:
        self.asked.append((asyncio.get_running_loop().time(), what))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def list_user_avatars(self, user_id: str, *, include_not_ready: bool) -> tuple[Avatar, ...]:
        assert (user_id, include_not_ready) == ("u", True)
        answer = self._next("list")
        if answer == "hang":
            await asyncio.Event().wait()
        return cast("tuple[Avatar, ...]", answer)

    async def create_export(self, avatar_id: UUID) -> Export:
        assert avatar_id == AVATAR
        return cast("Export", self._next("export"))

    async def new_avatar(self, user_id: str) -> NewAvatar:
        assert user_id == "u"
        self.made.append(user_id)
        return NewAvatar(avatar_id=AVATAR, upload_url="https://up.example/1")

    async def upload_photos(self, upload_url: str, **form: Any) -> None:
        self.uploads.append({"upload_url": upload_url, **form})
        if self.upload is not None:
            raise self.upload

    async def set_customization(self, avatar_id: UUID, customization: Customization) -> None:
        self.uploads.append({"customized": avatar_id, "with": customization})

    async def download(self, url: str, destination: Any, *, on_progress: Any) -> Path:
        self.downloads.append((url, on_progress))
        return Path(destination)


def client(*answers: Any) -> tuple[Api, AvaturnClient]:
    api = Api(list(answers))
    return api, cast("AvaturnClient", api)


def avatars(status: str, avatar_id: UUID = AVATAR) -> tuple[Avatar, ...]:
    other = Avatar(id=uuid4(), status=ScanStatus.READY)
    return (other, Avatar(id=avatar_id, status=ScanStatus(status)))


async def publish(router: SessionRouter, event: Event) -> None:
    await router.publish(event, key=str(uuid4()), body=event_body(event))


def avatar_ready(status: str | None) -> AvatarReady:
    return AvatarReady(avatar_id=AVATAR, status=ScanStatus(status) if status else None)


def export_ready(status: str = "ready", url: str | None = URL) -> ExportReady:
    return ExportReady(avatar_id=AVATAR, user_id="u", status=TaskStatus(status), export_url=url)


def assert_nothing_left() -> None:
    assert not any(_loops_of.values())
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtual
async def test_without_a_router_polling_finds_the_avatar() -> None:
    api, c = client((), avatars("pending"), avatars("processing"), avatars("unheard-of"), avatars("ready"))
    assert await wait_for_avatar(c, "u", str(AVATAR), timeout=600) == Avatar(
        id=AVATAR, status=ScanStatus.READY
    )
    assert len(api.asked) == 5
    assert_nothing_left()


@virtual
async def test_without_a_router_polling_finds_the_export() -> None:
    api, c = client(PENDING, PENDING, Export(status=TaskStatus.READY), READY)
    assert await wait_for_export(c, AVATAR, timeout=600) == READY
    assert len(api.asked) == 4
    assert_nothing_left()


@virtual
async def test_pauses_grow_with_jitter_up_to_the_cap() -> None:
    api, c = client(PENDING)
    with pytest.raises(AvaturnTimeoutError, match="within 600 s"):
        await wait_for_export(c, AVATAR, timeout=600)
    times = [t for t, _ in api.asked]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == 0
    assert all(min(15, 1.5**n) / 2 <= p <= min(15, 1.5**n) for n, p in enumerate(pauses))
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize("status", ["ready", "failed"])
@virtual
async def test_a_webhook_is_faster_than_polling(status: str) -> None:
    api, c = client(avatars("processing"))
    async with SessionRouter() as router:
        waiter = asyncio.create_task(wait_for_avatar(c, "u", AVATAR, timeout=600, router=router))
        await asyncio.sleep(0.1)
        await publish(router, avatar_ready(status))
        if status == "ready":
            assert await waiter == Avatar(id=AVATAR, status=ScanStatus.READY)
        else:
            with pytest.raises(TaskFailedError, match=f"avatar {AVATAR} failed"):
                await waiter
        assert asyncio.get_running_loop().time() == pytest.approx(0.1)
        assert len(api.asked) == 1
        assert not any(_loops_of.values())


@virtual
async def test_an_avatar_event_without_a_status_makes_the_api_be_asked_at_once() -> None:
    _, c = client(avatars("processing"), avatars("ready"))
    async with SessionRouter() as router:
        waiter = asyncio.create_task(wait_for_avatar(c, "u", AVATAR, timeout=600, router=router))
        await asyncio.sleep(0.1)
        await publish(router, avatar_ready(None))
        assert (await waiter).status == "ready"
        assert asyncio.get_running_loop().time() == pytest.approx(0.1)


@pytest.mark.parametrize("answer", [avatars("processing"), ServerError(502, "GET", "/x")])
@virtual
async def test_an_event_that_says_too_little_leaves_the_polling_on(answer: Any) -> None:
    _, c = client(avatars("processing"), answer, avatars("ready"))
    async with SessionRouter() as router:
        await publish(router, avatar_ready(None))
        waiter = asyncio.create_task(wait_for_avatar(c, "u", AVATAR, timeout=600, router=router))
        assert (await waiter).status == "ready"


@virtual
async def test_a_lost_webhook_only_delays() -> None:
    _, c = client(avatars("processing"), avatars("processing"), avatars("ready"))
    async with SessionRouter() as router:
        assert (await wait_for_avatar(c, "u", AVATAR, timeout=600, router=router)).status == "ready"
        assert 0 < asyncio.get_running_loop().time() < 10


@virtual
async def test_an_export_event_hands_on_its_fresh_url() -> None:
    api, c = client(PENDING)
    async with SessionRouter() as router:
        waiter = asyncio.create_task(wait_for_export(c, AVATAR, timeout=600, router=router))
        await asyncio.sleep(0.1)
        await publish(router, export_ready())
        assert await waiter == Export(status=TaskStatus.READY, url=URL)
        assert len(api.asked) == 1


@virtual
async def test_an_export_event_from_before_is_not_taken_for_the_new_export() -> None:
    api, c = client(PENDING, READY)
    async with SessionRouter() as router:
        await publish(router, export_ready(url="https://files.example/old.glb"))
        assert await wait_for_export(c, AVATAR, timeout=600, router=router) == READY
        assert len(api.asked) == 2


@virtual
async def test_failed_is_an_error_from_either_side() -> None:
    _, c = client(avatars("failed"))
    with pytest.raises(TaskFailedError, match=f"avatar {AVATAR} failed"):
        await wait_for_avatar(c, "u", AVATAR, timeout=600)
    _, c = client(PENDING, Export(status=TaskStatus.FAILED))
    with pytest.raises(TaskFailedError, match=f"export of avatar {AVATAR} failed"):
        await wait_for_export(c, AVATAR, timeout=600)
    _, c = client(PENDING)
    async with SessionRouter() as router:
        waiter = asyncio.create_task(wait_for_export(c, AVATAR, timeout=600, router=router))
        await asyncio.sleep(0.1)
        await publish(router, export_ready("failed", None))
        with pytest.raises(TaskFailedError):
            await waiter


@virtual
async def test_a_render_is_waited_for_by_its_webhook() -> None:
    _, c = client()
    event = RenderReady(avatar_id=AVATAR, user_id="u", id=RENDER, status=TaskStatus.READY, render_url=URL)
    async with SessionRouter() as router:
        await publish(router, event)
        got = await wait_for_render(c, str(RENDER), timeout=600, router=router)
        assert (got.id, got.render_url) == (RENDER, URL)
        other = uuid4()
        with pytest.raises(AvaturnTimeoutError):
            await wait_for_render(c, other, timeout=600, router=router)
        failed = RenderReady(avatar_id=AVATAR, user_id="u", id=other, status=TaskStatus.FAILED)
        await publish(router, failed)
        with pytest.raises(TaskFailedError, match=f"render {other} failed"):
            await wait_for_render(c, other, timeout=600, router=router)


@virtual
async def test_a_poll_that_fails_in_passing_is_skipped() -> None:
    passing = [
        AvaturnConnectionError("GET /x: reset"),
        AvaturnTimeoutError("GET /x: no answer within 30 s"),
        ServerError(503, "GET", "/x"),
        RateLimitError(429, "GET", "/x"),
    ]
    _, c = client(*passing, avatars("ready"))
    assert (await wait_for_avatar(c, "u", AVATAR, timeout=600)).status == "ready"


@pytest.mark.parametrize(("kind", "status"), [(RateLimitError, 429), (ServerError, 503)])
@virtual
async def test_a_server_that_says_when_to_come_back_is_obeyed(
    kind: type[AvaturnStatusError], status: int
) -> None:
    api, c = client(kind(status, "GET", "/x", "", (), None, 90.0), avatars("ready"))
    await wait_for_avatar(c, "u", AVATAR, timeout=600)
    assert api.asked[1][0] == 90


@pytest.mark.parametrize("error", [NotFoundError(404, "GET", "/x"), AvaturnError("other")])
@virtual
async def test_another_error_of_a_poll_is_raised_to_everybody_who_waits(error: AvaturnError) -> None:
    _, c = client(avatars("processing"), error)
    async with SessionRouter() as router:
        waits = [wait_for_avatar(c, "u", AVATAR, timeout=600, router=r) for r in (None, router, None)]
        assert await asyncio.gather(*waits, return_exceptions=True) == [error] * 3
        assert not any(_loops_of.values())


@virtual
async def test_many_who_wait_for_one_thing_ask_once() -> None:
    api, c = client(avatars("processing"), avatars("processing"), avatars("ready"))
    waits = [wait_for_avatar(c, "u", AVATAR, timeout=600) for _ in range(100)]
    assert {a.status for a in await asyncio.gather(*waits)} == {"ready"}
    assert len(api.asked) == 3
    assert_nothing_left()


@virtual
async def test_those_who_wait_for_different_things_do_not_ask_in_step() -> None:
    apis = [client(PENDING, READY) for _ in range(50)]
    await asyncio.gather(*(wait_for_export(c, AVATAR, timeout=600) for _, c in apis))
    assert len({api.asked[1][0] for api, _ in apis}) == 50


@virtual
async def test_one_who_leaves_does_not_end_the_polling_of_the_others() -> None:
    _, c = client(avatars("processing"), avatars("processing"), avatars("processing"), avatars("ready"))
    leaves = asyncio.create_task(wait_for_avatar(c, "u", AVATAR, timeout=600))
    short = asyncio.create_task(wait_for_avatar(c, "u", AVATAR, timeout=0.5))
    stays = asyncio.create_task(wait_for_avatar(c, "u", AVATAR, timeout=600))
    await asyncio.sleep(0.1)
    leaves.cancel()
    with pytest.raises(AvaturnTimeoutError):
        await short
    assert (await stays).status == "ready"
    assert leaves.cancelled()
    assert_nothing_left()


@pytest.mark.parametrize("with_router", [False, True])
@virtual
async def test_cancellation_leaves_nothing_running(*, with_router: bool) -> None:
    _, c = client("hang")
    router = SessionRouter()
    waiter = asyncio.create_task(
        wait_for_avatar(c, "u", AVATAR, timeout=600, router=router if with_router else None)
    )
    await asyncio.sleep(1)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await router.close()
    assert_nothing_left()


@pytest.mark.parametrize("timeout", [0, 0.25, 17, 601.5])
@virtual
async def test_the_deadline_holds_also_while_the_api_hangs(timeout: float) -> None:
    _, c = client("hang")
    with pytest.raises(AvaturnTimeoutError, match=f"avatar {AVATAR} was not ready within {timeout:g} s"):
        await wait_for_avatar(c, "u", AVATAR, timeout=timeout)
    assert asyncio.get_running_loop().time() == pytest.approx(timeout)
    assert_nothing_left()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), None, "5"])
@virtual
async def test_a_timeout_that_makes_no_sense_is_refused(timeout: Any) -> None:
    api, c = client(READY)
    with pytest.raises(ValueError, match="timeout must be a number"):
        await wait_for_export(c, AVATAR, timeout=timeout)
    assert api.asked == []


@virtual
async def test_a_router_that_closes_ends_the_wait() -> None:
    _, c = client(PENDING)
    router = SessionRouter()
    waiter = asyncio.create_task(wait_for_export(c, AVATAR, timeout=600, router=router))
    await asyncio.sleep(0.1)
    await router.close()
    with pytest.raises(RouterClosedError):
        await waiter
    assert_nothing_left()


class Away(MemoryStore):
    """A store that cannot be read."""

    async def read(self, topic: str, *, after: int = 0) -> Sequence[StoredEvent]:
        raise StoreError(f"away: {topic}, {after}")


@pytest.mark.parametrize("kind", ["avatar", "export"])
@virtual
async def test_a_store_that_is_away_leaves_it_to_polling(kind: str) -> None:
    api, c = client(PENDING, READY) if kind == "export" else client((), avatars("ready"))
    async with SessionRouter(Away()) as router:

        def wait() -> Coroutine[Any, Any, object]:
            if kind == "export":
                return wait_for_export(c, AVATAR, timeout=600, router=router)
            return wait_for_avatar(c, "u", AVATAR, timeout=600, router=router)

        await asyncio.gather(*[wait() for _ in range(20)])
    # However many wait and cannot hear, one loop asks.
    assert len(api.asked) == 2
    assert_nothing_left()


class Breaking(MemoryStore):
    """A store whose connection breaks when a reader leaves."""

    async def read(self, topic: str, *, after: int = 0) -> Sequence[StoredEvent]:
        try:
            await asyncio.Event().wait()
        finally:
            raise StoreError(f"broken: {topic}, {after}")


@virtual
async def test_a_store_that_fails_when_nobody_needs_it_any_more_is_not_reported_as_lost() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    _, c = client(avatars("ready"))
    async with SessionRouter(Breaking()) as router:
        await wait_for_avatar(c, "u", AVATAR, timeout=600, router=router)
    gc.collect()
    assert reported == []


@virtual
async def test_export_avatar_goes_from_the_avatar_to_the_file() -> None:
    api, c = client(PENDING, READY)
    progress: Callable[[int, int | None], None] = lambda _done, _total: None  # noqa: E731
    path = await export_avatar(c, AVATAR, "avatar.glb", timeout=600, on_progress=progress)
    assert path == Path("avatar.glb")
    assert api.downloads == [(READY.url, progress)]
    _, c = client(PENDING)
    with pytest.raises(AvaturnTimeoutError, match="within 5 s"):
        await export_avatar(c, AVATAR, "x", timeout=5)


@virtual
async def test_a_destination_that_cannot_be_is_refused_before_an_export_is_asked_for() -> None:
    api, c = client(READY)
    with pytest.raises(ValueError, match="no directory 'nowhere': make it first"):
        await export_avatar(c, AVATAR, "nowhere/avatar.glb", timeout=600)
    assert api.asked == []


AT_ONCE = PollPolicy(first=0)


def photos(**changes: Any) -> dict[str, Any]:
    return {"frontal": PNG, "side_1": JPEG, "side_2": WEBP, "body_type": "female", **changes}


async def test_create_avatar_goes_from_photos_to_an_avatar_that_can_be_exported() -> None:
    api, c = client(avatars("processing"), avatars("ready"))
    custom = Customization(body="body_0")
    avatar = await create_avatar(c, "u", **photos(), customization=custom, timeout=600, poll=AT_ONCE)
    assert avatar == Avatar(id=AVATAR, status=ScanStatus.READY)
    assert api.uploads == [
        {"upload_url": "https://up.example/1", **photos(), "telephoto": False, "on_progress": None},
        {"customized": AVATAR, "with": custom},
    ]
    create: Any = create_avatar
    with pytest.raises(TypeError, match="customization"):
        await create(c, "u", **photos(), timeout=600)


@pytest.mark.parametrize(
    ("upload", "answers", "kind"),
    [
        (TransferError("cut"), (), TransferError),
        (AvaturnTimeoutError("PUT /x: silence"), (), AvaturnTimeoutError),
        (None, (avatars("failed"),), TaskFailedError),
        (None, ("hang",), AvaturnTimeoutError),
    ],
)
async def test_create_avatar_that_fails_names_the_avatar_that_it_made(
    upload: AvaturnError | None,
    answers: tuple[Any, ...],
    kind: type[AvaturnError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api, c = client(*answers)
    api.upload = upload
    loop = asyncio.get_running_loop()
    real = loop.time
    if "hang" in answers:
        monkeypatch.setattr(loop, "time", lambda: real() + 601 * len(api.asked))
    with pytest.raises(kind) as caught:
        await create_avatar(c, "u", **photos(), customization=Customization(), timeout=600)
    assert caught.value.__notes__ == [f"avatar {AVATAR} was made for it"]
    assert len(api.uploads) == 1


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"frontal": "nowhere.jpg"}, ValueError, "frontal: there is no file"),
        ({"side_2": b"not a photo"}, ValueError, "side_2: it is no image"),
        ({"body_type": "other"}, ValueError, "body_type must be"),
        ({"telephoto": "yes"}, ValueError, "telephoto must be"),
        ({"customization": {}}, TypeError, "customization must be a Customization"),
        ({"customization": Customization(skin_tone_correction=math.nan)}, ValueError, "JSON"),
    ],
)
async def test_create_avatar_makes_none_for_what_cannot_be_sent(
    wrong: dict[str, Any], kind: type[Exception], message: str
) -> None:
    api, c = client()
    create: Any = create_avatar
    with pytest.raises(kind, match=message):
        await create(c, "u", **{**photos(), "customization": Customization(), "timeout": 600, **wrong})
    assert (api.made, api.uploads) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [{"first": -1}, {"cap": float("inf")}, {"factor": 0.5}, {"factor": 11}, {"factor": "2"}, {"first": True}],
)
def test_a_poll_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a number"):
        PollPolicy(**wrong)


def test_a_poll_policy_does_not_overflow() -> None:
    assert PollPolicy(factor=10).pause(10**9, lambda: 1.0) == 15
