"""A receiver behind every kind of mount, as a process of its own, for requests that no client library sends.

Run by test_hostile.py with and without aiohttp's C parser; prints its port and serves until its
standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError

from avaturn_async.webhooks import (
    BasicAuth,
    HmacSha256,
    SessionRouter,
    SharedSecret,
    StandardWebhooks,
    Verifier,
    WebhookReceiver,
    aiohttp_adapter,
)

NOW = 1_700_000_000
KEY = "hush-0123456789abcdef"
SCHEMES: dict[str, Verifier] = {
    "hmac": HmacSha256(
        [KEY, "hush-the-older-one"],
        header="X-Signature",
        prefix="sha256=",
        template="{timestamp}.{body}",
        timestamp_header="X-Timestamp",
        clock=lambda: NOW,
    ),
    "base64": HmacSha256(KEY, header="X-Signature", encoding="base64"),
    "standard": StandardWebhooks(KEY.encode(), clock=lambda: NOW),
    "header": SharedSecret(KEY, header="X-Secret"),
    "query": SharedSecret(KEY, query="key"),
    "basic": BasicAuth("avaturn", KEY),
}


def reached_the_receiver(record: logging.LogRecord) -> bool:
    """Not so what aiohttp refuses by itself: it logs that with a piece of the request."""
    error = record.exc_info[1] if record.exc_info else None
    return not (record.name == "aiohttp.server" and isinstance(error, HttpProcessingError))


async def ping(_: web.Request) -> web.Response:
    return web.Response(status=204)


async def main() -> None:
    app, inner = web.Application(), web.Application()
    router = SessionRouter()
    receivers = {name: WebhookReceiver(router, verifier=scheme, read_timeout=0.3) for name, scheme in SCHEMES.items()}
    for name, receiver in receivers.items():
        receiver.add_to(app, f"/{name}")
        receiver.add_to(inner, f"/{name}")

    async def outcomes(_: web.Request) -> web.Response:
        total: dict[str, int] = {}
        for receiver in receivers.values():
            for outcome, count in receiver.outcomes.items():
                total[outcome] = total.get(outcome, 0) + count
        return web.json_response({**total, "parser": http_parser.HttpRequestParser.__module__})

    app.router.add_get("/ping", ping)
    app.router.add_get("/outcomes", outcomes)
    app.add_subapp("/inner", inner)
    # No request here has a rest worth five seconds.
    vars(aiohttp_adapter)["DRAIN_SECONDS"] = 0.3
    runner = web.AppRunner(app, access_log=None, lingering_time=0.3)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps(runner.addresses[0][1]), flush=True)  # noqa: T201 - how the test learns of the port
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    logging.getLogger("aiohttp.server").addFilter(reached_the_receiver)
    asyncio.run(main())
