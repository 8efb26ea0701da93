"""What an opener wants to find again with a session: JSON, and nothing that would come back as another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

_DEEPEST = 100


def context_text(context: Any) -> str:
    """The JSON text of a context, which reads back as an equal value.

    Raises:
        TypeError: It holds something that JSON has no words for; a tuple would come back as a list.
        ValueError: It holds a number that is not finite, or is nested more than 100 deep.
    """
    _check(context, "$", 0)
    return json.dumps(context, allow_nan=False, separators=(",", ":"))


def _check(value: Any, place: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"context is nested more than {_DEEPEST} deep, or holds itself")
    if isinstance(value, dict):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str):
                raise TypeError(f"context must be JSON: the keys of {place} must be str, not {_kind(key)}")
            _check(item, f"{place}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            _check(item, f"{place}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"context must be JSON: {place} is not a finite number")
    elif value is not None and not isinstance(value, str | int):
        raise TypeError(f"context must be JSON: {place} is a {_kind(value)}")


def _kind(value: object) -> str:
    return type(value).__name__
