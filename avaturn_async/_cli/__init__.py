"""The command line: ``python -m avaturn_async``.

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

from avaturn_async._cli._failures import Failure, Misuse
from avaturn_async._cli._output import say
from avaturn_async._cli._parser import make_parser
from avaturn_async.testing.__main__ import INTERRUPTED

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command line; by default that of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: With code 2 for wrong use, and with 0 after ``--help`` and ``--version``.
    """
    # Why a webhook was refused is in the receiver's log.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        return _run(make_parser().parse_args(argv))
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    run: Callable[..., Coroutine[Any, Any, int]] = options.run
    try:
        return asyncio.run(run(options, say))
    except Misuse as error:
        parser: argparse.ArgumentParser = options.parser
        parser.error(str(error))
    except Failure as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 1
