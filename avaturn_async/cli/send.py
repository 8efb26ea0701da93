"""``send``: make up an event, sign it and post it."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from http import HTTPStatus
from pathlib import Path
from uuid import uuid4

from avaturn_async.cli.options import add_timeout_option, uuid, web_url
from avaturn_async.cli.output import get_reason, say, say_status
from avaturn_async.cli.raw_http import send_request
from avaturn_async.cli.schemes import add_query_secret, add_scheme_options, make_signer
from avaturn_async.webhooks import WebhookRequest


def add_send_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``send``."""
    add = parser.add_argument
    add("url", type=web_url, metavar="URL", help="where to post")
    add("--event", default="avatar.ready", metavar="NAME", help="avatar.ready, export.ready, render.ready, or another")
    add("--status", default="ready", help="how it ended: ready or failed (%(default)s)")
    add("--avatar-id", type=uuid, metavar="UUID", help="made up if not given")
    add("--user-id", metavar="ID", help="made up if not given")
    add("--session-id", type=uuid, metavar="UUID", help="left out if not given")
    add("--render-id", type=uuid, metavar="UUID", help="of render.ready; made up if not given")
    add("--result-url", default="https://example.com/result", metavar="URL", help="of an export or a render")
    add("--body", type=_read_body, metavar="FILE", help="send this instead, as it is; - for standard input")
    add_timeout_option(parser, "an answer")
    add_scheme_options(parser, required=False)


def _read_body(name: str) -> bytes:
    # The event loop would not see Ctrl-C while a file or pipe is read.
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {name}: {get_reason(error)}") from None


async def send(options: argparse.Namespace) -> int:
    """Sign and post an event; return 1 if the response is no 2xx."""
    body: bytes = _make_event(options) if options.body is None else options.body
    signer = make_signer(options)
    headers = {"Content-Type": "application/json"} | (signer.sign(body) if signer else {})
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = WebhookRequest(method="POST", headers=pairs, body=body)
    status = await send_request(add_query_secret(options, options.url), request, timeout=options.timeout)
    if options.body is None:
        say(body.decode())
    accepted = say_status(f"{len(body)} bytes", status)
    if status == HTTPStatus.UNAUTHORIZED:
        reason = "the event was not signed: see --scheme" if signer is None else "check --scheme and the secret"
        say(f"the receiver does not accept this event as authentic: {reason}")
    return 0 if accepted else 1


def _make_event(options: argparse.Namespace) -> bytes:
    event = {
        "event": options.event,
        "avatar_id": str(options.avatar_id or uuid4()),
        "user_id": options.user_id or secrets.token_hex(16),
        "status": options.status,
    }
    if options.session_id is not None:
        event["session_id"] = str(options.session_id)
    if options.event == "render.ready":
        event["id"] = str(options.render_id or uuid4())
    if options.event in {"export.ready", "render.ready"}:
        # Avaturn sends null for the URL of a failed task.
        url_field = options.event.replace(".ready", "_url")
        event[url_field] = options.result_url if options.status == "ready" else None
    return json.dumps(event, separators=(",", ":")).encode()
