"""A server that receives webhooks: ``python -m tests.benchmarks.webhook_server PEER [STORE]``.

It prints its port. ``wait FIRST COUNT`` starts openers that wait for the events of so many sessions, ``end`` lets them
end; the answer to both is the CPU seconds of the process so far. Each peer does what its documentation shows, and
wakes the opener through a future in a dict.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from aiohttp import web
from attrs import frozen

from avaturn_async.webhooks import AvatarReady, HmacSha256, SessionRouter, StandardWebhooks, WebhookReceiver

SECRET = "c2VjcmV0IG9mIHRoZSBiZW5jaG1hcms="
OPENERS: dict[str, asyncio.Future[None]] = {}
VERIFIER = HmacSha256(SECRET, header="X-Signature")


def make_id(kind: str, n: int) -> str:
    # In no order, as the vendor's: an index of rising ids would be cheaper.
    return str(uuid5(NAMESPACE_URL, f"{kind}/{n}"))


def build_event(n: int) -> dict[str, Any]:
    ids = {"avatar_id": make_id("avatar", n), "session_id": make_id("session", n)}
    return {"event": "avatar.ready", **ids, "user_id": "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF", "status": "ready"}


def encode_request(value: dict[str, Any], sign: Callable[[bytes], dict[str, str]]) -> bytes:
    body = json.dumps(value).encode()
    headers = {"Host": "hooks.example", "Content-Type": "application/json", "Content-Length": len(body), **sign(body)}
    return "".join(["POST / HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), "\r\n"]).encode() + body


async def wait_for_future(session_id: str) -> None:
    OPENERS[session_id] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(600):
        await OPENERS[session_id]


def wake(session_id: str) -> None:
    OPENERS.pop(session_id).set_result(None)


async def serve_app(app: web.Application, listener: socket.socket) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()


async def serve_avaturn(listener: socket.socket, store: str = "") -> Callable[[str], Awaitable[object]]:
    from .store_child import make_store  # noqa: PLC0415 - it imports this module

    router = SessionRouter(make_store(store) if store else None)
    app = web.Application()
    WebhookReceiver(router, verifier=VERIFIER).add_to(app, "/")
    await serve_app(app, listener)
    return lambda session_id: router.wait_for(AvatarReady, session_id=session_id, timeout=600)


async def serve_bare(listener: socket.socket) -> Callable[[str], Awaitable[object]]:
    """Only read the body; no opener waits."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handle)
    await serve_app(app, listener)
    return lambda _: asyncio.sleep(0)


async def serve_aiogram(listener: socket.socket) -> Callable[[str], Awaitable[object]]:
    from aiogram import Bot, Dispatcher, F  # noqa: PLC0415 - peers are optional
    from aiogram.types import Message  # noqa: PLC0415
    from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application  # noqa: PLC0415

    dispatcher, bot = Dispatcher(), Bot("42:TOKEN")

    async def handle(message: Message) -> None:
        wake(str(message.text))

    dispatcher.message.register(handle, F.text)
    app = web.Application()
    SimpleRequestHandler(dispatcher, bot, secret_token=SECRET[:16]).register(app, path="/")
    setup_application(app, dispatcher, bot=bot)
    await serve_app(app, listener)
    return wait_for_future


def build_aiogram(n: int) -> bytes:
    person = {"id": 1, "first_name": "Ada", "username": "ada", "language_code": "en"}
    message = {"message_id": n, "date": 1_441_645_532, "text": make_id("session", n)}
    message |= {"from": {**person, "is_bot": False}, "chat": {**person, "type": "private"}}
    token = {"X-Telegram-Bot-Api-Secret-Token": SECRET[:16]}
    return encode_request({"update_id": n, "message": message}, lambda _: token)


async def serve_hikari(listener: socket.socket) -> Callable[[str], Awaitable[object]]:
    import hikari  # noqa: PLC0415
    from nacl.signing import SigningKey  # noqa: PLC0415

    public_key = SigningKey(SECRET[:32].encode()).verify_key.encode()
    bot = hikari.RESTBot("token", "Bot", public_key=public_key, banner=None, logs=None)

    async def handle(interaction: hikari.CommandInteraction) -> Any:
        wake(str((interaction.options or [])[0].value))
        return interaction.build_response().set_content("done")

    bot.set_listener(hikari.CommandInteraction, handle)
    await bot.start(socket=listener, check_for_updates=False)
    return wait_for_future


