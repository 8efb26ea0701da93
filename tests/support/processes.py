"""Child processes for tests, started in milliseconds: a process that has imported everything forks them."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "aiohttp.web",
        "redis.asyncio",
        "avaturn_async",
        "avaturn_async.webhooks",
        "avaturn_async.webhooks.stores.redis",
    ]
)

# Seconds; long enough for any process that does not hang.
_TIMEOUT = 60.0


class Process:
    """A process that runs ``run(pipe, *args)``; the test receives what it sends through its pipe.

    Args:
        on_message: Called in the event loop with each message, also with those sent before the process was killed.
        on_exit: Called when the process ended by itself.
    """

    def __init__(
        self, run: Callable[..., None], *args: Any, on_message: Callable[[Any], None], on_exit: Callable[[], None]
    ) -> None:
        self._on_message = on_message
        self._on_exit = on_exit
        self._pipe, other_end = context.Pipe()
        self._process = context.Process(target=run, args=(other_end, *args), daemon=True)
        self._process.start()
        other_end.close()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._on_readable)
        self.alive = True

    def send(self, message: str) -> None:
        self._pipe.send(message)

    def kill(self) -> None:
        """Kill the process; it runs no instruction after this returns."""
        if self.alive:
            self._process.kill()
            self._process.join()
            while self._receive():
                pass
            self._close()

    def _on_readable(self) -> None:
        if not self._receive():
            self._close()
            self._on_exit()

    def _receive(self) -> bool:
        """Return whether a whole message arrived."""
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            return False
        self._on_message(message)
        return True

    def _close(self) -> None:
        self.alive = False
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        self._process.join()
        self._process.close()


class Processes:
    """Processes that work together, and a test that waits for their messages."""

    def __init__(self) -> None:
        self._all: list[Process] = []
        self._one_ended = False
        self._changed = asyncio.Event()

    def start(self, run: Callable[..., None], *args: Any, on_message: Callable[[Any], None]) -> Process:
        def receive(message: Any) -> None:
            on_message(message)
            self.notify()

        process = Process(run, *args, on_message=receive, on_exit=self._on_exit)
        self._all.append(process)
        return process

    def notify(self) -> None:
        """Let ``wait_until`` check its condition."""
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_TIMEOUT):
            while not condition():
                assert not self._one_ended, "a process ended by itself: see its stderr"
                self._changed.clear()
                await self._changed.wait()

    def kill(self) -> None:
        for process in self._all:
            process.kill()

    def _on_exit(self) -> None:
        self._one_ended = True
        self.notify()


@asynccontextmanager
async def running_processes() -> AsyncIterator[Processes]:
    """Yield processes that end with the block."""
    processes = Processes()
    try:
        yield processes
    finally:
        processes.kill()
