"""Functions for child processes that share a store, and a sender of webhooks that repeats each until it is stored."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Literal
from uuid import UUID

import aiohttp
from aiohttp import web
from support.routing import avatar_id

from avaturn_async import AvaturnClient, ScanStatus, webhooks
from avaturn_async.webhooks import (
    AvatarReady,
    EventStore,
    ExportReady,
    HmacSha256,
    RoutedSession,
    SessionRouter,
    WebhookReceiver,
)
from avaturn_async.webhooks.events import event_body

SIGNATURE = HmacSha256("known-to-both-sides", header="X-Signature")
# Seconds until another process handles the events of a process that died.
LEASE = 1.0


def new_store(where: str) -> EventStore:
    """Return a store at a URL of Redis or PostgreSQL, or at the path of a file."""
    if where.startswith("redis:"):
        return webhooks.RedisStore.from_url(where, lease=LEASE)
    if where.startswith("postgresql:"):
        return webhooks.PostgresStore.from_url(where, lease=LEASE)
    return webhooks.SQLiteStore(where, lease=LEASE)


def get_number(avatar: UUID | None) -> int:
    """Return the n of ``avatar_id(n)``."""
    assert avatar is not None
    return int(avatar.hex[-12:], 16)


def receive(pipe: Connection, where: str, handlers: Literal["free", "gated"]) -> None:
    """Receive webhooks, and handle events; gated handlers of avatars wait for a message.

    Sends ("listening", port); ("begun" and then "handled", type, number of the avatar).
    """

    async def run() -> None:
        router = SessionRouter(new_store(where), handler_concurrency=4)
        gate = asyncio.Event()

        @router.on(AvatarReady)
        async def avatar(event: AvatarReady, session: RoutedSession | None) -> None:
            assert session is not None
            pipe.send(("begun", "avatar", get_number(event.avatar_id)))
            if handlers == "gated":
                await gate.wait()
            pipe.send(("handled", "avatar", get_number(event.avatar_id)))

        @router.on(ExportReady)
        async def export(event: ExportReady, session: RoutedSession | None) -> None:
            assert session is not None
            pipe.send(("handled", "export", get_number(event.avatar_id)))

        app = web.Application()
        WebhookReceiver(router, verifier=SIGNATURE).add_to(app, "/avaturn")
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(("listening", runner.addresses[0][1]))
        await asyncio.to_thread(pipe.recv)
        gate.set()
        await asyncio.Event().wait()

    asyncio.run(run())


def open_sessions(pipe: Connection, where: str, api: str, accounts: Iterable[int]) -> None:
    """Open a session for each account; sends (id, account)."""

    async def run() -> None:
        async with (
            AvaturnClient("any-token", base_url=api) as client,
            SessionRouter(new_store(where)) as router,
        ):
            for account in accounts:
                user = await client.create_user()
                session = await router.open_session(client, user.id, context={"account": account})
                pipe.send((str(session.id), account))
        await asyncio.Event().wait()

    asyncio.run(run())


def wait_for_events(pipe: Connection, where: str, session_ids: Iterable[str], timeout: float) -> None:
    """Wait in sessions that another process opened.

    Sends (id, "context", the context); then, for an event of each type, (id, type, number of the avatar).
    """

    async def wait(router: SessionRouter, session_id: str) -> None:
        session = await router.session(session_id)
        pipe.send((session_id, "context", session.context))
        avatar = await session.wait_for(AvatarReady, timeout=timeout)
        pipe.send((session_id, "avatar", get_number(avatar.avatar_id)))
        export = await session.wait_for(ExportReady, timeout=timeout)
        pipe.send((session_id, "export", get_number(export.avatar_id)))

    async def run() -> None:
        async with SessionRouter(new_store(where)) as router:
            await asyncio.gather(*(wait(router, session_id) for session_id in session_ids))
        await asyncio.Event().wait()

    asyncio.run(run())


def avatar_body(n: int, session_id: UUID) -> bytes:
    event = AvatarReady(avatar_id=avatar_id(n), session_id=session_id, user_id="user", status=ScanStatus.READY)
    return event_body(event)


class Sender:
    """Posts webhooks to one receiver after the other, and repeats each until it is acknowledged with a 200.

    Args:
        http: Posts them.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.ports: list[int] = []
        self.sent: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.refused = 0
        """Responses with another status."""
        self.cut = 0
        """Connections that broke or were refused."""
        self.on_cut: Callable[[str], Awaitable[object]] | None = None
        """Called with the key of a webhook whose connection broke."""
        self._responded = asyncio.Event()
        self._http = http
        self._turns = itertools.count()

    async def send(self, body: bytes) -> None:
        """Send a webhook, and return when it is acknowledged."""
        self.sent.add(body)
        while body not in self.acknowledged:
            try:
                status = await self._post(body)
            except aiohttp.ClientConnectionError:
                self.cut += 1
                if self.on_cut is not None:
                    await self.on_cut(f"sha256:{hashlib.sha256(body).hexdigest()}")
                continue
            if status == web.HTTPOk.status_code:
                self.acknowledged.add(body)
            else:
                assert status == web.HTTPServiceUnavailable.status_code
                self.refused += 1
            self._responded.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._responded.clear()
                await self._responded.wait()

    async def _post(self, body: bytes) -> int:
        port = self.ports[next(self._turns) % len(self.ports)]
        headers = {"Content-Type": "application/json", **SIGNATURE.sign(body)}
        async with self._http.post(f"http://127.0.0.1:{port}/avaturn", data=body, headers=headers) as response:
            return response.status


@asynccontextmanager
async def new_sender() -> AsyncIterator[Sender]:
    """Yield a sender that ends with the block."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        yield Sender(http)
