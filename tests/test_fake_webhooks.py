"""FakeAvaturn tells of what it finished by webhooks, and keeps what was answered."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from avaturn_async import AvaturnClient, Create
from avaturn_async.testing import FakeAvaturn


class Signer:
    """The least that signs."""

    def __init__(self) -> None:
        self.ids: list[str | None] = []

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,  # noqa: ARG002 - in the protocol
        id: str | None = None,  # noqa: A002 - in the protocol
    ) -> dict[str, str]:
        self.ids.append(id)
        return {"X-Signature": hmac.new(b"secret", body, hashlib.sha256).hexdigest()}


class Receiver:
    """A server that takes webhooks, and answers what the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.taken: list[tuple[web.BaseRequest, bytes]] = []
        self.stalled: asyncio.Event | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.taken.append((request, await request.read()))
        if self.stalled is not None:
            await self.stalled.wait()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?secret=x"
    yield receiver
    if receiver.stalled is not None:
        receiver.stalled.set()
    await runner.cleanup()


async def _finish(fake: FakeAvaturn) -> None:
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        await fake.finish_session((await client.new_session(user.id, Create())).id)


async def test_webhooks_are_signed_and_delivered_before_finish_session_returns(receiver: Receiver) -> None:
    signer = Signer()
    async with FakeAvaturn(receiver.url, signer) as fake:
        await _finish(fake)
        ((request, body),) = receiver.taken
        assert request.method == "POST"
        assert request.path_qs == "/hook?secret=x"
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["X-Signature"] == hmac.new(b"secret", body, hashlib.sha256).hexdigest()
        assert receiver.events == fake.events
        (delivery,) = fake.deliveries
        assert (delivery.status, delivery.accepted, delivery.attempt) == (200, True, 1)
        assert (delivery.event, delivery.body) == (fake.events[0], body)
        assert signer.ids == [delivery.id]
        assert "X-Signature" not in repr(delivery)


async def test_without_a_verifier_webhooks_are_not_signed(receiver: Receiver) -> None:
    async with FakeAvaturn() as fake:
        await _finish(fake)
        assert fake.deliveries == []
        assert len(fake.events) == 1
        fake.webhook_url = receiver.url
        await _finish(fake)
        assert fake.webhook_url == receiver.url
        assert len(fake.deliveries) == 1
    assert "X-Signature" not in receiver.taken[0][0].headers


@pytest.mark.parametrize("status", [302, 400, 503])
async def test_a_refused_webhook_is_recorded_with_its_status(receiver: Receiver, status: int) -> None:
    receiver.status = status
    async with FakeAvaturn(receiver.url) as fake:
        await _finish(fake)
        assert [(d.status, d.accepted) for d in fake.deliveries] == [(status, False)]
    assert len(receiver.taken) == 1


async def test_a_receiver_that_is_not_there_is_recorded_too(receiver: Receiver) -> None:
    async with FakeAvaturn("http://127.0.0.1:9/hook") as fake:
        await _finish(fake)
        assert [(d.status, d.accepted) for d in fake.deliveries] == [(None, False)]
    receiver.stalled = asyncio.Event()
    async with FakeAvaturn(receiver.url, webhook_timeout=0.01) as fake:
        await _finish(fake)
        assert [d.status for d in fake.deliveries] == [None]


async def test_events_name_their_session_only_where_the_vendors_examples_do(receiver: Receiver) -> None:
    for everywhere in (False, True):
        async with (
            FakeAvaturn(receiver.url, session_id_in_all_events=everywhere) as fake,
            AvaturnClient("token", base_url=fake.url) as client,
        ):
            user = await client.create_user()
            session = await client.new_session(user.id)
            avatar_id = await fake.finish_session(session.id)
            await client.create_export(avatar_id)
            await client.render_user_avatar(avatar_id)
            await fake.settle()
            named = {event["event"]: event.get("session_id") for event in fake.events}
            elsewhere = str(session.id) if everywhere else None
            assert named == {
                "avatar.ready": str(session.id),
                "export.ready": elsewhere,
                "render.ready": elsewhere,
            }


async def test_a_mistake_in_the_signer_is_not_swallowed(receiver: Receiver) -> None:
    class Broken(Signer):
        def sign(
            self,
            body: bytes,
            *,
            timestamp: float | None = None,
            id: str | None = None,  # noqa: A002 - in the protocol
        ) -> dict[str, str]:
            raise ZeroDivisionError(len(body), timestamp, id)

    async with FakeAvaturn(receiver.url, Broken()) as fake:
        with pytest.raises(ZeroDivisionError):
            await _finish(fake)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080/hook", "/hook", "ftp://127.0.0.1/hook?secret=x"])
def test_what_is_no_web_address_is_refused_before_a_webhook_gets_lost(url: str) -> None:
    with pytest.raises(ValueError, match="webhook_url must be") as refused:
        FakeAvaturn(url)
    assert "secret" not in str(refused.value)
    fake = FakeAvaturn("http://127.0.0.1:8080/hook")
    with pytest.raises(ValueError, match="webhook_url must be"):
        fake.webhook_url = url
