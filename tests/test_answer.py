"""An answer is what aiohttp would send, byte for byte, whoever has a say in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.test_utils import TestServer, make_mocked_request

from avaturn_async.webhooks._answer import Answer, Heads

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
            heads = []
            for request in requests:
                writer.write(request.encode())
                heads.append(DATE.sub("Date: now", (await reader.readuntil(b"\r\n\r\n")).decode()))
            writer.close()
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
    # What aiohttp put together has its headers.
    assert ["Date" in answer.headers for answer in given] == [True, False, True, False, True]


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
    seen: list[tuple[int, int, bool]] = []

    class Log(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:  # noqa: ARG002
            seen.append((response.status, response.body_length, response.prepared))

    made = timed(Clock())
    async with served(lambda: made(status=200), access_log_class=Log) as ask:
        await ask(POST, POST)
    assert seen[0] == seen[1]
    assert seen[0][0] == 200
    assert seen[0][1] > 100
    assert seen[0][2]


async def test_it_is_sent_once_and_waits_for_a_sender_that_does_not_read() -> None:
    made = timed(Clock())
    first = made(status=200)
    await first.prepare(make_mocked_request("POST", "/", app=web.Application()))
    writer = AsyncMock()
    request = make_mocked_request("POST", "/", app=web.Application(), writer=writer)
    answer = made(status=200)
    assert not answer.prepared
    assert answer.keep_alive is None
    for _ in range(2):
        await answer.prepare(request)
        await answer.write_eof()
    # write_eof() of a writer waits until there is room for more.
    [[head]] = [call.args for call in writer.write_eof.await_args_list]
    writer.write_headers.assert_not_awaited()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.prepared
    assert answer.keep_alive
    assert answer.body_length == len(head)


async def test_it_does_without_an_app() -> None:
    made = timed(Clock())

    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return made(status=200)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    for _ in range(2):
        writer.write(POST.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await runner.cleanup()
