"""The photos of an upload: what a caller may pass, looked at before anything is sent.

Everything here blocks, and runs in a thread.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from attrs import frozen

from avaturn_async._magic import LONGEST_HEAD, image_type
from avaturn_async.errors import TransferError

Photo: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the bytes of an image file, or such a file, open for binary reading and seekable."""

_LONGEST_PATH = 200


@frozen
class Source:
    """A photo that was looked at."""

    name: str
    """The argument that it was given as."""
    content_type: str
    start: int
    size: int
    file: BinaryIO


class Photos:
    """Photos, open for reading. One lock, because one file object may be given for two of them."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self._ours: list[BinaryIO] = []
        self._lock = threading.Lock()

    def open(self, given: Mapping[str, Any]) -> None:
        """Open the photos and look at each.

        Raises:
            ValueError: One of them is no photo that can be sent; the message names it.
        """
        for name, photo in given.items():
            file = self._file(name, photo)
            start, size, head = _measured(name, file)
            if not size:
                raise ValueError(f"{name}: it is empty (of an open file, what follows its position is sent)")
            content_type = image_type(head)
            if content_type is None:
                raise ValueError(f"{name}: it is no image: give a JPEG, PNG, WebP or HEIC file")
            self.sources.append(Source(name, content_type, start, size, file))

    def read(self, source: Source, offset: int, size: int) -> bytes:
        """Bytes of a photo.

        Raises:
            TransferError: The file is shorter than it was.
            OSError: It cannot be read.
        """
        with self._lock:
            source.file.seek(source.start + offset)
            data = source.file.read(size)
        if len(data) != size:
            raise TransferError(f"{source.name}: the file changed while it was sent")
        return data

    def close(self) -> None:
        """Close what was opened here, and put the caller's files back to where they were."""
        with self._lock:
            for source in self.sources:
                with contextlib.suppress(OSError, ValueError):  # the caller may have closed it
                    source.file.seek(source.start)
            for file in self._ours:
                file.close()

    def _file(self, name: str, photo: Any) -> BinaryIO:
        if isinstance(photo, bytes | bytearray | memoryview):
            return io.BytesIO(bytes(cast("bytes", photo)))
        if isinstance(photo, str | os.PathLike):
            file = _opened(name, Path(cast("str", photo)))
            self._ours.append(file)
            return file
        if inspect.iscoroutinefunction(getattr(photo, "read", None)):
            raise ValueError(
                f"{name}: its read() is async: pass the file beneath it, such as UploadFile.file"
            )
        if not hasattr(photo, "read"):
            raise ValueError(f"{name}: give a path, bytes or a binary file, not {type(photo).__name__}")
        return photo  # type: ignore[no-any-return]


def _opened(name: str, path: Path) -> BinaryIO:
    shown = repr(str(path))[:_LONGEST_PATH]
    try:
        mode = path.stat().st_mode  # looked at first, since to open a pipe would wait for its writer
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{name}: there is no file {shown}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise ValueError(f"{name}: {shown} cannot be read: {why}") from None
    kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
    raise ValueError(f"{name}: {shown} is {kind}: give the path of one photo")


def _measured(name: str, file: BinaryIO) -> tuple[int, int, bytes]:
    """Position, bytes that follow it, and the first of these."""
    try:
        start = file.tell()
        size = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        head = file.read(LONGEST_HEAD)
        file.seek(start)
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"{name}: give a file that is open and can seek, or its bytes") from None
    if not isinstance(head, bytes):
        raise ValueError(  # noqa: TRY004 - a photo that is none is a ValueError, whatever it is
            f'{name}: its read() gives no bytes: open the file in binary mode, "rb"'
        )
    return start, size, head
