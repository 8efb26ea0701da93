"""The receiver as an ASGI application, for FastAPI, Starlette and everything else that mounts one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from avaturn_async.webhooks.request import RawHeaders, WebhookReply, WebhookRequest

if TYPE_CHECKING:
    from avaturn_async.webhooks.receiver import WebhookReceiver

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApp:
    """``WebhookReceiver.asgi``: an object, since servers take a bound method for the protocol of old."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        self._receiver = receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or start and close the router where the server asks for it."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            reply = await self._reply(scope, receive)
            if reply is not None:
                await _send(send, reply, version=scope.get("http_version", "1.1"))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _reply(self, scope: Scope, receive: Receive) -> WebhookReply | None:
        headers = RawHeaders((bytes(name), bytes(value)) for name, value in scope["headers"])
        client = scope.get("client")
        peer = str(client[0]) if client else ""
        refusal = self._receiver.refuse(scope["method"], headers, peer=peer)
        if refusal is not None:
            return refusal
        self._receiver.in_flight += 1
        try:
            body = await self._body(receive, peer)
            if body is None or isinstance(body, WebhookReply):
                return body
            query = bytes(scope.get("query_string", b"")).decode(errors="surrogateescape")
            request = WebhookRequest(
                method=scope["method"], headers=headers, body=body, query=query, peer=peer
            )
            return await self._receiver.judge(request)
        finally:
            self._receiver.in_flight -= 1

    async def _body(self, receive: Receive, peer: str) -> bytearray | WebhookReply | None:
        """The body, or the reply to one that is too large or too slow, or None if the sender is gone."""
        receiver = self._receiver
        body = bytearray()
        try:
            async with asyncio.timeout(receiver.read_timeout):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > receiver.max_body:
                        return receiver.end("too_large", reason="read", peer=peer, length=len(body))
        except TimeoutError:
            return receiver.end("too_slow", reason="the body did not come", peer=peer, length=len(body))
        except OSError:
            receiver.end("cut", reason="disconnected", peer=peer, length=len(body))
            return None
        return body

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        router = self._receiver.router
        while True:
            what = (await receive())["type"].removeprefix("lifespan.")
            try:
                await (router.__aenter__() if what == "startup" else router.close())
            except Exception as error:  # noqa: BLE001 - the server is told, and stops
                await send({"type": f"lifespan.{what}.failed", "message": str(error)})
                return
            await send({"type": f"lifespan.{what}.complete"})
            if what == "shutdown":
                return


async def _send(send: Send, reply: WebhookReply, *, version: str) -> None:
    headers = [(b"content-length", b"0")]
    for name, value in reply.headers:
        # From HTTP/2 on there is no such header, and servers refuse to send it.
        if name != "Connection" or version.startswith("1"):
            headers.append((name.lower().encode(), value.encode()))
    with suppress(OSError):  # the sender is gone
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
