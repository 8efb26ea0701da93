"""An HTTP server on loopback that responds by a script, byte for byte: for responses that no real server sends."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field, frozen
from multidict import CIMultiDict


@frozen
class Request:
    """A request as it was received."""

    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


@define
class Connection:
    """A connection with a request, for one step of the script."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    released: asyncio.Event
    """Set when the server ends."""

    def send_head(self, status: int = 200, **headers: Any) -> None:
        """Send the head of a response; header names have _ for -, and None leaves a header out."""
        self.writer.write(_build_head(status, headers))

    async def stall(self) -> None:
        """Send nothing more until the server ends."""
        await self.released.wait()


Behavior = Callable[[Connection], Awaitable[None]]
Step = bytes | Behavior


def _build_head(status: int, headers: dict[str, Any]) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    lines = [f"HTTP/1.1 {status} Any", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def response(status: int, body: Any = None, *, raw: bytes | None = None, **headers: str) -> bytes:
    """Return a whole response with ``body`` as JSON, or with the bytes ``raw``; header names have _ for -."""
    content = json.dumps(body).encode() if raw is None else raw
    return _build_head(status, {"Content_Length": len(content), **headers}) + content


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", **headers: str) -> bytes:
    """Return a response of unknown length; another ``end`` breaks it."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return _build_head(200, {"Transfer-Encoding": "chunked", **headers}) + body + end


def file(
    content: bytes, *, cut: int | None = None, ranges: bool = True, etag: str | None = '"v1"', **headers: Any
) -> Behavior:
    """Respond as a file server does, to Range as well; ``cut`` ends the connection after that many bytes."""

    async def send(connection: Connection) -> None:
        request = connection.request
        start, status, content_range = 0, 200, None
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if ranges and wanted and request.headers.get("If-Range") == (etag or headers.get("Last_Modified")):
            start, status = int(wanted[1]), 206
            content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if start >= len(content):
                connection.send_head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
                return
        head = {"Content_Length": len(content) - start, "Content_Range": content_range, "ETag": etag, **headers}
        connection.send_head(status, **head)
        connection.writer.write(content[start:][:cut])
        await connection.writer.drain()
        if cut is not None:
            # aiohttp 3.14 drops what it has received if the connection ends before it was read.
            for _ in range(20):
                await asyncio.sleep(0)

    return send


async def reset(connection: Connection) -> None:
    """Break the connection after the request."""
    _reset(connection.writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST in place of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hang_up(_: Connection) -> None:
    """Close the connection without a response."""


async def cut_body(connection: Connection) -> None:
    """End the body before its length."""
    connection.writer.write(response(200, raw=b'{"id": ', Content_Length="100"))


async def stall_head(connection: Connection) -> None:
    """Send nothing."""
    await connection.stall()


def stall_after(content: bytes) -> Step:
    """Send the beginning of a response and nothing more."""

    async def stall(connection: Connection) -> None:
        connection.writer.write(content)
        await connection.stall()

    return stall


stall_body = stall_after(response(200, raw=b"{", Content_Length="100"))


@define
class ScriptedServer:
    """Responds to each request with the next step; the last step is repeated."""

    steps: list[Step]
    refuse_first: int
    """Connections that are reset before anything is read from them."""
    read_bodies: bool
    """Whether the body of a request is read before its step."""
    url: str = ""
    requests: list[Request] = field(factory=list[Request])
    connections: int = 0
    open_connections: int = 0
    released: asyncio.Event = field(factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            if self.connections <= self.refuse_first:
                _reset(writer)
                return
            while True:
                request = await self._read(reader)
                step = self.steps[min(len(self.requests), len(self.steps) - 1)]
                self.requests.append(request)
                if not isinstance(step, bytes):
                    await step(Connection(request, reader, writer, self.released))
                    return
                writer.write(step)
                await writer.drain()
                if request.headers.get("Connection") == "close":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open_connections -= 1
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers: CIMultiDict[str] = CIMultiDict()
        for line in filter(None, head[1:]):
            name, _, value = line.partition(": ")
            headers.add(name, value)
        length = int(headers.get("Content-Length", "0")) if self.read_bodies else 0
        return Request(method, target, headers, await reader.readexactly(length))


@asynccontextmanager
async def serve(
    *steps: Step, refuse_first: int = 0, read_bodies: bool = True, port: int = 0
) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server on a port of loopback."""
    scripted = ScriptedServer(list(steps), refuse_first, read_bodies)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", port)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        scripted.released.set()
        server.close()
        await asyncio.sleep(0)
        if hasattr(server, "close_clients"):
            server.close_clients()
        await server.wait_closed()


def unused_port() -> int:
    """Return a port of loopback that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
