"""Checks of what a request carries, with the errors that FastAPI answers (a 422 with ``detail``).

A check takes a value and the place where it stood, and yields what is wrong with it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from avaturn_async._ids import as_uuid
from avaturn_async.testing._requests import RecordedRequest, Refused

Place = tuple[str | int, ...]
Problem = dict[str, Any]
Check = Callable[[Any, Place], Iterator[Problem]]

_MISSING = object()
# What pydantic reads as a truth value in a query.
_TRUE = {"true", "1", "on", "t", "y", "yes"}
_FALSE = {"false", "0", "off", "f", "n", "no"}


def problem(place: Place, message: str, kind: str) -> Problem:
    """One entry of ``detail``."""
    return {"type": kind, "loc": list(place), "msg": message}


def text(pattern: str | None = None) -> Check:
    """Text, which as a whole matches a pattern if one is given."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if not isinstance(value, str):
            yield problem(place, "Input should be a valid string", "string_type")
        elif pattern is not None and not re.fullmatch(pattern, value):
            yield problem(place, f"String should match pattern '{pattern}'", "string_pattern_mismatch")

    return check


def uuid(value: Any, place: Place) -> Iterator[Problem]:
    """A UUID in canonical form."""
    try:
        as_uuid(value)
    except (ValueError, TypeError):
        yield problem(place, "Input should be a valid UUID", "uuid_parsing")


def number(value: Any, place: Place) -> Iterator[Problem]:
    """A finite number."""
    # An int may be too large for a float: then it is not finite either. NaN is not less than anything.
    finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if isinstance(value, bool) or not finite:
        yield problem(place, "Input should be a valid number", "float_type")


def truth(value: Any, place: Place) -> Iterator[Problem]:
    """A truth value in a query."""
    if value.lower() not in _TRUE | _FALSE:
        yield problem(place, "Input should be a valid boolean, unable to interpret input", "bool_parsing")


def is_true(value: str | None) -> bool:
    """The truth value in a query that was checked."""
    return value is not None and value.lower() in _TRUE


def one_of(*values: str) -> Check:
    """One of some texts."""
    listed = ", ".join(f"'{v}'" for v in values[:-1]) + f" or '{values[-1]}'"

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if value not in values:
            yield problem(place, f"Input should be {listed}", "enum")

    return check


def nullable(inner: Check) -> Check:
    """What the other check takes, or null."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if value is not None:
            yield from inner(value, place)

    return check


def fields(*, required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """An object with known fields; FastAPI ignores others."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield _no_object(place)
            return
        given = cast("dict[str, Any]", value)
        for name, inner in {**required, **optional}.items():
            item = given.get(name, _MISSING)
            if item is not _MISSING:
                yield from inner(item, (*place, name))
            elif name in required:
                yield problem((*place, name), "Field required", "missing")

    return check


def mapping(inner: Check) -> Check:
    """An object with any keys."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield _no_object(place)
            return
        for name, item in cast("dict[str, Any]", value).items():
            yield from inner(item, (*place, name))

    return check


def tagged(tag: str, cases: Mapping[str, Check]) -> Check:
    """An object whose ``tag`` says of what shape it is."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield _no_object(place)
            return
        kind = cast("dict[str, Any]", value).get(tag, _MISSING)
        if kind is _MISSING:
            yield problem(place, f"Unable to extract tag using discriminator '{tag}'", "union_tag_not_found")
        elif not isinstance(kind, str) or kind not in cases:
            yield problem(
                place,
                f"Input tag found using '{tag}' does not match any of the expected tags",
                "union_tag_invalid",
            )
        else:
            yield from cases[kind](cast("Any", value), (*place, kind))

    return check


def _no_object(place: Place) -> Problem:
    return problem(place, "Input should be a valid dictionary or object", "model_attributes_type")


def check_query(
    request: RecordedRequest, *, required: Mapping[str, Check], optional: Mapping[str, Check]
) -> None:
    """Refuse a request whose query does not fit. A body in its place does not help."""
    _refuse(fields(required=required, optional=optional)(dict(request.query), ("query",)))


def check_body(request: RecordedRequest, check: Check) -> dict[str, Any]:
    """The JSON object in the body of a request; refused if it does not fit."""
    if not request.body:
        raise Refused(422, [problem(("body",), "Field required", "missing")])
    if request.parsed is None and "json" in request.headers.get("Content-Type", "").lower():
        raise Refused(422, [problem(("body", 0), "JSON decode error", "json_invalid")])
    _refuse(check(request.parsed, ("body",)))
    return cast("dict[str, Any]", request.parsed)


def check_value(check: Check, value: Any, place: Place) -> None:
    """Refuse a request because of one value in it."""
    _refuse(check(value, place))


def _refuse(problems: Iterator[Problem]) -> None:
    found = list(problems)
    if found:
        raise Refused(422, found)
