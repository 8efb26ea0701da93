"""Whatever can go wrong with Avaturn goes wrong here on request, and only then."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from avaturn_async import AvaturnClient, Create
from avaturn_async.testing import (
    SLACK_LIKE,
    SVIX_LIKE,
    FakeAvaturn,
    Fault,
    VirtualTime,
    WebhookFault,
)

_TOKEN = {"Authorization": "Bearer token"}


@pytest.fixture
def virtual() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
async def fake(virtual: VirtualTime) -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn(seed=1, clock=virtual.time, sleep=virtual.sleep) as fake:
        yield fake


@pytest.fixture
async def http(fake: FakeAvaturn) -> AsyncIterator[aiohttp.ClientSession]:
    # One connection for each request, or aiohttp would repeat some requests by itself.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(fake.url, headers=_TOKEN, connector=connector) as http:
        yield http


async def _new_user(http: aiohttp.ClientSession) -> tuple[int, bytes]:
    async with http.post("/api/v1/users/new") as response:
        return response.status, await response.read()


async def test_a_fault_strikes_the_requests_that_it_was_asked_for(
    fake: FakeAvaturn, http: aiohttp.ClientSession
) -> None:
    failing = fake.fail(Fault.bad_gateway(), path="/api/v1/users/*", method="post", times=2)
    async with http.get("/api/v1/users/x/avatars") as response:
        assert response.status == 404
    async with http.post("/api/v1/avatars/new") as response:
        assert response.status == 422
    assert [(await _new_user(http))[0] for _ in range(3)] == [502, 502, 200]
    assert failing.struck == 2
    always = fake.fail(Fault.bad_gateway(), times=None)
    fake.fail(Fault.rate_limited(), times=1)
    assert [(await _new_user(http))[0] for _ in range(3)] == [502] * 3
    always.stop()
    assert [(await _new_user(http))[0] for _ in range(2)] == [429, 200]
    assert len(fake.requests) == 10


@pytest.mark.parametrize(
    ("fault", "status", "headers", "body"),
    [
        (Fault.bad_gateway(), 502, {"Content-Type": "text/html"}, b"<html>"),
        (Fault.rate_limited(1), 429, {"Retry-After": "1"}, b'{"detail"'),
        (Fault.rate_limited("soon"), 429, {"Retry-After": "soon"}, b'{"detail"'),
        (Fault.answer(200, {"id": 5}), 200, {"Content-Type": "application/json"}, b'{"id": 5}'),
        (Fault.answer(200, b"\xff"), 200, {}, b"\xff"),
        (Fault.answer(302, headers={"Location": "/x"}), 302, {"Location": "/x"}, b"null"),
        (Fault.answer(500, "no", headers={"Content-Type": "a/b"}), 500, {"Content-Type": "a/b"}, b"no"),
        (Fault.answer(204, b""), 204, {}, b""),
    ],
)
async def test_any_answer_can_stand_in_for_the_right_one(
    fake: FakeAvaturn,
    http: aiohttp.ClientSession,
    fault: Fault,
    status: int,
    headers: dict[str, str],
    body: bytes,
) -> None:
    fake.fail(fault)
    async with http.post("/api/v1/users/new", allow_redirects=False) as response:
        assert response.status == status
        assert {name: response.headers[name] for name in headers} == headers
        assert (await response.read()).startswith(body)


@pytest.mark.parametrize(
    ("fault", "works"),
    [
        (Fault.reset(), False),
        (Fault.reset(works=True), True),
        (Fault.answer(503), False),
        (Fault.answer(503, works=True), True),
        (Fault.cut(3), True),
    ],
)
async def test_a_fault_says_whether_the_request_is_carried_out(
    fake: FakeAvaturn, http: aiohttp.ClientSession, fault: Fault, *, works: bool
) -> None:
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        fake.fail(fault)
        try:
            async with http.post("/api/v1/exports/new", params={"avatar_id": str(avatar_id)}) as response:
                await response.read()
        except aiohttp.ClientError:
            pass
        await fake.settle()
        assert (len(fake.events) == 2) is works


async def test_a_reset_connection_ends_without_an_answer(
    fake: FakeAvaturn, http: aiohttp.ClientSession
) -> None:
    fake.fail(Fault.reset())
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await _new_user(http)
    fake.fail(Fault.reset(at=1000, works=True), path="/upload/*")
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await http.post("/upload/x", data=io.BytesIO(bytes(10_000_000)))
    assert 1000 <= len(fake.requests[-1].body) < 10_000_000


@pytest.mark.parametrize(("at", "arrives"), [(0, 0), (7, 7), (1_000_000, None)])
async def test_an_answer_is_cut_where_it_was_asked_for(
    fake: FakeAvaturn, at: int, arrives: int | None
) -> None:
    fake.fail(Fault.cut(at))
    # A connection that could be used again: the fake has to end it.
    async with (
        aiohttp.ClientSession(fake.url, headers=_TOKEN) as http,
        http.post("/api/v1/users/new") as response,
    ):
        got = b""
        try:
            while chunk := await response.content.readany():
                got += chunk
        except aiohttp.ClientPayloadError:
            assert len(got) == arrives
        else:
            assert arrives is None
            assert json.loads(got)


@pytest.mark.parametrize("at", [None, 0, 5])
async def test_an_answer_stalls_until_it_is_released(
    fake: FakeAvaturn, http: aiohttp.ClientSession, at: int | None
) -> None:
    failing = fake.fail(Fault.stall(at))
    asked = asyncio.create_task(_new_user(http))
    await failing.wait()
    async with http.get("/no/such/place") as response:
        assert response.status == 404
    assert not asked.done()
    fake.release()
    status, body = await asked
    assert (status, set(json.loads(body))) == (200, {"id"})


@pytest.mark.parametrize("at", [None, 5])
async def test_closing_ends_what_stalls(at: int | None) -> None:
    async with FakeAvaturn() as fake, aiohttp.ClientSession(headers=_TOKEN) as http:
        failing = fake.fail(Fault.stall(at))
        asked = asyncio.create_task(http.post(f"{fake.url}/api/v1/users/new"))
        await failing.wait()
        await fake.close()
        (await asked).close()
    assert len(asyncio.all_tasks()) == 1


async def test_an_answer_can_be_slow_in_virtual_time(
    fake: FakeAvaturn, http: aiohttp.ClientSession, virtual: VirtualTime
) -> None:
    fake.fail(Fault.slow(40))
    assert (await _new_user(http))[0] == 200
    assert (virtual.slept, virtual.now) == ([40], 40)


async def test_a_client_that_goes_away_disturbs_nobody(
    fake: FakeAvaturn, http: aiohttp.ClientSession
) -> None:
    host, _, port = fake.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/users/new HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()
    failing = fake.fail(Fault.stall(), path="/api/v1/users/new")
    gone = asyncio.create_task(_new_user(http))
    await failing.wait()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    fake.release()
    assert (await _new_user(http))[0] == 200


async def test_temporary_urls_can_be_made_to_expire(fake: FakeAvaturn) -> None:
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        await client.create_export(avatar_id)
        await fake.settle()
        url = fake.events[-1]["export_url"]
        fake.expire_urls()
        async with aiohttp.ClientSession() as plain:
            async with plain.get(url) as response:
                assert response.status == 403
            async with plain.get((await client.create_export(avatar_id)).url or "") as response:
                assert response.status == 200


class Receiver:
    """Takes webhooks, and refuses as many as it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.refusing = 0
        self.taken: list[tuple[str, str]] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        event = json.loads(await request.read())
        self.taken.append((event["event"], event["avatar_id"]))
        self.refusing -= 1
        return web.Response(status=500 if self.refusing >= 0 else 200)


