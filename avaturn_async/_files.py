"""The file that a download becomes: its place, its name, and the temporary file until it is whole.

Everything here blocks, and runs in a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from avaturn_async._magic import LONGEST_HEAD, Kind, mismatch

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 120
_LONGEST_SUFFIX = 10
# On Windows these are devices in each directory, whatever comes after the first dot.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|conin_|conout_)(?:\..*)?", re.IGNORECASE)
_FALLBACK = "download"


def safe_name(raw_path: str) -> str:
    """A file name from the path of a URL: one that stays in its directory, is not hidden and means no device.

    Args:
        raw_path: The path, still percent-encoded.
    """
    # Cut first, decode then, and only once: a %2F is a part of the name, no step into a directory.
    name = _UNSAFE.sub("_", unquote(raw_path.rpartition("/")[2]))
    name = name.lstrip(".-").rstrip(".")
    if len(name) > _LONGEST_NAME:
        suffix = Path(name).suffix
        kept = suffix if len(suffix) <= _LONGEST_SUFFIX else ""
        name = name[: _LONGEST_NAME - len(kept)].rstrip(".") + kept
    if not name.strip("_."):
        return _FALLBACK
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def target_of(destination: str | os.PathLike[str], raw_path: str) -> Path:
    """Where the file goes; in a directory under a name from the URL's path.

    Raises:
        ValueError: It cannot go there.
    """
    target = Path(destination)
    if target.is_dir():
        target /= safe_name(raw_path)
    elif os.fspath(destination).endswith(("/", os.sep)):
        raise ValueError(f"destination: there is no directory {str(target)!r}: make it first")
    if not target.parent.is_dir():
        raise ValueError(f"destination: there is no directory {str(target.parent)!r}: make it first")
    if target.exists() and not target.is_file():
        raise ValueError(f"destination: {str(target)!r} is no file that could be replaced")
    return target


class Part:
    """The temporary file beside its target, until it takes the target's name."""

    def __init__(self, target: Path) -> None:
        self.name = target.name
        self._target = target.absolute()
        # Nobody can guess it, so nobody can put a link there before us; "x" below would refuse it, too.
        self._path = self._target.with_name(f".avaturn-{secrets.token_hex(8)}.part")
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Create it, with the permissions that any new file gets."""
        self._file = self._path.open("x+b")

    def append(self, chunks: Iterable[bytes]) -> None:
        """Write at its end."""
        self._opened().writelines(chunks)

    def begin_again(self) -> None:
        """Make it empty."""
        file = self._opened()
        file.seek(0)
        file.truncate()

    def problem(self, kinds: Iterable[Kind]) -> str | None:
        """What is wrong with it, seen as a whole file of these kinds, or None."""
        file = self._opened()
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(LONGEST_HEAD)
        return next((wrong for kind in kinds if (wrong := mismatch(kind, head, size))), None)

    def commit(self) -> None:
        """Give it the name of the target, when its bytes are safe on the disk."""
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._path.replace(self._target)
        # The new name must outlive a power cut, too. Where a directory cannot be synced (Windows) it is done.
        with contextlib.suppress(OSError):
            directory = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Leave nothing behind. After ``commit()`` there is nothing."""
        if self._file is None:
            return
        # Closing writes what is buffered; that a full disk refuses it does not matter any more.
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("open() comes first")
        return self._file
