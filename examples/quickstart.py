"""The whole journey: from a session, or from three photos, to ./avatar.glb.

Run quickstart.py, or quickstart.py FRONTAL SIDE_1 SIDE_2. It uses the API if AVATURN_API_TOKEN is set. Otherwise it
starts a stand-in server, which also plays the part of the person who makes an avatar on the session's page.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from uuid import UUID

from aiohttp import web

from avaturn_async import AvaturnClient, Customization, create_avatar, export_avatar, wait_for_new_avatar
from avaturn_async.progress import progress_bar
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import HmacSha256, SessionRouter, WebhookReceiver


async def start_stand_in(stack: AsyncExitStack, router: SessionRouter) -> FakeAvaturn:
    signature, app = HmacSha256("known-to-both-sides", header="X-Signature"), web.Application()
    WebhookReceiver(router, verifier=signature).add_to(app, "/avaturn")
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/avaturn"
    return await stack.enter_async_context(FakeAvaturn(webhook_url=webhook_url, sign=signature))


async def make_in_session(client: AvaturnClient, user_id: str, router: SessionRouter, fake: FakeAvaturn | None) -> UUID:
    known = await client.list_user_avatars(user_id, include_not_ready=True)
    session = await router.open_session(client, user_id)
    print("session page:", session.url)
    if fake is not None:
        await fake.finish_session(session.id)
        print("the stand-in has made an avatar on that page")
    avatar = await wait_for_new_avatar(client, user_id, known=known, timeout=1800, session=session)
    return avatar.id


async def make_from_photos(client: AvaturnClient, user_id: str, frontal: str, side_1: str, side_2: str) -> UUID:
    avatar = await create_avatar(
        client,
        user_id,
        frontal=frontal,
        side_1=side_1,
        side_2=side_2,
        body_type="female",
        customization=Customization(body="body_0"),
        timeout=900,
    )
    return avatar.id


async def main(photos: list[str]) -> None:
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(SessionRouter())
        fake = None
        if "AVATURN_API_TOKEN" not in os.environ:
            print("AVATURN_API_TOKEN is not set: using a stand-in server")
            fake = await start_stand_in(stack, router)
        client = AvaturnClient("any-token", base_url=fake.url) if fake else AvaturnClient.from_env()
        await stack.enter_async_context(client)
        user = await client.create_user()
        print("user:", user.id)
        made = make_from_photos(client, user.id, *photos) if photos else make_in_session(client, user.id, router, fake)
        avatar_id = await made
        print("avatar:", avatar_id)
        with progress_bar("avatar.glb") as on_progress:
            path = await export_avatar(client, avatar_id, "avatar.glb", timeout=600, on_progress=on_progress)
        print("saved", path, "- any glTF viewer opens it")


if __name__ == "__main__":
    if len(sys.argv) not in (1, 4):
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1:]))
