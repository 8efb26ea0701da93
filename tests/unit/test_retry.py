"""The pauses between the attempts of a call: backoff, Retry-After, cap and budget. Time is virtual."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import aiohttp
import attrs
import pytest
from aioresponses import CallbackResult, aioresponses
from hypothesis import given, settings
from hypothesis import strategies as st
from support.virtual_time import virtual

from avaturn_async import AvaturnClient, AvaturnConnectionError, AvaturnStatusError, RetryPolicy

URL = "https://api.avaturn.me/api/v1/exports/new?avatar_id=0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
AVATAR = URL[-36:]


async def fail(policy: RetryPolicy, status: int, *headers: str) -> tuple[list[float], AvaturnStatusError]:
    """Return the pauses of a call whose attempts all fail, and its error; the last Retry-After is repeated."""
    loop = asyncio.get_running_loop()
    began: list[float] = []
    values: Iterator[str] = itertools.chain(headers, itertools.repeat(headers[-1])) if headers else iter(())

    async def respond(url: object, **_: Any) -> CallbackResult:  # noqa: ARG001 - aioresponses calls it so
        began.append(loop.time())
        return CallbackResult(status=status, headers={"Retry-After": value} if (value := next(values, None)) else {})

    with aioresponses() as mocked:
        mocked.post(URL, callback=respond, repeat=True)
        async with AvaturnClient("token", retry=policy) as client:
            with pytest.raises(AvaturnStatusError) as caught:
                await client.create_export(AVATAR)
    return [after - before for before, after in itertools.pairwise(began)], caught.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("attempts", value) for value in (0, -1, 2.0, True, None)),
        *(
            (name, value)
            for name in ("base", "cap", "budget")
            for value in (-0.1, float("nan"), float("inf"), "1", True, None)
        ),
    ],
)
def test_policy_refuses_an_invalid_number_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        RetryPolicy(**{name: value})


def test_policy_allows_zeros_and_is_a_frozen_value() -> None:
    policy = RetryPolicy(attempts=1, base=0, cap=0, budget=0)
    assert policy == RetryPolicy(attempts=1, base=0, cap=0, budget=0)
    assert hash(policy) == hash(attrs.evolve(policy))
    assert RetryPolicy() == RetryPolicy(attempts=3, base=0.5, cap=8.0, budget=30.0)


numbers = st.floats(min_value=0, max_value=1e6)


@settings(max_examples=50)
@given(st.integers(1, 20), numbers, numbers, numbers, st.none() | st.integers(0, 10**6), st.sampled_from([429, 503]))
@virtual
async def test_pauses_stay_within_attempts_cap_and_budget(
    attempts: int, base: float, cap: float, budget: float, retry_after: int | None, status: int
) -> None:
    policy = RetryPolicy(attempts=attempts, base=base, cap=cap, budget=budget)
    pauses, _ = await fail(policy, status, *([] if retry_after is None else [str(retry_after)]))
    assert len(pauses) < attempts
    assert all(-1e-6 <= pause <= cap + 1e-6 for pause in pauses)
    assert sum(pauses) <= budget * (1 + 1e-9) + 1e-6
    assert retry_after is None or pauses == pytest.approx([retry_after] * len(pauses))


@virtual
async def test_backoff_doubles_up_to_the_cap_with_full_jitter() -> None:
    random.seed(1)
    runs = [(await fail(RetryPolicy(attempts=8, budget=100), 503))[0] for _ in range(40)]
    for pauses, bound in zip(zip(*runs, strict=True), (0.5, 1, 2, 4, 8, 8, 8), strict=True):
        assert 0 <= min(pauses) < 0.1 * bound
        assert 0.9 * bound < max(pauses) <= bound + 1e-6
    # Its factor does not overflow.
    assert len((await fail(RetryPolicy(attempts=1030, base=1, cap=1, budget=2000), 503))[0]) == 1029


@virtual
async def test_backoff_after_429_doubles_and_is_drawn_from_the_upper_half() -> None:
    pauses, _ = await fail(RetryPolicy(attempts=8, budget=100), 429)
    for pause, bound in zip(pauses, (0.5, 1, 2, 4, 8, 8, 8), strict=True):
        assert bound / 2 <= pause <= bound + 1e-6


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("0", 0), ("3", 3), ("1.5", 1.5)),
        *((formatdate(1_000_000_000, usegmt=True), 0), ("Mon, 01 Jan 0001 00:00:00 +1400", 0)),
        *((value, None) for value in ("-5", "NaN", "inf", "soon", "9" * 5000, "\u0661", "1e3", "")),
        ("Wed, 99 Nov 2026 00:00:00 GMT", None),
    ],
)
@virtual
async def test_retry_after_is_respected_if_it_is_a_delay(header: str, seconds: float | None) -> None:
    pauses, error = await fail(RetryPolicy(attempts=2), 429, header)
    assert error.retry_after == seconds
    assert pauses == pytest.approx([seconds]) if seconds is not None else 0.25 <= pauses[0] <= 0.5


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in another time zone than UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize("form", ["{} GMT", "{}", "{} -0000"])
@virtual
async def test_retry_after_that_is_a_date_counts_from_now(form: str) -> None:
    date = form.format(formatdate(time.time() + 1000, usegmt=True)[:-4])
    pauses, error = await fail(RetryPolicy(attempts=2, cap=2000, budget=2000), 503, date)
    assert error.retry_after is not None
    assert 900 < pauses[0] <= 1000


@pytest.mark.parametrize("header", ["9", "31536000", formatdate(4_000_000_000, usegmt=True)])
@virtual
async def test_retry_after_beyond_the_cap_is_raised_at_once(header: str) -> None:
    pauses, error = await fail(RetryPolicy(), 429, header)
    assert pauses == []
    assert error.retry_after is not None
    assert error.retry_after >= 9
    assert "(retry after " in str(error)


@virtual
async def test_budget_bounds_all_pauses_of_a_call_together() -> None:
    assert (await fail(RetryPolicy(attempts=10, budget=5), 503, "2"))[0] == pytest.approx([2, 2])
    assert (await fail(RetryPolicy(attempts=10, budget=5), 503, "1", "3", "2"))[0] == pytest.approx([1, 3])


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.from_regex(r"[0-9eE.+-]{1,12}", fullmatch=True))
@virtual
async def test_any_retry_after_is_seconds_from_0_up_or_none(header: str) -> None:
    _, error = await fail(RetryPolicy(attempts=1), 503, header)
    assert error.retry_after is None or 0 <= error.retry_after < float("inf")


class _Key:
    host, port, is_ssl, ssl = "api.avaturn.me", 443, True, True


@virtual
async def test_invalid_certificate_is_raised_at_once() -> None:
    key: Any = _Key()
    with aioresponses() as mocked:
        mocked.post(URL, exception=aiohttp.ClientConnectorCertificateError(key, Exception("self-signed")))
        async with AvaturnClient("token") as client:
            # A second attempt would find no response: "Connection refused".
            with pytest.raises(AvaturnConnectionError, match="self-signed"):
                await client.create_export(AVATAR)
