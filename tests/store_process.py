"""A SQLiteStore in another process, which does what it is told over a pipe."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from forks import context

from avaturn_async.webhooks.stores import Arrival
from avaturn_async.webhooks.stores.sqlite import SQLiteStore


class StoreProcess:
    """Runs a store; ``kill`` is SIGKILL."""

    def __init__(self, path: Path, run: Callable[..., None] | None = None, *args: Any) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run or _serve, args=(theirs, path, *args), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the store there."""
        self._pipe.send((name, args, options))
        return await self.reply()

    async def reply(self) -> Any:
        """The next thing that the process has to say; EOFError if it is dead and has said all."""
        said = await asyncio.to_thread(self._pipe.recv)
        if isinstance(said, Exception):
            raise said
        return said

    def kill(self) -> None:
        """End it, at once."""
        self._process.kill()

    def last_words(self) -> list[Any]:
        """What it said until it was killed."""
        said: list[Any] = []
        try:
            while True:
                said.append(self._pipe.recv())
        except EOFError:
            return said
        finally:
            self._pipe.close()
            self._process.join()


def _serve(pipe: Connection, path: Path) -> None:
    asyncio.run(_do_as_told(pipe, path))


async def _do_as_told(pipe: Connection, path: Path) -> None:
    store = SQLiteStore(path)
    store._look_every = 3600.0  # a hint has to do
    await store.start()
    heard: asyncio.Queue[Iterable[str] | None] = asyncio.Queue()
    store.listen(heard.put_nowait)
    while True:
        name, args, options = await asyncio.to_thread(pipe.recv)
        try:
            if name == "heard":
                answer: Any = await heard.get()
            elif name == "limit_files":
                resource.setrlimit(resource.RLIMIT_FSIZE, (args[0], resource.RLIM_INFINITY))
                answer = None
            else:
                answer = await getattr(store, name)(*args, **options)
        except Exception as error:  # noqa: BLE001 - the one who called is told
            answer = error
        pipe.send(answer)


def append_without_end(pipe: Connection, path: Path, name: str, first: list[str], callers: int) -> None:
    """Append events until killed; says ("sent", key) before each, and (position, key) when it is answered."""

    async def run() -> None:
        store = SQLiteStore(path)
        await store.start()
        keys = (f"{name}-{os.getpid()}-{n}" for n in range(1_000_000_000))
        again = iter(first)

        async def call() -> None:
            while True:
                key = next(again, None) or next(keys)
                pipe.send(("sent", key))
                arrival = Arrival(key=key, body=key.encode() * 20, subjects=(f"avatar:{name}",))
                pipe.send((await store.append(arrival), key))

        await asyncio.gather(*(call() for _ in range(callers)))

    asyncio.run(run())
