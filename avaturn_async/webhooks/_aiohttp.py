"""The receiver as an aiohttp handler: reads the body within bounds of size and time, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs, web

from avaturn_async._unguarded import maker
from avaturn_async.webhooks._answer import Answer
from avaturn_async.webhooks.request import RawHeaders, WebhookReply, WebhookRequest

if TYPE_CHECKING:
    from avaturn_async.webhooks.receiver import WebhookReceiver

# What aiohttp gives is of the right types: there is nothing to check.
_as_received = maker(WebhookRequest)


def add_to(receiver: WebhookReceiver, app: web.Application, path: str) -> None:
    """Mount the receiver for every method, and start and close its router with the app."""

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with receiver.router:
            yield

    app.router.add_route(
        hdrs.METH_ANY,
        path,
        # Without a call in between, unless a subclass has a say.
        receiver.handle if _is_overridden(receiver, "handle") else partial(handle, receiver),
        expect_handler=receiver.expect if _is_overridden(receiver, "expect") else partial(expect, receiver),
    )
    app.cleanup_ctx.append(lifetime)


def _is_overridden(receiver: WebhookReceiver, name: str) -> bool:
    from avaturn_async.webhooks.receiver import WebhookReceiver  # noqa: PLC0415 - which imports this file

    return getattr(type(receiver), name) is not getattr(WebhookReceiver, name)


async def handle(receiver: WebhookReceiver, request: web.Request) -> web.StreamResponse:
    """Answer a request."""
    content, peer = request.content, request.remote or ""
    headers = RawHeaders(request.raw_headers, checked=True)
    reply = receiver.refuse(request.method, headers, peer=peer)
    if reply is None:
        receiver.in_flight += 1
        try:
            # Nearly every body came together with its head: there is nothing to wait for.
            is_there = content.is_eof() and content.exception() is None
            body = (content.read_nowait() if is_there else b"") or await _read(receiver, request, peer)
            if isinstance(body, WebhookReply):
                reply = body
            elif len(body) > receiver.max_body:
                reply = receiver.end("too_large", reason="read", peer=peer, length=len(body))
            else:
                query = request.rel_url.raw_query_string
                reply = await receiver.judge(
                    _as_received(method=request.method, headers=headers, body=body, query=query, peer=peer)
                )
        finally:
            receiver.in_flight -= 1
    response = _response(reply)
    if not content.is_eof():
        await _send_before_the_rest(receiver, request, response)
    return response


async def expect(receiver: WebhookReceiver, request: web.Request) -> web.StreamResponse | None:
    """Say 100 Continue, unless the head is reason enough to refuse."""
    reply = receiver.refuse(
        request.method, RawHeaders(request.raw_headers, checked=True), peer=request.remote or ""
    )
    if reply is not None:
        # Whether the body still comes is the sender's choice: nobody knows where its next request begins.
        response = _response(reply)
        response.force_close()
        if not request.content.is_eof():
            await _send_before_the_rest(receiver, request, response)
        return response
    wanted = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if wanted and request.version >= aiohttp.HttpVersion11:
        with suppress(ConnectionError):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What was written so is not part of the answer.
        request.writer.output_size = 0
    return None


async def _read(receiver: WebhookReceiver, request: web.Request, peer: str) -> bytes | WebhookReply:
    """The body, or so much of it that it is too large, or the reply to one that does not come."""
    content, body = request.content, bytearray()
    try:
        async with asyncio.timeout(receiver.read_timeout):
            while len(body) <= receiver.max_body and (chunk := await content.readany()):
                body += chunk
        # A middleware may have read it; aiohttp kept it then.
        return bytes(body) or await request.read()
    except TimeoutError:
        return receiver.end("too_slow", reason="the body did not come", peer=peer, length=len(body))
    except asyncio.CancelledError:
        # The server is told to cancel handlers when their sender is gone, or is out of patience at its end.
        receiver.end("cut", reason="cancelled", peer=peer, length=len(body))
        raise
    except Exception as error:  # noqa: BLE001 - every parser has its own for a body that is cut or malformed
        return receiver.end("cut", reason=type(error).__name__, peer=peer, length=len(body))


def _response(reply: WebhookReply) -> web.Response:
    if not reply.headers:
        return Answer(status=reply.status)
    response = web.Response(status=reply.status, headers=dict(reply.headers))
    if (hdrs.CONNECTION, "close") in reply.headers:
        response.force_close()
    return response


async def _send_before_the_rest(
    receiver: WebhookReceiver, request: web.Request, response: web.Response
) -> None:
    """Send the answer while the body may still come.

    aiohttp would read the rest after that, and log a traceback with a piece of it if it is malformed.
    """
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
    if not await _rest_is_read(request, receiver.read_timeout):
        request.protocol.force_close()


async def _rest_is_read(request: web.Request, limit: float) -> bool:
    """Let the sender finish, so that it gets to read the answer; False if it does not, or sends rubbish."""
    if hdrs.CONTENT_ENCODING in request.headers:
        return False  # aiohttp decodes what is read, and a few bytes may decode to gigabytes
    limit = getattr(request.protocol, "_lingering_time", limit)
    try:
        async with asyncio.timeout(limit):
            while not request.content.is_eof():
                await request.content.readany()
    except Exception:  # noqa: BLE001 - the answer is sent, and nobody asks any more
        return False
    return True
