"""A part of a larger aiohttp app: a sub-application, a middleware, one ClientSession for all, nginx in front.

Set AVATURN_API_TOKEN and AVATURN_WEBHOOK_SECRET, register https://your.host/avatars/webhook at Avaturn with the header
"X-Avaturn-Key: SECRET" and run larger_app.py. POST /avatars/sessions opens a session; the log shows each webhook, where
it was routed, and the sender's address from X-Forwarded-For.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from avaturn_async import AvaturnClient, AvaturnError
from avaturn_async.webhooks import (
    AvatarReady,
    ConfirmByApi,
    RoutedSession,
    SessionRouter,
    SharedSecret,
    WebhookReceiver,
)

log = logging.getLogger(__name__)
HTTP = web.AppKey("HTTP", aiohttp.ClientSession)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AvaturnError as error:
        return web.json_response({"error": type(error).__name__}, status=502)


def get_sender(request: web.Request) -> str:
    """Return the last address of X-Forwarded-For: the one that nginx on this host added."""
    return request.headers.get("X-Forwarded-For", request.remote or "").rpartition(",")[2].strip()


def make_avatars_app(get_http: Callable[[], aiohttp.ClientSession]) -> web.Application:
    app, router = web.Application(), SessionRouter(handler_attempts=5)
    client = AvaturnClient.from_env(http=get_http)  # called in the running loop, with the first call
    secret = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], header="X-Avaturn-Key")
    confirm = ConfirmByApi(client, router)
    # Waiters of the router end when the outer app shuts down, and handlers that run are given time to finish.
    WebhookReceiver(router, verifier=secret, confirm=confirm, peer=get_sender).add_to(app, "/webhook")

    @router.on(AvatarReady, name="save-avatar")
    async def save(event: AvatarReady, session: RoutedSession | None) -> None:
        log.info("avatar %s of account %s", event.avatar_id, session and session.context)

    async def open_session(_: web.Request) -> web.Response:
        user = await client.create_user()  # once for each of your accounts: keep the id there
        session = await router.open_session(client, user.id, context=42)  # your account's number
        return web.json_response({"id": str(session.id), "url": session.url})

    app.router.add_post("/sessions", open_session)
    return app


def make_app() -> web.Application:
    app = web.Application(middlewares=[errors_as_json])

    async def http(_: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as app[HTTP]:
            yield

    app.cleanup_ctx.append(http)
    app.add_subapp("/avatars/", make_avatars_app(lambda: app[HTTP]))
    return app


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    # A line for each webhook says where it was routed: the first place to look at when a handler is silent.
    logging.getLogger("avaturn_async.webhooks").setLevel(logging.DEBUG)
    web.run_app(make_app(), host="127.0.0.1", port=8080)
