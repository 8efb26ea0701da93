"""A contender that downloads once: ``python -m tests.benchmarks.downloading ours|bare URL FILE``.

It prints the CPU seconds of the download and the most memory that the process ever held, in bytes.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path

import aiohttp
from yarl import URL

from avaturn_async import AvaturnClient


async def ours(url: str, file: Path) -> None:
    async with AvaturnClient("token", base_url=URL(url).origin()) as client:
        await client.download(url, file)


async def bare(url: str, file: Path) -> None:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        with file.open("wb") as out:
            async for chunk in response.content.iter_chunked(65_536):
                out.write(chunk)


def main(which: str, url: str, name: str) -> None:
    file = Path(name)
    started = time.process_time()
    asyncio.run({"ours": ours, "bare": bare}[which](url, file))
    taken = time.process_time() - started
    if file.stat().st_size != 200_000_000:
        raise RuntimeError("not the whole file")
    file.unlink()
    print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
