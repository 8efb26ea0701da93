"""SessionRouter: who opened what, and how its events get back there.

An event is a fact, not a token: it is kept until its time to live is over, and reading it consumes
nothing. So an event that comes before somebody waits for it, two who wait for the same one, one who gave
up in the same tick and one who comes late all just work.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload
from uuid import UUID

from avaturn_async._ids import as_uuid, id_text
from avaturn_async.models import Export, Render, RenderFormat, SessionConfig
from avaturn_async.webhooks._handlers import Handlers
from avaturn_async.webhooks._inbox import E, Inbox, Reader, check_event_type
from avaturn_async.webhooks._sessions import RoutedSession, Sessions, id_of
from avaturn_async.webhooks._tending import Tending
from avaturn_async.webhooks._worker import Limits
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady, UnknownEvent
from avaturn_async.webhooks.stores import EventStore, SessionRecord
from avaturn_async.webhooks.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from avaturn_async.client import AvaturnClient

__all__ = ["RoutedSession", "SessionRouter"]

_Done = Coroutine[Any, Any, object]
_OnAvatar = TypeVar("_OnAvatar", bound="Callable[[AvatarReady, RoutedSession | None], _Done]")
_OnExport = TypeVar("_OnExport", bound="Callable[[ExportReady, RoutedSession | None], _Done]")
_OnRender = TypeVar("_OnRender", bound="Callable[[RenderReady, RoutedSession | None], _Done]")
_OnUnknown = TypeVar("_OnUnknown", bound="Callable[[UnknownEvent, RoutedSession | None], _Done]")
_OnUnrouted = TypeVar("_OnUnrouted", bound=Callable[[Event], _Done])


class SessionRouter:
    """Remembers who opened a session, and brings its events back to there.

    ::

        async with SessionRouter() as router:
            session = await router.open_session(client, user.id, context={"account": 42})
            avatar = await session.wait_for(AvatarReady, timeout=600)

    Args:
        store: Where events are kept; by default a MemoryStore.

    Raises:
        TypeError: ``store`` is none.
    """

    def __init__(
        self,
        store: EventStore | None = None,
        *,
        handler_timeout: float = 60.0,
        handler_attempts: int = 8,
        handler_backoff: float = 1.0,
        handler_concurrency: int = 16,
        _grace: float = 5.0,
        _random: Callable[[], float] = random.random,
    ) -> None:
        limits = Limits(
            timeout=handler_timeout,
            attempts=handler_attempts,
            backoff=handler_backoff,
            concurrency=handler_concurrency,
            grace=_grace,
            random=_random,
        )
        given: Any = MemoryStore() if store is None else store
        if isinstance(given, type) or not hasattr(given, "append"):
            raise TypeError(f"store must be a store such as SQLiteStore('events.db'), not {given!r:.60}")
        self._inbox = Inbox(given)
        self.sessions: Sessions = Sessions(self._inbox)
        """For ConfirmByApi; everything in it that is for others, the router has too."""
        self._handlers = Handlers(
            self._inbox, limits, session=self._opener, unrouted=self.sessions.is_unrouted
        )
        self._tending = Tending(self._inbox, self._handlers)

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
        return self._inbox.closing

    async def start(self) -> None:
        """Start the store and the handlers, also after a close. Twice is fine."""
        if self._inbox.closing:
            self._handlers.open()
        await self._inbox.open()
        self._handlers.wake()
        self._tending.start()

    async def close(self) -> None:
        """Have waiters and iterators raise RouterClosedError, drain the handlers, let go of the store.

        Attempts that run are awaited, those that wait to be made again are made at once, for the last time
        here; what is unfinished then is left to other processes. Twice is fine.
        """
        self._inbox.refuse()
        try:
            await self._handlers.drain()
        finally:
            await self._tending.stop()
            await self._inbox.close()

    async def publish(self, event: Event, *, key: str, body: bytes) -> bool:
        """Store an event and wake whoever waits for it.

        Args:
            event: The event.
            key: What makes it a duplicate: the id of a signed delivery, or a hash of the raw body.
            body: What ``parse_event`` reads as that event.

        Returns:
            Whether it is stored now; False for a duplicate.

        Raises:
            StoreFullError: There is no room for it.
            StoreError: The store is away.
            RouterClosedError: The router is closed, or about to be.
        """
        return await self._inbox.add(event, key=key, body=body)

    async def seen(self, key: str) -> bool:
        """Whether an event with this key is stored."""
        return await (await self._inbox.ready()).seen(key)

    async def open_session(
        self, client: AvaturnClient, user_id: str, config: SessionConfig | None = None, *, context: Any = None
    ) -> RoutedSession:
        """Open a session (New Session) and remember who did.

        Args:
            client: Issues the call.
            user_id: The Avaturn user.
            config: What the session shows.
            context: Any JSON value that the events of this session should find again.

        Raises:
            TypeError: ``context`` holds something that is not JSON; nothing was sent.
            ValueError: ``context`` holds a number that is not finite; nothing was sent.
        """
        session, record = await self.sessions.open(client, user_id, config, context)
        return self._routed(record, url=session.url)

    async def session(self, session_id: UUID | str) -> RoutedSession:
        """The handle of a session that was opened before, here or in another process on the same store.

        Raises:
            UnknownSessionError: Nobody opened it, or it is past its time to live.
        """
        return self._routed(await self.sessions.record(id_of(session_id)))

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
        """The first event of a type about a session, an avatar or a render, also if it is there already.

        Args:
            event_type: AvatarReady, ExportReady, RenderReady or UnknownEvent.
            session_id: The session that it reaches, or
            avatar_id: the avatar that it is about, or
            render_id: the render that it is about; exactly one of the three.
            timeout: Seconds to wait; 0 only looks.
            after: An event that this router gave out: only those that arrived later count.

        Raises:
            AvaturnTimeoutError: Nothing came in time.
            RouterClosedError: The router was closed.
            StoreError: The store was away when the wait began; one that goes away later is waited for.
        """
        check_event_type(event_type)
        reader = self._reader(session_id, avatar_id, render_id, after)
        return await reader.first(event_type, timeout=timeout)

    def events(
        self,
        *,
        session_id: UUID | str | None = None,
        avatar_id: UUID | str | None = None,
        render_id: UUID | str | None = None,
        after: Event | None = None,
    ) -> AsyncIterator[Event]:
        """Each event about a session, an avatar or a render once, as it appears, until the router is closed.

        Args:
            session_id: The session that they reach, or
            avatar_id: the avatar that they are about, or
            render_id: the render that they are about; exactly one of the three.
            after: An event that this router gave out: only those that arrived later count.
        """
        return self._reader(session_id, avatar_id, render_id, after)

    @overload
    def on(self, event_type: type[AvatarReady]) -> Callable[[_OnAvatar], _OnAvatar]: ...
    @overload
    def on(self, event_type: type[ExportReady]) -> Callable[[_OnExport], _OnExport]: ...
    @overload
    def on(self, event_type: type[RenderReady]) -> Callable[[_OnRender], _OnRender]: ...
    @overload
    def on(self, event_type: type[UnknownEvent]) -> Callable[[_OnUnknown], _OnUnknown]: ...
    def on(self, event_type: type[Event]) -> Callable[[Any], Any]:
        """Register ``async def handler(event, session)`` for a type of event.

        It runs outside the webhook's request, once per event in all the processes that share the store, and
        again if it raises or takes too long: make it harmless to repeat. ``session`` is None if nobody is
        known to have opened the event's session. It is known to the store by module, name and event type:
        under another name it sees all events that are kept.

        Raises:
            TypeError: ``event_type`` is no type of event.
            ValueError: The handler is not an async function with these two arguments, or is registered.
        """
        check_event_type(event_type)

        def register(handler: Any) -> Any:
            self._handlers.on(event_type, handler)
            return handler

        return register

    def on_unrouted(self, handler: _OnUnrouted) -> _OnUnrouted:
        """Register ``async def handler(event)`` for events of sessions that nobody is known to have opened.

        It runs as other handlers do, some seconds after the event, in which an opener may appear.

        Raises:
            ValueError: The handler is not an async function with this one argument, or there is one already.
        """
        self._handlers.on_unrouted(handler)
        return handler

    async def create_export(
        self, client: AvaturnClient, avatar_id: UUID | str, *, session: RoutedSession | UUID | str
    ) -> Export:
        """Ask for an export (Create Export) whose event shall reach a session.

        Raises:
            UnknownSessionError: Nobody opened that session; nothing was sent.
        """
        return await self.sessions.create_export(client, as_uuid(avatar_id), id_of(session))

    async def render_user_avatar(
        self,
        client: AvaturnClient,
        avatar_id: UUID | str,
        *,
        session: RoutedSession | UUID | str,
        scene: str = "common/preview",
        format: RenderFormat | str = "jpg",  # noqa: A002 - the vendor's name
    ) -> Render:
        """Ask for a render (Render User Avatar Async) whose event shall reach a session.

        Raises:
            UnknownSessionError: Nobody opened that session; nothing was sent.
        """
        avatar, opened = as_uuid(avatar_id), id_of(session)
        return await self.sessions.render_user_avatar(client, avatar, opened, scene, format)

    def _reader(
        self,
        session_id: UUID | str | None,
        avatar_id: UUID | str | None,
        render_id: UUID | str | None,
        after: Event | None,
    ) -> Reader:
        if (session_id is not None) + (avatar_id is not None) + (render_id is not None) != 1:
            raise ValueError("give exactly one of session_id, avatar_id and render_id")
        if session_id is not None:
            topic = "session:" + id_text(session_id, "session_id")
        elif avatar_id is not None:
            topic = "avatar:" + id_text(avatar_id)
        else:
            topic = "render:" + id_text(cast("UUID | str", render_id), "render_id")
        return Reader(self._inbox, topic, after=after)

    def _routed(self, record: SessionRecord, *, url: str | None = None) -> RoutedSession:
        context = json.loads(record.context)
        return RoutedSession(
            id=UUID(record.id), user_id=record.user_id, context=context, url=url, router=self
        )

    async def _opener(self, session_id: str | None) -> RoutedSession | None:
        record = None if session_id is None else await self.sessions.find("session", UUID(session_id))
        return None if record is None else self._routed(record)
