"""Fixtures for tests of an app that uses avaturn_async; needs pytest-asyncio.

In the topmost conftest.py, or in a module of tests::

    pytest_plugins = ["avaturn_async.testing.fixtures"]

A test that names a fixture gets a new one. To sign the webhooks of ``fake_avaturn`` in another way, override
``webhook_verifier`` with a fixture of the same name. The fixtures run on the event loop of the test, in both modes of
pytest-asyncio and with every ``loop_scope``, of the test or from ``asyncio_default_test_loop_scope``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Literal, cast, get_args

import pytest
import pytest_asyncio
from aiohttp import web

from avaturn_async import AvaturnClient, RetryPolicy
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import HmacSha256, Verifier

__all__ = ["avaturn_client", "fake_avaturn", "serve_app", "webhook_verifier"]

_Scope = Literal["function", "class", "module", "package", "session"]


@pytest.fixture
def webhook_verifier() -> Verifier:
    """Return the verifier for the WebhookReceiver of the app; it signs the webhooks of ``fake_avaturn``."""
    return HmacSha256("a secret for tests only", header="X-Webhook-Signature")


def _get(request: pytest.FixtureRequest, name: str) -> Any:
    """Return the fixture ``name`` on the event loop of the test: a server of another loop would never answer."""
    marker = request.node.get_closest_marker("asyncio")
    scope = marker and marker.kwargs.get("loop_scope")
    scope = scope or request.config.getini("asyncio_default_test_loop_scope") or "function"
    return request.getfixturevalue(f"{name}_on_{scope}_loop")


@pytest.fixture
def fake_avaturn(request: pytest.FixtureRequest) -> FakeAvaturn:
    """Run a FakeAvaturn; set its ``webhook_url`` to the URL of the app's WebhookReceiver."""
    return cast("FakeAvaturn", _get(request, "fake_avaturn"))


@pytest.fixture
def avaturn_client(request: pytest.FixtureRequest) -> AvaturnClient:
    """Return a client of ``fake_avaturn`` without backoff; it still waits for a Retry-After."""
    return cast("AvaturnClient", _get(request, "avaturn_client"))


@pytest.fixture
def serve_app(request: pytest.FixtureRequest) -> Callable[[web.Application], Awaitable[str]]:
    """Run an aiohttp app on loopback until the test ends; the returned coroutine function returns the app's URL."""
    return cast("Callable[[web.Application], Awaitable[str]]", _get(request, "serve_app"))


def _add_fixtures_on_loop(scope: _Scope) -> None:
    """Add the fixtures that ``_get`` finds; pytest-asyncio fixes the event loop of a fixture where it is defined."""

    async def make_fake(webhook_verifier: Verifier) -> AsyncIterator[FakeAvaturn]:
        async with FakeAvaturn(sign=webhook_verifier) as fake:
            yield fake

    async def make_client(fake_avaturn: FakeAvaturn) -> AsyncIterator[AvaturnClient]:
        retry = RetryPolicy(base=0.0)
        async with AvaturnClient("token-for-tests", base_url=fake_avaturn.url, retry=retry) as client:
            yield client

    async def make_serve() -> AsyncIterator[Callable[[web.Application], Awaitable[str]]]:
        async with AsyncExitStack() as stack:

            async def serve(app: web.Application) -> str:
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                return f"http://127.0.0.1:{runner.addresses[0][1]}"

            yield serve

    makers: dict[str, Callable[..., AsyncIterator[Any]]]
    makers = {"fake_avaturn": make_fake, "avaturn_client": make_client, "serve_app": make_serve}
    for name, make in makers.items():
        name_on_loop = f"{name}_on_{scope}_loop"
        globals()[name_on_loop] = pytest_asyncio.fixture(loop_scope=scope, name=name_on_loop)(make)


for _scope in get_args(_Scope):
    _add_fixtures_on_loop(_scope)
