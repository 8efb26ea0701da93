"""Renders an avatar in all public scenes at once, to a page: render_gallery.py AVATAR_ID FOLDER.

A render ends with a webhook and cannot be asked for, so the script takes webhooks: register
https://your.host/avaturn?key=SECRET at Avaturn, bring that to PORT (8080) on this machine, and set
AVATURN_API_TOKEN and AVATURN_WEBHOOK_SECRET.
"""

import asyncio
import os
import sys
from html import escape
from pathlib import Path

from aiohttp import web

from avaturn_async import AvaturnClient, AvaturnError, wait_for_render
from avaturn_async.webhooks import SessionRouter, SharedSecret, WebhookReceiver

BODIES = ["forest_half_body", "transparent_half_body", "transparent_full_body", "forest_full_body", "city_full_body"]
SCENES = ["preview", *BODIES, "futuristic_fantasy_full_body"]
HEAD = """<!doctype html><meta charset="utf-8"><title>Avatar</title><style>
body { display: grid; grid-template-columns: repeat(auto-fill, minmax(14em, 1fr)); gap: 1em }
figure { margin: 0 } img { width: 100% } figcaption { text-align: center }
</style>"""


async def main(avatar_id: str, folder: Path) -> list[str]:
    client, router, app = AvaturnClient.from_env(), SessionRouter(), web.Application()
    secret = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], query="key")
    WebhookReceiver(router, verifier=secret).add_to(app, "/avaturn")

    async def figure(scene: str) -> str:
        try:
            render = await client.render_user_avatar(avatar_id, scene=f"common/{scene}", format="png")
            event = await wait_for_render(render.id, timeout=300, router=router)
            await client.download(event.render_url or "", folder / f"{scene}.png")
        except (AvaturnError, ValueError) as error:
            print(f"{scene}: {error}")
            return f"<p>{scene}: {escape(str(error))}</p>"
        print(f"{scene}: done")
        return f"<figure><img src='{scene}.png'><figcaption>{scene}</figcaption></figure>"

    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "8080"))).start()
    async with client:
        figures = await asyncio.gather(*map(figure, SCENES))
    await runner.cleanup()
    return figures


if __name__ == "__main__":
    match sys.argv[1:]:
        case [avatar_id, folder]:
            page = Path(folder) / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(HEAD + "".join(asyncio.run(main(avatar_id, page.parent))))
            print(page)
        case _:
            sys.exit(__doc__)
