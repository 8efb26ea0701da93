"""Run the command line: ``python -m avaturn_async --help`` lists the commands."""

from __future__ import annotations

import sys

from avaturn_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
