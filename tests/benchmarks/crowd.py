"""Many senders at a time: ``python -m tests.benchmarks.crowd PORT[,PORT] SENDERS EACH [FIRST]``.

Prints the p99 of the answers in seconds, the rate, and its own CPU seconds for each. FIRST is the number of
the first webhook.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

from . import load


async def _sender(port: int, requests: list[bytes], ready: asyncio.Barrier) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    await ready.wait()
    for data in requests:
        started = time.perf_counter()
        writer.write(data)
        answer = await reader.readuntil(b"\r\n\r\n")
        took.append(time.perf_counter() - started)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not taken: {answer[:60]!r}")
    writer.close()
    return took


async def _main(ports: list[int], senders: int, each: int, first: int = 0) -> None:
    ready = asyncio.Barrier(senders + 1)
    starts = range(first, first + senders * each, each)
    requests = [[load.request(start + k) for k in range(each)] for start in starts]
    tasks = [
        asyncio.create_task(_sender(port, mine, ready))
        for port, mine in zip(itertools.cycle(ports), requests, strict=False)
    ]
    await ready.wait()
    started, cpu = time.perf_counter(), time.process_time()
    took = sorted(t for times in await asyncio.gather(*tasks) for t in times)
    rate = len(took) / (time.perf_counter() - started)
    cpu = (time.process_time() - cpu) / len(took)
    print(took[int(len(took) * 0.99)], rate, cpu, flush=True)


if __name__ == "__main__":
    asyncio.run(_main([*map(int, sys.argv[1].split(","))], *map(int, sys.argv[2:])))
