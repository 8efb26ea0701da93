"""SessionRouter: who opened what, and how its events get back there.

An event is a fact, not a token: it is kept until its time to live is over, and reading it consumes
nothing. So an event that comes before somebody waits for it, two who wait for the same one, one who gave
up in the same tick and one who comes late all just work.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from attrs import field, frozen

from avaturn_async.errors import AvaturnTimeoutError, UnknownSessionError
from avaturn_async.models import EditExisting, SessionConfig, as_uuid
from avaturn_async.webhooks._context import context_text
from avaturn_async.webhooks._inbox import Inbox, Reader
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady, UnknownEvent
from avaturn_async.webhooks.stores import EventStore, SessionRecord
from avaturn_async.webhooks.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from avaturn_async.client import AvaturnClient

__all__ = ["RoutedSession", "SessionRouter"]

E = TypeVar("E", bound=Event)
_EVENTS = (AvatarReady, ExportReady, RenderReady, UnknownEvent)


@frozen(kw_only=True)
class RoutedSession:
    """A session that was opened through a router, and the way to its events."""

    id: UUID
    """Tells the events of this session from those of others."""
    user_id: str
    """The Avaturn user that it was opened for."""
    context: Any = field(default=None, eq=False, repr=False)
    """What the opener wanted to find again."""
    url: str | None = field(default=None, eq=False, repr=False)
    """The page to open for the user. It carries a credential and is not kept: only the opener has it."""
    _router: SessionRouter = field(alias="router", eq=False, repr=False)

    async def wait_for(self, event_type: type[E], *, timeout: float, after: Event | None = None) -> E:
        """The first event of a type that reaches this session, also if it is there already.

        Args:
            event_type: AvatarReady, ExportReady, RenderReady or UnknownEvent.
            timeout: Seconds to wait; 0 only looks.
            after: An event that the router gave out: only those that arrived later count.

        Raises:
            AvaturnTimeoutError: Nothing came in time.
            RouterClosedError: The router was closed.
        """
        return await self._router.wait_for(event_type, session_id=self.id, timeout=timeout, after=after)

    def events(self, after: Event | None = None) -> AsyncIterator[Event]:
        """Each event of this session once, as it appears, until the router is closed."""
        return self._router.events(session_id=self.id, after=after)


class SessionRouter:
    """Remembers who opened a session, and brings its events back to there.

    ::

        async with SessionRouter() as router:
            session = await router.open_session(client, user.id, context={"account": 42})
            avatar = await session.wait_for(AvatarReady, timeout=600)

    Args:
        store: Where events are kept; by default a MemoryStore.
    """

    def __init__(self, store: EventStore | None = None) -> None:
        self._inbox = Inbox(MemoryStore() if store is None else store, wake=lambda: None)

    async def __aenter__(self) -> Self:
        await self._inbox.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def closing(self) -> bool:
        """Whether the router is closed, or about to be."""
        return self._inbox.closing

    async def close(self) -> None:
        """Have waiters and iterators raise RouterClosedError, and let go of the store. Twice is fine."""
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
        return await self._inbox.add(event, key=key, body=body) > 0

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
        text = context_text(context)
        store = await self._inbox.ready()
        session = await client.new_session(user_id, config)
        record = SessionRecord(id=str(session.id), user_id=user_id, context=text)
        binds = (f"avatar:{config.avatar_id}",) if isinstance(config, EditExisting) else ()
        await store.save_session(record, binds=binds)
        return self._routed(record, url=session.url)

    async def session(self, session_id: UUID | str) -> RoutedSession:
        """The handle of a session that was opened before, here or in another process on the same store.

        Raises:
            UnknownSessionError: Nobody opened it, or it is past its time to live.
        """
        return self._routed(await self._record(session_id))

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
        """
        _check_event_type(event_type)
        if math.isnan(timeout):
            raise ValueError("timeout must be a number of seconds, not NaN")
        reader = self._reader(session_id, avatar_id, render_id, after)
        if timeout <= 0:
            while (event := await reader.look()) is not None:
                if isinstance(event, event_type):
                    return event
        else:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    async for event in reader:
                        if isinstance(event, event_type):
                            return event
            except TimeoutError:
                if not limit.expired():
                    raise
        raise AvaturnTimeoutError(f"no {event_type.__name__} within {timeout:g} s")

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

    def _reader(
        self,
        session_id: UUID | str | None,
        avatar_id: UUID | str | None,
        render_id: UUID | str | None,
        after: Event | None,
    ) -> Reader:
        ids = {"session": session_id, "avatar": avatar_id, "render": render_id}
        given = [f"{kind}:{as_uuid(id_)}" for kind, id_ in ids.items() if id_ is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of session_id, avatar_id and render_id")
        return Reader(self._inbox, given[0], after=after)

    async def _record(self, session: RoutedSession | UUID | str) -> SessionRecord:
        session_id = str(as_uuid(session.id if isinstance(session, RoutedSession) else session))
        record = await (await self._inbox.ready()).load_session(session_id)
        if record is None:
            raise UnknownSessionError(f"nobody opened session {session_id}, or its time to live is over")
        return record

    def _routed(self, record: SessionRecord, *, url: str | None = None) -> RoutedSession:
        return RoutedSession(
            id=UUID(record.id),
            user_id=record.user_id,
            context=json.loads(record.context),
            url=url,
            router=self,
        )


def _check_event_type(event_type: Any) -> None:
    if event_type not in _EVENTS:
        names = ", ".join(cls.__name__ for cls in _EVENTS)
        raise TypeError(f"not an event: give one of {names}, not {event_type!r:.60}")
