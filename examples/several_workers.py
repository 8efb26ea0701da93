"""Two workers on one socket and one store: who opened a session, who received its webhook, who handled it.

The store is the Redis at REDIS_URL, or else ./avaturn-events.db. Avaturn is the stand-in that comes along.
"""

import asyncio
import os
from multiprocessing import get_context
from socket import create_server, socket

from aiohttp import web

from avaturn_async import AvaturnClient, webhooks
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, HmacSha256, RoutedSession, SessionRouter, WebhookReceiver

SIGNATURE = HmacSha256("known-to-both-sides", header="X-Signature")


def make_router() -> SessionRouter:
    if url := os.environ.get("REDIS_URL"):
        return SessionRouter(webhooks.RedisStore.from_url(url))
    return SessionRouter(webhooks.SQLiteStore("avaturn-events.db"))


def work(name: str, listening: socket) -> None:
    router, app = make_router(), web.Application()
    receiver = WebhookReceiver(router, verifier=SIGNATURE)
    receiver.add_to(app, "/avaturn")

    @router.on(AvatarReady)
    async def handle(event: AvatarReady, session: RoutedSession | None) -> None:
        print(name, "handled", event.event, "of", session and session.context, flush=True)

    web.run_app(app, sock=listening, print=None)
    print(name, "received", receiver.outcomes["stored"], "webhooks", flush=True)


async def main() -> None:
    listening = create_server(("127.0.0.1", 0))
    workers = [get_context("spawn").Process(target=work, args=(f"worker {n}", listening)) for n in (1, 2)]
    for worker in workers:
        worker.start()
    async with (
        FakeAvaturn(f"http://127.0.0.1:{listening.getsockname()[1]}/avaturn", SIGNATURE) as fake,
        AvaturnClient("any-token", base_url=fake.url) as client,
        make_router() as router,
    ):
        session = await router.open_session(client, (await client.create_user()).id, context="account 42")
        print("main opened session", session.id)
        await fake.finish_session(session.id)  # what the person does on its page
        event = await session.wait_for(AvatarReady, timeout=60)
        print("main has seen", event.event, "of session", event.session_id)
    for worker in workers:
        worker.terminate()
        worker.join()


if __name__ == "__main__":
    asyncio.run(main())
