"""The retry policy, and the delays that follow from it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avaturn_async import RetryPolicy
from avaturn_async._retry import next_delay, parse_retry_after


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempts", 0),
        ("attempts", -1),
        ("attempts", 2.0),
        ("attempts", True),
        ("attempts", None),
        *(
            (name, value)
            for name in ("base", "cap", "budget")
            for value in (-0.1, float("nan"), float("inf"), "1", True, None)
        ),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        RetryPolicy(**{name: value})


def test_zeros_are_allowed_and_the_policy_is_a_frozen_value() -> None:
    policy = RetryPolicy(attempts=1, base=0, cap=0, budget=0)
    assert policy == RetryPolicy(attempts=1, base=0, cap=0, budget=0)
    assert hash(policy) == hash(attrs.evolve(policy))
    assert RetryPolicy() == RetryPolicy(attempts=3, base=0.5, cap=8.0, budget=30.0)


numbers = st.floats(min_value=0, max_value=1e6)


@given(
    st.integers(1, 5000),
    numbers,
    numbers,
    numbers,
    st.integers(1, 6000),
    numbers,
    st.none() | numbers,
    st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_within_cap_and_budget(
    attempts: int,
    base: float,
    cap: float,
    budget: float,
    attempt: int,
    waited: float,
    after: float | None,
    dice: float,
) -> None:
    policy = RetryPolicy(attempts=attempts, base=base, cap=cap, budget=budget)
    delay = next_delay(policy, attempt=attempt, waited=waited, retry_after=after, random=lambda: dice)
    if delay is None:
        over = waited + (after if after is not None else 0) > budget
        assert attempt >= attempts or (after or 0) > cap or over or after is None
    else:
        assert 0 <= delay <= cap
        assert waited + delay <= budget
        assert attempt < attempts
        assert after is None or delay == after


def test_backoff_doubles_up_to_the_cap_with_full_jitter() -> None:
    policy = RetryPolicy(attempts=9)
    most = [
        next_delay(policy, attempt=n, waited=0, retry_after=None, random=lambda: 1.0) for n in range(1, 8)
    ]
    assert most == [0.5, 1, 2, 4, 8, 8, 8]
    least = [
        next_delay(policy, attempt=n, waited=0, retry_after=None, random=lambda: 0.0) for n in range(1, 8)
    ]
    assert set(least) == {0.0}


@given(st.text() | st.from_regex(r"[0-9eE.+-]{1,12}"))
def test_whatever_the_header_says_it_is_seconds_from_0_up_or_nothing(header: str) -> None:
    seconds = parse_retry_after(header, 1_700_000_000.0)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("Tue, 14 Nov 2023 22:13:30", 10),
        ("Tuesday, 14-Nov-23 22:13:30 GMT", 10),
        ("Tue, 14 Nov 2023 22:13:10 -0000", 0),
        ("Mon, 01 Jan 0001 00:00:00 +1400", 0),
    ],
)
def test_dates_count_from_now(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, 1_700_000_000.0) == seconds
