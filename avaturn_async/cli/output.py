"""What the commands print, and the errors that end them."""

from __future__ import annotations

import os
import ssl
import sys
from contextlib import suppress
from typing import TextIO

_MAX_TEXT = 120


class UsageError(Exception):
    """The command line is wrong: exit code 2, with the usage of the command."""


class CommandError(Exception):
    """The command failed: exit code 1."""


def get_reason(error: OSError) -> str:
    """Return what the operating system says about an error."""
    # asyncio replaces strerror with a text of its own; getaddrinfo and ssl have other numbers.
    if error.errno and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


def printable(text: str) -> str:
    """Return a text of a sender for a terminal: at most 120 characters, control characters escaped."""
    cut = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def say(text: str, style: str = "") -> None:
    """Print a line at once; on a terminal in a style such as ``green``, if rich is installed.

    Raises:
        CommandError: It cannot be written, for instance because the disk is full.
    """
    stdout: TextIO | None = sys.stdout
    if stdout is None:  # closed, as by >&-
        return
    # The encoding of stdout may lack characters of the sender; an error here would become a response to the sender.
    encoding = stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        if stdout.isatty():
            # An extra, slow to import; without it the line is printed below.
            with suppress(ImportError):
                from rich.console import Console  # noqa: PLC0415

                Console(highlight=False).print(text, style=style, markup=False, emoji=False, soft_wrap=True)
                return
        print(text, flush=True)  # noqa: T201 - a command
    except OSError as error:
        # Without this, the interpreter fails to flush stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        # The reader of a pipe may end (``| head``).
        if not isinstance(error, BrokenPipeError):
            raise CommandError(f"cannot write to standard output: {get_reason(error)}") from None


def report(text: str, style: str = "") -> None:
    """Print a line of a server, whose sender gets its answer also when the line cannot be written."""
    try:
        say(text, style)
    except CommandError as error:
        complain(str(error))


def complain(text: str) -> None:
    """Print an error of a server."""
    print(text, file=sys.stderr)  # noqa: T201 - a command


def say_status(what: str, status: int) -> bool:
    """Print the status of the response to a delivery; return whether it is a 2xx."""
    accepted = 200 <= status < 300  # noqa: PLR2004 - HTTP
    say(f"{what}: {status}", "green" if accepted else "red")
    return accepted
