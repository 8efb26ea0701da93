"""The command line: ``python -m tests.benchmarks [--quick] [--only WORDS]``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import client_rows, download_rows, durable_rows, import_rows, store_rows, webhook_rows
from .measure import Result, Setup, prepared

GROUPS = (
    client_rows.rows,
    import_rows.rows,
    download_rows.rows,
    webhook_rows.rows,
    store_rows.rows,
    durable_rows.rows,
)
PACKAGES = ("aiohttp", "attrs", "cattrs", "pydantic")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the SDK as ratios of CPU seconds to what one would use in its place; "
        "print a Markdown table.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter turns: minutes become seconds"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORDS",
        help="only rows that hold all these words, such as 'new_session bare'; may be given again",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="make the generated clients there, and use them the next time",
    )
    parser.add_argument("--soak", action="store_true", help="also send a million webhooks: takes minutes")
    return parser.parse_args()


def _results(setup: Setup) -> Iterator[Result]:
    for group in GROUPS:
        yield from group(setup)


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _print(results: Iterable[Result]) -> bool:
    print(f"{datetime.now(UTC):%Y-%m-%d}; {_versions()}; {platform.machine()}, {os.cpu_count()} CPUs\n")
    print("| work | against | ours | theirs | ratio | middle half | at most | |")
    print("|---|---|--:|--:|--:|:-:|--:|---|")
    kept = True
    for result in results:
        row = result.row
        goal = "" if row.at_most is None else f"{row.at_most:.2f}"
        figures = ("", "")
        verdict = result.note
        if result.ratio is not None:
            half = f"{result.low:.2f} - {result.high:.2f}" if result.high else ""
            figures = (f"**{result.ratio:.2f}**", half)
            missed = row.at_most is not None and result.ratio > row.at_most
            kept = kept and not missed
            verdict = ("" if row.at_most is None else "missed" if missed else "kept") + result.note
        cells = (row.work, row.against, result.ours, result.theirs, *figures, goal, verdict)
        print(f"| {' | '.join(cells)} |", flush=True)
    return kept


def main() -> int:
    """Measure and print; 1 when a goal was missed."""
    arguments = _arguments()
    with prepared(
        quick=arguments.quick, soak=arguments.soak, wanted=arguments.only, keep=arguments.keep
    ) as setup:
        return 0 if _print(_results(setup)) else 1


if __name__ == "__main__":
    sys.exit(main())
