"""The destination of a download, and the temporary file until it is complete. All functions here block."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 120
_MAX_SUFFIX = 10
# Names of devices in each directory of Windows, with any suffix.
_WINDOWS_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|conin_|conout_)(?:\..*)?", re.IGNORECASE)
_DEFAULT_NAME = "download"


def get_safe_name(raw_path: str) -> str:
    """Return a file name from the path of a URL: not hidden, in the same directory, and not a device.

    Args:
        raw_path: The path, still percent-encoded.
    """
    # Split before decoding, and decode once: a %2F belongs to the name.
    name = _UNSAFE.sub("_", unquote(raw_path.rpartition("/")[2]))
    name = name.lstrip(".-").rstrip(".")
    if len(name) > _MAX_NAME:
        suffix = Path(name).suffix
        kept = suffix if len(suffix) <= _MAX_SUFFIX else ""
        name = name[: _MAX_NAME - len(kept)].rstrip(".") + kept
    if not name.strip("_."):
        return _DEFAULT_NAME
    return f"_{name}" if _WINDOWS_RESERVED.fullmatch(name) else name


def resolve_destination(destination: str | os.PathLike[str], raw_path: str) -> Path:
    """Return the path of the file to write; in a directory it gets a name from the URL's path.

    Raises:
        ValueError: The file cannot be written there.
        TypeError: ``destination`` is not a path.
    """
    if not isinstance(destination, str | os.PathLike):
        raise TypeError(f"destination must be a path, not {type(destination).__name__}")
    target = Path(destination)
    try:
        if target.is_dir():
            target /= get_safe_name(raw_path)
        elif os.fspath(destination).endswith(("/", os.sep)):
            raise ValueError(f"destination: there is no directory {str(target)!r}: make it first")
        # The directory of the file itself: a link is written through to its target.
        parent = _resolve_link(target).parent
        if not parent.is_dir():
            raise ValueError(f"destination: there is no directory {str(parent)!r}: make it first")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise ValueError(f"destination: the directory {str(parent)!r} is not writable")
        with contextlib.suppress(FileNotFoundError):
            target.stat()  # raises for a loop of links, which exists() does not
        if target.exists() and not target.is_file():
            raise ValueError(f"destination: {str(target)!r} is no file that could be replaced")
        if _is_mount_point(_resolve_link(target)):
            raise ValueError(f"destination: {str(target)!r} is a mount point: mount its directory instead")
    except OSError as error:
        # Such as a name of more than 255 bytes, or a loop of links.
        raise ValueError(f"destination: {str(target)[:200]!r} cannot be written: {error.strerror}") from None
    return target


def _resolve_link(target: Path) -> Path:
    """Return the path that a symbolic link leads to, else the path itself."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def _is_mount_point(target: Path) -> bool:
    """Return whether a file is mounted there, as containers do; another file cannot take its name (EBUSY)."""
    if not target.exists():
        return False
    if os.path.ismount(target):
        return True
    # A bind mount within one file system is visible in Linux's table only (proc_pid_mountinfo(5)).
    try:
        table = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return False
    path = os.fsencode(os.path.realpath(target))
    for octal, character in ((b"\\134", b"\\"), (b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n")):
        path = path.replace(character, octal)
    return any(line.split(b" ")[4:5] == [path] for line in table.splitlines())


class PartialFile:
    """A temporary file beside its target, until it gets the target's name."""

    def __init__(self, target: Path) -> None:
        self.name: str = target.name
        self._target = _resolve_link(target).absolute()
        # Mode "x" below refuses a file, or a link, that is there already.
        self._path = self._target.with_name(f".avaturn-{secrets.token_hex(8)}.part")
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Create the file, with the permissions of the file that it replaces, else those of any new file."""
        self._file = self._path.open("x+b")
        with contextlib.suppress(OSError):
            self._path.chmod(stat.S_IMODE(self._target.stat().st_mode))

    def append(self, chunks: Iterable[bytes]) -> None:
        """Write at the end."""
        self._get_file().writelines(chunks)

    def truncate(self) -> None:
        """Make the file empty."""
        file = self._get_file()
        file.seek(0)
        file.truncate()

    def commit(self) -> None:
        """Give the file its name, after its bytes are on the disk."""
        file = self._get_file()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._path.replace(self._target)
        # The new name must survive a power cut, too. Windows cannot sync a directory.
        with contextlib.suppress(OSError):
            directory = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def discard(self) -> None:
        """Remove the file. After ``commit()`` this does nothing."""
        if self._file is None:
            return
        # close() writes the buffer; an error of a full disk does not matter here.
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _get_file(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("open() comes first")
        return self._file
