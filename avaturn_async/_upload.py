"""Photos up: one multipart form of known length, streamed, and sent once.

The vendor's names of the fields have hyphens: image-frontal, image-side-1, image-side-2, body-type.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Self, TypeAlias

import aiohttp
from yarl import URL

from avaturn_async._photos import Photo, Photos, Source
from avaturn_async._structure import loads
from avaturn_async._threads import in_thread
from avaturn_async._wire import EXPIRED, NETWORK_ERRORS, Attempts, Failure, Wire, connection_failure
from avaturn_async.errors import AvaturnDecodeError, TransferError
from avaturn_async.models import BodyType

OnSent: TypeAlias = Callable[[int, int], object]
"""Called with the bytes sent, and those in all."""

_FIELDS = {"frontal": "image-frontal", "side_1": "image-side-1", "side_2": "image-side-2"}
_SUFFIXES = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/heic": "heic"}
_CHUNK = 1 << 18
_LONGEST_ANSWER = 1 << 16
_LONGEST_WORDS = 200
# Shorter parts of a URL are no secrets, but may be words of a sentence.
_SHORTEST_SECRET = 8
_ANY_URL = re.compile(r"https?:(?:\\?/){2}[^\s\"'<>]*", re.IGNORECASE)


class Form:
    """A multipart form (RFC 7578): what precedes and follows each photo, and how long the whole is."""

    def __init__(self, photos: Photos, *, body_type: str, telephoto: bool) -> None:
        self._photos = photos
        boundary = secrets.token_hex(16)
        self._parts: list[bytes | Source] = []
        for name, value in (("body-type", body_type), ("telephoto", "true" if telephoto else "false")):
            self._parts.append(_part_head(boundary, name) + value.encode() + b"\r\n")
        for source in photos.sources:
            # The caller's path may hold a person's name; nobody needs it there.
            file_name = f"{source.name.replace('_', '-')}.{_SUFFIXES[source.content_type]}"
            head = _part_head(boundary, _FIELDS[source.name], file_name, source.content_type)
            self._parts += [head, source, b"\r\n"]
        self._parts.append(f"--{boundary}--\r\n".encode())
        self.size = sum(part.size if isinstance(part, Source) else len(part) for part in self._parts)
        self.headers = {
            "Accept": "application/json",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(self.size),
        }

    def pieces(self) -> Iterator[tuple[Source, int, int] | bytes]:
        """The form in order: bytes, or a photo with an offset and a size to read."""
        for part in self._parts:
            if isinstance(part, Source):
                for offset in range(0, part.size, _CHUNK):
                    yield part, offset, min(_CHUNK, part.size - offset)
            else:
                yield part

    async def piece(self, piece: tuple[Source, int, int] | bytes) -> bytes:
        """The bytes of a piece."""
        return piece if isinstance(piece, bytes) else await in_thread(self._photos.read, *piece)


@asynccontextmanager
async def form_of(
    *, frontal: Photo, side_1: Photo, side_2: Photo, body_type: BodyType | str, telephoto: bool
) -> AsyncGenerator[Form]:
    """The form with these photos, which are looked at first, and open as long as it is used.

    Raises:
        ValueError: A photo is none, or another argument makes no sense.
    """
    if body_type not in ("male", "female"):
        raise ValueError('body_type must be "male" or "female"')
    if type(telephoto) is not bool:
        raise ValueError("telephoto must be True or False")
    photos = Photos()
    try:
        await in_thread(photos.open, {"frontal": frontal, "side_1": side_1, "side_2": side_2})
        yield Form(photos, body_type=str(body_type), telephoto=telephoto)
    finally:
        await in_thread(photos.close)


def _part_head(boundary: str, name: str, file_name: str = "", content_type: str = "") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
    if file_name:
        head += f'; filename="{file_name}"\r\nContent-Type: {content_type}'
    return f"{head}\r\n\r\n".encode()


class _Body(AsyncIterator[bytes]):
    """A form on its way out, in one attempt. aiohttp takes it from here piece by piece."""

    def __init__(self, form: Form, alive: Callable[[], None], on_progress: OnSent | None) -> None:
        self._form = form
        self._pieces = form.pieces()
        self._alive = alive
        self._on_progress = on_progress
        self._under_way = 0
        self.sent = 0
        self.trouble: Exception | None = None
        """What went wrong on our side: aiohttp would call it a broken connection."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            # aiohttp asks for the next piece when the last one is across.
            self._count()
            piece = next(self._pieces, None)
            data = b"" if piece is None else await self._form.piece(piece)
        except Exception as error:
            self.trouble = error
            raise
        if not data:
            raise StopAsyncIteration
        self._under_way = len(data)
        self._alive()
        return data

    def _count(self) -> None:
        if self._under_way:
            self.sent += self._under_way
            if self._on_progress is not None:
                self._on_progress(self.sent, self._form.size)


