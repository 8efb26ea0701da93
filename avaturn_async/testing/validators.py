"""Validation of requests, with FastAPI's errors: status 422 and a ``detail``.

A check takes a value and its place in the request, and yields the problems of the value.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from avaturn_async._validation import parse_id
from avaturn_async.testing.messages import HTTPError, RecordedRequest, is_json_type

Place = tuple[str | int, ...]
Problem = dict[str, Any]
Check = Callable[[Any, Place], Iterator[Problem]]

BOOLEANS = {
    **dict.fromkeys(("true", "1", "on", "t", "y", "yes"), True),
    **dict.fromkeys(("false", "0", "off", "f", "n", "no"), False),
}
"""The booleans of pydantic in a query, in lower case."""


def problem(place: Place, message: str, kind: str) -> Problem:
    """Return an entry of ``detail``."""
    return {"type": kind, "loc": list(place), "msg": message}


def text(pattern: str | None = None) -> Check:
    """Return a check for a string; the whole string must match ``pattern``."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if not isinstance(value, str):
            yield problem(place, "Input should be a valid string", "string_type")
        elif pattern is not None and not re.fullmatch(pattern, value):
            yield problem(place, f"String should match pattern '{pattern}'", "string_pattern_mismatch")

    return check


def uuid(value: Any, place: Place) -> Iterator[Problem]:
    """Check a UUID in canonical form."""
    try:
        parse_id(value)
    except (ValueError, TypeError):
        yield problem(place, "Input should be a valid UUID", "uuid_parsing")


def number(value: Any, place: Place) -> Iterator[Problem]:
    """Check a finite number."""
    # An int too large for a float is not finite either; a comparison with NaN is false.
    finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if isinstance(value, bool) or not finite:
        yield problem(place, "Input should be a valid number", "float_type")


def boolean(value: Any, place: Place) -> Iterator[Problem]:
    """Check a boolean in a query."""
    if value.lower() not in BOOLEANS:
        yield problem(place, "Input should be a valid boolean, unable to interpret input", "bool_parsing")


def one_of(*values: str) -> Check:
    """Return a check for one of some strings."""
    listed = ", ".join(f"'{v}'" for v in values[:-1]) + f" or '{values[-1]}'"

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if value not in values:
            yield problem(place, f"Input should be {listed}", "enum")

    return check


def nullable(inner: Check) -> Check:
    """Return a check for null, or what ``inner`` accepts."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if value is not None:
            yield from inner(value, place)

    return check


def _object(check_items: Callable[[dict[str, Any], Place], Iterator[Problem]]) -> Check:
    """Return a check for an object, whose items are checked by ``check_items``."""

    def check(value: Any, place: Place) -> Iterator[Problem]:
        if isinstance(value, dict):
            yield from check_items(cast("dict[str, Any]", value), place)
        else:
            yield problem(place, "Input should be a valid dictionary or object", "model_attributes_type")

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """Return a check for an object with known fields; FastAPI ignores unknown ones."""

    @_object
    def check(value: dict[str, Any], place: Place) -> Iterator[Problem]:
        for name, inner in {**required, **optional}.items():
            if name in value:
                yield from inner(value[name], (*place, name))
            elif name in required:
                yield problem((*place, name), "Field required", "missing")

    return check


def mapping(inner: Check) -> Check:
    """Return a check for an object with any keys."""

    @_object
    def check(value: dict[str, Any], place: Place) -> Iterator[Problem]:
        for name, item in value.items():
            yield from inner(item, (*place, name))

    return check


def tagged(tag: str, cases: Mapping[str, Check]) -> Check:
    """Return a check for an object whose field ``tag`` names its shape."""

    @_object
    def check(value: dict[str, Any], place: Place) -> Iterator[Problem]:
        kind = value.get(tag)
        if tag not in value:
            yield problem(place, f"Unable to extract tag using discriminator '{tag}'", "union_tag_not_found")
        elif not isinstance(kind, str) or kind not in cases:
            message = f"Input tag found using '{tag}' does not match any of the expected tags"
            yield problem(place, message, "union_tag_invalid")
        else:
            yield from cases[kind](value, (*place, kind))

    return check


def check_query(request: RecordedRequest, check: Check) -> None:
    """Refuse a request with an invalid query."""
    refuse(check(dict(request.query), ("query",)))


def check_body(request: RecordedRequest, check: Check) -> dict[str, Any]:
    """Return the JSON object in the body of a request; refuse an invalid one."""
    if not request.body:
        raise HTTPError(422, [problem(("body",), "Field required", "missing")])
    is_json = is_json_type(request.headers.get("Content-Type", ""))
    if is_json and request.parsed is None:
        raise HTTPError(422, [problem(("body", 0), "JSON decode error", "json_invalid")])
    value = request.parsed if is_json else None
    refuse(check(value, ("body",)))
    return cast("dict[str, Any]", value)


def refuse(problems: Iterator[Problem]) -> None:
    """Refuse a request if it has problems."""
    found = list(problems)
    if found:
        raise HTTPError(422, found)
