"""What goes on in the background of FakeAvaturn, so that a test can wait for it and nothing outlives it."""

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
        """Run something in the background."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def settle(self) -> None:
        """Wait until nothing runs any more, what was begun meanwhile included.

        Raises:
            Exception: What one of the tasks raised: a mistake in a callable that was given to the fake.
        """
        while self.tasks:
            tasks = list(self.tasks)
            try:
                await asyncio.gather(*tasks)
            finally:
                # Their callbacks may be yet to come, and gather() does not pause for tasks that are done.
                self.tasks.difference_update(task for task in tasks if task.done())

    async def close(self) -> None:
        """Cancel everything and wait until it is gone."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
