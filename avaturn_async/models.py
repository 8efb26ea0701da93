"""Requests and responses of the API as frozen attrs classes, with the field names of the API.

A field that the server did not send is ``None``. Enums are open: an unknown value is accepted and compares like its
text (``status == "queued"``). Unknown keys are ignored, except in objects that are sent back to the server, which
keep them in ``extra``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from attrs import field, frozen

from avaturn_async._validation import parse_id

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
    """An enum that accepts unknown string values; they behave like the string."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        # Python 3.11.2 pickles a member by its name, which fails for an unknown value.
        return type(self), (self.value,)

    def __deepcopy__(self, _: Any) -> Self:
        return self


class ScanStatus(OpenEnum):
    """Status of an avatar."""

    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class TaskStatus(OpenEnum):
    """Status of an export or a render."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class RenderFormat(OpenEnum):
    """Image format of a render."""

    JPG = "jpg"
    PNG = "png"
    WEBP = "webp"


class BodyType(OpenEnum):
    """Body type of an avatar that is made from photos."""

    MALE = "male"
    FEMALE = "female"


@frozen(kw_only=True)
class User:
    """An anonymous user of the project."""

    id: str
    """32 base32-like characters; not a UUID."""


@frozen(kw_only=True)
class CreateOrEditExisting:
    """Session that shows the avatar dashboard if the user has avatars, else the creation flow."""


@frozen(kw_only=True)
class Create:
    """Session that always shows the creation flow."""


@frozen(kw_only=True)
class EditExisting:
    """Session that shows the editor of one avatar."""

    avatar_id: UUID = field(converter=parse_id)
    """Id of the avatar to edit, which may still be processing."""


SessionConfig = CreateOrEditExisting | Create | EditExisting
"""The page that a session shows first."""


@frozen(kw_only=True)
class Session:
    """A visit of a user to the Avaturn UI."""

    id: UUID
    """Id of the session. Its events can carry it as ``session_id``."""
    url: str = field(repr=False)
    """URL of the page for the user. It contains a credential: keep it out of logs."""
    custom_upload_url: str | None = field(default=None, repr=False)
    """Deprecated by Avaturn."""


@frozen(kw_only=True)
class Avatar:
    """An avatar in the list of a user."""

    id: UUID
    """Id of the avatar."""
    status: ScanStatus
    """Open enum."""


@frozen(kw_only=True)
class NewAvatar:
    """A new avatar without photos."""

    avatar_id: UUID
    """Id of the avatar."""
    upload_url: str = field(repr=False)
    """URL for its photos. The URL is a credential: keep it out of logs."""


@frozen(kw_only=True)
class AssetSlot:
    """An asset that an avatar wears."""

    id: UUID = field(converter=parse_id)
    """Id of the asset."""
    color: str | None = None
    """``#rrggbb`` for hair and headwear, ``#rrggbbaa`` for eyewear, None for other slots."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Unknown keys, and keys that were received as null. They are sent back."""


@frozen(kw_only=True)
class AssetSlots:
    """The assets that an avatar wears, at most one in each slot. Empty slots are not sent."""

    clothing: AssetSlot | None = None
    """Clothes, without a color."""
    hair_and_headwear: AssetSlot | None = None
    """Hair or a hat, with a color ``#rrggbb``."""
    eyewear: AssetSlot | None = None
    """Glasses, with a color ``#rrggbbaa``."""
    footwear: AssetSlot | None = None
    """Shoes, without a color."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Unknown keys, and keys that were received as null. They are sent back."""


@frozen(kw_only=True)
class BoneScale:
    """Corrections of body proportions. Avaturn does not publish their ranges."""

    head: float | None = None
    """Correction of the head."""
    arms: float | None = None
    """Correction of the arms."""
    chest: float | None = None
    """Correction of the chest."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Unknown keys, and keys that were received as null. They are sent back."""


@frozen(kw_only=True)
class Customization:
    """Assets, body and corrections of an avatar.

    To change a customization, pass the received one to ``attrs.evolve`` and set the result: all other fields,
    and unknown keys, are sent back as they were received.
    """

    assets: AssetSlots | None = None
    """The assets that the avatar wears."""
    body: str | None = None
    """``body_<n>``. Avaturn does not publish the list."""
    age: str | None = None
    """Such as ``adult``. Avaturn does not publish the list."""
    metadata: Mapping[str, str] | None = None
    """Texts that the project stores with the avatar."""
    bone_scale: BoneScale | None = None
    """Corrections of body proportions."""
    skin_tone_correction: float | None = None
    """Correction of the skin tone. Avaturn does not publish its range."""
    extra: Mapping[str, Any] = field(factory=dict[str, Any])
    """Unknown keys, and keys that were received as null. They are sent back."""


@frozen(kw_only=True)
class Render:
    """A render task. The webhook ``render.ready`` with the same id reports its result."""

    id: UUID
    """Id of the render."""
    status: TaskStatus
    """Open enum."""
    render_url: str | None = field(default=None, repr=False)
    """Temporary URL of the image (15 minutes, according to Avaturn). None until it is ready."""


@frozen(kw_only=True)
class Export:
    """The export of an avatar."""

    status: TaskStatus
    """Open enum."""
    url: str | None = field(default=None, repr=False)
    """Temporary URL of the GLB. Download it at once and do not store the URL. None until it is ready."""
