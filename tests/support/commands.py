"""The commands of ``avaturn``: in threads of this process, where they are fast, and in processes of their own."""

from __future__ import annotations

import asyncio
import io
import queue
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Self

from attrs import field, frozen
from yarl import URL

from avaturn_async.cli import main, make_parser

SECRET = "hush-hush-5ecret"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class _Lines(io.TextIOBase):
    """A text stream that keeps the lines of each thread apart. No line may contain the secret of the tests."""

    def __init__(self) -> None:
        self._lines: dict[int, queue.Queue[str]] = {}
        self._begun: dict[int, str] = {}

    def of_thread(self) -> queue.Queue[str]:
        """Return a new queue of the lines that the running thread prints from now on."""
        lines = self._lines[threading.get_ident()] = queue.Queue[str]()
        return lines

    def write(self, text: str) -> int:
        assert SECRET not in text
        thread = threading.get_ident()
        *lines, self._begun[thread] = (self._begun.get(thread, "") + text).split("\n")
        for line in lines:
            self._lines[thread].put(line)
        return len(text)


@frozen
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: list[str]
    err: list[str]


@frozen
class Server:
    """A command that listens."""

    url: str
    lines: queue.Queue[str] = field(repr=False)
    errors: queue.Queue[str] = field(repr=False)

    async def line(self) -> str:
        """Return the next line that it prints."""
        return await asyncio.to_thread(self.lines.get, timeout=20)


class Commands:
    """Runs commands in threads of this process."""

    def __init__(self) -> None:
        self._out = _Lines()
        self._err = _Lines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if sys.stdout is self._out:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

    def _capture(self) -> None:
        # Here and not in a fixture: pytest replaces both between setup and test.
        sys.stdout, sys.stderr = self._out, self._err

    async def run(self, *argv: str) -> Result:
        """Run a command that ends by itself."""
        self._capture()

        def run() -> Result:
            out, err = self._out.of_thread(), self._err.of_thread()
            try:
                code = main(argv)
            except SystemExit as ended:
                code = int(ended.code or 0)
            return Result(code, list(out.queue), list(err.queue))

        return await asyncio.to_thread(run)

    @asynccontextmanager
    async def serve(self, *argv: str) -> AsyncGenerator[Server]:
        """Run a command that listens, on a free port."""
        self._capture()
        options = make_parser().parse_args([*argv, "--port", "0"])
        started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Task[object] | None]] = queue.Queue()
        outputs: queue.Queue[queue.Queue[str]] = queue.Queue()

        async def serve() -> None:
            outputs.put(self._out.of_thread())
            outputs.put(self._err.of_thread())
            started.put((asyncio.get_running_loop(), asyncio.current_task()))
            with suppress(asyncio.CancelledError):
                await options.run(options)

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        loop, task = await asyncio.to_thread(started.get, timeout=20)
        assert task is not None
        lines, errors = outputs.get(), outputs.get()
        try:
            first = await asyncio.to_thread(lines.get, timeout=20)
            yield Server(next(word for word in first.split() if word.startswith("http://")), lines, errors)
        finally:
            loop.call_soon_threadsafe(task.cancel)
            await asyncio.to_thread(thread.join)


@asynccontextmanager
async def raw_server(
    response: bytes = OK, *, tls: ssl.SSLContext | None = None, stall: bool = False
) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Run a server that sends the same bytes to each request; yield its port and the bytes of the requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(h[15:]) for h in head.split(b"\r\n") if h.startswith(b"Content-Length:"))
        requests.append(head + await reader.readexactly(length))
        if stall:
            await reader.read()
        writer.write(response)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


async def post_raw(url: str, request: bytes) -> bytes:
    """Send bytes, and return the first line of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
    writer.write(request)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


def command_line(*argv: str, module: str = "avaturn_async") -> list[str]:
    """Return the command line of a process that runs a command."""
    return [sys.executable, "-m", module, *argv]


@contextmanager
def serving_process(*argv: str, module: str = "avaturn_async") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command that listens as a process of its own, on a free port; yield the process and its URL."""
    command = command_line(*argv, "--port", "0", module=module)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first, process.communicate()[1]
            yield process, next(word for word in first.split() if word.startswith("http://"))
        finally:
            process.kill()
