"""The memory store with many sessions: ``python -m tests.benchmarks.keeping`` prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from avaturn_async.webhooks.stores import Arrival, SessionRecord
from avaturn_async.webhooks.stores.memory import MemoryStore

from . import load

FEW, MANY = 1_000, 100_000
PAGE = 4096


def resident() -> int:
    """Bytes that the process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _arrival(n: int) -> Arrival:
    subject = f"avatar:{UUID(int=n)}"
    return Arrival(
        key=f"sha256:{n:064x}",
        body=load.body(n),
        session_id=load.session_id(n),
        subjects=(subject,),
        binds=(subject,),
    )


async def _fill(store: MemoryStore, first: int, end: int) -> None:
    for n in range(first, end):
        await store.save_session(SessionRecord(id=load.session_id(n), user_id=f"{n:032x}", context="null"))
        await store.append(_arrival(n))


async def _one(stores: Sequence[MemoryStore], first: int) -> list[float]:
    """CPU seconds of an append and of the read that a waiter makes, in each store: the median of many turns.

    They take turns, for a machine may be slower for seconds on end.
    """
    taken: list[list[float]] = [[] for _ in stores]
    for start in range(first, first + 5_000, 50):
        for store, times in zip(stores, taken, strict=True):
            arrivals = [_arrival(n) for n in range(start, start + 50)]
            started = time.process_time()
            for arrival in arrivals:
                await store.append(arrival)
                await store.read(f"session:{arrival.session_id}")
            times.append((time.process_time() - started) / 50)
    return [*map(statistics.median, taken)]


async def _main() -> None:
    now = 0.0
    ttl = 86_400.0
    small = MemoryStore(ttl=ttl, clock=lambda: now)
    await _fill(small, 0, FEW)
    store = MemoryStore(ttl=ttl, clock=lambda: now)
    before = resident()
    await _fill(store, 0, MANY)
    each = (resident() - before) / MANY
    few, many = await _one([small, store], MANY)
    # All of it is past its time at once: what an append and what a slice of the tending then takes at most.
    now = ttl + 1
    pauses: list[float] = []
    for n in range(2 * MANY, 2 * MANY + 200):
        arrival = _arrival(n)
        started = time.process_time()
        await store.append(arrival)
        pauses.append(time.process_time() - started)
    gone = 1
    while gone:
        started = time.process_time()
        gone = await store.expire(limit=200)
        pauses.append(time.process_time() - started)
    print(json.dumps({"each": each, "few": few, "many": many, "pause": max(pauses)}))


if __name__ == "__main__":
    asyncio.run(_main())
