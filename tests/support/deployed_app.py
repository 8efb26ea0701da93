"""The apps that tests/server/test_deployments.py serves with real servers: aiohttp's and an ASGI app.

Both open sessions, let requests wait for their events, stream events, and have a handler that takes HANDLER_SECONDS.
Settings are environment variables: DEPLOYED_STORE (path of a SQLite file; without it a MemoryStore), DEPLOYED_LOG (the
handler and waiting requests append lines to it), DEPLOYED_MIDDLEWARE (http or asgi, for the ASGI app).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from aiohttp import web

from avaturn_async import AvaturnClient, RouterClosedError, Session
from avaturn_async.webhooks import (
    AvatarReady,
    HmacSha256,
    MemoryStore,
    RoutedSession,
    SessionRouter,
    SQLiteStore,
    WebhookReceiver,
)

SIGNATURE = HmacSha256("known-to-both-sides", header="X-Signature")
HANDLER_SECONDS = 0.4
MAX_BODY = 1000


class Api:
    """A client that opens sessions without a server."""

    async def new_session(self, user_id: str, config: object) -> Session:
        del user_id, config
        return Session(id=uuid4(), url="https://example.test/")


def make_receiver() -> WebhookReceiver:
    path = os.environ.get("DEPLOYED_STORE")
    router = SessionRouter(SQLiteStore(path) if path else MemoryStore())

    @router.on(AvatarReady, name="slow")
    async def slow(event: AvatarReady, session: RoutedSession | None) -> None:
        del session
        log(f"begun {event.avatar_id}")
        await asyncio.sleep(HANDLER_SECONDS)
        log(f"ended {event.avatar_id}")

    return WebhookReceiver(router, verifier=SIGNATURE, max_body=MAX_BODY)


def log(line: str) -> None:
    if path := os.environ.get("DEPLOYED_LOG"):
        with Path(path).open("a") as file:
            file.write(f"{line}\n")


async def open_session(router: SessionRouter) -> dict[str, Any]:
    session = await router.open_session(cast("AvaturnClient", Api()), "user")
    return {"id": str(session.id), "pid": os.getpid()}


async def wait(router: SessionRouter, session_id: str) -> dict[str, Any]:
    session = await router.session(session_id)
    log(f"waiting {session_id}")
    try:
        event = await session.wait_for(AvatarReady, timeout=60)
    except RouterClosedError:
        return {"error": "RouterClosedError"}
    return {"avatar_id": str(event.avatar_id), "pid": os.getpid()}


def make_aiohttp_app() -> web.Application:
    receiver, app = make_receiver(), web.Application()
    receiver.add_to(app, "/hook")
    router = receiver.router

    async def pid(_: web.Request) -> web.Response:
        return web.json_response({"pid": os.getpid()})

    async def opened(_: web.Request) -> web.Response:
        return web.json_response(await open_session(router))

    async def waiting(request: web.Request) -> web.Response:
        return web.json_response(await wait(router, request.match_info["id"]))

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": open\n\n")
        try:
            async for event in (await router.session(request.match_info["id"])).events():
                await response.write(f"data: {event.event}\n\n".encode())
        except RouterClosedError:
            await response.write(b"data: RouterClosedError\n\n")
        return response

    app.add_routes(
        [
            web.get("/pid", pid),
            web.post("/open", opened),
            web.get("/wait/{id}", waiting),
            web.get("/events/{id}", events),
        ]
    )
    return app


async def make_aiohttp_app_in_loop() -> web.Application:
    """For gunicorn, which takes a coroutine function as an application factory."""
    return make_aiohttp_app()


def make_asgi_app() -> Any:
    # Imported here, so that the aiohttp app needs neither.
    from fastapi import FastAPI  # noqa: PLC0415
    from starlette.responses import StreamingResponse  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    receiver = make_receiver()
    router = receiver.router

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with router:
            yield

    made = FastAPI(lifespan=lifespan, routes=[Route("/hook", receiver.asgi)])

    @made.get("/pid")
    async def pid() -> dict[str, Any]:
        return {"pid": os.getpid()}

    @made.post("/open")
    async def opened() -> dict[str, Any]:
        return await open_session(router)

    @made.get("/wait/{session_id}")
    async def waiting(session_id: str) -> dict[str, Any]:
        return await wait(router, session_id)

    @made.get("/events/{session_id}")
    async def events(session_id: str) -> Any:
        session = await router.session(session_id)

        async def stream() -> AsyncIterator[str]:
            yield ": open\n\n"
            try:
                async for event in session.events():
                    yield f"data: {event.event}\n\n"
            except RouterClosedError:
                yield "data: RouterClosedError\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    del pid, opened, waiting, events
    kind = os.environ.get("DEPLOYED_MIDDLEWARE")
    if kind == "http":

        @made.middleware("http")
        async def pass_on(request: Any, call_next: Any) -> Any:
            return await call_next(request)

        del pass_on
    elif kind == "asgi":
        made.add_middleware(cast("Any", PureMiddleware))
    return made


class PureMiddleware:
    """An ASGI middleware that wraps ``receive`` and ``send``."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def receive_next() -> Any:
            return await receive()

        async def send_next(message: Any) -> None:
            await send(message)

        await self.app(scope, receive_next, send_next)


if __name__ == "__main__":
    web.run_app(make_aiohttp_app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None)
elif "DEPLOYED_ASGI" in os.environ:
    app = make_asgi_app()
