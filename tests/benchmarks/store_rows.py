"""A hundred thousand open sessions with an event each in the memory store, and a million webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterator

from .measure import Result, Row, Setup, duration, python

WORK = "memory store, 100,000 sessions with an event each"
MEMORY = Row(work=f"{WORK}: memory of one", against="2 KB", at_most=1.0)
ACCESS = Row(work=f"{WORK}: append and read", against="the same with 1,000", at_most=1.3)
PAUSE = Row(work=f"{WORK}: longest pause when all expire", against="10 ms", at_most=1.0)
SOAK = Row(work="soak: memory after 1,000,000 webhooks", against="after 100,000", at_most=1.1)


def rows(setup: Setup) -> Iterator[Result]:
    """Every row about the memory store."""
    if any(setup.wants(row) for row in (MEMORY, ACCESS, PAUSE)):
        process = python(setup, "keeping")
        told = json.loads(process.read())
        process.close()
        yield Result(row=MEMORY, ours=f"{told['each']:,.0f} bytes", ratio=told["each"] / 2048)
        many, few = told["many"], told["few"]
        yield Result(row=ACCESS, ours=duration(many), theirs=duration(few), ratio=many / few)
        yield Result(row=PAUSE, ours=f"{told['pause'] * 1e3:.1f} ms", ratio=told["pause"] / 0.010)
    if setup.soak and setup.wants(SOAK):
        process = python(setup, "soaking")
        early, late = map(int, process.read().split())
        process.close()
        yield Result(
            row=SOAK, ours=f"{late / 1e6:.1f} MB", theirs=f"{early / 1e6:.1f} MB", ratio=late / early
        )