@pytest.fixture
async def receiver(fake: FakeAvaturn) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.webhook_url = receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    await runner.cleanup()


async def _avatars(fake: FakeAvaturn, count: int) -> list[tuple[str, str]]:
    """Make avatars one after the other; the webhooks in the order that they should have."""
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        ids = [
            await fake.finish_session((await client.new_session(user.id, Create())).id) for _ in range(count)
        ]
    return [("avatar.ready", str(avatar_id)) for avatar_id in ids]


async def test_a_dropped_webhook_comes_when_it_is_sent_again(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.drop(), times=2)
    first, second, third = await _avatars(fake, 3)
    await fake.settle()
    assert receiver.taken == [third]
    await fake.resend()
    assert receiver.taken == [third, first, second]
    await fake.resend()
    assert len(receiver.taken) == 3
    await fake.resend(everything=True)
    assert receiver.taken[3:] == [first, second, third]
    assert len({delivery.id for delivery in fake.deliveries}) == 3


async def test_a_webhook_can_come_twice_with_one_id(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.duplicate())
    (first,) = await _avatars(fake, 1)
    assert receiver.taken == [first, first]
    assert len({delivery.id for delivery in fake.deliveries}) == 1
    assert sorted(delivery.attempt for delivery in fake.deliveries) == [1, 2]


