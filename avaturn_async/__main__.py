"""``python -m avaturn_async``: webhooks at the command line; ``--help`` says what there is."""

from __future__ import annotations

import sys

from avaturn_async._cli import main

if __name__ == "__main__":
    sys.exit(main())