async def upload(
    wire: Wire, url: URL, form: Form, *, limit: float, on_progress: OnSent | None, attempts: Attempts
) -> None:
    """Send the form; again only when there was no connection, so that nothing can have arrived.

    Raises:
        AvaturnConnectionError: No usable answer, or (AvaturnTimeoutError) silence.
        AvaturnDecodeError: The answer is no JSON.
        TransferError: The host is refused, or the server said no.
    """
    while failure := await _attempt(wire, url, form, limit, on_progress):
        await attempts.sleep_or_raise(failure)


async def _attempt(
    wire: Wire, url: URL, form: Form, limit: float, on_progress: OnSent | None
) -> Failure | None:
    doing = f"upload to {url.raw_host}"
    loop = asyncio.get_running_loop()
    failure: Failure | None = None
    status = 0
    content = b""

    # aiohttp has no timeout for a body that nobody takes, so one clock is for both directions.
    silence = asyncio.timeout(limit)

    def alive() -> None:
        silence.reschedule(loop.time() + limit)

    body = _Body(form, alive, on_progress)
    try:
        async with silence:
            unlimited = aiohttp.ClientTimeout(total=None)
            response = await wire.request(
                doing, "POST", url, headers=form.headers, timeout=unlimited, data=body
            )
            status = response.status
            async with response:
                alive()
                content = await _read(response)
    except NETWORK_ERRORS as error:
        failure = connection_failure(doing, error, limit, repeatable=False)
    if body.trouble is not None:
        raise body.trouble
    if status and not 200 <= status < 300:  # noqa: PLR2004 - the 2xx
        # Said also when the connection broke thereafter, as it does when a body is refused midway.
        remedy = " (its URL has expired, or never was good: only a new avatar has another)"
        raise TransferError(f"{doing}: {status}{_words(content, url)}{remedy * (status in EXPIRED)}", status)
    if failure is None:
        _check_answer(doing, content, body.sent, form.size)
    return failure


def _check_answer(doing: str, content: bytes, sent: int, size: int) -> None:
    """See that an answer is JSON. Which values its ``status`` takes is not published, so nothing reads it."""
    if sent != size:
        raise TransferError(f"{doing}: answered when {sent} of {size} bytes were sent")
    if not content.strip():
        return
    try:
        loads(content)
    except AvaturnDecodeError as error:
        message = str(error)
    else:
        return
    raise AvaturnDecodeError(f"{doing}: {message}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer, as far as it makes sense to read it."""
    content = b""
    while len(content) < _LONGEST_ANSWER and (chunk := await response.content.readany()):
        content += chunk
    return content


def _words(content: bytes, url: URL) -> str:
    """What the server said, without URLs and without the parts of this one."""
    text = _ANY_URL.sub("[URL]", " ".join(content.decode(errors="replace").split()))
    parts = {*url.raw_path.split("/"), *url.path.split("/"), *url.query.values(), url.raw_query_string}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _SHORTEST_SECRET:
            text = text.replace(part, "[URL]")
    return f": {text[:_LONGEST_WORDS]}" if text else ""
