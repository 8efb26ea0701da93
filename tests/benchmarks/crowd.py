"""Many senders at a time: ``python -m tests.benchmarks.crowd PORT SENDERS EACH`` prints the p99 of the answers and the rate."""

from __future__ import annotations

import asyncio
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


async def _main(port: int, senders: int, each: int) -> None:
    ready = asyncio.Barrier(senders + 1)
    requests = [[load.request(n * each + k) for k in range(each)] for n in range(senders)]
    tasks = [asyncio.create_task(_sender(port, mine, ready)) for mine in requests]
    await ready.wait()
    started = time.perf_counter()
    took = sorted(t for times in await asyncio.gather(*tasks) for t in times)
    rate = len(took) / (time.perf_counter() - started)
    print(took[int(len(took) * 0.99)], rate, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
