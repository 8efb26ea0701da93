"""What a bad network and a bad server turn into, and what is sent again."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses
from attrs import define, field
from conftest import pickled
from scripted_server import (
    ScriptedServer,
    Step,
    answer,
    cut_body,
    hang_up,
    reset,
    serve,
    stall_body,
    stall_head,
    unused_port,
)

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
from avaturn_async._transport import Transport

TOKEN = "tok-a1b2c3d4e5f6"
NOW = 1_700_000_000.0
AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
USER = {"id": "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF"}
EXPORT = {"status": "pending", "url": None}
HTML_502 = answer(502, raw=b"<html><h1>Bad Gateway</h1></html>", Content_Type="text/html")


@define
class Rig:
    """A client whose clock, dice and sleep belong to the test."""

    client: AvaturnClient
    server: ScriptedServer
    slept: list[float] = field(factory=list[float])


@asynccontextmanager
async def rig(
    *steps: Step, retry: RetryPolicy | None = None, timeout: float = 5, refuse_first: int = 0
) -> AsyncIterator[Rig]:
    async with serve(*steps, refuse_first=refuse_first) as server:
        client = AvaturnClient(TOKEN, base_url=server.url)
        made = Rig(client, server)

        async def sleep(delay: float) -> None:
            made.slept.append(delay)

        client._transport = Transport(
            TOKEN,
            base_url=client._transport.base_url,
            timeout=timeout,
            retry=retry or RetryPolicy(),
            sleep=sleep,
            random=lambda: 0.5,
            clock=lambda: NOW,
        )
        async with client:
            yield made


def create_user(client: AvaturnClient) -> Awaitable[object]:
    return client.create_user()


def create_export(client: AvaturnClient) -> Awaitable[object]:
    return client.create_export(AVATAR)


def delete_user(client: AvaturnClient) -> Awaitable[object]:
    return client.delete_user("u")


def list_avatars(client: AvaturnClient) -> Awaitable[object]:
    return client.list_user_avatars("u")


def set_customization(client: AvaturnClient) -> Awaitable[object]:
    return client.request("PUT", "/api/v1/x", json={"a": 1})


MAKES_SOMETHING_NEW: list[Callable[[AvaturnClient], Awaitable[object]]] = [
    create_user,
    lambda c: c.new_session("u"),
    lambda c: c.new_avatar("u"),
    lambda c: c.render_user_avatar(AVATAR),
    lambda c: c.request("POST", "/api/v1/x"),
    lambda c: c.request("PATCH", "/api/v1/x"),
]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, AvaturnStatusError),
        (304, AvaturnStatusError),
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, AvaturnStatusError),
        (409, ConflictError),
        (410, GoneError),
        (418, AvaturnStatusError),
        (422, RequestValidationError),
        (429, RateLimitError),
        (500, ServerError),
        (502, ServerError),
        (599, ServerError),
    ],
)
async def test_each_status_is_its_own_error(status: int, kind: type[AvaturnStatusError]) -> None:
    reply = answer(status, raw=b"" if status == 304 else b'{"detail": "so\\u002dso"}', X_Request_Id="req-7")
    async with rig(reply, retry=RetryPolicy(attempts=1)) as made:
        with pytest.raises(AvaturnStatusError) as caught:
            await made.client.create_export(AVATAR)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.method, error.path) == (status, "POST", "/api/v1/exports/new")
    assert (error.request_id, error.retry_after, error.problems) == ("req-7", None, ())
    assert str(error).startswith(f"POST /api/v1/exports/new: {status}")
    assert "\n" not in str(error)
    assert str(error).endswith("(request req-7)")
    copy = pickled(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


async def test_a_422_names_each_place_in_the_servers_words() -> None:
    detail = [
        {"loc": ["body", "user_id"], "msg": "field required", "type": "missing"},
        {"loc": ["body", "config", 0], "msg": "not\nallowed", "type": "x"},
    ]
    async with rig(answer(422, {"detail": detail})) as made:
        with pytest.raises(RequestValidationError) as caught:
            await made.client.create_user()
    assert caught.value.problems[0] == "body.user_id: field required"
    assert "422: body.user_id: field required; body.config.0: not" in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b'{"detail": "text"}',
        b'{"detail": [5]}',
        b'{"detail": [{"loc": 1, "msg": "x"}]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_a_422_of_another_shape_is_still_a_422(raw: bytes) -> None:
    async with rig(answer(422, raw=raw)) as made:
        with pytest.raises(RequestValidationError) as caught:
            await made.client.create_user()
    assert caught.value.problems == ()
    assert len(caught.value.body) <= 200
    assert caught.value.body == raw.decode(errors="replace")[:200]


async def test_a_long_or_chatty_body_is_cut_and_made_one_line() -> None:
    async with rig(answer(500, raw=b"line one\nline two " + b"x" * 1_000_000)) as made:
        with pytest.raises(ServerError) as caught:
            await made.client.create_user()
    assert len(caught.value.body) == 200
    assert str(caught.value).startswith("POST /api/v1/users/new: 500: line one line two xxx")
    assert len(str(caught.value)) < 300


async def test_a_long_row_of_urls_without_a_query_is_looked_through_once() -> None:
    async with rig(answer(500, raw=b"http://" * 30_000)) as made:
        begun = time.process_time()
        with pytest.raises(ServerError):
            await made.client.create_user()
    assert time.process_time() - begun < 5  # a search from each of them to the end would take a minute


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer(200, raw=b"<html>"), "not JSON"),
        (answer(200, raw=b""), "not JSON"),
        (answer(200, raw=b"\xff\xfe"), "not JSON"),
        (answer(200, raw=b'{"id": NaN}'), "not JSON"),
        (answer(200, raw=b"[" * 200_000), "nested too deeply"),
        (answer(200, None), "expected object at $"),
        (answer(200, []), "expected object at $"),
        (answer(200, {}), "missing $.id"),
        (answer(200, {"id": None}), "expected str at $.id"),
        (answer(200, {"id": 5}), "expected str at $.id"),
    ],
)
async def test_an_answer_of_another_shape_is_a_decode_error_that_names_the_place(
    reply: bytes, said: str
) -> None:
    async with rig(reply) as made:
        with pytest.raises(AvaturnDecodeError) as caught:
            await made.client.create_user()
    assert str(caught.value).startswith("POST /api/v1/users/new: ")
    assert said in str(caught.value)
    assert str(pickled(caught.value)) == str(caught.value)
    assert len(made.server.requests) == 1


@pytest.mark.parametrize(
    ("step", "kind", "said"),
    [
        (reset, AvaturnConnectionError, "ClientOSError|ServerDisconnected"),
        (hang_up, AvaturnConnectionError, "Server disconnected"),
        (cut_body, AvaturnConnectionError, "ClientPayloadError"),
        (b"not http at all\r\n\r\n", AvaturnConnectionError, "ClientResponseError|Server"),
        (answer(200, raw=b"not gzip", Content_Encoding="gzip"), AvaturnConnectionError, "ClientPayloadError"),
        (stall_head, AvaturnTimeoutError, "no answer within 0.05 s"),
        (stall_body, AvaturnTimeoutError, "no answer within 0.05 s"),
    ],
)
@pytest.mark.parametrize("call", MAKES_SOMETHING_NEW)
async def test_a_post_that_may_have_arrived_is_never_sent_again(
    step: Step, kind: type[AvaturnError], said: str, call: Callable[[AvaturnClient], Awaitable[object]]
) -> None:
    limit = 0.05 if kind is AvaturnTimeoutError else 5
    async with rig(step, timeout=limit, retry=RetryPolicy(attempts=5)) as made:
        with pytest.raises(kind, match=said) as caught:
            await call(made.client)
    assert type(caught.value) is kind
    assert isinstance(caught.value, TimeoutError) == (kind is AvaturnTimeoutError)
    assert str(pickled(caught.value)) == str(caught.value)
    assert len(made.server.requests) == 1
    assert made.slept == []


@pytest.mark.parametrize(
    "step",
    [reset, hang_up, cut_body, HTML_502, stall_head, stall_body, answer(503), answer(504), answer(429)],
)
@pytest.mark.parametrize(
    ("call", "good"),
    [
        (create_export, answer(200, EXPORT)),
        (list_avatars, answer(200, [])),
        (delete_user, answer(200)),
        (set_customization, answer(202)),
    ],
)
async def test_what_can_be_repeated_is_sent_again_with_backoff(
    call: Callable[[AvaturnClient], Awaitable[object]], good: bytes, step: Step
) -> None:
    # Long enough for the answer that is good, on a busy machine too.
    limit = 0.25 if step in (stall_head, stall_body) else 5
    async with rig(step, step, good, timeout=limit) as made:
        await call(made.client)
    assert len({(r.method, r.target, r.body) for r in made.server.requests}) == 1
    # aiohttp alone would send some of these twice by itself.
    assert len(made.server.requests) == 3
    assert made.slept == [0.25, 0.5]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 500, 501])
async def test_what_would_fail_again_is_not_repeated(status: int) -> None:
    async with rig(answer(status)) as made:
        with pytest.raises(AvaturnStatusError):
            await made.client.list_user_avatars("u")
    assert len(made.server.requests) == 1


async def test_attempts_are_counted_and_the_last_error_is_raised() -> None:
    async with rig(HTML_502, answer(503), answer(504, {"n": 3}), answer(200, [])) as made:
        with pytest.raises(ServerError) as caught:
            await made.client.list_user_avatars("u")
    assert caught.value.status == 504
    assert len(made.server.requests) == 3


@pytest.mark.parametrize("call", MAKES_SOMETHING_NEW)
async def test_a_refused_connection_is_tried_again_whatever_the_call(
    call: Callable[[AvaturnClient], Awaitable[object]],
) -> None:
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    client = AvaturnClient(TOKEN, base_url=f"http://127.0.0.1:{unused_port()}")
    client._transport._sleep = sleep
    async with client:
        with pytest.raises(AvaturnConnectionError, match="Cannot connect"):
            await call(client)
    assert len(slept) == 2


async def test_a_connection_that_is_reset_before_the_request_was_read_may_have_carried_it() -> None:
    async with rig(answer(200, USER), refuse_first=9) as made:
        with pytest.raises(AvaturnConnectionError):
            await made.client.create_user()
        assert made.server.connections == 1
    async with rig(answer(200, EXPORT), refuse_first=1) as made:
        await made.client.create_export(AVATAR)
    assert len(made.server.requests) == 1


@pytest.mark.parametrize("call", MAKES_SOMETHING_NEW)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_post_is_sent_again_when_the_server_says_when(
    call: Callable[[AvaturnClient], Awaitable[object]], status: int
) -> None:
    # With one object for all, the last call of the list wants no more than JSON.
    good = answer(
        200, {"id": AVATAR, "url": "u", "avatar_id": AVATAR, "upload_url": "u", "status": "pending"}
    )
    async with rig(answer(status, Retry_After="2"), good) as made:
        await call(made.client)
    assert made.slept == [2.0]
    async with rig(answer(status), good) as made:
        with pytest.raises(AvaturnStatusError):
            await call(made.client)
    assert len(made.server.requests) == 1


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("header", "slept"),
    [
        ("0", [0.0]),
        ("3", [3.0]),
        ("1.5", [1.5]),
        (" 2 ", [2.0]),
        (http_date(4), [4.0]),
        (http_date(-100), [0.0]),
        ("-5", [0.25]),
        ("NaN", [0.25]),
        ("inf", [0.25]),
        ("soon", [0.25]),
        ("9" * 5000, [0.25]),
        ("\u0661".encode().decode("latin-1"), [0.25]),
        ("Wed, 99 Nov 2026 00:00:00 GMT", [0.25]),
    ],
)
async def test_retry_after_is_respected_when_it_makes_sense(header: str, slept: list[float]) -> None:
    async with rig(answer(429, Retry_After=header), answer(200, [])) as made:
        await made.client.list_user_avatars("u")
    assert made.slept == slept


@pytest.mark.parametrize(
    ("header", "seconds"), [("9", 9), ("31536000", 31_536_000), (http_date(31_536_000), 31_536_000)]
)
async def test_a_retry_after_beyond_the_cap_is_raised_at_once(header: str, seconds: float) -> None:
    async with rig(answer(429, Retry_After=header)) as made:
        with pytest.raises(RateLimitError, match=r"retry after \S+ s") as caught:
            await made.client.list_user_avatars("u")
    assert caught.value.retry_after == seconds
    assert made.slept == []


async def test_the_budget_ends_the_waiting() -> None:
    policy = RetryPolicy(attempts=10, budget=5)
    async with rig(answer(503, Retry_After="2"), retry=policy) as made:
        with pytest.raises(ServerError):
            await made.client.list_user_avatars("u")
    assert made.slept == [2.0, 2.0]


@pytest.mark.parametrize("step", [reset, cut_body, stall_head, HTML_502, answer(503)])
async def test_a_repeated_delete_takes_404_for_success_when_an_earlier_one_may_have_arrived(
    step: Step,
) -> None:
    limit = 0.25 if step is stall_head else 5
    async with rig(step, answer(404), timeout=limit) as made:
        await made.client.delete_user("u")
    assert made.server.requests[-1].method == "DELETE"


async def test_a_404_for_a_delete_that_was_never_done_is_an_error() -> None:
    async with rig(answer(404)) as made:
        with pytest.raises(NotFoundError):
            await made.client.delete_user("u")
    async with rig(answer(429), answer(404)) as made:
        with pytest.raises(NotFoundError):
            await made.client.delete_user("u")


async def test_a_deadline_covers_head_and_body_together() -> None:
    async with rig(stall_body, timeout=30, retry=RetryPolicy(attempts=1)) as made:
        with pytest.raises(AvaturnTimeoutError, match=r"within 0\.02 s"):
            await made.client.list_user_avatars("u", timeout=0.02)


async def test_a_wrong_certificate_is_not_tried_again() -> None:
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    key: Any = _Key()
    error = aiohttp.ClientConnectorCertificateError(key, Exception("self-signed"))
    client = AvaturnClient(TOKEN)
    client._transport._sleep = sleep
    async with client:
        with aioresponses() as mocked:
            mocked.post("https://api.avaturn.me/api/v1/users/new", exception=error)
            with pytest.raises(AvaturnConnectionError, match="self-signed"):
                await client.create_user()
    assert slept == []


class _Key:
    host, port, is_ssl, ssl = "api.avaturn.me", 443, True, True


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [(200, {}, None), (401, {}, AuthenticationError), (503, {"Retry-After": "99"}, ServerError)],
)
async def test_the_default_address_is_the_vendors(
    status: int, headers: dict[str, str], kind: type[AvaturnError] | None
) -> None:
    async with AvaturnClient(TOKEN) as client:
        with aioresponses() as mocked:
            mocked.post(
                "https://api.avaturn.me/api/v1/users/new", status=status, payload=USER, headers=headers
            )
            with pytest.raises(kind) if kind else contextlib.nullcontext():
                await client.create_user()


def everything(error: BaseException) -> str:
    """All that a log or a crash reporter could show of an exception."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    texts = [f"{e} {e!r} {e.args!r} {vars(e)!r}" for e in chain]
    return "\n".join([*texts, *traceback.format_exception(error)])


