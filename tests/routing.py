"""What the tests of the router share: events, their bodies, and an API that answers at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

import attrs

from avaturn_async import (
    Avatar,
    AvaturnClient,
    Export,
    Render,
    ScanStatus,
    Session,
    TaskStatus,
    WebhookPayloadError,
)
from avaturn_async.webhooks import events as _events
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady, UnknownEvent
from avaturn_async.webhooks.router import SessionRouter


def uid(kind: int, n: int) -> UUID:
    """An id that tells at a glance what it is of."""
    return UUID(f"{kind:08x}-0000-4000-8000-{n:012x}")


def session_id(n: int) -> UUID:
    return uid(0x5E551011, n)


def avatar_id(n: int) -> UUID:
    return uid(0xA7A, n)


def render_id(n: int) -> UUID:
    return uid(0x4E4DE4, n)


def avatar_ready(avatar: int, session: int | None = None, **fields: Any) -> AvatarReady:
    named = None if session is None else session_id(session)
    return AvatarReady(avatar_id=avatar_id(avatar), session_id=named, **fields)


def export_ready(avatar: int, session: int | None = None, **fields: Any) -> ExportReady:
    named = None if session is None else session_id(session)
    fields = {"user_id": "user", "status": TaskStatus.READY, **fields}
    return ExportReady(avatar_id=avatar_id(avatar), session_id=named, **fields)


def render_ready(avatar: int, render: int, session: int | None = None, **fields: Any) -> RenderReady:
    named = None if session is None else session_id(session)
    fields = {"user_id": "user", "status": TaskStatus.READY, **fields}
    return RenderReady(avatar_id=avatar_id(avatar), id=render_id(render), session_id=named, **fields)


def body_of(event: Event) -> bytes:
    """A body that is read as this event."""
    fields = attrs.asdict(event, recurse=False)
    kept = {k: v for k, v in fields.items() if k not in ("raw", "position", "problems") and v is not None}
    return json.dumps({name: str(value) for name, value in kept.items()}).encode()


async def publish(router: SessionRouter, event: Event, key: str | None = None) -> bool:
    body = body_of(event)
    return await router.publish(event, key=body.hex() if key is None else key, body=body)


class Api:
    """Stands in for the API: a client whose answers are attributes."""

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
    """What happens during a call, unless a test says otherwise."""


def nobody_waits(router: SessionRouter) -> bool:
    """Whether no waiter, and no key of one, is left behind in a router."""
    return not router._inbox._hints


def _parse_event(body: bytes) -> Event:
    """Until there is a real one."""
    try:
        sent = json.loads(body)
    except ValueError:
        raise WebhookPayloadError("not JSON") from None
    sent = {
        name: UUID(value) if name in ("avatar_id", "session_id", "id") else value
        for name, value in sent.items()
    }
    name = sent.pop("event")
    known: dict[str, Any] = {
        "avatar.ready": AvatarReady,
        "export.ready": ExportReady,
        "render.ready": RenderReady,
    }
    if name not in known:
        return UnknownEvent(event=name, **sent)
    event: Event = known[name](**sent)
    return event


vars(_events).setdefault("parse_event", _parse_event)
