"""The receiver as an aiohttp handler: reads the body within bounds of size and time, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs, web

from avaturn_async.webhooks.request import WebhookReply, WebhookRequest

if TYPE_CHECKING:
    from avaturn_async.webhooks.receiver import WebhookReceiver

_CLOSING = frozenset({400, 408, 413, 415})


def add_to(receiver: WebhookReceiver, app: web.Application, path: str) -> None:
    """Mount the receiver for every method, and start and close its router with the app."""

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with receiver.router:
            yield

    app.router.add_route(hdrs.METH_ANY, path, receiver.handle, expect_handler=receiver.expect)
    app.cleanup_ctx.append(lifetime)


async def handle(receiver: WebhookReceiver, request: web.Request) -> web.StreamResponse:
    """Answer a request."""
    peer = request.remote or ""
    reply = receiver.refuse(request.method, request.raw_headers, peer=peer)
    if reply is None:
        with receiver.in_flight():
            reply = await _read_and_judge(receiver, request, peer)
    return await _send(request, reply)


async def expect(receiver: WebhookReceiver, request: web.Request) -> web.StreamResponse | None:
    """Say 100 Continue, unless the head is reason enough to refuse."""
    reply = receiver.refuse(request.method, request.raw_headers, peer=request.remote or "")
    if reply is not None:
        return await _send(request, reply)
    if request.version >= aiohttp.HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What was written so is not part of the answer.
        request.writer.output_size = 0
    return None


async def _read_and_judge(receiver: WebhookReceiver, request: web.Request, peer: str) -> WebhookReply:
    body = bytearray()
    try:
        async with asyncio.timeout(receiver.read_timeout):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > receiver.max_body:
                    return receiver.end("too_large", reason="read", peer=peer, length=len(body))
    except TimeoutError:
        return receiver.end("too_slow", reason="the body did not come", peer=peer, length=len(body))
    except Exception as error:  # noqa: BLE001 - every parser has its own for a body that is cut or malformed
        return receiver.end("cut", reason=type(error).__name__, peer=peer, length=len(body))
    return await receiver.judge(
        WebhookRequest(
            method=request.method,
            headers=request.raw_headers,
            body=bytes(body),
            query=request.rel_url.raw_query_string,
            peer=peer,
        )
    )


async def _send(request: web.Request, reply: WebhookReply) -> web.Response:
    response = web.Response(status=reply.status, headers=dict(reply.headers))
    if reply.status in _CLOSING and not request.content.is_eof():
        response.force_close()
    if reply.status == web.HTTPUnsupportedMediaType.status_code and not request.content.is_eof():
        # aiohttp would now read the rest of the body, and fail on one that lies about its encoding.
        await response.prepare(request)
        await response.write_eof()
        request.protocol.force_close()
    return response
