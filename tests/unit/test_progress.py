"""The progress bar: drawn where somebody watches, absent everywhere else."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from avaturn_async.progress import progress_bar, progress_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


CLOSED = io.StringIO()
CLOSED.close()


@pytest.mark.parametrize("stderr", [io.StringIO(), None, CLOSED])
def test_without_a_terminal_nothing_is_drawn(stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is None under pythonw and in some services, and a service may have closed it."""
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress_bar("photos") as on_progress:
        assert on_progress is None


def test_without_rich_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    hidden: Any = None
    monkeypatch.setitem(sys.modules, "rich.console", hidden)
    with progress_bar("photos") as on_progress:
        assert on_progress is None


def test_on_a_terminal_the_bar_shows_label_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("avatar.glb") as on_progress:
        assert on_progress is not None
        on_progress(1000, None)
        on_progress(1000, 2000)
        on_progress(2000, 2000)
    shown = terminal.getvalue()
    assert "avatar.glb" in shown
    assert "2.0/2.0 kB" in shown


def test_display_of_several_bars_hides_complete_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars() as new_bar:
        for name, done in (("first.glb", 2000), ("second.glb", 1000)):
            on_progress = new_bar(name)
            assert on_progress is not None
            on_progress(done, 2000)
    last = terminal.getvalue().rpartition("\x1b[2K")[0].rpartition("\r")[2] + terminal.getvalue()[-400:]
    assert "second.glb" in last
    assert "first.glb" not in terminal.getvalue()[-400:]
