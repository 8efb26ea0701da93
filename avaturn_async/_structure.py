"""From JSON to models and back.

Nothing is coerced. A reader is made of each model when it is first needed; it takes what is right, and does
nothing else. What is wrong goes to cattrs as well (:mod:`avaturn_async._naming`), which names each place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints
from uuid import UUID

import attrs

from avaturn_async._ids import uuid_of, uuids_of
from avaturn_async._unguarded import written
from avaturn_async.errors import AvaturnDecodeError

T = TypeVar("T")
Reader = Callable[[Any], Any]

NOT_SENT = {
    # A known key that was sent as null is kept as well: unsent and null may differ to the server.
    "extra": "{} if known == len(value) else extra(value, names)",
    # Events have these two; a position is given by a store, whatever was posted.
    "raw": "value",
    "position": "0",
}
"""The fields that are no keys of the JSON, and what a reader puts there."""


# What a reader raises for a value that it does not take.
UNREADABLE = (ValueError, KeyError, TypeError)


class Mismatch(ValueError):  # noqa: N818 - a signal between two files, never seen by a user
    """A value is not what is expected there; its argument says what is."""


def _only(kind: type, value: Any, name: str) -> Any:
    if type(value) is not kind:
        raise Mismatch(name)
    return value


def read_str(value: Any) -> str:
    if type(value) is not str:
        raise Mismatch("str")
    return value


def _reader_of(kind: type, name: str) -> Reader:
    return lambda value: _only(kind, value, name)


def read_float(value: Any) -> float:
    # An int stays an int, so that what is sent back equals what came.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    raise Mismatch("number")


class _Members(dict[str, Enum]):
    """The members of an open enum by their values; another text becomes one."""

    def __init__(self, cls: type[Enum]) -> None:
        super().__init__((member.value, member) for member in cls)
        self._cls = cls

    def __missing__(self, value: Any) -> Enum:
        if type(value) is not str:
            raise Mismatch("str")
        return self._cls(value)


def enum_reader(cls: type[Enum]) -> Reader:
    """A look into a dict and nothing else: each row of a list has one. TypeError for an array or object."""
    return _Members(cls).__getitem__


def _object_reader(cls: Any) -> Reader:
    """A function without loops and without lookups.

    For ``Export`` it is::

        def read(value):
            if type(value) is not dict:
                raise Mismatch("object")
            made = begin()
            made.status = read_status(value["status"])
            item = value.get("url")
            if item is None:
                made.url = None
            else:
                made.url = read_url(item)
            made.__class__ = cls
            return made

    For what keeps ``extra`` it counts the keys that it knows, so that nobody need look for others in vain.
    """
    types = get_type_hints(cls)
    # What the object itself is filled with comes first: the rest may depend on it.
    fields = sorted(attrs.fields(cls), key=lambda field: field.name in NOT_SENT)
    sent = {field.name for field in fields if field.name not in NOT_SENT}
    lines = ["if type(value) is not dict:", "    raise Mismatch('object')", "made = begin()"]
    count = ["    known += 1"] if "extra" in types else []
    if count:
        lines.append(f"known = {sum(field.default is attrs.NOTHING for field in fields)}")
    scope: dict[str, Any] = {"Mismatch": Mismatch, "names": frozenset(sent), "extra": _extra}
    for field in fields:
        name = field.name
        if name in NOT_SENT:
            lines.append(f"made.{name} = {NOT_SENT[name]}")
            continue
        scope[f"read_{name}"] = reader(types[name])
        if field.default is attrs.NOTHING:
            lines.append(f"made.{name} = read_{name}(value[{name!r}])")
        else:
            lines += [f"item = value.get({name!r})", "if item is None:", f"    made.{name} = None"]
            lines += ["else:", f"    made.{name} = read_{name}(item)", *count]
    return written("value", [*lines, "made.__class__ = cls", "return made"], cls, scope)


def _extra(value: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if v is None or k not in names}


def _array_reader(item: Any) -> Reader:
    if attrs.has(item) and all(f.default is attrs.NOTHING for f in attrs.fields(item)):
        return _table_reader(item)
    read_item = reader(item)

    def read(value: Any) -> Any:
        return tuple(map(read_item, _only(list, value, "array")))

    return read


def _table_reader(cls: Any) -> Reader:
    """For an array of objects from which nothing may be absent: it is read column by column.

    A check of a thousand ids at once takes half the time of a thousand checks. This it is for ``Avatar``::

        def read(value):
            rows = only(list, value, "array")
            found = [begin() for _ in rows]
            for made, item in zip(found, read_id([row["id"] for row in rows])):
                made.id = item
            for made, item in zip(found, read_status([row["status"] for row in rows])):
                made.status = item
            for made in found:
                made.__class__ = cls
            return tuple(found)
    """
    types = get_type_hints(cls)
    scope: dict[str, Any] = {"only": _only}
    # A row that is no object has nothing under a name: that is a TypeError.
    lines = ["rows = only(list, value, 'array')", "found = [begin() for _ in rows]"]
    for field in attrs.fields(cls):
        name = field.name
        scope[f"read_{name}"] = _column_reader(types[name])
        lines.append(f"for made, item in zip(found, read_{name}([row[{name!r}] for row in rows])):")
        lines.append(f"    made.{name} = item")
    lines += ["for made in found:", "    made.__class__ = cls", "return tuple(found)"]
    return written("value", lines, cls, scope)


def _column_reader(kind: Any) -> Reader:
    if kind is UUID:
        return uuids_of
    read_item = reader(kind)
    return lambda values: [*map(read_item, values)]


def _mapping_reader(item: Any) -> Reader:
    read_item = reader(item)

    def read(value: Any) -> Any:
        return {key: read_item(v) for key, v in _only(dict, value, "object").items()}

    return read


PRIMITIVES: Mapping[Any, Reader] = {
    str: read_str,
    bool: _reader_of(bool, "bool"),
    int: _reader_of(int, "int"),
    float: read_float,
    UUID: uuid_of,
}


@cache
def reader(kind: Any) -> Reader:
    """The function that reads values of a type that models use out of parsed JSON."""
    if kind in PRIMITIVES:
        return PRIMITIVES[kind]
    arguments = get_args(kind)
    if NoneType in arguments:
        # The reader of the object takes care of None.
        return reader(next(a for a in arguments if a is not NoneType))
    if get_origin(kind) is tuple:
        return _array_reader(arguments[0])
    if get_origin(kind) is Mapping:
        return _mapping_reader(arguments[1])
    if issubclass(kind, Enum):
        return enum_reader(kind)
    if not attrs.has(kind):
        raise TypeError(f"a model has a field of {kind}, and nothing reads that: add it to PRIMITIVES")
    return _object_reader(kind)


def structure(value: Any, cls: type[T]) -> T:
    """The model in a piece of parsed JSON.

    Raises:
        AvaturnDecodeError: It is of another shape; ``problems`` names each place.
    """
    kind: Any = cls
    read = reader(kind)
    try:
        made: T = read(value)
    except UNREADABLE:
        pass
    else:
        return made
    # Seldom needed, and it takes cattrs a while to be imported.
    from avaturn_async import _naming  # noqa: PLC0415

    raise AvaturnDecodeError("an answer of another shape than documented", _naming.problems(value, cls))


def loads(body: bytes) -> Any:
    """The value in an answer's JSON.

    Raises:
        AvaturnDecodeError: It is not JSON.
    """
    try:
        return _decode(body.decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
    raise AvaturnDecodeError(f"an answer that is {reason}")


def dumps(value: Any) -> bytes:
    """The JSON of a request's body.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON has no words for.
        TypeError: It holds something that JSON has no words for.
    """
    return _encode(value).encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


# json.loads() and json.dumps() make one of these for every call that has options.
_decode = json.JSONDecoder(parse_constant=_no_constant).decode
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def unstructure(value: Any) -> Any:
    """JSON values of a model: fields that are ``None`` stay unsent, ``extra`` goes back where it was."""
    cls = cast("Any", type(value))
    if attrs.has(cls):
        fields = {a.name: getattr(value, a.name) for a in attrs.fields(cls)}
        sent = dict(fields.pop("extra", {}))
        sent.update((name, unstructure(v)) for name, v in fields.items() if v is not None)
        return sent
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))  # json knows dict only
    return str(value) if isinstance(value, UUID) else value
