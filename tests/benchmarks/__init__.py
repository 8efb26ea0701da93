"""Speed and memory, as ratios to named peers in one run: see ``python -m tests.benchmarks --help``."""
