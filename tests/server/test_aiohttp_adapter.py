"""The receiver as an aiohttp handler: bytes over a socket of this process, and what a server does at its end.

The long table of hostile requests is test_receiver_hostile.py.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from aiohttp import ClientSession, StreamReader, web
from aiohttp.test_utils import TestServer, make_mocked_request
from fastapi import FastAPI

from avaturn_async.webhooks import (
    AvatarReady,
    HmacSha256,
    MemoryStore,
    RouterClosedError,
    SessionRouter,
    SharedSecret,
    WebhookReceiver,
    WebhookReply,
    WebhookRequest,
)

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
BODY = b'{"event": "avatar.ready", "avatar_id": "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"}'
SIGNATURE = HmacSha256("hush-0123456789abcdef", header="X-Signature")
SIGNED = {**SIGNATURE.sign(BODY), "Content-Type": "application/json"}
SHORT = 0.02


@pytest.fixture(autouse=True)
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.aiohttp_adapter.DRAIN_SECONDS", SHORT)


def receiver(store: MemoryStore | None = None, **options: Any) -> WebhookReceiver:
    return WebhookReceiver(SessionRouter(store), verifier=SIGNATURE, **options)


def test_app_of_another_framework_is_refused() -> None:
    app: Any = FastAPI()
    with pytest.raises(
        TypeError, match=r"must be an aiohttp\.web\.Application, not FastAPI: for ASGI, mount receiver\.asgi"
    ):
        receiver().add_to(app, "/hook")


@asynccontextmanager
async def served(made: WebhookReceiver, *, middlewares: Any = (), **options: Any) -> AsyncIterator[web.AppRunner]:
    """Mounted in an app that listens on loopback, as ``web.run_app`` does it."""
    app = web.Application(middlewares=middlewares)
    made.add_to(app, "/hook")
    runner = web.AppRunner(app, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner
    await runner.cleanup()


def url(server: web.AppRunner) -> str:
    return f"http://127.0.0.1:{server.addresses[0][1]}/hook"


def head(*headers: str, method: str = "POST") -> bytes:
    signed = [f"{k}: {v}" for k, v in SIGNED.items()]
    return "\r\n".join([f"{method} /hook HTTP/1.1", "Host: x", *signed, *headers, "", ""]).encode()


class Wire:
    """A connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *parts: bytes) -> str:
        """Send, and give the head of the answer."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def ends(self) -> bool:
        """Whether the server closes the connection, without another byte."""
        return await self.reader.read() == b""


@asynccontextmanager
async def wire(server: web.AppRunner) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    yield Wire(reader, writer)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_good_one_is_a_200_and_the_connection_lives_on() -> None:
    made = receiver()
    async with served(made) as server, wire(server) as line:
        for _ in range(2):
            answer = await line.ask(head(f"Content-Length: {len(BODY)}"), BODY)
            assert answer.startswith("HTTP/1.1 200 ")
        assert (made.outcomes["stored"], made.outcomes["duplicate"]) == (1, 1)


async def test_a_subclass_that_overrides_the_handler_is_asked() -> None:
    asked: list[str] = []

    class Own(WebhookReceiver):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            asked.append(request.method)
            return await super().handle(request)

        async def expect(self, request: web.Request) -> web.StreamResponse | None:
            asked.append(request.headers["Expect"])
            return await super().expect(request)

    made = Own(SessionRouter(), verifier=SIGNATURE)
    async with served(made) as server, wire(server) as line:
        assert "100" in await line.ask(head(f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        assert " 200 " in await line.ask(BODY)
    assert asked == ["100-continue", "POST"]


async def test_a_verifier_sees_what_it_would_see_in_any_framework() -> None:
    seen: list[WebhookRequest] = []
    verifier = Mock(HmacSha256, verify=seen.append)
    made = WebhookReceiver(SessionRouter(), verifier=verifier)
    async with served(made) as server, wire(server) as line:
        request = head(f"Content-Length: {len(BODY)}").replace(b"/hook", b"/hook?a=b")
        await line.ask(request, BODY)
    [given] = seen
    like = WebhookRequest(method="POST", headers=tuple(given.headers), body=BODY, query="a=b", peer="127.0.0.1")
    assert given == like
    kinds = [type(given.method), type(given.headers), type(given.body), type(given.query), type(given.peer)]
    assert kinds == [str, tuple, bytes, str, str]
    assert given.values(b"HOST") == [b"x"]


@pytest.mark.parametrize("headers", ["Content-Length: 500", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_a_408_and_the_end_of_the_connection(headers: str) -> None:
    made = receiver(read_timeout=SHORT)
    async with served(made, lingering_time=SHORT) as server, wire(server) as line:
        answer = await line.ask(head(headers))
        assert answer.startswith("HTTP/1.1 408 ")
        assert "connection: close" in answer.lower()
        assert await line.ends()


@pytest.mark.parametrize(
    ("headers", "body"),
    [("Content-Length: 101", b""), ("Transfer-Encoding: chunked", b"65\r\n" + b"x" * 101 + b"\r\n")],
)
@pytest.mark.parametrize("together", [False, True])
async def test_a_body_that_is_too_large_is_a_413_by_its_head_or_as_soon_as_it_is_seen(
    headers: str, body: bytes, *, together: bool
) -> None:
    made = receiver(max_body=100)
    async with served(made, lingering_time=SHORT) as server, wire(server) as line:
        if together:
            answer = await line.ask(head(headers) + body + b"0\r\n\r\n")
        else:
            answer = await line.ask(head(headers), body)
        assert answer.startswith("HTTP/1.1 413 ")
        assert await line.ends()


async def test_a_connection_whose_reply_says_close_is_closed_also_when_the_body_was_there() -> None:
    made = receiver()
    async with served(made) as server, wire(server) as line:
        answer = await line.ask(head("Content-Encoding: gzip, gzip", "Content-Length: 3") + b"abc")
        assert answer.startswith("HTTP/1.1 415 ")
        assert await line.ends()


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", "Content-Length: 50", 415),
        ("POST", "Transfer-Encoding: chunked", 415),
        ("POST", "Content-Length: 99999999", 413),
        ("PUT", "Content-Length: 50", 405),
    ],
)
async def test_a_body_that_lies_about_its_encoding_is_never_decoded(
    method: str, headers: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    made = receiver()
    async with served(made) as server, wire(server) as line:
        answer = await line.ask(head("Content-Encoding: gzip", headers, method=method), b"1\r\nx")
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert await line.ends()
    assert "Traceback" not in caplog.text


async def test_not_even_an_honest_encoding_is_decoded_to_keep_a_connection() -> None:
    made = receiver()
    whole = gzip.compress(b"x" * 99)
    async with served(made) as server, wire(server) as line:
        refused = head("Content-Encoding: gzip", f"Content-Length: {len(whole)}", method="PUT")
        assert (await line.ask(refused, whole[:9])).startswith("HTTP/1.1 405 ")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await line.ask(whole[9:], head("Content-Length: 0", method="PUT"))


async def test_the_rest_of_a_refused_body_is_read_so_that_the_connection_can_live_on() -> None:
    made = receiver()
    async with served(made) as server, wire(server) as line:
        answer = await line.ask(head("Content-Length: 9", method="PUT"))
        assert answer.startswith("HTTP/1.1 405 ")
        answer = await line.ask(b"x" * 9, head(f"Content-Length: {len(BODY)}"), BODY)
        assert answer.startswith("HTTP/1.1 200 ")


async def test_the_rest_of_a_refused_body_that_does_not_come_ends_the_connection() -> None:
    made = receiver()
    async with served(made, lingering_time=SHORT) as server, wire(server) as line:
        assert (await line.ask(head("Content-Length: 9", method="PUT"))).startswith("HTTP/1.1 405 ")
        assert await line.ends()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_sender_that_is_gone_in_the_middle_of_its_body_is_counted_and_nothing_more(
    cancelled: bool,  # noqa: FBT001 - pytest's way of passing it
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = receiver()
    async with served(made, handler_cancellation=cancelled) as server:
        async with wire(server) as line:
            assert "100 Continue" in await line.ask(head("Content-Length: 500", "Expect: 100-continue"))
            line.writer.transport.abort()
        while not made.outcomes["incomplete_body"]:
            await asyncio.sleep(0)
    assert "Traceback" not in caplog.text


async def test_100_continue_is_said_to_those_who_wait_for_it() -> None:
    made = receiver()
    async with served(made) as server, wire(server) as line:
        expecting = head(f"Content-Length: {len(BODY)}", "Expect: 100-Continue")
        assert await line.ask(expecting) == "HTTP/1.1 100 Continue\r\n\r\n"
        assert (await line.ask(BODY)).startswith("HTTP/1.1 200 ")


async def test_another_expectation_is_passed_over() -> None:
    made = receiver()
    async with served(made) as server, wire(server) as line:
        asked = head(f"Content-Length: {len(BODY)}", "Expect: a miracle")
        assert (await line.ask(asked, BODY)).startswith("HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("method", "header", "status"),
    [
        ("PUT", "Content-Length: 9", 405),
        ("POST", "Content-Length: 99999999", 413),
        ("POST", "Content-Encoding: gzip", 415),
    ],
)
async def test_what_the_head_gives_away_is_refused_before_a_body_is_sent(method: str, header: str, status: int) -> None:
    made = receiver()
    async with served(made, lingering_time=SHORT) as server, wire(server) as line:
        answer = await line.ask(head(header, "Expect: 100-continue", method=method))
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert "connection: close" in answer.lower()
        assert await line.ends()


async def test_a_body_that_a_middleware_has_read_is_judged_as_well() -> None:
    @web.middleware
    async def curious(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        await request.read()
        return await handler(request)

    made = receiver()
    async with served(made, middlewares=[curious]) as server, wire(server) as line:
        assert (await line.ask(head(f"Content-Length: {len(BODY)}"), BODY)).startswith("HTTP/1.1 200 ")


def gone(method: str = "POST", headers: dict[str, str] | None = None) -> web.Request:
    """A request whose sender is gone: each write fails."""
    writer = Mock(
        write=AsyncMock(side_effect=ConnectionResetError),
        write_headers=AsyncMock(side_effect=ConnectionResetError),
    )
    payload = StreamReader(Mock(_reading_paused=False), 2**16, loop=asyncio.get_running_loop())
    return make_mocked_request(method, "/hook", headers, writer=writer, payload=payload)


async def test_nobody_is_bothered_when_the_sender_is_gone_before_the_answer() -> None:
    made = receiver()
    refused = await made.handle(gone(headers={"Content-Encoding": "gzip"}))
    assert refused.status == 415
    assert await made.expect(gone(headers={"Expect": "100-continue"})) is None


async def test_add_post_alone_is_enough() -> None:
    made = receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    async with TestServer(app) as server, ClientSession() as http:
        async with http.post(server.make_url("/hook"), data=BODY, headers=SIGNED) as response:
            assert response.status == 200
        async with http.get(server.make_url("/hook")) as response:
            assert response.status == 405
    await made.router.close()


class Slow(MemoryStore):
    """Takes an event, or closes, when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.gate = asyncio.Event(), asyncio.Event()
        self.done: list[str] = []

    async def append(self, arrival: Any) -> int:
        self.entered.set()
        await self.gate.wait()
        self.done.append("append")
        return await super().append(arrival)

    async def close(self) -> None:
        self.entered.set()
        await self.gate.wait()
        self.done.append("close")
        await super().close()


