"""What a file is by its first bytes, whatever its name and its sender say."""

from __future__ import annotations

import struct
from enum import Enum

LONGEST_HEAD = 64
"""So many first bytes are enough for every question here."""

_GLB = struct.Struct("<4sII")
_GLB_VERSION = 2
# ISO/IEC 23008-12, still images and sequences in HEVC, and the brands that stand for any of HEIF.
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)


class Kind(Enum):
    """A kind of file that can be told by its first bytes."""

    GLB = "GLB"
    IMAGE = "JPEG, PNG or WebP image"


_KINDS = {
    "model/gltf-binary": Kind.GLB,
    ".glb": Kind.GLB,
    "image/jpeg": Kind.IMAGE,
    ".jpg": Kind.IMAGE,
    ".jpeg": Kind.IMAGE,
    "image/png": Kind.IMAGE,
    ".png": Kind.IMAGE,
    "image/webp": Kind.IMAGE,
    ".webp": Kind.IMAGE,
}


def announced_kind(hint: str) -> Kind | None:
    """The kind that a content type (``image/png``) or the end of a name (``.glb``) announces."""
    return _KINDS.get(hint.lower())


def image_type(head: bytes) -> str | None:
    """The content type of an image, or None when the bytes begin none that we know."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and not _HEIC_BRANDS.isdisjoint(_brands(head)):
        return "image/heic"
    return None


def _brands(head: bytes) -> set[bytes]:
    """The major brand of an ISO media file; the compatible ones too, unless the major one is AVIF."""
    major = head[8:12]
    if major in {b"avif", b"avis"}:
        return {major}
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {major} | {head[at : at + 4] for at in range(16, end, 4)}


def mismatch(kind: Kind, head: bytes, size: int) -> str | None:
    """What is wrong with a whole file of ``size`` bytes that was announced as ``kind``, or None."""
    if kind is Kind.IMAGE:
        return None if image_type(head) else f"it is no {kind.value}"
    if len(head) < _GLB.size or not head.startswith(b"glTF"):
        return f"it is no {kind.value}"
    _, version, length = _GLB.unpack_from(head)
    if version != _GLB_VERSION:
        return f"it is a GLB of version {version}, not {_GLB_VERSION}"
    if length != size:
        return f"its header says {length} bytes, it has {size}"
    return None
