"""Photos up and files down, for AvaturnClient: what callers pass is checked here, before anything is sent."""

from __future__ import annotations

import asyncio
import os
import random as random_module
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from avaturn_async._arguments import checked_timeout
from avaturn_async._download import Download, OnProgress
from avaturn_async._files import Part, target_of
from avaturn_async._photos import Photo
from avaturn_async._retry import RetryPolicy
from avaturn_async._threads import in_thread
from avaturn_async._upload import OnSent, form_of, upload
from avaturn_async._wire import Attempts, Wire
from avaturn_async.models import BodyType

__all__ = ["OnProgress", "Photo", "Transfers"]


class Transfers:
    """The transfers of one client, over ClientSessions of their own.

    Args:
        retry: How often and how patiently a transfer is begun again.
        timeout: Seconds of silence, in either direction, until a transfer fails.
        base_url: The API; a URL of its origin is always taken.
        allow_private_urls: Whether plain http and private addresses are fine.
        trace_configs: aiohttp's TraceConfigs for the sessions.
        resolver: Resolves the names of hosts; by default aiohttp's own.
        ssl_context: Decides which certificates are good; by default aiohttp's own.
        sleep: Sleeps between attempts.
        random: Gives a number from 0 up to 1.
        clock: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        *,
        retry: RetryPolicy,
        timeout: float,
        base_url: URL,
        allow_private_urls: bool,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        resolver: AbstractResolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._retry = retry
        self._timeout = checked_timeout(timeout)
        self._sleep = sleep
        self._random = random
        self._clock = clock
        self._wire = Wire(
            base_url=base_url,
            allow_private_urls=allow_private_urls,
            trace_configs=trace_configs,
            resolver=resolver,
            ssl_context=ssl_context,
        )

    async def close(self) -> None:
        """Close the connections. Twice is fine."""
        await self._wire.close()

    async def upload_photos(
        self,
        upload_url: str,
        *,
        frontal: Photo,
        side_1: Photo,
        side_2: Photo,
        body_type: BodyType | str,
        telephoto: bool = False,
        on_progress: OnSent | None = None,
        timeout: float | None = None,
    ) -> None:
        """See ``AvaturnClient.upload_photos``."""
        url = self._wire.checked("upload_url", upload_url)
        limit = self._limit(timeout)
        async with form_of(
            frontal=frontal, side_1=side_1, side_2=side_2, body_type=body_type, telephoto=telephoto
        ) as form:
            attempts = self._attempts()
            await upload(self._wire, url, form, limit=limit, on_progress=on_progress, attempts=attempts)

    async def download(
        self,
        url: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> Path:
        """See ``AvaturnClient.download``."""
        checked = self._wire.checked("url", url)
        limit = self._limit(timeout)
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 1):
            raise ValueError(f"max_bytes must be a whole number from 1 up, not {max_bytes!r}")
        target = await in_thread(target_of, destination, checked.raw_path)
        part = Part(target)
        try:
            await in_thread(part.open)
            download = Download(
                self._wire, checked, part, limit=limit, max_bytes=max_bytes, on_progress=on_progress
            )
            await download.run(self._attempts())
        finally:
            await in_thread(part.discard)
        return target

    def _limit(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)

    def _attempts(self) -> Attempts:
        return Attempts(self._retry, sleep=self._sleep, random=self._random, clock=self._clock)
