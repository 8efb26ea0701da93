"""What the API takes and what it answers, as frozen attrs classes with the vendor's field names.

A field that the server did not send reads as ``None``. Enums are open: a value that this release does not
know is a value all the same (``status == "queued"``), never a crash. Keys that this release does not know
are ignored, except where the object goes back to the server: there they are kept in ``extra``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from attrs import field, frozen

from avaturn_async._ids import as_uuid

__all__ = [
    "AssetSlot",
    "AssetSlots",
    "Avatar",
    "BodyType",
    "BoneScale",
    "Create",
    "CreateOrEditExisting",
    "Customization",
    "EditExisting",
    "Export",
    "NewAvatar",
    "Render",
    "RenderFormat",
    "ScanStatus",
    "Session",
    "SessionConfig",
    "TaskStatus",
    "User",
]


class OpenEnum(StrEnum):
    """An enum that takes values from the future: they compare and print as the text they are."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        # Python 3.11.2 goes by the name, and knows no name from the future.
        return type(self), (self.value,)

    def __deepcopy__(self, _: Any) -> Self:
        return self


class ScanStatus(OpenEnum):
    """How far an avatar is."""

    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class TaskStatus(OpenEnum):
    """How far an export or a render is."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class RenderFormat(OpenEnum):
    """The image format of a render."""

    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"


class BodyType(OpenEnum):
    """The body that photos are fitted to."""

    MALE = "male"
    FEMALE = "female"


@frozen(kw_only=True)
class User:
    """An anonymous user of the project."""

    id: str
    """32 base32-like characters; not a UUID."""


@frozen(kw_only=True)
class CreateOrEditExisting:
    """Session config: the avatar dashboard if the user has avatars, else the creation flow."""


@frozen(kw_only=True)
class Create:
    """Session config: always the creation flow."""


@frozen(kw_only=True)
class EditExisting:
    """Session config: the editor, opened on one avatar."""

    avatar_id: UUID = field(converter=as_uuid)
    """The avatar to edit; it may still be processing."""


SessionConfig = CreateOrEditExisting | Create | EditExisting
"""What a session shows when it is opened."""


@frozen(kw_only=True)
class Session:
    """One visit of a user to the Avaturn UI."""

    id: UUID
    """Tells the events of this session from those of others."""
    url: str = field(repr=False)
    """The page to open for the user. It carries a credential: keep it out of logs."""
    custom_upload_url: str | None = field(default=None, repr=False)
    """Deprecated by the vendor."""


@frozen(kw_only=True)
class Avatar:
    """One row of a user's list of avatars."""

    id: UUID
    """The avatar."""
    status: ScanStatus
    """How far it is; open enum."""


@frozen(kw_only=True)
class NewAvatar:
    """A provisional avatar that waits for its photos."""

    avatar_id: UUID
    """The avatar."""
    upload_url: str = field(repr=False)
    """Where its photos go. It is a credential by itself: keep it out of logs."""


@frozen(kw_only=True)
class AssetSlot:
    """One asset that an avatar wears."""

    id: UUID = field(converter=as_uuid)
    """The asset."""
    color: str | None = None
    """``#rrggbb`` for hair and headwear, ``#rrggbbaa`` for eyewear; other slots have none."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Keys that this release does not know, and keys that were sent as null; they are sent back."""


@frozen(kw_only=True)
class AssetSlots:
    """What an avatar wears, at most one asset per slot; an empty slot is left out."""

    clothing: AssetSlot | None = None
    """Clothes; no colour."""
    hair_and_headwear: AssetSlot | None = None
    """Hair or a hat; colour ``#rrggbb``."""
    eyewear: AssetSlot | None = None
    """Glasses; colour ``#rrggbbaa``."""
    footwear: AssetSlot | None = None
    """Shoes; no colour."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Keys that this release does not know, and keys that were sent as null; they are sent back."""


@frozen(kw_only=True)
class BoneScale:
    """Corrections of body proportions; their ranges are not published."""

    head: float | None = None
    """Correction of the head."""
    arms: float | None = None
    """Correction of the arms."""
    chest: float | None = None
    """Correction of the chest."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Keys that this release does not know, and keys that were sent as null; they are sent back."""


@frozen(kw_only=True)
class Customization:
    """Assets, body and corrections of an avatar.

    ``attrs.evolve`` one that was read and set it back: what was not evolved stays as it was, also what
    this release does not know.
    """

    assets: AssetSlots | None = None
    """What the avatar wears."""
    body: str | None = None
    """``body_<n>``; the list of bodies is not published."""
    age: str | None = None
    """Such as ``adult``; the list is not published."""
    metadata: Mapping[str, str] | None = None
    """Texts of the project's own."""
    bone_scale: BoneScale | None = None
    """Corrections of body proportions."""
    skin_tone_correction: float | None = None
    """Correction of the skin tone; its range is not published."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Keys that this release does not know, and keys that were sent as null; they are sent back."""


@frozen(kw_only=True)
class Render:
    """A render task; its end is announced by the webhook ``render.ready``, which carries the same id."""

    id: UUID
    """The render."""
    status: TaskStatus
    """How far it is; open enum."""
    render_url: str | None = field(default=None, repr=False)
    """Temporary address of the image (the vendor says 15 minutes); ``None`` until it is ready."""


@frozen(kw_only=True)
class Export:
    """State of the export of an avatar."""

    status: TaskStatus
    """How far it is; open enum."""
    url: str | None = field(default=None, repr=False)
    """Temporary address of the GLB: download it at once, never store it. ``None`` until it is ready."""
