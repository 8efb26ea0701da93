"""Nothing gets much dearer unnoticed: function calls are counted, since they are the same on every machine.

The bounds are about one and a half times of what was counted when they were written. Time itself is measured
by ``python -m tests.benchmarks``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self
from uuid import UUID

import pytest
from scripted_server import answer, serve

import avaturn_async
from avaturn_async import Avatar, AvaturnClient, Customization, Session
from avaturn_async._structure import loads, structure
from avaturn_async.webhooks import AvatarReady, HmacSha256, SessionRouter, WebhookReceiver, WebhookRequest
from avaturn_async.webhooks.stores import Arrival
from avaturn_async.webhooks.stores.memory import MemoryStore

OURS = str(Path(avaturn_async.__file__).parent)
ID = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
SESSION = {"id": ID, "url": "https://a.example/?t=1", "custom_upload_url": None}
SLOT = {"id": ID, "color": "#aabbcc"}
CUSTOMIZATION = {
    "assets": dict.fromkeys(("clothing", "hair_and_headwear", "eyewear", "footwear"), SLOT),
    "body": "body_0",
    "age": "adult",
    "metadata": {"a": "b", "c": "d"},
    "bone_scale": {"head": 0, "arms": 0, "chest": 0},
    "skin_tone_correction": 0,
}


class Counter:
    """Counts the calls of and in our own functions: theirs, and of C functions from them."""

    def __init__(self) -> None:
        self.calls = 0

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event in {"call", "c_call"}:
            name = frame.f_code.co_filename
            self.calls += name.startswith((OURS, "<made for"))

    def __enter__(self) -> Self:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def calls_of(work: Callable[[], object]) -> int:
    """Calls of a piece of work that was done before, so that what is made once is there."""
    work()
    with Counter() as counter:
        work()
    return counter.calls


async def calls_in(work: Callable[[], Awaitable[object]]) -> int:
    await work()
    with Counter() as counter:
        await work()
    return counter.calls


@pytest.mark.parametrize(
    ("value", "cls", "most"),
    [
        (SESSION, Session, 22),
        (CUSTOMIZATION, Customization, 115),
        ([{"id": ID, "status": "ready"}] * 20, tuple[Avatar, ...], 20 * 12),
    ],
)
def test_reading_an_answer_takes_few_calls(value: Any, cls: Any, most: int) -> None:
    body = json.dumps(value).encode()
    assert 0 < calls_of(lambda: structure(loads(body), cls)) <= most


def test_a_longer_list_costs_no_more_per_avatar() -> None:
    row = {"id": ID, "status": "ready"}
    short = calls_of(lambda: structure([row] * 10, tuple[Avatar, ...]))
    long = calls_of(lambda: structure([row] * 1000, tuple[Avatar, ...]))
    assert long <= 100 * short


@pytest.mark.parametrize(
    ("call", "reply", "most"),
    [
        (lambda c: c.new_session("u"), SESSION, 48),
        (lambda c: c.create_export(ID), {"status": "pending", "url": None}, 50),
        (lambda c: c.get_customization(ID), CUSTOMIZATION, 175),
        (lambda c: c.list_user_avatars("u"), [], 42),
    ],
)
async def test_a_call_adds_few_calls_to_those_of_aiohttp(
    call: Callable[[AvaturnClient], Awaitable[object]], reply: Any, most: int
) -> None:
    async with serve(answer(200, reply)) as server, AvaturnClient("token", base_url=server.url) as client:
        assert 0 < await calls_in(lambda: call(client)) <= most


async def test_a_webhook_takes_few_calls() -> None:
    verifier = HmacSha256("secret", header="X-Signature")
    async with SessionRouter() as router:
        receiver = WebhookReceiver(router, verifier=verifier)

        async def post(n: int) -> None:
            avatar, session = UUID(int=n), UUID(int=n + 1000)
            event = {"event": "avatar.ready", "avatar_id": str(avatar), "session_id": str(session)}
            body = json.dumps({**event, "user_id": "u", "status": "ready"}).encode()
            [(name, value)] = verifier.sign(body).items()
            headers = ((name.encode(), value.encode()), (b"Content-Type", b"application/json"))
            request = WebhookRequest(method="POST", headers=headers, body=body)
            waiting = asyncio.create_task(router.wait_for(AvatarReady, session_id=session, timeout=5))
            await asyncio.sleep(0)
            with Counter() as counter:
                assert (await receiver.receive(request)).status == 200
                assert (await waiting).avatar_id == avatar
            counted.append(counter.calls)

        counted: list[int] = []
        for n in range(3):
            await post(n)
    assert 0 < counted[-1] <= 215


async def test_the_memory_store_does_no_more_with_many_events_than_with_few() -> None:
    store = MemoryStore()

    def arrival(n: int) -> Arrival:
        subject = f"avatar:{UUID(int=n)}"
        return Arrival(
            key=str(n), body=b"{}", session_id=str(UUID(int=n)), subjects=(subject,), binds=(subject,)
        )

    async def one(n: int) -> int:
        with Counter() as counter:
            await store.append(arrival(n))
            await store.read(f"session:{UUID(int=n)}")
        return counter.calls

    await one(0)
    few = await one(1)
    for n in range(2, 5_000):
        await store.append(arrival(n))
    assert 0 < await one(5_000) <= few


def test_the_import_brings_little_but_aiohttp() -> None:
    code = (
        "import sys, aiohttp; before = set(sys.modules); import avaturn_async; "
        "print(*sorted(n for n in set(sys.modules) - before if not n.startswith('avaturn_async')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    more = done.stdout.split()
    assert len(more) <= 12, more
    # attrs stands on its own feet in aiohttp already; cattrs is for when an answer is wrong.
    assert not {"cattrs", "redis", "rich", "sqlite3", "aiohttp.web"} & set(more)
