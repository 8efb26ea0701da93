"""FastAPI on PostgreSQL: the store uses the asyncpg pool of the app, and a handler writes to a table of the app.

The table: CREATE TABLE avatars (account text NOT NULL, avatar_id uuid PRIMARY KEY, status text)
Set AVATURN_API_TOKEN, AVATURN_WEBHOOK_SECRET and DATABASE_URL, register https://your.host/avaturn?key=SECRET, and run
fastapi_pool.py, or uvicorn --workers 2 fastapi_pool:app. POST /accounts/42/sessions returns the URL of the page where
the person makes an avatar, and GET /accounts/42/avatars lists the avatars of the account.
"""

import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from avaturn_async import AvaturnClient
from avaturn_async.webhooks import (
    AccessLogFilter,
    AvatarReady,
    ConfirmByApi,
    PostgresStore,
    RoutedSession,
    SessionRouter,
    SharedSecret,
    WebhookReceiver,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    # The store keeps one of its connections for notifications.
    pool: Any = asyncpg.create_pool(os.environ["DATABASE_URL"])  # pyright: ignore[reportUnknownMemberType]
    async with AvaturnClient.from_env() as client, pool:
        router = SessionRouter(PostgresStore(pool))
        secret = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], query="key")
        receiver = WebhookReceiver(router, verifier=secret, confirm=ConfirmByApi(client, router))

        @router.on(AvatarReady, name="save-avatar")
        async def save_avatar(event: AvatarReady, session: RoutedSession | None) -> None:
            if session is not None:  # it can run twice
                row = (session.context, event.avatar_id, event.status)
                await pool.execute("INSERT INTO avatars VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", *row)

        app.state.client, app.state.pool, app.state.router = client, pool, router
        app.router.routes.append(Route("/avaturn", receiver.asgi))
        async with router:
            yield


# The URL of a webhook holds the secret, which the filter keeps out of the log.
logging.getLogger("uvicorn.access").addFilter(AccessLogFilter())
app = FastAPI(lifespan=lifespan)


@app.post("/accounts/{account}/sessions")
async def start(account: str) -> dict[str, str | None]:
    user = await app.state.client.create_user()  # once for each account: keep the id in your own table
    session = await app.state.router.open_session(app.state.client, user.id, context=account)
    return {"id": str(session.id), "url": session.url}


@app.get("/accounts/{account}/avatars")
async def list_avatars(account: str) -> list[dict[str, str]]:
    rows = await app.state.pool.fetch("SELECT avatar_id, status FROM avatars WHERE account = $1", account)
    return [{"id": str(row["avatar_id"]), "status": row["status"]} for row in rows]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=8080)
