"""A contender that makes calls: ``python -m tests.benchmarks.worker PEER TASK URL``, in the environment of the peer.

It reads from each line of its input how often to make the call, and writes the CPU seconds that it took.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time


async def _main(peer: str, task: str, url: str) -> None:
    async with importlib.import_module(f"tests.benchmarks.peers.{peer}").calls(url) as calls:
        call = calls[task]
        if await call() is None:
            raise RuntimeError(f"{peer} made nothing of {task}")
        for line in sys.stdin:
            times = range(int(line))
            started = time.process_time()
            for _ in times:
                await call()
            print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
