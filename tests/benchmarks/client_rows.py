"""The client's calls, its import and its download, against bare aiohttp and generated clients."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from .client_calls import PEERS
from .measure import ROOT, Child, Measured, Row, UnavailableError, compare
from .server import start_server

BARE_GOALS = {"new_session": 1.06, "create_export": 1.06, "get_customization": 1.30, "list_20": 1.50}
GENERATED_GOALS = {"openapi-generator": 0.35, "openapi-python-client": 0.20}
BUILD = ROOT / "build" / "benchmarks"


@cache
def generate_clients() -> Path:
    """Return the Python of an environment with both generated clients, made on first use and kept in ``build/``."""
    python = BUILD / "venv" / "bin" / "python"
    if not (BUILD / "generated_httpx").exists():
        if shutil.which("java") is None:
            raise UnavailableError("openapi-generator needs java")
        ours = [f"{name}=={version(name)}" for name in ("aiohttp", "attrs", "cattrs", "pydantic")]
        description, path = Path(__file__).parent / "openapi.yaml", f"{python.parent}:{os.environ['PATH']}"
        commands: list[list[str | Path]] = [
            [sys.executable, "-m", "venv", BUILD / "venv"],
            [python, "-m", "pip", "install", "-q", "openapi-generator-cli", "openapi-python-client", *ours],
            [python.parent / "openapi-generator-cli", "generate", "-i", description, "-g", "python", "--library",
             "asyncio", "-o", BUILD, "--package-name", "generated_aiohttp"],
            [python, "-m", "pip", "install", "-q", "-r", BUILD / "requirements.txt"],
            [python.parent / "openapi-python-client", "generate", "--path", description, "--output-path",
             BUILD / "generated_httpx", "--meta", "none"],
        ]  # fmt: skip
        for command in commands:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
            )
            if done.returncode:
                raise UnavailableError(f"{command[:3]} failed: {done.stderr.strip()[-150:]!r}")
    return python


def measure_call(call: str, peer: str, quick: bool) -> Measured:  # noqa: FBT001 - the signature of Row.measure
    python = sys.executable if peer == "bare" else str(generate_clients())
    count = 5 if call == "list_1000" else 50
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(1 if quick else 3):
        with Child("client_calls", call, start_server(), peer, python=python, path=[BUILD]) as child:
            child.ask("20")
            for _ in range(10 if quick else 30):
                our_seconds, their_seconds = map(float, child.ask(str(count)).split())
                ours.append(our_seconds)
                theirs.append(their_seconds)
    return compare(ours, theirs, count)


def measure_import(quick: bool) -> Measured:  # noqa: FBT001
    seconds: dict[str, list[float]] = {"avaturn_async": [], "aiohttp": []}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(8 if quick else 30):
        for name, taken in seconds.items():
            code = f"import time; t = time.process_time(); import {name}; print(time.process_time() - t)"
            done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True)
            taken.append(float(done.stdout))
    return compare(seconds["avaturn_async"][1:], seconds["aiohttp"][1:])


def measure_download(figure: str, quick: bool) -> Measured:  # noqa: FBT001
    figures: dict[str, list[list[float]]] = {"ours": [], "bare": []}
    url = start_server()
    for _ in range(3 if quick else 9):
        for who, found in figures.items():
            with Child("client_calls", "download", url, who) as child:
                found.append([float(word) for word in child.read().split()])
    if figure == "cpu":
        return compare([cpu for cpu, _ in figures["ours"]], [cpu for cpu, _ in figures["bare"]])
    ours, bare = (statistics.median(peak for _, peak in found) for found in figures.values())
    return Measured(ours - bare, f"{ours:.0f} MB against {bare:.0f} MB")


ROWS = {
    **{f"client:{call}:bare": Row(goal, partial(measure_call, call, "bare")) for call, goal in BARE_GOALS.items()},
    **{
        f"client:{call}:{peer}": Row(
            0.90 if call == "list_1000" else GENERATED_GOALS[peer], partial(measure_call, call, peer)
        )
        for call in (*BARE_GOALS, "list_1000")
        for peer in PEERS
        if peer != "bare"
    },
    "import": Row(1.15, measure_import),
    "download:cpu": Row(1.05, partial(measure_download, "cpu")),
    "download:memory": Row(10, partial(measure_download, "memory"), "MB"),
}
