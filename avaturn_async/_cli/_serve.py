"""An aiohttp app on an address, until the command is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

from aiohttp import web

from avaturn_async._cli._failures import Failure


def add_address_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where to listen."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8080, help="port to listen on, 0 for a free one (%(default)s)"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:  # noqa: PLR2004 - there are so many
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


@asynccontextmanager
async def served(app: web.Application, options: argparse.Namespace) -> AsyncGenerator[str]:
    """Serve an app; gives its URL.

    Raises:
        Failure: It cannot listen there.
    """
    # A body that is kept must be what was sent, so it stays encoded.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, auto_decompress=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.host, options.port)
        try:
            await site.start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise Failure(f"cannot listen on {options.host}:{options.port}: {reason}") from None
        host = f"[{options.host}]" if ":" in options.host else options.host
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until_interrupted() -> NoReturn:
    """Wait for Ctrl-C."""
    while True:
        await asyncio.Event().wait()
