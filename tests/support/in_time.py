"""The promise that a store answers a webhook within 2.5 seconds, measured on machines that are busy."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PROMISE = 2.5
"""Seconds in which a webhook is answered."""
TICK = 0.05


class _Ticker(threading.Thread):
    """Counts short sleeps: while a busy machine gives this process no time, no sleep ends."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ticks = 0

    def run(self) -> None:
        while True:
            time.sleep(TICK)
            self.ticks += 1


_ticker = _Ticker()


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Fail if the block takes longer than the promise, also if it blocks the event loop."""
    if _ticker.ident is None:
        _ticker.start()
    began = _ticker.ticks
    async with asyncio.timeout(30):
        yield
    assert (_ticker.ticks - began) * TICK < PROMISE
