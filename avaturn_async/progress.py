"""A progress bar for photos and downloads, where somebody is watching.

::

    with progress_bar("avatar.glb") as on_progress:
        await client.download(url, "avatar.glb", on_progress=on_progress)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(label: str) -> Generator[Callable[[int, int | None], None] | None]:
    """A callback for ``on_progress=`` that draws a bar on standard error.

    Gives None, which draws nothing, when standard error is no terminal or the extra ``cli`` (rich) is not
    installed.
    """
    if not sys.stderr.isatty():
        yield None
        return
    try:
        # rich takes long to import: only when there is something to draw.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415
    except ImportError:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
