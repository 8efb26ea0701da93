"""``listen``: a receiver that prints each event, and can forward it."""

from __future__ import annotations

import argparse
import time
from typing import NoReturn

import attrs
from aiohttp import web
from yarl import URL

from avaturn_async._cli._failures import Failure
from avaturn_async._cli._output import Say, printable
from avaturn_async._cli._schemes import PARAMETER, verifier_of
from avaturn_async._cli._serve import served, until_interrupted
from avaturn_async._cli._wire import deliver
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


class Listener(WebhookReceiver):
    """A receiver that prints what it takes, and forwards it."""

    def __init__(self, verifier: Verifier, say: Say, *, forward: URL | None, timeout: float) -> None:
        super().__init__(SessionRouter(), verifier=verifier)
        self._say = say
        self._forward = forward
        self._timeout = timeout

    async def judge(self, request: WebhookRequest) -> WebhookReply:
        """The reply of the receiver or, for an event that is forwarded, of the URL that it goes to."""
        reply = await super().judge(request)
        if reply.status != _OK:
            return reply
        event = parse_event(request.body)
        line = f"{time.strftime('%H:%M:%S')}  {describe(event)}"
        style = _STYLES.get(str(getattr(event, "status", "")), "")
        if self._forward is None:
            self._say(line, style)
            return reply
        try:
            status = await deliver(
                self._forward,
                query=request.query.encode(errors="surrogateescape"),
                headers=request.headers,
                body=request.body,
                timeout=self._timeout,
            )
        except Failure as failure:
            self._say(f"{line}  not forwarded, {failure}", "red")
            return WebhookReply(status=502)
        self._say(f"{line}  forwarded: {status}", style)
        return WebhookReply(status=status)


def describe(event: Event) -> str:
    """An event in a line; of a result's URL, which is a credential, only that there is one."""
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


async def listen(options: argparse.Namespace, say: Say) -> NoReturn:
    """Take webhooks and print their events, until interrupted."""
    verifier = verifier_of(options)
    app = web.Application()
    Listener(verifier, say, forward=options.forward, timeout=options.timeout).add_to(app, options.path)
    async with served(app, options) as url:
        query = f"?{options.parameter or PARAMETER}=…" if options.scheme == "query" else ""
        say(f"listening at {url}{options.path}{query}")
        await until_interrupted()
