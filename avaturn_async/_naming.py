"""What is wrong with an answer, place by place: a cattrs converter with detailed validation.

It has the same rules as the readers in :mod:`avaturn_async._structure`, and runs only after they gave up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import Any, get_args, get_origin
from uuid import UUID

import attrs
from cattrs import AttributeValidationNote, BaseConverter, BaseValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from avaturn_async._ids import uuid_of
from avaturn_async._structure import PRIMITIVES, Mismatch, Reader, enum_reader
from avaturn_async.models import OpenEnum

_Hook = Callable[[Any, Any], Any]
_MOST_PROBLEMS = 20
_LONGEST_PROBLEM = 200


def problems(value: Any, cls: Any) -> tuple[str, ...]:
    """Each wrong place, as ``expected str at $[3].status``; at most 20 of them."""
    places: list[str] = []
    try:
        _converter.structure(value, cls)
    except (Mismatch, BaseValidationError) as error:
        places = _places(error, "$")
    return tuple(place[:_LONGEST_PROBLEM] for place in places[:_MOST_PROBLEMS])


def _places(error: BaseException, place: str) -> list[str]:
    if isinstance(error, Mismatch):
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


def _hook(read: Reader) -> _Hook:
    return lambda value, _: read(value)


def _hook_or(read: Reader, name: str) -> _Hook:
    """The hook of a reader that does not say what it expects."""

    def structure(value: Any, _: Any) -> Any:
        try:
            return read(value)
        except (ValueError, TypeError):
            raise Mismatch(name) from None

    return structure


def _of_json(kind: type, hook: _Hook) -> _Hook:
    """The hook, for values of one JSON type only: cattrs itself iterates whatever can be iterated."""
    name = "object" if kind is dict else "array"

    def structure(value: Any, target: Any) -> Any:
        if type(value) is not kind:
            raise Mismatch(name)
        return hook(value, target)

    return structure


def _is_generic(origin: Any) -> Callable[[Any], bool]:
    return lambda target: get_origin(target) is origin


def _object_hook(cls: Any, converter: BaseConverter) -> _Hook:
    omitted: dict[str, Any] = {"extra": override(omit=True)} if "extra" in attrs.fields_dict(cls) else {}
    return _of_json(dict, make_dict_structure_fn(cls, converter, **omitted))


def _array_hook(cls: Any, converter: BaseConverter) -> _Hook:
    items: Any = GenericAlias(list, get_args(cls)[:1])
    hook = converter.get_structure_hook(items)
    return _of_json(list, lambda value, _: hook(value, items))


def _mapping_hook(cls: Any, converter: BaseConverter) -> _Hook:
    plain: Any = GenericAlias(dict, get_args(cls))
    hook = converter.get_structure_hook(plain)
    return _of_json(dict, lambda value, _: hook(value, plain))


def _make() -> Converter:
    converter = Converter(detailed_validation=True)
    for kind, read in PRIMITIVES.items():
        converter.register_structure_hook(kind, _hook(read))
    converter.register_structure_hook(UUID, _hook_or(uuid_of, "UUID"))
    # A StrEnum is a str to cattrs, so that each is registered by name.
    for enum in OpenEnum.__subclasses__():
        converter.register_structure_hook(enum, _hook_or(enum_reader(enum), "str"))
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_structure_hook_factory(_is_generic(tuple), _array_hook)
    converter.register_structure_hook_factory(_is_generic(Mapping), _mapping_hook)
    return converter


_converter = _make()
