"""Files down: streamed into a temporary file, resumed after a cut, whole or not there at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import TypeAlias

import aiohttp
from yarl import URL

from avaturn_async._files import Part
from avaturn_async._magic import announced_kind
from avaturn_async._threads import in_thread
from avaturn_async._wire import EXPIRED, NETWORK_ERRORS, Attempts, Failure, Wire, connection_failure, reason
from avaturn_async.errors import TransferError

OnProgress: TypeAlias = Callable[[int, int | None], object]
"""Called with the bytes that are across, and those in all, None while nobody knows."""

_OK = 200
_PARTIAL = 206
_OUT_OF_RANGE = 416
_PASSING = frozenset({_OUT_OF_RANGE, 429, 502, 503, 504})
# Each write is a trip to a thread, so many small ones are slow.
_WRITE_SIZE = 1 << 20
# RFC 9110, 8.8.3, without obs-text. A weak one (W/) says nothing on bytes.
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Download:
    """One file on its way into a Part.

    A cut is mended by asking for the rest (Range), on condition that the file is still the same (If-Range). A
    server that gives no means to tell that, or answers with something else, is asked for the whole again.
    """

    def __init__(
        self,
        wire: Wire,
        url: URL,
        part: Part,
        *,
        limit: float,
        max_bytes: int | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._wire = wire
        self._url = url
        self._part = part
        self._limit = limit
        self._max_bytes = max_bytes
        self._on_progress = on_progress
        self._doing = f"download from {url.raw_host}"
        self._done = 0
        self._total: int | None = None
        self._validator: str | None = None
        self._content_type = ""

    async def run(self, attempts: Attempts) -> None:
        """Fetch the file, look at it, and give it its name.

        Raises:
            AvaturnConnectionError: No usable answer, or (AvaturnTimeoutError) silence.
            TransferError: The file did not get across, or is not what it was announced to be.
            OSError: The disk refused it.
        """
        while failure := await self._attempt():
            await attempts.sleep_or_raise(failure)
        if not self._total:
            self._report(self._done)
        names = (self._url.raw_path, self._part.name)
        hints = (self._content_type, *(PurePosixPath(name).suffix for name in names))
        kinds = {kind for hint in hints if (kind := announced_kind(hint))}
        if problem := await in_thread(self._part.problem, kinds):
            raise TransferError(f"{self._doing}: {problem}")
        await in_thread(self._part.commit)

    async def _attempt(self) -> Failure | None:
        headers = {"Accept": "*/*"}
        unchanged = self._validator if self._done else None
        if unchanged is not None:
            headers |= {"Range": f"bytes={self._done}-", "If-Range": unchanged}
        response = await self._wire.get(self._url, headers=headers, limit=self._limit)
        if isinstance(response, Failure):
            return response
        async with response:
            if failure := await self._take_head(response, resuming=unchanged is not None):
                return failure
            return await self._take_body(response)

    async def _take_head(self, response: aiohttp.ClientResponse, *, resuming: bool) -> Failure | None:
        if response.status not in ((_OK, _PARTIAL) if resuming else (_OK,)):
            return self._refusal(response)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise TransferError(f"{self._doing}: it came packed (Content-Encoding), which was not asked for")
        if response.status == _OK:
            if self._done:
                await in_thread(self._part.begin_again)
            self._done = 0
            self._total = response.content_length
            self._validator = _validator(response.headers)
        elif not self._is_the_rest(response.headers):
            self._validator = None  # so that the whole is asked for
            return Failure(TransferError(f"{self._doing}: the server resumed another file than it began"))
        self._content_type = response.content_type
        self._check_size(self._total or 0)
        return None

    def _is_the_rest(self, headers: Mapping[str, str]) -> bool:
        """Whether a 206 goes on where we stopped, in the same file."""
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self._done:
            return False
        total = self._total if found[3] == "*" else int(found[3])
        if self._total not in (None, total):
            return False
        self._total = total
        name = "ETag" if self._validator and self._validator.startswith('"') else "Last-Modified"
        return headers.get(name, self._validator) == self._validator

    def _refusal(self, response: aiohttp.ClientResponse) -> Failure:
        status = response.status
        text = f"{self._doing}: {status}"
        if status in EXPIRED:
            text += ": the URL has expired, or never was good: ask for a new one"
        if status == _OUT_OF_RANGE:
            self._validator = None  # so that the whole is asked for
        return Failure(
            TransferError(text, status),
            hopeless=status not in _PASSING,
            retry_after=response.headers.get("Retry-After"),
        )

    async def _take_body(self, response: aiohttp.ClientResponse) -> Failure | None:
        failure: Failure | None = None
        chunks: list[bytes] = []
        size = 0
        while True:
            try:
                chunk = await response.content.readany()
            except NETWORK_ERRORS as error:
                failure = self._cut(error)
                break
            if not chunk:
                break
            self._done += len(chunk)
            self._check_size(self._done)
            chunks.append(chunk)
            size += len(chunk)
            if size >= _WRITE_SIZE:
                await in_thread(self._part.append, chunks)
                chunks, size = [], 0
            self._report(self._total)
        await in_thread(self._part.append, chunks)
        if failure is None and self._total not in (None, self._done):
            return Failure(TransferError(f"{self._doing}: {self._done} bytes came of {self._total}"))
        return failure

    def _cut(self, error: Exception) -> Failure:
        if isinstance(error, TimeoutError):
            return connection_failure(self._doing, error, self._limit)
        of = "" if self._total is None else f" of {self._total}"
        return Failure(TransferError(f"{self._doing}: cut after {self._done} bytes{of}: {reason(error)}"))

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise TransferError(f"{self._doing}: it is larger than max_bytes, {self._max_bytes}")

    def _report(self, total: int | None) -> None:
        if self._on_progress is not None:
            self._on_progress(self._done, total)


def _validator(headers: Mapping[str, str]) -> str | None:
    """What If-Range may say: a strong ETag, or else a date that is strong as RFC 9110, 8.8.2.2 has it."""
    etag = headers.get("ETag")
    if etag is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    modified = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError, OverflowError):
        return None
    # Within one second a file may change twice, and have one date.
    return modified if age >= timedelta(seconds=1) and modified.isascii() else None