HIDDEN = "c0ffee-of-the-url"
ECHO = json.dumps(
    {
        "detail": f"bad token {TOKEN}",
        "url": f"https://s.example/x?k={HIDDEN}",
        "more": f"http://a:{HIDDEN}@b.example/#{HIDDEN}",
        "user": f"http://a:{HIDDEN}@b.example/",
    }
).encode()
LEAKY: list[Step] = [
    *(answer(status, raw=ECHO, X_Request_Id=f"r-{TOKEN}") for status in (302, 400, 401, 404, 422, 429, 500)),
    answer(422, {"detail": [{"loc": ["header", TOKEN], "msg": f"https://s.example/?k={HIDDEN} {TOKEN}"}]}),
    answer(500, raw=b"x" * 190 + TOKEN.encode()),
    answer(200, raw=ECHO.replace(b"/", b"\\/")),
    answer(400, raw=ECHO.replace(b"/", b"\\/")),
    answer(200, raw=TOKEN.encode()),
    reset,
    cut_body,
    stall_head,
    f"HTTP/1.1 {TOKEN}\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\nX: {TOKEN}\x00\r\n\r\n".encode(),
    answer(200, raw=b"x", Content_Encoding="gzip"),
]


@pytest.mark.parametrize("step", LEAKY)
async def test_no_log_no_repr_and_no_exception_shows_the_token_or_the_secret_of_a_url(
    step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    limit = 0.05 if step is stall_head else 5
    shown: list[str] = []
    chained: list[object] = []
    async with rig(step, timeout=limit) as made:
        for call in (create_user, create_export, delete_user, list_avatars):
            try:
                await call(made.client)
            except AvaturnError as error:
                shown += [everything(error), everything(pickled(error))]
                chained.append(error.__context__)
        shown.append(repr(made.client))
    shown += [r.getMessage() + str(r.exc_info) for r in caplog.records]
    assert shown
    assert set(chained) <= {None}
    for text in shown:
        assert TOKEN not in text
        assert TOKEN[:8] not in text
        assert HIDDEN not in text


async def test_a_key_that_is_the_token_is_not_named_among_the_wrong_places() -> None:
    async with rig(answer(200, {"metadata": {TOKEN: 5}})) as made:
        with pytest.raises(AvaturnDecodeError) as caught:
            await made.client.get_customization(AVATAR)
    assert caught.value.problems == ("expected str at $.metadata.[token]",)
    assert TOKEN not in everything(caught.value)


async def test_a_response_that_is_a_giant_header_is_an_error_of_ours() -> None:
    async with rig(
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", retry=RetryPolicy(attempts=1)
    ) as made:
        with pytest.raises(AvaturnConnectionError):
            await made.client.create_user()
