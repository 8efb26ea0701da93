"""The pytest fixtures of the package, in pytest runs of their own: modes of pytest-asyncio and scopes of its loops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avaturn_async import AvaturnClient, NotFoundError
from avaturn_async.testing import FakeAvaturn, Fault

pytest_plugins = ["avaturn_async.testing.fixtures"]

FIXTURE_LOOPS = "asyncio_default_fixture_loop_scope = function"
CONFTEST = 'pytest_plugins = ["avaturn_async.testing.fixtures"]\n'

TESTS = """
import asyncio

import aiohttp
import pytest
from aiohttp import web

from avaturn_async.webhooks import AvatarReady, SessionRouter, WebhookReceiver

loops = []


{mark}
class TestApp:
    @pytest.mark.parametrize("number", [1, 2])
    async def test_webhook(self, number, fake_avaturn, avaturn_client, webhook_verifier, serve_app):
        loops.append(asyncio.get_running_loop())
        router = SessionRouter()
        app = web.Application()
        WebhookReceiver(router, verifier=webhook_verifier).add_to(app, "/avaturn")
        url = await serve_app(app)
        fake_avaturn.webhook_url = url + "/avaturn"
        user = await avaturn_client.create_user()
        session = await router.open_session(avaturn_client, user.id)
        avatar_id = await fake_avaturn.finish_session(session.id)
        event = await session.wait_for(AvatarReady, timeout=10)
        assert event.avatar_id == avatar_id


def test_number_of_loops():
    assert len({{id(loop) for loop in loops}}) == {loops}
"""


def run_pytest(folder: Path, *, mode: str, marks: dict[str, int], settings: str = FIXTURE_LOOPS) -> None:
    """Run the tests once for each mark, which has a number of loops."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(f"[pytest]\nasyncio_mode = {mode}\nfilterwarnings = error\n{settings}\n")
    for number, (mark, loops) in enumerate(marks.items()):
        (folder / f"test_app_{number}.py").write_text(TESTS.format(mark=mark, loops=loops))
    options = ["-p", "pytest_asyncio.plugin", "-o", "faulthandler_timeout=20"]
    command = [sys.executable, "-m", "pytest", "-q", *options, "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE"))}
    # The other plugins of this environment take half of the time.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{3 * len(marks)} passed" in run.stdout, run.stdout


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_fixtures_work_with_the_loop_scope_of_the_mark(mode: str, tmp_path: Path) -> None:
    scopes = {"function": 2, "class": 1, "module": 1, "session": 1}
    marks = {f'@pytest.mark.asyncio(loop_scope="{scope}")': loops for scope, loops in scopes.items()}
    run_pytest(tmp_path, mode=mode, marks=marks)


@pytest.mark.parametrize("fixture_scope", ["function", "session"])
@pytest.mark.parametrize(("test_scope", "loops"), [("function", 2), ("session", 1)])
def test_fixtures_work_with_the_default_scopes(test_scope: str, loops: int, fixture_scope: str, tmp_path: Path) -> None:
    settings = f"asyncio_default_test_loop_scope = {test_scope}\nasyncio_default_fixture_loop_scope = {fixture_scope}"
    run_pytest(tmp_path, mode="auto", marks={"": loops}, settings=settings)


def test_strict_mode_takes_the_default_scope_of_the_tests(tmp_path: Path) -> None:
    settings = f"{FIXTURE_LOOPS}\nasyncio_default_test_loop_scope = session"
    run_pytest(tmp_path, mode="strict", marks={"@pytest.mark.asyncio": 1}, settings=settings)


async def test_client_of_the_fixture_retries_without_backoff(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    avaturn_client._transport._sleep = sleep
    fake_avaturn.fail(Fault.bad_gateway(), times=2)
    with pytest.raises(NotFoundError):
        await avaturn_client.list_user_avatars("unknown")
    assert len(fake_avaturn.requests) == 3
    assert slept == [0, 0]
