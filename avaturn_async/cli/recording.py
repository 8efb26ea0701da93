"""``record``: keep each request in a file. ``replay``: send the recorded requests again.

The file has a line of JSON for each request: ``at``, ``peer``, ``method``, ``path``, ``query``, ``headers`` (pairs)
and ``body``, or ``body_base64`` if the body is not UTF-8. Path, query and headers are ISO 8859-1: each character is a
byte. So ``replay`` sends exactly the bytes that were recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from avaturn_async.cli.options import add_address_options, add_timeout_option, integer, serving, web_url
from avaturn_async.cli.output import CommandError, complain, get_reason, printable, report, say, say_status
from avaturn_async.cli.raw_http import send_request
from avaturn_async.webhooks import WebhookRequest

_BYTES = "latin-1"
_MAX_BODY = 1_048_576
# What replay sends must not be able to end a line of the request.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_IN_HEADER = re.compile(r"[^\r\n\0]*")
_IN_QUERY = re.compile(r"[!-~\x80-\xff]*")


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``record``."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="lines of JSON are added to it; mode 0600; bodies up to 1 MiB"
    )
    add_address_options(parser, port=8080)
    parser.add_argument(
        "--answer", type=integer(200, 599), default=200, metavar="STATUS", help="status of each answer (%(default)s)"
    )
    add_timeout_option(parser, "a body")


async def record(options: argparse.Namespace) -> None:
    """Keep every request in a file, until interrupted."""
    file = _open_to_append(options.file)

    def refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
        complain(f"a request was not kept: {reason}")
        return web.Response(status=status, headers=headers)

    async def keep(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(options.timeout):
                body = await request.read()
        except TimeoutError:
            return refuse(408, "its body did not come in time")
        except web.HTTPRequestEntityTooLarge:
            return refuse(413, f"its body has more than {_MAX_BODY} bytes")
        path, _, query = request.raw_path.encode(errors="surrogateescape").decode(_BYTES).partition("?")
        headers = [[name.decode(_BYTES), value.decode(_BYTES)] for name, value in request.raw_headers]
        now = datetime.now(UTC)
        values: dict[str, Any] = {
            "at": now.isoformat(),
            "peer": request.remote or "",
            "method": request.method,
            "path": path,
            "query": query,
            "headers": headers,
        }
        try:
            values["body"] = body.decode()
        except UnicodeDecodeError:
            values["body_base64"] = base64.b64encode(body).decode()
        try:
            _append(file, json.dumps(values).encode() + b"\n")
        except OSError as error:
            # The sender can repeat the request when the disk has room.
            return refuse(503, get_reason(error), headers={"Retry-After": "5"})
        # Without values of the query and of headers, which can be secrets.
        names = ", ".join(name for name, _ in headers)
        target = printable(path) + ("?…" if query else "")
        report(f"{now:%H:%M:%S}  {request.method} {target}  {len(body)} bytes  ({names})")
        return web.Response(status=options.answer)

    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_route("*", "/{path:(?s:.*)}", keep)
    with file:
        async with serving(app, options) as url:
            say(f"recording what is sent to {url} into {options.file}")
            await asyncio.Event().wait()


def _open_to_append(path: Path) -> io.FileIO:
    """Open a file that only its owner can read, since requests hold secrets."""
    try:
        if path.exists() and not path.is_file():
            raise CommandError(f"cannot write {path}: not a regular file")
        is_whole = not path.exists() or path.read_bytes()[-1:] in {b"", b"\n"}
        file = io.FileIO(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600))
        # An existing file can have another mode.
        path.chmod(0o600)
        if not is_whole:
            # The first delivery must not become a part of the last line.
            file.write(b"\n")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {get_reason(error)}") from None
    return file


def _append(file: io.FileIO, line: bytes) -> None:
    """Write a line to the disk; an OSError leaves the file as it was."""
    size = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def add_replay_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``replay``."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file that record wrote")
    parser.add_argument("url", type=web_url, metavar="URL", help="where to post; if it has no query, the recorded one")
    parser.add_argument("--line", type=integer(1, sys.maxsize), metavar="N", help="only the delivery in this line")
    add_timeout_option(parser, "an answer")


async def replay(options: argparse.Namespace) -> int:
    """Send recorded requests again, in order; return 1 if one of them gets no 2xx."""
    deliveries = _read_deliveries(options.file, options.line)
    code = 0
    for number, (at, request) in deliveries.items():
        status = await send_request(options.url, request, timeout=options.timeout)
        if not say_status(f"line {number}, of {printable(at)}, {len(request.body)} bytes", status):
            code = 1
    return code


def _read_deliveries(path: Path, only: int | None) -> dict[int, tuple[str, WebhookRequest]]:
    """Return time and request of all deliveries in a file, or of the one in a line; empty lines are skipped."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {get_reason(error)}") from None
    deliveries: dict[int, tuple[str, WebhookRequest]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and only in {None, number}:
            try:
                deliveries[number] = _parse_delivery(line)
            except (KeyError, TypeError, ValueError, RecursionError):
                raise CommandError(f"{path}, line {number}: not a recorded delivery") from None
    if not deliveries:
        raise CommandError(f"{path} holds no delivery" + ("" if only is None else f" in line {only}"))
    return deliveries


def _parse_delivery(line: bytes) -> tuple[str, WebhookRequest]:
    values = json.loads(line)
    if "body" in values:
        body = _parse_text(values["body"]).encode()
    else:
        body = base64.b64decode(_parse_text(values["body_base64"]), validate=True)
    request = WebhookRequest(
        method=_parse_text(values["method"], _TOKEN),
        query=_parse_text(values["query"], _IN_QUERY).encode(_BYTES).decode(errors="surrogateescape"),
        headers=[
            (_parse_text(name, _TOKEN).encode(), _parse_text(value, _IN_HEADER).encode(_BYTES))
            for name, value in values["headers"]
        ],
        body=body,
    )
    return _parse_text(values["at"]), request


def _parse_text(value: Any, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError(value)
    return value
