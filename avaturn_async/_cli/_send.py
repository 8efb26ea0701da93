"""``send``: a made-up event, signed and posted; ``replay``: recorded deliveries, posted again."""

from __future__ import annotations

import argparse
import secrets as randomness
from urllib.parse import quote
from uuid import uuid4

from yarl import URL

from avaturn_async._cli._deliveries import read_deliveries
from avaturn_async._cli._failures import Failure
from avaturn_async._cli._output import Say, printable
from avaturn_async._cli._schemes import PARAMETER, check_unsigned, verifier_of
from avaturn_async._cli._wire import deliver
from avaturn_async._secret_options import secrets_of
from avaturn_async.models import ScanStatus, TaskStatus
from avaturn_async.webhooks import AvatarReady, Event, ExportReady, RenderReady, UnknownEvent, event_body


async def send(options: argparse.Namespace, say: Say) -> int:
    """Sign and post an event; 1 if it is not taken."""
    body: bytes = event_body(_made_up(options)) if options.body is None else options.body
    headers = {"Content-Type": "application/json"}
    url: URL = options.url
    if options.scheme is None:
        check_unsigned(options)
    else:
        headers |= verifier_of(options).sign(body)
        if options.scheme == "query":
            url = _with_secret(url, options.parameter or PARAMETER, secrets_of(options)[0])
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    status = await deliver(url, headers=pairs, body=body, timeout=options.timeout)
    if options.body is None:
        say(body.decode())
    return _report(f"{len(body)} bytes", status, say)


async def replay(options: argparse.Namespace, say: Say) -> int:
    """Post recorded deliveries again, in order; 1 if one of them is not taken."""
    deliveries = list(enumerate(read_deliveries(options.file), 1))
    if options.line is not None:
        deliveries = deliveries[options.line - 1 : options.line]
        if not deliveries:
            raise Failure(f"{options.file} has no line {options.line}")
    result = 0
    for number, delivery in deliveries:
        status = await deliver(
            options.url,
            method=delivery.method,
            query=delivery.query,
            headers=delivery.headers,
            body=delivery.body,
            timeout=options.timeout,
        )
        what = f"line {number}, of {printable(delivery.at)}, {len(delivery.body)} bytes"
        result |= _report(what, status, say)
    return result


def _report(what: str, status: int, say: Say) -> int:
    taken = 200 <= status < 300  # noqa: PLR2004 - the 2xx
    say(f"{what}: {status}", "green" if taken else "red")
    return 0 if taken else 1


def _made_up(options: argparse.Namespace) -> Event:
    avatar_id = options.avatar_id or uuid4()
    user_id = options.user_id or randomness.token_hex(16)
    ready = options.status == "ready"
    # raw names the URL, so that it goes out as null, not left out, when the task failed: as Avaturn sends it.
    match options.event:
        case "avatar.ready":
            return AvatarReady(
                avatar_id=avatar_id,
                user_id=user_id,
                session_id=options.session_id,
                status=ScanStatus(options.status),
            )
        case "export.ready":
            return ExportReady(
                avatar_id=avatar_id,
                user_id=user_id,
                session_id=options.session_id,
                status=TaskStatus(options.status),
                export_url=options.result_url if ready else None,
                raw={"export_url": None},
            )
        case "render.ready":
            return RenderReady(
                avatar_id=avatar_id,
                user_id=user_id,
                session_id=options.session_id,
                id=options.render_id or uuid4(),
                status=TaskStatus(options.status),
                render_url=options.result_url if ready else None,
                raw={"render_url": None},
            )
        case _:
            return UnknownEvent(
                event=options.event, avatar_id=avatar_id, user_id=user_id, session_id=options.session_id
            )


def _with_secret(url: URL, parameter: str, secret: str) -> URL:
    # Not through yarl, which would write some characters its own way.
    pair = f"{quote(parameter, safe='')}={quote(secret, safe='')}"
    query = f"{url.raw_query_string}&{pair}" if url.raw_query_string else pair
    return URL(f"{url.origin()}{url.raw_path}?{query}", encoded=True)
