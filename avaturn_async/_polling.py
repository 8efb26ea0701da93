"""Asking again and again, for all who wait for the same thing at once, until a deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from attrs import Attribute, define, field, frozen

from avaturn_async.errors import (
    AvaturnConnectionError,
    AvaturnTimeoutError,
    RateLimitError,
    ServerError,
    StoreError,
)

logger = logging.getLogger("avaturn_async.waiting")

T = TypeVar("T")
R = TypeVar("R")


def _seconds(_: Any, attribute: Attribute[float], value: float) -> None:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{attribute.name} must be a number of seconds from 0 up, not {value!r}")


def _factor(_: Any, attribute: Attribute[float], value: float) -> None:
    if type(value) not in (int, float) or not 1 <= value <= 10:  # noqa: PLR2004 - said in the message
        raise ValueError(f"{attribute.name} must be a number from 1 to 10, not {value!r}")


@frozen(kw_only=True)
class PollPolicy:
    """How often the API is asked while something is waited for.

    The n-th pause is drawn evenly from the upper half of ``min(cap, first * factor ** n)`` seconds, so that
    many who began together do not ask together.
    """

    first: float = field(default=1.0, validator=_seconds)
    """Seconds of the first pause."""
    factor: float = field(default=1.5, validator=_factor)
    """How much longer each pause is than the one before."""
    cap: float = field(default=15.0, validator=_seconds)
    """Seconds of the longest pause."""

    def pause(self, n: int, dice: Callable[[], float] = random.random) -> float:
        """Seconds of the n-th pause, counted from 0."""
        longest = min(self.cap, self.first * self.factor ** min(n, 100))
        return longest * (0.5 + dice() / 2)


@asynccontextmanager
async def deadline_of(timeout: float, complaint: str) -> AsyncGenerator[None]:
    if type(timeout) not in (int, float) or not math.isfinite(timeout) or timeout < 0:
        raise ValueError(f"timeout must be a number of seconds from 0 up, not {timeout!r}")
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
    else:
        return
    raise AvaturnTimeoutError(f"{complaint} within {timeout:g} s")


async def first(
    shared: _SharedPoll[T],
    ask: Callable[[], Awaitable[T | None]],
    hear: Callable[[R], Awaitable[T | None]],
    router: R | None,
) -> T:
    """What comes first: the webhook, or the answer that polling waits for."""
    async with shared as polling:
        if router is None:
            return await asyncio.shield(polling)
        hearing = asyncio.ensure_future(hear(router))
        try:
            await asyncio.wait({polling, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if not polling.done():
                answer = await _told(hearing, ask)
                if answer is not None:
                    return answer
            return await asyncio.shield(polling)
        finally:
            hearing.cancel()
            await asyncio.wait({hearing})


async def _told(hearing: asyncio.Future[T | None], ask: Callable[[], Awaitable[T | None]]) -> T | None:
    """What the webhook tells; nothing when the router's store is away, since polling does without it."""
    try:
        told = hearing.result()
    except StoreError as error:
        logger.debug("no webhook can be heard of: %s", error)
        return None
    # An event that says too little is at least a reason to ask now.
    return told or (await _asked(ask))[0]


async def _asked(ask: Callable[[], Awaitable[T | None]]) -> tuple[T | None, float]:
    """The answer, or None and the seconds not to ask again, when the API cannot be asked for a while."""
    try:
        return await ask(), 0
    except (AvaturnConnectionError, ServerError, RateLimitError) as error:
        logger.debug("asked in vain: %s", error)
        after = error.retry_after if isinstance(error, RateLimitError) else None
        return None, after or 0


async def _poll_until(ask: Callable[[], Awaitable[T | None]], poll: PollPolicy) -> T:
    n = 0
    while True:
        answer, not_before = await _asked(ask)
        if answer is not None:
            return answer
        await asyncio.sleep(max(poll.pause(n), not_before))
        n += 1


@define(eq=False)
class _SharedPoll(Generic[T]):
    """One polling loop for all who wait for the same thing; it ends with the last of them."""

    loops: dict[Hashable, _SharedPoll[Any]]
    key: Hashable
    polling: asyncio.Task[T]
    waiters: int = 0

    async def __aenter__(self) -> asyncio.Task[T]:
        self.waiters += 1
        return self.polling

    async def __aexit__(self, *_: object) -> None:
        self.waiters -= 1
        if self.waiters == 0:
            del self.loops[self.key]
            self.polling.cancel()
            await asyncio.wait({self.polling})
            if not self.polling.cancelled():
                # Whoever waited has it, or left with the webhook's word: asyncio need not complain.
                self.polling.exception()


_loops_of: WeakKeyDictionary[object, dict[Hashable, _SharedPoll[Any]]] = WeakKeyDictionary()


def polled(
    client: object, key: Hashable, ask: Callable[[], Awaitable[T | None]], poll: PollPolicy
) -> _SharedPoll[T]:
    """The loop that asks for this, begun if there is none."""
    loops = _loops_of.setdefault(client, {})
    if key not in loops:
        loops[key] = _SharedPoll(loops, key, asyncio.ensure_future(_poll_until(ask, poll)))
    return loops[key]
