"""When a request is sent again, and after how long: a policy and two pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from attrs import Attribute, field, frozen

from avaturn_async._arguments import seconds_from_zero

# Past ten digits nobody means seconds any more; RFC 9110 knows whole ones, some servers send fractions.
_SECONDS = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,10})?")


def _at_least_one(_: Any, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number from 1 up, not {value!r}")


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently a request is sent again.

    The delay before the next attempt is drawn evenly between 0 and ``min(cap, base * 2 ** (attempt - 1))``
    (exponential backoff with full jitter), unless the server names one in ``Retry-After``.

    Raises:
        ValueError: A number makes no sense.
    """

    attempts: int = field(default=3, validator=_at_least_one)
    """Attempts in all; 1 means that nothing is sent twice."""
    base: float = field(default=0.5, validator=seconds_from_zero)
    """Seconds that the first backoff takes at most."""
    cap: float = field(default=8.0, validator=seconds_from_zero)
    """Seconds that one backoff takes at most; a longer ``Retry-After`` is not sat out but raised at once."""
    budget: float = field(default=30.0, validator=seconds_from_zero)
    """Seconds that all waiting between the attempts of one request takes at most."""


def next_delay(
    policy: RetryPolicy,
    *,
    attempt: int,
    waited: float,
    retry_after: float | None,
    random: Callable[[], float],
) -> float | None:
    """Seconds until the next attempt, or None when there is to be none.

    Args:
        policy: The policy.
        attempt: Attempts made so far, at least 1.
        waited: Seconds spent waiting so far.
        retry_after: Seconds that the server asked for, if it did.
        random: Gives a number from 0 up to 1.
    """
    if attempt >= policy.attempts:
        return None
    if retry_after is None:
        # 2.0 ** 1024 would overflow; cap is reached long before 60 doublings.
        delay = random() * min(policy.cap, policy.base * 2.0 ** min(attempt - 1, 60))
    elif retry_after > policy.cap:
        return None
    else:
        delay = retry_after
    return delay if waited + delay <= policy.budget else None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, or None when it asks for nothing that makes sense.

    Args:
        value: The header: seconds, or an HTTP date.
        now: The time, in seconds since the epoch.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
