"""What a router does now and then while it runs: drop what expired, and look for what others left behind."""

from __future__ import annotations

import asyncio
import logging

from avaturn_async.errors import StoreError
from avaturn_async.webhooks._handlers import Handlers
from avaturn_async.webhooks._inbox import Inbox

_log = logging.getLogger("avaturn_async.webhooks")
_EXPIRE_AT_ONCE = 200


class Tending:
    """Runs beside a router, between its start and its close."""

    def __init__(self, inbox: Inbox, handlers: Handlers) -> None:
        self._inbox = inbox
        self._handlers = handlers
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Twice is fine."""
        if self._task is None:
            self._task = asyncio.create_task(self._tend(), name="tend the event store")

    async def stop(self) -> None:
        """End. Twice is fine."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _tend(self) -> None:
        store = await self._inbox.ready()
        while True:
            await asyncio.sleep(store.takeover / 3)
            try:
                # In slices, so that nobody waits for a long clean-up.
                while await store.expire(limit=_EXPIRE_AT_ONCE):  # noqa: ASYNC110 - others get a turn
                    await asyncio.sleep(0)
            except StoreError as error:
                _log.warning("the event store could not drop what expired: %s", error)
            self._handlers.wake()
