"""Blocking work in a thread, without leaving it behind."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread and give what it gives.

    ``asyncio.to_thread`` returns at once when it is cancelled and lets the thread run on, with the file that
    the caller is about to close. Here a cancelled caller waits for the thread to end, and is cancelled then.
    """
    work = asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Looked at, so that asyncio does not report it as lost; to be cancelled comes first.
        work.exception()
        raise cancelled
    return work.result()