async def test_a_server_that_shuts_down_lets_running_webhooks_finish_before_it_closes_the_router() -> None:
    store = Slow()
    made = receiver(store)
    async with served(made) as server, ClientSession() as http:
        address = server.addresses[0]
        running = asyncio.create_task(http.post(url(server), data=BODY, headers=SIGNED))
        await store.entered.wait()
        ending = asyncio.create_task(server.cleanup())
        while server.addresses:
            await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        assert made.router.closing
        store.gate.set()
        async with await running as response:
            assert response.status == 200
        await ending
    assert store.done == ["append", "close"]
    assert made.router.closing


async def test_those_who_come_while_the_router_is_closing_are_told_to_come_again() -> None:
    store = Slow()
    made = receiver(store)
    async with served(made) as server, ClientSession() as http:
        closing = asyncio.create_task(made.router.close())
        await store.entered.wait()
        async with http.post(url(server), data=BODY, headers=SIGNED) as late:
            assert (late.status, late.headers["Retry-After"], await late.read()) == (503, "5", b"")
        store.gate.set()
        await closing
        async with http.post(url(server), data=BODY, headers=SIGNED) as later:
            assert later.status == 503


async def test_a_body_that_broke_before_anybody_looked_at_it_is_a_400() -> None:
    payload = StreamReader(Mock(_reading_paused=False), 2**16, loop=asyncio.get_running_loop())
    payload.feed_eof()
    payload.set_exception(ConnectionResetError("gone"))
    made = receiver()
    response = await made.handle(make_mocked_request("POST", "/hook", headers=SIGNED, payload=payload))
    assert response.status == 400
    assert made.outcomes["incomplete_body"] == 1


