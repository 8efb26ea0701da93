"""From a session, or from three photos, to ./avatar.glb; without AVATURN_API_TOKEN on a stand-in."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from avaturn_async import AvaturnClient, Customization, create_avatar, export_avatar
from avaturn_async.progress import progress_bar
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, HmacSha256, RoutedSession, SessionRouter, WebhookReceiver


async def stand_in(stack: AsyncExitStack, router: SessionRouter) -> FakeAvaturn:
    signature, app = HmacSha256("known-to-both-sides", header="X-Signature"), web.Application()
    WebhookReceiver(router, verifier=signature).add_to(app, "/avaturn")
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/avaturn"
    return await stack.enter_async_context(FakeAvaturn(webhook_url=webhook_url, sign=signature))


async def finished(session: RoutedSession, client: AvaturnClient, fake: FakeAvaturn | None) -> Any:
    print("session, to be opened in a browser:", session.url)
    if fake:
        await fake.finish_session(session.id)  # what the person does on that page
        event = await session.wait_for(AvatarReady, timeout=60)
        print("webhook:", event.event, "of session", event.session_id)
        return event.avatar_id
    while not (avatars := await client.list_user_avatars(session.user_id)):
        await asyncio.sleep(3)  # no webhook reaches a laptop
    return avatars[0].id


async def main(photos: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        router, real = await stack.enter_async_context(SessionRouter()), "AVATURN_API_TOKEN" in os.environ
        fake = None if real else await stand_in(stack, router)
        client = AvaturnClient("any-token", base_url=fake.url) if fake else AvaturnClient.from_env()
        user = await (await stack.enter_async_context(client)).create_user()
        print("user:", user.id, "on a stand-in: AVATURN_API_TOKEN is not set" if fake else "")
        if photos:
            with progress_bar("photos") as bar:
                form = {**photos, "body_type": "female", "customization": Customization(body="body_0")}
                avatar_id = (await create_avatar(client, user.id, **form, timeout=900, on_progress=bar)).id
        else:
            avatar_id = await finished(await router.open_session(client, user.id), client, fake)
        print("avatar:", avatar_id, "- its export is asked for")
        with progress_bar("avatar.glb") as bar:
            glb = "./avatar.glb"
            path = await export_avatar(client, avatar_id, glb, timeout=600, router=router, on_progress=bar)
        print("any glTF viewer opens it:", path, sep="\n")


asyncio.run(main(dict(zip(("frontal", "side_1", "side_2"), sys.argv[1:], strict=len(sys.argv) > 1))))
