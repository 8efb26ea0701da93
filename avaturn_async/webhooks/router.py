"""SessionRouter: opens sessions, and routes events to the code that opened them.

Reading an event does not consume it. The store keeps each event until its TTL expires, so several waiters can read
the same event, and a waiter can start after the event arrived.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random as random_module
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload
from uuid import UUID, uuid4

import attrs
from attrs import field, frozen

from avaturn_async._validation import format_id, get_kind, parse_id, validate_client, validate_seconds
from avaturn_async.errors import RouterClosedError, StoreError, UnknownSessionError
from avaturn_async.models import EditExisting, Export, Render, RenderFormat, SessionConfig
from avaturn_async.webhooks import routing
from avaturn_async.webhooks.dispatcher import Dispatcher, FailedEvent, GetArguments, Handler, get_handler_name
from avaturn_async.webhooks.event_bus import EVENT_TYPES, E, EventBus, EventStream, validate_event_type
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady, UnknownEvent
from avaturn_async.webhooks.stores.base import Entry, EventStore
from avaturn_async.webhooks.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from avaturn_async.client import AvaturnClient

__all__ = ["FailedEvent", "RoutedSession", "SessionRouter"]

_log = logging.getLogger("avaturn_async.webhooks")

PURGE_SIZE = 200
"""Entries that one step of the clean-up deletes, so that it holds no other call up."""
_Result = Coroutine[Any, Any, object]
_OnAvatar = TypeVar("_OnAvatar", bound="Callable[[AvatarReady, RoutedSession | None], _Result]")
_OnExport = TypeVar("_OnExport", bound="Callable[[ExportReady, RoutedSession | None], _Result]")
_OnRender = TypeVar("_OnRender", bound="Callable[[RenderReady, RoutedSession | None], _Result]")
_OnUnknown = TypeVar("_OnUnknown", bound="Callable[[UnknownEvent, RoutedSession | None], _Result]")
_OnUnrouted = TypeVar("_OnUnrouted", bound=Callable[[Event], _Result])
_OnFailed = TypeVar("_OnFailed", bound=Callable[[FailedEvent], _Result])


@frozen(kw_only=True)
class RoutedSession:
    """A session that was opened through a router."""

    id: UUID
    """The session's id."""
    user_id: str
    """The Avaturn user that it was opened for."""
    context: Any = field(default=None, eq=False, repr=False)
    """The ``context`` that was passed to ``open_session``."""
    url: str | None = field(default=None, eq=False, repr=False)
    """The page to open for the user. It is a credential and is not stored: None unless ``open_session`` returned it."""
    router: SessionRouter = field(eq=False, repr=False)
    """The router that it was opened through."""

    async def wait_for(self, event_type: type[E], *, timeout: float, after: Event | None = None) -> E:
        """Return the first event of a type that belongs to this session, also if it arrived before.

        Args:
            event_type: AvatarReady, ExportReady, RenderReady or UnknownEvent.
            timeout: Seconds to wait; at 0, only stored events are returned.
            after: An event that the router returned: only later arrivals count.

        Raises:
            AvaturnTimeoutError: No such event arrived in time.
            RouterClosedError: The router was closed.
            StoreError: The store was unavailable when the wait began; later it only delays.
        """
        return await self.router.wait_for(event_type, session_id=self.id, timeout=timeout, after=after)

    def events(self, after: Event | None = None) -> AsyncIterator[Event]:
        """Return an iterator over the events of this session, each once; it waits until the router is closed."""
        return self.router.events(session_id=self.id, after=after)


