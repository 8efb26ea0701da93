"""What the commands print, and the errors that end them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_MAX_TEXT = 120


class UsageError(Exception):
    """The command line is wrong: exit code 2, with the usage of the command."""


class CommandError(Exception):
    """The command failed: exit code 1."""


def get_reason(error: OSError) -> str:
    """Return what the operating system says about an error."""
    return error.strerror or str(error) or type(error).__name__


def printable(text: str) -> str:
    """Return a text of a sender for a terminal: at most 120 characters, control characters escaped."""
    cut = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def say(text: str, style: str = "") -> None:
    """Print a line at once; on a terminal in a style such as ``green``, if rich is installed."""
    # The encoding of stdout may lack characters of the sender; an error here would become a response to the sender.
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        if sys.stdout.isatty():
            # An extra, slow to import; without it the line is printed below.
            with suppress(ImportError):
                from rich.console import Console  # noqa: PLC0415

                Console(highlight=False).print(text, style=style, markup=False, emoji=False, soft_wrap=True)
                return
        print(text, flush=True)  # noqa: T201 - a command
    except BrokenPipeError:
        # The reader of the pipe has ended (``| head``). Without this, the interpreter fails to flush stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_status(what: str, status: int) -> bool:
    """Print the status of the response to a delivery; return whether it is a 2xx."""
    accepted = 200 <= status < 300  # noqa: PLR2004 - HTTP
    say(f"{what}: {status}", "green" if accepted else "red")
    return accepted
