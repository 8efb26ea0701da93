"""The one connection of a process that hears what other processes put into Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import RedisError

from avaturn_async.webhooks.stores._redis_link import Link

__all__ = ["Hints"]

_log = logging.getLogger("avaturn_async.webhooks")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Hints:
    """Calls ``wake`` for whatever is published, and with None after each time that something may be lost.

    Pub/sub forgets what is published while nobody listens. So each confirmation of the subscription, the
    first and those after a reconnect, means: look at everything.

    Args:
        link: For the client, and for its deadline.
        channel: Where topics are published, one a line.
        wake: Called in the event loop.
        silence: Seconds without a word after which the server is asked whether it is still there; after
            three times that it is taken for gone.
    """

    def __init__(
        self,
        link: Link,
        channel: bytes,
        wake: Callable[[Iterable[str] | None], None],
        *,
        silence: float,
    ) -> None:
        self._link = link
        self._channel = channel
        self._wake = wake
        self._silence = silence
        self._heard = False
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        """Subscribe; returns when that is confirmed.

        Raises:
            StoreError: Redis is away, or refused.
        """
        try:
            pubsub = await self._subscribe()
        except (RedisError, OSError) as error:
            raise self._link.refusal(error) from None
        self._task = asyncio.create_task(self._stay(pubsub))

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _stay(self, pubsub: Any) -> None:
        """Listen, and come back whenever the connection is lost."""
        while True:
            try:
                await self._follow(pubsub)
            except Exception as error:  # noqa: BLE001 - whatever it was: not to listen lets waiters hang
                _log.warning("hears of no new events for now: %s", self._link.refusal(error))
            finally:
                await self._hang_up(pubsub)
            pubsub = await self._come_back()

    async def _come_back(self) -> Any:
        pause = _FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            try:
                pubsub = await self._subscribe()
            except Exception as error:  # noqa: BLE001 - as above
                _log.debug("still hears of no new events: %s", self._link.refusal(error))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                _log.info("hears of new events again")
                return pubsub

    async def _subscribe(self) -> Any:
        pubsub = self._link.redis.pubsub()
        deadline = self._link.deadline
        try:
            await self._link.within(deadline, pubsub.subscribe(self._channel))
            # Without permission it is this that fails.
            confirmed = await self._link.within(2 * deadline, pubsub.get_message(timeout=deadline))
        except BaseException:
            await self._hang_up(pubsub)
            raise
        if confirmed is None:
            await self._hang_up(pubsub)
            raise TimeoutError("the subscription was not confirmed")
        self._tell(confirmed)
        return pubsub

    async def _follow(self, pubsub: Any) -> None:
        """Listen until the connection is lost, and raise what it was lost by."""
        reading = self._link.begin(self._read(pubsub))
        try:
            while not reading.done():
                self._heard = False
                await asyncio.wait((reading,), timeout=3 * self._silence)
                if not self._heard and not reading.done():
                    raise TimeoutError("the server is silent")
        finally:
            self._link.end(reading)
        await reading

    async def _read(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(timeout=self._silence)
            # Coverage on Python 3.11 loses track here, where a timeout passes through from below.
            if message is None:  # pragma: no branch
                await pubsub.ping()
            else:
                self._heard = True
                self._tell(message)

    async def _hang_up(self, pubsub: Any) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._link.within(self._link.deadline, pubsub.aclose())

    def _tell(self, message: Any) -> None:
        if message["type"] == "subscribe":
            self._wake(None)
        elif message["type"] == "message":
            lines = message["data"]
            text = lines.decode() if isinstance(lines, bytes) else str(lines)
            self._wake(text.split("\n") if text else ())
