"""The members of a fleet, each for a process of its own, and a sender of webhooks that does not give up."""

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
from routing import avatar_id

from avaturn_async import AvaturnClient, ScanStatus
from avaturn_async.webhooks import (
    AvatarReady,
    ExportReady,
    HmacSha256,
    RedisStore,
    RoutedSession,
    SessionRouter,
    SQLiteStore,
    WebhookReceiver,
)
from avaturn_async.webhooks.events import event_body
from avaturn_async.webhooks.stores import EventStore

SIGNATURE = HmacSha256("known-to-both-sides", header="X-Signature")
# Seconds; what a process that dies held is handled by another after this.
TAKEOVER = 1.0


def store_at(where: str) -> EventStore:
    """A URL of Redis, or the path of a file."""
    if where.startswith("redis:"):
        return RedisStore.from_url(where, takeover=TAKEOVER)
    return SQLiteStore(where, takeover=TAKEOVER)


def number(avatar: UUID | None) -> int:
    """The n of ``avatar_id(n)``."""
    assert avatar is not None
    return int(avatar.hex[-12:], 16)


# What runs in a process of its own


def receive(pipe: Connection, where: str, handlers: Literal["free", "gated"]) -> None:
    """Receive webhooks, and handle events; gated ones begin with avatars, and go on when they are told to.

    Says ("listening", port); ("begun" and then "handled", type, n of the avatar).
    """

    async def run() -> None:
        router = SessionRouter(store_at(where), handler_concurrency=4)
        gate = asyncio.Event()

        @router.on(AvatarReady)
        async def avatar(event: AvatarReady, session: RoutedSession | None) -> None:
            assert session is not None
            pipe.send(("begun", "avatar", number(event.avatar_id)))
            if handlers == "gated":
                await gate.wait()
            pipe.send(("handled", "avatar", number(event.avatar_id)))

        @router.on(ExportReady)
        async def export(event: ExportReady, session: RoutedSession | None) -> None:
            assert session is not None
            pipe.send(("handled", "export", number(event.avatar_id)))

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
    """Open a session for each account; says (id, account)."""

    async def run() -> None:
        async with (
            AvaturnClient("any-token", base_url=api) as client,
            SessionRouter(store_at(where)) as router,
        ):
            for account in accounts:
                user = await client.create_user()
                session = await router.open_session(client, user.id, context={"account": account})
                pipe.send((str(session.id), account))
        await asyncio.Event().wait()

    asyncio.run(run())


def wait_for_events(pipe: Connection, where: str, session_ids: Iterable[str], timeout: float) -> None:
    """Wait in sessions that others opened.

    Says (id, "context", what it is); then, for an event of each type, (id, type, n of the avatar).
    """

    async def wait(router: SessionRouter, session_id: str) -> None:
        session = await router.session(session_id)
        pipe.send((session_id, "context", session.context))
        avatar = await session.wait_for(AvatarReady, timeout=timeout)
        pipe.send((session_id, "avatar", number(avatar.avatar_id)))
        export = await session.wait_for(ExportReady, timeout=timeout)
        pipe.send((session_id, "export", number(export.avatar_id)))

    async def run() -> None:
        async with SessionRouter(store_at(where)) as router:
            await asyncio.gather(*(wait(router, session_id) for session_id in session_ids))
        await asyncio.Event().wait()

    asyncio.run(run())


# What runs in the test


def avatar_body(n: int, session_id: UUID) -> bytes:
    event = AvatarReady(
        avatar_id=avatar_id(n), session_id=session_id, user_id="user", status=ScanStatus.READY
    )
    return event_body(event)


class Sender:
    """Posts webhooks to one receiver after the other, and repeats whatever was not answered with a 200.

    Args:
        http: Posts them.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.ports: list[int] = []
        self.sent: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.refused = 0
        """Answers that were none of 200."""
        self.cut = 0
        """Connections that broke, or were not taken."""
        self.on_cut: Callable[[str], Awaitable[object]] | None = None
        """Called with the key of a webhook whose connection broke."""
        self._answered = asyncio.Event()
        self._http = http
        self._turns = itertools.count()

    async def send(self, body: bytes) -> None:
        """Returns when it is acknowledged."""
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
            self._answered.set()

    async def until(self, fulfilled: Callable[[], bool]) -> None:
        """Wait for answers."""
        async with asyncio.timeout(60):
            while not fulfilled():
                self._answered.clear()
                await self._answered.wait()

    async def _post(self, body: bytes) -> int:
        port = self.ports[next(self._turns) % len(self.ports)]
        headers = {"Content-Type": "application/json", **SIGNATURE.sign(body)}
        async with self._http.post(
            f"http://127.0.0.1:{port}/avaturn", data=body, headers=headers
        ) as response:
            return response.status


@asynccontextmanager
async def sender() -> AsyncIterator[Sender]:
    """A sender for the time of the block."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        yield Sender(http)
