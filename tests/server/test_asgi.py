"""The receiver as an ASGI application: under a real server, and message by message."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from support.deployed_app import PureMiddleware

from avaturn_async.webhooks import (
    AvatarReady,
    HmacSha256,
    MemoryStore,
    SessionRouter,
    SharedSecret,
    WebhookReceiver,
    WebhookReply,
    WebhookRequest,
)

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
BODY = b'{"event": "avatar.ready", "avatar_id": "%s"}' % AVATAR.encode()
SIGNATURE = HmacSha256("hush", header="X-Signature")


@asynccontextmanager
async def served(app: Any, lifespan: Any = "on") -> AsyncIterator[str]:
    """The app under a real uvicorn on loopback."""
    # Without a configuration of its own, so that caplog sees what it logs.
    config = uvicorn.Config(app, port=0, log_config=None, lifespan=lifespan, ws="none")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)  # it offers nothing to wait for
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


def fastapi(made: WebhookReceiver) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with made.router:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/hook", made.asgi)
    return app


def starlette(made: WebhookReceiver) -> Any:
    return Starlette(routes=[Mount("/hook", made.asgi)])


def bare(made: WebhookReceiver) -> Any:
    return made.asgi


@pytest.mark.parametrize("mount", [fastapi, starlette, bare])
async def test_mounted_in_a_framework_under_a_real_server(mount: Any) -> None:
    router = SessionRouter()
    made = WebhookReceiver(router, verifier=SIGNATURE)
    async with served(mount(made)) as url, aiohttp.ClientSession() as http:
        hook = f"{url}/hook/"
        headers = {**SIGNATURE.sign(BODY), "Content-Type": "application/json"}
        async with http.post(hook, data=BODY, headers=headers) as response:
            assert (response.status, await response.read()) == (200, b"")
        async with http.post(hook, data=BODY) as response:
            assert response.status == 401
        async with http.get(hook) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
        async with http.post(hook, data=b"x" * 300_000) as response:
            assert response.status == 413
        assert str((await router.wait_for(AvatarReady, avatar_id=AVATAR, timeout=0)).avatar_id) == AVATAR
    await router.close()


async def test_the_secret_in_the_query_arrives() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SharedSecret("hush hush", query="key"))
    async with served(made.asgi) as url, aiohttp.ClientSession(headers={"Content-Type": "a/b+json"}) as http:
        response = await http.post(f"{url}/?key=hush%20hush", data=b'{"event": "x"}')
        assert response.status == 200


def scope(**changes: Any) -> dict[str, Any]:
    headers = [(k.lower().encode(), v.encode()) for k, v in SIGNATURE.sign(BODY).items()]
    return {"type": "http", "method": "POST", "headers": headers, "query_string": b"", **changes}


async def ask(made: WebhookReceiver, messages: list[Any], given: dict[str, Any] | None = None) -> list[Any]:
    sent: list[Any] = []
    left = list(messages)

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await made.asgi(given or scope(), receive, send)
    return sent


def chunk(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_pieces_is_put_together() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    sent = await ask(made, [chunk(BODY[:9], more=True), chunk(BODY[9:])], scope(client=("192.0.2.7", 1)))
    assert sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]},
        {"type": "http.response.body", "body": b""},
    ]
    await made.router.close()


async def test_a_body_that_does_not_end_is_bounded_in_size_and_time() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE, max_body=1000, read_timeout=0.01)
    assert (await ask(made, [chunk(b"x" * 600, more=True)] * 5))[0]["status"] == 413
    assert (await ask(made, [chunk(b"x", more=True)]))[0]["status"] == 408
    assert (await ask(made, [], scope(headers=[(b"content-encoding", b"br")])))[0]["status"] == 415


@pytest.mark.parametrize("headers", [[], [(b"expect", b"100-continue")]], ids=["drained", "not drained"])
async def test_the_body_of_an_early_reply_is_sent_once(headers: list[Any]) -> None:
    class Refusing(WebhookReceiver):
        def check_headers(self, _: WebhookRequest) -> WebhookReply:
            return WebhookReply(status=403, body=b"no")

    made = Refusing(SessionRouter(), verifier=SIGNATURE)
    sent = await ask(made, [chunk(b"x", more=True), chunk(b"y")], scope(headers=headers))
    assert sent[0]["headers"] == [(b"content-length", b"2")]
    assert b"".join(message["body"] for message in sent[1:]) == b"no"


async def test_a_sender_that_disconnects_gets_a_response_and_nothing_is_stored() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    assert await ask(made, [chunk(BODY[:9], more=True), {"type": "http.disconnect"}]) == [
        {
            "type": "http.response.start",
            "status": 400,
            "headers": [(b"content-length", b"0"), (b"connection", b"close")],
        },
        {"type": "http.response.body", "body": b""},
    ]
    assert made.outcomes["incomplete_body"] == 1


async def test_the_lifespan_starts_and_closes_the_router() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await ask(made, messages, {"type": "lifespan"})
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert made.router.closing


async def test_a_router_that_does_not_start_fails_the_startup() -> None:
    class Broken(MemoryStore):
        async def start(self) -> None:
            raise OSError("no room")

    made = WebhookReceiver(SessionRouter(Broken()), verifier=SIGNATURE)
    sent = await ask(made, [{"type": "lifespan.startup"}], {"type": "lifespan"})
    assert sent == [{"type": "lifespan.startup.failed", "message": "no room"}]


async def test_a_router_that_does_not_close_fails_the_shutdown() -> None:
    class Broken(MemoryStore):
        async def close(self) -> None:
            raise OSError("no way")

    made = WebhookReceiver(SessionRouter(Broken()), verifier=SIGNATURE)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = await ask(made, messages, {"type": "lifespan"})
    assert sent[1] == {"type": "lifespan.shutdown.failed", "message": "no way"}


async def test_a_server_that_says_by_an_error_that_the_sender_is_gone_is_understood() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)

    async def fails(*_: Any) -> Any:
        raise OSError("gone")

    async def whole() -> Any:
        return chunk(BODY)

    await made.asgi(scope(), fails, fails)
    assert made.outcomes["incomplete_body"] == 1
    await made.asgi(scope(), whole, fails)
    assert made.outcomes["stored"] == 1
    await made.router.close()


@pytest.mark.parametrize(("version", "said"), [("1.1", True), ("2", False), ("3", False)])
async def test_http_2_has_no_header_that_ends_a_connection(version: str, *, said: bool) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    sent = await ask(made, [], scope(headers=[(b"content-encoding", b"br")], http_version=version))
    assert ((b"connection", b"close") in sent[0]["headers"]) == said


async def test_those_who_come_while_the_router_is_closing_are_told_to_come_again() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    await ask(made, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], {"type": "lifespan"})
    sent = await ask(made, [])
    assert (sent[0]["status"], (b"retry-after", b"5") in sent[0]["headers"]) == (503, True)


async def test_a_server_that_shuts_down_lets_running_webhooks_finish() -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def append(self, arrival: Any) -> int:
            entered.set()
            await gate.wait()
            return await super().append(arrival)

    made = WebhookReceiver(SessionRouter(Slow()), verifier=SIGNATURE)
    async with aiohttp.ClientSession() as http:
        async with served(made.asgi) as server:
            running = asyncio.create_task(
                http.post(server, data=BODY, headers={**SIGNATURE.sign(BODY), "Content-Type": "a/b+json"})
            )
            await entered.wait()

            async def let_go() -> None:
                port = int(server.rsplit(":", 1)[1])
                # Refused, or reset: just then the server stops to listen.
                with suppress(ConnectionError):
                    while True:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                gate.set()

            letting_go = asyncio.create_task(let_go())
        await letting_go
        async with await running as response:
            assert response.status == 200
    assert made.outcomes["stored"] == 1
    assert made.router.closing


async def test_a_route_of_its_own_needs_no_slash_at_its_end() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    app = FastAPI()
    app.router.routes.append(Route("/hook", made.asgi))
    async with served(app) as url, aiohttp.ClientSession() as http:
        headers = {**SIGNATURE.sign(BODY), "Content-Type": "application/json"}
        async with http.post(f"{url}/hook", data=BODY, headers=headers, allow_redirects=False) as response:
            assert response.status == 200
        async with http.put(f"{url}/hook", data=BODY) as response:
            assert response.status == 405
    await made.router.close()


@pytest.mark.parametrize("mount", [fastapi, starlette])
async def test_a_mounted_receiver_is_only_redirected_to_without_the_slash(mount: Any) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SharedSecret("hush", query="key"))
    async with served(mount(made)) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/hook?key=hush", data=BODY, allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (307, f"{url}/hook/?key=hush")
        async with http.post(f"{url}/hook/?key=hush", json={"event": "x"}) as response:
            assert response.status == 200
    await made.router.close()


async def test_under_a_real_server_a_sender_may_be_gone_in_the_middle_of_its_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    async with served(made.asgi) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nx")
        await writer.drain()
        writer.transport.abort()
        while not made.outcomes["incomplete_body"]:
            await asyncio.sleep(0)
    assert "Traceback" not in caplog.text


async def test_a_websocket_is_closed() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    sent = await ask(made, [{"type": "websocket.connect"}], {"type": "websocket"})
    assert sent == [{"type": "websocket.close", "code": 1000}]
    assert await ask(made, [], {"type": "other"}) == []


def add_no_middleware(app: FastAPI) -> None:
    """Leave the app as it is."""


def add_http_middleware(app: FastAPI) -> None:
    @app.middleware("http")
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    del pass_on


def add_asgi_middleware(app: FastAPI) -> None:
    app.add_middleware(PureMiddleware)


def add_both(app: FastAPI) -> None:
    add_asgi_middleware(app)
    add_http_middleware(app)
    add_asgi_middleware(app)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end of the stream"])
@pytest.mark.parametrize("refused", [True, False], ids=["refused by the head", "read"])
@pytest.mark.parametrize("add_middleware", [add_no_middleware, add_http_middleware, add_asgi_middleware, add_both])
async def test_sender_that_hangs_up_inside_its_body_raises_nothing(
    add_middleware: Callable[[FastAPI], None], caplog: pytest.LogCaptureFixture, *, refused: bool, reset: bool
) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE)
    app = FastAPI()
    app.router.routes.append(Route("/hook", made.asgi))
    add_middleware(app)
    outcome = "too_large" if refused else "incomplete_body"
    length = 100_000_000 if refused else 500
    async with served(app) as url:
        for count in range(1, 4):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writer.write(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nx" % length)
            await writer.drain()
            if refused:
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
            if reset:
                writer.transport.abort()
            else:
                writer.close()
            while made.outcomes[outcome] < count:
                await asyncio.sleep(0)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("uvicorn") and r.levelno > logging.INFO] == []
    assert "Traceback" not in caplog.text


@pytest.fixture(autouse=True)
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.asgi.DRAIN_SECONDS", 0.05)
