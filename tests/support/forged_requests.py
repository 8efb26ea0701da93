"""Forged webhooks of every kind, and a program that prints the memory of a receiver that refuses a million of them.

    python tests/support/forged_requests.py [COUNT]

The requests arrive over a socket at the aiohttp adapter; each has another body, signature, delivery id and session.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from aiohttp import web

from avaturn_async import AvaturnClient
from avaturn_async.webhooks import (
    ConfirmByApi,
    HmacSha256,
    SessionRouter,
    SharedSecret,
    StandardWebhooks,
    Unverified,
    WebhookReceiver,
    WebhookRequest,
)

KEY = "hush-0123456789abcdef"


class Api:
    """A client that must not be called."""

    async def list_user_avatars(self, *_: object, **__: object) -> None:
        raise AssertionError("a forged webhook made a request")

    create_export = list_user_avatars


def make_receivers(router: SessionRouter) -> dict[str, WebhookReceiver]:
    """Return a receiver for each scheme; ``unverified`` leaves the decision to the API."""
    confirm = ConfirmByApi(cast("AvaturnClient", Api()), router)
    return {
        "hmac": WebhookReceiver(router, verifier=HmacSha256(KEY, header="X-Signature")),
        "standard": WebhookReceiver(router, verifier=StandardWebhooks(KEY.encode())),
        "query": WebhookReceiver(router, verifier=SharedSecret(KEY, query="key"), confirm=confirm),
        "unverified": WebhookReceiver(router, verifier=Unverified(), confirm=confirm),
    }


def forge_requests(seed: int = 0) -> Iterator[tuple[str, WebhookRequest]]:
    """Yield the name of a receiver and a request for it, without end."""
    numbers = random.Random(seed)
    names = ("hmac", "standard", "query", "unverified")
    kinds = ("avatar.ready", "export.ready", "render.ready", "invented")
    n = 0
    while True:
        n += 1
        ids = {name: str(UUID(int=numbers.getrandbits(128))) for name in ("avatar_id", "id", "session_id")}
        event = {"event": numbers.choice(kinds), "user_id": f"u{n}", "status": "ready", **ids}
        body = json.dumps(event).encode() if n % 7 else b'{"event": "%d"' % n
        signature = f"{numbers.getrandbits(256):064x}"
        headers = {
            "X-Signature": signature,
            "webhook-id": f"msg_{n}",
            "webhook-timestamp": str(int(time.time()) - n % 10),
            "webhook-signature": f"v1,{signature}",
            "Content-Type": "application/json" if n % 5 else f"text/{n}",
        }
        method = "POST" if n % 11 else "PUT"
        yield (
            names[n % 4],
            WebhookRequest(method=method, headers=headers, body=body, query=f"key={signature}", peer=f"peer {n}"),
        )


async def receive_forged(receivers: dict[str, WebhookReceiver], requests: Iterator[Any], count: int) -> None:
    """Pass forged requests to the receivers; none is stored."""
    for _, (name, request) in zip(range(count), requests, strict=False):
        await receivers[name].receive(request)
        await asyncio.sleep(0)  # asyncio forgets cancelled timers in the turns of its loop


def get_rss() -> int:
    """Return the memory of this process in KB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def _send(port: int, count: int, seed: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _, (name, request) in zip(range(count), forge_requests(seed), strict=False):
        lines = [
            f"{request.method} /{name}?{request.query} HTTP/1.1",
            "Host: x",
            f"Content-Length: {len(request.body)}",
        ]
        lines += [f"{key.decode()}: {value.decode()}" for key, value in request.headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + request.body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
    writer.close()


async def main(total: int) -> None:
    router, app = SessionRouter(), web.Application()
    receivers = make_receivers(router)
    for name, receiver in receivers.items():
        receiver.add_to(app, f"/{name}")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    sent, connections, began = 0, 20, time.monotonic()
    while sent < total:
        step = max(total // 10, connections)
        await asyncio.gather(*(_send(port, step // connections, sent + n) for n in range(connections)))
        sent += step // connections * connections
        rate = sent / (time.monotonic() - began)
        print(f"{sent:>9,} requests: {get_rss() / 1024:6.1f} MB, {rate:,.0f} a second with the sender", flush=True)  # noqa: T201
    outcomes = {name: {k: v for k, v in each.outcomes.items() if v} for name, each in receivers.items()}
    print(json.dumps(outcomes, indent=1))  # noqa: T201
    stored = sum(each.outcomes["stored"] for each in receivers.values())
    assert stored == 0
    await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
