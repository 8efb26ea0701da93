"""What the tests of the transfers share: Transfers on a short leash, names of the test's own, small files."""

from __future__ import annotations

import socket
import ssl
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from attrs import define, field
from yarl import URL

from avaturn_async import RetryPolicy
from avaturn_async._transfer import Transfers

NOW = 1_700_000_000.0
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
JPEG = b"\xff\xd8\xff\xe0" + b"jpeg" * 40
WEBP = b"RIFF\x30\x00\x00\x00WEBPVP8 " + b"webp" * 10
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"heic" * 10


def glb(size: int = 1000) -> bytes:
    """Bytes that begin as a GLB of that size does."""
    return struct.pack("<4sII", b"glTF", 2, size) + bytes(i % 251 for i in range(size - 12))


@define
class Rig:
    """Transfers whose sleep, dice and clock belong to the test."""

    transfers: Transfers
    slept: list[float] = field(factory=list[float])


@asynccontextmanager
async def rig(
    *,
    base_url: str = "https://api.avaturn.test",
    allow_private_urls: bool = False,
    retry: RetryPolicy | None = None,
    timeout: float = 30.0,
    resolver: AbstractResolver | None = None,
    ssl_context: ssl.SSLContext | None = None,
    trace_configs: Sequence[aiohttp.TraceConfig] = (),
    on_sleep: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Rig]:
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)
        if on_sleep is not None:
            await on_sleep()

    transfers = Transfers(
        retry=retry or RetryPolicy(),
        timeout=timeout,
        base_url=URL(base_url),
        allow_private_urls=allow_private_urls,
        trace_configs=trace_configs,
        resolver=resolver,
        ssl_context=ssl_context,
        sleep=sleep,
        random=lambda: 0.5,
        clock=lambda: NOW,
    )
    try:
        yield Rig(transfers, slept)
    finally:
        await transfers.close()


class Names(AbstractResolver):
    """A resolver with a list of answers for each name; the last of them stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []
        self.closed = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self._answers[host]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in found
        ]

    async def close(self) -> None:
        self.closed += 1


def everything_said(error: BaseException) -> str:
    """The error with all that is chained to it and all of their arguments."""
    said = ""
    chain: BaseException | None = error
    while chain is not None:
        said += "".join(traceback.format_exception_only(chain)) + repr(chain) + repr(vars(chain))
        chain = chain.__cause__ or chain.__context__
    return said


def left_in(directory: Path) -> list[str]:
    """The names in a directory."""
    return sorted(path.name for path in directory.iterdir())
