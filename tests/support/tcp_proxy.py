"""A TCP proxy that treats connections as a bad network does."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class TcpProxy:
    """Stands between a client and a server on loopback.

    Args:
        target: Port of the server.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        # Connections that lost data to blackhole(), by their writers.
        self._lossy: set[asyncio.StreamWriter] = set()
        # Set unless stall() was called.
        self._flows = asyncio.Event()
        self._flows.set()
        self._drops_data = False
        self._loses_reply_to: bytes | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections and reset the others, until ``start()``."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.reset()

    async def reset(self) -> None:
        """Reset all connections."""
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def move(self, target: int) -> None:
        """Lead new connections to another port; the others stay, as when an address moves at a failover."""
        self._target = target

    def stall(self) -> None:
        """Keep data back in both directions until ``flow()``."""
        self._flows.clear()

    def blackhole(self) -> None:
        """Lose data in both directions, also on new connections."""
        self._drops_data = True

    def flow(self) -> None:
        """Pass data again. A connection that has lost some ends, since TCP cannot go on."""
        self._flows.set()
        self._drops_data = False
        for writer in self._lossy:
            writer.transport.abort()

    def lose_reply_to(self, word: bytes) -> None:
        """Pass the next request that holds this word on, and reset its connection in place of the reply."""
        self._loses_reply_to = word

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
            reply_is_lost = asyncio.Event()
            pumps.append(asyncio.create_task(self._pass_requests(reader, to_server, reply_is_lost)))
            pumps.append(asyncio.create_task(self._pass_replies(from_server, writer, reply_is_lost)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # by reset(), which is the end of this task
        finally:
            for pump in pumps:
                pump.cancel()
            for each in writers:
                each.transport.abort()
            self._lossy -= set(writers)

    async def _pass_requests(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, reply_is_lost: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if self._loses_reply_to is not None and self._loses_reply_to in data:
                    self._loses_reply_to = None
                    reply_is_lost.set()
                await self._forward(data, sink)

    async def _pass_replies(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, reply_is_lost: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while (data := await source.read(65_536)) and not reply_is_lost.is_set():
                await self._forward(data, sink)

    async def _forward(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        if self._drops_data:
            self._lossy.add(sink)
        else:
            sink.write(data)
            await sink.drain()
