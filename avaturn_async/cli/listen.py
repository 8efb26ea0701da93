"""``listen``: verify webhooks and print each event; forward them to another server."""

from __future__ import annotations

import argparse
import asyncio
import re
import time

import attrs
from aiohttp import web
from yarl import URL

from avaturn_async.cli.options import add_address_options, add_timeout_option, serving, web_url
from avaturn_async.cli.output import CommandError, printable, report, say
from avaturn_async.cli.raw_http import send_request
from avaturn_async.cli.schemes import DEFAULT_PARAMETER, add_scheme_options, make_verifier
from avaturn_async.webhooks import (
    Event,
    SessionRouter,
    Verifier,
    WebhookReceiver,
    WebhookReply,
    WebhookRequest,
    parse_event,
)

_OK = 200
_STYLES = {"ready": "green", "failed": "red"}


def add_listen_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``listen``."""
    add_address_options(parser, port=8080)
    parser.add_argument("--path", type=_path, default="/avaturn", help="path to listen on (%(default)s)")
    parser.add_argument(
        "--forward", type=web_url, metavar="URL", help="post verified webhooks here, and answer as it answers"
    )
    add_timeout_option(parser, "an answer")
    add_scheme_options(parser, required=True)


def _path(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]*)+", text):
        raise argparse.ArgumentTypeError("must be a path such as /avaturn, of letters, digits and . _ ~ -")
    return text


async def listen(options: argparse.Namespace) -> None:
    """Print the event of each webhook, until interrupted."""
    receiver = PrintingReceiver(make_verifier(options), forward=options.forward, timeout=options.timeout)
    app = web.Application()
    receiver.add_to(app, options.path)

    async def refuse_other_path(request: web.Request) -> web.Response:
        # Without the query, which can hold a secret.
        path = printable(request.raw_path.partition("?")[0])
        now = time.strftime("%H:%M:%S")
        report(f"{now}  {printable(request.method)} {path}: 404, webhooks go to {options.path}", "red")
        return web.Response(status=404)

    app.router.add_route("*", "/{path:(?s:.*)}", refuse_other_path)
    async with serving(app, options) as url:
        query = f"?{options.parameter or DEFAULT_PARAMETER}=…" if options.scheme == "query" else ""
        say(f"listening at {url}{options.path}{query}")
        await asyncio.Event().wait()


class PrintingReceiver(WebhookReceiver):
    """A receiver that prints the events of its webhooks, and forwards them to ``forward``."""

    def __init__(self, verifier: Verifier, *, forward: URL | None, timeout: float) -> None:
        super().__init__(SessionRouter(), verifier=verifier)
        self._forward = forward
        self._timeout = timeout

    async def receive(self, request: WebhookRequest) -> WebhookReply:
        """Return the reply of the receiver or, for a verified webhook that is forwarded, of the other server."""
        reply = await super().receive(request)
        if reply.status != _OK:
            return reply
        event = parse_event(request.body)
        line = f"{time.strftime('%H:%M:%S')}  {_describe(event)}"
        style = _STYLES.get(str(getattr(event, "status", "")), "")
        if self._forward is None:
            report(line, style)
            return reply
        try:
            status = await send_request(self._forward, request, timeout=self._timeout)
        except CommandError as error:
            report(f"{line}  not forwarded, {error}", "red")
            return WebhookReply(status=502)
        report(f"{line}  forwarded: {status}", style)
        return WebhookReply(status=status)


def _describe(event: Event) -> str:
    """Return the attributes of an event as a line. The URL of a result is a credential and is not shown."""
    words = [f"{printable(event.event):<14}"]
    for attribute in attrs.fields(type(event)):
        value = getattr(event, attribute.name)
        if attribute.name == "problems":
            words += [printable(problem) for problem in value]
        elif attribute.repr is not False and attribute.name != "event" and value is not None:
            words.append(f"{attribute.name}={printable(str(value))}")
        elif attribute.name.endswith("_url") and value is not None:
            words.append(f"{attribute.name}=…")
    return "  ".join(words)
