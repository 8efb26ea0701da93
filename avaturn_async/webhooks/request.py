"""A webhook request and its reply as plain values, independent of any web framework."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

__all__ = ["WebhookReply", "WebhookRequest"]

# Adapters read and drop the rest of a refused body within these bounds, so that a sender that is still sending can read
# the reply. nginx responds 502 instead of our reply if the connection is reset while it sends.
DRAIN_SECONDS = 5.0
DRAIN_BYTES = 33_554_432


def _convert_headers(headers: Any) -> tuple[tuple[bytes, bytes], ...]:
    try:
        pairs: list[Any] = list(headers.items() if hasattr(headers, "items") else headers)
        # A text of two characters would unpack, too.
        if not any(isinstance(pair, str | bytes) for pair in pairs):
            return tuple([(_header_bytes(name), _header_bytes(value)) for name, value in pairs])
    except (TypeError, ValueError):
        pass
    # The values are not shown: one of them may be a secret.
    raise TypeError("headers must be pairs of bytes, pairs of str, or a mapping of str to str")


def _header_bytes(part: Any) -> bytes:
    if isinstance(part, bytes | bytearray):
        return bytes(part)
    if isinstance(part, str):
        # WSGI and most serverless platforms decode headers as latin-1 (PEP 3333); some decode them as UTF-8.
        try:
            return part.encode("latin-1")
        except UnicodeEncodeError:
            return part.encode(errors="surrogateescape")
    raise TypeError


def _convert_body(body: Any) -> bytes:
    if not isinstance(body, bytes | bytearray):
        raise TypeError(
            f"body must be the raw bytes of the request, not {type(body).__name__}: "
            "a signature covers the bytes, and parsing and encoding them again changes them"
        )
    return bytes(body)


def _convert_query(query: Any) -> str:
    if not isinstance(query, str):
        # The value is not shown: it may hold a secret.
        raise TypeError(f"query must be the raw query string, not {type(query).__name__}")
    return query


@frozen(kw_only=True)
class WebhookRequest:
    """One incoming request.

    Raises:
        TypeError: ``body`` is not bytes, ``query`` is not a str, or ``headers`` has another shape.
    """

    method: str
    """HTTP method."""
    headers: tuple[tuple[bytes, bytes], ...] = field(converter=_convert_headers, repr=False)
    """Names and values in order; a name may occur twice. Give pairs of bytes, pairs of str, or a mapping of str."""
    body: bytes = field(converter=_convert_body, repr=False)
    """The whole body, or ``b""`` for ``WebhookReceiver.check_headers()``."""
    query: str = field(default="", converter=_convert_query, repr=False)
    """The query string, undecoded, without the question mark."""
    peer: str = ""
    """The sender's address, for the log only."""

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header. Upper and lower case of ``name`` are equal."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]


@frozen(kw_only=True)
class WebhookReply:
    """The response to send."""

    status: int
    """HTTP status code."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers of the response."""
    body: bytes = b""
    """Always empty: a sender learns nothing but the status."""
