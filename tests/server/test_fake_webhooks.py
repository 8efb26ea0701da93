"""Webhooks of FakeAvaturn: signatures, records, planned faults and retries."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web

from avaturn_async import AvaturnClient, Create
from avaturn_async.testing import SLACK_LIKE, SVIX_LIKE, FakeAvaturn, VirtualTime, WebhookFault
from avaturn_async.webhooks import HmacSha256


class Signer:
    """Signs with HMAC."""

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
    """Receives webhooks; ``statuses`` are those of the next responses."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.taken: list[tuple[web.BaseRequest, bytes]] = []
        self.stalled: asyncio.Event | None = None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]

    @property
    def avatar_ids(self) -> list[str]:
        return [event["avatar_id"] for event in self.events]

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.taken.append((request, await request.read()))
        if self.stalled is not None:
            await self.stalled.wait()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200, headers={"Location": "/elsewhere"})


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


@pytest.fixture
def virtual() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
async def fake(receiver: Receiver, virtual: VirtualTime) -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn(receiver.url, clock=virtual.time, sleep=virtual.sleep) as fake:
        yield fake


async def make_avatars(fake: FakeAvaturn, count: int = 1) -> list[str]:
    """Make avatars one after the other, and return their ids."""
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        return [str(await fake.finish_session((await client.new_session(user.id, Create())).id)) for _ in range(count)]


async def test_webhook_is_signed_and_delivered_before_finish_session_returns(receiver: Receiver) -> None:
    signer = Signer()
    async with FakeAvaturn(receiver.url, signer) as fake:
        await make_avatars(fake)
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


async def test_webhook_without_a_verifier_is_not_signed(receiver: Receiver) -> None:
    async with FakeAvaturn() as fake:
        await make_avatars(fake)
        assert fake.deliveries == []
        assert len(fake.events) == 1
        fake.webhook_url = receiver.url
        await make_avatars(fake)
        assert fake.webhook_url == receiver.url
        assert len(fake.deliveries) == 1
    assert "X-Signature" not in receiver.taken[0][0].headers


@pytest.mark.parametrize("status", [302, 400, 503])
async def test_refused_webhook_is_recorded_with_its_status(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    async with FakeAvaturn(receiver.url) as fake:
        await make_avatars(fake)
        assert [(d.status, d.accepted) for d in fake.deliveries] == [(status, False)]
    assert len(receiver.taken) == 1


async def test_webhook_without_a_response_is_recorded_without_a_status(receiver: Receiver) -> None:
    async with FakeAvaturn("http://127.0.0.1:9/hook") as fake:
        await make_avatars(fake)
        assert [(d.status, d.accepted) for d in fake.deliveries] == [(None, False)]
    receiver.stalled = asyncio.Event()
    async with asyncio.timeout(20), FakeAvaturn(receiver.url, webhook_timeout=0.01) as fake:
        await make_avatars(fake)
        assert [d.status for d in fake.deliveries] == [None]


async def test_session_id_is_in_avatar_ready_and_by_option_in_all_events(receiver: Receiver) -> None:
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
            await fake.wait_idle()
            named = {event["event"]: event.get("session_id") for event in fake.events}
            elsewhere = str(session.id) if everywhere else None
            assert named == {
                "avatar.ready": str(session.id),
                "export.ready": elsewhere,
                "render.ready": elsewhere,
            }


async def test_exception_of_the_signer_is_raised_by_finish_session(receiver: Receiver) -> None:
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
            await make_avatars(fake)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080/hook", "/hook", "ftp://127.0.0.1/hook?secret=x", "http://xn--/?secret=x"]
)
def test_invalid_webhook_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="webhook_url must be") as refused:
        FakeAvaturn(url)
    assert "secret" not in str(refused.value)
    fake = FakeAvaturn("http://127.0.0.1:8080/hook")
    with pytest.raises(ValueError, match="webhook_url must be"):
        fake.webhook_url = url


@pytest.mark.parametrize("sign", ["hush-0123456789", HmacSha256])
def test_wrong_signer_is_refused(sign: Any) -> None:
    with pytest.raises(TypeError, match=r"sign must be a verifier such as BasicAuth\(user, password\), not") as refused:
        FakeAvaturn("http://127.0.0.1:8080/hook", sign)
    assert "hush" not in str(refused.value)


def test_wrong_fault_is_refused() -> None:
    status: Any = 500
    with pytest.raises(TypeError, match=r"fault must be a Fault, not int: such as Fault\.answer\(500\)"):
        FakeAvaturn().fail(status)
    with pytest.raises(TypeError, match="fault must be a WebhookFault, not int"):
        FakeAvaturn().fail_webhooks(status)


