"""Progress bars for uploads and downloads, drawn with rich when standard error is a terminal.

::

    with progress_bar("avatar.glb") as on_progress:
        await client.download(url, "avatar.glb", on_progress=on_progress)

    with progress_bars() as new_bar:  # one display for several transfers
        async with asyncio.TaskGroup() as tasks:
            for name, url in urls.items():
                tasks.create_task(client.download(url, name, on_progress=new_bar(name)))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

__all__ = ["progress_bar", "progress_bars"]

OnProgress = Callable[[int, int | None], None]


@contextmanager
def progress_bar(label: str) -> Generator[OnProgress | None]:
    """Yield a callback for ``on_progress=`` that draws one bar; see ``progress_bars``."""
    with progress_bars(hide_complete=False) as new_bar:
        yield new_bar(label)


@contextmanager
def progress_bars(*, hide_complete: bool = True) -> Generator[Callable[[str], OnProgress | None]]:
    """Yield a function that adds a bar to one display and returns the callback for ``on_progress=``.

    The function returns None, which draws nothing, if standard error is not a terminal or the extra ``cli`` (rich) is
    not installed.

    Args:
        hide_complete: Whether a bar disappears when its transfer is complete, so that many fit on one screen.
    """
    is_terminal = False
    with suppress(AttributeError, ValueError):  # it is None under pythonw, and may be closed
        is_terminal = sys.stderr.isatty()
    if not is_terminal:
        yield lambda _: None
        return
    try:
        # rich takes long to import, and is needed only here.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415
    except ImportError:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def new_bar(label: str) -> OnProgress:
            task = progress.add_task(label, total=None)

            def on_progress(done: int, total: int | None) -> None:
                progress.update(task, completed=done, total=total, visible=done != total or not hide_complete)

            return on_progress

        yield new_bar
