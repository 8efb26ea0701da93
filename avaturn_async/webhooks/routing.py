"""Routing: compute from the entries of the log which session an event belongs to. Pure functions, no I/O.

The log holds three kinds of entries that matter here, under these topics:

==============================  ==================================================================================
an event                        ``session:<id>`` if it names one, ``render:<id>``, ``avatar:<id>``
a session was opened            ``session:<id>``; if it edits an avatar, ``avatar:<id>`` and ``links:<avatar id>`` too
a link to a session             ``session:<id>``, ``avatar:<id>``, and ``render:<id>`` or ``links:<avatar id>``
==============================  ==================================================================================

An ``avatar.ready`` that names its session is the link of its avatar, and is under ``links:<avatar id>`` too. A request
for a render is under ``asking:<avatar id>`` until the render's link, or a record that it was given up, closes it.

The rules:

-   An event that names a session belongs to that session only.
-   Otherwise the last link at or before the event decides. Without one, the first link after the event decides, if it
    is at most an hour younger. So the expiry of an old link does not hand old events to a newer session.
-   A render's event belongs to the session of the render's link. Without an earlier one it belongs to the session of
    the avatar, and to that of the render's first later link as well. A render's link counts only for the avatar that
    it names.
-   A longer log only adds events to a session.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

import attrs
from attrs import define, field, frozen

from avaturn_async.errors import WebhookPayloadError
from avaturn_async.webhooks.events import AvatarReady, Event, RenderReady, parse_event
from avaturn_async.webhooks.stores.base import Entry, NewEntry

_log = logging.getLogger("avaturn_async.webhooks")

LATE_LINK_SECONDS = 3600.0
RENDER_REQUEST_TTL = 300.0
"""Seconds until the request of a process that crashed no longer delays unknown renders."""
MAX_CONTEXT_DEPTH = 100
UNCONFIRMED = "unconfirmed"
"""The topic of an event that was stored unrouted."""
_RECORD = b"\x01"  # no JSON text begins with this byte


@frozen(kw_only=True)
class Opened:
    """A session was opened."""

    session_id: str
    user_id: str
    context: str
    """JSON text."""
    avatar_id: str | None = None
    """The avatar that the session edits."""


@frozen(kw_only=True)
class Link:
    """An avatar, or one render of it, belongs to a session."""

    session_id: str
    avatar_id: str
    render_id: str | None = None
    request_id: str | None = None
    """The request that this render came from."""


@frozen(kw_only=True)
class RenderRequest:
    """A render is being requested; or, with ``given_up``, that request failed."""

    request_id: str
    avatar_id: str
    given_up: bool = False


Record = Opened | Link | RenderRequest
_RECORD_TYPES: dict[str, type[Record]] = {"opened": Opened, "link": Link, "render_request": RenderRequest}


# From an event or a record to an entry


def get_event_topics(event: Event) -> list[str]:
    """Return the topics of the session, the render and the avatar that an event names, in this order."""
    topics = [] if event.session_id is None else [f"session:{event.session_id}"]
    if isinstance(event, RenderReady):
        topics.append(f"render:{event.id}")
    if event.avatar_id is not None:
        topics.append(f"avatar:{event.avatar_id}")
    return topics


def build_event_entry(
    event: Event, *, key: str, body: bytes, unique_for: float | None, ttl: float | None, confirmed: bool
) -> NewEntry:
    """Return the entry of an event.

    Args:
        event: The event.
        key: Identifies duplicates.
        body: The JSON text that ``parse_event`` reads as this event.
        unique_for: See NewEntry.
        ttl: The TTL of the store, if it is known. An event that links its avatar lives two of them.
        confirmed: Without it, the entry has no topic under which a session could find it.
    """
    if not confirmed:
        return NewEntry((UNCONFIRMED,), body, key, unique_for)
    topics = get_event_topics(event)
    lifetime = None
    if isinstance(event, AvatarReady) and event.session_id is not None:
        topics.append(f"links:{event.avatar_id}")
        lifetime = None if ttl is None else 2 * ttl
    return NewEntry(tuple(topics), body, key, unique_for, lifetime)


def build_record_entry(record: Record) -> NewEntry:
    """Return the entry of a record."""
    topics: list[str] = []
    ttl = None
    match record:
        case Opened():
            kind = "opened"
            topics.append(f"session:{record.session_id}")
            if record.avatar_id is not None:
                topics += [f"avatar:{record.avatar_id}", f"links:{record.avatar_id}"]
        case Link():
            kind = "link"
            topics += [f"session:{record.session_id}", f"avatar:{record.avatar_id}"]
            topics.append(f"links:{record.avatar_id}" if record.render_id is None else f"render:{record.render_id}")
            if record.request_id is not None:
                topics.append(f"asking:{record.avatar_id}")
        case _:  # a RenderRequest
            kind = "render_request"
            topics.append(f"asking:{record.avatar_id}")
            ttl = RENDER_REQUEST_TTL
    values = attrs.asdict(record, filter=lambda _, value: value is not None)
    body = _RECORD + json.dumps([kind, values], separators=(",", ":")).encode()
    return NewEntry(tuple(topics), body, ttl=ttl, dispatch=False)


def decode_entry(entry: Entry) -> Event | Record | None:
    """Return the event, with its position, or the record in an entry; None if this release cannot read it."""
    if not entry.body.startswith(_RECORD):
        try:
            return attrs.evolve(parse_event(entry.body), position=entry.position)
        except WebhookPayloadError:
            _log.error("the entry at position %d of the event store is not an event", entry.position)
            return None
    kind, values = json.loads(entry.body[len(_RECORD) :])
    record_type = _RECORD_TYPES.get(kind)
    if record_type is None:
        return None
    # A newer release may have added fields.
    names = {attribute.name for attribute in attrs.fields(record_type)}
    return record_type(**{name: value for name, value in values.items() if name in names})


def encode_context(context: Any) -> str:
    """Return the JSON text of a session's context, which reads back as an equal value.

    Raises:
        TypeError: It holds a value that is not JSON, or would change: a tuple would come back as a list.
        ValueError: It holds a number that is not finite, or is nested more than 100 deep.
    """
    _validate_context(context, "$", 0)
    return json.dumps(context, allow_nan=False, separators=(",", ":"))


def _validate_context(value: Any, path: str, depth: int) -> None:
    if depth > MAX_CONTEXT_DEPTH:
        raise ValueError(f"context is nested more than {MAX_CONTEXT_DEPTH} deep, or contains itself")
    if isinstance(value, dict):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str):
                raise TypeError(f"context must be JSON: the keys of {path} must be str, not {type(key).__name__}")
            _validate_context(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            _validate_context(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"context must be JSON: {path} is not a finite number")
    elif value is not None and not isinstance(value, str | int):
        raise TypeError(f"context must be JSON: {path} is a {type(value).__name__}")


# Look-ups


def find_opened(entries: Iterable[Entry], session_id: UUID | str) -> Opened | None:
    """Return the record of a session among the entries of its topic."""
    for entry in entries:
        record = decode_entry(entry) if entry.body.startswith(_RECORD) else None
        if isinstance(record, Opened) and record.session_id == str(session_id):
            return record
    return None


def get_owner_topics(avatar_id: UUID | str | None, render_id: UUID | str | None = None) -> list[str]:
    """Return the topics whose entries ``find_owner`` needs."""
    topics = [] if render_id is None else [f"render:{render_id}"]
    return topics if avatar_id is None else [*topics, f"links:{avatar_id}"]


def find_owner(
    entries: Iterable[Entry],
    *,
    avatar_id: UUID | str | None,
    render_id: UUID | str | None = None,
    position: float = math.inf,
    at: float = math.inf,
) -> str | None:
    """Return the session that a render belongs to at a position; if it has none, that of its avatar.

    Args:
        entries: All entries of ``get_owner_topics()``, by position.
        avatar_id: The avatar.
        render_id: The render, if it is about one.
        position: Place in the log of an event without a session; by default its end.
        at: When the event was appended.
    """
    avatar_links: list[tuple[Entry, str]] = []
    render_links: list[tuple[Entry, str]] = []
    for entry in entries:
        item = decode_entry(entry)
        link = None if item is None else get_link(item)
        if link is None or link.avatar_id != str(avatar_id):
            continue
        if link.render_id is None:
            avatar_links.append((entry, link.session_id))
        elif link.render_id == str(render_id):
            render_links.append((entry, link.session_id))
    return _pick_owner(render_links, position, at) or _pick_owner(avatar_links, position, at)


def get_link(item: Event | Record) -> Link | None:
    """Return what an event or a record says about the session of an avatar or a render."""
    match item:
        case Link():
            return item
        case Opened(avatar_id=str(avatar_id)):
            return Link(session_id=item.session_id, avatar_id=avatar_id)
        case AvatarReady(session_id=UUID() as session_id):
            return Link(session_id=str(session_id), avatar_id=str(item.avatar_id))
        case _:
            return None


def _pick_owner(links: Iterable[tuple[Entry, str]], position: float, at: float) -> str | None:
    owner = None
    for entry, session_id in links:
        if entry.position <= position:
            owner = session_id
        elif owner is None:
            return session_id if entry.at - at <= LATE_LINK_SECONDS else None
    return owner


def has_open_requests(entries: Iterable[Entry]) -> bool:
    """Return whether a render is being requested, given all entries of ``asking:<avatar id>``."""
    open_requests: set[str | None] = set()
    for entry in entries:
        match decode_entry(entry):
            case RenderRequest(given_up=False) as request:
                open_requests.add(request.request_id)
            case RenderRequest() | Link() as closing:
                open_requests.discard(closing.request_id)
            case _:
                pass
    return bool(open_requests)


# Readers


class TopicReader:
    """The events under one topic.

    Args:
        topic: For example ``avatar:<id>``.
        after: Position behind which to begin.
    """

    def __init__(self, topic: str, *, after: int = 0) -> None:
        self.positions: dict[str, int] = {topic: after}
        """What to read: each topic, with the position behind which to read it."""

    def feed(self, entries: Sequence[Entry]) -> list[Event]:
        """Return the new events of a page that was read at ``positions``, and move on behind the page."""
        items = [decode_entry(entry) for entry in entries]
        _advance(self.positions, entries)
        return [item for item in items if item is not None and not isinstance(item, Record)]


class SessionReader:
    """The events of one session: a fold over the topics of the session, and of the avatars and renders linked to it.

    Each topic has a position of its own, so that an avatar that is linked late brings its earlier events, each once.
    The entries of one topic arrive by position, whatever the pages; so the events do not depend on when, or in which
    pages, the log is read.

    Args:
        session_id: The session.
        after: Events at or below this position are not returned. They are read all the same, since an earlier entry
            can link an avatar.
    """

    def __init__(self, session_id: UUID | str, *, after: int = 0) -> None:
        self._session_id = str(session_id)
        self._session_topic = f"session:{self._session_id}"
        self.positions: dict[str, int] = {self._session_topic: 0}
        """What to read: each topic, with the position behind which to read it."""
        self._after = after
        self._owners: dict[str, _OwnerFold] = {}
        # Positions that were returned: a render's event can be found under its avatar and its render.
        self._returned: set[int] = set()

    def feed(self, entries: Sequence[Entry]) -> list[Event]:
        """Return the new events of a page that was read at ``positions``, and move on behind the page.

        A topic that the page links to the session is added to ``positions`` at 0: read again before sleeping.
        """
        found: dict[int, Event] = {}
        requested = dict(self.positions)
        _advance(self.positions, entries)
        for entry in entries:
            item = decode_entry(entry)
            if item is None:
                continue
            for topic in entry.topics:
                # Not requested, or requested behind this entry.
                if requested.get(topic, entry.position) >= entry.position:
                    continue
                if topic == self._session_topic:
                    events = [] if isinstance(item, Record) else [item]
                    link = get_link(item)
                    if link is not None:
                        linked = f"avatar:{link.avatar_id}" if link.render_id is None else f"render:{link.render_id}"
                        if linked not in self.positions:
                            self.positions[linked] = 0
                            self._owners[linked] = _OwnerFold(self._session_id, link.render_id)
                else:
                    events = self._owners[topic].feed(item, entry.at)
                for event in events:
                    if event.position > self._after and event.position not in self._returned:
                        found[event.position] = event
        self._returned.update(found)
        return list(found.values())


@define
class _OwnerFold:
    """Which events of one avatar, or of one render, belong to a session."""

    _session_id: str
    _render_id: str | None
    # The session of the last link of the avatar, or of the render for each avatar that its links name.
    _owners: dict[str, str] = field(factory=dict[str, str])
    # Events before the first link, with their time.
    _waiting: list[tuple[Event, float]] = field(factory=list[tuple[Event, float]])
    # In the fold of an avatar: its renders that have a link of their own.
    _linked_renders: set[str] = field(factory=set[str])

    def feed(self, item: Event | Record, at: float) -> list[Event]:
        """Take the next item under the avatar or render; return the events that belong to the session now."""
        link = get_link(item)
        if link is not None and link.render_id == self._render_id:
            return self._take_link(link, at)
        if isinstance(item, Link) and item.render_id is not None:
            self._linked_renders.add(item.render_id)
            return []
        if isinstance(item, Record) or item.session_id is not None:
            return []
        if isinstance(item, RenderReady) and str(item.id) in self._linked_renders:
            return []  # the fold of the render decides
        owner = self._owners.get(str(item.avatar_id))
        if owner is None:
            self._waiting.append((item, at))
        return [item] if owner == self._session_id else []

    def _take_link(self, link: Link, at: float) -> list[Event]:
        is_first = link.avatar_id not in self._owners
        self._owners[link.avatar_id] = link.session_id
        if not is_first:
            return []
        decided = [(event, then) for event, then in self._waiting if str(event.avatar_id) == link.avatar_id]
        self._waiting = [(event, then) for event, then in self._waiting if str(event.avatar_id) != link.avatar_id]
        if link.session_id != self._session_id:
            return []
        return [event for event, then in decided if at - then <= LATE_LINK_SECONDS]


Reader = TopicReader | SessionReader


def _advance(positions: dict[str, int], entries: Sequence[Entry]) -> None:
    """Move all topics behind a page: one ``read`` sees one state of the log, so that nothing below is missing."""
    if entries:
        last = entries[-1].position
        for topic, position in positions.items():
            positions[topic] = max(position, last)
