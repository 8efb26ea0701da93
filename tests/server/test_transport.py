"""What failures of the network and of the server become, and which requests are sent again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from conftest import pickled
from support.scripted_server import (
    ScriptedServer,
    Step,
    cut_body,
    hang_up,
    reset,
    response,
    serve,
    stall_body,
    stall_head,
    unused_port,
)
from support.transfer_rig import get_all_text

from avaturn_async import (
    AuthenticationError,
    AvaturnClient,
    AvaturnConnectionError,
    AvaturnDecodeError,
    AvaturnError,
    AvaturnStatusError,
    AvaturnTimeoutError,
    BadRequestError,
    ConflictError,
    GoneError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestValidationError,
    RetryPolicy,
    ServerError,
)

TOKEN = "tok-a1b2c3d4e5f6"
AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
HTML_502 = response(502, raw=b"<html><h1>Bad Gateway</h1></html>", Content_Type="text/html")
# What each call of this file accepts as a success.
USER = response(200, {"id": AVATAR, "url": "u", "avatar_id": AVATAR, "upload_url": "u", "status": "pending"})

Call = Callable[[AvaturnClient], Awaitable[object]]
create_user: Call = lambda c: c.create_user()  # noqa: E731
create_export: Call = lambda c: c.create_export(AVATAR)  # noqa: E731
delete_user: Call = lambda c: c.delete_user("u")  # noqa: E731
list_avatars: Call = lambda c: c.list_user_avatars("u")  # noqa: E731

NOT_IDEMPOTENT: list[Call] = [
    create_user,
    lambda c: c.new_session("u"),
    lambda c: c.new_avatar("u"),
    lambda c: c.render_user_avatar(AVATAR),
    lambda c: c.request("POST", "/api/v1/x"),
    lambda c: c.request("PATCH", "/api/v1/x"),
]


@asynccontextmanager
async def connect(
    *steps: Step, attempts: int = 3, timeout: float = 5, refuse_first: int = 0
) -> AsyncIterator[tuple[AvaturnClient, ScriptedServer]]:
    """Yield a client without pauses between attempts, and its scripted server."""
    retry = RetryPolicy(attempts=attempts, base=0)
    async with (
        serve(*steps, refuse_first=refuse_first) as server,
        AvaturnClient(TOKEN, base_url=server.url, timeout=timeout, retry=retry) as client,
    ):
        yield client, server


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, AvaturnStatusError) for status in (301, 304, 405, 418)),
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, RequestValidationError),
        (429, RateLimitError),
        *((status, ServerError) for status in (500, 502, 599)),
    ],
)
async def test_each_status_has_its_error(status: int, kind: type[AvaturnStatusError]) -> None:
    raw = b"" if status == 304 else b'{"detail": "so\\u002dso"}'
    async with connect(response(status, raw=raw, X_Request_Id="req-7"), attempts=1) as (client, _):
        with pytest.raises(AvaturnStatusError) as caught:
            await client.create_export(AVATAR)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.method, error.path) == (status, "POST", "/api/v1/exports/new")
    assert (error.request_id, error.retry_after, error.problems) == ("req-7", None, ())
    assert str(error).startswith(f"POST /api/v1/exports/new: {status}")
    assert str(error).endswith("(request req-7)")
    assert "\n" not in str(error)


async def test_422_names_each_place_in_the_words_of_the_server() -> None:
    detail = [
        {"loc": ["body", "user_id"], "msg": "field required", "type": "missing"},
        {"loc": ["body", "config", 0], "msg": "not\nallowed", "type": "x"},
    ]
    async with connect(response(422, {"detail": detail})) as (client, _):
        with pytest.raises(RequestValidationError) as caught:
            await client.create_user()
    assert caught.value.problems[0] == "body.user_id: field required"
    assert "422: body.user_id: field required; body.config.0: not" in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"null", b"[]", b"5", b"\xff", b"[" * 100_000),
        *(b'{"detail": "text"}', b'{"detail": [5]}', b'{"detail": [{"loc": 1, "msg": "x"}]}'),
    ],
)
async def test_422_of_another_shape_has_no_problems(raw: bytes) -> None:
    async with connect(response(422, raw=raw)) as (client, _):
        with pytest.raises(RequestValidationError) as caught:
            await client.create_user()
    assert caught.value.problems == ()
    assert caught.value.body == raw.decode(errors="replace")[:200]


async def test_long_body_is_cut_and_shown_on_one_line() -> None:
    async with connect(response(500, raw=b"line one\nline two " + b"x" * 1_000_000)) as (client, _):
        with pytest.raises(ServerError) as caught:
            await client.create_user()
    assert len(caught.value.body) == 200
    assert str(caught.value).startswith("POST /api/v1/users/new: 500: line one line two xxx")
    assert len(str(caught.value)) < 300


async def test_body_of_many_urls_is_searched_in_linear_time() -> None:
    async with connect(response(500, raw=b"http://" * 30_000)) as (client, _):
        begun = time.process_time()
        with pytest.raises(ServerError):
            await client.create_user()
    assert time.process_time() - begun < 5  # quadratic search: a minute


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"id": 5}', "expected str at $.id"),
    ],
)
async def test_success_of_another_shape_is_a_decode_error_that_names_the_place(raw: bytes, words: str) -> None:
    async with connect(response(200, raw=raw)) as (client, server):
        with pytest.raises(AvaturnDecodeError) as caught:
            await client.create_user()
    assert str(caught.value).startswith("POST /api/v1/users/new: ")
    assert words in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (reset, AvaturnConnectionError, "ClientOSError|ServerDisconnected"),
        (hang_up, AvaturnConnectionError, "Server disconnected"),
        (cut_body, AvaturnConnectionError, "ClientPayloadError"),
        (b"not http at all\r\n\r\n", AvaturnConnectionError, "ClientResponseError|Server"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", AvaturnConnectionError, "ClientResponseError"),
        (response(200, raw=b"not gzip", Content_Encoding="gzip"), AvaturnConnectionError, "ClientPayloadError"),
        (stall_head, AvaturnTimeoutError, "no response within 0.05 s"),
        (stall_body, AvaturnTimeoutError, "no response within 0.05 s"),
    ],
)
@pytest.mark.parametrize("call", NOT_IDEMPOTENT)
async def test_post_that_may_have_arrived_is_not_sent_again(
    step: Step, kind: type[AvaturnError], words: str, call: Call
) -> None:
    limit = 0.05 if kind is AvaturnTimeoutError else 5
    async with connect(step, timeout=limit, attempts=5) as (client, server):
        with pytest.raises(kind, match=words) as caught:
            await call(client)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    # A busy machine may have no time to read the request before the timeout.
    assert len(server.requests) in ((0, 1) if kind is AvaturnTimeoutError else (1,))


@pytest.mark.parametrize(
    "step", [reset, hang_up, cut_body, HTML_502, stall_head, stall_body, response(503), response(504)]
)
@pytest.mark.parametrize(
    ("call", "good"),
    [
        (create_export, USER),
        (list_avatars, response(200, [])),
        (delete_user, response(200)),
        (lambda c: c.request("put", "/api/v1/x", json={"a": 1}), response(202)),
    ],
)
async def test_idempotent_request_is_sent_again_unchanged(call: Call, good: bytes, step: Step) -> None:
    # Long enough for the good response on a busy machine.
    limit = 0.25 if step in (stall_head, stall_body) else 5
    async with connect(step, step, good, timeout=limit) as (client, server):
        await call(client)
    assert len({(r.method, r.target, r.body) for r in server.requests}) == 1
    # aiohttp by itself would send some of these twice.
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 500, 501])
async def test_status_that_would_come_again_is_raised_at_once(status: int) -> None:
    async with connect(response(status)) as (client, server):
        with pytest.raises(AvaturnStatusError):
            await client.list_user_avatars("u")
    assert len(server.requests) == 1


async def test_error_of_the_last_attempt_is_raised() -> None:
    async with connect(HTML_502, response(503), response(504, {"n": 3}), response(200, [])) as (client, server):
        with pytest.raises(ServerError) as caught:
            await client.list_user_avatars("u")
    assert caught.value.status == 504
    assert len(server.requests) == 3


@pytest.mark.parametrize("call", NOT_IDEMPOTENT)
async def test_any_call_is_tried_again_after_a_refused_connection(call: Call) -> None:
    began: list[object] = []
    trace = aiohttp.TraceConfig()

    async def count(*arguments: object) -> None:
        began.append(arguments)

    trace.on_request_start.append(count)
    url = f"http://127.0.0.1:{unused_port()}"
    async with AvaturnClient(TOKEN, base_url=url, retry=RetryPolicy(base=0), trace_configs=[trace]) as client:
        with pytest.raises(AvaturnConnectionError, match="Cannot connect"):
            await call(client)
    assert len(began) == 3


async def test_connection_reset_before_the_request_was_read_may_have_carried_it() -> None:
    async with connect(USER, refuse_first=9) as (client, server):
        with pytest.raises(AvaturnConnectionError):
            await client.create_user()
        assert server.connections == 1
    async with connect(USER, refuse_first=1) as (client, server):
        await client.create_export(AVATAR)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (response(429, Retry_After="0"), True),
        (response(429), True),  # the server refused it, so nothing was made
        (response(503, Retry_After="0"), True),
        (response(503), False),
    ],
)
@pytest.mark.parametrize("call", NOT_IDEMPOTENT)
async def test_post_is_sent_again_after_429_and_after_503_with_retry_after(
    call: Call, refusal: bytes, *, again: bool
) -> None:
    async with connect(refusal, USER) as (client, server):
        if again:
            await call(client)
        else:
            with pytest.raises(ServerError):
                await call(client)
        assert len(server.requests) == 1 + again


@pytest.mark.parametrize("step", [reset, cut_body, stall_head, HTML_502, response(503)])
async def test_404_for_a_repeated_delete_that_may_have_arrived_is_a_success(step: Step) -> None:
    async with connect(step, response(404), timeout=0.25 if step is stall_head else 5) as (client, server):
        await client.delete_user("u")
        assert [r.method for r in server.requests] == ["DELETE"] * 2


@pytest.mark.parametrize("steps", [[response(404)], [response(429), response(404)]])
async def test_404_for_a_delete_that_was_not_done_before_is_an_error(steps: list[bytes]) -> None:
    async with connect(*steps) as (client, _):
        with pytest.raises(NotFoundError):
            await client.delete_user("u")


async def test_timeout_of_a_call_covers_head_and_body_together() -> None:
    async with connect(stall_body, timeout=30, attempts=1) as (client, _):
        with pytest.raises(AvaturnTimeoutError, match=r"within 0\.02 s") as caught:
            await client.list_user_avatars("u", timeout=0.02)
    assert isinstance(caught.value, TimeoutError)


HIDDEN = "c0ffee-of-the-url"
ECHO = json.dumps(
    {
        "detail": f"bad token {TOKEN}",
        "url": f"https://s.example/x?k={HIDDEN}",
        "more": f"http://a:{HIDDEN}@b.example/#{HIDDEN}",
        "user": f"http://a:{HIDDEN}@b.example/",
        "name": f"https://s.example/x?name=UTF-8''a.glb&k={HIDDEN}",
        "password": f"http://a:it's-{HIDDEN}@b.example/",
    }
).encode()
LEAKY: list[Step] = [
    *(response(status, raw=ECHO, X_Request_Id=f"r-{TOKEN}") for status in (302, 400, 401, 404, 422, 429, 500)),
    response(422, {"detail": [{"loc": ["header", TOKEN], "msg": f"https://s.example/?k={HIDDEN} {TOKEN}"}]}),
    response(500, raw=b"x" * 190 + TOKEN.encode()),
    response(200, raw=ECHO.replace(b"/", b"\\/")),
    response(400, raw=ECHO.replace(b"/", b"\\/")),
    response(200, raw=TOKEN.encode()),
    reset,
    cut_body,
    stall_head,
    f"HTTP/1.1 {TOKEN}\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\nX: {TOKEN}\x00\r\n\r\n".encode(),
    response(200, raw=b"x", Content_Encoding="gzip"),
]


@pytest.mark.parametrize("step", LEAKY)
async def test_no_log_repr_or_exception_shows_the_token_or_the_secret_of_a_url(
    step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    async with connect(step, timeout=0.05 if step is stall_head else 5) as (client, _):
        for call in (create_user, create_export, delete_user, list_avatars):
            try:
                await call(client)
            except AvaturnError as error:
                shown += [get_all_text(error), get_all_text(pickled(error))]
                assert error.__context__ is None  # noqa: PT017 - delete_user() may succeed
        shown.append(repr(client))
    assert len(shown) > 1
    shown += [r.getMessage() + str(r.exc_info) for r in caplog.records]
    for text in shown:
        assert TOKEN[:8] not in text
        assert HIDDEN not in text


SLASHED = "sk-a1+b2/c3=="
SPELLINGS = [
    SLASHED,
    SLASHED.replace("/", "\\/"),
    SLASHED.replace("=", "\\u003D").replace("+", "\\u002b"),
    "sk-a1%2Bb2%2Fc3%3D%3D",
    "sk-a1%2bb2/c3%3d=",
    "sk-a1%252Bb2%252Fc3%253D%253D",
    "%73k-a1 b2/c3==",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_error_does_not_show_a_token_that_the_server_echoes_escaped_or_encoded(spelling: str) -> None:
    raw = b"x" * 160 + f" token {spelling} and {spelling}{spelling}".encode()
    async with serve(response(401, raw=raw)) as server, AvaturnClient(SLASHED, base_url=server.url) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.create_user()
    assert caught.value.body == "x" * 160 + " token [token] and [token][token]"
    assert "b2" not in get_all_text(caught.value)


async def test_token_is_removed_from_the_problem_of_a_decode_error_before_it_is_cut() -> None:
    async with connect(response(200, {"metadata": {"x" * 170 + TOKEN: 5}})) as (client, _):
        with pytest.raises(AvaturnDecodeError) as caught:
            await client.get_customization(AVATAR)
    assert caught.value.problems == ("expected str at $.metadata." + "x" * 170 + "[to",)
    assert TOKEN[:2] + "k-" not in get_all_text(caught.value)


async def test_problem_of_a_decode_error_does_not_show_the_token() -> None:
    async with connect(response(200, {"metadata": {TOKEN: 5}})) as (client, _):
        with pytest.raises(AvaturnDecodeError) as caught:
            await client.get_customization(AVATAR)
    assert caught.value.problems == ("expected str at $.metadata.[token]",)
    assert TOKEN not in get_all_text(caught.value)
