"""Planned faults of FakeAvaturn: in its responses to requests, and in its webhooks."""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self

import attrs
from attrs import define, field, frozen
from multidict import CIMultiDict

from avaturn_async.testing.messages import Reply

_HTML_502 = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502</body>\r\n</html>\r\n"


def _validate(name: str, value: Any, *, lowest: int = 0, highest: float = math.inf) -> None:
    """Refuse a value with which a fault would do nothing, or break the fake."""
    if not isinstance(value, int | float) or not lowest <= value <= highest:
        upper = "up" if highest == math.inf else f"to {highest}"
        raise ValueError(f"{name} must be a number from {lowest} {upper}, not {value!r}")


@frozen(kw_only=True)
class Fault:
    """A fault in the response to a request. Made by the class methods, for ``fake.fail()``."""

    execute: bool = True
    """Whether the request is carried out, although its response is spoiled."""
    response: Reply | None = None
    """The response that is sent in place of the right one."""
    reset_at: float | None = None
    """The connection is reset after this many bytes of the request's body."""
    cut_at: int | None = None
    """The connection ends after this many bytes of the response's body."""
    stall_at: int | None = None
    """The response stops after this many bytes of its body; -1: before its head."""
    delay: float = 0.0
    """Seconds before the response."""
    rate: tuple[int, float] | None = None
    """The fault applies only to requests above this many in this many seconds."""
    with_retry_after: bool = False
    """Whether a response above the rate gets a Retry-After that tells when the next request is allowed."""

    @classmethod
    def answer(
        cls,
        status: int,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        execute: bool = False,
    ) -> Self:
        """Send another response than the right one.

        Args:
            status: HTTP status.
            body: Bytes or text (sent as text/html), or JSON values.
            headers: Headers to add; a Content-Type replaces the default one.
            execute: Whether the request is carried out nevertheless.
        """
        if isinstance(body, str | bytes):
            content, content_type = body, "text/html"
        else:
            content, content_type = json.dumps(body), "application/json"
        raw = content.encode() if isinstance(content, str) else content
        _validate("status", status, lowest=100, highest=599)
        merged = CIMultiDict({"Content-Type": content_type})
        merged.update(headers or {})
        return cls(response=Reply(status=status, body=raw, headers=merged), execute=execute)

    @classmethod
    def rate_limited(cls, retry_after: str | float | None = None) -> Self:
        """Send a 429; ``retry_after`` is its Retry-After in seconds or as a date, None for none."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.answer(429, {"detail": "Too many requests"}, headers=headers)

    @classmethod
    def rate_limit(cls, calls: int, per: float, *, retry_after: bool = True) -> Self:
        """Send a 429 to each request above ``calls`` requests in ``per`` seconds; plan it with ``times=None``.

        Args:
            calls: Requests that are allowed, from 1 up.
            per: Seconds, by the fake's clock.
            retry_after: Whether the 429 has a Retry-After, in whole seconds.
        """
        if calls < 1 or per <= 0:
            raise ValueError("calls must be at least 1 and per above 0")
        return attrs.evolve(cls.rate_limited(), rate=(calls, per), with_retry_after=retry_after)

    @classmethod
    def bad_gateway(cls) -> Self:
        """Send a 502 with an HTML page, as a proxy does when its server is unavailable."""
        return cls.answer(502, _HTML_502)

    @classmethod
    def reset(cls, *, at: int | None = None, execute: bool = False) -> Self:
        """Reset the connection before the response.

        Args:
            at: Bytes of the request's body that are read before; by default all of them.
            execute: Whether the request is carried out nevertheless, if it was read whole.
        """
        _validate("at", at or 0)
        return cls(reset_at=math.inf if at is None else at, execute=execute and at is None)

    @classmethod
    def cut(cls, at: int) -> Self:
        """End the response after this many bytes of its body, although its head promises more."""
        _validate("at", at)
        return cls(cut_at=at)

    @classmethod
    def stall(cls, at: int | None = None) -> Self:
        """Stop the response until ``fake.release()``, or until the fake closes.

        Args:
            at: Bytes of its body that are sent before; by default the head is not sent either.
        """
        _validate("at", at or 0)
        return cls(stall_at=-1 if at is None else at)

    @classmethod
    def slow(cls, seconds: float) -> Self:
        """Send the response after some seconds, by the fake's ``sleep``."""
        _validate("seconds", seconds)
        return cls(delay=seconds)


@define(kw_only=True)
class PlannedFault:
    """A planned fault and the requests that it applies to; ``fake.fail()`` returns it."""

    fault: Fault
    """The fault."""
    method: str | None
    """HTTP method of the requests; None for any."""
    path: str
    """Shell pattern for the path of the requests."""
    left: float
    """How many requests it still applies to; ``inf`` for all."""
    clock: Callable[[], float] = field(repr=False)
    """Seconds, for a rate limit."""
    hits: int = 0
    """How many requests it was applied to."""
    _first_hit: asyncio.Event = field(init=False, repr=False, factory=asyncio.Event)
    # Times of the requests that the rate limit allowed.
    _allowed: deque[float] = field(init=False, repr=False, factory=deque[float])

    def apply(self) -> Fault | None:
        """Count a request and return the fault for it; None if the request is within the rate limit."""
        fault = self.fault
        if fault.rate is not None:
            calls, per = fault.rate
            now = self.clock()
            while self._allowed and self._allowed[0] <= now - per:
                self._allowed.popleft()
            if len(self._allowed) < calls:
                self._allowed.append(now)
                return None
            if fault.with_retry_after and fault.response is not None:
                seconds = math.ceil(self._allowed[0] + per - now)
                headers = {**fault.response.headers, "Retry-After": str(seconds)}
                fault = attrs.evolve(fault, response=attrs.evolve(fault.response, headers=headers))
        self.left -= 1
        self.hits += 1
        self._first_hit.set()
        return fault

    async def wait(self) -> None:
        """Wait for the first request that it applies to."""
        await self._first_hit.wait()

    def stop(self) -> None:
        """Apply it to no further request."""
        self.left = 0


@frozen(kw_only=True)
class WebhookFault:
    """A fault in the delivery of a webhook. Made by the class methods, for ``fake.fail_webhooks()``."""

    copies: int = 1
    """How often the webhook is sent."""
    held: bool = False
    """Whether it waits until another webhook was delivered."""
    delay: float = 0.0
    """Seconds before it is sent."""

    @classmethod
    def drop(cls) -> Self:
        """Do not send it, until ``fake.resend()``."""
        return cls(copies=0)

    @classmethod
    def duplicate(cls, copies: int = 2) -> Self:
        """Send it several times at once, with the same id."""
        _validate("copies", copies)
        return cls(copies=copies)

    @classmethod
    def reorder(cls) -> Self:
        """Send it after the next webhook, or in ``fake.wait_idle()`` if there is no next one."""
        return cls(held=True)

    @classmethod
    def late(cls, seconds: float) -> Self:
        """Send it after some seconds, by the fake's ``sleep``."""
        _validate("seconds", seconds)
        return cls(delay=seconds)