def build_hikari(n: int) -> bytes:
    from nacl.signing import SigningKey  # noqa: PLC0415

    key = SigningKey(SECRET[:32].encode())
    user = {"id": "53908232506183680", "username": "ada", "discriminator": "0", "avatar": None}
    option = {"name": "session", "type": 3, "value": make_id("session", n)}
    value = {"type": 2, "id": str(10**17 + n), "application_id": "845027738276462632", "token": "A_UNIQUE_TOKEN"}
    value |= {"data": {"type": 1, "name": "avatar", "id": "771825006014889984", "options": [option]}, "user": user}
    value |= {"channel": {"id": "645027906669510667", "type": 1}, "channel_id": "645027906669510667", "version": 1}
    value |= {"locale": "en-US", "entitlements": [], "app_permissions": "442368", "attachment_size_limit": 26_214_400}
    value |= {"context": 1, "authorizing_integration_owners": {"1": user["id"]}}

    def sign(body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        signature = key.sign(timestamp.encode() + body).signature.hex()
        return {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": timestamp}

    return encode_request(value, sign)


async def serve_asgi(app: Any, listener: socket.socket) -> Callable[[str], Awaitable[object]]:
    import uvicorn  # noqa: PLC0415

    # The loop of the other contenders, and the fastest parser.
    server = uvicorn.Server(uvicorn.Config(app, loop="asyncio", access_log=False, log_level="error"))
    asyncio.get_running_loop().create_task(server.serve([listener]))
    return wait_for_future


async def serve_standardwebhooks(listener: socket.socket) -> Callable[[str], Awaitable[object]]:
    from fastapi import FastAPI, Request, Response  # noqa: PLC0415
    from standardwebhooks import Webhook, WebhookVerificationError  # noqa: PLC0415

    async def handle(request: Request, response: Response) -> None:
        try:
            event = Webhook(SECRET).verify(await request.body(), dict(request.headers))
        except WebhookVerificationError:
            response.status_code = 400
            return
        wake(event["session_id"])

    app = FastAPI()
    handle.__annotations__ = {"request": Request, "response": Response}  # these names are not global
    app.post("/", status_code=204, response_model=None)(handle)
    return await serve_asgi(app, listener)


async def serve_stripe(listener: socket.socket) -> Callable[[str], Awaitable[object]]:
    import stripe  # noqa: PLC0415
    from fastapi import FastAPI, HTTPException, Request  # noqa: PLC0415

    async def handle(request: Request) -> dict[str, bool]:
        try:
            signature = request.headers["stripe-signature"]
            event = stripe.Webhook.construct_event(await request.body(), signature, SECRET)
        except (ValueError, stripe.SignatureVerificationError):
            raise HTTPException(400) from None
        wake(event.data.object["session_id"])
        return {"success": True}

    app = FastAPI()
    handle.__annotations__ = {"request": Request}
    app.post("/", response_model=None)(handle)
    return await serve_asgi(app, listener)


def build_stripe(n: int) -> bytes:
    value = {"id": make_id("event", n), "object": "event", "type": "avatar.ready", "data": {"object": build_event(n)}}

    def sign(body: bytes) -> dict[str, str]:
        timestamp = int(time.time())
        signature = HmacSha256(SECRET, header="v1").sign(b"%d." % timestamp + body)["v1"]
        return {"Stripe-Signature": f"t={timestamp},v1={signature}"}

    return encode_request(value, sign)


@frozen
class Peer:
    serve: Callable[..., Awaitable[Callable[[str], Awaitable[object]]]]
    build_request: Callable[[int], bytes]


PEERS = {
    "avaturn": Peer(serve_avaturn, lambda n: encode_request(build_event(n), VERIFIER.sign)),
    "bare": Peer(serve_bare, lambda n: encode_request(build_event(n), VERIFIER.sign)),
    "aiogram": Peer(serve_aiogram, build_aiogram),
    "hikari": Peer(serve_hikari, build_hikari),
    "standardwebhooks": Peer(
        serve_standardwebhooks, lambda n: encode_request(build_event(n), StandardWebhooks(SECRET).sign)
    ),
    "stripe": Peer(serve_stripe, build_stripe),
}


async def main(name: str, *store: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        wait = await PEERS[name].serve(listener, *store)
    except ImportError as error:
        print(f"unavailable: {error}", flush=True)
        return
    print(listener.getsockname()[1], flush=True)
    openers: list[asyncio.Future[object]] = []
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        if words[0] == "wait":
            first, count = map(int, words[1:])
            openers = [asyncio.ensure_future(wait(make_id("session", n))) for n in range(first, first + count)]
            await asyncio.sleep(0.02)
        else:
            await asyncio.gather(*openers)
        print(time.process_time(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
