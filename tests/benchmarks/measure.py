"""Contenders, turns and ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from attrs import define, field, frozen

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class UnavailableError(Exception):
    """A peer can't be had here; the argument says why."""


@frozen(kw_only=True)
class Row:
    """A line of the table: what is measured, against whom, and the ratio that it may have at most."""

    work: str
    against: str
    at_most: float | None = None


@frozen(kw_only=True)
class Result:
    """A row with its figures: ours, theirs, and the median and the middle half of our turns by theirs."""

    row: Row
    ours: str
    theirs: str = ""
    ratio: float | None = None
    low: float = 0.0
    high: float = 0.0
    note: str = ""


@define
class Setup:
    """What the rows share."""

    quick: bool
    directory: Path
    wanted: Sequence[str] = ()
    keep: Path | None = None
    soak: bool = False
    stack: ExitStack = field(factory=ExitStack)

    @property
    def lives(self) -> int:
        """How often each contender is started."""
        return 2 if self.quick else 9

    @property
    def turns(self) -> int:
        """How many turns a life has: many short ones, so that those beside each other are alike."""
        return 10 if self.quick else 17

    def wants(self, row: Row) -> bool:
        """Whether the row was asked for."""
        name = f"{row.work} {row.against}".lower()
        return not self.wanted or any(all(w in name for w in ask.lower().split()) for ask in self.wanted)

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of a contender: this tree is imported, and compiled once, as when it is installed."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(self.directory / "pycache"),
            **more,
        }


@contextmanager
def prepared(*, quick: bool, soak: bool, wanted: Sequence[str], keep: Path | None) -> Iterator[Setup]:
    """What the rows share, and the temporary directory that it lives in."""
    with TemporaryDirectory(prefix="avaturn-benchmarks-") as name, ExitStack() as stack:
        yield Setup(quick=quick, soak=soak, directory=Path(name), wanted=wanted, keep=keep, stack=stack)


class Contender(Protocol):
    """Whoever takes turns."""

    def turn(self, times: int) -> float:
        """Do the work so many times; the CPU seconds that it took."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Process:
    """A child that reads how often from a line of its input, and writes a line of CPU seconds."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._child = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, line: str) -> str:
        """Write a line and read the next one."""
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("the pipes are closed")
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()
        return self.read()

    def read(self) -> str:
        """The child's next line."""
        answer = self._child.stdout.readline() if self._child.stdout else ""
        if not answer:
            raise RuntimeError(f"a worker ended with {self._child.wait()}: {self._child.args!r}")
        return answer.strip()

    def turn(self, times: int) -> float:
        """Do the work so many times; the CPU seconds that it took."""
        return float(self.ask(str(times)))

    def end(self) -> None:
        """Wait until it has ended by itself, which it does when there is nothing more to read."""
        self._child.communicate()

    def close(self) -> None:
        """End it."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._child.terminate()
        self._child.wait()


def python(setup: Setup, module: str, *arguments: str, executable: str = sys.executable) -> Process:
    """Start a module that lies beside this file."""
    return Process([executable, "-m", f"tests.benchmarks.{module}", *arguments], setup.environment())


def take_turns(
    makers: Mapping[str, Callable[[], Contender]],
    *,
    lives: int,
    turns: int,
    seconds: float,
    warm_up: int = 20,
) -> dict[str, list[float]]:
    """CPU seconds for one piece of work, by contender and turn.

    Where a process happens to lie in memory makes it faster or slower for as long as it lives, which is why
    each contender has several lives.
    """
    taken: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(lives):
        contenders = {name: make() for name, make in makers.items()}
        times: dict[str, int] = {}
        for name, contender in contenders.items():
            once = contender.turn(warm_up) / warm_up
            times[name] = max(1, round(seconds / max(once, 1e-7)))
        for _ in range(turns):
            for name, contender in contenders.items():
                taken[name].append(contender.turn(times[name]) / times[name])
        for contender in contenders.values():
            contender.close()
    return taken


def compare(row: Row, ours: Sequence[float], theirs: Sequence[float], *, note: str = "") -> Result:
    """Our turns by theirs."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Result(
        row=row,
        ours=duration(statistics.median(ours)),
        theirs=duration(statistics.median(theirs)),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        note=note,
    )


def duration(seconds: float) -> str:
    """Seconds, readable."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.01:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds * 1e6:.0f} µs"
