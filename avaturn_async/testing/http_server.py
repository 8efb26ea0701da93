"""The HTTP server of FakeAvaturn: records requests, finds the route, checks the token, applies faults."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import unquote

from aiohttp import web
from attrs import define, field, frozen
from yarl import URL

from avaturn_async.testing.background import Background
from avaturn_async.testing.faults import Fault, Faults
from avaturn_async.testing.messages import HTTPError, Job, RecordedRequest, Reply, parse_body


@frozen
class Route:
    """A method and a path, and the function that answers them."""

    method: str
    path: re.Pattern[str]
    answer: Callable[..., Reply]
    needs_token: bool


def make_route(method: str, path: str, answer: Callable[..., Reply]) -> Route:
    """Return a route; ``{name}`` in its path is a parameter of ``answer``, unless it begins with an underscore."""
    pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))
    return Route(method, pattern, answer, needs_token=path.startswith("/api/"))


@define(kw_only=True)
class FakeServer:
    """A server on loopback."""

    routes: tuple[Route, ...]
    token: str | None
    background: Background
    sleep: Callable[[float], Awaitable[object]]
    faults: Faults
    requests: list[RecordedRequest] = field(init=False, factory=list[RecordedRequest])
    violations: list[str] = field(init=False, factory=list[str])
    _released: asyncio.Event = field(init=False, factory=asyncio.Event)
    _runner: web.AppRunner | None = field(init=False, default=None)

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the URL."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
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
        reply = self._answer(recorded) if fault.execute else Reply()
        sent = self._begin(reply.then)
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

    def _answer(self, request: RecordedRequest) -> Reply:
        try:
            route, parameters = self._find_route(request)
            self._check_token(route, request)
            return route.answer(request, **parameters)
        except HTTPError as refused:
            return refused.reply

    def _find_route(self, request: RecordedRequest) -> tuple[Route, dict[str, str]]:
        """Return the route of a request and the parameters of its path; refuse an unknown path as FastAPI does."""
        # The raw path: an encoded slash does not end a segment.
        raw_path = request.raw_path.partition("?")[0]
        found = [(route, match) for route in self.routes if (match := route.path.fullmatch(raw_path))]
        for route, match in found:
            if route.method == request.method:
                parameters = match.groupdict().items()
                return route, {name: unquote(text) for name, text in parameters if not name.startswith("_")}
        raise HTTPError(*((405, "Method Not Allowed") if found else (404, "Not Found")))

    def _check_token(self, route: Route, request: RecordedRequest) -> None:
        """Refuse a request to the API without the token (the body of the 401 is an assumption)."""
        header = request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if not route.needs_token:
            if header:
                self.violations.append(f"{request.method} {request.path}: an Authorization header where none belongs")
        elif scheme.lower() != "bearer" or not token or self.token not in {None, token}:
            raise HTTPError(401, "Not authenticated")

    def _begin(self, job: Job | None) -> asyncio.Event:
        """Spawn a job that begins when the returned event is set: after the response."""
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
    """Return the body of a request, or its beginning up to about ``limit`` bytes."""
    body = bytearray()
    while len(body) < limit and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def _transport(request: web.Request) -> asyncio.Transport:
    return cast("asyncio.Transport", request.transport)


def _reset(request: web.Request) -> None:
    """End the connection with RST in place of FIN, as a crashed process with unread data does."""
    transport = _transport(request)
    linger: socket.socket = transport.get_extra_info("socket")
    linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
