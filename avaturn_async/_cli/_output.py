"""What a command says: lines on standard output, with colours on a terminal if rich is installed."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST = 120


class Say(Protocol):
    """Prints a line."""

    def __call__(self, text: str, style: str = "") -> None:
        """Print a line in a style of rich, such as ``green``."""
        ...


def say(text: str, style: str = "") -> None:
    """Print a line on standard output, at once."""
    # Its encoding may have no letters for what was sent; an error here would be an error for the sender.
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    console = _console() if sys.stdout.isatty() else None
    try:
        if console is None:
            print(text, flush=True)  # noqa: T201 - a command
        else:
            console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)
    except BrokenPipeError:
        # Whoever read has gone, as ``| head`` does; the interpreter must not stumble over it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@functools.cache
def _console() -> Console | None:
    try:
        # rich takes long to import: only for a terminal.
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        return None
    return Console(highlight=False)


def printable(text: str) -> str:
    """Text from the wire as it may stand on a terminal: short, and without control characters."""
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
