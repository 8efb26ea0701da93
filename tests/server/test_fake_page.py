"""The requests of a session page, without a browser."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import attrs
import pytest

from avaturn_async import AvaturnClient, Create, CreateOrEditExisting, EditExisting, SessionConfig, User
from avaturn_async.testing import ASSETS, FakeAvaturn
from avaturn_async.testing.samples import read_sample_glb

_ASSET = {a.alias: str(a.id) for a in ASSETS}


@attrs.frozen(kw_only=True)
class Visit:
    """A session of a user that can be opened."""

    fake: FakeAvaturn
    client: AvaturnClient
    http: aiohttp.ClientSession
    user: User

    async def open(self, config: SessionConfig | None) -> str:
        return (await self.client.new_session(self.user.id, config)).url

    async def ask(self, url: str, what: str, **sent: Any) -> tuple[int, Any]:
        method = "POST" if sent else "GET"
        async with self.http.request(method, url.replace("?", f"/{what}?"), **sent) as response:
            return response.status, await response.json()

    async def finished(self) -> UUID:
        session = await self.client.new_session(self.user.id, Create())
        return await self.fake.finish_session(session.id)


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with (
        FakeAvaturn() as fake,
        AvaturnClient("token", base_url=fake.url) as client,
        aiohttp.ClientSession() as http,
    ):
        yield Visit(fake=fake, client=client, http=http, user=await client.create_user())


def _form(body_type: str = "female") -> aiohttp.FormData:
    form = aiohttp.FormData({"body-type": body_type})
    for name in ("image-frontal", "image-side-1", "image-side-2"):
        form.add_field(name, b"photo", filename="x.jpg", content_type="image/jpeg")
    return form


async def test_page_opens_only_with_the_url_of_its_session(visit: Visit) -> None:
    url = await visit.open(None)
    async with visit.http.get(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert b"main.js" in await response.read()
    for wrong in (url + "0", url.partition("?")[0], url.replace("/session/", "/session/0")):
        async with visit.http.get(wrong) as response:
            assert response.status == 403
        assert (await visit.ask(wrong if "?" in wrong else wrong + "?", "state"))[0] == 403


@pytest.mark.parametrize(
    ("name", "status"),
    [("main.js", 200), ("style.css", 200), ("index.html", 200), ("other.js", 404), ("..%2F__init__.py", 404)],
)
async def test_only_files_of_the_page_are_served(visit: Visit, name: str, status: int) -> None:
    async with visit.http.get(f"{visit.fake.url}/page/{name}") as response:
        assert response.status == status


async def test_avatar_from_photos_is_announced_by_next(visit: Visit) -> None:
    url = await visit.open(Create())
    status, made = await visit.ask(url, "photos", data=_form())
    assert status == 200
    await visit.fake.wait_idle()
    assert visit.fake.events == []
    status, avatar = await visit.ask(url, "edit", json=made)
    assert (status, avatar["status"], avatar["untouched"]) == (200, "ready", True)
    assert avatar["customization"]["body"] == "body_1"
    chosen = avatar["customization"] | {"body": "body_2"}
    status, result = await visit.ask(url, "finish", json=made | {"customization": chosen})
    assert status == 200
    assert result["avatarId"] == made["avatar_id"]
    assert (result["bodyId"], result["gender"], result["urlType"]) == ("body_2", "male", "httpURL")
    async with visit.http.get(result["url"]) as response:
        assert (await response.read()).startswith(b"glTF")
    await visit.fake.wait_idle()
    (event,) = visit.fake.events
    assert (event["avatar_id"], event["session_id"]) == (made["avatar_id"], result["sessionId"])
    assert (await visit.client.get_customization(made["avatar_id"])).body == "body_2"
    _, avatar = await visit.ask(url, "edit", json=made)
    assert not avatar["untouched"]


async def test_session_belongs_to_the_avatar_that_next_was_pressed_for(visit: Visit) -> None:
    older = await visit.finished()
    await visit.finished()
    session = await visit.client.new_session(visit.user.id)
    body = {"avatar_id": str(older), "customization": {}}
    assert (await visit.ask(session.url, "finish", json=body))[0] == 200
    assert await visit.fake.finish_session(session.id) == older


async def test_failed_avatar_from_photos_is_announced_at_once(visit: Visit) -> None:
    url = await visit.open(None)
    visit.fake.fail_tasks("avatar")
    _, made = await visit.ask(url, "photos", data=_form())
    await visit.fake.wait_idle()
    (event,) = visit.fake.events
    assert (event["status"], event["avatar_id"]) == ("failed", made["avatar_id"])
    assert "session_id" in event
    status, _ = await visit.ask(url, "finish", json=made | {"customization": {}})
    assert status == 409
    assert (await visit.ask(url, "state"))[1]["avatars"] == []


async def test_type_of_session_decides_which_avatars_it_edits(visit: Visit) -> None:
    first, second = await visit.finished(), await visit.finished()
    stranger = await visit.client.create_user()
    other = await visit.fake.finish_session((await visit.client.new_session(stranger.id)).id)
    for config, shown, creates in (
        (None, [first, second], True),
        (CreateOrEditExisting(), [first, second], True),
        (Create(), [], True),
        (EditExisting(avatar_id=first), [first], False),
    ):
        url = await visit.open(config)
        _, state = await visit.ask(url, "state")
        assert [avatar["id"] for avatar in state["avatars"]] == [str(id_) for id_ in shown]
        assert state["can_create"] is creates
        assert (await visit.ask(url, "photos", data=_form()))[0] == (200 if creates else 409)
        for avatar_id in (first, second, other, uuid4()):
            expected = 200 if avatar_id in shown else 404
            body: dict[str, Any] = {"avatar_id": str(avatar_id)}
            assert (await visit.ask(url, "edit", json=body))[0] == expected
            body |= {"customization": {}}
            assert (await visit.ask(url, "finish", json=body))[0] == expected
        await visit.fake.wait_idle()
        made = {a.id for a in await visit.client.list_user_avatars(visit.user.id)} - {first, second}
        for avatar_id in made:
            await visit.client.delete_user_avatar(visit.user.id, avatar_id)


async def test_catalogue_omits_withdrawn_assets(visit: Visit) -> None:
    _, state = await visit.ask(await visit.open(None), "state")
    assert {asset["id"] for asset in state["assets"]} == {str(a.id) for a in ASSETS if not a.gone}
    assert {body["id"] for body in state["bodies"]} == {"body_0", "body_1", "body_2", "body_3"}


@pytest.mark.parametrize(
    ("customization", "status"),
    [
        ({"assets": {"clothing": {"id": _ASSET["boots"]}}}, 409),
        ({"assets": {"clothing": {"id": _ASSET["withdrawn_jacket"]}}}, 410),
        ({"assets": {"clothing": {"id": "boots"}}}, 422),
    ],
)
async def test_next_refuses_what_the_api_refuses(visit: Visit, customization: dict[str, Any], status: int) -> None:
    avatar_id = await visit.finished()
    before = await visit.client.get_customization(avatar_id)
    body = {"avatar_id": str(avatar_id), "customization": customization}
    assert (await visit.ask(await visit.open(None), "finish", json=body))[0] == status
    assert await visit.client.get_customization(avatar_id) == before


async def test_uploaded_avatar_has_a_customization_after_it_was_opened(visit: Visit) -> None:
    made = await visit.client.new_avatar(visit.user.id)
    async with visit.http.post(made.upload_url, data=_form("male")) as response:
        assert response.status == 200
    await visit.fake.wait_idle()
    url = await visit.open(EditExisting(avatar_id=made.avatar_id))
    await visit.ask(url, "edit", json={"avatar_id": str(made.avatar_id)})
    assert (await visit.client.get_customization(made.avatar_id)).body == "body_0"


@pytest.mark.parametrize("face_animations", [False, True])
async def test_page_exports_the_chosen_url_type_and_avatar_type(visit: Visit, *, face_animations: bool) -> None:
    avatar_id = await visit.finished()
    url = await visit.open(EditExisting(avatar_id=avatar_id))
    body = {"avatar_id": str(avatar_id), "customization": {}}
    visit.fake.export_url_type, visit.fake.face_animations = "dataURL", face_animations
    assert (visit.fake.export_url_type, visit.fake.face_animations) == ("dataURL", face_animations)
    _, result = await visit.ask(url, "finish", json=body)
    assert (result["urlType"], result["avatarSupportsFaceAnimations"]) == ("dataURL", face_animations)
    kind, _, content = result["url"].partition(",")
    assert (kind, base64.b64decode(content)) == ("data:model/gltf-binary;base64", read_sample_glb())
    visit.fake.export_url_type = "httpURL"
    _, result = await visit.ask(url, "finish", json=body)
    async with visit.http.get(result["url"]) as response:
        assert await response.read() == read_sample_glb()
