"""Rows, child processes, and ratios of interleaved turns.

Each contender runs in a child process that reports its own CPU seconds, so that neither the load generator nor other
processes count. Turns of the two contenders alternate, each turn of ours is divided by the turn of the peer beside it,
and the row shows the median of these ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

ROOT = Path(__file__).parents[2]


class UnavailableError(Exception):
    """A peer or a server is missing on this machine."""


@frozen
class Measured:
    """The figure of a row. ``note`` gives the absolute figures behind it."""

    value: float
    note: str = ""


@frozen
class Row:
    """A figure and its goal: ``measure(quick)`` returns at most ``goal``."""

    goal: float
    measure: Callable[[bool], Measured]
    unit: str = "x"


class Child:
    """A child process that runs a module of this package, reads lines and answers each with a line."""

    def __init__(self, module: str, *arguments: str, python: str = sys.executable, path: Sequence[Path] = ()) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path)))}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process = subprocess.Popen(
            [python, "-m", f"tests.benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line.startswith("unavailable: "):
            raise UnavailableError(line.removeprefix("unavailable: "))
        if not line:
            raise RuntimeError(f"the child ended with {self._process.wait()}: {self._process.args!r}")
        return line

    def ask(self, line: str) -> str:
        self.write(line)
        return self.read()


def compare(ours: Sequence[float], theirs: Sequence[float], count: int = 1) -> Measured:
    """Return the median ratio of turns that stood beside each other; ``count`` pieces of work were done in a turn."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    each = (statistics.median(turns) / count for turns in (ours, theirs))
    return Measured(ratio, " against ".join(map(format_seconds, each)))


def format_seconds(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def print_table(rows: Mapping[str, Row], *, quick: bool) -> bool:
    """Measure and print each row; return whether all goals were reached."""
    print("| row | measured | goal | ok | |\n|---|--:|--:|---|---|")
    missed = 0
    for name, row in rows.items():
        try:
            measured = row.measure(quick)
        except UnavailableError as error:
            print(f"| {name} | | {row.goal:g} {row.unit} | skipped | {error} |", flush=True)
            continue
        is_missed = measured.value > row.goal
        missed += is_missed
        verdict = "MISSED" if is_missed else "yes"
        figures = f"{measured.value:.3g} {row.unit} | {row.goal:g} {row.unit}"
        print(f"| {name} | {figures} | {verdict} | {measured.note} |", flush=True)
    return not missed
