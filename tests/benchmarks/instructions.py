"""Where the time goes, in instructions: ``python -m tests.benchmarks.instructions``, with valgrind installed.

They do not depend on what else the machine does, and are the same to a few percent in every run. What the
kernel does is not among them, which is about a third of a call: so the ratios are larger than those of time.
"""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from . import load
from .measure import Process, Setup, python

FEW, MANY, AT_ONCE = 200, 1_000, 100
HOOKS = ("bare", "by_hand", "in_one", "ours")
CALLS = ("new_session", "create_export", "get_customization", "list_20")


def _counted(setup: Setup, use: Callable[[Process], None], module: str, *arguments: str) -> int:
    """The instructions of a child from its start to its end."""
    found = setup.directory / "callgrind.out"
    valgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={found}"]
    command = [*valgrind, sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    child = Process(command, setup.environment(PYTHONHASHSEED="0"))
    use(child)
    child.end()
    total = re.search(r"^(?:summary|totals): (\d+)", found.read_text(), re.MULTILINE)
    if total is None:
        raise RuntimeError("valgrind counted nothing")
    return int(total[1])


def _post(times: int, server: Process) -> None:
    """Webhooks over one connection, each with an opener that waits for it."""
    with socket.create_connection(("127.0.0.1", int(server.read()))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for first in range(0, times, AT_ONCE):
            server.ask(f"wait {first} {AT_ONCE}")
            load.post(connection, [load.request(n) for n in range(first, first + AT_ONCE)])
            server.ask("cpu")


def _call(times: int, caller: Process) -> None:
    caller.turn(times)


def _each(setup: Setup, use: Callable[[int, Process], None], module: str, *arguments: str) -> float:
    """The instructions of one piece of work: what starts and ends a process is in both runs."""
    first = python(setup, module, *arguments)  # which has everything compiled
    use(AT_ONCE, first)
    first.end()
    few, many = (_counted(setup, partial(use, times), module, *arguments) for times in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _show(work: str, each: Sequence[tuple[str, float]]) -> None:
    least = each[0][1]
    for name, count in each:
        print(f"| {work} | {name} | {count:,.0f} | {count / least:.2f} |", flush=True)


def main() -> None:
    """Print the table."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed: apt-get install valgrind, or the like")
    print("| work | by | instructions | ratio |\n|---|---|--:|--:|")
    with TemporaryDirectory() as name:
        setup = Setup(quick=True, directory=Path(name))
        _show("one webhook", [(who, _each(setup, _post, "hook_server", who)) for who in HOOKS])
        canned = python(setup, "canned")
        url = f"http://127.0.0.1:{canned.read()}"
        for task in CALLS:
            peers = [(peer, _each(setup, _call, "worker", peer, task, url)) for peer in ("bare", "sdk")]
            _show(f"`{task}`", peers)
        canned.close()


if __name__ == "__main__":
    main()
