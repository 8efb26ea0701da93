"""The promise that a store answers a webhook within 2.5 seconds, measured on machines that are busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PROMISE = 2.5
"""Seconds in which a webhook is answered."""
TICK = 0.05
BLOCKED = 0.5
"""A sleep of a tick that takes longer was held up by code that blocks the event loop, not by other processes."""


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Fail if the block takes longer than the promise; a short sleep counts as what it was meant to take."""
    loop = asyncio.get_running_loop()
    passed = 0.0

    async def count() -> None:
        nonlocal passed
        while True:
            began = loop.time()
            await asyncio.sleep(TICK)
            seconds = loop.time() - began
            passed += TICK if seconds < BLOCKED else seconds

    counter = asyncio.ensure_future(count())
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        counter.cancel()
    assert passed < PROMISE
