"""The package in the programs that users deploy: servers with one and two workers, middlewares, and a proxy in front."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from attrs import define
from support.deployed_app import MAX_BODY, SIGNATURE, make_asgi_app
from support.redis_server import find_free_port

ROOT = Path(__file__).parents[2]


@define
class Program:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen[bytes]
    output: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_output(self) -> None:
        assert "Traceback" not in self.output.read_text()
        assert "Exception in ASGI" not in self.output.read_text()

    def logged(self, word: str) -> int:
        return self.log.read_text().count(word) if self.log.exists() else 0

    async def wait_until_logged(self, word: str, count: int) -> None:
        async with asyncio.timeout(20):
            while self.logged(word) < count:
                await asyncio.sleep(0.01)

    async def terminate(self) -> float:
        """Send SIGTERM. Return the seconds until the program has ended."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, 30)
        return time.monotonic() - began


PYTHON = [sys.executable, "-W", "ignore::DeprecationWarning"]
UVICORN_WORKER = "uvicorn_worker.UvicornWorker" if find_spec("uvicorn_worker") else "uvicorn.workers.UvicornWorker"
ASGI = "support.deployed_app:app"
# The connections of a test stay with their workers: a server closes none that is unused for less than a minute.
COMMANDS: dict[str, list[str]] = {
    "aiohttp": ["-m", "support.deployed_app", "{port}"],
    "gunicorn with aiohttp": [
        *(
            "-m",
            "gunicorn",
            "-k",
            "aiohttp.GunicornWebWorker",
            "-w",
            "2",
            "-b",
            "127.0.0.1:{port}",
            "--keep-alive",
            "60",
        ),
        "support.deployed_app:make_aiohttp_app_in_loop",
    ],
    "gunicorn with uvicorn": [
        *("-m", "gunicorn", "-k", UVICORN_WORKER, "-w", "2", "-b", "127.0.0.1:{port}", "--graceful-timeout", "1"),
        *("--keep-alive", "60"),
        ASGI,
    ],
    "uvicorn with uvloop and httptools": [
        *("-m", "uvicorn", "--workers", "2", "--loop", "uvloop", "--http", "httptools", "--port", "{port}"),
        *("--timeout-graceful-shutdown", "1", "--timeout-keep-alive", "60", ASGI),
    ],
    "uvicorn with asyncio and h11": [
        *("-m", "uvicorn", "--workers", "2", "--loop", "asyncio", "--http", "h11", "--port", "{port}"),
        *("--timeout-graceful-shutdown", "1", "--timeout-keep-alive", "60", ASGI),
    ],
    "uvicorn with one worker": ["-m", "uvicorn", "--port", "{port}", ASGI],
    "hypercorn": [
        *(
            "-m",
            "hypercorn",
            "-w",
            "2",
            "-b",
            "127.0.0.1:{port}",
            "--graceful-timeout",
            "1",
            "--keep-alive",
            "60",
            ASGI,
        ),
    ],
}
NEEDS = {
    "gunicorn with aiohttp": ["gunicorn"],
    "gunicorn with uvicorn": ["gunicorn"],
    "uvicorn with uvloop and httptools": ["uvloop", "httptools"],
    "hypercorn": ["hypercorn"],
}
DEPLOYMENTS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not all(map(find_spec, NEEDS.get(name, []))), reason=f"{' and '.join(NEEDS.get(name, []))} not installed"
        ),
    )
    for name in COMMANDS
    if "one worker" not in name
]


@contextmanager
def running(name: str, folder: Path, **environment: str) -> Iterator[Program]:
    """Start a program, and kill it at the end of the block."""
    port = find_free_port()
    output, log = folder / "output", folder / "handled"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "DEPLOYED_LOG": str(log),
        **({} if name == "aiohttp" or "aiohttp" in name else {"DEPLOYED_ASGI": "1"}),
        **environment,
    }
    command = [*PYTHON, *(part.format(port=port) for part in COMMANDS[name])]
    with output.open("wb") as file:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=file, stderr=file)
    try:
        yield Program(port, process, output, log)
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        process.kill()
        process.wait()
        print(output.read_text())  # noqa: T201 - shown when the test fails


async def connect(program: Program, *, other_than: int = 0) -> tuple[aiohttp.ClientSession, int]:
    """Return a session with one connection that stays with one worker, and the worker's process id."""
    async with asyncio.timeout(30):
        while True:
            http = aiohttp.ClientSession(program.url, connector=aiohttp.TCPConnector(limit=1))
            try:
                async with http.get("/pid") as response:
                    pid = (await response.json())["pid"]
                if pid != other_than:
                    return http, pid
            except aiohttp.ClientConnectionError:
                assert program.process.poll() is None, program.output.read_text()
                await asyncio.sleep(0.05)
            await http.close()


def avatar_webhook(session_id: str) -> dict[str, Any]:
    body = f'{{"event": "avatar.ready", "avatar_id": "{uuid4()}", "session_id": "{session_id}"}}'.encode()
    return {"data": body, "headers": {**SIGNATURE.sign(body), "Content-Type": "application/json"}}


async def fetch(http: aiohttp.ClientSession, method: str, path: str) -> Any:
    async with http.request(method, path) as response:
        return await response.json()


