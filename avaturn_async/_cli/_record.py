"""``record``: keeps what is posted as it came in, whatever it is, to be looked at and replayed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from typing import NoReturn

from aiohttp import web

from avaturn_async._cli._deliveries import Delivery, DeliveryFile
from avaturn_async._cli._failures import why
from avaturn_async._cli._output import Say, printable
from avaturn_async._cli._serve import served, until_interrupted

_LARGEST_BODY = 1_048_576


async def record(options: argparse.Namespace, say: Say) -> NoReturn:
    """Keep every request in a file, until interrupted."""
    file = DeliveryFile(options.file)

    async def keep(request: web.Request) -> web.Response:
        delivery = await _delivery_of(request, timeout=options.timeout)
        try:
            file.add(delivery)
        except OSError as error:
            # The sender may come again when there is room.
            print(f"not kept: {why(error)}", file=sys.stderr)  # noqa: T201 - a command
            return web.Response(status=503, headers={"Retry-After": "5"})
        say(_describe(delivery))
        return web.Response(status=options.answer)

    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_route("*", "/{path:.*}", keep)
    try:
        async with served(app, options) as url:
            say(f"recording what is sent to {url} into {options.file}")
            await until_interrupted()
    finally:
        file.close()


async def _delivery_of(request: web.Request, *, timeout: float) -> Delivery:
    try:
        async with asyncio.timeout(timeout):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    path, _, query = request.raw_path.encode(errors="surrogateescape").partition(b"?")
    return Delivery(
        at=datetime.now(UTC).isoformat(),
        peer=request.remote or "",
        method=request.method,
        path=path,
        query=query,
        headers=request.raw_headers,
        body=body,
    )


def _describe(delivery: Delivery) -> str:
    """A delivery in a line, without any value that could be a secret."""
    names = ", ".join(name.decode("latin-1") for name, _ in delivery.headers)
    query = "?…" if delivery.query else ""
    what = f"{delivery.method} {printable(delivery.path.decode('latin-1'))}{query}"
    return f"{delivery.at[11:19]}  {what}  {len(delivery.body)} bytes  ({names})"
