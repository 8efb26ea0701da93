"""Two workers on one socket share a store: each prints the webhooks that it received and the events that it handled.

Run several_workers.py. STORE_URL names the store: redis://… or postgresql://…; without it, it is ./avaturn-events.db.
Avaturn is the stand-in that comes along.
"""

import asyncio
import os
from multiprocessing import get_context, synchronize
from socket import create_server, socket

from aiohttp import web

from avaturn_async import AvaturnClient, webhooks
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, HmacSha256, RoutedSession, SessionRouter, WebhookReceiver

SIGNATURE = HmacSha256("known-to-both-sides", header="X-Signature")


def make_router() -> SessionRouter:
    url = os.environ.get("STORE_URL", "")
    if url.startswith("redis"):
        return SessionRouter(webhooks.RedisStore.from_url(url))
    if url.startswith("postgres"):
        return SessionRouter(webhooks.PostgresStore.from_url(url))
    return SessionRouter(webhooks.SQLiteStore("avaturn-events.db"))


def work(name: str, listening: socket, up: synchronize.Semaphore) -> None:
    router, app = make_router(), web.Application()
    receiver = WebhookReceiver(router, verifier=SIGNATURE)
    receiver.add_to(app, "/avaturn")

    @router.on(AvatarReady, name="print-avatar")
    async def handle(event: AvatarReady, session: RoutedSession | None) -> None:
        print(name, "handled", event.event, "of", session and session.context, flush=True)

    def report(_: object) -> None:  # run_app calls it when the server is up
        up.release()

    web.run_app(app, sock=listening, print=report)
    print(name, "received", receiver.outcomes["stored"], "webhooks", flush=True)


async def main() -> None:
    listening, spawn = create_server(("127.0.0.1", 0)), get_context("spawn")
    up = spawn.Semaphore(0)
    for n in (1, 2):  # as daemons they are told to end when this process ends, which waits for them
        spawn.Process(target=work, args=(f"worker {n}", listening, up), daemon=True).start()
        up.acquire(timeout=60)
    async with (
        FakeAvaturn(f"http://127.0.0.1:{listening.getsockname()[1]}/avaturn", SIGNATURE) as fake,
        AvaturnClient("any-token", base_url=fake.url) as client,
        make_router() as router,
    ):
        users = [(n, await client.create_user()) for n in (1, 2, 3, 4)]
        sessions = [await router.open_session(client, user.id, context=f"account {n}") for n, user in users]
        print("main opened", len(sessions), "sessions", flush=True)
        await asyncio.gather(*(fake.finish_session(session.id) for session in sessions))  # as people do
        for session in sessions:
            event = await session.wait_for(AvatarReady, timeout=60)
            print("main has seen", event.event, "of", session.context, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
