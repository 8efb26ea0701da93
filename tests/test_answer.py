"""An answer is what aiohttp would send, byte for byte, whoever has a say in it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.test_utils import TestServer, make_mocked_request

from avaturn_async.webhooks import _answer
from avaturn_async.webhooks._answer import Answer, Heads, is_watched

POST = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
DATE = re.compile(r"Date: [^\r]+")


class Clock:
    """Says when it is; a test sets it."""

    now = 1_000.9

    def __call__(self) -> float:
        return self.now


def timed(clock: Callable[[], float]) -> type[Answer]:
    """Answers that know nothing of those of other tests."""

    class Timed(Answer):
        heads = Heads(clock=clock)

    return Timed


@asynccontextmanager
async def served(
    make: Callable[[], web.StreamResponse], *, middlewares: Any = (), signal: Any = None, **options: Any
) -> AsyncIterator[Callable[..., Any]]:
    """What gives the heads of all answers on a connection of their own, but for the date."""

    async def handle(_: web.Request) -> web.StreamResponse:
        return make()

    app = web.Application(middlewares=middlewares)
    app.router.add_route("*", "/", handle)
    if signal is not None:
        app.on_response_prepare.append(signal)
    server = TestServer(app)
    await server.start_server(**options)
    async with server:

        async def ask(*requests: str) -> list[str]:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            with contextlib.closing(writer):
                heads = []
                for request in requests:
                    writer.write(request.encode())
                    heads.append(DATE.sub("Date: now", (await reader.readuntil(b"\r\n\r\n")).decode()))
                return heads

        yield ask


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 415])
async def test_the_first_and_the_next_of_a_second_are_those_of_aiohttp(status: int) -> None:
    made = timed(Clock())
    async with (
        served(lambda: made(status=status)) as ask,
        served(lambda: web.Response(status=status)) as plain,
    ):
        assert await ask(POST, POST, POST) == await plain(POST, POST, POST)


async def test_it_is_put_together_anew_in_another_second() -> None:
    clock = Clock()
    made, given = timed(clock), list[Answer]()

    def answer() -> Answer:
        given.append(made(status=200))
        return given[-1]

    async with served(answer) as ask:
        for now in (1_000.9, 1_000.95, 1_001.0, 1_001.1, 1_000.9):
            clock.now = now
            await ask(POST)
    # What aiohttp put together has no head of ours.
    assert [bool(answer._head) for answer in given] == [False, True, False, True, False]


@web.middleware
async def adds_a_header(request: web.Request, handler: Any) -> Any:
    response = await handler(request)
    response.headers["X-Trace"] = "7"
    return response


@web.middleware
async def sets_a_cookie(request: web.Request, handler: Any) -> Any:
    response = await handler(request)
    response.set_cookie("a", "b")
    return response


@web.middleware
async def accepts_only(request: web.Request, handler: Any) -> Any:
    response = await handler(request)
    response.set_status(202, "Taken")
    return response


@web.middleware
async def speaks(request: web.Request, handler: Any) -> Any:
    response = await handler(request)
    response.body = b"hello"
    return response


@web.middleware
async def packs(request: web.Request, handler: Any) -> Any:
    response = await handler(request)
    response.enable_chunked_encoding()
    return response


@web.middleware
async def closes(request: web.Request, handler: Any) -> Any:
    response = await handler(request)
    response.force_close()
    return response


@pytest.mark.parametrize(
    ("middleware", "shows"),
    [
        (adds_a_header, "X-Trace: 7"),
        (sets_a_cookie, "Set-Cookie: a=b"),
        (accepts_only, "HTTP/1.1 202 Taken"),
        (speaks, "Content-Length: 5"),
        (packs, "Transfer-Encoding: chunked"),
        (closes, "Connection: close"),
    ],
)
async def test_what_a_middleware_does_to_it_has_its_effect(middleware: Any, shows: str) -> None:
    made, plain = timed(Clock()), web.Response
    async with served(lambda: made(status=200)) as ask:
        await ask(POST, POST)
    for kind in (made, plain):
        async with served(lambda: kind(status=200), middlewares=[middleware]) as ask:  # noqa: B023 - called at once
            for _ in range(2):
                [head] = await ask(POST)
                assert shows in head


async def test_a_signal_of_the_app_or_of_one_around_it_has_its_effect() -> None:
    async def adds(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Signal"] = "yes"

    made = timed(Clock())
    async with served(lambda: made(status=200)) as ask:
        await ask(POST, POST)
    async with served(lambda: made(status=200), signal=adds) as ask:
        for head in await ask(POST, POST):
            assert "X-Signal: yes" in head


@pytest.mark.parametrize(
    "request_",
    [
        POST.replace("HTTP/1.1", "HTTP/1.0"),
        POST.replace("HTTP/1.1", "HTTP/1.0").replace("Host: x", "Connection: keep-alive"),
        POST.replace("Host: x", "Host: x\r\nConnection: close"),
        POST.replace("POST", "HEAD"),
        POST.replace("POST", "GET"),
    ],
    ids=["1.0", "1.0, kept alive", "closed", "HEAD", "GET"],
)
async def test_another_kind_of_request_gets_what_aiohttp_answers_to_it(request_: str) -> None:
    made = timed(Clock())
    async with served(lambda: made(status=200)) as ask, served(lambda: web.Response(status=200)) as plain:
        await ask(POST, POST)
        assert [await ask(request_) for _ in range(2)] == [await plain(request_) for _ in range(2)]
        # And spoils nothing for those that come after it.
        assert await ask(POST, POST) == await plain(POST, POST)


async def test_the_access_log_sees_what_it_always_sees() -> None:
    seen: list[Any] = []

    class Log(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:  # noqa: ARG002
            headers = [name for name, value in response.headers.items() if value]
            seen.append((response.status, response.body_length, response.prepared, headers, repr(response)))

    made = timed(Clock())
    async with served(lambda: made(status=200), access_log_class=Log) as ask:
        await ask(POST, POST)
    assert seen[0] == seen[1]
    [status, length, prepared, headers, shown] = seen[0]
    assert (status, prepared, shown) == (200, True, "<Timed OK eof>")
    assert length > 100
    assert headers == ["Content-Length", "Date", "Server"]


async def test_a_middleware_may_send_it_itself_and_then_end_the_connection() -> None:
    @web.middleware
    async def sends(request: web.Request, handler: Any) -> Any:
        response = await handler(request)
        await response.prepare(request)
        await response.write(b"")
        await response.write_eof()
        response.force_close()
        return response

    clock = Clock()
    made = timed(clock)
    async with served(lambda: made(status=200)) as ask:
        await ask(POST)
    async with served(lambda: made(status=200), middlewares=[sends]) as ask:
        # As one of this second, and as the first of the next.
        for clock.now in (1_000.95, 1_001.0):
            assert await ask(POST)
            with pytest.raises(asyncio.IncompleteReadError):
                await ask(POST, POST)


def asked_by(writer: Any) -> web.Request:
    return make_mocked_request("POST", "/", app=web.Application(), writer=writer)


async def test_it_is_sent_once_and_waits_for_a_sender_that_does_not_read() -> None:
    made = timed(Clock())
    await made(status=200).prepare(asked_by(AsyncMock()))
    writer = AsyncMock(output_size=111)
    answer = made(status=200)
    assert not answer.prepared
    assert answer.keep_alive is None
    for _ in range(2):
        await answer.prepare(asked_by(writer))
        await answer.write(b"too much")
        await answer.write_eof()
    # write_eof() of a writer waits until there is room for more.
    [[head]] = [call.args for call in writer.write_eof.await_args_list]
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    writer.write_headers.assert_not_awaited()
    writer.write.assert_not_awaited()
    assert answer.prepared
    assert answer.keep_alive
    assert answer.body_length == 111


async def test_one_that_nobody_was_there_for_was_not_sent() -> None:
    made = timed(Clock())
    await made(status=200).prepare(asked_by(AsyncMock()))
    answer = made(status=200)
    await answer.prepare(asked_by(AsyncMock(write_eof=AsyncMock(side_effect=ConnectionResetError))))
    with pytest.raises(ConnectionResetError):
        await answer.write_eof()
    assert answer.body_length == 0


async def test_an_agent_that_wraps_prepare_sees_each_and_adds_to_each_what_it_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, own, numbers = timed(Clock()), web.Response.prepare, itertools.count()

    async def watch(self: web.Response, request: web.BaseRequest) -> Any:
        self.headers["X-Agent"] = str(next(numbers))
        return await own(self, request)

    async with served(lambda: made(status=200)) as ask:
        await ask(POST)
        monkeypatch.setattr(web.Response, "prepare", watch)
        assert [re.findall("X-Agent: (.)", head) for head in await ask(POST, POST)] == [["0"], ["1"]]
    monkeypatch.undo()
    # One that was there before us has wrapped what we saw first.
    monkeypatch.setattr(_answer, "_IS_WATCHED", is_watched(watch))
    answers = [made(status=200) for _ in range(2)]
    for answer in answers:
        await answer.prepare(asked_by(AsyncMock()))
        assert not answer._head
    assert is_watched(watch)
    assert is_watched(functools.wraps(own)(watch))
    assert not is_watched(own)


async def test_what_is_added_on_the_way_is_not_given_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    made, own = timed(Clock()), web.Response._start

    async def start(self: web.Response, request: web.BaseRequest) -> Any:
        self.headers["X-Of-This-One"] = "yes"
        return await own(self, request)

    async with served(lambda: made(status=200)) as ask:
        monkeypatch.setattr(web.Response, "_start", start)
        await ask(POST)
        monkeypatch.setattr(web.Response, "_start", own)
        for head in await ask(POST, POST):
            assert "X-Of-This-One" not in head


def request_of_an_app(*parts: Any) -> web.Request:
    make: Callable[..., web.Request] = web.Request
    return make(*parts, asyncio.get_running_loop())


@pytest.mark.parametrize("factory", [None, request_of_an_app])
async def test_it_does_without_an_app(factory: Any) -> None:
    made = timed(Clock())

    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return made(status=200)

    runner = web.ServerRunner(web.Server(handle, request_factory=factory))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    for _ in range(2):
        writer.write(POST.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await runner.cleanup()
