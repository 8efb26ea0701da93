"""A request as FakeAvaturn received it, and the answer that it gives: plain values that know no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from email.parser import BytesHeaderParser
from email.policy import HTTP
from typing import Any

from attrs import field, frozen
from multidict import CIMultiDictProxy, MultiMapping

Job = Callable[[], Coroutine[Any, Any, None]]
"""Work that goes on after the answer was sent."""


@frozen(kw_only=True)
class FormFile:
    """A file in a multipart form."""

    filename: str
    """The name that the sender gave it."""
    content_type: str
    """As declared by the sender."""
    content: bytes = field(repr=False)
    """The bytes of the file."""


@frozen(kw_only=True)
class RecordedRequest:
    """One request, as it stood on the wire."""

    method: str
    """HTTP method."""
    path: str
    """Path without the query, percent-decoded."""
    raw_path: str = field(repr=False)
    """Path and query exactly as sent."""
    query: MultiMapping[str] = field(repr=False)
    """Query parameters, decoded."""
    headers: CIMultiDictProxy[str] = field(repr=False)
    """Headers; names in any case."""
    body: bytes = field(repr=False)
    """The body, raw."""
    parsed: Any = field(repr=False)
    """JSON values of a JSON body; for a multipart form a dict of texts and FormFiles; else None."""


@frozen(kw_only=True)
class Reply:
    """An answer of FakeAvaturn."""

    status: int = 200
    """HTTP status."""
    body: bytes = field(default=b"null", repr=False)
    """What is sent; ``null`` is what PUT and DELETE answer."""
    headers: Mapping[str, str] = field(factory=lambda: {"Content-Type": "application/json"}, repr=False)
    """Headers besides those that HTTP itself needs."""
    then: Job | None = field(default=None, repr=False)
    """What goes on in the background once the answer is out."""


class Refused(Exception):  # noqa: N818 - an answer, not a failure of the fake
    """The request is answered with an error; its arguments are the status and FastAPI's ``detail``."""

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(status, detail)
        self.reply = as_json({"detail": detail}, status=status)


def as_json(value: Any, *, status: int = 200, then: Job | None = None) -> Reply:
    """An answer with JSON as FastAPI writes it."""
    return Reply(status=status, body=json.dumps(value, separators=(",", ":")).encode(), then=then)


def media_type(content_type: str) -> str:
    """A Content-Type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def parse_body(content_type: str, body: bytes) -> Any:
    """What a body says, as far as its content type tells how to read it; None otherwise."""
    kind = media_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None
    return _parse_form(content_type, body) if kind == "multipart/form-data" else None


def _parse_form(content_type: str, body: bytes) -> dict[str, str | FormFile]:
    """The fields of a form; https://www.rfc-editor.org/rfc/rfc7578."""
    headers = BytesHeaderParser(policy=HTTP)
    # aiohttp gives bytes of a header that are no UTF-8 as surrogates, which cannot be encoded.
    content_type_line = b"Content-Type: " + content_type.encode(errors="replace")
    boundary = headers.parsebytes(content_type_line).get_param("boundary", "")
    form: dict[str, str | FormFile] = {}
    # What stands before the first delimiter and behind the last one is no part.
    for part in (b"\r\n" + body).split(b"\r\n--" + str(boundary).encode(errors="replace"))[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        parsed = headers.parsebytes(head.lstrip(b"\r\n"))
        name = parsed.get_param("name", "", header="content-disposition")
        filename = parsed.get_filename()
        if filename is None:
            form[str(name)] = content.decode(errors="replace")
        else:
            form[str(name)] = FormFile(
                filename=filename, content_type=parsed.get_content_type(), content=content
            )
    return form
