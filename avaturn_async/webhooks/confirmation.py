"""ConfirmByApi: believe the API, not the POST.

Avaturn does not publish how its webhooks are signed, so a POST is taken for a hint only: that something
is worth asking about. Only ids that the router knows are asked about, so that nobody can make us flood the
API by making ids up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import attrs

from avaturn_async.errors import AvaturnError, NotFoundError
from avaturn_async.models import Avatar, ScanStatus, TaskStatus
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady

if TYPE_CHECKING:
    from avaturn_async.client import AvaturnClient
    from avaturn_async.webhooks.router import SessionRouter
    from avaturn_async.webhooks.stores import SessionRecord

__all__ = ["ConfirmByApi"]

T = TypeVar("T")
_UNFINISHED = (ScanStatus.PENDING, ScanStatus.PROCESSING)
_NOT_RAW = ("raw", "position")


class ConfirmByApi:
    """Asks the API whether an event is true, and takes from there what it says.

    An avatar must be in the list of the user who opened its session, and has the status that the list
    shows. An export has the status and the URL that ``create_export`` answers. A render must be one that was
    asked for through the router; its URL cannot be confirmed: download it with ``client.download`` only,
    which refuses addresses inside your network.

    Args:
        client: Issues the calls.
        router: Knows who opened what.

    Raises:
        TypeError: They are something else.
    """

    def __init__(
        self,
        client: AvaturnClient,
        router: SessionRouter,
        *,
        _concurrency: int = 8,
        _patience: float = 10.0,
    ) -> None:
        if not (hasattr(client, "list_user_avatars") and hasattr(router, "sessions")):
            kinds = f"{type(client).__name__} and {type(router).__name__}"
            raise TypeError(f"ConfirmByApi takes an AvaturnClient and a SessionRouter, not {kinds}")
        self._client = client
        self._sessions = router.sessions
        self._patience = _patience
        self._concurrency = _concurrency
        self._slots = asyncio.Semaphore(_concurrency)
        self._flights: dict[tuple[str, object], asyncio.Task[Any]] = {}

    async def check(self, event: Event) -> Event | None:
        """The event to believe, with ``raw`` made of what was confirmed; None if there is none.

        Raises:
            AvaturnError: It cannot be decided now: the API is out of reach, or is not that far yet.
        """
        if isinstance(event, AvatarReady):
            return await self._avatar(event)
        if isinstance(event, ExportReady):
            return await self._export(event)
        if isinstance(event, RenderReady):
            return await self._render(event)
        return None

    async def _avatar(self, event: AvatarReady) -> Event | None:
        if event.session_id is None:
            session = await self._sessions.find("avatar", event.avatar_id)
        else:
            session = await self._sessions.find("session", event.session_id)
        if session is None:
            return None
        # Never the user that the POST names: a session has the avatars of its own user only.
        status = await self._status(session.user_id, event.avatar_id)
        if status is None:
            return None
        if status in _UNFINISHED:
            raise AvaturnError(f"avatar {event.avatar_id} is still {status}")
        return _believed(event, user_id=session.user_id, status=status)

    async def _export(self, event: ExportReady) -> Event | None:
        owner = await self._owner(event, asked_by=None)
        if owner is None:
            return None
        try:
            export = await self._ask(
                ("export", event.avatar_id),
                lambda: self._client.create_export(event.avatar_id),
                settled=lambda export: export.status != TaskStatus.PENDING,
            )
        except NotFoundError:
            return None
        if export.status == TaskStatus.PENDING:
            raise AvaturnError(f"the export of avatar {event.avatar_id} is still pending")
        return _believed(event, **owner, status=export.status, export_url=export.url)

    async def _render(self, event: RenderReady) -> Event | None:
        asked_by = await self._sessions.find("render", event.id)
        if asked_by is None:
            # The event may be faster than the answer that tells us the id of its render.
            if not await self._sessions.renders_are_known(event.avatar_id, timeout=self._patience):
                raise AvaturnError(f"a render of avatar {event.avatar_id} is still being asked for")
            asked_by = await self._sessions.find("render", event.id)
        if asked_by is None:
            return None
        owner = await self._owner(event, asked_by=asked_by)
        return None if owner is None else _believed(event, **owner)

    async def _owner(
        self, event: ExportReady | RenderReady, *, asked_by: SessionRecord | None
    ) -> dict[str, Any] | None:
        """The user and the session to believe; None if nobody here has to do with the avatar.

        A session that the POST names is believed if it is one of the user whose avatar this is. If not, the
        event still reaches the session that its render or its avatar leads to.
        """
        maker = await self._sessions.find("avatar", event.avatar_id)
        named = None
        if event.session_id is not None:
            named = await self._sessions.find("session", event.session_id)
        session = asked_by or maker or named
        if session is None:
            return None
        known_as_theirs = maker is not None and maker.user_id == session.user_id
        if not known_as_theirs and await self._status(session.user_id, event.avatar_id) is None:
            return None
        is_theirs = named is not None and named.user_id == session.user_id
        return {"user_id": session.user_id, "session_id": event.session_id if is_theirs else None}

    async def _status(self, user_id: str, avatar_id: UUID) -> ScanStatus | None:
        """How far an avatar is; None if it is not one of the user."""

        def found(avatars: tuple[Avatar, ...]) -> ScanStatus | None:
            return next((avatar.status for avatar in avatars if avatar.id == avatar_id), None)

        try:
            avatars = await self._ask(
                ("avatars", user_id),
                lambda: self._client.list_user_avatars(user_id, include_not_ready=True),
                settled=lambda avatars: found(avatars) not in (None, *_UNFINISHED),
            )
        except NotFoundError:
            return None
        return found(avatars)

    async def _ask(
        self, key: tuple[str, object], call: Callable[[], Awaitable[T]], *, settled: Callable[[T], bool]
    ) -> T:
        """The answer to a call, which is shared by those who want it at the same time."""
        joined = key in self._flights
        answer = await self._fly(key, call)
        if joined and not settled(answer):
            # What was joined may have been asked before the thing happened that the event tells of.
            answer = await self._fly(key, call)
        return answer

    async def _fly(self, key: tuple[str, object], call: Callable[[], Awaitable[T]]) -> T:
        flight = self._flights.get(key)
        if not self._flights:
            # A semaphore belongs to the event loop in which somebody had to wait for it.
            self._slots = asyncio.Semaphore(self._concurrency)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._in_slot(call), name=f"confirm {key[0]}")
            flight.add_done_callback(lambda done: self._landed(key, done))
        # Whoever gives up must not end the call of the others.
        answer: T = await asyncio.shield(flight)
        return answer

    async def _in_slot(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            return await call()

    def _landed(self, key: tuple[str, object], flight: asyncio.Task[Any]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            # Everybody who waited for it may have given up.
            flight.exception()


def _believed(event: AvatarReady | ExportReady | RenderReady, **facts: Any) -> Event:
    """The event with these facts, and with nothing in ``raw`` that only the POST said."""
    believed = attrs.evolve(event, **facts)
    fields = attrs.asdict(believed, recurse=False)
    raw = {name: str(value) for name, value in fields.items() if name not in _NOT_RAW and value is not None}
    return attrs.evolve(believed, raw=raw)
