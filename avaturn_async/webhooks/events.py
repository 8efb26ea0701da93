"""The events that Avaturn posts, and how they are read from the bytes of a webhook.

Vendor's page: https://docs.avaturn.me (webhooks). Of ``avatar.ready`` only ``event`` and ``avatar_id`` are
published, and export and render events are published without ``session_id``: what is not certain to be sent
is ``None`` when it is absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast
from uuid import UUID

import attrs
from attrs import field, frozen

from avaturn_async.errors import WebhookPayloadError
from avaturn_async.models import ScanStatus, TaskStatus, uuid_of
from avaturn_async.webhooks._json import strict_json

__all__ = ["AvatarReady", "Event", "ExportReady", "RenderReady", "UnknownEvent", "event_body", "parse_event"]


@frozen(kw_only=True)
class AvatarReady:
    """An avatar was processed. Look at ``status``: it may say failed."""

    avatar_id: UUID
    """The avatar."""
    user_id: str | None = None
    """Whose avatar it is."""
    session_id: UUID | None = None
    """The session in which it was made or edited."""
    status: ScanStatus | None = None
    """How it ended; None when the event does not say."""
    event: str = field(default="avatar.ready", init=False)
    """The event's name."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)
    """Everything that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """Rises with arrival; 0 for an event that no router gave out."""


@frozen(kw_only=True)
class ExportReady:
    """An export ended. Look at ``status``: it may say failed."""

    avatar_id: UUID
    """The avatar that was exported."""
    user_id: str
    """Whose avatar it is."""
    status: TaskStatus
    """How it ended."""
    export_url: str | None = field(default=None, repr=False)
    """Temporary address of the GLB: download it at once. None when it failed."""
    session_id: UUID | None = None
    """The session, if the event names one; the published example does not."""
    event: str = field(default="export.ready", init=False)
    """The event's name."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)
    """Everything that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """Rises with arrival; 0 for an event that no router gave out."""


@frozen(kw_only=True)
class RenderReady:
    """A render ended. Look at ``status``: it may say failed."""

    avatar_id: UUID
    """The avatar that was rendered."""
    user_id: str
    """Whose avatar it is."""
    id: UUID
    """The render: what ``render_user_avatar`` answered as ``id``."""
    status: TaskStatus
    """How it ended."""
    render_url: str | None = field(default=None, repr=False)
    """Address of the image for about 15 minutes: download it at once. None when it failed."""
    session_id: UUID | None = None
    """The session, if the event names one; the published example does not."""
    event: str = field(default="render.ready", init=False)
    """The event's name."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)
    """Everything that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """Rises with arrival; 0 for an event that no router gave out."""


@frozen(kw_only=True)
class UnknownEvent:
    """An authentic event of a type, or of a shape, that this release does not know."""

    event: str
    """The event's name."""
    avatar_id: UUID | None = None
    """The avatar that it is about, if it says so readably."""
    user_id: str | None = None
    """The user, if it says so readably."""
    session_id: UUID | None = None
    """The session, if it says so readably."""
    problems: tuple[str, ...] = ()
    """For an event of a known type: each place that is not of the documented shape."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    """Everything that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """Rises with arrival; 0 for an event that no router gave out."""


Event = AvatarReady | ExportReady | RenderReady | UnknownEvent
"""What a router gives out; a ``match`` over the four is complete."""


def parse_event(body: bytes) -> Event:
    """The event in the body of an authentic webhook.

    Raises:
        WebhookPayloadError: It is not strict JSON, not an object, or has no ``event``.
    """
    value = strict_json(body)
    if type(value) is not dict:
        raise WebhookPayloadError("not a JSON object")
    raw = cast("dict[str, Any]", value)
    name = raw.get("event")
    if type(name) is not str:
        raise WebhookPayloadError("no event in it")
    read = _READERS.get(name)
    problems: list[str] = []
    event = None if read is None else read(_Fields(raw, problems))
    if event is not None and not problems:
        return event
    best = _Fields(raw, [])
    return UnknownEvent(
        event=name,
        avatar_id=best.uuid("avatar_id"),
        user_id=best.text("user_id"),
        session_id=best.uuid("session_id"),
        problems=tuple(problems),
        raw=raw,
    )


