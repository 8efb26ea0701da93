"""Options of a command that takes secrets, from the environment or from files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_VARIABLE = "AVATURN_WEBHOOK_SECRET"


class _OnTheCommandLine(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.error(
            f"a secret on the command line shows in the list of processes: put it into {_VARIABLE} "
            "or into a file, --secret-file"
        )


def add_secret_options(add: Callable[..., Any]) -> None:
    """Options that ``secrets_of`` reads; ``add`` is the ``add_argument`` of a parser or of a group."""
    add("--secret-env", metavar="NAME", help=f"the environment variable with the secret ({_VARIABLE})")
    add(
        "--secret-file",
        metavar="FILE",
        action="append",
        type=_from_file,
        help="a file with the secret instead; again for each secret that is being rotated",
    )
    add("--secret", action=_OnTheCommandLine, help=argparse.SUPPRESS)


def secrets_of(options: argparse.Namespace) -> Sequence[str]:
    """The secrets, from files or from the environment; the first of them signs. Empty if none was named.

    Raises:
        ValueError: A variable that was named holds none.
    """
    if options.secret_file:
        # Read when the command line was: a file may be a pipe, which tells its secret once.
        given: list[str] = options.secret_file
        return given
    name: str = options.secret_env or _VARIABLE
    secret = os.environ.get(name, "")
    if not secret:
        if options.secret_env:
            raise no_secret(name)
        return []
    # What was not UTF-8 in the environment is here as lone surrogates.
    if any("\ud800" <= c <= "\udfff" for c in secret):
        raise ValueError(f"{name} is not UTF-8")
    return [secret]


def no_secret(name: str = _VARIABLE) -> ValueError:
    """What to raise where a secret is needed."""
    return ValueError(f"{name} is not set: put the secret there, or name a file with --secret-file")


def _from_file(name: str) -> str:
    try:
        return Path(name).read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise argparse.ArgumentTypeError(f"cannot read the secret in {name}: {reason}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"the secret in {name} is not UTF-8") from None
