"""Serve an aiohttp app until the command is interrupted."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from avaturn_async.cli.output import CommandError


@asynccontextmanager
async def serving(app: web.Application, options: argparse.Namespace) -> AsyncGenerator[str]:
    """Serve an app at ``--host`` and ``--port``; yield its URL.

    Raises:
        CommandError: The address is not available.
    """
    # record keeps the bytes that the sender posted: without decompression.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, auto_decompress=False)
    await runner.setup()
    try:
        with address_errors(options):
            await web.TCPSite(runner, options.host, options.port).start()
        host = f"[{options.host}]" if ":" in options.host else options.host
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def address_errors(options: argparse.Namespace) -> Generator[None]:
    """Turn the OSError of an address that is not available into a CommandError."""
    try:
        yield
    except OSError as error:
        # asyncio replaces strerror with a text of its own; errors of getaddrinfo have a negative errno.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise CommandError(f"cannot listen on {options.host}:{options.port}: {reason}") from None
