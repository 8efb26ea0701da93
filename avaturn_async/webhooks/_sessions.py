"""RoutedSession and what is behind it: who opened what, and which avatars and renders lead there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from attrs import field, frozen

from avaturn_async._ids import as_uuid
from avaturn_async.errors import UnknownSessionError
from avaturn_async.models import EditExisting, Export, Render, RenderFormat, Session, SessionConfig
from avaturn_async.webhooks._asking import Asking
from avaturn_async.webhooks._context import context_text
from avaturn_async.webhooks._inbox import E, Inbox
from avaturn_async.webhooks.events import Event, RenderReady
from avaturn_async.webhooks.stores import SessionRecord

if TYPE_CHECKING:
    from avaturn_async.client import AvaturnClient
    from avaturn_async.webhooks.router import SessionRouter


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
            StoreError: The store was away when the wait began; one that goes away later is waited for.
        """
        return await self._router.wait_for(event_type, session_id=self.id, timeout=timeout, after=after)

    def events(self, after: Event | None = None) -> AsyncIterator[Event]:
        """Each event of this session once, as it appears, until the router is closed."""
        return self._router.events(session_id=self.id, after=after)


class Sessions:
    """What the router asks the API for, and remembers, so that the events of it find their way back."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._asking = Asking()

    async def open(
        self, client: AvaturnClient, user_id: str, config: SessionConfig | None, context: Any
    ) -> tuple[Session, SessionRecord]:
        """Issue New Session, and remember who did."""
        text = context_text(context)
        store = await self._inbox.ready()
        session = await client.new_session(user_id, config)
        record = SessionRecord(id=str(session.id), user_id=user_id, context=text)
        binds = (f"avatar:{config.avatar_id}",) if isinstance(config, EditExisting) else ()
        await store.save_session(record, binds=binds)
        return session, record

    async def record(self, session_id: UUID) -> SessionRecord:
        """Who opened a session; UnknownSessionError if nobody did."""
        record = await self.find("session", session_id)
        if record is None:
            raise UnknownSessionError(f"nobody opened session {session_id}, or its time to live is over")
        return record

    async def find(self, kind: Literal["session", "avatar", "render"], id_: UUID) -> SessionRecord | None:
        """The session that this id is of, or leads to, if its opener is known."""
        store = await self._inbox.ready()
        session_id = str(id_) if kind == "session" else await store.bound(f"{kind}:{id_}")
        return None if session_id is None else await store.load_session(session_id)

    async def is_unrouted(self, event: Event) -> bool:
        """Whether nobody is known to have opened the session that an event reaches."""
        if event.session_id is not None:
            return await self.find("session", event.session_id) is None
        if isinstance(event, RenderReady) and await self.find("render", event.id) is not None:
            return False
        return event.avatar_id is None or await self.find("avatar", event.avatar_id) is None

    async def create_export(self, client: AvaturnClient, avatar_id: UUID, session_id: UUID) -> Export:
        """Issue Create Export, for a session that was opened."""
        record = await self.record(session_id)
        # The event may come before the answer does.
        await (await self._inbox.ready()).bind(f"avatar:{avatar_id}", record.id)
        return await client.create_export(avatar_id)

    async def render_user_avatar(
        self,
        client: AvaturnClient,
        avatar_id: UUID,
        session_id: UUID,
        scene: str,
        format_: RenderFormat | str,
    ) -> Render:
        """Issue Render User Avatar Async, for a session that was opened."""
        record = await self.record(session_id)
        store = await self._inbox.ready()
        async with self._asking.render_of(avatar_id, record.id, store):
            render = await client.render_user_avatar(avatar_id, scene=scene, format=format_)
            await store.bind(f"render:{render.id}", record.id)
        return render

    async def renders_are_known(self, avatar_id: UUID, *, timeout: float) -> bool:
        """Wait until the renders that are being asked for have ids; False if that takes too long."""
        return await self._asking.is_over(avatar_id, await self._inbox.ready(), timeout=timeout)


def id_of(session: RoutedSession | UUID | str) -> UUID:
    """The id of a session, however it is given."""
    return session.id if isinstance(session, RoutedSession) else as_uuid(session, "the session")
