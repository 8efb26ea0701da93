"""A webhook as it came in and the answer that it gets: plain values that know no framework."""

from __future__ import annotations

from attrs import field, frozen


@frozen(kw_only=True)
class WebhookRequest:
    """One incoming request, exactly as it stood on the wire."""

    method: str
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    body: bytes = field(repr=False)
    query: str = field(default="", repr=False)
    peer: str = ""


@frozen(kw_only=True)
class WebhookReply:
    """The answer to send: a status, headers and a body, which is empty."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
