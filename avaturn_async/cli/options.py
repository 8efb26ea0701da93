"""Types of options, options that several commands have, and the server at ``--host`` and ``--port``."""

from __future__ import annotations

import argparse
import math
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from uuid import UUID

from aiohttp import web
from yarl import URL

from avaturn_async._validation import parse_id
from avaturn_async.cli.output import CommandError, get_reason


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a type of option: a whole number from ``lowest`` to ``highest``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"must be a number from {lowest} to {highest}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Parse a finite number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds from 0 up")
    return value


def uuid(text: str) -> UUID:
    """Parse an id in canonical form."""
    try:
        return parse_id(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a UUID, such as 0a1b2c3d-0000-4000-8000-000000000001") from None


def web_url(text: str) -> URL:
    """Parse the URL of a request. The message of an error does not contain the URL, which can hold a secret."""
    with suppress(ValueError):
        url = URL(text)
        if url.user or url.password:
            raise argparse.ArgumentTypeError(
                "must have no user or password: use --scheme basic, --user, and the secret for the password"
            )
        if url.scheme in {"http", "https"} and (url.host or "").encode("idna"):
            return url
    raise argparse.ArgumentTypeError("must be a URL such as http://127.0.0.1:8080/avaturn")


def add_address_options(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Add the address that a server listens on."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=integer(0, 65_535), default=port, help="port to listen on, 0 for a free one (%(default)s)"
    )


def add_timeout_option(parser: argparse.ArgumentParser, waits_for: str) -> None:
    """Add the time limit of a request."""
    parser.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help=f"longest wait for {waits_for} (10)"
    )


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
        raise CommandError(f"cannot listen on {options.host}:{options.port}: {get_reason(error)}") from None
