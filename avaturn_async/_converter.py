"""JSON to models and back: one cattrs converter with strict hooks.

Nothing is coerced: ``null`` is not ``"None"``, ``"false"`` is not ``True``, ``5`` is not ``"5"``. Each wrong place
is named, such as ``expected str at $[3].status``.

``extra`` gets the keys that the model does not have, and the keys that were sent as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, cast, get_args, get_origin
from uuid import UUID

import attrs
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
    IterableValidationError,
)
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from avaturn_async._validation import encode_text, is_canonical_uuid, validate_type
from avaturn_async.errors import AvaturnDecodeError
from avaturn_async.models import BodyType, Customization, OpenEnum, RenderFormat, ScanStatus, TaskStatus

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]
_MAX_PROBLEMS = 20
_MAX_PROBLEM_LENGTH = 200


class _TypeMismatchError(ValueError):
    """A JSON value has the wrong type; the argument is the expected type."""


def _plain_hook(cls: type) -> _Hook:
    def structure_plain(value: Any, _: Any) -> Any:
        # A bool is an int to Python, but not in JSON.
        if not isinstance(value, cls) or (isinstance(value, bool) and cls is not bool):
            raise _TypeMismatchError(cls.__name__)
        return value

    return structure_plain


def _structure_float(value: Any, _: Any) -> float:
    # An int stays an int, so that a value that is sent back equals the received one.
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _TypeMismatchError("number")


def _structure_uuid(value: Any, _: Any) -> UUID:
    if isinstance(value, str) and is_canonical_uuid(value):
        return UUID(value)
    raise _TypeMismatchError("UUID")


def _enum_hook(cls: type[OpenEnum]) -> _Hook:
    members: dict[str, OpenEnum] = {member.value: member for member in cls}

    def structure_enum(value: Any, _: Any) -> OpenEnum:
        if not isinstance(value, str):
            raise _TypeMismatchError("str")
        return members.get(value) or cls(value)  # the call takes three times as long

    return structure_enum


def _object_hook(cls: Any, converter: Converter) -> _Hook:
    names = set(attrs.fields_dict(cls))
    json_names = names - {"extra"}
    has_extra = "extra" in names
    structure_fields: _Hook = make_dict_structure_fn(cls, converter)

    def structure_object(value: dict[str, Any], _: Any) -> Any:
        if not isinstance(value, dict):
            raise _TypeMismatchError("object")
        if has_extra and not (value.keys() <= json_names and None not in value.values()):
            extra = {k: v for k, v in value.items() if v is None or k not in json_names}
            value = {**value, "extra": extra}
        return structure_fields(value, cls)

    return structure_object


def _optional_hook(cls: Any, converter: Converter) -> _Hook:
    # cattrs looks the hook of the other type up for each value.
    [other] = (each for each in get_args(cls) if each is not NoneType)
    structure_other = converter.get_structure_hook(other)
    return lambda value, _: None if value is None else structure_other(value, other)


def _array_hook(cls: Any, converter: Converter) -> _Hook:
    structure_items: _Hook = homogenous_tuple_structure_factory(cls, converter)

    def structure_array(value: Any, _: Any) -> Any:
        # cattrs iterates any iterable, also a str or a dict.
        if not isinstance(value, list):
            raise _TypeMismatchError("array")
        return structure_items(value, cls)

    return structure_array


def _mapping_hook(cls: Any, converter: Converter) -> _Hook:
    item = get_args(cls)[1]
    plain: Any = dict[str, item]  # type: ignore[valid-type]
    structure_items = converter.get_structure_hook(plain)

    def structure_mapping(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _TypeMismatchError("object")
        return value if item is Any else structure_items(value, plain)  # pyright: ignore[reportUnknownVariableType]

    return structure_mapping


def _unstructure_hook(cls: Any, converter: Converter) -> Callable[[Any], dict[str, Any]]:
    """Leave out fields that are None, and put ``extra`` back where it was."""
    unstructure_fields = make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True)

    def unstructure_object(value: Any) -> dict[str, Any]:
        sent = unstructure_fields(value)
        return {**sent.pop("extra", {}), **sent}

    return unstructure_object


def _is_optional(target: Any) -> bool:
    return isinstance(target, UnionType) and len(get_args(target)) == 2 and NoneType in get_args(target)  # noqa: PLR2004


def _has_origin(origin: Any) -> Callable[[Any], bool]:
    return lambda target: get_origin(target) is origin


def _make_converter() -> Converter:
    made = Converter(detailed_validation=True)
    for plain in (str, bool, int):
        made.register_structure_hook(plain, _plain_hook(plain))
    made.register_structure_hook(float, _structure_float)
    made.register_structure_hook(UUID, _structure_uuid)
    for enum in (ScanStatus, TaskStatus, RenderFormat, BodyType):
        made.register_structure_hook(enum, _enum_hook(enum))
    made.register_structure_hook_factory(attrs.has, _object_hook)
    made.register_structure_hook_factory(_is_optional, _optional_hook)
    made.register_structure_hook_factory(_has_origin(tuple), _array_hook)
    made.register_structure_hook_factory(_has_origin(Mapping), _mapping_hook)
    made.register_unstructure_hook(UUID, str)
    made.register_unstructure_hook_factory(attrs.has, _unstructure_hook)
    return made


converter = _make_converter()
"""The converter of all models and events."""


def structure(value: Any, cls: type[T], *, path: str = "$", redact: Callable[[str], str] = str) -> T:
    """Return the model in a piece of parsed JSON.

    Args:
        value: The parsed JSON.
        cls: The model.
        path: Place of the value in the response.
        redact: Removes secrets from a problem, which holds keys of the server, before it is cut.

    Raises:
        AvaturnDecodeError: The JSON has another shape; ``problems`` names each place, at most 20.
    """
    try:
        return converter.structure(value, cls)
    except (_TypeMismatchError, ClassValidationError, IterableValidationError) as error:
        problems = _find_problems(error, path)
    shown = tuple(redact(problem)[:_MAX_PROBLEM_LENGTH] for problem in problems[:_MAX_PROBLEMS])
    raise AvaturnDecodeError("the response does not have the documented shape", shown)


def _find_problems(error: BaseException, path: str) -> list[str]:
    if isinstance(error, _TypeMismatchError):
        return [f"expected {error.args[0]} at {path}"]
    if isinstance(error, KeyError):
        return [f"missing {path}"]
    found: list[str] = []
    for inner, note in cast("ClassValidationError | IterableValidationError", error).group_exceptions()[0]:
        if isinstance(note, AttributeValidationNote):
            step = f".{note.name}"
        else:
            step = f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
        found += _find_problems(inner, path + step)
    return found


def unstructure(value: Any) -> Any:
    """Return the JSON value of a model. Fields that are None stay unsent; keys in ``extra`` are sent back."""
    return converter.unstructure(value)


def encode_customization(customization: Customization) -> bytes:
    """Return the body of Set Customization.

    Raises:
        TypeError: ``customization`` is not a Customization.
        ValueError: It holds NaN, an infinity or a lone surrogate.
    """
    validate_type("customization", customization, Customization)
    return dumps(unstructure(customization), "customization")


def loads(body: bytes) -> Any:
    """Return the value of a response's JSON.

    Raises:
        AvaturnDecodeError: The body is not JSON.
    """
    try:
        return _decoder.decode(body.decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not JSON"
    raise AvaturnDecodeError(f"the response is {reason}")


def dumps(value: Any, name: str = "json") -> bytes:
    """Return the JSON of a request's body; ``name`` is the argument in the error message.

    Raises:
        ValueError: The value holds NaN, an infinity or a lone surrogate.
        TypeError: The value holds an object that JSON cannot express.
    """
    return encode_text(name, _encoder.encode(value))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


# json.loads() and json.dumps() with options make one of these for each call.
_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_encoder = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
