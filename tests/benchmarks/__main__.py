"""Measure the SDK against what one would use in its place, and print a Markdown table.

All rows take about fifteen minutes, with --quick three. A row whose peer or server is not installed is skipped.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import version

from . import client_rows, store_rows, webhook_rows
from .measure import Row, print_table


def main() -> int:
    rows: dict[str, Row] = {**client_rows.ROWS, **webhook_rows.ROWS, **store_rows.ROWS}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"the beginning of names of rows: {', '.join(rows)}")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    options = parser.parse_args()
    chosen = {name: row for name, row in rows.items() if not options.rows or name.startswith(tuple(options.rows))}
    if not chosen:
        parser.error("no row has such a name")
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "attrs", "cattrs"))
    print(f"Python {platform.python_version()}, {packages}, {os.cpu_count()} CPUs\n")
    return 0 if print_table(chosen, quick=options.quick) else 1


if __name__ == "__main__":
    sys.exit(main())