@pytest.mark.parametrize("name", DEPLOYMENTS)
async def test_opener_in_another_worker_gets_the_event_and_sigterm_ends_in_time(name: str, tmp_path: Path) -> None:
    with running(name, tmp_path, DEPLOYED_STORE=str(tmp_path / "events.db")) as program:
        async with AsyncExitStack() as stack:
            openers, pid = await connect(program)
            senders, other = await connect(program, other_than=0 if name == "aiohttp" else pid)
            # With its request on the other worker, too, hypercorn would not end on Python 3.12.1 or later: each worker
            # waits for the connections of its requests, until another one has ended.
            streams, _ = await connect(program, other_than=0 if name == "aiohttp" else other)
            for http in (openers, senders, streams):
                await stack.enter_async_context(http)
            assert (other == pid) is (name == "aiohttp")
            first, second, third = [await fetch(openers, "POST", "/open") for _ in range(3)]
            waiting = asyncio.create_task(fetch(openers, "GET", f"/wait/{first['id']}"))
            stream = await stack.enter_async_context(streams.get(f"/events/{second['id']}"))
            assert await stream.content.readline() == b": open\n"
            await program.wait_until_logged("waiting", 1)
            async with senders.post("/hook", **avatar_webhook(first["id"])) as response:
                assert response.status == 200
            assert (await waiting)["pid"] == pid
            # SIGTERM with a request that waits, a stream, and a running handler.
            waiting = asyncio.create_task(fetch(openers, "GET", f"/wait/{second['id']}"))
            await program.wait_until_logged("waiting", 2)
            async with senders.post("/hook", **avatar_webhook(third["id"])) as response:
                assert response.status == 200
            await program.wait_until_logged("begun", 2)
            program.check_output()
            seconds = await program.terminate()
            if "aiohttp" in name:
                assert await waiting == {"error": "RouterClosedError"}
                assert b"RouterClosedError" in await stream.content.read()
                program.check_output()
            else:
                # These servers cut requests off after their graceful timeout, and only then end the lifespan.
                with suppress(aiohttp.ClientError):
                    assert "avatar_id" not in await waiting
        print(name, "ended after", round(seconds, 2), "s", program.process.returncode)  # noqa: T201 - shown by -rP
        # A server that waits for the requests would take its own 30 or 60 s; the figures are under 2 s.
        assert seconds < 10
        assert program.logged("ended") == program.logged("begun") == 2


NGINX = """
daemon off;
master_process off;
user root;
error_log stderr;
pid {folder}/nginx.pid;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  proxy_http_version 1.1;
  proxy_request_buffering {buffering};
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{behind}; }}
  }}
}}
"""


@asynccontextmanager
async def nginx(behind: int, folder: Path, buffering: str) -> AsyncIterator[int]:
    """Start nginx in front of a port, and yield its own port."""
    port = find_free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, buffering=buffering, port=port, behind=behind))
    log = folder / "nginx.log"
    with log.open("wb") as file:
        process = subprocess.Popen([NGINX_PROGRAM, "-p", folder, "-e", "stderr", "-c", config], stderr=file)  # noqa: ASYNC220 - it only starts
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.poll() is None, log.read_text()
                with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
                    break
                await asyncio.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        print(log.read_text())  # noqa: T201 - shown when the test fails


NGINX_PROGRAM = shutil.which("nginx") or "/usr/sbin/nginx"


@pytest.mark.skipif(not Path(NGINX_PROGRAM).exists(), reason="nginx is not installed")
@pytest.mark.parametrize("name", ["aiohttp", "uvicorn with one worker"])
async def test_sender_behind_nginx_gets_the_413_of_a_body_over_the_limit(name: str, tmp_path: Path) -> None:
    with running(name, tmp_path) as program:
        first, _ = await connect(program)
        await first.close()
        for buffering in ("on", "off"):
            async with nginx(program.port, tmp_path, buffering) as port:
                for size in (MAX_BODY, MAX_BODY + 1, 3_000_000, 20_000_000):
                    for chunked in (False, True):
                        status = await send_body(port, size, chunked=chunked)
                        assert (buffering, size, status) == (buffering, size, 401 if size == MAX_BODY else 413)
        program.check_output()


async def send_body(port: int, size: int, *, chunked: bool) -> int:
    """Send a body and read the response at the same time, as most senders do. Return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    writer.write(f"POST /hook HTTP/1.1\r\nHost: x\r\nX-Signature: forged\r\n{framing}\r\n\r\n".encode())
    response = asyncio.create_task(reader.readline())
    with suppress(ConnectionError):
        for begin in range(0, size, 100_000):
            part = b"x" * min(size - begin, 100_000)
            writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
    status = int((await response).split()[1])
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return status


@pytest.mark.filterwarnings("ignore:Using `httpx`")
@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("middleware", ["", "http", "asgi"])
@pytest.mark.parametrize("entered", [False, True])
def test_testclient_works_with_and_without_its_block(
    store: str, middleware: str, *, entered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("httpx")
    testclient = pytest.importorskip("starlette.testclient")
    monkeypatch.setenv("DEPLOYED_MIDDLEWARE", middleware)
    if store == "sqlite":
        monkeypatch.setenv("DEPLOYED_STORE", str(tmp_path / "events.db"))
    client = testclient.TestClient(make_asgi_app())
    # Without the block, each request has an event loop of its own, and the lifespan does not run.
    with client if entered else nullcontext():
        for _ in range(2):
            session_id = client.post("/open").json()["id"]
            webhook = avatar_webhook(session_id)
            for _ in range(2):
                assert client.post("/hook", content=webhook["data"], headers=webhook["headers"]).status_code == 200
            assert "avatar_id" in client.get(f"/wait/{session_id}").json()
