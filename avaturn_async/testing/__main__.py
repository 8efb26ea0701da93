"""Runs FakeAvaturn alone: ``python -m avaturn_async.testing``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from avaturn_async._secret_options import add_secret_options, secrets_of
from avaturn_async.testing._server import FakeAvaturn
from avaturn_async.testing._webhooks import check_webhook_url
from avaturn_async.webhooks import HmacSha256

DESCRIPTION = "A server that stands in for Avaturn: the API, photo uploads, files and webhooks."
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""
_USAGE = """\
FakeAvaturn listens at {url}
  export AVATURN_BASE_URL={url} AVATURN_API_TOKEN={token}
The URL of a session is a page to click through. Ctrl+C ends it."""


def main(argv: Sequence[str] | None = None, *, until: Callable[[], Awaitable[object]] | None = None) -> int:
    """Run FakeAvaturn until it is interrupted.

    Args:
        argv: The command line; by default that of the process.
        until: What is waited for while it runs; by default nothing that comes.

    Returns:
        The exit code: 1 if it cannot listen there, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m avaturn_async.testing", description=DESCRIPTION, allow_abbrev=False
    )
    add_options(parser)
    try:
        return _run(parser, parser.parse_args(argv), until)
    except KeyboardInterrupt:
        print()  # noqa: T201 - a command; leaves the line with ^C
        return INTERRUPTED


def _run(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    until: Callable[[], Awaitable[object]] | None,
) -> int:
    try:
        return asyncio.run(run(options, until))
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)  # noqa: T201 - a command
        return 1
    except (ValueError, OverflowError) as error:
        parser.error(str(error))


async def run(options: argparse.Namespace, until: Callable[[], Awaitable[object]] | None = None) -> int:
    """Run FakeAvaturn as the options say, until it is cancelled or ``until`` comes; the exit code is 0."""
    secrets = secrets_of(options)
    signer = HmacSha256(secrets, header=options.signature_header) if secrets else None
    async with FakeAvaturn(
        options.webhook_url,
        signer,
        token=options.token,
        processing_delay=options.processing_delay,
        seed=options.seed,
        host=options.host,
        port=options.port,
    ) as fake:
        print(_USAGE.format(url=fake.url, token=options.token or "anything"), flush=True)  # noqa: T201 - a command
        await (until or asyncio.Event().wait)()
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that ``run`` takes; ``python -m avaturn_async fake`` has the same."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=8081, help="port to listen on, 0 for a free one (%(default)s)"
    )
    parser.add_argument("--token", help="the only API token that is taken (by default any)")
    parser.add_argument("--webhook-url", type=_web_url, metavar="URL", help="where webhooks are posted")
    add_secret_options(parser.add_argument)
    parser.add_argument(
        "--signature-header",
        default="X-Webhook-Signature",
        metavar="NAME",
        help="where there is a secret, webhooks are signed with HMAC-SHA256 in this header (%(default)s)",
    )
    parser.add_argument(
        "--processing-delay",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="how long an avatar, an export or a render takes (%(default)s)",
    )
    parser.add_argument("--seed", type=int, help="make ids and URLs the same in every run")


def _web_url(text: str) -> str:
    try:
        check_webhook_url(text)
    except ValueError as error:
        # A bare ValueError would make argparse repeat the URL, which may hold a secret.
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


if __name__ == "__main__":
    sys.exit(main())
