"""Connections that send a head and hold their bodies back do not shut out genuine webhooks."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from aiohttp import web

from avaturn_async.webhooks import HmacSha256, SessionRouter, SharedSecret, Verifier, WebhookReceiver

HELD, GENUINE = 1_000, 50
SIGNATURE = HmacSha256("hush-0123456789abcdef", header="X-Signature")
SECRET = SharedSecret("hush-0123456789abcdef", header="X-Secret")


@pytest.fixture(autouse=True)
def _files() -> Iterator[None]:
    """Allow both ends of 1,000 connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(8_192, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def serving(adapter: str, receiver: WebhookReceiver) -> AsyncIterator[int]:
    """Run a real server, and yield its port."""
    if adapter == "aiohttp":
        app = web.Application()
        receiver.add_to(app, "/hook")
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
        await runner.cleanup()
        return
    config = uvicorn.Config(receiver.asgi, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


def build_head(length: int, headers: dict[str, str]) -> bytes:
    lines = ["POST /hook HTTP/1.1", "Host: x", f"Content-Length: {length}", "Content-Type: application/json"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


async def send_genuine(port: int, verifier: Verifier, number: int) -> float:
    """Send a webhook over a connection of its own. Return the seconds until its 200."""
    body = b'{"event": "number %d"}' % number
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(build_head(len(body), verifier.sign(body)) + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    seconds = time.monotonic() - began
    writer.close()
    return seconds


@pytest.mark.parametrize("verifier", [SIGNATURE, SECRET], ids=["checked by the body", "refused by the head"])
@pytest.mark.parametrize("adapter", ["aiohttp", "uvicorn"])
async def test_genuine_webhooks_are_answered_beside_held_bodies(adapter: str, verifier: Verifier) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * (HELD + GENUINE) + 100:
        pytest.skip("too few open files are allowed")
    receiver = WebhookReceiver(SessionRouter(), verifier=verifier, read_timeout=60)
    forged = build_head(500, {"X-Signature": "sha256=00", "X-Secret": "guess"}) + b'{"event'
    async with serving(adapter, receiver) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(HELD)]
        for _, writer in held:
            writer.write(forged)
        if verifier is SECRET:
            # The connection stays open while the server waits for the rest of the body.
            assert all([(await reader.readline()).startswith(b"HTTP/1.1 401 ") for reader, _ in held])
        await send_genuine(port, verifier, 0)  # the server has read the heads now
        seconds = await asyncio.gather(*(send_genuine(port, verifier, number) for number in range(1, GENUINE)))
        print(adapter, "slowest", round(max(seconds), 3), "s")  # noqa: T201 - shown by -rP
        assert max(seconds) < 2
        assert receiver.outcomes["stored"] == GENUINE
        assert receiver.outcomes["busy"] == receiver.outcomes["read_timeout"] == 0
        for _, writer in held:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()
