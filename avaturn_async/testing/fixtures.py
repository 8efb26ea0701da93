"""Fixtures for tests of an app that uses avaturn_async; needs pytest-asyncio.

In the topmost conftest.py, or in a module of tests::

    pytest_plugins = ["avaturn_async.testing.fixtures"]

Each fixture is made only for the tests that name it. ``webhook_verifier`` may be overridden by a fixture of
the same name: whatever it gives signs the webhooks of ``fake_avaturn``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from aiohttp import web

from avaturn_async import AvaturnClient, RetryPolicy
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import HmacSha256, Verifier

__all__ = ["avaturn_client", "fake_avaturn", "serve_app", "webhook_verifier"]


@pytest.fixture
def webhook_verifier() -> Verifier:
    """What signs the webhooks of ``fake_avaturn``, to be given to the app's WebhookReceiver."""
    return HmacSha256("a secret for tests only", header="X-Webhook-Signature")


@pytest_asyncio.fixture
async def fake_avaturn(webhook_verifier: Verifier) -> AsyncIterator[FakeAvaturn]:
    """A FakeAvaturn that runs; set its ``webhook_url`` to where the app takes webhooks."""
    async with FakeAvaturn(sign=webhook_verifier) as fake:
        yield fake


@pytest_asyncio.fixture
async def avaturn_client(fake_avaturn: FakeAvaturn) -> AsyncIterator[AvaturnClient]:
    """A client of ``fake_avaturn`` without backoff; only a Retry-After from there is still sat out."""
    retry = RetryPolicy(base=0.0)
    async with AvaturnClient("token-for-tests", base_url=fake_avaturn.url, retry=retry) as client:
        yield client


@pytest_asyncio.fixture
async def serve_app() -> AsyncIterator[Callable[[web.Application], Awaitable[str]]]:
    """Runs an aiohttp app on loopback until the test is over; what is awaited is its URL."""
    async with AsyncExitStack() as stack:

        async def serve(app: web.Application) -> str:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}"

        yield serve
