"""A test of an app of yours, with a stand-in for Avaturn: python -m pytest test_your_app.py.

It needs pytest-asyncio.
"""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from avaturn_async import AvaturnClient
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, RoutedSession, SessionRouter, Verifier, WebhookReceiver

pytest_plugins = ["avaturn_async.testing.fixtures"]


def your_app(router: SessionRouter, verifier: Verifier, avatars: dict[int, str]) -> web.Application:
    app = web.Application()
    WebhookReceiver(router, verifier=verifier).add_to(app, "/avaturn")

    @router.on(AvatarReady, name="save-avatar")
    async def avatar_ready(event: AvatarReady, session: RoutedSession | None) -> None:
        if session is not None:
            avatars[session.context["account"]] = str(event.avatar_id)

    return app


@pytest.mark.asyncio
async def test_an_account_gets_its_avatar(
    fake_avaturn: FakeAvaturn,
    avaturn_client: AvaturnClient,
    webhook_verifier: Verifier,
    serve_app: Callable[[web.Application], Awaitable[str]],
) -> None:
    router, avatars = SessionRouter(), dict[int, str]()
    fake_avaturn.webhook_url = await serve_app(your_app(router, webhook_verifier, avatars)) + "/avaturn"
    user = await avaturn_client.create_user()
    session = await router.open_session(avaturn_client, user.id, context={"account": 42})
    avatar_id = await fake_avaturn.finish_session(session.id)
    await router.close()  # waits for handlers
    assert avatars == {42: str(avatar_id)}