async def test_a_waiter_ends_before_aiohttp_waits_for_handlers() -> None:
    made = receiver()
    async with served(made) as server:
        waiting = asyncio.create_task(made.router.wait_for(AvatarReady, avatar_id=AVATAR, timeout=600))
        await asyncio.sleep(0)
        await server.shutdown()
        with pytest.raises(RouterClosedError):
            await waiting


async def test_a_receive_that_a_subclass_overrides_or_a_wrapper_replaces_is_called() -> None:
    class Own(WebhookReceiver):
        async def receive(self, request: WebhookRequest) -> WebhookReply:
            return WebhookReply(status=299, headers=(("X-Body", str(len(request.body))),))

    async with served(Own(SessionRouter(), verifier=SIGNATURE)) as server, wire(server) as line:
        response = await line.ask(head(f"Content-Length: {len(BODY)}"), BODY)
        assert response.startswith("HTTP/1.1 299 ")
        assert f"X-Body: {len(BODY)}" in response
    made = receiver()
    made.handle = AsyncMock(return_value=web.Response(status=298))  # type: ignore[method-assign]
    async with served(made) as server, wire(server) as line:
        assert (await line.ask(head("Content-Length: 0"))).startswith("HTTP/1.1 298 ")


async def test_a_wrong_secret_is_refused_before_the_body_comes() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SharedSecret("hush", query="key"))
    async with served(made) as server, wire(server) as line:
        assert (await line.ask(head("Content-Length: 500"))).startswith("HTTP/1.1 401 ")


async def test_a_sender_of_a_too_large_body_can_send_it_all_and_read_the_413() -> None:
    made = receiver(max_body=100)
    async with served(made) as server, wire(server) as line:
        response = await line.ask(head("Content-Length: 4000000"), b"x" * 4_000_000)
        assert response.startswith("HTTP/1.1 413 ")


async def test_the_peer_option_names_the_sender_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE, peer=lambda request: request.headers["X-Real-IP"])
    async with served(made) as server, wire(server) as line:
        unsigned = b"POST /hook HTTP/1.1\r\nHost: x\r\nX-Real-IP: 192.0.2.9\r\nContent-Length: 1\r\n\r\nx"
        assert (await line.ask(unsigned)).startswith("HTTP/1.1 401 ")
    assert "(from 192.0.2.9, 1 bytes)" in caplog.text
