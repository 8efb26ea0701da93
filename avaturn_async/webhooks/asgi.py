"""The receiver as an ASGI application, for FastAPI, Starlette and other frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import attrs

from avaturn_async.webhooks.request import DRAIN_BYTES, DRAIN_SECONDS, WebhookReply, WebhookRequest

if TYPE_CHECKING:
    from avaturn_async.webhooks.receiver import WebhookReceiver

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApp:
    """``WebhookReceiver.asgi``. uvicorn takes a bound method for an ASGI 2 application, so this is an object."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        self._receiver = receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, or start and close the router on lifespan messages."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        receiver = self._receiver
        client = scope.get("client")
        head = WebhookRequest(
            method=scope["method"],
            headers=scope["headers"],
            body=b"",
            query=bytes(scope.get("query_string", b"")).decode(errors="surrogateescape"),
            peer=receiver.get_peer(scope, str(client[0]) if client else ""),
        )
        stream = _BodyStream(receive)
        reply = receiver.check_headers(head)
        if reply is None:
            body = await receiver.read_body(head, stream.next_chunk)
            reply = body if isinstance(body, WebhookReply) else await receiver.receive(attrs.evolve(head, body=body))
        # Also after a disconnect: Starlette's BaseHTTPMiddleware raises if an application sends no response.
        with suppress(Exception):  # the sender is gone
            await send(_make_start(reply, version=scope.get("http_version", "1.1")))
            # A sender that was too slow gets no further time, and one that expects 100 Continue sends no body.
            drain = not stream.has_ended and reply.status != HTTPStatus.REQUEST_TIMEOUT and not head.values(b"expect")
            body = reply.body
            if drain:
                # This body message sends the head: hypercorn keeps the head back until the first one.
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await stream.drain()
                body = b""
            await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        router = self._receiver.router
        while True:
            phase = (await receive())["type"].removeprefix("lifespan.")
            try:
                await (router.start() if phase == "startup" else router.close())
            except Exception as error:  # noqa: BLE001 - the server logs the message and exits
                await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
                return
            await send({"type": f"lifespan.{phase}.complete"})
            if phase == "shutdown":
                return


class _BodyStream:
    """The body of one request as chunks."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        # Whether the body ended, complete or by a disconnect.
        self.has_ended = False

    async def next_chunk(self) -> bytes:
        """Return the next bytes, ``b""`` at the end of the body.

        Raises:
            ConnectionResetError: The sender disconnected.
        """
        while not self.has_ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.has_ended = True
                raise ConnectionResetError
            self.has_ended = not message.get("more_body", False)
            if chunk := message.get("body", b""):
                return bytes(chunk)
        return b""

    async def drain(self) -> None:
        """Read and drop the rest of the body within bounds of size and time."""
        dropped = 0
        with suppress(Exception):  # the response is sent; an incomplete rest has no consequence
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.has_ended and dropped <= DRAIN_BYTES:
                    dropped += len(await self.next_chunk())


def _make_start(reply: WebhookReply, *, version: str) -> Message:
    headers = [(b"content-length", str(len(reply.body)).encode())]
    for name, value in reply.headers:
        # HTTP/2 has no Connection header (RFC 9113 8.2.2), and servers refuse to send it.
        if name != "Connection" or version.startswith("1"):
            headers.append((name.lower().encode(), value.encode()))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}
