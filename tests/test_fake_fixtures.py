"""The fixtures that come with the package make the test of an app short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from avaturn_async import AvaturnClient, NotFoundError
from avaturn_async.testing import FakeAvaturn, Fault
from avaturn_async.webhooks import AvatarReady, SessionRouter, Verifier, WebhookReceiver

pytest_plugins = ["avaturn_async.testing.fixtures"]

Serve = Callable[[web.Application], Awaitable[str]]


def make_app(client: AvaturnClient, verifier: Verifier) -> web.Application:
    """An app as a user of the SDK would write it: it opens sessions, and knows who has finished."""
    router = SessionRouter()
    finished: dict[str, UUID] = {}

    async def start(request: web.Request) -> web.Response:
        user = await client.create_user()
        session = await router.open_session(client, user.id, context=request.query["account"])
        return web.json_response({"session_id": str(session.id), "url": session.url})

    async def result(request: web.Request) -> web.Response:
        session = await router.session(request.query["session_id"])
        event = await session.wait_for(AvatarReady, timeout=10)
        finished[str(session.context)] = event.avatar_id
        return web.json_response({"account": session.context, "avatar_id": str(event.avatar_id)})

    app = web.Application()
    app.router.add_post("/start", start)
    app.router.add_get("/result", result)
    WebhookReceiver(router, verifier=verifier).add_to(app, "/avaturn")
    return app


async def test_an_app_learns_what_its_user_made(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient, webhook_verifier: Verifier, serve_app: Serve
) -> None:
    url = await serve_app(make_app(avaturn_client, webhook_verifier))
    fake_avaturn.webhook_url = f"{url}/avaturn"
    async with aiohttp.ClientSession(url) as http:
        started = await (await http.post("/start", params={"account": "42"})).json()
        avatar_id = await fake_avaturn.finish_session(started["session_id"])
        result = await (await http.get("/result", params={"session_id": started["session_id"]})).json()
    assert result == {"account": "42", "avatar_id": str(avatar_id)}
    assert [delivery.status for delivery in fake_avaturn.deliveries] == [200]


async def test_the_client_tries_again_without_backoff(
    fake_avaturn: FakeAvaturn, avaturn_client: AvaturnClient
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    avaturn_client._transport._sleep = sleep
    fake_avaturn.fail(Fault.bad_gateway(), times=2)
    with pytest.raises(NotFoundError):
        await avaturn_client.list_user_avatars("NOBODY")
    assert len(fake_avaturn.requests) == 3
    assert slept == [0, 0]
