"""Ids as UUIDs and as canonical text: 8-4-4-4-12 hexadecimal digits, and no other spelling.

``uuid.UUID()`` also takes braces, ``urn:uuid:``, missing dashes, underscores and digits of other scripts, and
twice the time, which counts: ids are most of what the API answers and posts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import iter_unpack
from typing import Any
from uuid import UUID, SafeUUID

from avaturn_async._unguarded import unguarded

_is_canonical = re.compile("[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_begin, _unknown = unguarded(UUID), SafeUUID.unknown
_bytes_from_hex, _int_from_bytes = bytes.fromhex, int.from_bytes


def uuid_of(text: Any) -> UUID:
    """The UUID in its canonical text.

    Raises:
        ValueError: It is anything else.
    """
    # Without the dashes 32 characters are left; no fewer than 32 hexadecimal digits make 16 bytes.
    if type(text) is str and len(text) == 36 and text[8:24:5] == "----":  # noqa: PLR2004
        try:
            raw = _bytes_from_hex(text.replace("-", ""))
        except ValueError:
            raw = b""
        if len(raw) == 16:  # noqa: PLR2004
            # All that is left of UUID.__init__ for a value that is known to be right.
            made = _begin()
            made.int = _int_from_bytes(raw)
            made.is_safe = _unknown
            made.__class__ = UUID
            id_: UUID = made
            return id_
    shown = repr(text[:60]) if isinstance(text, str) else type(text).__name__
    raise ValueError(f"not a UUID in canonical form, 8-4-4-4-12 hexadecimal digits: {shown}")


def uuids_of(texts: Sequence[Any]) -> list[UUID]:
    """The UUIDs in many canonical texts: checked together, in half the time that each by itself takes.

    Raises:
        ValueError: One of them is anything else.
        TypeError: One of them is no text.
    """
    together, dashes = "".join(texts), "-" * len(texts)
    in_place = together[8::36] == together[13::36] == together[18::36] == together[23::36] == dashes
    raw = b""
    if in_place and {*map(len, texts)} <= {36}:
        raw = _bytes_from_hex(together.replace("-", ""))
    # Every character but these dashes has to be a digit for there to be 16 bytes of each.
    if len(raw) != 16 * len(texts):
        raise ValueError("not UUIDs in canonical form")
    found: list[UUID] = []
    for (each,) in iter_unpack("16s", raw):
        made = _begin()
        made.int = _int_from_bytes(each)
        made.is_safe = _unknown
        made.__class__ = UUID
        found.append(made)
    return found


def text_of(id_: UUID) -> str:
    """The canonical text of a UUID in lower case: ``str(id_)`` in half of its time."""
    # Eight groups of four digits, of which the first two and the last three belong together.
    groups = id_.int.to_bytes(16).hex("-", 2)
    return f"{groups[:4]}{groups[5:29]}{groups[30:34]}{groups[35:]}"


def as_uuid(value: UUID | str, name: str = "avatar_id") -> UUID:
    """The id that is meant: a UUID, or its canonical text (8-4-4-4-12 hexadecimal digits).

    Args:
        value: The id.
        name: What an error calls it: the caller's argument.

    Raises:
        ValueError: The text is not a UUID in canonical form.
        TypeError: The value is neither a UUID nor text.
    """
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a uuid.UUID or a str, not {type(value).__name__}")
    try:
        return uuid_of(str(value))
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{name} is {reason}")


def id_text(value: UUID | str, name: str = "avatar_id") -> str:
    """The canonical text of an id in lower case, for a URL; errors as those of ``as_uuid``."""
    if type(value) is str and _is_canonical(value):
        return value.lower()
    return text_of(as_uuid(value, name))
