"""The wire of FakeAvaturn: listens, records, looks at the token, answers, and spoils answers on request."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from attrs import define, field
from yarl import URL

from avaturn_async.testing._background import Background
from avaturn_async.testing._faults import Fault, Faults
from avaturn_async.testing._requests import Job, RecordedRequest, Refused, Reply, parse_body
from avaturn_async.testing._routes import Route, find_route


@define(kw_only=True)
class Http:
    """A server on loopback that answers by routes."""

    routes: tuple[Route, ...]
    token: str | None
    background: Background
    sleep: Callable[[float], Awaitable[object]]
    faults: Faults = field(factory=Faults)
    requests: list[RecordedRequest] = field(factory=list[RecordedRequest])
    complaints: list[str] = field(factory=list[str])
    _released: asyncio.Event = field(init=False, factory=asyncio.Event)
    _runner: web.AppRunner | None = field(init=False, default=None)

    async def start(self, host: str, port: int) -> str:
        """Listen; the URL where."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return str(URL.build(scheme="http", host=host, port=self._runner.addresses[0][1]))

    async def close(self) -> None:
        """Stop listening, end what stalls, and close all connections."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.release()
            await runner.cleanup()

    def release(self) -> None:
        """Let every answer that stalls now go on."""
        self._released.set()
        self._released = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.take(request.method, request.path)
        try:
            body = await _read(request, math.inf if fault.reset_at is None else fault.reset_at)
        except (web.RequestPayloadError, ConnectionError):
            return web.Response(status=400)
        recorded = RecordedRequest(
            method=request.method,
            path=request.path,
            raw_path=request.raw_path,
            query=request.query,
            headers=request.headers,
            body=body,
            parsed=parse_body(request.headers.get("Content-Type", ""), body),
        )
        self.requests.append(recorded)
        reply = self._answer(recorded) if fault.works else Reply()
        sent = self._begin(reply.then)
        if fault.stall_at is not None:
            # An answer that is stuck on its way does not keep the work from going on.
            sent.set()
        try:
            return await self._send(request, fault.instead or reply, fault)
        except ConnectionError:
            # Who asked did not wait for the end of a stall.
            return web.Response()
        finally:
            sent.set()

    def _answer(self, request: RecordedRequest) -> Reply:
        try:
            route, parameters = find_route(self.routes, request)
            self._check_token(route, request)
            return route.answer(request, **parameters)
        except Refused as refused:
            return refused.reply

    def _check_token(self, route: Route, request: RecordedRequest) -> None:
        """401 without the token where it is wanted; its body is an assumption."""
        header = request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if not route.wants_token:
            if header:
                self.complaints.append(f"{request.method} {request.path}: a token came where none is wanted")
        elif scheme.lower() != "bearer" or not token or self.token not in {None, token}:
            raise Refused(401, "Not authenticated")

    def _begin(self, job: Job | None) -> asyncio.Event:
        """Spawn work that settle() knows of from now on, and that begins at the event: the answer is out."""
        sent = asyncio.Event()

        async def work(job: Job) -> None:
            await sent.wait()
            await job()

        if job is not None:
            self.background.spawn(work(job))
        return sent

    async def _send(self, request: web.Request, reply: Reply, fault: Fault) -> web.StreamResponse:
        if fault.reset_at is not None:
            _reset(request)
            return web.Response()
        if fault.delay:
            await self.sleep(fault.delay)
        if fault.stall_at == -1:
            await self._released.wait()
        stops = fault.cut_at if fault.cut_at is not None else fault.stall_at
        if stops is None or stops < 0:
            whole = web.Response(status=reply.status, body=reply.body, headers=reply.headers)
            await whole.prepare(request)
            await whole.write_eof()
            return whole
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.content_length = len(reply.body)
        await response.prepare(request)
        await response.write(reply.body[:stops])
        if fault.cut_at is not None:
            _transport(request).close()
        else:
            await self._released.wait()
            await response.write(reply.body[stops:])
        return response


async def _read(request: web.Request, limit: float) -> bytes:
    """The body of a request, or as much of it as comes before the limit is reached."""
    body = bytearray()
    while len(body) < limit and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def _transport(request: web.Request) -> asyncio.Transport:
    return cast("asyncio.Transport", request.transport)


def _reset(request: web.Request) -> None:
    """End the connection with RST instead of FIN, as a process does that dies with unread data."""
    transport = _transport(request)
    linger: socket.socket = transport.get_extra_info("socket")
    linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