async def test_dropped_webhook_is_sent_by_resend(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.drop(), times=2)
    first, second, third = await make_avatars(fake, 3)
    await fake.wait_idle()
    assert receiver.avatar_ids == [third]
    await fake.resend()
    assert receiver.avatar_ids == [third, first, second]
    await fake.resend()
    assert len(receiver.taken) == 3
    await fake.resend(everything=True)
    assert receiver.avatar_ids[3:] == [first, second, third]
    assert len({delivery.id for delivery in fake.deliveries}) == 3


async def test_duplicated_webhook_has_one_id(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.duplicate())
    (first,) = await make_avatars(fake)
    assert receiver.avatar_ids == [first, first]
    assert len({delivery.id for delivery in fake.deliveries}) == 1
    assert sorted(delivery.attempt for delivery in fake.deliveries) == [1, 2]


async def test_reordered_webhook_comes_after_the_next_one_or_in_wait_idle(
    fake: FakeAvaturn, receiver: Receiver
) -> None:
    fake.fail_webhooks(WebhookFault.reorder())
    first, second, third = await make_avatars(fake, 3)
    assert receiver.avatar_ids == [second, first, third]
    fake.fail_webhooks(WebhookFault.reorder())
    (last,) = await make_avatars(fake)
    assert last not in receiver.avatar_ids
    await fake.wait_idle()
    assert receiver.avatar_ids[-1] == last


async def test_late_webhook_is_sent_after_its_seconds(
    fake: FakeAvaturn, receiver: Receiver, virtual: VirtualTime
) -> None:
    fake.fail_webhooks(WebhookFault.late(3600))
    await make_avatars(fake)
    await fake.wait_idle()
    assert len(receiver.taken) == 1
    assert 3600 in virtual.slept


async def test_late_webhook_sends_the_held_one_after_it(
    fake: FakeAvaturn, receiver: Receiver, virtual: VirtualTime
) -> None:
    fake.fail_webhooks(WebhookFault.reorder())
    fake.fail_webhooks(WebhookFault.late(3600))
    first, second = await make_avatars(fake, 2)
    while len(receiver.taken) < 2:
        await asyncio.sleep(0.01)
    assert receiver.avatar_ids == [second, first]
    assert 3600 in virtual.slept


async def test_held_webhook_that_resend_sent_is_not_sent_again(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.reorder())
    (first,) = await make_avatars(fake)
    await fake.resend()
    await fake.wait_idle()
    assert receiver.avatar_ids == [first]


async def test_fault_without_a_number_applies_to_all_webhooks_and_tasks(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.drop(), event="avatar.ready", times=None)
    fake.fail_tasks("avatar", times=None)
    await make_avatars(fake, 3)
    assert receiver.taken == []
    assert [event["status"] for event in fake.events] == ["failed"] * 3


async def test_webhook_fault_applies_to_its_event(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.drop(), event="export.ready")
    (avatar_id,) = await make_avatars(fake)
    async with AvaturnClient("token", base_url=fake.url) as client:
        await client.create_export(avatar_id)
        await client.render_user_avatar(avatar_id)
    await fake.wait_idle()
    assert [event["event"] for event in receiver.events] == ["avatar.ready", "render.ready"]
    with pytest.raises(ValueError, match="event must be"):
        fake.fail_webhooks(WebhookFault.drop(), event="avatar_ready")


@pytest.mark.parametrize(
    ("retries", "refusals", "slept"),
    [
        ((), 5, []),
        (SLACK_LIKE, 0, []),
        (SLACK_LIKE, 1, [0]),
        (SLACK_LIKE, 99, [0, 60, 300]),
        (SVIX_LIKE, 2, [5, 300]),
        (SVIX_LIKE, 99, list(SVIX_LIKE)),
    ],
)
async def test_refused_webhook_is_retried_after_the_seconds_of_the_schedule(
    receiver: Receiver, virtual: VirtualTime, retries: Sequence[float], refusals: int, slept: list[float]
) -> None:
    receiver.statuses = [500] * refusals
    async with FakeAvaturn(receiver.url, clock=virtual.time, sleep=virtual.sleep, webhook_retries=retries) as fake:
        await make_avatars(fake)
        await fake.wait_idle()
        assert virtual.slept == [0.0, *slept]
        assert [delivery.attempt for delivery in fake.deliveries] == list(range(1, len(slept) + 2))
        assert len({delivery.id for delivery in fake.deliveries}) == 1
        assert fake.deliveries[-1].accepted is (refusals <= len(slept))


async def test_retries_end_when_the_webhook_url_is_removed(receiver: Receiver) -> None:
    async def sleep(seconds: float) -> None:
        if seconds == 60:
            moved.webhook_url = None

    receiver.statuses = [500] * 9
    async with FakeAvaturn(receiver.url, sleep=sleep, webhook_retries=SLACK_LIKE) as moved:
        await make_avatars(moved)
        await moved.wait_idle()
        assert [delivery.attempt for delivery in moved.deliveries] == [1, 2]
