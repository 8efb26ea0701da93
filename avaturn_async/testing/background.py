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
            tasks = list(self.tasks)
            try:
                await asyncio.gather(*tasks)
            finally:
                # The callbacks of finished tasks may not have run yet, and gather() does not pause for such tasks.
                self.tasks.difference_update(task for task in tasks if task.done())

    async def close(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
