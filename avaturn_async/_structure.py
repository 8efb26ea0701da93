"""From JSON to models and back: the one cattrs converter.

Nothing is coerced. The converter without detailed validation does the work; only when it fails does its
slower twin run over the same data, to name each place that is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from types import GenericAlias
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin
from uuid import UUID

import attrs
from cattrs import AttributeValidationNote, BaseValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from avaturn_async.errors import AvaturnDecodeError
from avaturn_async.models import OpenEnum, as_uuid

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]
_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 200


class _Mismatch(Exception):  # noqa: N818 - never leaves this file
    """A value is not what is expected there; its argument says what is."""


def _str(value: Any, _: Any) -> str:
    if type(value) is not str:
        raise _Mismatch("str")
    return value


def _float(value: Any, _: Any) -> float:
    # An int stays an int, so that what is sent back equals what came.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    raise _Mismatch("number")


def _uuid(value: Any, _: Any) -> UUID:
    if type(value) is str:
        try:
            return as_uuid(value)
        except ValueError:
            pass
    raise _Mismatch("UUID")


def _enum(value: Any, cls: type[Enum]) -> Enum:
    if type(value) is not str:
        raise _Mismatch("str")
    return cls(value)


def _of_json(kind: type, hook: _Hook) -> _Hook:
    """The hook, for values of one JSON type only: cattrs itself iterates whatever can be iterated."""
    name = "object" if kind is dict else "array"

    def structure(value: Any, target: Any) -> Any:
        if type(value) is not kind:
            raise _Mismatch(name)
        return hook(value, target)

    return structure


def _object_hook(cls: Any, converter: Converter) -> _Hook:
    names = {a.name for a in attrs.fields(cls)}
    if "extra" not in names:
        return _of_json(dict, make_dict_structure_fn(cls, converter))
    hook = make_dict_structure_fn(cls, converter, extra=override(struct_hook=lambda value, _: value))
    known = names - {"extra"}

    def structure(value: Any, target: Any) -> Any:
        # A known key that was sent as null is kept as well: unsent and null may differ to the server.
        extra = {k: v for k, v in value.items() if k not in known or v is None}
        return hook({**value, "extra": extra}, target)

    return _of_json(dict, structure)


def _tuple_hook(cls: Any, converter: Converter) -> _Hook:
    items: Any = GenericAlias(list, get_args(cls)[:1])
    hook = converter.get_structure_hook(items)
    return _of_json(list, lambda value, _: tuple(hook(value, items)))


def _mapping_hook(cls: Any, converter: Converter) -> _Hook:
    plain: Any = GenericAlias(dict, get_args(cls))
    hook = converter.get_structure_hook(plain)
    return _of_json(dict, lambda value, _: hook(value, plain))


def _with(make: Callable[[Any, Converter], _Hook], converter: Converter, target: Any) -> _Hook:
    return make(target, converter)


def _make(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    converter.register_structure_hook(str, _str)
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(UUID, _uuid)
    # A StrEnum is a str to cattrs, so that each is registered by name.
    for enum in OpenEnum.__subclasses__():
        converter.register_structure_hook(enum, _enum)
    factories: tuple[tuple[Callable[[Any], bool], Callable[[Any, Converter], _Hook]], ...] = (
        (attrs.has, _object_hook),
        (lambda t: get_origin(t) is tuple, _tuple_hook),
        (lambda t: get_origin(t) is Mapping, _mapping_hook),
    )
    for applies, make in factories:
        converter.register_structure_hook_factory(applies, partial(_with, make, converter))
    return converter


_fast = _make(detailed=False)
_naming = _make(detailed=True)


def structure(value: Any, cls: type[T]) -> T:
    """The model in a piece of parsed JSON.

    Raises:
        AvaturnDecodeError: It is of another shape; ``problems`` names each place.
    """
    try:
        return _fast.structure(value, cls)
    except (_Mismatch, KeyError):
        pass
    try:
        return _naming.structure(value, cls)
    except (_Mismatch, BaseValidationError) as error:
        problems = tuple(p[:_LONGEST_PROBLEM] for p in _places(error, "$"))[:_MOST_PROBLEMS]
    raise AvaturnDecodeError("an answer of another shape than documented", problems)


def _places(error: BaseException, place: str) -> list[str]:
    """Each wrong place, as ``expected str at $[3].status``."""
    if isinstance(error, _Mismatch):
        return [f"expected {error.args[0]} at {place}"]
    if isinstance(error, KeyError):
        return [f"missing {place}"]
    found: list[str] = []
    for inner in getattr(error, "exceptions", ()):
        found += _places(inner, place + _step(inner))
    return found


def _step(error: BaseException) -> str:
    """The last step to the place of an error, out of the note that cattrs left on it."""
    note: Any = error.__notes__[-1]
    if isinstance(note, AttributeValidationNote):
        return f".{note.name}"
    return f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"


def loads(body: bytes) -> Any:
    """The value in an answer's JSON.

    Raises:
        AvaturnDecodeError: It is not JSON.
    """
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
    raise AvaturnDecodeError(f"an answer that is {reason}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def dumps(value: Any) -> bytes:
    """The JSON of a request's body.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON has no words for.
        TypeError: It holds something that JSON has no words for.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def unstructure(value: Any) -> Any:
    """JSON values of a model: fields that are ``None`` stay unsent, ``extra`` goes back where it was."""
    cls = cast("Any", type(value))
    if attrs.has(cls):
        fields = {a.name: getattr(value, a.name) for a in attrs.fields(cls)}
        sent = dict(fields.pop("extra", {}))
        sent.update((name, unstructure(v)) for name, v in fields.items() if v is not None)
        return sent
    return str(value) if isinstance(value, UUID) else value
