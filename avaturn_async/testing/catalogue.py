"""The small catalogue of FakeAvaturn: assets by slot, and bodies. Avaturn's own are not listed by its API."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

from attrs import frozen


@frozen(kw_only=True)
class Asset:
    """Something that an avatar can wear."""

    id: UUID
    """The same in every run."""
    alias: str
    """A readable name."""
    slot: str
    """The only slot that it can be put into: clothing, hair_and_headwear, eyewear or footwear."""
    gone: bool = False
    """Whether it was withdrawn: setting it is answered with 410."""


@frozen(kw_only=True)
class Body:
    """A body that an avatar can have."""

    id: str
    """``body_<n>``, as in a customization."""
    gender: str
    """``male`` or ``female``."""


def _asset(alias: str, slot: str, *, gone: bool = False) -> Asset:
    return Asset(id=uuid5(NAMESPACE_DNS, f"{alias}.assets.fake.invalid"), alias=alias, slot=slot, gone=gone)


ASSETS = (
    _asset("t_shirt", "clothing"),
    _asset("hoodie", "clothing"),
    _asset("suit", "clothing"),
    _asset("short_hair", "hair_and_headwear"),
    _asset("long_hair", "hair_and_headwear"),
    _asset("cap", "hair_and_headwear"),
    _asset("round_glasses", "eyewear"),
    _asset("sunglasses", "eyewear"),
    _asset("sneakers", "footwear"),
    _asset("boots", "footwear"),
    _asset("withdrawn_jacket", "clothing", gone=True),
)
"""Every asset, the withdrawn one included."""

BODIES = (
    Body(id="body_0", gender="male"),
    Body(id="body_1", gender="female"),
    Body(id="body_2", gender="male"),
    Body(id="body_3", gender="female"),
)
"""Every body."""


def default_customization() -> dict[str, Any]:
    """What an avatar looks like that was made in a session and not changed."""
    ids = {asset.alias: str(asset.id) for asset in ASSETS}
    return {
        "assets": {
            "clothing": {"id": ids["t_shirt"]},
            "hair_and_headwear": {"id": ids["short_hair"], "color": "#3b2417"},
            "footwear": {"id": ids["sneakers"]},
        },
        "body": "body_0",
        "age": "adult",
        "metadata": {},
        "bone_scale": {"head": 0, "arms": 0, "chest": 0},
        "skin_tone_correction": 0,
    }
