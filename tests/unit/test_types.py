"""The types as an API: everything public has a complete type. What each gives is in tests/typing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import avaturn_async

ROOT = Path(avaturn_async.__file__).parent.parent


def pyright(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(where), str(ROOT)]),
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }
    command = [sys.executable, "-m", "pyright", *arguments, "--pythonpath", sys.executable]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=where, env=environment)


def verified(package: str, *, where: Path) -> tuple[float, Sequence[str]]:
    """How complete the types of a package are, 1 for all of them, and what is missing."""
    there = pyright("--version", where=where)
    if there.returncode != 0:
        pytest.skip(f"pyright does not run here: {(there.stderr or there.stdout).strip()[-200:]}")
    done = pyright("--verifytypes", package, "--ignoreexternal", "--outputjson", where=where)
    report: dict[str, Any] = json.loads(done.stdout)["typeCompleteness"]
    symbols: list[dict[str, Any]] = report["symbols"]
    missing = [str(s["name"]) for s in symbols if s["isExported"] and not s["isTypeKnown"]]
    return float(report["completenessScore"]), missing


def test_every_public_type_is_known(tmp_path: Path) -> None:
    assert verified("avaturn_async", where=tmp_path) == (1.0, [])


def test_a_type_that_is_missing_would_be_seen(tmp_path: Path) -> None:
    package = tmp_path / "hasty"
    package.mkdir()
    package.joinpath("py.typed").touch()
    package.joinpath("__init__.py").write_text("def told(a: int) -> int: ...\ndef guessed(a): ...\n")
    assert verified("hasty", where=tmp_path) == (0.5, ["hasty.guessed"])