async def test_webhooks_can_come_in_another_order(fake: FakeAvaturn, receiver: Receiver) -> None:
    fake.fail_webhooks(WebhookFault.reorder())
    first, second, third = await _avatars(fake, 3)
    assert receiver.taken == [second, first, third]
    fake.fail_webhooks(WebhookFault.reorder())
    (last,) = await _avatars(fake, 1)
    assert last not in receiver.taken
    await fake.settle()
    assert receiver.taken[-1] == last


async def test_a_webhook_can_be_late(fake: FakeAvaturn, receiver: Receiver, virtual: VirtualTime) -> None:
    fake.fail_webhooks(WebhookFault.late(3600))
    await _avatars(fake, 1)
    await fake.settle()
    assert len(receiver.taken) == 1
    assert 3600 in virtual.slept


async def test_a_webhook_fault_can_be_meant_for_one_kind_of_event(
    fake: FakeAvaturn, receiver: Receiver
) -> None:
    fake.fail_webhooks(WebhookFault.drop(), event="export.ready")
    ((_, avatar_id),) = await _avatars(fake, 1)
    async with AvaturnClient("token", base_url=fake.url) as client:
        await client.create_export(avatar_id)
        await client.render_user_avatar(avatar_id)
    await fake.settle()
    assert [event for event, _ in receiver.taken] == ["avatar.ready", "render.ready"]
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
async def test_a_refused_webhook_is_sent_again_by_the_schedule(
    receiver: Receiver, retries: Any, refusals: int, slept: list[float]
) -> None:
    virtual = VirtualTime()
    receiver.refusing = refusals
    async with FakeAvaturn(
        receiver.url, clock=virtual.time, sleep=virtual.sleep, webhook_retries=retries
    ) as fake:
        await _avatars(fake, 1)
        await fake.settle()
        assert virtual.slept == [0.0, *slept]
        assert [delivery.attempt for delivery in fake.deliveries] == list(range(1, len(slept) + 2))
        assert len({delivery.id for delivery in fake.deliveries}) == 1
        assert fake.deliveries[-1].accepted is (refusals <= len(slept))


async def test_retries_end_when_the_url_is_taken_away(receiver: Receiver) -> None:
    async def sleep(seconds: float) -> None:
        if seconds == 60:
            moved.webhook_url = None

    receiver.refusing = 99
    async with FakeAvaturn(receiver.url, sleep=sleep, webhook_retries=SLACK_LIKE) as moved:
        await _avatars(moved, 1)
        await moved.settle()
        assert [delivery.attempt for delivery in moved.deliveries] == [1, 2]
