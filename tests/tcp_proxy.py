"""A TCP proxy that treats connections as a bad network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TcpProxy:
    """Stands between a client and a server on loopback.

    Args:
        target: Port of the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._holed: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._swallows = False
        self._loses_reply_to: bytes | None = None
        self._awaited: dict[bytes, asyncio.Event] = {}
        self.port = 0
        self.lost = 0
        """How many replies were lost."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Nobody listens any more, and every connection is reset; ``start()`` listens again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.reset()

    async def reset(self) -> None:
        """Every connection is reset."""
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def stall(self) -> None:
        """What is sent is kept back, both ways, and arrives after ``flow()``."""
        self._flows.clear()

    def blackhole(self) -> None:
        """What is sent is lost, both ways, also on new connections, and nobody is told."""
        self._swallows = True

    def flow(self) -> None:
        """Be a good network again. A connection that has lost something ends: TCP has no holes."""
        self._flows.set()
        self._swallows = False
        for writer in self._holed:
            writer.transport.abort()

    def lose_reply_to(self, word: bytes) -> None:
        """The next request with this word reaches the server; instead of the reply comes a reset."""
        self._loses_reply_to = word

    async def forwards(self, word: bytes) -> None:
        """Wait for the next request with this word, also if it is kept back or lost then."""
        async with asyncio.timeout(10):
            await self._awaited.setdefault(word, asyncio.Event()).wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(to_server)
            doomed = asyncio.Event()
            pumps.append(asyncio.create_task(self._requests(reader, to_server, doomed)))
            pumps.append(asyncio.create_task(self._replies(from_server, writer, doomed)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # by reset(), which is the end of this task
        finally:
            for pump in pumps:
                pump.cancel()
            for each in writers:
                each.transport.abort()
            self._holed -= set(writers)

    async def _requests(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if self._loses_reply_to is not None and self._loses_reply_to in data:
                    self._loses_reply_to = None
                    doomed.set()
                for word in [word for word in self._awaited if word in data]:
                    self._awaited.pop(word).set()
                await self._forward(data, sink)

    async def _replies(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if doomed.is_set():
                    self.lost += 1
                    return
                await self._forward(data, sink)

    async def _forward(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        if self._swallows:
            self._holed.add(sink)
        else:
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def running_proxy(target: int) -> AsyncIterator[TcpProxy]:
    """A proxy to a port for the time of the block."""
    proxy = TcpProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        proxy.flow()
        await proxy.refuse()
