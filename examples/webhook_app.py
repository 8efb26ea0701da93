"""A backend and its page: the session in an iframe, and the avatar pushed to the page when it is ready.

Set AVATURN_API_TOKEN and AVATURN_WEBHOOK_SECRET, register https://your.host/avaturn?key=SECRET at Avaturn
(or run python -m avaturn_async.testing with that as --webhook-url), and open http://127.0.0.1:8080.
"""

import json
import os

from aiohttp import web

from avaturn_async import AvaturnClient, AvaturnTimeoutError, RouterClosedError, UnknownSessionError
from avaturn_async.webhooks import AvatarReady, ConfirmByApi, SessionRouter, SharedSecret, WebhookReceiver

PAGE = """<!doctype html><meta charset="utf-8"><title>Your avatar</title>
<p><button id="start">Make my avatar</button> <output id="result"></output></p>
<iframe id="avaturn" allow="camera" style="width: 100%; height: 85vh; border: 0"></iframe>
<script>
  document.getElementById("start").onclick = async () => {
    const { id, url } = await (await fetch("/start", { method: "POST" })).json();
    document.getElementById("avaturn").src = url;
    const results = new EventSource("/result/" + id);
    results.onmessage = ({ data }) => { results.close(); document.getElementById("result").value = data; };
  };
</script>"""


def make_app() -> web.Application:
    client, router, app = AvaturnClient.from_env(), SessionRouter(), web.Application()
    secret = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], query="key")
    WebhookReceiver(router, verifier=secret, confirm=ConfirmByApi(client, router)).add_to(app, "/avaturn")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def start(_: web.Request) -> web.Response:
        user = await client.create_user()  # once for each of your accounts: keep the id there
        session = await router.open_session(client, user.id)
        return web.json_response({"id": str(session.id), "url": session.url})

    async def result(request: web.Request) -> web.StreamResponse:
        try:
            session = await router.session(request.match_info["id"])
        except UnknownSessionError:
            raise web.HTTPNotFound from None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            event = await session.wait_for(AvatarReady, timeout=600)
        except (AvaturnTimeoutError, RouterClosedError):
            return response  # no avatar in time, or the app shuts down: the page connects again
        said = json.dumps({"avatar_id": str(event.avatar_id), "status": event.status})
        await response.write(f"data: {said}\n\n".encode())
        return response

    app.add_routes([web.get("/", page), web.post("/start", start), web.get("/result/{id}", result)])
    app.on_cleanup.append(lambda _: client.close())
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=8080)
