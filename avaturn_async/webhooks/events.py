"""The events that Avaturn posts, and how to parse them from the body of a webhook.

Vendor's page: https://docs.avaturn.me (webhooks). Of ``avatar.ready`` only ``event`` and ``avatar_id`` are
published, and export and render events are published without ``session_id``. A field that may be absent is
``None`` then.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn, cast
from uuid import UUID

import attrs
from attrs import field, frozen

from avaturn_async._converter import structure
from avaturn_async._validation import parse_uuid
from avaturn_async.errors import AvaturnDecodeError, WebhookPayloadError
from avaturn_async.models import ScanStatus, TaskStatus

__all__ = ["AvatarReady", "Event", "ExportReady", "RenderReady", "UnknownEvent", "event_body", "parse_event"]

_MAX_DIGITS = 20
_MAX_DEPTH = 64


@frozen(kw_only=True)
class AvatarReady:
    """An avatar was processed. ``status`` tells success from failure."""

    avatar_id: UUID
    """The avatar."""
    user_id: str | None = None
    """The user who owns the avatar."""
    session_id: UUID | None = None
    """The session in which it was made or edited."""
    status: ScanStatus | None = None
    """The result; None if the event has no status."""
    event: str = field(default="avatar.ready", init=False)
    """The event's name."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)
    """The whole JSON object that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """The position in the log; 0 for an event that does not come from a router."""


@frozen(kw_only=True)
class ExportReady:
    """An export ended. ``status`` tells success from failure."""

    avatar_id: UUID
    """The avatar that was exported."""
    user_id: str
    """The user who owns the avatar."""
    status: TaskStatus
    """The result."""
    export_url: str | None = field(default=None, repr=False)
    """Temporary URL of the GLB. None if the export failed."""
    session_id: UUID | None = None
    """The session, if the event names one; the published example does not."""
    event: str = field(default="export.ready", init=False)
    """The event's name."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)
    """The whole JSON object that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """The position in the log; 0 for an event that does not come from a router."""


@frozen(kw_only=True)
class RenderReady:
    """A render ended. ``status`` tells success from failure."""

    avatar_id: UUID
    """The avatar that was rendered."""
    user_id: str
    """The user who owns the avatar."""
    id: UUID
    """The render: ``Render.id`` of ``render_user_avatar``."""
    status: TaskStatus
    """The result."""
    render_url: str | None = field(default=None, repr=False)
    """URL of the image, valid for about 15 minutes. None if the render failed."""
    session_id: UUID | None = None
    """The session, if the event names one; the published example does not."""
    event: str = field(default="render.ready", init=False)
    """The event's name."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], eq=False, repr=False)
    """The whole JSON object that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """The position in the log; 0 for an event that does not come from a router."""


@frozen(kw_only=True)
class UnknownEvent:
    """An authentic event of a type, or of a shape, that this release does not know."""

    event: str
    """The event's name."""
    avatar_id: UUID | None = None
    """The avatar, if the event has a valid ``avatar_id``."""
    user_id: str | None = None
    """The user, if the event has a valid ``user_id``."""
    session_id: UUID | None = None
    """The session, if the event has a valid ``session_id``."""
    problems: tuple[str, ...] = ()
    """For an event of a known type: each place that does not have the documented shape."""
    raw: Mapping[str, Any] = field(factory=dict[str, Any], hash=False, repr=False)
    """The whole JSON object that was posted."""
    position: int = field(default=0, eq=False, repr=False)
    """The position in the log; 0 for an event that does not come from a router."""


Event = AvatarReady | ExportReady | RenderReady | UnknownEvent
"""Any event; a ``match`` over the four classes is exhaustive."""


_EVENT_TYPES: Mapping[str, type[AvatarReady | ExportReady | RenderReady]] = MappingProxyType(
    {"avatar.ready": AvatarReady, "export.ready": ExportReady, "render.ready": RenderReady}
)


