"""Requests that FakeAvaturn received, and its replies, as plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from email.parser import BytesHeaderParser
from email.policy import HTTP
from typing import Any

from attrs import field, frozen
from multidict import CIMultiDictProxy, MultiMapping

Job = Callable[[], Coroutine[Any, Any, None]]
"""Work after the response."""


@frozen(kw_only=True)
class FormFile:
    """A file in a multipart form."""

    filename: str
    """Name, as sent."""
    content_type: str
    """Content-Type, as sent."""
    content: bytes = field(repr=False)
    """Content of the file."""


@frozen(kw_only=True)
class RecordedRequest:
    """A request as it was received."""

    method: str
    """HTTP method."""
    path: str
    """Path without the query, percent-decoded."""
    raw_path: str = field(repr=False)
    """Path and query exactly as sent."""
    query: MultiMapping[str] = field(repr=False)
    """Query parameters, decoded."""
    headers: CIMultiDictProxy[str] = field(repr=False)
    """Headers; names are case-insensitive."""
    body: bytes = field(repr=False)
    """Body."""
    parsed: Any = field(repr=False)
    """The value of a JSON body; for a multipart form a dict of str and FormFile; otherwise None."""


@frozen(kw_only=True)
class Reply:
    """A response of FakeAvaturn."""

    status: int = 200
    """HTTP status."""
    body: bytes = field(default=b"null", repr=False)
    """Body; PUT and DELETE of the API send ``null``."""
    headers: Mapping[str, str] = field(factory=lambda: {"Content-Type": "application/json"}, repr=False)
    """Headers beside those that aiohttp adds."""
    then: Job | None = field(default=None, repr=False)
    """Work that begins in the background after the response."""


class HTTPError(Exception):
    """A refused request; the arguments are the status and FastAPI's ``detail``."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(status, detail)
        self.reply: Reply = as_json({"detail": detail}, status=status)


def as_json(value: Any, *, status: int = 200, then: Job | None = None) -> Reply:
    """Return a reply with JSON as FastAPI writes it."""
    return Reply(status=status, body=json.dumps(value, separators=(",", ":")).encode(), then=then)


def media_type(content_type: str) -> str:
    """Return a Content-Type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json_type(content_type: str) -> bool:
    """Return whether a Content-Type is one of JSON, as FastAPI sees it."""
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")


def parse_body(content_type: str, body: bytes) -> Any:
    """Return the value of a JSON body, or the fields of a multipart form; None otherwise."""
    if is_json_type(content_type):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None
    return _parse_form(content_type, body) if media_type(content_type) == "multipart/form-data" else None


def _parse_form(content_type: str, body: bytes) -> dict[str, str | FormFile]:
    """Return the fields of a multipart form (RFC 7578)."""
    headers = BytesHeaderParser(policy=HTTP)
    # aiohttp decodes bytes of a header that are not UTF-8 as surrogates, which cannot be encoded.
    content_type_line = b"Content-Type: " + content_type.encode(errors="replace")
    boundary = headers.parsebytes(content_type_line).get_param("boundary", "")
    form: dict[str, str | FormFile] = {}
    # Before the first delimiter is the preamble, behind the last one the epilogue.
    for part in (b"\r\n" + body).split(b"\r\n--" + str(boundary).encode(errors="replace"))[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        parsed = headers.parsebytes(head.lstrip(b"\r\n"))
        name = parsed.get_param("name", "", header="content-disposition")
        filename = parsed.get_filename()
        if filename is None:
            form[str(name)] = content.decode(errors="replace")
        else:
            form[str(name)] = FormFile(filename=filename, content_type=parsed.get_content_type(), content=content)
    return form
