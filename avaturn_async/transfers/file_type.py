"""The type of a file, from its first bytes."""

from __future__ import annotations

import struct
from enum import Enum

HEAD_SIZE = 64
"""Number of first bytes that the functions here need."""

_GLB = struct.Struct("<4sII")  # glTF 2.0 specification, "Binary header": magic, version, length
_GLB_VERSION = 2
# ISO/IEC 23008-12, still images and sequences in HEVC, and the brands that stand for any of HEIF.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})


class FileType(Enum):
    """A type of file that its first bytes show."""

    GLB = "GLB"
    IMAGE = "JPEG, PNG or WebP image"


_TYPES = {
    "model/gltf-binary": FileType.GLB,
    ".glb": FileType.GLB,
    "image/jpeg": FileType.IMAGE,
    ".jpg": FileType.IMAGE,
    ".jpeg": FileType.IMAGE,
    "image/png": FileType.IMAGE,
    ".png": FileType.IMAGE,
    "image/webp": FileType.IMAGE,
    ".webp": FileType.IMAGE,
}


def get_declared_type(text: str) -> FileType | None:
    """Return the type that a content type (``image/png``) or a suffix of a name (``.glb``) declares."""
    return _TYPES.get(text.lower())


def get_image_type(head: bytes) -> str | None:
    """Return the content type of an image, or None if the bytes are not the beginning of a known image format."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and not _HEIC_BRANDS.isdisjoint(_get_brands(head)):
        return "image/heic"
    return None


def _get_brands(head: bytes) -> set[bytes]:
    """Return the major brand of an ISO media file, and the compatible ones unless the major one is AVIF."""
    major = head[8:12]
    if major in {b"avif", b"avis"}:
        return {major}
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {major} | {head[at : at + 4] for at in range(16, end, 4)}


def find_mismatch(file_type: FileType, head: bytes, size: int) -> str | None:
    """Return why a file of ``size`` bytes is not of the declared type, or None if it is."""
    if file_type is FileType.IMAGE:
        return None if get_image_type(head) else f"it is not a {file_type.value}"
    if len(head) < _GLB.size or not head.startswith(b"glTF"):
        return f"it is not a {file_type.value}"
    _, version, length = _GLB.unpack_from(head)
    if version != _GLB_VERSION:
        return f"it is a GLB of version {version}, not {_GLB_VERSION}"
    if length != size:
        return f"its header says {length} bytes, it has {size}"
    return None
