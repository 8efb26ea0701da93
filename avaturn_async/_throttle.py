"""How many calls of a client run at once, and the pause that all of them make after a 429.

After a 429 the client pauses. Then one call goes first; each round of successes lets one more run, up to the
maximum. So a burst of calls does not run into the same limit again after each pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from avaturn_async._retry import RetryPolicy, get_backoff


class Throttle:
    """Slots for the calls of one client in one event loop.

    Args:
        max_concurrency: Most calls at once.
        policy: Bounds the pauses after a 429 without Retry-After.
        sleep: Sleeps a number of seconds.
        random: Returns a number from 0 up to 1.
        monotonic: Returns the seconds of a clock that never goes back.
    """

    def __init__(
        self,
        max_concurrency: int,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._max = max_concurrency
        self._policy = policy
        self._sleep = sleep
        self._random = random
        self._monotonic = monotonic
        # Calls that may run now; below _max while the client recovers from a 429.
        self._limit = max_concurrency
        # Successes since _limit changed.
        self._successes = 0
        # Calls that hold a slot.
        self._active = 0
        # Calls that wait for a slot, oldest first.
        self._waiters: deque[asyncio.Future[None]] = deque()
        # When the last pause was announced, and when it ends.
        self._paused_at = 0.0
        self._paused_until = 0.0
        # Pauses in a row that ended with another 429; the backoff grows with it.
        self._failed_pauses = 0
        self._succeeded_since_pause = True

    async def acquire(self, *, first: bool = False) -> float:
        """Wait for a slot and for the end of a pause. Return the time, for ``pause``.

        Args:
            first: Whether the call goes before those that wait: it was refused with a 429 before.
        """
        if self._active >= self._limit:
            waiter = asyncio.get_running_loop().create_future()
            if first:
                self._waiters.appendleft(waiter)
            else:
                self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():
                    self._give_back()
                raise
        else:
            self._active += 1
        try:
            while (now := self._monotonic()) < self._paused_until:
                await self._sleep(self._paused_until - now)
        except BaseException:
            self._give_back()
            raise
        return now

    def release(self, *, succeeded: bool) -> None:
        """Give the slot back. After as many successes as calls may run, one more may.

        Args:
            succeeded: Whether the attempt ended, and not with a 429.
        """
        if succeeded:
            self._succeeded_since_pause = True
            self._successes += 1
            if self._limit < self._max and self._successes >= self._limit:
                self._limit += 1
                self._successes = 0
            if self._limit == self._max:
                self._failed_pauses = 0
        self._give_back()

    def pause(self, began: float, retry_after: float | None) -> float:
        """Pause all calls after a 429. Return the seconds of the pause.

        Args:
            began: When the refused attempt began, as ``acquire`` returned it.
            retry_after: Seconds that the server asked for, if it did.
        """
        now = self._monotonic()
        if began >= self._paused_at:
            # Attempts that began before the last pause say nothing about the time after it.
            if self._succeeded_since_pause:
                self._failed_pauses = max(self._failed_pauses, 1)
            else:
                self._failed_pauses += 1
            self._succeeded_since_pause = False
            self._paused_at = now
            self._limit = 1
            self._successes = 0
        delay = retry_after
        if delay is None:
            # Not below half of the backoff: the pause is shared, so a short one would waste an attempt.
            delay = get_backoff(self._policy, max(self._failed_pauses, 1)) * (0.5 + self._random() / 2)
        self._paused_until = max(self._paused_until, now + delay)
        return delay

    def _give_back(self) -> None:
        self._active -= 1
        while self._waiters and self._active < self._limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._active += 1
                waiter.set_result(None)
