"""What the import costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from attrs import frozen

from .measure import Result, Row, Setup, compare, take_turns

ROW = Row(work="`import avaturn_async`", against="`import aiohttp`", at_most=1.15)


@frozen
class _Import:
    """Imports a module in a fresh interpreter, whose own start does not count."""

    name: str
    setup: Setup

    def turn(self, times: int) -> float:
        code = f"import time; t = time.process_time(); import {self.name}; print(time.process_time() - t)"
        taken = 0.0
        for _ in range(times):
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=self.setup.environment(),
                capture_output=True,
                text=True,
                check=True,
            )
            taken += float(done.stdout)
        return taken


def rows(setup: Setup) -> Iterator[Result]:
    """The import of the package against that of aiohttp, which is most of it."""
    if setup.wants(ROW):
        contenders = {"ours": _Import("avaturn_async", setup), "theirs": _Import("aiohttp", setup)}
        taken = take_turns(contenders, turns=setup.turns, seconds=0.0, warm_up=1)
        yield compare(ROW, taken["ours"], taken["theirs"])
