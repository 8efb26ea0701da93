"""Dispatcher: calls the registered handlers with each event, outside the request that delivered it.

Each handler is a consumer group of the store, so that one of the processes that share the store handles an event, and
another process takes an event over when its lease ends. Attempts and failures are in the store; the backoff between
two attempts stays in this process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from copy import deepcopy
from typing import Any

import attrs
from attrs import define, field, frozen

from avaturn_async._validation import validate_count, validate_positive, validate_seconds
from avaturn_async.errors import StoreError, ends_task, replace_control_characters
from avaturn_async.webhooks import routing
from avaturn_async.webhooks.event_bus import EventBus
from avaturn_async.webhooks.events import Event
from avaturn_async.webhooks.stores.base import Claimed, Entry

__all__ = ["Dispatcher", "FailedEvent", "Handler", "get_handler_name"]

_log = logging.getLogger("avaturn_async.webhooks")

MAX_LEASED = 1_000
"""Events that one handler leases at a time, including those that wait for their next attempt."""
MIN_LOOK_DELAY = 0.1
MAX_LOOK_DELAY = 0.4
"""Seconds until a process looks for events of other processes: doubles with each look that finds none."""
MAX_BACKOFF = 300.0
ACK_RETRY_SECONDS = 5.0
"""Seconds until the result of an event is stored again after the store was unavailable."""
STORE_RETRY_SECONDS = 1.0
"""Seconds until an attempt is repeated whose session could not be read."""
MAX_REASON = 200

HandlerFunction = Callable[..., Awaitable[object]]
GetArguments = Callable[[Event, Entry], Awaitable[tuple[object, ...] | None]]
"""Returns what to call a handler with, or None if the event is not for it."""


@frozen(kw_only=True)
class FailedEvent:
    """An event that a handler gave up after its last attempt."""

    event: Event
    """The event."""
    handler: str
    """The handler: the ``name=`` of its registration, or its module and name."""
    attempts: int
    """How often the handler was called, or had leased the event when its process died."""
    reason: str
    """The last error: its type and the beginning of its message."""
    group: str = field(repr=False)
    """The handler's consumer group in the store."""


@define(kw_only=True, eq=False)
class Handler:
    """A registered function."""

    group: str
    """Its consumer group in the store."""
    name: str
    """Its name for users."""
    function: HandlerFunction
    event_types: tuple[type[Event], ...]
    """The events that it is called for."""
    get_arguments: GetArguments
    is_delayed: bool = False
    """Whether the first attempt for an event that is for it waits for ``unrouted_delay``."""
    has_group: bool = False
    """Whether the group exists in the store."""
    last_claimed: int = 0
    """The highest position that was claimed."""
    running: dict[int, asyncio.Task[None]] = field(factory=dict[int, asyncio.Task[None]])
    """The task of each leased event, by position."""
    sleeping: set[object] = field(factory=set[object])
    """Those of these tasks that wait for their next attempt."""
    unfinished: list[int] = field(factory=list[int])
    """Positions that failed while the router was closing; they are returned to the store in the end."""

    @property
    def active(self) -> int:
        """How many events are being handled, or wait for a slot."""
        return len(self.running) - len(self.sleeping)


