"""JSON as RFC 8259 means it: what two parsers could read differently is refused."""

from __future__ import annotations

import codecs
import json
from typing import Any, NoReturn, cast

from avaturn_async.errors import WebhookPayloadError

_MOST_DIGITS = 20
_DEEPEST = 64
_INFINITE = float("inf")
_SPACE = " \t\n\r"


class _NotStrictError(ValueError):
    """A construct that json.loads would take; the message is for the log and shows nothing of the body."""


def strict_json(body: bytes) -> Any:
    """The value in a body.

    Raises:
        WebhookPayloadError: It is not UTF-8 (one byte order mark is fine), not JSON, or JSON that has
            duplicate keys, numbers that are not finite or have more than 20 digits, lone surrogates, or
            more than 64 levels.
    """
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode().strip(_SPACE)
        value, end = _decoder.raw_decode(text)
        if end != len(text):
            raise ValueError  # noqa: TRY301 - as the decoder does
        if "\\u" in text:
            # Only an escape can smuggle in half a surrogate pair; encoding finds it.
            json.dumps(value, ensure_ascii=False).encode()
        # Fewer brackets than levels allowed is the usual case, and counting is cheap.
        if text.count("[") + text.count("{") > _DEEPEST:
            _check_depth(value)
    except _NotStrictError as error:
        reason = str(error)
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except UnicodeEncodeError:
        reason = "half a surrogate pair"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError:
        reason = "not JSON"
    else:
        return value
    raise WebhookPayloadError(reason)


def _check_depth(value: Any) -> None:
    levels = 0
    layer: list[Any] = [value]
    while layer:
        below: list[Any] = []
        for item in layer:
            if type(item) is dict:
                below += cast("dict[str, Any]", item).values()
            elif type(item) is list:
                below += item
        levels += 1
        if levels > _DEEPEST:
            raise _NotStrictError("nested too deeply")
        layer = [item for item in below if type(item) in (dict, list)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _NotStrictError("a key occurs twice")
    return made


def _int(text: str) -> int:
    if len(text.removeprefix("-")) > _MOST_DIGITS:
        raise _NotStrictError("a number has too many digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (_INFINITE, -_INFINITE):
        raise _NotStrictError("a number is too large")
    return value


def _constant(_: str) -> NoReturn:
    raise _NotStrictError("NaN and Infinity are no JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
)
