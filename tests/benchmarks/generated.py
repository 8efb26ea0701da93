"""Clients generated from ``openapi.yaml`` by the packages that people use for it.

They are made when the benchmark runs, in a virtual environment of their own with our aiohttp and pydantic.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .measure import HERE, Setup, UnavailableError

DESCRIPTION = HERE / "openapi.yaml"
HTTPX = "generated_with_httpx"
AIOHTTP = "generated_with_aiohttp"


class Generated:
    """The environment, and the clients that were generated into it; made at first use."""

    def __init__(self, setup: Setup) -> None:
        self._directory = (setup.keep or setup.directory).absolute() / "generated"
        self._python = self._directory / "venv" / "bin" / "python"

    def httpx(self) -> str:
        """The Python that has the client of openapi-python-client."""
        self._environment()
        target = self._site() / HTTPX
        if not target.exists():
            self._run(
                "openapi-python-client", "generate", "--path", DESCRIPTION, "--output-path", target,
                "--meta", "none",
            )  # fmt: skip
        return str(self._python)

    def aiohttp(self) -> str:
        """The Python that has the client of openapi-generator."""
        if shutil.which("java") is None:
            raise UnavailableError("openapi-generator needs java, which is not on this machine")
        self._environment()
        output = self._directory / "aiohttp"
        if not output.exists():
            self._run(
                "openapi-generator-cli", "generate", "-i", DESCRIPTION, "-g", "python", "--library", "asyncio",
                "-o", output, "--package-name", AIOHTTP,
            )  # fmt: skip
            self._run("python", "-m", "pip", "install", "--quiet", "-r", output / "requirements.txt")
            shutil.copytree(output / AIOHTTP, self._site() / AIOHTTP)
        return str(self._python)

    def version(self, package: str) -> str:
        """The version of a package in the environment."""
        line = f"from importlib.metadata import version; print(version({package!r}))"
        return self._run("python", "-c", line).strip()

    def _environment(self) -> None:
        if self._python.exists():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(self._directory / "venv")], check=True)
        peers = ["openapi-python-client", "openapi-generator-cli", _same("aiohttp"), _same("pydantic")]
        self._run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peers)

    def _site(self) -> Path:
        return next((self._directory / "venv" / "lib").glob("python*/site-packages"))

    def _run(self, tool: str, *arguments: str | Path) -> str:
        command = [str(self._python.parent / tool), *map(str, arguments)]
        # The tools look for each other (ruff, java) by name.
        path = f"{self._python.parent}:{os.environ.get('PATH', '')}"
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
        )
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no word"]
            raise UnavailableError(f"{tool} failed: {last[0][:200]}")
        return done.stdout


def _same(package: str) -> str:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package
