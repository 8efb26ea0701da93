"""Processes of their own for tests, made in milliseconds: one that has everything imported forks them."""

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
        "avaturn_async.webhooks.stores.sqlite",
    ]
)

# So long that only a process that hangs for ever gets there.
_PATIENCE = 60.0


class Process:
    """A process that runs ``run(pipe, *args)``; what it sends through its pipe is heard here.

    Args:
        heard: Called in the event loop with each thing it says, also with what it said before it was killed.
        gone: Called when it ended without being asked to.
    """

    def __init__(
        self, run: Callable[..., None], *args: Any, heard: Callable[[Any], None], gone: Callable[[], None]
    ) -> None:
        self._heard = heard
        self._gone = gone
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pipe.fileno(), self._listen)
        self.alive = True

    def tell(self, word: str) -> None:
        self._pipe.send(word)

    def kill(self) -> None:
        """SIGKILL; it has run its last instruction when this returns."""
        if self.alive:
            self._process.kill()
            self._process.join()
            while self._hear():
                pass
            self._hang_up()

    def _listen(self) -> None:
        if not self._hear():
            self._hang_up()
            self._gone()

    def _hear(self) -> bool:
        """Whether it had something to say; a sentence that was cut by its death is none."""
        try:
            said = self._pipe.recv()
        except (EOFError, OSError):
            return False
        self._heard(said)
        return True

    def _hang_up(self) -> None:
        self.alive = False
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        self._process.join()
        self._process.close()


class Processes:
    """Processes that work together, and one who waits for what they say."""

    def __init__(self) -> None:
        self._all: list[Process] = []
        self._dead = False
        self._news = asyncio.Event()

    def start(self, run: Callable[..., None], *args: Any, heard: Callable[[Any], None]) -> Process:
        def hear(said: Any) -> None:
            heard(said)
            self.look()

        process = Process(run, *args, heard=hear, gone=self._mourn)
        self._all.append(process)
        return process

    def look(self) -> None:
        """Have ``until`` look again."""
        self._news.set()

    async def until(self, fulfilled: Callable[[], bool]) -> None:
        """Wait until the processes have said enough."""
        async with asyncio.timeout(_PATIENCE):
            while not fulfilled():
                assert not self._dead, "a process ended by itself: see its stderr"
                self._news.clear()
                await self._news.wait()

    def kill(self) -> None:
        for process in self._all:
            process.kill()

    def _mourn(self) -> None:
        self._dead = True
        self.look()


@asynccontextmanager
async def processes() -> AsyncIterator[Processes]:
    """Processes that end with the block."""
    running = Processes()
    try:
        yield running
    finally:
        running.kill()
