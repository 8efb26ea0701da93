"""The download of 200 MB to disk."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from .measure import Result, Row, Setup, compare, python

BARE = "bare aiohttp, chunks of 64 KiB to a file"
CPU = Row(work="`download`, 200 MB to disk", against=BARE, at_most=1.05)
MEMORY = Row(work="`download`, 200 MB to disk: peak memory above", against="10 MB", at_most=1.0)


def rows(setup: Setup) -> Iterator[Result]:
    """CPU and memory, each download in a process of its own."""
    if not setup.wants(CPU) and not setup.wants(MEMORY):
        return
    server = python(setup, "file_server")
    setup.stack.callback(server.close)
    url = f"http://127.0.0.1:{server.read()}/result.bin"
    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    peaks: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(3 if setup.quick else 11):
        for who, turns in taken.items():
            process = python(setup, "downloading", who, url, str(setup.directory / who))
            cpu, peak = process.read().split()
            process.close()
            turns.append(float(cpu))
            peaks[who].append(float(peak))
    ours, bare = (statistics.median(peaks[who]) for who in ("ours", "bare"))
    yield compare(CPU, taken["ours"], taken["bare"])
    note = f" ({ours / 1e6:.0f} MB and {bare / 1e6:.0f} MB)"
    yield Result(row=MEMORY, ours=f"{(ours - bare) / 1e6:.1f} MB", ratio=(ours - bare) / 10e6, note=note)
