"""The calls of the client, and the import of the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

from .generated import Generated
from .measure import Contender, Result, Row, Setup, UnavailableError, compare, python, take_turns

BARE = "bare aiohttp, `resp.json()`"
HTTPX = "openapi-python-client (httpx)"
AIOHTTP = "openapi-generator (aiohttp, pydantic)"
CALLS = {
    "new_session": "`new_session`",
    "create_export": "`create_export`",
    "get_customization": "`get_customization`",
    "list_20": "`list_user_avatars`, 20 avatars",
    "list_1000": "`list_user_avatars`, 1,000 avatars",
}
BARE_GOALS = {"new_session": 1.10, "create_export": 1.10, "get_customization": 1.10, "list_20": 1.20}
PYDANTIC = {"validate_json": 1.0, "validate_python": None, "model_validate": None}


def rows(setup: Setup) -> Iterator[Result]:
    """Every call against every peer."""
    canned = python(setup, "canned")
    setup.stack.callback(canned.close)
    port = canned.read()
    url = f"http://127.0.0.1:{port}"
    generated = Generated(setup)
    for task, work in CALLS.items():
        peers: dict[Row, tuple[str, str, Callable[[], str | None]]] = {
            Row(work=work, against=BARE, at_most=BARE_GOALS.get(task)): ("bare", task, _here)
        }
        if task == "list_1000":
            peers |= {
                Row(work=work, against=f"aiohttp and pydantic, `{way}`", at_most=goal): (
                    "pydantic_models", way, _with_pydantic,
                )
                for way, goal in PYDANTIC.items()
            }  # fmt: skip
        limit = 0.50 if task == "list_1000" else 0.12
        peers[Row(work=work, against=HTTPX, at_most=limit)] = ("generated_httpx", task, generated.httpx)
        peers[Row(work=work, against=AIOHTTP, at_most=0.50)] = ("generated_aiohttp", task, generated.aiohttp)
        yield from _against(setup, url, task, {r: p for r, p in peers.items() if setup.wants(r)})


def _against(
    setup: Setup, url: str, task: str, peers: dict[Row, tuple[str, str, Callable[[], str | None]]]
) -> Iterator[Result]:
    makers: dict[str, Callable[[], Contender]] = {}
    by_row: dict[Row, str] = {}
    for row, (peer, way, interpreter) in peers.items():
        try:
            executable = interpreter()
        except UnavailableError as error:
            yield Result(row=row, ours="", note=f"skipped: {error}")
            continue
        by_row[row] = row.against
        more = {"executable": executable} if executable else {}
        makers[row.against] = partial(python, setup, "worker", peer, way, url, **more)
    if not makers:
        return
    makers["ours"] = partial(python, setup, "worker", "sdk", task, url)
    # With a thousand objects in each answer, a turn is to last until the garbage collector had its share.
    seconds, turns = (0.2, 5) if task == "list_1000" else (0.02, setup.turns)
    taken = take_turns(makers, lives=setup.lives, turns=turns, seconds=seconds)
    for row, name in by_row.items():
        if row.against == BARE and task in BARE_GOALS:
            apart = compare(row, taken["ours"], taken[name]).ratio
            ours, theirs = _paired(setup, task, url)
            yield compare(row, ours, theirs, note=f" (in processes of their own: {apart:.2f})")
            continue
        note = ""
        if row.against == HTTPX and BARE in taken:
            # What is built on aiohttp cannot well be below aiohttp.
            limit = compare(row, taken[BARE], taken[name]).ratio
            note = f" (aiohttp alone: {limit:.2f})"
        yield compare(row, taken["ours"], taken[name], note=note)


def _paired(setup: Setup, task: str, url: str) -> tuple[list[float], list[float]]:
    """Both in one process, call by call: what processes of their own differ by anyway is as much as the goal."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(1 if setup.quick else 3):
        life = python(setup, "pairs", task, url, "1000")
        taken = json.loads(life.read())
        ours += taken["ours"]
        theirs += taken["theirs"]
        life.close()
    return ours, theirs


def _here() -> None:
    """The interpreter of the benchmark itself."""


def _with_pydantic() -> None:
    if find_spec("pydantic") is None:
        raise UnavailableError("pydantic is not installed")
