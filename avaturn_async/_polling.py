"""Asking again and again, for all who wait for the same thing at once, until a deadline."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from attrs import Attribute, define, field, frozen

from avaturn_async._arguments import checked_seconds, seconds_from_zero
from avaturn_async.errors import (
    AvaturnConnectionError,
    AvaturnStatusError,
    AvaturnTimeoutError,
    RateLimitError,
    ServerError,
    StoreError,
)

logger = logging.getLogger("avaturn_async.waiting")

T = TypeVar("T")
R = TypeVar("R")


def _factor(_: Any, attribute: Attribute[float], value: float) -> None:
    if type(value) not in (int, float) or not 1 <= value <= 10:  # noqa: PLR2004 - said in the message
        raise ValueError(f"{attribute.name} must be a number from 1 to 10, not {value!r}")


@frozen(kw_only=True)
class PollPolicy:
    """How often the API is asked while something is waited for.

    The n-th pause is drawn evenly from the upper half of ``min(cap, first * factor ** n)`` seconds, so that
    many who began together do not ask together.

    Raises:
        ValueError: A number makes no sense.
    """

    first: float = field(default=1.0, validator=seconds_from_zero)
    """Seconds of the first pause."""
    factor: float = field(default=1.5, validator=_factor)
    """How much longer each pause is than the one before."""
    cap: float = field(default=15.0, validator=seconds_from_zero)
    """Seconds of the longest pause."""

    def pause(self, n: int, dice: Callable[[], float] = random.random) -> float:
        """Seconds of the n-th pause, counted from 0."""
        longest = min(self.cap, self.first * self.factor ** min(n, 100))
        return longest * (0.5 + dice() / 2)


@asynccontextmanager
async def deadline_of(timeout: float, complaint: str) -> AsyncGenerator[None]:
    """Seconds for what is done inside; past them an AvaturnTimeoutError that begins with the complaint."""
    checked_seconds("timeout", timeout)
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise AvaturnTimeoutError(f"{complaint} within {timeout:g} s") from None


async def first(
    client: object,
    key: Hashable,
    ask: Callable[[], Awaitable[T | None]],
    poll: PollPolicy,
    *,
    hear: Callable[[R], Coroutine[Any, Any, T | None]],
    router: R | None,
) -> T:
    """What comes first: the webhook, or the answer that polling waits for.

    Args:
        client: The client that is asked.
        key: What is waited for; those who wait for the same thing share the polling.
        ask: Asks the API once; None when there is nothing yet.
        poll: How often it is asked.
        hear: Waits for the webhook; None when that says too little.
        router: Gets the webhooks, if there is one.
    """
    async with _polling(client, key, ask, poll) as polling:
        if router is None:
            return await asyncio.shield(polling)
        hearing = asyncio.create_task(hear(router))
        try:
            await asyncio.wait({polling, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if not polling.done():
                answer = await _told(hearing, ask)
                if answer is not None:
                    return answer
            return await asyncio.shield(polling)
        finally:
            await _end(hearing)


async def _told(hearing: asyncio.Task[T | None], ask: Callable[[], Awaitable[T | None]]) -> T | None:
    """What the webhook tells; nothing when the router's store is away, since polling does without it."""
    try:
        told = hearing.result()
    except StoreError as error:
        logger.debug("no webhook can be heard of: %s", error)
        return None
    # An event that says too little is at least a reason to ask now.
    return told or (await _asked(ask))[0]


@define(eq=False)
class _Loop(Generic[T]):
    """A loop that polls, and how many wait for what it brings."""

    task: asyncio.Task[T]
    waiters: int = 0


_loops_of: WeakKeyDictionary[object, dict[Hashable, _Loop[Any]]] = WeakKeyDictionary()


@asynccontextmanager
async def _polling(
    client: object, key: Hashable, ask: Callable[[], Awaitable[T | None]], poll: PollPolicy
) -> AsyncGenerator[asyncio.Task[T]]:
    """The one loop that asks for this: begun with the first who waits, ended with the last."""
    loops = _loops_of.setdefault(client, {})
    if key not in loops:
        loops[key] = _Loop(asyncio.create_task(_poll_until(ask, poll)))
    loop = loops[key]
    loop.waiters += 1
    try:
        yield loop.task
    finally:
        loop.waiters -= 1
        if loop.waiters == 0:
            del loops[key]
            await _end(loop.task)


async def _poll_until(ask: Callable[[], Awaitable[T | None]], poll: PollPolicy) -> T:
    n = 0
    while True:
        answer, not_before = await _asked(ask)
        if answer is not None:
            return answer
        await asyncio.sleep(max(poll.pause(n), not_before))
        n += 1


async def _asked(ask: Callable[[], Awaitable[T | None]]) -> tuple[T | None, float]:
    """The answer, or None and the seconds not to ask again, when the API cannot be asked for a while."""
    try:
        return await ask(), 0
    except (AvaturnConnectionError, RateLimitError, ServerError) as error:
        logger.debug("asked in vain: %s", error)
        after = error.retry_after if isinstance(error, AvaturnStatusError) else None
        return None, after or 0


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel a task that nobody needs any more, and see it end."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it as lost
