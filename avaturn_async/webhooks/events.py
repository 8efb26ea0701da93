"""The events that Avaturn posts, and how they are read from the bytes of a webhook.

Vendor's page: https://docs.avaturn.me (webhooks). Of ``avatar.ready`` only ``event`` and ``avatar_id`` are
published, so everything else about it may be ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from attrs import field, frozen

from avaturn_async.models import ScanStatus, TaskStatus


@frozen(kw_only=True)
class AvatarReady:
    """An avatar was processed. Look at ``status``: it may say failed."""

    avatar_id: UUID
    user_id: str | None = None
    session_id: UUID | None = None
    status: ScanStatus | None = None
    event: str = field(default="avatar.ready", init=False)
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    position: int = field(default=0, eq=False, repr=False)


@frozen(kw_only=True)
class ExportReady:
    """An export ended. Look at ``status``: it may say failed."""

    avatar_id: UUID
    user_id: str
    status: TaskStatus
    export_url: str | None = field(default=None, repr=False)
    session_id: UUID | None = None
    event: str = field(default="export.ready", init=False)
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    position: int = field(default=0, eq=False, repr=False)


@frozen(kw_only=True)
class RenderReady:
    """A render ended. Look at ``status``: it may say failed."""

    avatar_id: UUID
    user_id: str
    id: UUID
    status: TaskStatus
    render_url: str | None = field(default=None, repr=False)
    session_id: UUID | None = None
    event: str = field(default="render.ready", init=False)
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    position: int = field(default=0, eq=False, repr=False)


@frozen(kw_only=True)
class UnknownEvent:
    """An authentic event of a type, or of a shape, that this release does not know."""

    event: str
    avatar_id: UUID | None = None
    user_id: str | None = None
    session_id: UUID | None = None
    problems: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    position: int = field(default=0, eq=False, repr=False)


Event = AvatarReady | ExportReady | RenderReady | UnknownEvent
