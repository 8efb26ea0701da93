"""Command line: ``avaturn``, or ``python -m avaturn_async``.

Exit codes: 0, 1 for a failure, 2 for wrong use, 130 after Ctrl-C. Secrets come from environment variables or
files, and none is ever printed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from avaturn_async._version import __version__
from avaturn_async.cli.failed import add_failed_options, add_retry_options, list_failed, retry
from avaturn_async.cli.fake import add_fake_options, fake
from avaturn_async.cli.listen import add_listen_options, listen
from avaturn_async.cli.output import CommandError, UsageError
from avaturn_async.cli.recording import add_record_options, add_replay_options, record, replay
from avaturn_async.cli.send import add_send_options, send

__all__ = ["main", "make_parser"]

_DESCRIPTION = "Webhooks of Avaturn: print, record, replay and send them; list and retry failed events; run a stand-in."
_EXIT_CODES = "Exit codes: 0, 1 for a failure, 2 for wrong use, 130 after Ctrl-C."
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command line; by default that of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: With code 2 for wrong use, and with 0 after ``--help`` and ``--version``.
    """
    # The receiver logs why it refuses a webhook.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        options = make_parser().parse_args(argv)
        run: Callable[[argparse.Namespace], Coroutine[Any, Any, int | None]] = options.run
        parser: argparse.ArgumentParser = options.parser
        try:
            return asyncio.run(run(options)) or 0
        except UsageError as error:
            parser.error(str(error))
        except CommandError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command
            return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; its ``run`` is the coroutine function of the command."""
    parser = argparse.ArgumentParser(prog="avaturn", description=_DESCRIPTION, epilog=_EXIT_CODES, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"avaturn_async {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, add_options, summary in (
        ("listen", listen, add_listen_options, "verify webhooks and print each event as it comes"),
        ("record", record, add_record_options, "keep deliveries as they come, without verifying anything"),
        ("replay", replay, add_replay_options, "post recorded deliveries again, byte for byte"),
        ("send", send, add_send_options, "make up an event, sign it and post it"),
        ("failed", list_failed, add_failed_options, "list the events that the handlers of an app gave up"),
        ("retry", retry, add_retry_options, "return failed events to their handlers, now or at the next start"),
        ("fake", fake, add_fake_options, "run a server that stands in for Avaturn"),
    ):
        command = commands.add_parser(name, help=summary, description=summary, epilog=_EXIT_CODES, allow_abbrev=False)
        command.set_defaults(run=run, parser=command)
        add_options(command)
    return parser
