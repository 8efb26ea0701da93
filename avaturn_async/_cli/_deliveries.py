"""Deliveries of webhooks, kept as they came in: lines of JSON in a file.

A line holds ``at``, ``peer``, ``method``, ``path``, ``query``, ``headers`` (pairs) and ``body``, or
``body_base64`` where the body is not UTF-8. In path, query and headers a character is a byte, as in ISO
8859-1. So nothing is lost: what is read is byte for byte what was written.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

from attrs import field, frozen

from avaturn_async._cli._failures import Failure, why

_BYTES = "latin-1"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_IN_A_LINE = re.compile(r"[^\r\n\0]*")
_IN_A_URL = re.compile(r"[!-~\x80-\xff]*")


@frozen(kw_only=True)
class Delivery:
    """One request, as it stood on the wire."""

    at: str
    """When it came in, ISO 8601."""
    peer: str
    """Who sent it."""
    method: str
    """HTTP method."""
    path: bytes
    """Path, undecoded."""
    query: bytes = field(repr=False)
    """Query, undecoded, without the question mark."""
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """Names and values, in order."""
    body: bytes = field(repr=False)
    """The whole body, still encoded if it was."""


class DeliveryFile:
    """A file that deliveries are added to. Only its owner can read it: a delivery holds secrets.

    Raises:
        Failure: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            if path.exists() and not path.is_file():
                raise Failure(f"cannot write {path}: it is no regular file")
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            # It may have been there, with another mode.
            path.chmod(0o600)
        except OSError as error:
            raise Failure(f"cannot write {path}: {why(error)}") from None

    def add(self, delivery: Delivery) -> None:
        """Add a delivery; it is on the disk when this returns.

        Raises:
            OSError: It is not.
        """
        line = memoryview(line_of(delivery))
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def line_of(delivery: Delivery) -> bytes:
    """A delivery as a line, its end included."""
    values: dict[str, Any] = {
        "at": delivery.at,
        "peer": delivery.peer,
        "method": delivery.method,
        "path": delivery.path.decode(_BYTES),
        "query": delivery.query.decode(_BYTES),
        "headers": [[name.decode(_BYTES), value.decode(_BYTES)] for name, value in delivery.headers],
    }
    try:
        values["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        values["body_base64"] = base64.b64encode(delivery.body).decode()
    return json.dumps(values).encode() + b"\n"


def delivery_of(line: bytes) -> Delivery:
    """The delivery in a line.

    Raises:
        ValueError: There is none in it.
    """
    try:
        values = json.loads(line)
        return Delivery(
            at=_text(values["at"]),
            peer=_text(values["peer"]),
            # What is sent again must not be able to end a line of the request.
            method=_text(values["method"], _TOKEN),
            path=_text(values["path"], _IN_A_URL).encode(_BYTES),
            query=_text(values["query"], _IN_A_URL).encode(_BYTES),
            headers=tuple(
                (_text(name, _TOKEN).encode(), _text(value, _IN_A_LINE).encode(_BYTES))
                for name, value in values["headers"]
            ),
            body=_body(values),
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("not a recorded delivery") from None


def _text(value: Any, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError
    return value


def _body(values: dict[str, Any]) -> bytes:
    if "body" in values:
        return _text(values["body"]).encode()
    return base64.b64decode(_text(values["body_base64"]), validate=True)


def read_deliveries(path: Path) -> list[Delivery]:
    """The deliveries in a file.

    Raises:
        Failure: It cannot be read, or there is something else in it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise Failure(f"cannot read {path}: {why(error)}") from None
    deliveries: list[Delivery] = []
    for number, line in enumerate(lines, 1):
        try:
            deliveries.append(delivery_of(line))
        except ValueError as error:
            raise Failure(f"{path}, line {number}: {error}") from None
    if not deliveries:
        raise Failure(f"{path} holds no deliveries")
    return deliveries
