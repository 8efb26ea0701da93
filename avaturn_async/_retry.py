"""When a failed attempt is made again, and after how long. Calls and transfers share this code."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from attrs import Attribute, field, frozen

from avaturn_async._validation import validate_count, validate_seconds_field
from avaturn_async.errors import AvaturnError

# RFC 9110 10.2.3 has whole seconds; some servers send fractions. More than ten digits are not a delay.
_SECONDS = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,10})?")


def _validate_count_field(_: object, attribute: Attribute[int], value: int) -> None:
    validate_count(attribute.name, value)


@frozen(kw_only=True)
class RetryPolicy:
    """How often a request is sent again, and the pauses between its attempts.

    The delay before the next attempt is drawn evenly between 0 and ``min(cap, base * 2 ** (attempt - 1))`` (exponential
    backoff with full jitter), unless the server names one in ``Retry-After``. A 429 without ``Retry-After`` pauses all
    calls of the client; that delay is drawn from the upper half.

    Raises:
        ValueError: A number is out of range.
    """

    attempts: int = field(default=3, validator=_validate_count_field)
    """Attempts in all; 1 turns retries off."""
    base: float = field(default=0.5, validator=validate_seconds_field)
    """Upper bound of the first delay, in seconds."""
    cap: float = field(default=8.0, validator=validate_seconds_field)
    """Upper bound of one delay, in seconds. A longer ``Retry-After`` is raised at once."""
    budget: float = field(default=30.0, validator=validate_seconds_field)
    """Upper bound of all delays of one request together, in seconds."""


@frozen
class FailedAttempt:
    """An attempt that failed."""

    error: AvaturnError
    """The error to raise when this was the last attempt."""
    retryable: bool
    """Whether another attempt is safe and could succeed."""
    retry_after: float | None = None
    """Seconds that the server asked to wait."""
    had_no_effect: bool = False
    """Whether the request provably changed nothing: it was not sent, or was refused with a 429."""


class RetryState:
    """Counts the attempts of one request and sleeps between them.

    Args:
        policy: The policy.
        sleep: Sleeps a number of seconds.
        random: Returns a number from 0 up to 1.
    """

    def __init__(
        self, policy: RetryPolicy, *, sleep: Callable[[float], Awaitable[None]], random: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._sleep = sleep
        self._random = random
        self.attempt: int = 1
        """Number of the current attempt."""
        self._waited = 0.0

    async def sleep_or_raise(self, failed: FailedAttempt, *, delay: float | None = None) -> None:
        """Sleep until the next attempt, or raise the error when there is no further attempt.

        Args:
            failed: The failed attempt.
            delay: Seconds to sleep in place of the backoff.
        """
        if delay is None:
            delay = failed.retry_after
        if delay is None:
            delay = self._random() * get_backoff(self._policy, self.attempt)
        if (
            not failed.retryable
            or self.attempt >= self._policy.attempts
            or delay > self._policy.cap
            or self._waited + delay > self._policy.budget
        ):
            raise failed.error
        await self._sleep(delay)
        self._waited += delay
        self.attempt += 1


def get_backoff(policy: RetryPolicy, attempt: int) -> float:
    """Return the upper bound of the delay after a number of attempts, in seconds."""
    # 2.0 ** 1024 overflows; the cap is reached long before 60 doublings.
    return min(policy.cap, policy.base * 2.0 ** min(attempt - 1, 60))


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, or None if it is absent or invalid.

    Args:
        value: The header: seconds or an HTTP date.
        now: The current time, in seconds since the epoch.
    """
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
