"""A server on loopback that answers as its script says, byte for byte: for what a real server never shows."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field, frozen


@frozen
class Received:
    """A request as it stood on the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@define
class Connection:
    """One connection, for a step of the script to misbehave on."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    released: asyncio.Event

    def reset(self) -> None:
        """End it with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def stall(self) -> None:
        """Say nothing more until the server ends."""
        await self.released.wait()


Step = bytes | Callable[[Connection], Awaitable[None]]


def answer(status: int, body: Any = None, *, raw: bytes | None = None, **headers: str) -> bytes:
    """A whole response; ``body`` goes out as JSON, ``raw`` as it is; header names use _ for -."""
    content = raw if raw is not None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def reset(connection: Connection) -> None:
    """The request was read, and the connection breaks."""
    connection.reset()


async def stall_head(connection: Connection) -> None:
    """The request was read, and nothing comes."""
    await connection.stall()


async def stall_body(connection: Connection) -> None:
    """The head comes, the body does not."""
    connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await connection.stall()


async def cut_body(connection: Connection) -> None:
    """The body ends before its length."""
    connection.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": ')
    await connection.writer.drain()
    connection.writer.close()


async def hang_up(connection: Connection) -> None:
    """The request was read, and the connection ends without a word."""
    connection.writer.close()


@define
class ScriptedServer:
    """Answers each request with the next step; the last step is used again and again."""

    steps: list[Step]
    refuse_first: int = 0
    """Connections that are reset before anything is read of them."""
    url: str = ""
    requests: list[Received] = field(factory=list[Received])
    connections: int = 0
    _released: asyncio.Event = field(factory=asyncio.Event)
    _answered: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, self._released)
        self.connections += 1
        try:
            if self.connections <= self.refuse_first:
                connection.reset()
                return
            while True:
                self.requests.append(await self._read(reader))
                step = self.steps[min(self._answered, len(self.steps) - 1)]
                self._answered += 1
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await step(connection)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("Content-Length", "0")))
        return Received(method, target, headers, body)


@asynccontextmanager
async def serve(*steps: Step, refuse_first: int = 0) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server on a free port of loopback."""
    scripted = ScriptedServer(list(steps), refuse_first)
    server = await asyncio.start_server(scripted._serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        scripted._released.set()
        server.close()
        await asyncio.sleep(0)
        if hasattr(server, "close_clients"):
            server.close_clients()
        await server.wait_closed()


def unused_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