class Dispatcher:
    """All handlers of a router, with one claim loop and one renewal of leases.

    Args:
        bus: The log.
        timeout: Seconds of one attempt.
        attempts: Attempts for each event.
        backoff: Seconds before the second attempt; doubles with each further one, up to 300.
        concurrency: Handlers that run at a time.
        unrouted_delay: Seconds in which an opener can appear before an event counts as unrouted.
        random: Returns numbers from 0 to 1, which spread the backoff.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        timeout: float,
        attempts: int,
        backoff: float,
        concurrency: int,
        unrouted_delay: float,
        random: Callable[[], float],
    ) -> None:
        validate_positive(handler_timeout=timeout)
        validate_seconds("handler_backoff", backoff)
        validate_seconds("unrouted_delay", unrouted_delay)
        validate_count("handler_attempts", attempts)
        validate_count("handler_concurrency", concurrency)
        self._bus = bus
        self._timeout = timeout
        self._attempts = attempts
        self._backoff = backoff
        self._concurrency = concurrency
        self._unrouted_delay = unrouted_delay
        self._random = random
        self.handlers: list[Handler] = []
        self._on_failed: Callable[[FailedEvent], Awaitable[object]] | None = None
        # Tasks run in the context of start(), never in that of the request whose event they handle.
        self._context: Context = copy_context()
        # The loop that the attributes below, and the tasks of the handlers, belong to.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(concurrency)
        self._handler_slots: dict[str, asyncio.Semaphore] = {}
        # Whether the claim loop must look once more.
        self._look_again = False
        # Whether the last look left events for want of free slots.
        self._is_full = False
        self._claim_task: asyncio.Task[None] | None = None
        self._renew_task: asyncio.Task[None] | None = None
        # The next look for events of other processes, its longest delay, and whether the claim loop is to make it now.
        self._later_look: asyncio.TimerHandle | None = None
        self._look_delay = MIN_LOOK_DELAY
        self._is_later_look = False

    def add(self, handler: Handler) -> None:
        """Register a handler."""
        self.handlers.append(handler)
        self._bus.on_notification = self.receive_notification
        # Shares depend on the number of handlers.
        self._handler_slots.clear()
        # The caller can be in another thread, with or without a loop of its own.
        self._bus.call_soon(self.notify)

    def set_on_failed(self, function: Callable[[FailedEvent], Awaitable[object]]) -> None:
        """Register the function that receives each failed event."""
        if self._on_failed is not None:
            raise ValueError("a handler of failed events is registered already")
        self._on_failed = function

    def open(self) -> None:
        """Begin to handle events in the running loop, and in the context of the caller."""
        self._context = copy_context()
        if self._closing.is_set() or self._loop is not asyncio.get_running_loop():
            self._reset()
        self.notify()

    def notify(self) -> None:
        """Look for events to handle, soon: a burst of notifications costs one look."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._reset()
        if not self.handlers or self._closing.is_set():
            return
        self._look_again = True
        if self._claim_task is None or self._claim_task.done():
            self._claim_task = loop.create_task(
                self._claim_all(), name="claim events for handlers", context=self._context.copy()
            )

    def receive_notification(self, topics: Iterable[str] | None) -> None:
        """Receive a notification of the store: look at once for returned events, and a little later for new ones.

        ``publish()`` looks at once for its own events. If each process did that for the events of all, nearly all
        claims of a fleet would be in vain.
        """
        if not topics:
            self.notify()
            return
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._reset()
        if self._later_look is None and not self._closing.is_set():
            delay = self._look_delay * (1 + self._random()) / 2
            self._later_look = loop.call_later(delay, self._look_now)

    def _look_now(self) -> None:
        self._later_look = None
        self._is_later_look = True
        self.notify()

    def check_caller(self, action: str) -> None:
        """Raise RuntimeError in a handler: ``drain()`` would wait for the handler that waits for it."""
        if any(asyncio.current_task() in handler.running.values() for handler in self.handlers):
            raise RuntimeError(f"a handler cannot {action} its router, which waits for the end of its handlers")

    async def drain(self) -> None:
        """Finish what runs, and all events that were published here; return the rest to the store.

        An event that waits for its next attempt gets it at once, for the last time here.
        """
        if self._loop is not asyncio.get_running_loop():
            self._reset()
        self._closing.set()
        try:
            if self._claim_task is not None:
                await asyncio.wait((self._claim_task,))
            for handler in self.handlers:
                if self._bus.is_started:  # not so after a close() that was cancelled here
                    await self._claim_published(handler)
            while running := [task for handler in self.handlers for task in handler.running.values()]:
                await asyncio.wait(running)
        finally:
            ending = asyncio.create_task(self._end())
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                # The store must not be closed before the leases are returned.
                await asyncio.wait((ending,))
                raise

    async def _end(self) -> None:
        """Cancel the renewal, and all tasks if ``drain()`` was cancelled; return the leases of unfinished events."""
        for handler in self.handlers:
            handler.unfinished += handler.running
        left = [task for handler in self.handlers for task in handler.running.values()]
        left += [task for task in (self._claim_task, self._renew_task) if task is not None]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for handler in self.handlers:
            # A task that was cancelled before it began has not removed itself.
            handler.running.clear()
            # Not earlier, or this process would claim them again.
            unfinished, handler.unfinished = handler.unfinished, []
            if unfinished:
                with suppress(StoreError):
                    await (await self._bus.ready()).nack(handler.group, tuple(unfinished))

    async def failed_events(self, *, limit: int) -> list[FailedEvent]:
        """Return the failed events of the registered handlers."""
        store = await self._bus.ready()
        found: list[FailedEvent] = []
        for handler in self.handlers:
            for failed in await store.failed(handler.group, limit=limit):
                event = routing.decode_entry(failed.entry)
                if event is not None and not isinstance(event, routing.Record):
                    # The claim past the last attempt was counted, but the handler was not called.
                    attempts = min(failed.attempts, self._attempts)
                    found.append(_describe_failure(handler, event, attempts, failed.reason))
        return found

    def _reset(self) -> None:
        """Begin anew in the running loop; tasks of a loop that ended are gone."""
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(self._concurrency)
        self._handler_slots = {}
        self._look_again = self._is_full = self._is_later_look = False
        self._look_delay = MIN_LOOK_DELAY
        self._claim_task = self._renew_task = self._later_look = None
        for handler in self.handlers:
            handler.running = {}
            handler.unfinished = []
            handler.sleeping = set()
            handler.has_group = False

    # The claim loop

    async def _claim_all(self) -> None:
        """Claim for one handler after the other, until a claim returns fewer events than it asked for."""
        while self._look_again and not self._closing.is_set():
            # An eager task must not begin inside the store's notification. Besides, MemoryStore never suspends:
            # a long backlog must not keep other tasks waiting.
            await asyncio.sleep(0)
            is_later_look, self._is_later_look = self._is_later_look, False
            self._look_again = self._is_full = False
            found = 0
            for handler in self.handlers:
                found += 0 if self._closing.is_set() else await self._claim(handler)
            if is_later_look:
                self._look_delay = MIN_LOOK_DELAY if found else min(self._look_delay * 2, MAX_LOOK_DELAY)

    async def _claim_published(self, handler: Handler) -> None:
        """Claim what was published here: with MemoryStore no other process would handle it."""
        while handler.last_claimed < self._bus.newest:
            if self._count_free(handler) <= 0:
                tasks = [task for each in self.handlers for task in each.running.values()]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            elif not await self._claim(handler) and self._count_free(handler) > 0:
                return

    def _count_free(self, handler: Handler) -> int:
        """Return how many events can be claimed and run now, so that other processes get their part."""
        active = sum(each.active for each in self.handlers)
        share = self._get_share()
        return min(share - handler.active, self._concurrency - active, MAX_LEASED - len(handler.running))

    def _get_share(self) -> int:
        """Return the slots for one handler: one is left for each other, so that a handler that hangs stops no other."""
        return max(1, self._concurrency - len(self.handlers) + 1)

    async def _claim(self, handler: Handler) -> int:
        """Lease events, and start the handler for those that are for it. Return how many were leased."""
        try:
            store = await self._bus.ready()
            if not handler.has_group:
                await store.create_group(handler.group)
                handler.has_group = True
            free = self._count_free(handler)
            if free <= 0:
                self._is_full = True
                return 0
            claimed = await store.claim(handler.group, limit=free)
            if len(claimed) >= free:
                self._look_again = True  # there can be more
            unwanted = [each.entry.position for each in claimed if not self._start_handling(handler, each)]
            if unwanted:
                try:
                    await store.ack(handler.group, unwanted)
                except asyncio.CancelledError:
                    handler.unfinished += unwanted  # drain() returns their leases
                    raise
        except StoreError as error:
            # The router's maintenance looks again, and so does the next notification.
            _log.warning("handler %s: no events can be claimed: %s", handler.group, error)
            return 0
        return len(claimed)

    def _start_handling(self, handler: Handler, claimed: Claimed) -> bool:
        position = claimed.entry.position
        handler.last_claimed = max(handler.last_claimed, position)
        event = routing.decode_entry(claimed.entry)
        if not isinstance(event, handler.event_types):
            return False
        if position in handler.running or position in handler.unfinished:
            # The lease ended meanwhile: the attempt of this process counts.
            return True
        loop = asyncio.get_running_loop()
        handler.running[position] = loop.create_task(
            self._handle(handler, event, claimed), name=handler.group, context=self._context.copy()
        )
        if self._renew_task is None:
            self._renew_task = loop.create_task(
                self._renew(), name="renew leases of handlers", context=self._context.copy()
            )
        return True

    async def _renew(self) -> None:
        """Renew all leases, until the last event is handled."""
        while True:
            await asyncio.sleep(self._bus.store.lease_seconds / 3)
            for handler in self.handlers:
                if handler.running:
                    with suppress(StoreError):
                        await (await self._bus.ready()).renew(handler.group, tuple(handler.running))

    # One event

    async def _handle(self, handler: Handler, event: Event, claimed: Claimed) -> None:
        """Bring one event to the end: acknowledged, failed, or returned to the store."""
        running = handler.running  # the handler has another dict once another loop uses the router
        await asyncio.sleep(0)  # an eager task begins before it is registered as running
        entry = claimed.entry
        try:
            if handler.is_delayed:
                with suppress(StoreError):
                    if await handler.get_arguments(event, entry) is not None:
                        await self._sleep(handler, self._unrouted_delay)
            await self._attempt_all(handler, event, claimed)
        finally:
            del running[entry.position]
            if self._renew_task is not None and not any(each.running for each in self.handlers):
                self._renew_task.cancel()
                self._renew_task = None
            if self._is_full:
                self.notify()

    async def _attempt_all(self, handler: Handler, event: Event, claimed: Claimed) -> None:
        entry, attempt = claimed.entry, claimed.attempt
        if attempt > self._attempts:
            cause = "the process ended during the last attempt"
            _log.error("handler %s: position %d failed: %s", handler.group, entry.position, cause)
            await self._give_up(handler, event, cause)
            return
        while True:
            try:
                reason = await self._attempt(handler, event, entry, attempt)
            except StoreError as error:
                # Not an attempt: the handler was not called.
                _log.warning("handler %s: position %d waits for the store: %s", handler.group, entry.position, error)
                if self._closing.is_set():
                    handler.unfinished.append(entry.position)
                    return
                await self._sleep(handler, STORE_RETRY_SECONDS)
                continue
            if reason is None:
                await self._settle(handler, entry.position, None)
                return
            if attempt == self._attempts:
                await self._give_up(handler, event, reason)
                return
            if self._closing.is_set():
                handler.unfinished.append(entry.position)
                return
            await self._sleep(handler, self._get_backoff(attempt))
            attempt += 1
            with suppress(StoreError):
                await (await self._bus.ready()).renew(handler.group, (entry.position,), count=True)

    async def _attempt(self, handler: Handler, event: Event, entry: Entry, attempt: int) -> str | None:
        """Call the handler once. Return why it failed; None if it succeeded.

        Raises:
            StoreError: The handler was not called, since its session could not be read.
        """
        task = asyncio.current_task()
        slots = self._handler_slots.setdefault(handler.group, asyncio.Semaphore(self._get_share()))
        async with slots, self._slots:
            was_called = False
            try:
                async with asyncio.timeout(self._timeout):
                    # The handler can change ``raw``, which the next attempt must not see.
                    own = attrs.evolve(event, raw=deepcopy(event.raw))
                    arguments = await handler.get_arguments(own, entry)
                    was_called = True
                    if arguments is not None:
                        await handler.function(*arguments)
            except BaseException as error:
                # The panic of an extension module (pyo3) is a BaseException, and a failed attempt.
                if ends_task(error, task):
                    raise
                if not was_called and isinstance(error, StoreError | TimeoutError):
                    raise StoreError(str(error) or "the event store is too slow") from error
                is_last = attempt == self._attempts
                _log.log(
                    logging.ERROR if is_last else logging.WARNING,
                    "handler %s failed at %s (position %d), attempt %d of %d%s",
                    handler.group,
                    type(event).__name__,
                    event.position,
                    attempt,
                    self._attempts,
                    ": giving up" if is_last else "",
                    exc_info=error,
                )
                return f"{type(error).__name__}: {error}"[:MAX_REASON]
        return None

    async def _settle(self, handler: Handler, position: int, reason: str | None) -> bool:
        """Store that an event was handled, or failed; False if the router closed before that was possible."""
        while True:
            try:
                store = await self._bus.ready()
                if reason is None:
                    await store.ack(handler.group, (position,))
                else:
                    await store.fail(handler.group, position, reason)
            except StoreError as error:
                _log.warning("handler %s: the end of position %d was not stored: %s", handler.group, position, error)
            else:
                return True
            if self._closing.is_set():
                # The lease ends, and the event is handled again.
                return False
            await self._sleep(handler, ACK_RETRY_SECONDS)

    async def _give_up(self, handler: Handler, event: Event, reason: str) -> None:
        """Store that an event failed, and call the handler of failed events."""
        if not await self._settle(handler, event.position, reason) or self._on_failed is None:
            return
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(self._timeout):
                await self._on_failed(_describe_failure(handler, event, self._attempts, reason))
        except BaseException as error:
            if ends_task(error, task):
                raise
            _log.exception("the handler of failed events failed at position %d", event.position)

    def _get_backoff(self, attempt: int) -> float:
        longest = min(self._backoff * 2.0 ** min(attempt - 1, 30), MAX_BACKOFF)
        return longest * (1 + self._random()) / 2

    async def _sleep(self, handler: Handler, seconds: float) -> None:
        """Wait, but no longer than until the router closes; meanwhile other events can be claimed."""
        sleeping, task = handler.sleeping, asyncio.current_task()  # see _handle()
        sleeping.add(task)
        try:
            if self._is_full:
                self.notify()
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass
        finally:
            sleeping.discard(task)


def _describe_failure(handler: Handler, event: Event, attempts: int, reason: str) -> FailedEvent:
    text = replace_control_characters(reason)
    return FailedEvent(event=event, handler=handler.name, attempts=attempts, reason=text, group=handler.group)


def get_handler_name(function: Any, parameters: tuple[str, ...]) -> tuple[str, str]:
    """Return the module and the name of a handler, after checking that it can be called and awaited.

    Raises:
        ValueError: It is not an async function, or takes other arguments.
    """
    named = getattr(function, "func", function)  # the function of a functools.partial
    name = getattr(named, "__qualname__", type(named).__qualname__)
    if not any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))):  # noqa: B004
        raise ValueError(f"a handler must be an async function, which {name} is not")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Python 3.11.2 has no signature for some mocks.
        return named.__module__, name
    try:
        signature.bind(*parameters)
    except TypeError:
        raise ValueError(f"a handler is called with ({', '.join(parameters)}); {name} takes other arguments") from None
    return named.__module__, name
