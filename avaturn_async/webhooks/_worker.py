"""Worker: brings each event to one handler, again and again until it succeeds or the attempts are used up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from attrs import frozen

from avaturn_async.errors import StoreError, WebhookPayloadError
from avaturn_async.webhooks._inbox import Inbox
from avaturn_async.webhooks.events import Event
from avaturn_async.webhooks.stores import StoredEvent

_log = logging.getLogger("avaturn_async.webhooks")
# Most events that one handler may hold at a time, those included that wait for their next attempt.
_MOST_HELD = 1_000
_LONGEST_BACKOFF = 300.0
_SETTLE_AGAIN = 5.0
_ASK_AGAIN = 1.0


@frozen(kw_only=True)
class Limits:
    """How handlers are run; times in seconds."""

    timeout: float
    attempts: int
    backoff: float
    concurrency: int
    grace: float
    """How long an opener may take to appear before an event counts as unrouted."""
    random: Callable[[], float]

    def __attrs_post_init__(self) -> None:
        if not (self.timeout > 0 and self.backoff >= 0 and min(self.attempts, self.concurrency) >= 1):
            raise ValueError(
                "handler_timeout must be above 0, handler_backoff at least 0,"
                " handler_attempts and handler_concurrency at least 1"
            )


@frozen(kw_only=True)
class Handler:
    """A function that was registered."""

    name: str
    """Its group in the store."""
    function: Callable[..., Awaitable[object]]
    event_types: tuple[type[Event], ...]
    """What it wants to see."""
    arguments: Callable[[Event, str | None], Awaitable[tuple[object, ...] | None]]
    """What to call it with, given the session that the store brought an event to; None if not at all."""
    early: Callable[[Event], Awaitable[bool]] | None = None
    """Whether an opener may yet appear, so that the first attempt has to wait for the grace."""


class Worker:
    """One handler at work, between the opening and the closing of its router."""

    def __init__(
        self,
        handler: Handler,
        inbox: Inbox,
        limits: Limits,
        *,
        share: int,
        slots: asyncio.Semaphore,
        closing: asyncio.Event,
    ) -> None:
        self._handler = handler
        self._inbox = inbox
        self._limits = limits
        self._share = share
        self._own_slots = asyncio.Semaphore(share)
        self._slots = slots
        self._closing = closing
        self._joined = False
        self._reached = 0
        self._again = False
        self._claiming: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._held: dict[int, asyncio.Task[None]] = {}
        self._resting = 0

    def wake(self) -> None:
        """Look for events to handle. At most one task does, and only while there are some."""
        self._again = True
        if self._claiming is None and self._free() > 0:
            self._claiming = asyncio.create_task(self._claim_all(), name=f"claim for {self._handler.name}")

    async def drain(self) -> None:
        """Finish what is begun, and what came in through this process; give the rest back.

        What waits for its next attempt gets it at once: the router has set ``closing`` before.
        """
        try:
            if self._claiming is not None:
                await self._claiming
            # If memory is all there is, nobody else would handle these.
            while self._reached < self._inbox.newest and await self._claim_when_free():
                pass
            while self._held:
                await asyncio.wait(self._held.values())
        finally:
            # The renewal of claims, and whatever else runs if it is the close that is cancelled.
            left = [t for t in (*self._held.values(), self._claiming, self._renewing) if t is not None]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)

    def _free(self) -> int:
        """How many events more may be claimed: no more than can run now, so that others get their part."""
        running = len(self._held) - self._resting
        return min(self._share - running, _MOST_HELD - len(self._held))

    async def _claim_all(self) -> None:
        try:
            while self._again and self._free() > 0 and not self._closing.is_set():
                self._again = False
                if await self._claim():
                    self._again = True
                    # A store in memory never waits: with much to catch up on, others have to get a turn.
                    await asyncio.sleep(0)
        finally:
            self._claiming = None

    async def _claim_when_free(self) -> int:
        while self._free() <= 0:
            await asyncio.wait(self._held.values(), return_when=asyncio.FIRST_COMPLETED)
        return await self._claim()

    async def _claim(self) -> int:
        """Claim events and begin with those that the handler wants to see; how many were claimed."""
        name = self._handler.name
        try:
            store = await self._inbox.ready()
            if not self._joined:
                await store.join(name)
                self._joined = True
            claimed = await store.claim(name, limit=self._free())
            unwanted = [stored.position for stored in claimed if not self._begin(stored)]
            if unwanted:
                await store.finish(name, unwanted)
        except StoreError as error:
            # The router wakes everybody now and then, and so does the next event.
            _log.warning("handler %s: the store gives no events: %s", name, error)
            return 0
        return len(claimed)

    def _begin(self, stored: StoredEvent) -> bool:
        """Begin with an event, if the handler wants to see it."""
        position = stored.position
        self._reached = max(self._reached, position)
        try:
            event = self._inbox.event(stored)
        except WebhookPayloadError:
            _log.error("handler %s: what is stored at position %d is no event", self._handler.name, position)
            return False
        if not isinstance(event, self._handler.event_types):
            return False
        task = asyncio.create_task(self._deliver(event, stored.session_id), name=self._handler.name)
        self._held[position] = task
        task.add_done_callback(lambda _: self._end(position))
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name=f"claims of {self._handler.name}")
        return True

    def _end(self, position: int) -> None:
        del self._held[position]
        if self._again:
            self.wake()

    async def _renew(self) -> None:
        """Hold on to what was claimed, for as long as there is anything."""
        try:
            while self._held:
                store = await self._inbox.ready()
                await asyncio.sleep(store.takeover / 3)
                with suppress(StoreError):
                    await store.hold(self._handler.name, tuple(self._held))
        finally:
            self._renewing = None

    async def _deliver(self, event: Event, session_id: str | None) -> None:
        with suppress(StoreError):
            if self._handler.early is not None and await self._handler.early(event):
                await self._rest(self._limits.grace)
        done = await self._attempts(event, session_id)
        await self._settle(event.position, done=done)

    async def _attempts(self, event: Event, session_id: str | None) -> bool:
        """Whether the handler is through with an event: it succeeded, or every attempt failed."""
        attempt = 1
        while not (succeeded := await self._attempt(event, session_id, attempt)):
            called = succeeded is not None
            if called and attempt == self._limits.attempts:
                return True
            if self._closing.is_set():
                return False
            await self._rest(self._backoff(attempt) if called else _ASK_AGAIN)
            attempt += called
        return True

    def _backoff(self, attempt: int) -> float:
        longest = min(self._limits.backoff * 2.0 ** min(attempt - 1, 30), _LONGEST_BACKOFF)
        return longest * (1 + self._limits.random()) / 2

    async def _attempt(self, event: Event, session_id: str | None, attempt: int) -> bool | None:
        """Whether the handler succeeded; None if it was not called, for the store was away."""
        called = False
        async with self._own_slots, self._slots:
            try:
                async with asyncio.timeout(self._limits.timeout):
                    arguments = await self._handler.arguments(event, session_id)
                    called = True
                    if arguments is not None:
                        await self._handler.function(*arguments)
            except (Exception, asyncio.CancelledError) as error:
                # A cancellation may also come out of something that the handler waited for.
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                if isinstance(error, StoreError | TimeoutError) and not called:
                    name, position = self._handler.name, event.position
                    _log.warning("handler %s: the store is away (position %d): %s", name, position, error)
                    return None
                self._report(event, attempt, error)
                return False
        return True

    def _report(self, event: Event, attempt: int, error: BaseException) -> None:
        last = attempt == self._limits.attempts
        _log.log(
            logging.ERROR if last else logging.WARNING,
            "handler %s failed at %s (position %d), attempt %d of %d%s",
            self._handler.name,
            type(event).__name__,
            event.position,
            attempt,
            self._limits.attempts,
            ": giving up" if last else "",
            exc_info=error,
        )

    async def _settle(self, position: int, *, done: bool) -> None:
        """Tell the store that an event was handled, or that others may try."""
        name = self._handler.name
        while True:
            try:
                store = await self._inbox.ready()
                await (store.finish if done else store.release)(name, (position,))
            except StoreError as error:
                _log.warning("handler %s: the store was not told of position %d: %s", name, position, error)
            else:
                return
            if self._closing.is_set():
                # The claim lapses, and another process handles the event again.
                return
            await self._rest(_SETTLE_AGAIN)

    async def _rest(self, seconds: float) -> None:
        """Wait, but no longer than until the router closes, and let others run meanwhile."""
        self._resting += 1
        try:
            if self._again:
                self.wake()
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass
        finally:
            self._resting -= 1


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
