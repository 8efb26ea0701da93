"""Upload of photos: one multipart form of known length, streamed, and sent once.

The vendor's field names have hyphens: image-frontal, image-side-1, image-side-2, body-type.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import os
import re
import secrets
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from attrs import frozen
from yarl import URL

from avaturn_async._converter import loads
from avaturn_async._retry import FailedAttempt
from avaturn_async._transport import find_secret
from avaturn_async._validation import validate_on_progress
from avaturn_async.errors import AvaturnDecodeError, TransferError
from avaturn_async.models import BodyType
from avaturn_async.transfers.file_type import HEAD_SIZE, get_image_type
from avaturn_async.transfers.session import (
    EXPIRED_STATUSES,
    NETWORK_ERRORS,
    FileThreads,
    TransferSession,
    to_failed_attempt,
)

Photo: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the bytes of an image file, or a seekable file that is open for binary reading."""
OnUploadProgress: TypeAlias = Callable[[int, int], object]
"""A function that is called with the bytes sent and the total bytes."""

_FIELDS = {"frontal": "image-frontal", "side_1": "image-side-1", "side_2": "image-side-2"}
_SUFFIXES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/heic": "heic"}
_CHUNK_SIZE = 1 << 18
_MAX_PATH_LENGTH = 200
_MAX_RESPONSE = 1 << 16
_MAX_EXCERPT = 200
# Shorter parts of a URL are no secrets, but could be words of a sentence.
_MIN_SECRET_LENGTH = 8
_ANY_URL = re.compile(r"https?:(?:\\?/){2}[^\s\"<>]*", re.IGNORECASE)


@frozen
class PhotoFile:
    """A photo that was validated."""

    name: str
    """Name of the argument."""
    content_type: str
    start: int
    size: int
    file: BinaryIO


class PhotoFiles:
    """Photos that are open for reading. All methods block, and run in threads."""

    def __init__(self) -> None:
        self.photos: list[PhotoFile] = []
        self._opened_here: list[BinaryIO] = []
        # The caller may pass one file object for two photos, whose reads move its position.
        self._lock = threading.Lock()

    def open(self, given: Mapping[str, Any]) -> None:
        """Open and validate the photos.

        Raises:
            ValueError: A photo cannot be sent. The message names the argument.
        """
        for name, photo in given.items():
            file = self._get_file(name, photo)
            start, size, head = _measure(name, file)
            if not size:
                raise ValueError(f"{name}: it is empty (of an open file, what follows its position is sent)")
            content_type = get_image_type(head)
            if content_type is None:
                raise ValueError(f"{name}: it is no image: give a JPEG, PNG, WebP or HEIC file")
            self.photos.append(PhotoFile(name, content_type, start, size, file))

    def read(self, photo: PhotoFile, offset: int, size: int) -> bytes:
        """Return bytes of a photo.

        Raises:
            TransferError: The file is shorter than before.
            OSError: The file cannot be read.
        """
        with self._lock:
            photo.file.seek(photo.start + offset)
            data = _read_fully(photo.file, size)
        if len(data) != size:
            raise TransferError(f"{photo.name}: the file changed while it was sent")
        return data

    def close(self) -> None:
        """Close the files that were opened here, and put the caller's files back to their positions."""
        with self._lock:
            for photo in self.photos:
                with contextlib.suppress(OSError, ValueError):  # the caller may have closed it
                    photo.file.seek(photo.start)
            for file in self._opened_here:
                file.close()

    def _get_file(self, name: str, photo: Any) -> BinaryIO:
        if isinstance(photo, bytes | bytearray | memoryview):
            return io.BytesIO(bytes(cast("bytes", photo)))
        if isinstance(photo, str | os.PathLike):
            file = _open(name, Path(cast("str", photo)))
            self._opened_here.append(file)
            return file
        if inspect.iscoroutinefunction(getattr(photo, "read", None)):
            raise ValueError(f"{name}: its read() is async: pass the file beneath it, such as UploadFile.file")
        if not hasattr(photo, "read"):
            raise ValueError(f"{name}: give a path, bytes or a binary file, not {type(photo).__name__}")
        return photo  # type: ignore[no-any-return]


def _open(name: str, path: Path) -> BinaryIO:
    shown = repr(str(path))[:_MAX_PATH_LENGTH]
    try:
        mode = path.stat().st_mode  # before open(), which would wait for the writer of a pipe
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{name}: there is no file {shown}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise ValueError(f"{name}: {shown} cannot be read: {why}") from None
    kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
    raise ValueError(f"{name}: {shown} is {kind}: give the path of one photo")


