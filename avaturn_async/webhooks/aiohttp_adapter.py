"""The receiver as an aiohttp handler: reads head and body, calls ``receive()``, sends the reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs
from aiohttp import HttpVersion11, hdrs, web

from avaturn_async.webhooks.request import DRAIN_BYTES, DRAIN_SECONDS, WebhookReply, WebhookRequest

if TYPE_CHECKING:
    from avaturn_async.webhooks.receiver import WebhookReceiver


def add_to(receiver: WebhookReceiver, app: web.Application, path: str) -> None:
    """Mount the receiver for every method, and start and close its router with the app.

    Raises:
        TypeError: ``app`` is not an application of aiohttp.
    """
    if not hasattr(app, "cleanup_ctx"):
        raise TypeError(
            f"app must be an aiohttp.web.Application, not {type(app).__name__}: for ASGI, mount receiver.asgi"
        )

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with receiver.router:
            yield

    async def wake_waiters(_: web.Application) -> None:
        receiver.router.begin_close()

    app.router.add_route(hdrs.METH_ANY, path, receiver.handle, expect_handler=receiver.expect)
    # aiohttp runs on_shutdown before it waits for handlers, and cleanup_ctx after that.
    app.on_shutdown.append(wake_waiters)
    app.cleanup_ctx.append(lifetime)


async def handle(receiver: WebhookReceiver, request: web.Request) -> web.StreamResponse:
    """Read a request, pass it to the receiver and return the response."""
    if request.content.is_eof() and request.content.exception() is None:
        # The whole body is here. aiohttp keeps what a middleware has read; read() alone would apply client_max_size.
        body = await request.content.read() or await request.read()
        reply = await receiver.receive(_make_request(receiver, request, body))
    else:
        reply = await _read_and_receive(receiver, request)
    response = _make_response(reply)
    if not request.content.is_eof():
        # A sender that was too slow gets no further time.
        await _send_and_drain(request, response, drain=reply.status != HTTPStatus.REQUEST_TIMEOUT)
    return response


async def _read_and_receive(receiver: WebhookReceiver, request: web.Request) -> WebhookReply:
    head = _make_request(receiver, request, b"")
    reply = receiver.check_headers(head)
    if reply is not None:
        return reply
    body = await receiver.read_body(head, request.content.readany)
    return body if isinstance(body, WebhookReply) else await receiver.receive(attrs.evolve(head, body=body))


async def expect(receiver: WebhookReceiver, request: web.Request) -> web.StreamResponse | None:
    """Send 100 Continue, unless the request is refused by its head alone."""
    reply = receiver.check_headers(_make_request(receiver, request, b""))
    if reply is not None:
        # The sender may or may not send the body now, so the next request cannot be found (RFC 9110 10.1.1).
        response = _make_response(reply)
        response.force_close()
        if not request.content.is_eof():
            await _send_and_drain(request, response)
        return response
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.version >= HttpVersion11:
        with suppress(ConnectionError):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # As aiohttp's own expect handler: these bytes are no part of the response.
        request.writer.output_size = 0
    return None


def _make_request(receiver: WebhookReceiver, request: web.Request, body: bytes) -> WebhookRequest:
    return WebhookRequest(
        method=request.method,
        headers=request.raw_headers,
        body=body,
        query=request.rel_url.raw_query_string,
        peer=receiver.get_peer(request, request.remote or ""),
    )


def _make_response(reply: WebhookReply) -> web.Response:
    response = web.Response(status=reply.status, headers=dict(reply.headers), body=reply.body)
    if (hdrs.CONNECTION, "close") in reply.headers:
        response.force_close()
    return response


async def _send_and_drain(request: web.Request, response: web.Response, *, drain: bool = True) -> None:
    """Send the response, then read and drop the rest of the body; end the connection if that fails.

    aiohttp itself would read the rest, and log a traceback with a part of a malformed body.
    """
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
    if not (drain and await _drain(request)):
        request.protocol.force_close()


async def _drain(request: web.Request) -> bool:
    """Return whether the rest of the body was read within the bounds."""
    if hdrs.CONTENT_ENCODING in request.headers:
        return False  # aiohttp decodes the body, and a few bytes may decode to gigabytes.
    dropped = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while not request.content.is_eof() and dropped <= DRAIN_BYTES:
                dropped += len(await request.content.readany())
    except Exception:  # noqa: BLE001 - the response is sent; a malformed rest has no consequence
        return False
    return request.content.is_eof()
