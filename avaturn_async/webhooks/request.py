"""A webhook as it came in, and the answer that it gets: plain values that know no framework."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

__all__ = ["WebhookReply", "WebhookRequest"]


def _raw_headers(headers: Iterable[tuple[Any, Any]]) -> tuple[tuple[bytes, bytes], ...]:
    pairs: tuple[Any, ...] = tuple(headers)
    for pair in pairs:
        match pair:
            case (bytes(), bytes()):
                pass
            case _:
                raise TypeError("headers must be pairs of bytes, as they stood on the wire")
    return pairs


def _raw_body(body: Any) -> bytes:
    if not isinstance(body, bytes | bytearray):
        raise TypeError(
            f"body must be the raw bytes of the request, not {type(body).__name__}: "
            "a signature covers the bytes, and parsing and writing again changes them"
        )
    return bytes(body)


def _raw_query(query: Any) -> str:
    if not isinstance(query, str):
        # Its value is not shown: there may be a secret in it.
        raise TypeError(f"query must be the raw query string, not {type(query).__name__}")
    return query


@frozen(kw_only=True)
class WebhookRequest:
    """One incoming request, exactly as it stood on the wire.

    Raises:
        TypeError: The body or a header is not bytes, or the query no str.
    """

    method: str
    """HTTP method."""
    headers: tuple[tuple[bytes, bytes], ...] = field(converter=_raw_headers, repr=False)
    """Names and values, undecoded, in order; a name may occur twice."""
    body: bytes = field(converter=_raw_body, repr=False)
    """The whole body."""
    query: str = field(default="", converter=_raw_query, repr=False)
    """The query string, undecoded, without the question mark."""
    peer: str = ""
    """Who sent it, for the log; nothing is decided by it."""

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header, whatever the case of its name."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]


@frozen(kw_only=True)
class WebhookReply:
    """The answer to send."""

    status: int
    """HTTP status code."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers to send along."""
    body: bytes = b""
    """Always empty: a sender learns nothing but the status."""
