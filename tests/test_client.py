"""The ten calls on the wire: what the server receives, and the object that comes back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from attrs import frozen
from scripted_server import answer, serve

from avaturn_async import (
    AssetSlot,
    AssetSlots,
    Avatar,
    AvaturnClient,
    AvaturnDecodeError,
    AvaturnError,
    AvaturnStatusError,
    BoneScale,
    ClientClosedError,
    Create,
    CreateOrEditExisting,
    Customization,
    EditExisting,
    Export,
    NewAvatar,
    NotFoundError,
    Render,
    RenderFormat,
    RetryPolicy,
    ScanStatus,
    Session,
    TaskStatus,
    User,
)

TOKEN = "tok-a1b2c3d4e5f6"
USER = "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF"
AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
OTHER = "497f6eca-6276-4993-bfeb-53cbbbba6f08"


@frozen(kw_only=True)
class Call:
    """One call, what it must look like on the wire, and what it gives."""

    name: str
    make: Callable[[AvaturnClient], Awaitable[object]]
    method: str
    target: str
    body: Any = None
    reply: Any = None
    gives: object = None


FULL = Customization(
    assets=AssetSlots(
        clothing=AssetSlot(id=UUID(OTHER)), eyewear=AssetSlot(id=UUID(OTHER), color="#aabbccaa")
    ),
    body="body_0",
    age="adult",
    metadata={"a": "b"},
    bone_scale=BoneScale(head=0, arms=0.5),
    skin_tone_correction=0.25,
)
FULL_JSON = {
    "assets": {"clothing": {"id": OTHER}, "eyewear": {"id": OTHER, "color": "#aabbccaa"}},
    "body": "body_0",
    "age": "adult",
    "metadata": {"a": "b"},
    "bone_scale": {"head": 0, "arms": 0.5},
    "skin_tone_correction": 0.25,
}
SESSION_JSON = {"id": OTHER, "url": "https://a.example/?t=1", "custom_upload_url": None}
SESSION = Session(id=UUID(OTHER), url="https://a.example/?t=1")

CALLS = [
    Call(
        name="create_user",
        make=lambda c: c.create_user(),
        method="POST",
        target="/api/v1/users/new",
        reply={"id": USER, "new": 1},
        gives=User(id=USER),
    ),
    Call(
        name="delete_user",
        make=lambda c: c.delete_user(USER),
        method="DELETE",
        target=f"/api/v1/users/{USER}",
    ),
    Call(
        name="new_session",
        make=lambda c: c.new_session(USER),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER},
        reply=SESSION_JSON,
        gives=SESSION,
    ),
    Call(
        name="new_session, create or edit",
        make=lambda c: c.new_session(USER, CreateOrEditExisting()),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER, "config": {"type": "create_or_edit_existing"}},
        reply=SESSION_JSON,
        gives=SESSION,
    ),
    Call(
        name="new_session, create",
        make=lambda c: c.new_session(USER, Create()),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER, "config": {"type": "create"}},
        reply=SESSION_JSON,
        gives=SESSION,
    ),
    Call(
        name="new_session, edit",
        make=lambda c: c.new_session(USER, EditExisting(avatar_id=AVATAR)),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER, "config": {"type": "edit_existing", "avatar_id": AVATAR}},
        reply=SESSION_JSON,
        gives=SESSION,
    ),
    Call(
        name="list_user_avatars",
        make=lambda c: c.list_user_avatars(USER),
        method="GET",
        target=f"/api/v1/users/{USER}/avatars",
        reply=[{"id": AVATAR, "status": "ready"}, {"id": OTHER, "status": "queued"}],
        gives=(
            Avatar(id=UUID(AVATAR), status=ScanStatus.READY),
            Avatar(id=UUID(OTHER), status=ScanStatus("queued")),
        ),
    ),
    Call(
        name="list_user_avatars, all",
        make=lambda c: c.list_user_avatars(USER, include_not_ready=True),
        method="GET",
        target=f"/api/v1/users/{USER}/avatars?include_not_ready=true",
        reply=[],
        gives=(),
    ),
    Call(
        name="new_avatar",
        make=lambda c: c.new_avatar(USER),
        method="POST",
        target="/api/v1/avatars/new",
        body={"user_id": USER},
        reply={"avatar_id": AVATAR, "upload_url": "https://up.example/x"},
        gives=NewAvatar(avatar_id=UUID(AVATAR), upload_url="https://up.example/x"),
    ),
    Call(
        name="get_customization",
        make=lambda c: c.get_customization(UUID(AVATAR)),
        method="GET",
        target=f"/api/v1/avatars/{AVATAR}/customization",
        reply=FULL_JSON,
        gives=FULL,
    ),
    Call(
        name="set_customization",
        make=lambda c: c.set_customization(AVATAR, FULL),
        method="PUT",
        target=f"/api/v1/avatars/{AVATAR}/customization",
        body=FULL_JSON,
    ),
    Call(
        name="delete_user_avatar",
        make=lambda c: c.delete_user_avatar(USER, AVATAR.upper()),
        method="DELETE",
        target=f"/api/v1/users/{USER}/avatars/{AVATAR}",
    ),
    Call(
        name="render_user_avatar",
        make=lambda c: c.render_user_avatar(AVATAR),
        method="POST",
        target=f"/api/v1/renders/new?avatar_id={AVATAR}&scene=common/preview&format=jpg",
        reply={"id": OTHER, "status": "pending", "render_url": None},
        gives=Render(id=UUID(OTHER), status=TaskStatus.PENDING),
    ),
    Call(
        name="render_user_avatar, all options",
        make=lambda c: c.render_user_avatar(
            AVATAR, scene="common/transparent_half_body", format=RenderFormat.PNG
        ),
        method="POST",
        target=f"/api/v1/renders/new?avatar_id={AVATAR}&scene=common/transparent_half_body&format=png",
        reply={"id": OTHER, "status": "ready", "render_url": "https://r.example/1"},
        gives=Render(id=UUID(OTHER), status=TaskStatus.READY, render_url="https://r.example/1"),
    ),
    Call(
        name="create_export",
        make=lambda c: c.create_export(AVATAR),
        method="POST",
        target=f"/api/v1/exports/new?avatar_id={AVATAR}",
        reply={"status": "pending", "url": None},
        gives=Export(status=TaskStatus.PENDING),
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
async def test_each_call_is_on_the_wire_as_documented(call: Call) -> None:
    async with serve(answer(200, call.reply)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        assert await call.make(client) == call.gives
    [received] = server.requests
    assert (received.method, received.target) == (call.method, call.target)
    assert received.headers["Authorization"] == f"Bearer {TOKEN}"
    assert received.headers["Accept"] == "application/json"
    assert received.headers["User-Agent"].startswith("avaturn_async/")
    if call.body is None:
        assert received.body == b""
        assert "Content-Type" not in received.headers
    else:
        assert json.loads(received.body) == call.body
        assert received.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("raw", [b"null", b"", b"{}", b"<html>fine</html>"])
@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("name", ["delete_user", "set_customization", "delete_user_avatar"])
async def test_whatever_body_a_successful_put_or_delete_has_it_is_a_success(
    name: str, status: int, raw: bytes
) -> None:
    reply = answer(status, raw=raw) if status != 204 else b"HTTP/1.1 204 No Content\r\n\r\n"
    [call] = [c for c in CALLS if c.name == name]
    async with serve(reply) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        assert await call.make(client) is None


@pytest.mark.parametrize(
    ("user_id", "target"),
    [
        ("a/b", "/api/v1/users/a%2Fb"),
        ("%2e%2e", "/api/v1/users/%252e%252e"),
        ("..%2f", "/api/v1/users/..%252f"),
        ("a?b=c#d", "/api/v1/users/a%3Fb%3Dc%23d"),
        ("ü", "/api/v1/users/%C3%BC"),
    ],
)
async def test_an_id_cannot_leave_its_segment(user_id: str, target: str) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        await client.delete_user(user_id)
    assert [r.target for r in server.requests] == [target]


@pytest.mark.parametrize("user_id", ["", " ", ".", "..", "\ud800", 5, None])
@pytest.mark.parametrize("name", ["delete_user", "list_user_avatars", "new_avatar", "new_session"])
async def test_an_id_that_is_none_is_refused_before_anything_is_sent(name: str, user_id: Any) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises((ValueError, TypeError), match=r"user_id|surrogates"):
            await getattr(client, name)(user_id)
    assert server.connections == 0


@pytest.mark.parametrize(
    "avatar_id",
    [
        "",
        "..",
        f"{{{AVATAR}}}",
        f"urn:uuid:{AVATAR}",
        AVATAR.replace("-", ""),
        AVATAR + "\n",
        "\u0660" * 8 + AVATAR[8:],
        5,
    ],
)
async def test_an_avatar_id_that_is_not_canonical_is_refused_before_anything_is_sent(avatar_id: Any) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        for attempt in (
            client.create_export(avatar_id),
            client.render_user_avatar(avatar_id),
            client.get_customization(avatar_id),
            client.set_customization(avatar_id, FULL),
            client.delete_user_avatar(USER, avatar_id),
        ):
            with pytest.raises((ValueError, TypeError), match=r"UUID"):
                await attempt
    assert server.connections == 0


@pytest.mark.parametrize("scene", ["", "common preview", "common/preview\n", "ü", "a.b", "../x", "%2e"])
async def test_a_scene_outside_the_documented_pattern_is_refused_before_anything_is_sent(scene: str) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(ValueError, match="scene"):
            await client.render_user_avatar(AVATAR, scene=scene)
        with pytest.raises(ValueError, match="format"):
            await client.render_user_avatar(AVATAR, format="")
    assert server.connections == 0


async def test_what_is_not_published_is_not_checked() -> None:
    wild = Customization(
        body="body_9999", age="elder", bone_scale=BoneScale(head=-1e9), skin_tone_correction=77
    )
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        await client.set_customization(AVATAR, wild)
    assert json.loads(server.requests[0].body)["skin_tone_correction"] == 77


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_number_that_json_cannot_say_is_refused_before_anything_is_sent(number: float) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(ValueError, match="JSON"):
            await client.set_customization(AVATAR, Customization(skin_tone_correction=number))
    assert server.connections == 0


async def test_arguments_of_the_wrong_type_are_refused_before_anything_is_sent() -> None:
    wrong: Any = {"type": "create"}
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(TypeError, match="config"):
            await client.new_session(USER, wrong)
        with pytest.raises(TypeError, match="customization"):
            await client.set_customization(AVATAR, wrong)
    assert server.connections == 0


async def test_request_reaches_calls_that_do_not_exist_yet() -> None:
    async with (
        serve(answer(200, {"any": [1]}), answer(200, raw=b""), answer(404, {"detail": "no"})) as server,
        AvaturnClient(TOKEN, base_url=server.url + "/prefix/") as client,
    ):
        params = {"a": True, "b": 5, "c": UUID(AVATAR), "d": ["x", "y z"]}
        assert await client.request("post", "/api/v2/things/a%2Fb", params=params, json=[1]) == {"any": [1]}
        assert await client.request("GET", "/api/v2/ü") is None
        with pytest.raises(NotFoundError, match=r"GET /x: 404: .*no"):
            await client.request("GET", "/x")
    first, second, _ = server.requests
    assert first.target == f"/prefix/api/v2/things/a%2Fb?a=true&b=5&c={AVATAR}&d=x&d=y+z"
    assert (first.method, first.body) == ("POST", b"[1]")
    assert second.target == "/prefix/api/v2/%C3%BC"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "users",
        "//evil.example/x",
        "https://evil.example/x",
        "/\\evil.example",
        "/a?b=c",
        "/a#b",
        "/a\r\nHost: evil.example",
        "/a/../b",
        "/a/%2e%2e/b",
        "/./a",
    ],
)
async def test_the_path_of_request_cannot_lead_elsewhere(path: str) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(ValueError, match="path must"):
            await client.request("GET", path)
    assert server.connections == 0


@pytest.mark.parametrize("method", ["", "GET /", "GE\r\nT"])
async def test_request_refuses_what_is_no_method(method: str) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(ValueError, match="HTTP method"):
            await client.request(method, "/x")
    assert server.connections == 0


@pytest.mark.parametrize("value", [None, b"x", {"a": 1}])
async def test_request_refuses_parameters_that_have_no_text(value: Any) -> None:
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(TypeError, match=r"params\['a'\]"):
            await client.request("GET", "/x", params={"a": value})
    assert server.connections == 0


async def test_request_names_an_answer_that_is_not_json() -> None:
    async with (
        serve(answer(200, raw=b"<html>")) as server,
        AvaturnClient(TOKEN, base_url=server.url) as client,
    ):
        with pytest.raises(AvaturnDecodeError, match="GET /x: an answer that is not JSON"):
            await client.request("GET", "/x")


@pytest.mark.parametrize("token", ["", " ", "zx zy", " zxzy", "zxzy\n", "zxzyü", "zxzy\x00"])
def test_a_token_that_is_none_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token must") as caught:
        AvaturnClient(token)
    assert "zx" not in str(caught.value)
    wrong: Any = None
    with pytest.raises(TypeError, match="token must be a str"):
        AvaturnClient(wrong)


@pytest.mark.parametrize(
    ("base_url", "complaint"),
    [
        ("https://api.avaturn.me/api/v1", "must end before /api/v1"),
        ("https://api.avaturn.me/api/v1/", "must end before /api/v1"),
        ("", "a URL such as"),
        ("api.avaturn.me", "a URL such as"),
        ("ftp://api.avaturn.me", "a URL such as"),
        ("https://", "a URL such as"),
        ("http://[::1", "a URL such as"),
        (5, "a URL such as"),
        ("http://api.avaturn.me", "must be https"),
        ("http://10.0.0.1", "must be https"),
        ("https://user:secret@api.avaturn.me", "no user"),
        ("https://api.avaturn.me/?token=x", "no user"),
        ("https://api.avaturn.me/#x", "no user"),
    ],
)
def test_a_base_url_that_would_not_do_is_refused(base_url: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        AvaturnClient(TOKEN, base_url=base_url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url", ["http://localhost:1", "http://x.localhost", "http://[::1]:5", "http://127.0.0.9"]
)
def test_plain_http_is_taken_for_this_machine(base_url: str) -> None:
    assert base_url.split("//")[1] in repr(AvaturnClient(TOKEN, base_url=base_url))


def test_plain_http_is_taken_elsewhere_when_private_urls_are_allowed() -> None:
    assert "http://fake:8000" in repr(
        AvaturnClient(TOKEN, base_url="http://fake:8000", allow_private_urls=True)
    )


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "5"])
async def test_a_timeout_that_makes_no_sense_is_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must"):
        AvaturnClient(TOKEN, timeout=timeout)
    async with serve(answer(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises(ValueError, match="timeout must"):
            await client.create_user(timeout=timeout)
    assert server.connections == 0


async def test_from_env_reads_the_token_and_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVATURN_API_TOKEN", raising=False)
    monkeypatch.delenv("AVATURN_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="AVATURN_API_TOKEN is not set"):
        AvaturnClient.from_env()
    monkeypatch.setenv("AVATURN_API_TOKEN", TOKEN)
    assert repr(AvaturnClient.from_env()) == "<AvaturnClient https://api.avaturn.me>"
    async with serve(answer(200, {"id": USER})) as server:
        monkeypatch.setenv("AVATURN_BASE_URL", server.url)
        async with AvaturnClient.from_env(timeout=5, retry=RetryPolicy(attempts=1)) as client:
            assert await client.create_user() == User(id=USER)
        assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"
        assert "one.example" in repr(AvaturnClient.from_env(base_url="https://one.example"))


async def test_the_own_session_is_made_at_first_use_and_closed_once_or_twice() -> None:
    async with serve(answer(200, {"id": USER})) as server:
        client = AvaturnClient(TOKEN, base_url=server.url)
        assert client._transport._own is None
        await client.create_user()
        own = client._transport._own
        assert own is not None
        await client.close()
        await client.close()
        assert own.closed
        assert repr(client) == f"<AvaturnClient {server.url} closed>"


async def test_a_client_that_is_made_outside_of_a_loop_and_never_used_closes_quietly() -> None:
    await AvaturnClient(TOKEN).close()


async def test_use_after_close_is_a_clear_error() -> None:
    async with serve(answer(200)) as server:
        client = AvaturnClient(TOKEN, base_url=server.url)
        await client.close()
        for error in (AvaturnError, RuntimeError, ClientClosedError):
            with pytest.raises(error, match="closed: make a new one"):
                await client.create_user()
        with pytest.raises(ClientClosedError):
            async with client:
                pass
    assert server.connections == 0


async def test_a_session_of_the_callers_is_used_but_neither_closed_nor_changed() -> None:
    async with serve(answer(200, {"id": USER}), answer(404)) as server:
        http = aiohttp.ClientSession(
            headers={"X-Mine": "1", "Authorization": "Basic bWluZQ=="},
            raise_for_status=True,
            auto_decompress=False,
        )
        async with http:
            before = dict(http.headers)
            async with AvaturnClient(TOKEN, base_url=server.url, http=http) as client:
                assert await client.create_user() == User(id=USER)
                with pytest.raises(NotFoundError):
                    await client.delete_user(USER)
            assert not http.closed
            assert dict(http.headers) == before
        assert {r.headers["Authorization"] for r in server.requests} == {f"Bearer {TOKEN}"}
        assert server.requests[0].headers["X-Mine"] == "1"
        with pytest.raises(ClientClosedError, match="given as http= is closed"):
            await AvaturnClient(TOKEN, base_url=server.url, http=http).create_user()


@pytest.mark.filterwarnings("ignore:.*auth.*:DeprecationWarning")
async def test_a_session_with_auth_of_its_own_is_refused_at_construction() -> None:
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("a", "b")) as http:
        with pytest.raises(ValueError, match="auth= of its own"):
            AvaturnClient(TOKEN, http=http)


async def test_trace_configs_reach_the_session_that_the_client_makes() -> None:
    seen: list[str] = []
    config = aiohttp.TraceConfig()

    async def started(_: Any, __: Any, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(f"{params.method} {params.url.path}")

    config.on_request_start.append(started)
    async with (
        serve(answer(200, {"id": USER})) as server,
        AvaturnClient(TOKEN, base_url=server.url, trace_configs=[config]) as client,
    ):
        await client.create_user()
    assert seen == ["POST /api/v1/users/new"]


async def test_cookies_of_the_server_are_not_kept() -> None:
    async with (
        serve(answer(200, {"id": USER}, Set_Cookie="a=b; Path=/")) as server,
        AvaturnClient(TOKEN, base_url=server.url) as client,
    ):
        await client.create_user()
        await client.create_user()
    assert "Cookie" not in server.requests[1].headers


async def test_a_redirect_to_another_host_is_an_error_and_the_token_does_not_follow() -> None:
    async with serve(answer(200)) as elsewhere:
        away = answer(307, None, Location=f"{elsewhere.url}/api/v1/users/new")
        async with serve(away) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
            with pytest.raises(AvaturnStatusError) as caught:
                await client.create_user()
    assert type(caught.value) is AvaturnStatusError
    assert caught.value.status == 307
    assert elsewhere.connections == 0
