"""The HTTP server of FakeAvaturn: records requests, finds the route, checks the token, applies faults."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler
from attrs import define, field
from yarl import URL

from avaturn_async.testing.background import Background
from avaturn_async.testing.faults import Fault, PlannedFault
from avaturn_async.testing.messages import HTTPError, Job, RecordedRequest, Reply, as_json, parse_body

Answer = Callable[..., Reply]
"""A function that answers a RecordedRequest; the parameters in the path of its route are keyword arguments."""


@define(kw_only=True)
class FakeServer:
    """A server on loopback."""

    routes: Mapping[tuple[str, str], Answer]
    """Methods and paths as in aiohttp, with the functions that answer them."""
    token: str | None
    background: Background
    sleep: Callable[[float], Awaitable[object]]
    faults: list[PlannedFault] = field(init=False, factory=list[PlannedFault])
    requests: list[RecordedRequest] = field(init=False, factory=list[RecordedRequest])
    violations: list[str] = field(init=False, factory=list[str])
    _released: asyncio.Event = field(init=False, factory=asyncio.Event)
    _runner: web.AppRunner | None = field(init=False, default=None)

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the URL."""
        app = web.Application(middlewares=[self._handle_unknown])
        for (method, path), answer in self.routes.items():
            app.router.add_route(method, path, partial(self._handle, answer))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return str(URL.build(scheme="http", host=host, port=self._runner.addresses[0][1]))

    async def close(self) -> None:
        """Stop listening, end stalled responses, and close all connections."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.release()
            await runner.cleanup()

    def release(self) -> None:
        """Let all stalled responses go on."""
        self._released.set()
        self._released = asyncio.Event()

    @web.middleware
    async def _handle_unknown(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Handle a request without a route like any other."""
        unknown = request.match_info.http_exception
        return await (handler(request) if unknown is None else self._handle(unknown, request))

    async def _handle(self, target: Answer | web.HTTPException, request: web.Request) -> web.StreamResponse:
        fault = self._take_fault(request)
        limit = math.inf if fault.reset_at is None else fault.reset_at
        body = bytearray()
        try:
            while len(body) < limit and (chunk := await request.content.readany()):
                body += chunk
        except (web.RequestPayloadError, ConnectionError):
            return web.Response(status=400)
        recorded = RecordedRequest(
            method=request.method,
            path=request.path,
            raw_path=request.raw_path,
            query=request.query,
            headers=request.headers,
            body=bytes(body),
            parsed=parse_body(request.headers.get("Content-Type", ""), bytes(body)),
        )
        self.requests.append(recorded)
        reply = self._answer(target, request, recorded) if fault.execute else Reply()
        sent = asyncio.Event()
        if reply.then is not None:
            self.background.spawn(_start_after(sent, reply.then))
        if fault.stall_at is not None:
            # A stalled response does not delay the job.
            sent.set()
        try:
            return await self._send(request, fault.response or reply, fault)
        except ConnectionError:
            # The client did not wait for the end of a stall.
            return web.Response()
        finally:
            sent.set()

    def _take_fault(self, request: web.Request) -> Fault:
        """Return the first planned fault that applies to a request; an empty one if none does."""
        for planned in self.faults:
            matches = planned.method in {None, request.method} and fnmatchcase(request.path, planned.path)
            if matches and planned.left > 0 and (fault := planned.apply()) is not None:
                return fault
        return Fault()

    def _answer(self, target: Answer | web.HTTPException, request: web.Request, recorded: RecordedRequest) -> Reply:
        """Return the answer of a route; refuse an unknown path or method as FastAPI does."""
        if isinstance(target, web.HTTPException):
            return as_json({"detail": target.reason}, status=target.status)
        try:
            self._check_token(request)
            return target(recorded, **request.match_info)
        except HTTPError as refused:
            return refused.reply

    def _check_token(self, request: web.Request) -> None:
        """Refuse a request to the API without the token (the body of the 401 is an assumption)."""
        header = request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if not request.path.startswith("/api/"):
            if header:
                self.violations.append(f"{request.method} {request.path}: an Authorization header where none belongs")
        elif scheme.lower() != "bearer" or not token or self.token not in {None, token}:
            raise HTTPError(401, "Not authenticated")

    async def _send(self, request: web.Request, reply: Reply, fault: Fault) -> web.StreamResponse:
        transport = cast("asyncio.Transport", request.transport)
        if fault.reset_at is not None:
            # RST in place of FIN, as a crashed process with unread data sends it.
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
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
            transport.close()
        else:
            await self._released.wait()
            await response.write(reply.body[stops:])
        return response


async def _start_after(sent: asyncio.Event, job: Job) -> None:
    """Start a job after the response."""
    await sent.wait()
    await job()