def _measure(name: str, file: BinaryIO) -> tuple[int, int, bytes]:
    """Return the position of a file, the number of bytes behind it, and the first of these bytes."""
    try:
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        try:
            head = _read_fully(file, HEAD_SIZE)
        finally:
            file.seek(start)
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"{name}: give a file that is open and can seek, or its bytes") from None
    except TypeError:
        raise ValueError(f'{name}: its read() returns no bytes: open the file in binary mode, "rb"') from None
    return start, size, head


def _read_fully(file: BinaryIO, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end of the file: a raw stream may return fewer for each read."""
    found = b""
    while data := file.read(size - len(found)):
        found += data
    return found


@asynccontextmanager
async def open_photos(
    threads: FileThreads, *, frontal: Photo, side_1: Photo, side_2: Photo, body_type: BodyType | str, telephoto: bool
) -> AsyncGenerator[PhotoFiles]:
    """Validate the arguments of an upload, and keep the photos open inside of the block.

    Raises:
        ValueError: A photo cannot be sent, or another argument is invalid.
    """
    if body_type not in ("male", "female"):
        raise ValueError(f'body_type must be "male" or "female", not {body_type!r:.60}')
    if not isinstance(telephoto, bool):
        raise ValueError("telephoto must be True or False")  # noqa: TRY004 - documented as ValueError
    photos = PhotoFiles()
    try:
        await threads.run(photos.open, {"frontal": frontal, "side_1": side_1, "side_2": side_2})
        yield photos
    finally:
        await threads.run_always(photos.close)


async def validate_photos(
    *, frontal: Photo, side_1: Photo, side_2: Photo, body_type: BodyType | str, telephoto: bool
) -> None:
    """Validate the arguments of an upload without sending them.

    Raises:
        ValueError: A photo cannot be sent, or another argument is invalid.
    """
    threads = FileThreads()
    try:
        async with open_photos(
            threads, frontal=frontal, side_1=side_1, side_2=side_2, body_type=body_type, telephoto=telephoto
        ):
            pass
    finally:
        threads.close()


class _PhotoPayload(aiohttp.AsyncIterablePayload):
    """A part of the form whose chunks are read while it is sent, and whose length is known before."""

    def __init__(self, photo: PhotoFile, chunks: AsyncIterable[bytes]) -> None:
        super().__init__(chunks, content_type=photo.content_type)
        self._photo = photo

    @property
    def size(self) -> int:
        """Return the bytes of the photo."""
        return self._photo.size


async def _read_chunks(
    photo: PhotoFile, photos: PhotoFiles, threads: FileThreads, on_error: Callable[[Exception], None]
) -> AsyncGenerator[bytes]:
    for offset in range(0, photo.size, _CHUNK_SIZE):
        size = min(_CHUNK_SIZE, photo.size - offset)
        try:
            data = await threads.run(photos.read, photo, offset, size)
        except Exception as error:
            on_error(error)
            raise
        yield data


class _Form(aiohttp.MultipartWriter):
    """The form of one attempt. It counts the bytes that were sent."""

    def __init__(
        self,
        photos: PhotoFiles,
        threads: FileThreads,
        *,
        body_type: str,
        telephoto: bool,
        on_write: Callable[[int], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        super().__init__("form-data", boundary=secrets.token_hex(16))
        self._on_write = on_write
        for name, value in (("body-type", body_type), ("telephoto", "true" if telephoto else "false")):
            part = aiohttp.payload.BytesPayload(value.encode())
            del part.headers["Content-Type"]
            part.set_content_disposition("form-data", name=name)
            self.append_payload(part)
        for photo in photos.photos:
            # The caller's file name may contain the name of a person.
            file_name = f"{photo.name.replace('_', '-')}.{_SUFFIXES[photo.content_type]}"
            payload = _PhotoPayload(photo, _read_chunks(photo, photos, threads, on_error))
            payload.set_content_disposition("form-data", name=_FIELDS[photo.name], filename=file_name)
            self.append_payload(payload)

    async def write(self, writer: AbstractStreamWriter, close_boundary: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Send the form."""
        counting = cast("AbstractStreamWriter", _CountingWriter(writer, self._on_write))
        await super().write(counting, close_boundary)


class _CountingWriter:
    """Passes chunks to aiohttp's writer, and reports each one when the connection has taken it.

    It has the one method of AbstractStreamWriter that parts of a form call.
    """

    def __init__(self, writer: AbstractStreamWriter, on_write: Callable[[int], None]) -> None:
        self._writer = writer
        self._on_write = on_write

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        await self._writer.write(chunk)
        self._on_write(len(chunk))


async def upload_photos(
    session: TransferSession,
    upload_url: str,
    *,
    frontal: Photo,
    side_1: Photo,
    side_2: Photo,
    body_type: BodyType | str,
    telephoto: bool = False,
    on_progress: OnUploadProgress | None = None,
    timeout: float | None = None,
) -> None:
    """Send the photos of an avatar; see ``AvaturnClient.upload_photos``."""
    url = session.validate_url("upload_url", upload_url)
    idle_timeout = session.get_timeout(timeout)
    validate_on_progress(on_progress)
    with session.use():
        async with open_photos(
            session.threads, frontal=frontal, side_1=side_1, side_2=side_2, body_type=body_type, telephoto=telephoto
        ) as photos:
            retries = session.new_retries()
            while failed := await _attempt(
                session, url, photos, str(body_type), telephoto=telephoto, timeout=idle_timeout, on_progress=on_progress
            ):
                # Only when there was no connection, so that no photo can have arrived.
                await retries.sleep_or_raise(failed)


async def _attempt(
    session: TransferSession,
    url: URL,
    photos: PhotoFiles,
    body_type: str,
    *,
    telephoto: bool,
    timeout: float,
    on_progress: OnUploadProgress | None,
) -> FailedAttempt | None:
    description = f"upload to {url.raw_host}"
    loop = asyncio.get_running_loop()
    failed: FailedAttempt | None = None
    status = 0
    content = b""
    sent = 0
    # aiohttp has no timeout for a body that the server does not read, so one timeout serves both directions.
    idle = asyncio.timeout(timeout)

    # Errors of a file or of the callback; aiohttp reports them as a broken connection.
    local_errors: list[Exception] = []

    def on_write(size: int) -> None:
        nonlocal sent
        sent += size
        idle.reschedule(loop.time() + timeout)
        if on_progress is not None:
            try:
                on_progress(sent, total)
            except Exception as error:
                local_errors.append(error)
                raise

    form = _Form(
        photos,
        session.threads,
        body_type=body_type,
        telephoto=telephoto,
        on_write=on_write,
        on_error=local_errors.append,
    )
    total = cast("int", form.size)
    try:
        async with idle:
            response = await session.request(
                description,
                "POST",
                url,
                headers={"Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None),
                data=form,
            )
            status = response.status
            async with response:
                idle.reschedule(loop.time() + timeout)
                while len(content) < _MAX_RESPONSE and (chunk := await response.content.readany()):
                    content += chunk
                    idle.reschedule(loop.time() + timeout)
    except NETWORK_ERRORS as error:
        failed = to_failed_attempt(description, error, timeout, idempotent=False)
    if local_errors:
        raise local_errors[0]
    if status and not 200 <= status < 300:  # noqa: PLR2004 - the 2xx
        # Raised also if the connection broke afterwards, as it does when a server refuses the rest of a body.
        remedy = " (the URL has expired or never existed; only a new avatar has another)"
        excerpt = _get_excerpt(content, url)
        raise TransferError(f"{description}: {status}{excerpt}{remedy * (status in EXPIRED_STATUSES)}", status)
    if failed is None:
        _check_response(description, content, sent, total)
    return failed


def _check_response(description: str, content: bytes, sent: int, total: int) -> None:
    """Check that a response is JSON. The values of its ``status`` are not published, so it is not read."""
    if sent != total:
        raise TransferError(f"{description}: the server responded when {sent} of {total} bytes were sent")
    if not content.strip():
        return
    try:
        loads(content)
    except AvaturnDecodeError as error:
        message = str(error)
    else:
        return
    raise AvaturnDecodeError(f"{description}: {message}")


def _get_excerpt(content: bytes, url: URL) -> str:
    """Return the beginning of a response, without URLs and without the parts of this one."""
    text = _ANY_URL.sub("[URL]", " ".join(content.decode(errors="replace").split()))
    pairs = [*url.query.items(), *(pair.partition("=")[::2] for pair in url.raw_query_string.split("&"))]
    values = (value or name for name, value in pairs)
    parts = {*url.raw_path.split("/"), *url.path.split("/"), *values, url.raw_query_string}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _MIN_SECRET_LENGTH:
            text = find_secret(part).sub("[URL]", text)
    return f": {text[:_MAX_EXCERPT]}" if text else ""
