"""Rate limits: a burst of calls, the shared pause after a 429, and max_concurrency. Time is virtual."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aioresponses import CallbackResult, aioresponses
from attrs import define, field
from support.virtual_time import virtual

from avaturn_async import AvaturnClient, ClientClosedError, RateLimitError, RetryPolicy, User

URL = "https://api.avaturn.me/api/v1/users/new"


@define
class RateLimitedApi:
    """Create User with a limit of calls for each window of seconds."""

    calls: int
    window: float
    retry_after: str | None = None
    latency: float = 0.05
    running: int = 0
    most_at_once: int = 0
    received: int = 0
    accepted: list[float] = field(factory=list[float])

    async def respond(self, url: object, **_: Any) -> CallbackResult:  # noqa: ARG002 - aioresponses calls it so
        self.received += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.running -= 1
        now = asyncio.get_running_loop().time()
        if sum(now - at < self.window for at in self.accepted) >= self.calls:
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return CallbackResult(status=429, payload={}, headers=headers)
        self.accepted.append(now)
        return CallbackResult(payload={"id": f"user-{len(self.accepted)}"})


@asynccontextmanager
async def client_of(api: RateLimitedApi, **options: Any) -> AsyncIterator[AvaturnClient]:
    with aioresponses() as mocked:
        mocked.post(URL, callback=api.respond, repeat=True)
        async with AvaturnClient("token", **options) as client:
            yield client


@pytest.mark.parametrize("retry_after", ["1", None])
@pytest.mark.parametrize("latency", [0.005, 0.2])
@pytest.mark.parametrize("options", [{}, {"max_concurrency": 8}])
@virtual
async def test_burst_of_posts_loses_none_at_a_rate_limit(
    retry_after: str | None, latency: float, options: dict[str, Any]
) -> None:
    random.seed(1)
    api = RateLimitedApi(5, 1.0, retry_after, latency)
    async with client_of(api, **options) as client:
        users = await asyncio.gather(*(client.create_user() for _ in range(60)))
    assert len(set(users)) == len(api.accepted) == 60


@virtual
async def test_429_pauses_the_other_calls_of_the_client() -> None:
    api = RateLimitedApi(1, 3.0, "3")
    async with client_of(api) as client:
        assert await client.create_user() == User(id="user-1")
        refused = asyncio.create_task(client.create_user())
        await asyncio.sleep(1)
        assert api.received == 2
        other = asyncio.create_task(client.create_user())
        await asyncio.sleep(1)
        assert api.received == 2
        await asyncio.gather(refused, other)


@virtual
async def test_429_beyond_the_cap_is_raised_and_pauses_no_other_call() -> None:
    api = RateLimitedApi(0, 1.0, "99")
    async with client_of(api) as client:
        with pytest.raises(RateLimitError):
            await client.create_user()
        api.calls = 1
        began = asyncio.get_running_loop().time()
        await client.create_user()
        assert asyncio.get_running_loop().time() - began < 1


@virtual
async def test_429_ends_after_the_attempts() -> None:
    api = RateLimitedApi(0, 1.0)
    async with client_of(api, retry=RetryPolicy(attempts=4)) as client:
        with pytest.raises(RateLimitError):
            await client.create_user()
    assert api.received == 4


@pytest.mark.parametrize(("limit", "most"), [(3, 3), (None, 100)])
@virtual
async def test_max_concurrency_bounds_calls_at_once(limit: int | None, most: int) -> None:
    api = RateLimitedApi(1000, 1.0)
    async with client_of(api, max_concurrency=limit) as client:
        await asyncio.gather(*(client.create_user() for _ in range(150)))
    assert api.most_at_once == most


@virtual
async def test_limit_of_the_connector_bounds_calls_of_a_session_of_the_caller() -> None:
    api = RateLimitedApi(1000, 1.0)
    connector = aiohttp.TCPConnector(limit=7, limit_per_host=4)
    async with aiohttp.ClientSession(connector=connector) as http, client_of(api, http=http) as client:
        await asyncio.gather(*(client.create_user() for _ in range(20)))
    assert api.most_at_once == 4


@virtual
async def test_cancelled_calls_give_their_slots_back() -> None:
    api = RateLimitedApi(1000, 1.0)
    async with client_of(api, max_concurrency=2) as client:
        for delay in (0.0, 0.02, 0.07):
            calls = [asyncio.create_task(client.create_user()) for _ in range(6)]
            await asyncio.sleep(delay)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results[1::2]] == [User] * 3
        api.most_at_once = 0
        await asyncio.gather(*(client.create_user() for _ in range(6)))
    assert api.most_at_once == 2


@pytest.mark.parametrize("after_the_release", [True, False])
@virtual
async def test_waiting_call_cancelled_as_another_one_ends_keeps_no_slot(*, after_the_release: bool) -> None:
    calls: list[asyncio.Task[User]] = []

    async def respond(url: object, **_: Any) -> CallbackResult:  # noqa: ARG001 - aioresponses calls it so
        await asyncio.sleep(1)
        if after_the_release:
            # Runs after the first call has released its slot, and before the second one wakes up.
            asyncio.get_running_loop().call_soon(calls[1].cancel)
        else:
            calls[1].cancel()
        return CallbackResult(payload={"id": "u"})

    with aioresponses() as mocked:
        mocked.post(URL, callback=respond, repeat=True)
        async with AvaturnClient("token", max_concurrency=1) as client:
            calls += [asyncio.create_task(client.create_user()) for _ in range(3)]
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
    assert [type(result) for result in results] == [User, asyncio.CancelledError, User]


@virtual
async def test_call_cancelled_in_a_pause_gives_its_slot_back() -> None:
    api = RateLimitedApi(1, 3.0, "3")
    async with client_of(api, max_concurrency=1) as client:
        await client.create_user()
        refused = asyncio.create_task(client.create_user())
        await asyncio.sleep(1)
        paused = asyncio.create_task(client.create_user())
        await asyncio.sleep(1)
        paused.cancel()
        assert await asyncio.wait_for(refused, 10) == User(id="user-2")


@virtual
async def test_client_closed_in_a_pause_sends_no_more_requests() -> None:
    api = RateLimitedApi(1, 3.0, "3")
    async with client_of(api) as client:
        await client.create_user()
        refused = asyncio.create_task(client.create_user())
        await asyncio.sleep(1)
        paused = asyncio.create_task(client.create_user())
        await asyncio.sleep(1)
        await client.close()
        results = await asyncio.gather(refused, paused, return_exceptions=True)
    assert [type(result) for result in results] == [ClientClosedError] * 2
    assert api.received == 2


@virtual
async def test_second_429_of_a_burst_does_not_shorten_the_pause() -> None:
    loop = asyncio.get_running_loop()
    sent: list[float] = []

    async def respond(url: object, **_: Any) -> CallbackResult:  # noqa: ARG001 - aioresponses calls it so
        sent.append(loop.time())
        n = len(sent)
        await asyncio.sleep(0.1 * n)
        if n > 2:
            return CallbackResult(payload={"id": "u"})
        return CallbackResult(status=429, payload={}, headers={"Retry-After": "5" if n == 1 else "1"})

    with aioresponses() as mocked:
        mocked.post(URL, callback=respond, repeat=True)
        async with AvaturnClient("token") as client:
            await asyncio.gather(client.create_user(), client.create_user())
    assert sent[2] - sent[0] >= 5.1


@pytest.mark.parametrize(
    ("statuses", "burst"),
    [
        ([429] * 10 + [200], 10),  # responses to one burst are one refusal
        ([429, 429, 429, 200, 429, 200], 1),  # the backoff begins anew after a success at full concurrency
    ],
)
@virtual
async def test_backoff_grows_only_with_refusals_in_a_row(statuses: list[int], burst: int) -> None:
    loop = asyncio.get_running_loop()
    sent: list[float] = []

    async def respond(url: object, **_: Any) -> CallbackResult:  # noqa: ARG001 - aioresponses calls it so
        sent.append(loop.time())
        status = statuses[min(len(sent), len(statuses)) - 1]
        await asyncio.sleep(0.1)
        return CallbackResult(status=status, payload={"id": "u"})

    retry = RetryPolicy(attempts=9, base=1, cap=60, budget=600)
    with aioresponses() as mocked:
        mocked.post(URL, callback=respond, repeat=True)
        async with AvaturnClient("token", max_concurrency=burst, retry=retry) as client:
            await asyncio.gather(*(client.create_user() for _ in range(burst)))
            await client.create_user()
    last = len(statuses) - 1
    assert 0.5 <= sent[last] - sent[last - 1] <= 1.2


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_max_concurrency_must_be_a_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrency must be"):
        AvaturnClient("token", max_concurrency=value)
