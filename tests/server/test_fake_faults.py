"""Planned faults of FakeAvaturn in responses, seen by HTTP clients."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from avaturn_async import AvaturnClient, RateLimitError, RetryPolicy
from avaturn_async.testing import FakeAvaturn, Fault, VirtualTime, WebhookFault

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


async def test_fault_applies_to_its_path_method_and_number_of_requests(
    fake: FakeAvaturn, http: aiohttp.ClientSession
) -> None:
    failing = fake.fail(Fault.bad_gateway(), path="/api/v1/users/*", method="post", times=2)
    async with http.get("/api/v1/users/x/avatars") as response:
        assert response.status == 404
    async with http.post("/api/v1/avatars/new") as response:
        assert response.status == 422
    assert [(await _new_user(http))[0] for _ in range(3)] == [502, 502, 200]
    assert failing.hits == 2
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
        (Fault.answer(500, "no", headers={"content-type": "a/b"}), 500, {"Content-Type": "a/b"}, b"no"),
        (Fault.answer(204, b""), 204, {}, b""),
    ],
)
async def test_answer_fault_replaces_the_response(
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
        (Fault.reset(execute=True), True),
        # A request of which only a part was read cannot be carried out.
        (Fault.reset(at=1, execute=True), False),
        (Fault.answer(503), False),
        (Fault.answer(503, execute=True), True),
        (Fault.cut(3), True),
    ],
)
async def test_fault_with_execute_still_carries_out_the_request(
    fake: FakeAvaturn, http: aiohttp.ClientSession, fault: Fault, *, works: bool
) -> None:
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        fake.fail(fault)
        try:
            query = {"avatar_id": str(avatar_id)}
            async with http.post("/api/v1/exports/new", params=query, data=b"ignored") as response:
                await response.read()
        except aiohttp.ClientError:
            pass
        await fake.wait_idle()
        assert (len(fake.events) == 2) is works


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fault.answer(99), "status must be a number from 100 to 599, not 99"),
        (lambda: Fault.cut(-1), "at must be a number from 0 up, not -1"),
        (lambda: Fault.reset(at=-1), "at must be a number from 0 up, not -1"),
        (lambda: Fault.stall(at=-1), "at must be a number from 0 up, not -1"),
        (lambda: Fault.slow(float("nan")), "seconds must be a number from 0 up, not nan"),
        (lambda: WebhookFault.late(-1), "seconds must be a number from 0 up, not -1"),
        (lambda: WebhookFault.duplicate(-1), "copies must be a number from 0 up, not -1"),
    ],
)
def test_fault_with_a_number_out_of_range_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("fault", [Fault.cut(2), Fault.stall(2)])
async def test_response_to_head_has_no_body_with_a_fault(fake: FakeAvaturn, fault: Fault) -> None:
    fake.fail(fault)
    reader, writer = await asyncio.open_connection(*fake.url.removeprefix("http://").split(":"))
    writer.write(b"HEAD /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Content-Length: 22" in head
    fake.release()
    assert await reader.read() == b""
    writer.close()


async def test_reset_fault_ends_the_connection_without_a_response(
    fake: FakeAvaturn, http: aiohttp.ClientSession
) -> None:
    fake.fail(Fault.reset())
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await _new_user(http)
    fake.fail(Fault.reset(at=1000, execute=True), path="/upload/*")
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await http.post("/upload/x", data=io.BytesIO(bytes(10_000_000)))
    assert 1000 <= len(fake.requests[-1].body) < 10_000_000


@pytest.mark.parametrize(("at", "arrives"), [(0, 0), (7, 7), (1_000_000, None)])
async def test_cut_fault_ends_the_body_after_its_bytes(fake: FakeAvaturn, at: int, arrives: int | None) -> None:
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
async def test_stalled_response_continues_after_release(
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


async def test_stalled_response_does_not_delay_the_webhook(fake: FakeAvaturn, http: aiohttp.ClientSession) -> None:
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        stalled = fake.fail(Fault.stall())
        waiting = asyncio.create_task(http.post("/api/v1/exports/new", params={"avatar_id": str(avatar_id)}))
        await stalled.wait()
        async with asyncio.timeout(20):
            while len(fake.events) < 2:
                await asyncio.sleep(0)
        assert fake.events[1]["event"] == "export.ready"
        assert not waiting.done()
        fake.release()
        (await waiting).release()


@pytest.mark.parametrize("at", [None, 5])
async def test_stalled_response_ends_when_the_fake_closes(at: int | None) -> None:
    async with FakeAvaturn() as fake, aiohttp.ClientSession(headers=_TOKEN) as http:
        failing = fake.fail(Fault.stall(at))
        asked = asyncio.create_task(http.post(f"{fake.url}/api/v1/users/new"))
        await failing.wait()
        await fake.close()
        (await asked).close()
    assert len(asyncio.all_tasks()) == 1


async def test_slow_fault_delays_the_response_by_the_sleep_of_the_fake(
    fake: FakeAvaturn, http: aiohttp.ClientSession, virtual: VirtualTime
) -> None:
    fake.fail(Fault.slow(40))
    assert (await _new_user(http))[0] == 200
    assert (virtual.slept, virtual.now) == ([40], 40)


async def test_client_that_disconnects_leaves_no_error(
    fake: FakeAvaturn, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    reading = fake.fail(Fault.slow(0))
    host, _, port = fake.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/users/new HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await reading.wait()
    writer.transport.abort()
    stalled = fake.fail(Fault.stall(), path="/api/v1/users/new")
    waiting = asyncio.create_task(_new_user(http))
    await stalled.wait()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    fake.release()
    assert (await _new_user(http))[0] == 200
    await fake.close()
    assert len(fake.requests) == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_body_that_cannot_be_decoded_gets_400(fake: FakeAvaturn, http: aiohttp.ClientSession) -> None:
    async with http.post("/api/v1/users/new", data=b"x" * 100, headers={"Content-Encoding": "gzip"}) as response:
        assert response.status == 400
    assert fake.requests == []


async def test_expire_urls_ends_existing_urls_and_new_ones_work(fake: FakeAvaturn) -> None:
    async with AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        await client.create_export(avatar_id)
        await fake.wait_idle()
        url = fake.events[-1]["export_url"]
        fake.expire_urls()
        async with aiohttp.ClientSession() as plain:
            async with plain.get(url) as response:
                assert response.status == 403
            async with plain.get((await client.create_export(avatar_id)).url or "") as response:
                assert response.status == 200


@pytest.mark.parametrize("with_retry_after", [True, False])
async def test_rate_limit_sends_429_above_its_rate(virtual: VirtualTime, *, with_retry_after: bool) -> None:

    async def create_user(fake: FakeAvaturn) -> None:
        # A client for each call: one client would wait for its Retry-After by the real clock.
        async with AvaturnClient("token", base_url=fake.url, retry=RetryPolicy(attempts=1)) as client:
            await client.create_user()

    async with FakeAvaturn(clock=virtual.time) as fake:
        limit = fake.rate_limit(2, per=10, retry_after=with_retry_after)
        await create_user(fake)
        virtual.now = 4.5
        await create_user(fake)
        with pytest.raises(RateLimitError) as caught:
            await create_user(fake)
        assert caught.value.retry_after == (6.0 if with_retry_after else None)
        assert limit.hits == 1
        virtual.now = 10
        await create_user(fake)
        with pytest.raises(RateLimitError):
            await create_user(fake)
        limit.stop()
        await create_user(fake)


@pytest.mark.parametrize(("calls", "per"), [(0, 1), (1, 0)])
def test_rate_limit_refuses_an_empty_window(calls: int, per: float) -> None:
    with pytest.raises(ValueError, match="calls must be at least 1 and per above 0"):
        Fault.rate_limit(calls, per)
