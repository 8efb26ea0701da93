"""Transfers whose sleep, random numbers, clock and names belong to the test, and small files."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from attrs import define, field
from support.scripted_server import Request, ScriptedServer, Step, serve
from yarl import URL

from avaturn_async import RetryPolicy
from avaturn_async.transfers.download import download
from avaturn_async.transfers.session import TransferSession
from avaturn_async.transfers.upload import upload_photos

NOW = 1_700_000_000.0
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
JPEG = b"\xff\xd8\xff\xe0" + b"jpeg" * 40
WEBP = b"RIFF\x30\x00\x00\x00WEBPVP8 " + b"webp" * 10
HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"heic" * 10
SECRET = "SECRETSECRET"


def glb(size: int = 1000) -> bytes:
    """Return bytes that begin as a GLB of that size does."""
    return struct.pack("<4sII", b"glTF", 2, size) + bytes(i % 251 for i in range(size - 12))


@define
class Rig:
    """Downloads and uploads; URLs that begin with / are on the server."""

    session: TransferSession
    server: ScriptedServer | None
    slept: list[float] = field(factory=list[float])

    @property
    def url(self) -> str:
        """The URL of the server."""
        assert self.server is not None
        return self.server.url

    @property
    def requests(self) -> list[Request]:
        """The requests that the server received."""
        assert self.server is not None
        return self.server.requests

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [request.headers.get("Range") for request in self.requests]

    async def download(self, destination: Path | str, url: Any = f"/export.glb?key={SECRET}", **options: Any) -> Path:
        return await download(self.session, self._complete(url), destination, **options)

    async def upload(self, photo: Any = JPEG, url: Any = f"/up?key={SECRET}", **options: Any) -> None:
        form = {"frontal": photo, "side_1": PNG, "side_2": JPEG, "body_type": "male", **options}
        await upload_photos(self.session, self._complete(url), **form)

    def _complete(self, url: Any) -> Any:
        return f"{self.server.url}{url}" if self.server is not None and str(url).startswith("/") else url


@asynccontextmanager
async def rig(
    *,
    base_url: str = "https://api.avaturn.test",
    retry: RetryPolicy | None = None,
    timeout: float = 30.0,
    ssl_context: ssl.SSLContext | None = None,
    on_sleep: Callable[[], Awaitable[None]] | None = None,
    server: ScriptedServer | None = None,
    **options: Any,
) -> AsyncIterator[Rig]:
    async def sleep(delay: float) -> None:
        made.slept.append(delay)
        if on_sleep is not None:
            await on_sleep()

    session = TransferSession(
        retry=retry or RetryPolicy(),
        timeout=timeout,
        base_url=URL(base_url),
        ssl=ssl_context,
        sleep=sleep,
        random=lambda: 0.5,
        clock=lambda: NOW,
        **options,
    )
    made = Rig(session, server)
    try:
        yield made
    finally:
        await session.close()


@asynccontextmanager
async def serving(*steps: Step, read_bodies: bool = True, **options: Any) -> AsyncIterator[Rig]:
    """Run a scripted server, and transfers that may connect to it."""
    async with (
        serve(*steps, read_bodies=read_bodies) as server,
        rig(server=server, allow_private_urls=True, **options) as made,
    ):
        yield made


def unguarded(**options: Any) -> contextlib.AbstractAsyncContextManager[Rig]:
    return rig(allow_private_urls=True, **options)


class Names(AbstractResolver):
    """A resolver with a list of results for each name; the last of them is repeated."""

    def __init__(self, **results: list[list[str]]) -> None:
        self._results = {name.replace("_", "."): list(given) for name, given in results.items()}
        self.requested: list[str] = []
        self.closed = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.requested.append(host)
        if host not in self._results:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        results = self._results[host]
        found = results.pop(0) if len(results) > 1 else results[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0) for address in found
        ]

    async def close(self) -> None:
        self.closed += 1


def get_all_text(error: BaseException) -> str:
    """Return all that a log or a crash reporter could show of an error and of the errors chained to it."""
    text = "".join(traceback.format_exception(error))
    chain: BaseException | None = error
    while chain is not None:
        text += f"{chain} {chain!r} {vars(chain)!r}"
        chain = chain.__cause__ or chain.__context__
    return text


def list_names(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())
