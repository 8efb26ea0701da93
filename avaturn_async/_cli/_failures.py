"""How a command ends when it cannot do its work: with a sentence."""

from __future__ import annotations


class Misuse(Exception):  # noqa: N818 - the name says what happened
    """Wrong use: exit code 2, with the usage."""


class Failure(Exception):  # noqa: N818 - the same
    """It did not work: exit code 1."""


def why(error: OSError) -> str:
    """What the operating system says was wrong."""
    return error.strerror or str(error) or type(error).__name__
