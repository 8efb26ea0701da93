"""Handlers: the caller's functions that see each event, outside the request that brought it.

Each handler is a group of the store, so that every event is handled by one of the processes that share the
store, and is taken over from one that died.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from avaturn_async.webhooks._inbox import EVENT_TYPES, Inbox
from avaturn_async.webhooks._sessions import RoutedSession
from avaturn_async.webhooks._worker import Handler, Limits, Worker
from avaturn_async.webhooks.events import Event


class Handlers:
    """What was registered, and who works at it while the router runs."""

    def __init__(
        self,
        inbox: Inbox,
        limits: Limits,
        *,
        session: Callable[[str | None], Awaitable[RoutedSession | None]],
        unrouted: Callable[[Event], Awaitable[bool]],
    ) -> None:
        self._inbox = inbox
        self._limits = limits
        self._session = session
        self._unrouted = unrouted
        self._handlers: list[Handler] = []
        self.open()

    def open(self) -> None:
        """Begin anew, also after a drain and in another event loop."""
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(self._limits.concurrency)
        self._workers: dict[str, Worker] = {}

    def on(self, event_type: type[Event], function: Callable[[Any, Any], Awaitable[object]]) -> None:
        """Register a handler of one type of event, to be called with the event and its session."""
        name = _checked_name(function, ("event", "session"))
        if any(h.function == function and h.event_types == (event_type,) for h in self._handlers):
            raise ValueError(f"{name} is registered for {event_type.__name__} already")

        async def arguments(event: Event, session_id: str | None) -> tuple[object, ...]:
            return event, await self._session(session_id)

        group = self._group(f"{name}:{event_type.__name__}")
        self._add(Handler(name=group, function=function, event_types=(event_type,), arguments=arguments))

    def on_unrouted(self, function: Callable[[Any], Awaitable[object]]) -> None:
        """Register the handler of what belongs to nobody, to be called with the event."""
        name = _checked_name(function, ("event",))
        if any(h.early is not None for h in self._handlers):
            raise ValueError("a handler for unrouted events is registered already")

        async def arguments(event: Event, _: str | None) -> tuple[object, ...] | None:
            return (event,) if await self._unrouted(event) else None

        group, early = self._group(f"{name}:unrouted"), self._unrouted
        self._add(
            Handler(name=group, function=function, event_types=EVENT_TYPES, arguments=arguments, early=early)
        )

    def wake(self) -> None:
        """Have every handler look for events."""
        if self._closing.is_set():
            return
        for handler in self._handlers:
            worker = self._workers.get(handler.name)
            if worker is None:
                worker = self._workers[handler.name] = self._worker(handler)
            worker.wake()

    async def drain(self) -> None:
        """Claim nothing more, and see what is begun to its end."""
        self._closing.set()
        await asyncio.gather(*(worker.drain() for worker in self._workers.values()))

    def _worker(self, handler: Handler) -> Worker:
        # One slot stays free for each other handler, so that one that hangs does not stop them all.
        share = max(1, self._limits.concurrency - len(self._handlers) + 1)
        return Worker(
            handler, self._inbox, self._limits, share=share, slots=self._slots, closing=self._closing
        )

    def _group(self, name: str) -> str:
        """The name in the store: two functions of one name are two handlers all the same."""
        twins = sum(handler.name.partition("#")[0] == name for handler in self._handlers)
        return f"{name}#{twins + 1}" if twins else name

    def _add(self, handler: Handler) -> None:
        self._handlers.append(handler)
        self._inbox.wake_handlers = self.wake
        if self._inbox.started and _loop_runs():
            self.wake()


def _checked_name(function: Any, parameters: tuple[str, ...]) -> str:
    """Where a handler is defined, once it is sure that it can be called and awaited.

    Raises:
        ValueError: It is not an async function, or takes other arguments.
    """
    named = getattr(function, "func", function)  # what a functools.partial calls
    name = getattr(named, "__qualname__", type(named).__qualname__)
    if not any(map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))):  # noqa: B004
        raise ValueError(f"a handler must be an async function, which {name} is not")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Nothing says what it takes, such as of a mock on Python 3.11.2.
        return f"{named.__module__}.{name}"
    try:
        signature.bind(*parameters)
    except TypeError:
        raise ValueError(f"a handler is called with ({', '.join(parameters)}): {name} takes others") from None
    return f"{named.__module__}.{name}"


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
