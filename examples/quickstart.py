"""From a session, or from three photos, to ./avatar.glb; without AVATURN_API_TOKEN on a stand-in."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from uuid import UUID

from aiohttp import web

from avaturn_async import AvaturnClient, Customization, create_avatar, export_avatar
from avaturn_async.progress import progress_bar
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, HmacSha256, RoutedSession, SessionRouter, WebhookReceiver


async def stand_in(stack: AsyncExitStack, router: SessionRouter) -> FakeAvaturn:
    """A backend of ours that takes webhooks, and a server that behaves as Avaturn and sends them."""
    signature, app = HmacSha256("known-to-both-sides", header="X-Signature"), web.Application()
    WebhookReceiver(router, verifier=signature).add_to(app, "/avaturn")
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/avaturn"
    return await stack.enter_async_context(FakeAvaturn(webhook_url=webhook_url, sign=signature))


async def from_session(session: RoutedSession, client: AvaturnClient, fake: FakeAvaturn | None) -> UUID:
    print("session, to be opened in a browser:", session.url)
    if fake:
        await fake.finish_session(session.id)  # what the person does on that page
        event = await session.wait_for(AvatarReady, timeout=60)
        print("webhook:", event.event, "of session", event.session_id)
        return event.avatar_id
    while not (avatars := await client.list_user_avatars(session.user_id)):
        await asyncio.sleep(3)
    return avatars[0].id


async def from_photos(user_id: str, client: AvaturnClient, frontal: str, side_1: str, side_2: str) -> UUID:
    with progress_bar("photos") as bar:
        avatar = await create_avatar(
            client,
            user_id,
            frontal=frontal,
            side_1=side_1,
            side_2=side_2,
            body_type="female",
            customization=Customization(body="body_0"),
            timeout=900,
            on_progress=bar,
        )
    return avatar.id


async def main() -> None:
    async with AsyncExitStack() as stack:
        router, fake = await stack.enter_async_context(SessionRouter()), None
        if "AVATURN_API_TOKEN" not in os.environ:
            print("AVATURN_API_TOKEN is not set: a stand-in for Avaturn answers")
            fake = await stand_in(stack, router)
        client = AvaturnClient("any-token", base_url=fake.url) if fake else AvaturnClient.from_env()
        await stack.enter_async_context(client)
        user = await client.create_user()
        print("user:", user.id)
        if sys.argv[1:]:
            avatar_id = await from_photos(user.id, client, *sys.argv[1:4])
        else:
            avatar_id = await from_session(await router.open_session(client, user.id), client, fake)
        print("avatar:", avatar_id, "- its export is asked for")
        with progress_bar("avatar.glb") as bar:
            path = await export_avatar(
                client, avatar_id, "./avatar.glb", timeout=600, router=router, on_progress=bar
            )
        print("any glTF viewer opens it:", path, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
