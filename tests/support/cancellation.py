"""Cancel a coroutine after each, or each third, of the first steps of its event loop, and see what is left.

A step is one turn of the loop in which a file was ready, a timer ended, or a callback was due: the loop's selector
counts them, and cancels from there. So no step is spent on waiting, and the turn in which a result arrives is one.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

from attrs import field, frozen

T = TypeVar("T")
Outcome = Literal["cancelled", "finished"]
"""How a run ended."""
STEPS = 100
"""In these first steps, a coroutine is cancelled."""
SETTLED_WITHIN = 15.0
"""Seconds after which nothing may be left; a store gives up after 2.5 s."""


class _Selector(selectors.DefaultSelector):
    """Counts the turns of its loop, and cancels a task at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self._task: asyncio.Task[Any] | None = None
        self._rest = self._times = 0

    def cancel_after(self, steps: int, task: asyncio.Task[Any], times: int) -> None:
        self._task, self._rest, self._times = task, steps, times

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if self._task is not None:
            if self._rest <= 0:
                self._task.cancel()
                self._times -= 1
                if self._times == 0:
                    self._task = None
            self._rest -= 1
        return ready


@frozen
class Left:
    """What a process has open, as far as it is visible from outside."""

    tasks: Counter[str]
    """Names of the coroutines of tasks that have not ended; a task can be replaced by another of its kind."""
    threads: set[threading.Thread]
    files: Counter[str]
    """Targets of open file descriptors; those of the same kind of socket or pipe are equal."""
    names: set[str]
    """Files in the watched folders."""
    counts: dict[str, int] = field(factory=dict[str, int])
    """What the test counts, such as connections that a server sees."""

    def minus(self, before: Left) -> list[str]:
        """Name what was not there before."""
        found = [f"{n} x task {name}" for name, n in (self.tasks - before.tasks).items()]
        found += [f"thread {thread.name}" for thread in self.threads - before.threads if thread.is_alive()]
        found += [f"{n} x {name}" for name, n in (self.files - before.files).items()]
        found += [f"file {name}" for name in self.names - before.names]
        found += [f"{n - before.counts[name]} x {name}" for name, n in self.counts.items() if n > before.counts[name]]
        return found


class Stepper:
    """Cancels coroutines in one event loop.

    Args:
        selector: The selector of that loop.
        folders: Folders in which no new file may be left.
        counts: Functions that count what a server or an object of the test has.
        stride: After how many more steps the next run is cancelled.
    """

    def __init__(
        self,
        selector: _Selector,
        folders: tuple[Path, ...] = (),
        counts: dict[str, Callable[[], int]] | None = None,
        stride: int = 1,
    ) -> None:
        self._selector = selector
        self._folders = folders
        self._counts = counts or {}
        self._stride = stride

    def watch(self, *folders: Path, stride: int = 1, **counts: Callable[[], int]) -> Stepper:
        """Return a stepper with this stride that looks at these as well."""
        return Stepper(self._selector, (*self._folders, *folders), {**self._counts, **counts}, stride)

    def look(self) -> Left:
        """Return what the process has open now."""
        files: Counter[str] = Counter()
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
            if not target.startswith("/proc/"):
                files[target.partition(":[")[0]] += 1
        return Left(
            tasks=Counter(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()),
            threads=set(threading.enumerate()),
            files=files,
            names={str(path) for folder in self._folders for path in folder.rglob("*")},
            counts={name: count() for name, count in self._counts.items()},
        )

    async def check_nothing_left(self, before: Left, where: str = "") -> None:
        """Wait until nothing is there that was not there before.

        Raises:
            AssertionError: Something is left.
        """

        def find() -> list[str]:
            return self.look().minus(before)

        await wait_until(lambda: not find(), lambda: f"{where} left {find()}")

    async def cancel(self, work: Coroutine[Any, Any, object], steps: int, *, times: int = 1) -> bool:
        """Run a coroutine, and cancel it after some steps, and in the next ones. Returns False if it ended before.

        Raises:
            AssertionError: The cancellation did not come out of it.
        """
        task = asyncio.ensure_future(work)
        self._selector.cancel_after(steps, task, times)
        await asyncio.wait((task,))
        if task.cancelled():
            return True
        was_cancelled = bool(task.cancelling())
        task.result()  # raises what is no cancellation
        assert not was_cancelled, f"the cancellation after {steps} steps was swallowed"
        return False

    async def cancel_each(
        self,
        run: Callable[[], Coroutine[Any, Any, object]],
        *,
        before: Callable[[], Awaitable[object]] | None = None,
        after: Callable[[Outcome], Awaitable[object]] | None = None,
        first: int = 0,
        times: int = 1,
        is_kept: bool = False,
        is_kept_when_cancelled: bool = False,
    ) -> int:
        """Cancel a coroutine after more and more steps until it ends by itself, and see that nothing is left.

        Args:
            run: Makes the coroutine.
            before: Prepares each run.
            after: Checks what happened, given how the run ended; what it needs it opens and closes.
            first: The first number of steps. After 0 steps, the coroutine has not begun.
            times: How often each run is cancelled, in steps that follow each other.
            is_kept: Whether a run that was not cancelled keeps something open, which ``after`` closes.
            is_kept_when_cancelled: Whether one that was cancelled does, too.

        Returns:
            After how many steps it was cancelled.
        """
        # What counts may open a connection of its own at the first look.
        self.look()
        await asyncio.sleep(0.02)
        quiet = self.look()
        for steps in range(first, STEPS + 1, self._stride):
            if before is not None:
                await before()
            opened = self.look()
            # Tasks of the background come and go.
            opened.tasks.update(quiet.tasks - opened.tasks)
            was_cancelled = await self.cancel(run(), steps, times=times)
            where = f"{run} cancelled after {steps} steps"
            if not (is_kept_when_cancelled if was_cancelled else is_kept):
                await self.check_nothing_left(opened, where)
            if after is not None:
                try:
                    await after("cancelled" if was_cancelled else "finished")
                except BaseException as error:
                    error.add_note(where)
                    raise
                await self.check_nothing_left(opened, f"{where}, and what followed,")
            if not was_cancelled:
                return steps
        return STEPS


async def wait_until(holds: Callable[[], bool], explain: Callable[[], str] = lambda: "not in time") -> None:
    """Let the loop run until something holds."""
    deadline = time.monotonic() + SETTLED_WITHIN
    pause = 0.0
    while not holds():
        assert time.monotonic() < deadline, explain()
        await asyncio.sleep(pause)
        pause = min(pause + 0.001, 0.02)


def run_steps(test: Callable[[Stepper], Coroutine[Any, Any, T]]) -> T:
    """Run a test in an event loop whose steps are counted."""
    selector = _Selector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(test(Stepper(selector)))
