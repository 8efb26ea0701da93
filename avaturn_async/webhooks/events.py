"""The events that Avaturn posts, and how they are read from the bytes of a webhook.

Vendor's page: https://docs.avaturn.me (webhooks). Of ``avatar.ready`` only ``event`` and ``avatar_id`` are
published, and export and render events are published without ``session_id``: what is not certain to be sent
is ``None`` when it is absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints
from uuid import UUID

import attrs
from attrs import field, frozen

from avaturn_async._ids import uuid_of
from avaturn_async._structure import NOT_SENT, UNREADABLE, read_str, reader
from avaturn_async._unguarded import written
from avaturn_async.errors import WebhookPayloadError
from avaturn_async.models import ScanStatus, TaskStatus
from avaturn_async.webhooks._json import strict_json

__all__ = ["AvatarReady", "Event", "ExportReady", "RenderReady", "UnknownEvent", "event_body", "parse_event"]

T = TypeVar("T")


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
    known = _KNOWN.get(name)
    if known is None:
        return _unknown(name, raw, problems=())
    try:
        event: Event = reader(known)(raw)
    except UNREADABLE:
        pass
    else:
        return event
    return _unknown(name, raw, problems=_problems(known, raw))


def _unknown(name: str, raw: dict[str, Any], *, problems: tuple[str, ...]) -> UnknownEvent:
    """An event of which only the ids are of interest, so far as they are readable."""
    return UnknownEvent(
        event=name,
        avatar_id=_readable(uuid_of, raw.get("avatar_id")),
        user_id=_readable(read_str, raw.get("user_id")),
        session_id=_readable(uuid_of, raw.get("session_id")),
        problems=problems,
        raw=raw,
    )


def _readable(read: Callable[[Any], T], value: Any) -> T | None:
    try:
        return read(value)
    except UNREADABLE:
        return None


def _problems(cls: Any, raw: dict[str, Any]) -> tuple[str, ...]:
    """Each place that is not of the documented shape."""
    problems: list[str] = []
    types = get_type_hints(cls)
    for a in attrs.fields(cls):
        value, kind = raw.get(a.name), types[a.name]
        if a.name in NOT_SENT:
            continue
        if value is not None:
            if _readable(reader(kind), value) is None:
                expected = "UUID" if UUID in (kind, *get_args(kind)) else "str"
                problems.append(f"expected {expected} at $.{a.name}")
        elif a.default is attrs.NOTHING:
            problems.append(f"missing $.{a.name}")
    return tuple(problems)


def at_position(event: Event, position: int) -> Event:
    """The event as the one that a store has at a position: ``attrs.evolve`` in a third of its time."""
    cls: Any = type(event)
    made: Event = _copier(cls)(event, position)
    return made


@cache
def _copier(cls: Any) -> Callable[..., Any]:
    """What makes a copy of an event of a class, with another position."""
    names = [a.name for a in attrs.fields(cls) if a.name != "position"]
    lines = ["made = begin()", *(f"made.{name} = event.{name}" for name in names)]
    lines += ["made.position = position", "made.__class__ = cls", "return made"]
    return written("event, position", lines, cls, {})


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


_KNOWN: dict[str, Any] = {
    "avatar.ready": AvatarReady,
    "export.ready": ExportReady,
    "render.ready": RenderReady,
}
