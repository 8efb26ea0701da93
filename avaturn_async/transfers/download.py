"""Download of files: resumed after an interruption, checked, and complete or not there at all."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import TypeAlias, cast

import aiohttp
from yarl import URL

from avaturn_async._retry import FailedAttempt, parse_retry_after
from avaturn_async._validation import validate_count, validate_on_progress
from avaturn_async.errors import TransferError
from avaturn_async.transfers.file_type import HEAD_SIZE, FileType, find_mismatch, get_declared_type
from avaturn_async.transfers.partial_file import PartialFile, resolve_destination
from avaturn_async.transfers.session import (
    EXPIRED_STATUSES,
    NETWORK_ERRORS,
    TransferSession,
    get_reason,
    to_failed_attempt,
)

OnDownloadProgress: TypeAlias = Callable[[int, int | None], object]
"""A function that is called with the bytes received, and the total bytes or None while they are unknown."""

_OK = 200
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
_RETRYABLE_STATUSES = frozenset({_RANGE_NOT_SATISFIABLE, 429, 502, 503, 504})
# Each write is a trip to a thread, so many small ones are slow.
_WRITE_SIZE = 1 << 20
# RFC 9110, 8.8.3, without obs-text. A weak ETag (W/) does not compare bytes.
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Download:
    """An open response for a file, with its length, its content type and its chunks.

    Iterate over it once with ``async for``. After an interruption it goes on where it stopped (Range with If-Range),
    within the retry policy. Every chunk is of one version of the file.

    Attributes:
        length: Bytes of the file, or None if the server does not say.
        content_type: Content type of the response, such as ``model/gltf-binary``.
        received: Bytes received so far.
    """

    def __init__(
        self,
        session: TransferSession,
        url: URL,
        *,
        timeout: float,
        max_bytes: int | None,
        names: tuple[str, ...],
        on_restart: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.length: int | None = None
        self.content_type: str = ""
        self.received: int = 0
        self._session = session
        self._url = url
        self._timeout = timeout
        self._max_bytes = max_bytes
        # File names whose suffix declares a type.
        self._names = names
        # Called before the file begins again at byte 0; without it that is an error.
        self._on_restart = on_restart
        self._description = f"download from {url.raw_host}"
        self._retries = session.new_retries()
        # ETag or Last-Modified of the version that is being received, for If-Range.
        self._validator: str | None = None
        self._response: aiohttp.ClientResponse | None = None
        # The first bytes, to check the type of the file.
        self._head = b""
        self._closed = False

    async def open(self) -> None:
        """Send the request, and wait for the head of a response that begins the file.

        Raises:
            AvaturnConnectionError: No usable response, or (AvaturnTimeoutError) no progress.
            TransferError: The address is refused, the server responds with another status, or the file is too large.
        """
        while failed := await self._attempt():
            await self._retries.sleep_or_raise(failed)

    def close(self) -> None:
        """Close the connection, and make no other."""
        self._closed = True
        if self._response is not None:
            self._response.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks of the file, then check that it is complete and of its declared type.

        Raises:
            AvaturnConnectionError: No usable response, or (AvaturnTimeoutError) no progress.
            TransferError: The file did not arrive whole, or is not of its declared type.
            RuntimeError: The block of ``open_download`` has ended.
        """
        while True:
            failed: FailedAttempt | None = None
            response = cast("aiohttp.ClientResponse", self._response)
            try:
                content = response.content
                while not self._closed and (chunk := await content.readany()):
                    self._count(chunk)
                    yield chunk
            except NETWORK_ERRORS as error:
                failed = self._get_interruption(error)
            if self._closed:
                raise RuntimeError(f"{self._description}: iterate inside the block of open_download, which has ended")
            if failed is None:
                if self.length in (None, self.received):
                    break
                text = f"{self._description}: {self.received} bytes came of {self.length}"
                failed = FailedAttempt(TransferError(text), retryable=True)
            response.close()
            await self._retries.sleep_or_raise(failed)
            await self.open()
        for file_type in self._get_declared_types():
            if reason := find_mismatch(file_type, self._head, self.received):
                raise TransferError(f"{self._description}: {reason}")

    def _count(self, chunk: bytes) -> None:
        self.received += len(chunk)
        self._check_size(self.received)
        if len(self._head) < HEAD_SIZE:
            self._head += chunk[: HEAD_SIZE - len(self._head)]

    def _get_declared_types(self) -> set[FileType]:
        declared = (self.content_type, *(PurePosixPath(name).suffix for name in self._names))
        return {file_type for text in declared if (file_type := get_declared_type(text))}

    async def _attempt(self) -> FailedAttempt | None:
        headers = {"Accept": "*/*"}
        resuming = self.received > 0 and self._validator is not None
        if resuming:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": str(self._validator)}
        response = await self._session.get(self._url, headers=headers, timeout=self._timeout)
        if isinstance(response, FailedAttempt):
            return response
        self._response = response
        try:
            failed = await self._handle_headers(response, resuming=resuming)
        except BaseException:
            response.close()
            raise
        if failed is not None:
            response.close()
        return failed

    async def _handle_headers(self, response: aiohttp.ClientResponse, *, resuming: bool) -> FailedAttempt | None:
        if response.status not in ((_OK, _PARTIAL_CONTENT) if resuming else (_OK,)):
            return self._get_status_failure(response)
        # Amazon S3 sends an empty Content-Encoding, which means identity.
        encodings = {part.strip().lower() for part in response.headers.get("Content-Encoding", "").split(",")}
        if encodings - {"", "identity"}:
            raise TransferError(f"{self._description}: it came compressed (Content-Encoding), which was not requested")
        if response.status == _PARTIAL_CONTENT:
            if not self._matches_range(response.headers):
                return self._restart("the server resumed another file than it began")
        else:
            if not _is_whole(response.headers):
                # RFC 9110 14.4: Content-Range has no meaning in a 200, but servers send parts of files that way.
                return self._restart("the server sent a part of the file as the whole")
            if self.received:
                if self._on_restart is None:
                    raise TransferError(f"{self._description}: it was interrupted, and the server cannot resume it")
                await self._on_restart()
            self.received, self._head = 0, b""
            self.length = response.content_length
            self._validator = _get_validator(response.headers)
        self.content_type = response.content_type
        self._check_size(self.length or 0)
        return None

    def _restart(self, reason: str) -> FailedAttempt:
        self._validator = None  # so that the next attempt requests the whole file
        return FailedAttempt(TransferError(f"{self._description}: {reason}"), retryable=True)

    def _matches_range(self, headers: Mapping[str, str]) -> bool:
        """Return whether a 206 continues at the right byte of the same file."""
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self.received:
            return False
        length = self.length if found[3] == "*" else int(found[3])
        if self.length not in (None, length):
            return False
        self.length = length
        name = "ETag" if self._validator and self._validator.startswith('"') else "Last-Modified"
        return headers.get(name, self._validator) == self._validator

    def _get_status_failure(self, response: aiohttp.ClientResponse) -> FailedAttempt:
        status = response.status
        text = f"{self._description}: {status}"
        if status in EXPIRED_STATUSES:
            text += ": the URL has expired or never existed: request a new one"
        if status == _RANGE_NOT_SATISFIABLE:
            self._validator = None  # so that the next attempt requests the whole file
        return FailedAttempt(
            TransferError(text, status),
            retryable=status in _RETRYABLE_STATUSES,
            retry_after=parse_retry_after(response.headers.get("Retry-After"), self._session.clock()),
        )

    def _get_interruption(self, error: Exception) -> FailedAttempt:
        if isinstance(error, TimeoutError):
            return to_failed_attempt(self._description, error, self._timeout)
        of = "" if self.length is None else f" of {self.length}"
        text = f"{self._description}: interrupted after {self.received} bytes{of}: {get_reason(error)}"
        return FailedAttempt(TransferError(text), retryable=True)

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise TransferError(f"{self._description}: it is larger than max_bytes, {self._max_bytes}")


