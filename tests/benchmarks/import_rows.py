"""What the import costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

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

    def close(self) -> None:
        """It ended by itself."""


def rows(setup: Setup) -> Iterator[Result]:
    """The import of the package against that of aiohttp, which is most of it."""
    if setup.wants(ROW):
        names = {"ours": "avaturn_async", "theirs": "aiohttp"}
        makers = {who: partial(_Import, name, setup) for who, name in names.items()}
        taken = take_turns(makers, lives=2, turns=setup.turns, seconds=0.0, warm_up=1)
        yield compare(ROW, taken["ours"], taken["theirs"])
