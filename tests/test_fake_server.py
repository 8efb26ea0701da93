"""FakeAvaturn keeps the state that Avaturn keeps, and does what a person does in its UI."""

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
    RetryPolicy,
    User,
)
from avaturn_async.testing import ASSETS, BODIES, FakeAvaturn, FormFile

_ASSET = {a.alias: a.id for a in ASSETS}


@pytest.fixture
async def fake() -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn(seed=1) as fake:
        yield fake


@pytest.fixture
async def client(fake: FakeAvaturn) -> AsyncIterator[AvaturnClient]:
    async with AvaturnClient("token", base_url=fake.url, retry=RetryPolicy(attempts=1)) as client:
        yield client


@pytest.fixture
async def user(client: AvaturnClient) -> User:
    return await client.create_user()


async def _finished(fake: FakeAvaturn, client: AvaturnClient, user: User) -> UUID:
    session = await client.new_session(user.id, Create())
    return await fake.finish_session(session.id)


async def test_any_token_is_taken_unless_one_is_named() -> None:
    async with FakeAvaturn(token="mine") as fake:
        async with AvaturnClient("mine", base_url=fake.url) as client:
            await client.create_user()
        async with AvaturnClient("other", base_url=fake.url) as client:
            with pytest.raises(AuthenticationError):
                await client.create_user()


async def test_a_seed_makes_the_ids_the_same_in_every_run() -> None:
    async def ids(seed: int | None) -> tuple[str, UUID]:
        async with FakeAvaturn(seed=seed) as fake, AvaturnClient("token", base_url=fake.url) as client:
            user = await client.create_user()
            return user.id, (await client.new_session(user.id)).id

    assert await ids(7) == await ids(7)
    assert await ids(7) != await ids(8)
    assert await ids(None) != await ids(None)