def parse_event(body: bytes) -> Event:
    """Return the event in the body of an authentic webhook.

    An event of an unknown type, or of a known type with another shape, becomes an UnknownEvent.

    Raises:
        WebhookPayloadError: The body is not strict JSON, is not an object, or has no ``event``.
        TypeError: ``body`` is not bytes.
    """
    if not isinstance(body, bytes):
        raise TypeError(f"body must be the raw bytes of the webhook, not {type(body).__name__}")
    value = parse_strict_json(body)
    if not isinstance(value, dict):
        raise WebhookPayloadError("not a JSON object")
    raw = cast("dict[str, Any]", value)
    name = raw.get("event")
    if not isinstance(name, str):
        raise WebhookPayloadError("no event of type str in the object")
    problems: tuple[str, ...] = ()
    if name in _EVENT_TYPES:
        # A null means the same as an absent key, and the position is the log's.
        fields = {key: item for key, item in raw.items() if item is not None and key != "position"}
        fields["raw"] = raw
        try:
            return structure(fields, _EVENT_TYPES[name])
        except AvaturnDecodeError as error:
            problems = error.problems
    user_id = raw.get("user_id")
    return UnknownEvent(
        event=name,
        avatar_id=_parse_uuid_or_none(raw.get("avatar_id")),
        user_id=user_id if isinstance(user_id, str) else None,
        session_id=_parse_uuid_or_none(raw.get("session_id")),
        problems=problems,
        raw=raw,
    )


def _parse_uuid_or_none(value: Any) -> UUID | None:
    try:
        return parse_uuid(value)
    except ValueError:
        return None


def event_body(event: Event) -> bytes:
    """Return the JSON that ``parse_event`` parses as this event: ``raw`` with the attributes over it."""
    values: dict[str, Any] = dict(event.raw)
    names = [a.name for a in attrs.fields(type(event)) if a.name not in {"raw", "position", "problems"}]
    for name in names:
        value = getattr(event, name)
        if isinstance(value, UUID):
            # An id in upper case was accepted, so it stays as posted.
            if str(values.get(name)).lower() != str(value):
                values[name] = str(value)
        elif value is not None:
            values[name] = value
        elif name in values and not isinstance(event, UnknownEvent):
            # An UnknownEvent keeps the invalid values that made it unknown.
            values[name] = None
    return json.dumps(values, separators=(",", ":")).encode()


class _NotStrictError(ValueError):
    """JSON that json.loads accepts and RFC 8259 does not. The message contains nothing of the body."""


def parse_strict_json(body: bytes) -> Any:
    """Return the value in a body, if all parsers of JSON read it alike.

    Raises:
        WebhookPayloadError: The body is not UTF-8 (one byte order mark is accepted), is not JSON, or has
            duplicate keys, numbers that are not finite, integers of more than 20 digits, lone surrogates, or
            more than 64 levels.
    """
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode()
        value = _decoder.decode(text)
        if "\\u" in text:
            # An escape can write a lone surrogate, which UTF-8 cannot encode.
            json.dumps(value, ensure_ascii=False).encode()
        if text.count("[") + text.count("{") > _MAX_DEPTH:
            _check_depth(value)
    except _NotStrictError as error:
        reason = str(error)
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except UnicodeEncodeError:
        reason = "a lone surrogate"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError:
        reason = "not JSON"
    else:
        return value
    raise WebhookPayloadError(reason)


def _check_depth(value: Any) -> None:
    # Level by level, since recursion could exceed Python's limit.
    layer: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                below += cast("dict[str, Any]", item).values()
            elif isinstance(item, list):
                below += item
        layer = below
    if any(isinstance(item, dict | list) for item in layer):
        raise _NotStrictError("nested too deeply")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _NotStrictError("duplicate key")
    return made


def _parse_int(text: str) -> int:
    if len(text.removeprefix("-")) > _MAX_DIGITS:
        raise _NotStrictError("an integer of more than 20 digits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NotStrictError("a number that is not finite")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _NotStrictError(f"{name} is not JSON")


# json.loads() with options makes one of these for each call.
_decoder = json.JSONDecoder(
    object_pairs_hook=_make_object,
    parse_int=_parse_int,
    parse_float=_parse_float,
    parse_constant=_refuse_constant,
)
