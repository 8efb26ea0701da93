"""A person clicks through the page of a session, and the vendor's own web SDK drives it.

Both need a Chromium; the second needs the unpacked npm package @avaturn/sdk in the folder that the
environment variable AVATURN_WEB_SDK names.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support import chromium

from avaturn_async import AvaturnClient, Create, EditExisting, User
from avaturn_async.testing import ASSETS, FakeAvaturn
from avaturn_async.testing.samples import read_sample_image
from avaturn_async.webhooks import AvatarReady, SessionRouter, Verifier, WebhookReceiver

pytest_plugins = ["avaturn_async.testing.fixtures"]

_ASSET = {a.alias: str(a.id) for a in ASSETS}
_SDK = Path(os.environ.get("AVATURN_WEB_SDK", "/nowhere")) / "dist" / "index.js"
_EMBEDDING = """<!doctype html><title>embedding</title><link rel="icon" href="data:,">
<style>html, body, #place { height: 100%; margin: 0 }</style><div id="place"></div>
<script type="module">
  import { AvaturnSDK } from "/sdk.js";
  window.told = [];
  window.native = [];
  window.addEventListener("message", ({ data }) => {
    if (data.source === "avaturn") native.push(data);
  });
  window.embed = async (options) => {
    window.sdk = new AvaturnSDK();
    for (const name of ["load", "export", "assetSet", "bodySet", "error"]) {
      sdk.on(name, (data) => { told.push({ name, data }); dispatchEvent(new Event(`sdk-${name}`)); });
    }
    return (await sdk.init(document.querySelector("#place"), options)) === sdk;
  };
  const once = (name) => new Promise((resolve) => addEventListener(`sdk-${name}`, () => resolve()));
  window.loaded = once("load");
  window.exported = once("export");
  window.failed = once("error");