async def test_a_deleted_user_takes_everything_along(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    other = await client.create_user()
    kept = await _finished(fake, client, other)
    avatar_id = await _finished(fake, client, user)
    session = await client.new_session(user.id)
    await client.create_export(avatar_id)
    await fake.settle()
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


async def test_a_deleted_avatar_is_gone_and_the_user_stays(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    kept, gone = [await _finished(fake, client, user) for _ in range(2)]
    await client.delete_user_avatar(user.id, gone)
    assert [a.id for a in await client.list_user_avatars(user.id)] == [kept]
    with pytest.raises(NotFoundError):
        await client.delete_user_avatar(user.id, gone)


async def test_an_avatar_is_deleted_only_for_its_own_user(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    other = await client.create_user()
    with pytest.raises(NotFoundError):
        await client.delete_user_avatar(other.id, avatar_id)
    with pytest.raises(NotFoundError):
        await client.new_session(other.id, EditExisting(avatar_id=avatar_id))
    assert len(await client.list_user_avatars(user.id)) == 1


async def test_sessions_create_or_edit_by_the_rules_of_their_type(
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


async def test_a_session_that_is_finished_again_edits_what_it_made(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    session = await client.new_session(user.id, Create())
    first = await fake.finish_session(session.id)
    assert await fake.finish_session(str(session.id), customization={"body": "body_1"}) == first
    assert await client.get_customization(first) == Customization(body="body_1")


async def test_what_the_person_chooses_is_what_the_api_gives(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    session = await client.new_session(user.id)
    chosen = {"assets": {"clothing": {"id": str(_ASSET["suit"])}}, "body": BODIES[1].id}
    avatar_id = await fake.finish_session(session.id, customization=chosen)
    assert await client.get_customization(avatar_id) == Customization(
        assets=AssetSlots(clothing=AssetSlot(id=_ASSET["suit"])), body="body_1"
    )
    with pytest.raises(ValueError, match="customization"):
        await fake.finish_session(session.id, customization={"assets": {"eyewear": {"id": str(uuid4())}}})


async def test_a_session_that_nobody_opened_cannot_be_finished(fake: FakeAvaturn) -> None:
    with pytest.raises(LookupError):
        await fake.finish_session(uuid4())


async def test_a_customization_is_kept_with_keys_that_nobody_knows(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    before = await client.get_customization(avatar_id)
    changed = attrs.evolve(before, body="body_3", extra={"mood": ["calm"]})
    await client.set_customization(avatar_id, changed)
    assert await client.get_customization(avatar_id) == changed


async def test_a_refused_customization_names_the_assets_and_changes_nothing(
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


async def test_an_export_is_pending_first_and_ready_when_asked_again(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    first = await client.create_export(avatar_id)
    assert (first.status, first.url) == ("pending", None)
    await fake.settle()
    second, third = [await client.create_export(avatar_id) for _ in range(2)]
    assert (second.status, third.status) == ("ready", "ready")
    assert second.url != third.url
    await fake.settle()
    assert [event["event"] for event in fake.events] == ["avatar.ready", "export.ready"]
    assert fake.events[1]["export_url"].startswith(fake.url)


async def test_a_change_makes_the_export_pending_again(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    for change in ("none", "customization", "session"):
        if change == "customization":
            await client.set_customization(avatar_id, Customization(body="body_1"))
        elif change == "session":
            await fake.finish_session((await client.new_session(user.id)).id)
        assert (await client.create_export(avatar_id)).status == "pending"
        await fake.settle()
        assert (await client.create_export(avatar_id)).status == "ready"


async def test_every_render_is_another_one(fake: FakeAvaturn, client: AvaturnClient, user: User) -> None:
    avatar_id = await _finished(fake, client, user)
    renders = [await client.render_user_avatar(avatar_id, format="webp") for _ in range(2)]
    assert [render.status for render in renders] == ["pending", "pending"]
    await fake.settle()
    told = {event["id"]: event["render_url"] for event in fake.events if event["event"] == "render.ready"}
    assert set(told) == {str(render.id) for render in renders}
    assert all(".webp?" in url for url in told.values())


async def test_what_fails_is_told_as_failed_and_has_no_result(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
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
    await fake.settle()
    assert (await client.create_export(avatar_id)).status == "failed"
    told = [(event["event"], event["status"]) for event in fake.events]
    assert told.count(("avatar.ready", "failed")) == told.count(("avatar.ready", "ready")) == 1
    assert told.count(("export.ready", "failed")) == told.count(("render.ready", "ready")) == 1
    assert told.count(("render.ready", "failed")) == 2
    with pytest.raises(ValueError, match="kind"):
        fake.fail_tasks("session")


async def test_processing_takes_as_long_as_it_is_told_to() -> None:
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
        await fake.settle()
        assert [a.status for a in await client.list_user_avatars(user.id)] == ["ready"]
        fake.processing_delay = 5
        await client.create_export(avatar_id)
        await fake.settle()
        assert fake.processing_delay == 5
    assert slept == [30, 5]


async def test_nothing_is_told_of_what_was_deleted_meanwhile() -> None:
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
        await fake.settle()
        assert [event["event"] for event in fake.events] == ["avatar.ready"]


async def test_closing_cancels_what_still_goes_on_and_twice_is_fine() -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    async with FakeAvaturn(sleep=sleep) as fake, AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        await fake.finish_session((await client.new_session(user.id)).id, wait=False)
    await fake.close()
    assert fake.events == []
    assert len(asyncio.all_tasks()) == 1


async def test_every_request_is_recorded_as_it_was_sent(fake: FakeAvaturn) -> None:
    form = aiohttp.FormData()
    form.add_field("a-file", b"\r\n--\0", filename="x.bin", content_type="application/x-it")
    form.add_field("a-text", "é")
    async with aiohttp.ClientSession() as http:
        for sent in ({"json": {"a": 1}}, {"data": form}, {"data": b"plain"}, {}):
            async with http.post(f"{fake.url}/no/such%2Fplace?q=%C3%A9", **sent) as response:
                assert response.status == 404
        async with http.get(f"{fake.url}/api/v1/users/new") as response:
            assert response.status == 405
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


def test_importing_the_fake_imports_no_test_framework() -> None:
    code = (
        "import sys, avaturn_async.testing; sys.exit(bool({'pytest', 'pytest_asyncio'} & set(sys.modules)))"
    )
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
async def test_a_hostile_body_is_refused_as_one_that_does_not_fit(
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
async def test_a_scene_is_one_as_a_whole(
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
        Customization(body="body_1"),
    ],
)
async def test_a_person_can_choose_only_what_the_api_would_take(
    fake: FakeAvaturn, client: AvaturnClient, user: User, customization: Any
) -> None:
    session = await client.new_session(user.id)
    with pytest.raises(ValueError, match=r"^customization: "):
        await fake.finish_session(session.id, customization=customization)
    assert await client.list_user_avatars(user.id, include_not_ready=True) == ()


async def test_what_was_chosen_is_a_copy_and_may_hold_uuids(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    session = await client.new_session(user.id)
    chosen: dict[str, Any] = {"assets": {"clothing": {"id": _ASSET["suit"]}}, "body": "body_1"}
    avatar_id = await fake.finish_session(session.id, customization=chosen)
    chosen["body"] = "body_2"
    assert await client.get_customization(avatar_id) == Customization(
        assets=AssetSlots(clothing=AssetSlot(id=_ASSET["suit"])), body="body_1"
    )


async def test_a_session_whose_avatar_was_deleted_says_so(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    avatar_id = await _finished(fake, client, user)
    session = await client.new_session(user.id, EditExisting(avatar_id=avatar_id))
    await client.delete_user_avatar(user.id, avatar_id)
    with pytest.raises(LookupError, match=rf"avatar {avatar_id} was deleted"):
        await fake.finish_session(session.id)
    with pytest.raises(LookupError, match=rf"no session {avatar_id}"):
        await fake.finish_session(avatar_id)


async def test_an_avatar_that_is_being_made_is_not_made_twice(
    fake: FakeAvaturn, client: AvaturnClient, user: User
) -> None:
    fake.fail_tasks("avatar")
    session = await client.new_session(user.id, Create())
    await fake.finish_session(session.id, wait=False)
    await fake.finish_session(session.id)
    await fake.settle()
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
async def test_an_ipv6_address_makes_a_url_that_can_be_used() -> None:
    async with FakeAvaturn(host="::1") as fake, AvaturnClient("token", base_url=fake.url) as client:
        await client.create_user()
    assert fake.url.startswith("http://[::1]:")