@asynccontextmanager
async def open_download(
    session: TransferSession, url: str, *, max_bytes: int | None = None, timeout: float | None = None
) -> AsyncGenerator[Download]:
    """Open a download; see ``AvaturnClient.open_download``."""
    parsed = session.validate_url("url", url)
    idle_timeout = session.get_timeout(timeout)
    if max_bytes is not None:
        validate_count("max_bytes", max_bytes)
    with session.use():
        opened = Download(
            session, parsed, timeout=idle_timeout, max_bytes=max_bytes, names=(parsed.raw_path,), on_restart=None
        )
        try:
            await opened.open()
            yield opened
        finally:
            opened.close()


async def download(
    session: TransferSession,
    url: str,
    destination: str | os.PathLike[str],
    *,
    on_progress: OnDownloadProgress | None = None,
    max_bytes: int | None = None,
    timeout: float | None = None,
) -> Path:
    """Download a file; see ``AvaturnClient.download``."""
    parsed = session.validate_url("url", url)
    idle_timeout = session.get_timeout(timeout)
    validate_on_progress(on_progress)
    if max_bytes is not None:
        validate_count("max_bytes", max_bytes)
    with session.use():
        threads = session.threads
        target = await threads.run(resolve_destination, destination, parsed.raw_path)
        part = await threads.run(PartialFile, target)
        chunks: list[bytes] = []
        waiting = 0

        async def restart() -> None:
            chunks.clear()
            await threads.run(part.truncate)

        source = Download(
            session,
            parsed,
            timeout=idle_timeout,
            max_bytes=max_bytes,
            names=(parsed.raw_path, part.name),
            on_restart=restart,
        )
        try:
            await threads.run(part.open)
            await source.open()
            async for chunk in source:
                if not chunks:
                    waiting = 0
                chunks.append(chunk)
                waiting += len(chunk)
                if waiting >= _WRITE_SIZE:
                    await threads.run(part.append, chunks)
                    chunks = []
                if on_progress is not None:
                    on_progress(source.received, source.length)
            await threads.run(part.append, chunks)
            if on_progress is not None and not source.length:
                on_progress(source.received, source.received)
            await threads.run(part.commit)
        finally:
            source.close()
            await threads.run_always(part.discard)
    return target


def _is_whole(headers: Mapping[str, str]) -> bool:
    """Return whether a 200 has the whole file: no Content-Range, or one that covers it."""
    value = headers.get("Content-Range")
    if value is None:
        return True
    found = _CONTENT_RANGE.fullmatch(value)
    return found is not None and found[1] == "0" and found[3] != "*" and int(found[2]) + 1 == int(found[3])


def _get_validator(headers: Mapping[str, str]) -> str | None:
    """Return the value for If-Range: a strong ETag, else a date that is strong (RFC 9110, 8.8.2.2)."""
    etag = headers.get("ETag")
    if etag is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    modified = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError, OverflowError):
        return None
    # Within one second a file can change twice and keep its date.
    return modified if age >= timedelta(seconds=1) and modified.isascii() else None
