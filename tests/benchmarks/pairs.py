"""A call of the SDK by that of bare aiohttp: ``python -m tests.benchmarks.pairs TASK URL TIMES``.

Processes of their own differ by several percent in how they happen to lie in memory and in what else the
machine does meanwhile. Here both are in one, call by call, and have the same luck; and neither finds the caches
as it left them, which is more like a program that does other things as well.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from .peers import bare, sdk


async def _main(task: str, url: str, times: int) -> None:
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    async with sdk.calls(url) as ours, bare.calls(url) as theirs:
        turns = [("ours", ours[task]), ("theirs", theirs[task])]
        for _ in range(times):
            for name, call in turns:
                started = time.process_time()
                await call()
                taken[name].append(time.process_time() - started)
            turns.reverse()
    print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