class SessionRouter:
    """Open sessions, and route events to the code that opened them.

    ::

        async with SessionRouter() as router:
            session = await router.open_session(client, user.id, context={"account": 42})
            avatar = await session.wait_for(AvatarReady, timeout=600)

    A router belongs to one running event loop. It can be used in another loop once the first one ended.

    Args:
        store: The log; by default a MemoryStore. Several worker processes need a shared one.
        handler_timeout: Seconds that one call of a handler may take.
        handler_attempts: How often a handler is called for an event before the event counts as failed.
        handler_backoff: Seconds before the second attempt. It doubles with each further attempt, up to 300.
        handler_concurrency: Number of handler calls at a time.
        unrouted_delay: Seconds in which an opener can appear before ``on_unrouted`` receives an event.
        dedup_window: Seconds in which a second webhook with the same body, and without a signed delivery id, is a
            duplicate.
        random: Returns numbers from 0 to 1, which spread the backoff.

    Raises:
        TypeError: ``store`` is not an event store.
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        store: EventStore | None = None,
        *,
        handler_timeout: float = 60.0,
        handler_attempts: int = 8,
        handler_backoff: float = 1.0,
        handler_concurrency: int = 16,
        unrouted_delay: float = 5.0,
        dedup_window: float = 30.0,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        given: Any = MemoryStore() if store is None else store
        # A client of Redis has append(), too.
        if isinstance(given, type) or not hasattr(given, "create_group"):
            raise TypeError(f"store must be a store such as SQLiteStore('events.db'), not {get_kind(given)}")
        self.dedup_window: float = validate_seconds("dedup_window", dedup_window)
        """Seconds in which an equal body without a signed delivery id is a duplicate."""
        self.bus: EventBus = EventBus(given)
        """The log with its look-ups, for ConfirmByApi."""
        self._dispatcher = Dispatcher(
            self.bus,
            timeout=handler_timeout,
            attempts=handler_attempts,
            backoff=handler_backoff,
            concurrency=handler_concurrency,
            unrouted_delay=unrouted_delay,
            random=random,
        )
        self._maintenance: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def closing(self) -> bool:
        """Whether the router is closed, or about to be."""
        return self.bus.closing

    async def start(self) -> None:
        """Start the store and the handlers, also after ``close()``, whose end it awaits. Repeating it is harmless.

        Handlers run in the context (contextvars) of this call.

        Raises:
            StoreError: The store is unavailable, or another running event loop uses this router.
            RuntimeError: A handler calls it while ``close()`` waits for the handler.
        """
        self.bus.bind_loop()
        if self.bus.close_lock.locked():
            self._dispatcher.check_caller("start")
        async with self.bus.close_lock:
            pass
        await self.bus.open()
        self._dispatcher.open()
        task = self._maintenance
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            self._maintenance = asyncio.create_task(self._maintain(), name="maintain the event store")

    def begin_close(self) -> None:
        """Refuse new events, and make waiters and iterators raise RouterClosedError at once.

        For the shutdown of a web server, before it waits for requests that still wait here; ``close()`` follows.
        """
        self.bus.begin_close()

    async def close(self) -> None:
        """Make waiters and iterators raise RouterClosedError, finish the handlers, and close the store.

        All events that were published here are handled first, since no other process has those of a MemoryStore. A
        handler that waits for its next attempt is called at once, for the last time here; what fails, and events of
        other processes, are left in the store. Limit the time with ``asyncio.timeout()``: a close() that is cancelled
        cancels the running handlers, and leaves their events in the store, too. Repeating it is harmless.

        Raises:
            StoreError: Another running event loop uses this router.
            RuntimeError: A handler of this router calls it.
        """
        self.bus.bind_loop()
        self._dispatcher.check_caller("close")
        self.begin_close()
        async with self.bus.close_lock:
            self.begin_close()  # start() may have come between two calls of close()
            try:
                await self._dispatcher.drain()
            finally:
                # Also if this call is cancelled.
                try:
                    task, self._maintenance = self._maintenance, None
                    if task is not None and task.get_loop() is asyncio.get_running_loop():
                        task.cancel()
                        await asyncio.wait((task,))
                finally:
                    await self.bus.close()

    async def publish(
        self, event: Event, *, key: str, body: bytes, unique_for: float | None = None, confirmed: bool = True
    ) -> bool:
        """Store an event, and notify its waiters and handlers.

        Args:
            event: The event.
            key: Identifies duplicates: the id of a signed delivery, or a hash of the raw body.
            body: The JSON text that ``parse_event`` reads as this event.
            unique_for: Seconds in which an event with the same key is a duplicate; None: as long as it is stored.
            confirmed: With False, the event is stored unrouted: only ``on_unrouted`` receives it.

        Returns:
            Whether it was stored; False for a duplicate.

        Raises:
            StoreFullError: A bound of the store is reached.
            StoreError: The store is unavailable.
            RouterClosedError: The router is closed, or about to be.
        """
        self.bus.check_open()
        store = await self.bus.ready()
        # A store of the user may lack it; its own default applies then.
        ttl = getattr(store, "ttl_seconds", None)
        position = await store.append(
            routing.build_event_entry(event, key=key, body=body, unique_for=unique_for, ttl=ttl, confirmed=confirmed)
        )
        if position:
            self.bus.newest = max(self.bus.newest, position)
            if self._dispatcher.handlers:
                self._dispatcher.notify()
        return bool(position)

    async def contains(self, key: str) -> bool:
        """Return whether an event with this key would be a duplicate now."""
        return await (await self.bus.ready()).contains(key)

    async def open_session(
        self, client: AvaturnClient, user_id: str, config: SessionConfig | None = None, *, context: Any = None
    ) -> RoutedSession:
        """Open a session (New Session), and store that it was opened here.

        Args:
            client: Sends the request.
            user_id: The Avaturn user.
            config: What the session shows.
            context: A JSON value that is stored with the session, for example the account in your database.

        Raises:
            TypeError: ``context`` is not JSON, or another argument has another type; nothing was sent.
            ValueError: ``context`` contains a number that is not finite; nothing was sent.
            StoreError: The store is unavailable.
        """
        validate_client(client)
        text = routing.encode_context(context)
        await self.bus.ready()
        session = await client.new_session(user_id, config)
        avatar_id = format_id(config.avatar_id) if isinstance(config, EditExisting) else None
        opened = routing.Opened(session_id=str(session.id), user_id=user_id, context=text, avatar_id=avatar_id)
        await self._append_record(opened)
        return self._make_session(opened, url=session.url)

    async def session(self, session_id: UUID | str) -> RoutedSession:
        """Return a session that was opened before, also by another process on the same store.

        Raises:
            UnknownSessionError: The session was not opened through this router's store, or its TTL has expired.
            TypeError: ``session_id`` is neither a UUID nor a str.
        """
        return self._make_session(await self._load_opened(_parse_session_id(session_id)))

    async def wait_for(
        self,
        event_type: type[E],
        *,
        session_id: UUID | str | None = None,
        avatar_id: UUID | str | None = None,
        render_id: UUID | str | None = None,
        timeout: float,
        after: Event | None = None,
    ) -> E:
        """Return the first event of a type about a session, an avatar or a render, also if it arrived before.

        Args:
            event_type: AvatarReady, ExportReady, RenderReady or UnknownEvent.
            session_id: The session that it belongs to, or
            avatar_id: the avatar that it is about, or
            render_id: the render that it is about; exactly one of the three.
            timeout: Seconds to wait; at 0, only stored events are returned.
            after: An event that this router returned: only later arrivals count.

        Raises:
            AvaturnTimeoutError: No such event arrived in time.
            RouterClosedError: The router was closed.
            StoreError: The store was unavailable when the wait began; later it only delays.
        """
        validate_event_type(event_type)
        stream = self._open_stream(session_id, avatar_id, render_id, after)
        return await stream.first(event_type, timeout=timeout)

    def events(
        self,
        *,
        session_id: UUID | str | None = None,
        avatar_id: UUID | str | None = None,
        render_id: UUID | str | None = None,
        after: Event | None = None,
    ) -> AsyncIterator[Event]:
        """Return an iterator over the events of a session, an avatar or a render, each once.

        It waits for new events until the router is closed, and then raises RouterClosedError.

        Args:
            session_id: The session that they belong to, or
            avatar_id: the avatar that they are about, or
            render_id: the render that they are about; exactly one of the three.
            after: An event that this router returned: only later arrivals count.
        """
        return self._open_stream(session_id, avatar_id, render_id, after)

    async def create_export(
        self, client: AvaturnClient, avatar_id: UUID | str, *, session: RoutedSession | UUID | str
    ) -> Export:
        """Request an export (Create Export) whose event belongs to a session.

        Raises:
            UnknownSessionError: The session was not opened through this router's store; nothing was sent.
        """
        avatar = parse_id(avatar_id)
        opened = await self._load_opened(_parse_session_id(session))
        # The event can arrive before the response.
        await self._append_record(routing.Link(session_id=opened.session_id, avatar_id=str(avatar)))
        return await client.create_export(avatar)

    async def render_user_avatar(
        self,
        client: AvaturnClient,
        avatar_id: UUID | str,
        *,
        session: RoutedSession | UUID | str,
        scene: str = "common/preview",
        format: RenderFormat | str = "jpg",  # noqa: A002 - the vendor's name
    ) -> Render:
        """Request a render (Render User Avatar Async) whose event belongs to a session.

        Raises:
            UnknownSessionError: The session was not opened through this router's store; nothing was sent.
        """
        avatar = parse_id(avatar_id)
        opened = await self._load_opened(_parse_session_id(session))
        # The event can arrive before the response that has the render's id: until then ConfirmByApi waits with it.
        request = routing.RenderRequest(request_id=str(uuid4()), avatar_id=str(avatar))
        try:
            await self._append_record(request)
            render = await client.render_user_avatar(avatar, scene=scene, format=format)
            await self._append_record(
                routing.Link(
                    session_id=opened.session_id,
                    avatar_id=str(avatar),
                    render_id=str(render.id),
                    request_id=request.request_id,
                )
            )
        except BaseException:
            # Without this record the request expires by itself, for instance when the router was closed.
            with suppress(StoreError, RouterClosedError):
                await self._append_record(attrs.evolve(request, given_up=True))
            raise
        return render

    # Handlers

    @overload
    def on(self, event_type: type[AvatarReady], *, name: str | None = None) -> Callable[[_OnAvatar], _OnAvatar]: ...
    @overload
    def on(self, event_type: type[ExportReady], *, name: str | None = None) -> Callable[[_OnExport], _OnExport]: ...
    @overload
    def on(self, event_type: type[RenderReady], *, name: str | None = None) -> Callable[[_OnRender], _OnRender]: ...
    @overload
    def on(self, event_type: type[UnknownEvent], *, name: str | None = None) -> Callable[[_OnUnknown], _OnUnknown]: ...
    def on(self, event_type: type[Event], *, name: str | None = None) -> Callable[[Any], Any]:
        """Register ``async def handler(event, session)`` for a type of event.

        The handler runs outside the webhook's request, in one of the processes that share the store, at least once
        for each event: again if it raises or takes too long, so it must tolerate repetition. ``session`` is None if
        no session is known. It runs in the loop of the router, wherever it is registered.

        Args:
            event_type: AvatarReady, ExportReady, RenderReady or UnknownEvent.
            name: Identifies the handler in the store; by default its module and name. A handler with a new name
                receives all stored events again.

        Raises:
            TypeError: ``event_type`` is not an event type.
            ValueError: The handler is not an async function of two arguments, or is registered already.
        """
        validate_event_type(event_type)

        async def get_arguments(event: Event, entry: Entry) -> tuple[object, ...] | None:
            if routing.UNCONFIRMED in entry.topics:
                return None
            return event, await self._find_session(event, entry)

        def register(function: Any) -> Any:
            self._add_handler(function, ("event", "session"), name, (event_type,), get_arguments)
            return function

        return register

    @overload
    def on_unrouted(self, handler: _OnUnrouted, /) -> _OnUnrouted: ...
    @overload
    def on_unrouted(
        self, handler: None = None, /, *, name: str | None = None
    ) -> Callable[[_OnUnrouted], _OnUnrouted]: ...
    def on_unrouted(self, handler: Any = None, /, *, name: str | None = None) -> Any:
        """Register ``async def handler(event)`` for events of sessions that were not opened through this store.

        It is called ``unrouted_delay`` seconds after the event, so that an opener can still appear.

        Args:
            handler: The function; ``@router.on_unrouted`` and ``@router.on_unrouted(name=...)`` both work.
            name: Identifies the handler in the store; by default its module and name.

        Raises:
            ValueError: The handler is not an async function of one argument, or there is one already.
        """

        async def get_arguments(event: Event, entry: Entry) -> tuple[object, ...] | None:
            if routing.UNCONFIRMED in entry.topics or await self._find_session(event, entry) is None:
                return (event,)
            return None

        def register(function: Any) -> Any:
            if any(handler.event_types == EVENT_TYPES for handler in self._dispatcher.handlers):
                raise ValueError("a handler of unrouted events is registered already")
            self._add_handler(function, ("event",), name, EVENT_TYPES, get_arguments)
            return function

        return register if handler is None else register(handler)

    def on_failed(self, handler: _OnFailed) -> _OnFailed:
        """Register ``async def handler(failed)``: it receives a FailedEvent when a handler has used up its attempts.

        It is called once, in the process of the last attempt, and its own errors are only logged;
        ``failed_events()`` lists what it missed.

        Raises:
            ValueError: The handler is not an async function of one argument, or there is one already.
        """
        get_handler_name(handler, ("failed",))
        self._dispatcher.set_on_failed(handler)
        return handler

    async def failed_events(self, *, limit: int = 100) -> list[FailedEvent]:
        """Return the events that handlers of this router gave up, oldest first for each handler.

        Args:
            limit: Maximum number for each handler.
        """
        return await self._dispatcher.failed_events(limit=limit)

    async def retry(self, failed: FailedEvent | Iterable[FailedEvent]) -> None:
        """Return failed events to their handlers, with all attempts.

        Args:
            failed: One or several results of ``failed_events()``.
        """
        store = await self.bus.ready()
        for each in (failed,) if isinstance(failed, FailedEvent) else tuple(failed):
            await store.retry(each.group, (each.event.position,))

    def _add_handler(
        self,
        function: Any,
        parameters: tuple[str, ...],
        name: str | None,
        event_types: tuple[type[Event], ...],
        get_arguments: GetArguments,
    ) -> None:
        """Register a handler under a consumer group, which no other handler of the router has."""
        module, qualified = get_handler_name(function, parameters)
        is_unrouted = event_types == EVENT_TYPES
        suffix = "unrouted" if is_unrouted else event_types[0].__name__
        same_kind = [handler for handler in self._dispatcher.handlers if handler.event_types == event_types]
        if any(handler.function == function and name in (None, handler.name) for handler in same_kind):
            raise ValueError(f"{module}.{qualified} is registered for {suffix} already")
        if name is not None:
            if not name or "#" in name:
                raise ValueError("name must be text without #")
            if any(handler.name == name for handler in same_kind):
                raise ValueError(f"a handler with name={name!r} is registered for {suffix} already")
        elif module == "__main__" and not isinstance(self.bus.store, MemoryStore):
            _log.warning(
                "handler __main__.%s: its name in the shared store depends on how the program is started, and under"
                " another name it receives all stored events again: give it a name=",
                qualified,
            )
        shown = f"{module}.{qualified}" if name is None else name
        # Two functions of one name are two handlers.
        twins = sum(handler.name.partition("#")[0] == shown for handler in same_kind)
        number = f"#{twins + 1}" if twins else ""
        self._dispatcher.add(
            Handler(
                group=f"{shown}:{suffix}{number}",
                name=f"{shown}{number}",
                function=function,
                event_types=event_types,
                get_arguments=get_arguments,
                is_delayed=is_unrouted,
            )
        )

    async def _append_record(self, record: routing.Record) -> None:
        store = await self.bus.ready()
        await store.append(routing.build_record_entry(record))

    async def _load_opened(self, session_id: UUID) -> routing.Opened:
        opened = await self.bus.find_opened(session_id)
        if opened is None:
            raise UnknownSessionError(
                f"session {session_id} was not opened through this router's store, or its TTL has expired"
            )
        return opened

    async def _find_session(self, event: Event, entry: Entry) -> RoutedSession | None:
        """Return the session that an event belongs to, as far as it is known now."""
        if event.session_id is not None:
            opened = await self.bus.find_opened(event.session_id)
        else:
            render_id = event.id if isinstance(event, RenderReady) else None
            opened = await self.bus.find_owner(event.avatar_id, render_id, position=entry.position, at=entry.at)
        return None if opened is None else self._make_session(opened)

    def _open_stream(
        self,
        session_id: UUID | str | None,
        avatar_id: UUID | str | None,
        render_id: UUID | str | None,
        after: Event | None,
    ) -> EventStream:
        if (session_id is not None) + (avatar_id is not None) + (render_id is not None) != 1:
            raise ValueError("give exactly one of session_id, avatar_id and render_id")
        if after is not None and not isinstance(after, EVENT_TYPES):
            raise TypeError(f"after must be an event that the router returned, not {get_kind(after)}")
        position = 0 if after is None else after.position
        if session_id is not None:
            id_ = _parse_session_id(session_id)
            return EventStream(self.bus, routing.SessionReader(id_, after=position), f"session {id_}")
        if avatar_id is not None:
            kind, text = "avatar", format_id(avatar_id)
        else:
            kind, text = "render", format_id(cast("UUID | str", render_id), "render_id")
        return EventStream(self.bus, routing.TopicReader(f"{kind}:{text}", after=position), f"{kind} {text}")

    def _make_session(self, opened: routing.Opened, *, url: str | None = None) -> RoutedSession:
        context = json.loads(opened.context)
        return RoutedSession(id=UUID(opened.session_id), user_id=opened.user_id, context=context, url=url, router=self)

    async def _maintain(self) -> None:
        """Delete expired entries now and then, and look for events that dead processes left."""
        store = await self.bus.ready()
        while True:
            await asyncio.sleep(store.lease_seconds / 3)
            try:
                while await store.purge_expired(limit=PURGE_SIZE):  # noqa: ASYNC110 - other tasks get a turn
                    await asyncio.sleep(0)
            except StoreError as error:
                _log.warning("expired entries of the event store could not be deleted: %s", error)
            self._dispatcher.notify()


def _parse_session_id(session: RoutedSession | UUID | str) -> UUID:
    """Return the id of a session.

    Raises:
        UnknownSessionError: It is text that no session has as its id.
        TypeError: It is neither text, nor a UUID, nor a RoutedSession.
    """
    if isinstance(session, RoutedSession):
        return session.id
    try:
        return parse_id(session, "session_id")
    except ValueError as error:
        raise UnknownSessionError(str(error)) from None
