"""Shared by the tests of the router: events, their bodies, and an API that responds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast
from uuid import UUID

from avaturn_async import (
    Avatar,
    AvaturnClient,
    Export,
    Render,
    ScanStatus,
    Session,
    TaskStatus,
)
from avaturn_async.webhooks.events import (
    AvatarReady,
    Event,
    ExportReady,
    RenderReady,
    UnknownEvent,
    event_body,
    parse_event,
)
from avaturn_async.webhooks.router import SessionRouter

E = TypeVar("E", AvatarReady, ExportReady, RenderReady, UnknownEvent)


def uid(kind: int, n: int) -> UUID:
    """Return an id whose first digits show its kind."""
    return UUID(f"{kind:08x}-0000-4000-8000-{n:012x}")


def session_id(n: int) -> UUID:
    return uid(0x5E551011, n)


def avatar_id(n: int) -> UUID:
    return uid(0xA7A, n)


def render_id(n: int) -> UUID:
    return uid(0x4E4DE4, n)


def avatar_ready(avatar: int, session: int | None = None, **fields: Any) -> AvatarReady:
    return _posted(AvatarReady(avatar_id=avatar_id(avatar), session_id=_named(session), **fields))


def export_ready(avatar: int, session: int | None = None, **fields: Any) -> ExportReady:
    fields = {"user_id": "user", "status": TaskStatus.READY, **fields}
    return _posted(ExportReady(avatar_id=avatar_id(avatar), session_id=_named(session), **fields))


def render_ready(avatar: int, render: int, session: int | None = None, **fields: Any) -> RenderReady:
    fields = {"user_id": "user", "status": TaskStatus.READY, "session_id": _named(session), **fields}
    return _posted(RenderReady(avatar_id=avatar_id(avatar), id=render_id(render), **fields))


def unknown(name: str, **fields: Any) -> UnknownEvent:
    return _posted(UnknownEvent(event=name, **fields))


def _named(session: int | None) -> UUID | None:
    return None if session is None else session_id(session)


def _posted(event: E) -> E:
    """Return the event as it is parsed, with all fields in ``raw``."""
    read = parse_event(event_body(event))
    assert type(read) is type(event)
    return read


async def publish(
    router: SessionRouter, event: Event, key: str | None = None, *, unique_for: float | None = None
) -> bool:
    body = event_body(event)
    return await router.publish(event, key=body.hex() if key is None else key, body=body, unique_for=unique_for)


class Api:
    """A client whose responses are attributes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.opened = 0
        self.render = 0
        self.avatars: dict[str, dict[int, str]] = {}
        self.export: Export | Exception = Export(status=TaskStatus.PENDING)
        self.during: Callable[[str], Any] = _nothing

    @property
    def client(self) -> AvaturnClient:
        return cast("AvaturnClient", self)

    async def _called(self, call: str) -> None:
        self.calls.append(call)
        await self.during(call)

    async def new_session(self, user_id: str, config: Any = None) -> Session:
        self.opened += 1
        await self._called(f"new_session {user_id} {config}")
        return Session(id=session_id(self.opened), url="https://example.test/?token=secret")

    async def create_export(self, avatar_id: UUID) -> Export:
        await self._called(f"create_export {avatar_id}")
        if isinstance(self.export, Exception):
            raise self.export
        return self.export

    async def render_user_avatar(self, avatar_id: UUID, *, scene: str, format: str) -> Render:  # noqa: A002
        await self._called(f"render {avatar_id} {scene} {format}")
        self.render += 1
        return Render(id=render_id(self.render), status=TaskStatus.PENDING)

    async def list_user_avatars(self, user_id: str, *, include_not_ready: bool) -> tuple[Avatar, ...]:
        await self._called(f"list_user_avatars {user_id} {include_not_ready}")
        listed = self.avatars.get(user_id, {})
        return tuple(Avatar(id=avatar_id(n), status=ScanStatus(status)) for n, status in listed.items())


async def _nothing(_: str) -> None:
    """Take the place of ``during``."""


def has_waiters(router: SessionRouter) -> bool:
    """Return whether a router has a waiter, or a topic that one left behind."""
    return bool(router.bus.waiting_topics)
