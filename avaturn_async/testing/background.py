"""Background tasks of FakeAvaturn: a test can wait for them, and all end with the fake."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from attrs import field, frozen


@frozen
class Background:
    """A set of running tasks."""

    tasks: set[asyncio.Task[None]] = field(init=False, factory=set[asyncio.Task[None]])

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def wait_idle(self) -> None:
        """Wait until no task runs, including tasks that were started meanwhile.

        Raises:
            Exception: A task raised it: a callable that was passed to the fake is wrong.
        """
        while self.tasks:
            await self.wait_for(*self.tasks)

    async def wait_for(self, *tasks: asyncio.Task[None]) -> None:
        """Wait for tasks. A caller that is cancelled ends none of them, and the end of the fake ends the wait.

        Raises:
            Exception: A task raised it.
        """
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        # Their callbacks may not have run yet.
        self.tasks.difference_update(done)
        for task in done:
            if not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
