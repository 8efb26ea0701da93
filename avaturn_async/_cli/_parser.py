"""The commands and their options."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

from avaturn_async._cli._failures import Failure, Misuse, why
from avaturn_async._cli._listen import listen
from avaturn_async._cli._output import Say
from avaturn_async._cli._record import record
from avaturn_async._cli._schemes import add_scheme_options
from avaturn_async._cli._send import replay, send
from avaturn_async._cli._serve import add_address_options
from avaturn_async._cli._wire import web_url
from avaturn_async._ids import as_uuid
from avaturn_async._version import __version__
from avaturn_async.testing import __main__ as testing

Run = Callable[[argparse.Namespace, Say], Awaitable[int]]

_DESCRIPTION = "Webhooks of Avaturn at the command line: see them, keep them, send them."
_EXIT_CODES = "Exit codes: 0, 1 for a failure, 2 for wrong use, 130 after Ctrl-C."


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m avaturn_async", description=_DESCRIPTION, epilog=_EXIT_CODES, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"avaturn_async {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=summary, description=summary, epilog=_EXIT_CODES, allow_abbrev=False
        )
        made.set_defaults(run=run, parser=made)
        return made

    _listen_options(command("listen", listen, "verify webhooks and print each event as it comes"))
    _record_options(command("record", record, "keep deliveries as they come, without verifying anything"))
    _replay_options(command("replay", replay, "post recorded deliveries again, byte for byte"))
    _send_options(command("send", send, "make up an event, sign it and post it"))
    testing.add_options(command("fake", _fake, "run a server that stands in for Avaturn"))
    return parser


async def _fake(options: argparse.Namespace, _: Say) -> int:
    try:
        return await testing.run(options)
    except OSError as error:
        raise Failure(f"cannot listen on {options.host}:{options.port}: {why(error)}") from None
    except (ValueError, OverflowError) as error:
        raise Misuse(str(error)) from None


def _listen_options(parser: argparse.ArgumentParser) -> None:
    add_address_options(parser)
    parser.add_argument("--path", type=_path, default="/avaturn", help="path to listen on (%(default)s)")
    parser.add_argument(
        "--forward", type=web_url, metavar="URL", help="post what is authentic here, and answer as it answers"
    )
    _timeout_option(parser)
    add_scheme_options(parser, required=True)


def _record_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="lines of JSON are added to it; mode 0600")
    add_address_options(parser)
    parser.add_argument(
        "--answer", type=_status, default=200, metavar="STATUS", help="what senders are told (%(default)s)"
    )
    _timeout_option(parser, "longest wait for a body (10)")


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what record wrote")
    parser.add_argument("url", type=web_url, metavar="URL", help="where to; the query is the recorded one")
    parser.add_argument("--line", type=_line, metavar="N", help="only the delivery in this line")
    _timeout_option(parser)


def _send_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", type=web_url, metavar="URL", help="where to")
    add("--event", default="avatar.ready", metavar="NAME", help="avatar.ready, export.ready, render.ready …")
    add("--status", default="ready", help="how it ended: ready or failed (%(default)s)")
    add("--avatar-id", type=_id, metavar="UUID", help="made up if not given")
    add("--user-id", metavar="ID", help="made up if not given")
    add("--session-id", type=_id, metavar="UUID", help="left out if not given")
    add("--render-id", type=_id, metavar="UUID", help="of render.ready; made up if not given")
    add("--result-url", default="https://example.com/result", metavar="URL", help="of an export or a render")
    add("--body", type=_body, metavar="FILE", help="send this instead, as it is; - for standard input")
    _timeout_option(parser)
    add_scheme_options(parser, required=False)


def _timeout_option(parser: argparse.ArgumentParser, text: str = "longest wait for an answer (10)") -> None:
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="SECONDS", help=text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value


def _line(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be a number from 1 up")
    return int(text)


def _status(text: str) -> int:
    if not text.isdecimal() or not 200 <= int(text) <= 599:  # noqa: PLR2004 - HTTP
        raise argparse.ArgumentTypeError("must be an HTTP status from 200 to 599")
    return int(text)


def _id(text: str) -> UUID:
    try:
        return as_uuid(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _body(name: str) -> bytes:
    # Here and not in the event loop, which Ctrl-C would not reach while something is read.
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {name}: {why(error)}") from None


def _path(text: str) -> str:
    if not text.startswith("/") or any(c in text for c in "?#{}"):
        raise argparse.ArgumentTypeError("must be a path such as /avaturn")
    return text
