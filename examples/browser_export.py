"""A page that embeds Avaturn's web SDK, and a backend that checks what the page sends.

Run browser_export.py with AVATURN_API_TOKEN set and open http://127.0.0.1:8080. The page shows the Avaturn editor.
After "Next" it prints the path of the GLB that the backend saved. AVATURN_SDK_URL names another copy of the web SDK.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from aiohttp import web

from avaturn_async import AvaturnClient, AvaturnError, BrowserExportError, accept_browser_export
from avaturn_async.webhooks import SessionRouter, UnknownSessionError

SDK_URL = os.environ.get("AVATURN_SDK_URL", "https://cdn.jsdelivr.net/npm/@avaturn/sdk@1.1.4/dist/index.js")
PAGE = """<!doctype html><meta charset="utf-8"><title>Your avatar</title>
<div id="avaturn" style="height: 80vh"></div><p id="result"></p>
<script type="module">
  import { AvaturnSDK } from "SDK_URL";
  const post = (path, body) => fetch(path, { method: "POST", body: JSON.stringify(body) }).then((r) => r.json());
  const { url } = await post("/sessions", {});
  const sdk = new AvaturnSDK();
  await sdk.init(document.querySelector("#avaturn"), { url });
  sdk.on("export", async (result) => {
    const answer = await post("/exports", result);
    document.querySelector("#result").textContent = answer.path ?? answer.error;
  });
</script>"""
router = SessionRouter()
routes = web.RouteTableDef()
client_key = web.AppKey("client", AvaturnClient)
# Your sign-in: which Avaturn user belongs to which browser. A real backend stores it with the account.
users: dict[str, str] = {}


@routes.get("/")
async def page(request: web.Request) -> web.Response:
    response = web.Response(text=PAGE.replace("SDK_URL", SDK_URL), content_type="text/html")
    account = request.cookies.get("account") or str(uuid4())
    if account not in users:
        users[account] = (await request.app[client_key].create_user()).id
    response.set_cookie("account", account, httponly=True, samesite="Lax")
    return response


@routes.post("/sessions")
async def open_session(request: web.Request) -> web.Response:
    session = await router.open_session(request.app[client_key], users[request.cookies["account"]])
    return web.json_response({"url": session.url})


@routes.post("/exports")
async def export(request: web.Request) -> web.Response:
    client, user_id = request.app[client_key], users[request.cookies["account"]]
    try:
        checked = await accept_browser_export(client, await request.json(), user_id=user_id, router=router)
        path = await client.download(checked.url, Path(f"{checked.avatar_id}.glb"))
    except (BrowserExportError, UnknownSessionError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)
    except AvaturnError as error:
        return web.json_response({"error": str(error)}, status=502)
    return web.json_response({"path": str(path)})


async def lifetime(app: web.Application) -> AsyncIterator[None]:
    async with AvaturnClient.from_env() as client, router:
        app[client_key] = client
        yield


if __name__ == "__main__":
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(lifetime)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
