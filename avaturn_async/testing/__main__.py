"""Run FakeAvaturn alone: ``python -m avaturn_async.testing`` is ``avaturn fake``."""

from __future__ import annotations

import sys

from avaturn_async.cli import main

if __name__ == "__main__":
    sys.exit(main(["fake", *sys.argv[1:]]))
