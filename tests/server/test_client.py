"""The ten calls on the wire, invalid arguments, and the life of a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_server import response, serve

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
NEW_USER = response(200, {"id": USER})


@frozen(kw_only=True)
class Call:
    """A call, the request that it makes, and what it returns for a response."""

    name: str
    make: Callable[[AvaturnClient], Awaitable[object]]
    method: str
    target: str
    body: Any = None
    reply: Any = None
    returns: object = None


FULL = Customization(
    assets=AssetSlots(clothing=AssetSlot(id=UUID(OTHER)), eyewear=AssetSlot(id=UUID(OTHER), color="#aabbccaa")),
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
        returns=User(id=USER),
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
        returns=SESSION,
    ),
    Call(
        name="new_session, create or edit",
        make=lambda c: c.new_session(USER, CreateOrEditExisting()),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER, "config": {"type": "create_or_edit_existing"}},
        reply=SESSION_JSON,
        returns=SESSION,
    ),
    Call(
        name="new_session, create",
        make=lambda c: c.new_session(USER, Create()),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER, "config": {"type": "create"}},
        reply=SESSION_JSON,
        returns=SESSION,
    ),
    Call(
        name="new_session, edit",
        make=lambda c: c.new_session(USER, EditExisting(avatar_id=AVATAR)),
        method="POST",
        target="/api/v1/sessions/new",
        body={"user_id": USER, "config": {"type": "edit_existing", "avatar_id": AVATAR}},
        reply=SESSION_JSON,
        returns=SESSION,
    ),
    Call(
        name="list_user_avatars",
        make=lambda c: c.list_user_avatars(USER),
        method="GET",
        target=f"/api/v1/users/{USER}/avatars",
        reply=[{"id": AVATAR, "status": "ready"}, {"id": OTHER, "status": "queued"}],
        returns=(
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
        returns=(),
    ),
    Call(
        name="new_avatar",
        make=lambda c: c.new_avatar(USER),
        method="POST",
        target="/api/v1/avatars/new",
        body={"user_id": USER},
        reply={"avatar_id": AVATAR, "upload_url": "https://up.example/x"},
        returns=NewAvatar(avatar_id=UUID(AVATAR), upload_url="https://up.example/x"),
    ),
    Call(
        name="get_customization",
        make=lambda c: c.get_customization(UUID(AVATAR)),
        method="GET",
        target=f"/api/v1/avatars/{AVATAR}/customization",
        reply=FULL_JSON,
        returns=FULL,
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
        returns=Render(id=UUID(OTHER), status=TaskStatus.PENDING),
    ),
    Call(
        name="render_user_avatar, all options",
        make=lambda c: c.render_user_avatar(AVATAR, scene="common/transparent_half_body", format=RenderFormat.PNG),
        method="POST",
        target=f"/api/v1/renders/new?avatar_id={AVATAR}&scene=common/transparent_half_body&format=png",
        reply={"id": OTHER, "status": "ready", "render_url": "https://r.example/1"},
        returns=Render(id=UUID(OTHER), status=TaskStatus.READY, render_url="https://r.example/1"),
    ),
    Call(
        name="create_export",
        make=lambda c: c.create_export(AVATAR),
        method="POST",
        target=f"/api/v1/exports/new?avatar_id={AVATAR}",
        reply={"status": "pending", "url": None},
        returns=Export(status=TaskStatus.PENDING),
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
async def test_call_sends_the_documented_request_and_returns_the_model(call: Call) -> None:
    async with serve(response(200, call.reply)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        assert await call.make(client) == call.returns
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


@pytest.mark.parametrize(
    "reply",
    [
        response(200, raw=b""),
        response(202, {}),
        response(200, raw=b"<html>fine</html>"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
@pytest.mark.parametrize("name", ["delete_user", "set_customization", "delete_user_avatar"])
async def test_body_of_a_successful_put_or_delete_is_not_read(name: str, reply: bytes) -> None:
    [call] = [c for c in CALLS if c.name == name]
    async with serve(reply) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        assert await call.make(client) is None


@pytest.mark.parametrize(
    ("user_id", "target"),
    [
        ("a/b", "/api/v1/users/a%2Fb"),
        ("%2e%2e", "/api/v1/users/%252e%252e"),
        ("a?b=c#d", "/api/v1/users/a%3Fb%3Dc%23d"),
        ("ü", "/api/v1/users/%C3%BC"),
    ],
)
async def test_user_id_is_quoted_as_one_segment(user_id: str, target: str) -> None:
    async with serve(response(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        await client.delete_user(user_id)
    assert [r.target for r in server.requests] == [target]


def call(name: str, *args: Any, **options: Any) -> Callable[[AvaturnClient], Awaitable[object]]:
    return lambda client: getattr(client, name)(*args, **options)


NOT_A_USER_ID: list[Any] = ["", " ", ".", "..", "\ud800", 5, None]
NOT_AN_AVATAR_ID: list[Any] = [
    "",
    "..",
    f"{{{AVATAR}}}",
    f"urn:uuid:{AVATAR}",
    AVATAR.replace("-", ""),
    AVATAR + "\n",
    5,
]
NOT_A_SCENE = ["", "common preview", "common/preview\n", "ü", "a.b", "../x", "%2e"]
NOT_A_PATH = [
    *("", "users", "//evil.example/x", "https://evil.example/x", "/\\evil.example", "/a?b=c", "/a#b"),
    *("/a\r\nHost: evil.example", "/a/../b", "/a/%2e%2E/b", "/./a", "/."),
]
NOT_A_TIMEOUT: list[Any] = [0, -1, float("nan"), float("inf"), True, "5", 10**400, 10**5000]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *(
            (call(name, user_id), "user_id must")
            for name in ("delete_user", "list_user_avatars", "new_avatar", "new_session")
            for user_id in NOT_A_USER_ID
        ),
        *(
            (make, "UUID")
            for avatar_id in NOT_AN_AVATAR_ID
            for make in (
                call("create_export", avatar_id),
                call("render_user_avatar", avatar_id),
                call("get_customization", avatar_id),
                call("set_customization", avatar_id, FULL),
                call("delete_user_avatar", USER, avatar_id),
            )
        ),
        *((call("render_user_avatar", AVATAR, scene=scene), "scene may hold") for scene in NOT_A_SCENE),
        (call("render_user_avatar", AVATAR, format=""), "format must be"),
        *(
            (call("set_customization", AVATAR, Customization(skin_tone_correction=number)), "JSON")
            for number in (float("nan"), float("inf"))
        ),
        (call("set_customization", AVATAR, {"body": "body_0"}), "customization must be"),
        (call("new_session", USER, {"type": "create"}), r"config must be Create\(\), .*, not dict"),
        (call("new_session", USER, Create), r"config must be Create\(\), .*, not the class Create$"),
        (call("render_user_avatar", AVATAR, scene=None), "scene must be a str, not NoneType"),
        (call("download", None, "a.glb"), "url must be a str, not NoneType: it is None until the file is ready"),
        (call("download", "https://x.example/a.glb", None), "destination must be a path, not NoneType"),
        *((call("request", "GET", path), "path must") for path in NOT_A_PATH),
        *((call("request", method, "/x"), "HTTP method") for method in ("", "GET /", "GE\r\nT")),
        *((call("request", method, "/x"), "method must be a str") for method in (b"GET", None)),
        *((call("request", "GET", path), "path must be a str") for path in (b"/x", None)),
        *(
            (call("request", "GET", "/x", params=given), "params must be a Mapping")
            for given in ([("a", "b")], "a=b", [])
        ),
        *((call("request", "GET", "/x", params={"a": value}), r"params\['a'\]") for value in (None, b"x", {"a": 1})),
        (call("request", "GET", "/x", params={"a": ["b", "c\ud800"]}), r"params\['a'\] must hold no lone surrogate"),
        (call("request", "GET", "/x", params={"a\ud800": "b"}), "a name in params must hold no lone surrogate"),
        (call("request", "POST", "/x", json={"a": ["b\udcff"]}), "json must hold no lone surrogate"),
        (call("request", "POST", "/x", json={"a\udcff": 1}), "json must hold no lone surrogate"),
        (call("set_customization", AVATAR, Customization(body="\ud800")), "customization must hold no lone surrogate"),
        (call("render_user_avatar", AVATAR, format="\ud800"), "format must hold no lone surrogate"),
        (call("download", "https://x.example/\ud800.glb", "a.glb"), "url must be a URL"),
        *((call("create_user", timeout=timeout), "timeout must") for timeout in NOT_A_TIMEOUT),
    ],
)
async def test_invalid_argument_is_refused_before_a_request(
    make: Callable[[AvaturnClient], Awaitable[object]], words: str
) -> None:
    async with serve(response(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        with pytest.raises((ValueError, TypeError), match=words):
            await make(client)
    assert server.connections == 0


@given(st.uuids(), st.booleans())
def test_canonical_id_in_either_case_is_accepted(id_: UUID, upper: bool) -> None:  # noqa: FBT001
    text = str(id_).upper() if upper else str(id_)
    assert EditExisting(avatar_id=text).avatar_id == EditExisting(avatar_id=id_).avatar_id == id_


@pytest.mark.parametrize("position", range(37))
def test_wrong_character_in_an_id_is_refused(position: int) -> None:
    for character in "gG_+ \n\u0661":
        for text in (
            AVATAR[:position] + character + AVATAR[position + 1 :],
            AVATAR[:position] + character + AVATAR[position:],
        ):
            with pytest.raises(ValueError, match=r"^avatar_id is not a UUID in canonical form"):
                EditExisting(avatar_id=text)


def test_error_about_an_id_cuts_its_text_or_names_its_type() -> None:
    with pytest.raises(ValueError, match=f"^avatar_id is not a UUID .*: '{'x' * 60}'$"):
        EditExisting(avatar_id="x" * 1000)
    wrong: Any = b"x"
    with pytest.raises(TypeError, match=r"^avatar_id must be a uuid.UUID or a str, not bytes"):
        EditExisting(avatar_id=wrong)


async def test_values_without_a_published_range_are_sent_as_they_are() -> None:
    wild = Customization(body="body_9999", age="elder", bone_scale=BoneScale(head=-1e9), skin_tone_correction=77)
    async with serve(response(200)) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
        await client.set_customization(AVATAR, wild)
    assert json.loads(server.requests[0].body)["skin_tone_correction"] == 77


async def test_request_sends_a_call_that_has_no_method() -> None:
    async with (
        serve(
            response(200, {"any": [1]}),
            response(200, raw=b""),
            response(404, {"detail": "no"}),
            response(200, raw=b"<html>"),
        ) as server,
        AvaturnClient(TOKEN, base_url=server.url + "/prefix/") as client,
    ):
        params = {"a": True, "b": 5, "c": UUID(AVATAR), "d": ["x", "y z&/"]}
        assert await client.request("post", "/api/v2/things/a%2Fb", params=params, json=[1]) == {"any": [1]}
        assert await client.request("GET", "/api/v2/ü") is None
        with pytest.raises(NotFoundError, match=r"GET /x: 404: .*no"):
            await client.request("GET", "/x")
        with pytest.raises(AvaturnDecodeError, match="GET /x: the response is not JSON"):
            await client.request("GET", "/x")
    first, second, *_ = server.requests
    assert first.target == f"/prefix/api/v2/things/a%2Fb?a=true&b=5&c={AVATAR}&d=x&d=y+z%26/"
    assert (first.method, first.body) == ("POST", b"[1]")
    assert second.target == "/prefix/api/v2/%C3%BC"


async def test_large_body_is_sent_again_whole_and_without_a_warning() -> None:
    """aiohttp warns of a body in memory of more than 1 MiB, and tests turn warnings into errors."""
    sent = "x" * 3_000_000
    policy = RetryPolicy(base=0)
    async with serve(response(503), response(200)) as server:
        async with AvaturnClient(TOKEN, base_url=server.url, retry=policy) as client:
            await client.request("PUT", "/x", json=sent)
        assert [json.loads(request.body) for request in server.requests] == [sent, sent]
        assert {request.headers["Content-Length"] for request in server.requests} == {"3000002"}


@pytest.mark.parametrize("token", ["", " ", "zx zy", " zxzy", "zxzy\n", "zxzyü", "zxzy\x00", None])
def test_invalid_token_is_refused_and_not_shown(token: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="token must") as caught:
        AvaturnClient(token)
    assert "zx" not in str(caught.value)
    assert ("is the environment variable set?" in str(caught.value)) == (token is None)


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        *((f"https://api.avaturn.me/api/v1{end}", "must end before /api/v1") for end in ("", "/")),
        *(
            (url, "a URL such as")
            for url in ("", "api.avaturn.me", "ftp://api.avaturn.me", "https://", "http://[::1", 5)
        ),
        *((url, "must be https") for url in ("http://api.avaturn.me", "http://10.0.0.1", "http://notlocalhost")),
        *(
            (f"https://{rest}", "no user")
            for rest in ("user:secret@api.avaturn.me", "x.me/?token=secret", "x.me/#secret")
        ),
    ],
)
def test_invalid_base_url_is_refused_and_not_shown(base_url: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        AvaturnClient(TOKEN, base_url=base_url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["http://localhost:1", "http://x.localhost", "http://[::1]:5", "http://127.0.0.9"])
def test_plain_http_is_accepted_for_this_machine(base_url: str) -> None:
    assert base_url in repr(AvaturnClient(TOKEN, base_url=base_url))


def test_plain_http_is_accepted_elsewhere_with_allow_private_urls() -> None:
    assert "http://fake:8000" in repr(AvaturnClient(TOKEN, base_url="http://fake:8000", allow_private_urls=True))


@pytest.mark.parametrize("timeout", NOT_A_TIMEOUT, ids=range(len(NOT_A_TIMEOUT)))
def test_invalid_timeout_of_a_client_is_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must"):
        AvaturnClient(TOKEN, timeout=timeout)


async def test_from_env_reads_the_token_and_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVATURN_API_TOKEN", raising=False)
    monkeypatch.delenv("AVATURN_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="AVATURN_API_TOKEN is not set"):
        AvaturnClient.from_env()
    monkeypatch.setenv("AVATURN_API_TOKEN", TOKEN)
    assert repr(AvaturnClient.from_env()) == "<AvaturnClient https://api.avaturn.me>"
    async with serve(NEW_USER) as server:
        monkeypatch.setenv("AVATURN_BASE_URL", server.url)
        async with AvaturnClient.from_env(timeout=5, retry=RetryPolicy(attempts=1)) as client:
            assert await client.create_user() == User(id=USER)
        assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"
        assert "one.example" in repr(AvaturnClient.from_env(base_url="https://one.example"))


async def test_close_ends_the_connections_and_can_be_called_again() -> None:
    async with serve(NEW_USER) as server:
        client = AvaturnClient(TOKEN, base_url=server.url)
        await client.create_user()
        await client.create_user()
        assert server.connections == server.open_connections == 1
        await client.close()
        await client.close()
        async with asyncio.timeout(20):
            while server.open_connections:
                await asyncio.sleep(0)
        assert repr(client) == f"<AvaturnClient {server.url} closed>"
        for error in (AvaturnError, RuntimeError, ClientClosedError):
            with pytest.raises(error, match="closed: make a new one"):
                await client.create_user()
        with pytest.raises(ClientClosedError):
            async with client:
                pass
        with pytest.raises(ClientClosedError, match="make a new one"):
            await client.download(f"{server.url}/a.glb", "a.glb")
    assert server.connections == 1


async def test_unused_client_can_be_closed() -> None:
    await AvaturnClient(TOKEN).close()


async def test_session_of_the_caller_is_used_but_neither_closed_nor_changed() -> None:
    async with serve(NEW_USER, response(404)) as server:
        mine = {"X-Mine": "1", "Authorization": "Basic bWluZQ=="}
        async with aiohttp.ClientSession(headers=mine, raise_for_status=True) as http:
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
async def test_session_with_auth_of_its_own_is_refused_at_construction() -> None:
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("a", "b")) as http:
        with pytest.raises(ValueError, match="auth= of its own"):
            AvaturnClient(TOKEN, http=http)


async def test_cookies_of_the_server_are_not_kept() -> None:
    async with (
        serve(response(200, {"id": USER}, Set_Cookie="a=b; Path=/")) as server,
        # aiohttp keeps no cookies of a host that is an address.
        AvaturnClient(TOKEN, base_url=server.url.replace("127.0.0.1", "localhost")) as client,
    ):
        await client.create_user()
        await client.create_user()
    assert "Cookie" not in server.requests[1].headers


async def test_redirect_is_an_error_and_the_token_does_not_follow_it() -> None:
    async with serve(response(200)) as elsewhere:
        away = response(307, None, Location=f"{elsewhere.url}/api/v1/users/new")
        async with serve(away) as server, AvaturnClient(TOKEN, base_url=server.url) as client:
            with pytest.raises(AvaturnStatusError) as caught:
                await client.create_user()
    assert caught.value.status == 307
    assert elsewhere.connections == 0
