"""The state of FakeAvaturn behind the ten calls, and ``finish_session``."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import attrs
import pytest

from avaturn_async import (
    AssetSlot,
    AssetSlots,
    AuthenticationError,
    AvaturnClient,
    ConflictError,
    Create,
    Customization,
    EditExisting,
    GoneError,
    NotFoundError,
    User,
)
from avaturn_async.testing import ASSETS, FakeAvaturn, FormFile

_ASSET = {a.alias: a.id for a in ASSETS}


@pytest.fixture
async def fake() -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn(seed=1) as fake:
        yield fake


async def _finished(fake: FakeAvaturn, client: AvaturnClient, user: User) -> UUID:
    session = await client.new_session(user.id, Create())
    return await fake.finish_session(session.id)


def test_url_before_the_start_is_an_error_that_says_how_to_start() -> None:
    with pytest.raises(RuntimeError, match="FakeAvaturn was not started: use it in an async with block"):
        AvaturnClient("token", base_url=FakeAvaturn().url)


def test_empty_token_is_refused() -> None:
    with pytest.raises(ValueError, match="token must not be empty: None accepts any token"):
        FakeAvaturn(token="")


async def test_wait_that_is_cancelled_ends_no_task() -> None:
    released = asyncio.Event()

    async def sleep(_: float) -> None:
        await released.wait()

    async with FakeAvaturn(sleep=sleep) as fake, AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        session = await client.new_session(user.id)
        waits = [asyncio.ensure_future(fake.finish_session(session.id)), asyncio.ensure_future(fake.wait_idle())]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        released.set()
        await fake.wait_idle()
        assert len(fake.events) == 1


async def test_end_of_the_fake_ends_a_wait() -> None:
    async with FakeAvaturn(sleep=lambda _: asyncio.Event().wait()) as fake:
        async with AvaturnClient("token", base_url=fake.url) as client:
            user = await client.create_user()
            await fake.finish_session((await client.new_session(user.id)).id, wait=False)
        wait = asyncio.ensure_future(fake.wait_idle())
        await asyncio.sleep(0)
    await wait


async def test_token_option_makes_every_other_token_invalid() -> None:
    async with FakeAvaturn(token="mine") as fake:
        async with AvaturnClient("mine", base_url=fake.url) as client:
            await client.create_user()
        async with AvaturnClient("other", base_url=fake.url) as client:
            with pytest.raises(AuthenticationError):
                await client.create_user()


async def test_seed_makes_ids_the_same_in_every_run() -> None:
    async def ids(seed: int | None) -> tuple[str, UUID]:
        async with FakeAvaturn(seed=seed) as fake, AvaturnClient("token", base_url=fake.url) as client:
            user = await client.create_user()
            return user.id, (await client.new_session(user.id)).id

    assert await ids(7) == await ids(7)
    assert await ids(7) != await ids(8)
    assert await ids(None) != await ids(None)


async def test_deleted_user_loses_sessions_avatars_and_files(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    other = await client.create_user()
    kept = await _finished(fake, client, other)
    avatar_id = await _finished(fake, client, user)
    session = await client.new_session(user.id)
    await client.create_export(avatar_id)
    await fake.wait_idle()
    url = (await client.create_export(avatar_id)).url
    await client.delete_user(user.id)
    for gone in (
        client.delete_user(user.id),
        client.list_user_avatars(user.id),
        client.get_customization(avatar_id),
        client.create_export(avatar_id),
    ):
        with pytest.raises(NotFoundError):
            await gone
    with pytest.raises(LookupError):
        await fake.finish_session(session.id)
    async with aiohttp.ClientSession() as http, http.get(url or "") as response:
        assert response.status == 404
    assert [a.id for a in await client.list_user_avatars(other.id)] == [kept]


async def test_deleted_avatar_is_unknown_and_its_user_stays(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    kept, gone = [await _finished(fake, client, user) for _ in range(2)]
    await client.delete_user_avatar(user.id, gone)
    assert [a.id for a in await client.list_user_avatars(user.id)] == [kept]
    with pytest.raises(NotFoundError):
        await client.delete_user_avatar(user.id, gone)


async def test_avatar_of_another_user_is_not_found(fake: FakeAvaturn, client: AvaturnClient, user: User) -> None:
    avatar_id = await _finished(fake, client, user)
    other = await client.create_user()
    with pytest.raises(NotFoundError):
        await client.delete_user_avatar(other.id, avatar_id)
    with pytest.raises(NotFoundError):
        await client.new_session(other.id, EditExisting(avatar_id=avatar_id))
    assert len(await client.list_user_avatars(user.id)) == 1


async def test_type_of_session_decides_whether_finish_session_creates_or_edits(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    async def finish(config: Create | EditExisting | None) -> UUID:
        return await fake.finish_session((await client.new_session(user.id, config)).id)

    first = await finish(None)
    assert await finish(None) == first
    second = await finish(Create())
    assert second != first
    assert await finish(None) == second
    assert await finish(EditExisting(avatar_id=first)) == first
    assert [a.id for a in await client.list_user_avatars(user.id)] == [first, second]


async def test_session_that_is_finished_again_edits_its_avatar(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    session = await client.new_session(user.id, Create())
    first = await fake.finish_session(session.id)
    assert await fake.finish_session(str(session.id), customization={"body": "body_1"}) == first
    assert await client.get_customization(first) == Customization(body="body_1")


async def test_customization_keeps_unknown_keys(fake: FakeAvaturn, client: AvaturnClient, user: User) -> None:
    avatar_id = await _finished(fake, client, user)
    before = await client.get_customization(avatar_id)
    changed = attrs.evolve(before, body="body_3", extra={"mood": ["calm"]})
    await client.set_customization(avatar_id, changed)
    assert await client.get_customization(avatar_id) == changed


async def test_refused_customization_names_the_assets_and_changes_nothing(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    before = await client.get_customization(avatar_id)
    boots = AssetSlot(id=_ASSET["boots"])
    withdrawn = AssetSlot(id=_ASSET["withdrawn_jacket"])
    with pytest.raises(ConflictError) as conflict:
        await client.set_customization(avatar_id, Customization(assets=AssetSlots(clothing=boots)))
    assert str(boots.id) in conflict.value.body
    assert "clothing" in conflict.value.body
    with pytest.raises(GoneError) as gone:
        await client.set_customization(avatar_id, Customization(assets=AssetSlots(clothing=withdrawn)))
    assert str(withdrawn.id) in gone.value.body
    assert await client.get_customization(avatar_id) == before


async def test_export_is_pending_first_and_ready_after_its_webhook(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    first = await client.create_export(avatar_id)
    assert (first.status, first.url) == ("pending", None)
    await fake.wait_idle()
    second, third = [await client.create_export(avatar_id) for _ in range(2)]
    assert (second.status, third.status) == ("ready", "ready")
    assert second.url != third.url
    await fake.wait_idle()
    assert [event["event"] for event in fake.events] == ["avatar.ready", "export.ready"]
    assert fake.events[1]["export_url"].startswith(fake.url)


async def test_change_of_the_avatar_makes_its_export_pending_again(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    for change in ("none", "customization", "session"):
        if change == "customization":
            await client.set_customization(avatar_id, Customization(body="body_1"))
        elif change == "session":
            await fake.finish_session((await client.new_session(user.id)).id)
        assert (await client.create_export(avatar_id)).status == "pending"
        await fake.wait_idle()
        assert (await client.create_export(avatar_id)).status == "ready"


async def test_each_render_has_an_id_of_its_own(fake: FakeAvaturn, client: AvaturnClient, user: User) -> None:
    avatar_id = await _finished(fake, client, user)
    renders = [await client.render_user_avatar(avatar_id, format="webp") for _ in range(2)]
    assert [render.status for render in renders] == ["pending", "pending"]
    await fake.wait_idle()
    told = {event["id"]: event["render_url"] for event in fake.events if event["event"] == "render.ready"}
    assert set(told) == {str(render.id) for render in renders}
    assert all(".webp?" in url for url in told.values())


async def test_failed_task_is_reported_and_has_no_result(fake: FakeAvaturn, client: AvaturnClient, user: User) -> None:
    fake.fail_tasks("avatar")
    failed = await _finished(fake, client, user)
    assert [a.status for a in await client.list_user_avatars(user.id, include_not_ready=True)] == ["failed"]
    assert await client.list_user_avatars(user.id) == ()
    with pytest.raises(ConflictError, match="failed"):
        await client.create_export(failed)
    avatar_id = await _finished(fake, client, user)
    fake.fail_tasks("export")
    fake.fail_tasks("render", times=2)
    await client.create_export(avatar_id)
    for _ in range(3):
        await client.render_user_avatar(avatar_id)
    await fake.wait_idle()
    assert (await client.create_export(avatar_id)).status == "failed"
    told = [(event["event"], event["status"]) for event in fake.events]
    assert told.count(("avatar.ready", "failed")) == told.count(("avatar.ready", "ready")) == 1
    assert told.count(("export.ready", "failed")) == told.count(("render.ready", "ready")) == 1
    assert told.count(("render.ready", "failed")) == 2
    with pytest.raises(ValueError, match="kind"):
        fake.fail_tasks("session")


async def test_processing_takes_its_delay() -> None:
    slept: list[float] = []
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await over.wait()

    async with (
        FakeAvaturn(processing_delay=30, sleep=sleep) as fake,
        AvaturnClient("token", base_url=fake.url) as client,
    ):
        user = await client.create_user()
        session = await client.new_session(user.id)
        avatar_id = await fake.finish_session(session.id, wait=False)
        (avatar,) = await client.list_user_avatars(user.id, include_not_ready=True)
        assert (avatar.id, avatar.status) == (avatar_id, "processing")
        assert await client.list_user_avatars(user.id) == ()
        with pytest.raises(ConflictError, match="processing"):
            await client.create_export(avatar_id)
        over.set()
        await fake.wait_idle()
        assert [a.status for a in await client.list_user_avatars(user.id)] == ["ready"]
        fake.processing_delay = 5
        await client.create_export(avatar_id)
        await fake.wait_idle()
        assert fake.processing_delay == 5
    assert slept == [30, 5]


async def test_result_of_a_deleted_avatar_sends_no_webhook() -> None:
    over = asyncio.Event()
    over.set()

    async def sleep(_: float) -> None:
        await over.wait()

    async with FakeAvaturn(sleep=sleep) as fake, AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar_id = await _finished(fake, client, user)
        over.clear()
        await client.create_export(avatar_id)
        await client.render_user_avatar(avatar_id)
        await fake.finish_session((await client.new_session(user.id, Create())).id, wait=False)
        await client.delete_user(user.id)
        over.set()
        await fake.wait_idle()
        assert [event["event"] for event in fake.events] == ["avatar.ready"]


async def test_close_cancels_processing_and_can_be_repeated() -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async with (
        asyncio.timeout(20),
        FakeAvaturn(sleep=sleep) as fake,
        AvaturnClient("token", base_url=fake.url) as client,
    ):
        user = await client.create_user()
        await fake.finish_session((await client.new_session(user.id)).id, wait=False)
    await fake.close()
    assert fake.events == []
    assert len(asyncio.all_tasks()) == 1


async def test_unusual_request_is_refused_as_fastapi_does(fake: FakeAvaturn) -> None:
    async with aiohttp.ClientSession() as http:
        # Not the answer to POST /users/new: "new" is the id of a user here.
        async with http.delete(f"{fake.url}/api/v1/users/new", headers={"Authorization": "Bearer any"}) as response:
            assert response.status == 404
        async with http.get(f"{fake.url}/no%0Aplace") as response:
            assert response.status == 404
        form = aiohttp.FormData()
        form.add_field("user_id", "u", filename="x")
        url = f"{fake.url}/api/v1/sessions/new"
        async with http.post(url, data=form, headers={"Authorization": "Bearer any"}) as response:
            assert response.status == 422


async def test_request_is_recorded_as_it_was_sent(fake: FakeAvaturn) -> None:
    form = aiohttp.FormData()
    form.add_field("a-file", b"\r\n--\0", filename="x.bin", content_type="application/x-it")
    form.add_field("a-text", "é")
    async with aiohttp.ClientSession() as http:
        for sent in ({"json": {"a": 1}}, {"data": form}, {"data": b"plain"}, {}):
            async with http.post(f"{fake.url}/no/such%2Fplace?q=%C3%A9", **sent) as response:
                assert response.status == 404
        async with http.get(f"{fake.url}/api/v1/users/new") as response:
            assert (response.status, response.headers["Allow"]) == (405, "DELETE, POST")
    first = fake.requests[0]
    assert (first.method, first.raw_path) == ("POST", "/no/such%2Fplace?q=%C3%A9")
    assert first.path == "/no/such/place"
    assert first.query["q"] == "é"
    assert first.headers["content-type"] == "application/json"
    assert first.body == b'{"a": 1}'
    file = FormFile(filename="x.bin", content_type="application/x-it", content=b"\r\n--\0")
    parsed = [request.parsed for request in fake.requests]
    assert parsed == [{"a": 1}, {"a-file": file, "a-text": "é"}, None, None, None]
    assert "%C3" not in repr(first)


async def test_encoded_slash_does_not_end_a_segment_of_the_path(client: AvaturnClient) -> None:
    with pytest.raises(NotFoundError, match="User not found"):
        await client.list_user_avatars("a/b")


def test_import_of_the_fake_does_not_import_pytest() -> None:
    code = "import sys, avaturn_async.testing; sys.exit(bool({'pytest', 'pytest_asyncio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"skin_tone_correction": 1' + b"0" * 400 + b"}"),
        ("application/json", b'{"bone_scale": {"head": NaN}}'),
        ("application/json", b"[" * 100_000),
        ("application/json", b"null"),
        ("multipart/form-datas; boundary=x", b"--x--"),
        ("", b"{}"),
    ],
)
async def test_hostile_body_is_refused_with_422(
    fake: FakeAvaturn, client: AvaturnClient, user: User, content_type: str, body: bytes
) -> None:
    avatar_id = await _finished(fake, client, user)
    upload_url = (await client.new_avatar(user.id)).upload_url
    customization_url = f"{fake.url}/api/v1/avatars/{avatar_id}/customization"
    headers = {"Authorization": "Bearer token", "Content-Type": content_type}
    async with aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as http:
        for method, url in (("PUT", customization_url), ("POST", upload_url)):
            async with http.request(method, url, data=body, headers=headers) as response:
                assert response.status == 422


@pytest.mark.parametrize("scene", ["", "a b", "a\n", "a/b?"])
async def test_invalid_scene_is_refused_with_its_place(
    fake: FakeAvaturn, client: AvaturnClient, user: User, scene: str
) -> None:
    avatar_id = await _finished(fake, client, user)
    query = {"avatar_id": str(avatar_id), "scene": scene}
    headers = {"Authorization": "Bearer token"}
    async with (
        aiohttp.ClientSession(fake.url, headers=headers) as http,
        http.post("/api/v1/renders/new", params=query) as response,
    ):
        assert response.status == 422
        assert [problem["loc"] for problem in (await response.json())["detail"]] == [["query", "scene"]]


@pytest.mark.parametrize(
    "customization",
    [
        {"body": 5},
        {"assets": {"clothing": "suit"}},
        {"assets": {"clothing": {"id": "suit"}}},
        {"assets": {"clothing": {"id": str(_ASSET["boots"])}}},
        {"assets": {"clothing": {"id": str(_ASSET["withdrawn_jacket"])}}},
        {"assets": {"eyewear": {"id": str(uuid4())}}},
        Customization(body="body_1"),
    ],
)
async def test_finish_session_refuses_what_the_api_refuses(
    fake: FakeAvaturn, client: AvaturnClient, user: User, customization: Any
) -> None:
    session = await client.new_session(user.id)
    with pytest.raises(ValueError, match=r"^customization: "):
        await fake.finish_session(session.id, customization=customization)
    assert await client.list_user_avatars(user.id, include_not_ready=True) == ()


async def test_customization_of_finish_session_is_copied_and_can_hold_uuids(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    session = await client.new_session(user.id)
    chosen: dict[str, Any] = {"assets": {"clothing": {"id": _ASSET["suit"]}}, "body": "body_1"}
    avatar_id = await fake.finish_session(session.id, customization=chosen)
    chosen["body"] = "body_2"
    assert await client.get_customization(avatar_id) == Customization(
        assets=AssetSlots(clothing=AssetSlot(id=_ASSET["suit"])), body="body_1"
    )


async def test_finish_session_names_a_deleted_avatar_and_an_unknown_session(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    session = await client.new_session(user.id, EditExisting(avatar_id=avatar_id))
    await client.delete_user_avatar(user.id, avatar_id)
    with pytest.raises(LookupError, match=rf"avatar {avatar_id} was deleted"):
        await fake.finish_session(session.id)
    with pytest.raises(LookupError, match=rf"no session {avatar_id}"):
        await fake.finish_session(avatar_id)


async def test_avatar_in_processing_is_not_processed_twice(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    fake.fail_tasks("avatar")
    session = await client.new_session(user.id, Create())
    await fake.finish_session(session.id, wait=False)
    await fake.finish_session(session.id)
    await fake.wait_idle()
    assert [event["status"] for event in fake.events] == ["failed", "failed"]
    await fake.finish_session(session.id)
    assert fake.events[-1]["status"] == "ready"


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_address_makes_a_valid_url() -> None:
    async with FakeAvaturn(host="::1") as fake, AvaturnClient("token", base_url=fake.url) as client:
        await client.create_user()
    assert fake.url.startswith("http://[::1]:")
