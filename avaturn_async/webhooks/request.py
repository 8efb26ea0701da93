"""A webhook as it came in, and the answer that it gets: plain values that know no framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from attrs import field, frozen

__all__ = ["WebhookReply", "WebhookRequest"]


class RawHeaders(tuple[tuple[bytes, bytes], ...]):  # noqa: SLOT001 - a tuple has no room for slots
    """Names and values as they stood on the wire, gone through once for all who look for one of them.

    Raises:
        TypeError: One is not a pair of bytes.
    """

    by_name: Mapping[bytes, Sequence[bytes]]
    """The values of each header, by its name in lower case."""

    def __new__(cls, headers: Iterable[tuple[Any, Any]], *, checked: bool = False) -> Self:
        """Look at each of them; ``checked`` says that a server has read them, so that bytes are bytes."""
        pairs = tuple(headers) if checked else _pairs_of_bytes(headers)
        made = super().__new__(cls, pairs)
        made.by_name = {name.lower(): (value,) for name, value in pairs}
        if len(made.by_name) < len(pairs):
            made.by_name = _grouped(pairs)
        return made


def _pairs_of_bytes(headers: Iterable[Iterable[Any]]) -> tuple[tuple[bytes, bytes], ...]:
    pairs: list[tuple[bytes, bytes]] = []
    try:
        for name, value in headers:
            if not (isinstance(name, bytes) and isinstance(value, bytes)):
                raise TypeError  # noqa: TRY301 - as a pair that is none does
            pairs.append((name, value))
    except (TypeError, ValueError):
        raise TypeError("headers must be pairs of bytes, as they stood on the wire") from None
    return tuple(pairs)


def _grouped(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """The same if a name occurs twice."""
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        by_name.setdefault(name.lower(), []).append(value)
    return by_name


def _raw_headers(headers: Iterable[tuple[Any, Any]]) -> RawHeaders:
    return headers if isinstance(headers, RawHeaders) else RawHeaders(headers)


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
    headers: RawHeaders = field(converter=_raw_headers, repr=False)
    """Names and values, undecoded, in order; a name may occur twice."""
    body: bytes = field(converter=_raw_body, repr=False)
    """The whole body."""
    query: str = field(default="", converter=_raw_query, repr=False)
    """The query string, undecoded, without the question mark."""
    peer: str = ""
    """Who sent it, for the log; nothing is decided by it."""

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header, whatever the case of its name."""
        return list(self.headers.by_name.get(name.lower(), ()))


@frozen(kw_only=True)
class WebhookReply:
    """The answer to send."""

    status: int
    """HTTP status code."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers to send along."""
    body: bytes = b""
    """Always empty: a sender learns nothing but the status."""