def event_body(event: Event) -> bytes:
    """The JSON that ``parse_event`` reads as this event: what was posted, with the attributes over it."""
    values: dict[str, Any] = dict(event.raw)
    names = [a.name for a in attrs.fields(type(event)) if a.name not in {"raw", "position", "problems"}]
    for name in names:
        value = getattr(event, name)
        if isinstance(value, UUID):
            # Either case was readable, so that what was posted stays.
            if str(values.get(name)).lower() != str(value):
                values[name] = str(value)
        elif value is not None:
            values[name] = value
        elif name in values and not isinstance(event, UnknownEvent):
            # What an UnknownEvent could not read stays: that is what makes it unknown.
            values[name] = None
    return json.dumps(values, separators=(",", ":")).encode()


class _Fields:
    """The fields of an event, each of the documented type; what is not goes on the list of problems."""

    def __init__(self, raw: dict[str, Any], problems: list[str]) -> None:
        self.raw = raw
        self._problems = problems

    def text(self, name: str) -> str | None:
        """A text, or None if it is absent or null."""
        value = self.raw.get(name)
        if value is None or type(value) is str:
            return value
        self._problems.append(f"expected str at $.{name}")
        return None

    def uuid(self, name: str) -> UUID | None:
        """A UUID in canonical form, or None if it is absent or null."""
        value = self.raw.get(name)
        if value is None:
            return None
        try:
            return uuid_of(value)
        except ValueError:
            self._problems.append(f"expected UUID at $.{name}")
        return None

    def needed(self, name: str) -> None:
        """Complain if a field is absent or null."""
        if self.raw.get(name) is None:
            self._problems.append(f"missing $.{name}")


def _avatar_ready(fields: _Fields) -> AvatarReady | None:
    fields.needed("avatar_id")
    avatar_id, status = fields.uuid("avatar_id"), fields.text("status")
    user_id, session_id = fields.text("user_id"), fields.uuid("session_id")
    if avatar_id is None:
        return None
    return AvatarReady(
        avatar_id=avatar_id,
        user_id=user_id,
        session_id=session_id,
        status=None if status is None else ScanStatus(status),
        raw=fields.raw,
    )


def _export_ready(fields: _Fields) -> ExportReady | None:
    for name in ("avatar_id", "user_id", "status"):
        fields.needed(name)
    avatar_id, user_id, status = fields.uuid("avatar_id"), fields.text("user_id"), fields.text("status")
    export_url, session_id = fields.text("export_url"), fields.uuid("session_id")
    if avatar_id is None or user_id is None or status is None:
        return None
    return ExportReady(
        avatar_id=avatar_id,
        user_id=user_id,
        status=TaskStatus(status),
        export_url=export_url,
        session_id=session_id,
        raw=fields.raw,
    )


def _render_ready(fields: _Fields) -> RenderReady | None:
    for name in ("avatar_id", "user_id", "id", "status"):
        fields.needed(name)
    avatar_id, user_id, status = fields.uuid("avatar_id"), fields.text("user_id"), fields.text("status")
    render_id, render_url, session_id = (
        fields.uuid("id"),
        fields.text("render_url"),
        fields.uuid("session_id"),
    )
    if avatar_id is None or user_id is None or status is None or render_id is None:
        return None
    return RenderReady(
        avatar_id=avatar_id,
        user_id=user_id,
        id=render_id,
        status=TaskStatus(status),
        render_url=render_url,
        session_id=session_id,
        raw=fields.raw,
    )


_READERS: dict[str, Callable[[_Fields], Event | None]] = {
    "avatar.ready": _avatar_ready,
    "export.ready": _export_ready,
    "render.ready": _render_ready,
}