</script>"""

needs_browser = pytest.mark.skipif(chromium.binary() is None, reason="no Chromium on this machine")
needs_sdk = pytest.mark.skipif(
    not _SDK.exists(), reason="AVATURN_WEB_SDK does not name the unpacked npm package @avaturn/sdk"
)
pytestmark = needs_browser

Serve = Callable[[web.Application], Awaitable[str]]


@pytest.fixture(scope="module")
def devtools() -> Iterator[str]:
    with chromium.running() as address:
        yield address


@pytest.fixture
async def tab(devtools: str) -> AsyncIterator[chromium.Tab]:
    async with chromium.new_tab(devtools) as tab:
        yield tab
        assert tab.problems == []


@pytest.fixture
async def user(avaturn_client: AvaturnClient) -> User:
    return await avaturn_client.create_user()


@pytest.fixture
async def embedding(serve_app: Serve) -> str:
    """The URL of a page with the vendor's SDK."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=_EMBEDDING, content_type="text/html")

    async def sdk(_: web.Request) -> web.Response:
        return web.Response(body=_SDK.read_bytes(), content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/sdk.js", sdk)
    return await serve_app(app)


async def _finished(fake: FakeAvaturn, client: AvaturnClient, user: User) -> str:
    session = await client.new_session(user.id, Create())
    return str(await fake.finish_session(session.id))


async def _open_editing_session(fake: FakeAvaturn, client: AvaturnClient, user: User) -> tuple[str, str]:
    """Return the id of a new avatar, and the URL of a session that edits it."""
    avatar_id = await _finished(fake, client, user)
    return avatar_id, (await client.new_session(user.id, EditExisting(avatar_id=avatar_id))).url


async def _embed(tab: chromium.Tab, embedding: str, url: str | None, **options: Any) -> None:
    """Open the page with the vendor's SDK, and embed a session in it."""
    await tab.open(embedding)
    assert await tab.run(f"embed({json.dumps({'url': url, **options})})") is True


async def test_person_creates_an_avatar_from_photos(
    fake_avaturn: FakeAvaturn,
    avaturn_client: AvaturnClient,
    user: User,
    tab: chromium.Tab,
    tmp_path: Path,
) -> None:
    session = await avaturn_client.new_session(user.id, Create())
    await tab.open(session.url)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(read_sample_image("jpg"))
    await tab.text("#create:disabled")
    await tab.choose_file('input[name="image-frontal"]', photo)
    await tab.click('[data-photo="image-side-1"] .camera')
    await tab.text('[data-photo="image-side-1"] video')
    await tab.run(
        """new Promise(resolve => {
          const button = document.querySelector('[data-photo="image-side-1"] .camera');
          const ready = () => button.textContent === "Take it" && resolve();
          new MutationObserver(ready).observe(button, { childList: true });
          ready();
        })"""
    )
    await tab.click('[data-photo="image-side-1"] .camera')
    await tab.choose_file('input[name="image-side-2"]', photo)
    await tab.click('[name="body-type"][value="male"]')
    await tab.click("#create:enabled")
    await tab.click('[data-name="suit"]')
    await tab.click('[data-name="sunglasses"]')
    await tab.click('[data-name="body_2"]')
    await tab.run(
        """(() => {
          const slider = document.querySelector('[data-name="s-head"]');
          slider.value = 25;
          slider.dispatchEvent(new Event("change"));
        })()"""
    )
    await tab.click("#next")
    assert "ready" in await tab.text(".centre h1")
    await fake_avaturn.wait_idle()
    (event,) = fake_avaturn.events
    assert event["session_id"] == str(session.id)
    made = await avaturn_client.get_customization(event["avatar_id"])
    assert made.assets is not None
    assert made.assets.clothing is not None
    assert str(made.assets.clothing.id) == _ASSET["suit"]
    assert made.assets.eyewear is not None
    assert made.assets.eyewear.color == "#222222cc"
    assert made.body == "body_2"
    assert made.bone_scale is not None
    assert made.bone_scale.head == 25
    (form,) = [r.parsed for r in fake_avaturn.requests if r.path.endswith("/photos")]
    assert form["image-frontal"].content == photo.read_bytes()
    assert form["image-side-1"].content.startswith(b"\xff\xd8\xff")
    assert form["body-type"] == "male"


async def test_person_edits_an_existing_avatar_or_creates_another(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, user: User, tab: chromium.Tab
) -> None:
    first, second = [await _finished(fake_avaturn, avaturn_client, user) for _ in range(2)]
    session = await avaturn_client.new_session(user.id)
    await tab.open(session.url)
    await tab.text("#new")
    assert await tab.run("[...document.querySelectorAll('#avatars [data-id]')].map(e => e.dataset.id)") == [
        first,
        second,
    ]
    await tab.click(f'[data-id="{first}"]')
    await tab.click('[data-name="boots"]')
    await tab.click('[data-name="boots"][aria-pressed="true"]')
    await tab.click("#next")
    await tab.text("#again")
    await fake_avaturn.wait_idle()
    assert fake_avaturn.events[-1]["avatar_id"] == first
    changed = await avaturn_client.get_customization(first)
    assert changed.assets is not None
    assert changed.assets.footwear is None
    await tab.open((await avaturn_client.new_session(user.id)).url)
    await tab.click("#new")
    await tab.click("#samples")
    await tab.click("#create:enabled")
    await tab.click("#next")
    await tab.text("#again")
    await fake_avaturn.wait_idle()
    assert fake_avaturn.events[-1]["avatar_id"] not in {first, second}


async def test_page_waits_for_an_avatar_in_processing(devtools: str) -> None:
    over = asyncio.Event()

    async def sleep(_: float) -> None:
        await over.wait()

    async with (
        FakeAvaturn(sleep=sleep) as fake,
        AvaturnClient("token", base_url=fake.url) as client,
        chromium.new_tab(devtools) as tab,
    ):
        user = await client.create_user()
        session = await client.new_session(user.id, Create())
        avatar_id = await fake.finish_session(session.id, wait=False)
        await tab.open((await client.new_session(user.id, EditExisting(avatar_id=avatar_id))).url)
        await tab.text(".bar")
        over.set()
        await tab.text("#next")


async def test_page_reports_a_failed_avatar_and_offers_new_photos(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, user: User, tab: chromium.Tab
) -> None:
    fake_avaturn.fail_tasks("avatar")
    await tab.open((await avaturn_client.new_session(user.id)).url)
    await tab.click("#samples")
    await tab.click("#create:enabled")
    assert "No avatar" in await tab.text("#why")
    await tab.click(".centre button")
    await tab.text("#samples")


@needs_sdk
async def test_sdk_reads_and_changes_the_avatar(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, user: User, tab: chromium.Tab, embedding: str
) -> None:
    avatar_id, url = await _open_editing_session(fake_avaturn, avaturn_client, user)
    await _embed(tab, embedding, url)
    await tab.run("loaded")
    assets = await tab.run("sdk.getAssetList()")
    assert {a["id"]: a["category"] for a in assets}[_ASSET["boots"]] == "footwear"
    assert {a["category"] for a in assets} == {"clothing", "hairAndHeadwear", "eyewear", "footwear"}
    assert all(a["preview"].startswith("data:image/svg+xml") for a in assets)
    bodies = await tab.run("sdk.getBodyList()")
    assert {b["id"]: b["gender"] for b in bodies}["body_3"] == "female"
    assert await tab.run("sdk.getAvatarId()") == {"id": avatar_id}

    await tab.run(f"sdk.setActiveAsset({json.dumps(_ASSET['boots'])})")
    await tab.run(f"sdk.setActiveAsset({json.dumps(_ASSET['round_glasses'])})")
    active = await tab.run("sdk.getActiveAssets()")
    assert (active["footwear"], active["eyewear"]) == (_ASSET["boots"], _ASSET["round_glasses"])
    for change, question, answer in (
        ("setActiveBody('body_3')", "getActiveBody()", {"id": "body_3"}),
        ("setBodyProportions('arms', -40)", "getBodyProportions()", {"head": 0, "arms": -40, "chest": 0}),
        ("setSkinToneCorrection(12)", "getSkinToneCorrection()", 12),
        ("setHairColor('#b32973')", "getHairColor()", "#b32973"),
        ("setEyewearColor('#b32973')", "getEyewearColor()", "#b32973ff"),
        ("setEyewearColor('transparent')", "getEyewearColor()", "#00000000"),
        ("setEyeColor('blue')", "getEyeColor()", "blue"),
    ):
        assert await tab.run(f"sdk.{change}") is None
        assert await tab.run(f"sdk.{question}") == answer
    refused = await tab.run("sdk.setHairColor('red').catch(reason => ({ reason }))")
    assert refused == {"reason": "a colour is #rrggbb"}


@needs_sdk
async def test_sdk_export_changes_the_avatar_and_notifies_only_its_session(
    fake_avaturn: FakeAvaturn,
    avaturn_client: AvaturnClient,
    user: User,
    tab: chromium.Tab,
    embedding: str,
    serve_app: Serve,
    webhook_verifier: Verifier,
) -> None:
    router, app = SessionRouter(), web.Application()
    WebhookReceiver(router, verifier=webhook_verifier).add_to(app, "/hook")
    fake_avaturn.webhook_url = await serve_app(app) + "/hook"
    avatar_id = await _finished(fake_avaturn, avaturn_client, user)
    bystander, opener = [
        await router.open_session(avaturn_client, user.id, EditExisting(avatar_id=avatar_id)) for _ in range(2)
    ]
    await _embed(tab, embedding, opener.url)
    await tab.run("loaded")
    await tab.run(f"sdk.setActiveAsset({json.dumps(_ASSET['boots'])})")
    await tab.run("sdk.setHairColor('#b32973')")
    await tab.run("sdk.setActiveBody('body_3')")
    await tab.run("sdk.setBodyProportions('arms', -40)")
    await tab.run("sdk.setSkinToneCorrection(12)")
    result = await tab.run("sdk.exportAvatar()")
    assert (result["avatarId"], result["sessionId"]) == (avatar_id, str(opener.id))
    assert (result["bodyId"], result["gender"], result["urlType"]) == ("body_3", "female", "httpURL")
    told = await tab.run("exported.then(() => told)")
    assert [t["name"] for t in told] == ["load", "export"]
    assert told[1]["data"] == result
    (native,) = await tab.run("native")
    assert (native["eventName"], native["data"]) == ("v2.avatar.exported", result)

    event = await opener.wait_for(AvatarReady, timeout=10)
    assert (str(event.avatar_id), event.session_id) == (avatar_id, opener.id)
    other = asyncio.create_task(bystander.wait_for(AvatarReady, timeout=10))
    made = await avaturn_client.get_customization(avatar_id)
    assert not other.done()
    other.cancel()
    assert made.assets is not None
    assert made.assets.footwear is not None
    assert str(made.assets.footwear.id) == _ASSET["boots"]
    assert made.assets.hair_and_headwear is not None
    assert made.assets.hair_and_headwear.color == "#b32973"
    assert made.bone_scale is not None
    assert (made.body, made.bone_scale.arms, made.skin_tone_correction) == ("body_3", -40, 12)


@needs_sdk
async def test_clicks_of_a_person_are_reported_to_the_sdk(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, user: User, tab: chromium.Tab, embedding: str
) -> None:
    session = await avaturn_client.new_session(user.id)
    await _embed(tab, embedding, session.url)
    # Before there is an avatar the catalogue is there, and the rest is refused.
    assert len(await tab.run("sdk.getAssetList()")) == len(ASSETS) - 1
    assert await tab.run("sdk.getAvatarId()") == {"id": None}
    refused = await tab.run("sdk.exportAvatar().catch(reason => ({ reason }))")
    assert refused == {"reason": "the avatar is not loaded yet"}
    for click in ("#samples", "#create:enabled", '[data-name="cap"]', '[data-name="body_3"]', "#next"):
        await tab.click(click, origin=fake_avaturn.url)
    told: list[dict[str, Any]] = await tab.run("exported.then(() => told)")
    assert [t["name"] for t in told] == ["load", "assetSet", "bodySet", "export"]
    assert [t.get("data") for t in told[1:3]] == [_ASSET["cap"], "body_3"]
    await fake_avaturn.wait_idle()
    assert fake_avaturn.events[-1]["avatar_id"] == told[3]["data"]["avatarId"]


@needs_sdk
async def test_sdk_hides_the_buttons_and_sets_default_assets(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, user: User, tab: chromium.Tab, embedding: str
) -> None:
    avatar_id, url = await _open_editing_session(fake_avaturn, avaturn_client, user)
    defaults = {"overrideSaved": True, "assets": [_ASSET["hoodie"], _ASSET["cap"]]}
    await _embed(tab, embedding, url, disableUi=True, defaultAssets=defaults)
    await tab.run("loaded")
    assert await tab.run("document.querySelector('.panel')", origin=fake_avaturn.url) is None
    active = await tab.run("sdk.getActiveAssets()")
    assert (active["clothing"], active["hairAndHeadwear"]) == (_ASSET["hoodie"], _ASSET["cap"])
    assert active["eyewear"] == ""
    await tab.run(f"sdk.setAvailableAssets({json.dumps([_ASSET['suit']])})")
    assert [a["id"] for a in await tab.run("sdk.getAssetList()")] == [_ASSET["suit"]]
    assert [a["id"] for a in await tab.run("sdk.getAnimationList()")] == ["idle", "wave"]
    await tab.run("sdk.setActiveAnimation('wave')")
    assert await tab.run("sdk.getActiveAnimation()") == {"id": "wave"}
    assert (await tab.run("sdk.exportAvatar()"))["avatarId"] == avatar_id
    # Still there: without buttons the page goes on.
    assert await tab.run("sdk.getActiveAssets()") == active


@needs_sdk
@pytest.mark.parametrize("call", ["setActiveAsset", "setActiveBody", "setActiveAnimation"])
async def test_unknown_id_is_reported_to_the_sdk_and_changes_nothing(
    fake_avaturn: FakeAvaturn,
    avaturn_client: AvaturnClient,
    user: User,
    tab: chromium.Tab,
    embedding: str,
    call: str,
) -> None:
    _, url = await _open_editing_session(fake_avaturn, avaturn_client, user)
    await _embed(tab, embedding, url)
    await tab.run("loaded")
    before = await tab.run("sdk.getActiveAssets()")
    assert await tab.run(f"sdk.{call}('no-such-id')") is None
    (error,) = await tab.run("failed.then(() => told.filter(t => t.name === 'error'))")
    assert error["data"]["type"] == "scene_error"
    assert await tab.run("sdk.getActiveAssets()") == before


@needs_sdk
async def test_failed_avatar_is_reported_to_the_sdk(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, user: User, tab: chromium.Tab, embedding: str
) -> None:
    fake_avaturn.fail_tasks("avatar")
    session = await avaturn_client.new_session(user.id)
    await _embed(tab, embedding, session.url)
    await tab.click("#samples", origin=fake_avaturn.url)
    await tab.click("#create:enabled", origin=fake_avaturn.url)
    (error,) = await tab.run("failed.then(() => told.filter(t => t.name === 'error'))")
    assert error["data"]["type"] == "avatar_load_error"
