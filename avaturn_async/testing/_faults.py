"""What can go wrong on request: with the answers of FakeAvaturn, and with its webhooks."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Self

from attrs import define, field, frozen

from avaturn_async.testing._requests import Reply

_HTML_502 = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502</body>\r\n</html>\r\n"


@frozen(kw_only=True)
class Fault:
    """Something that goes wrong with an answer. Made by the class methods, handed to ``fake.fail()``."""

    works: bool = True
    """Whether the request is carried out, although the answer does not say so."""
    instead: Reply | None = None
    """What is answered instead."""
    reset_at: float | None = None
    """The connection is reset after this many bytes of the request's body."""
    cut_at: int | None = None
    """The connection ends after this many bytes of the answer's body."""
    stall_at: int | None = None
    """Silence after this many bytes of the answer's body; -1 is before the head."""
    delay: float = 0.0
    """Seconds before the answer."""

    @classmethod
    def answer(
        cls,
        status: int,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        works: bool = False,
    ) -> Self:
        """Another answer than the right one.

        Args:
            status: HTTP status.
            body: Bytes or text (sent as text/html), or JSON values.
            headers: Headers besides, or instead of, Content-Type.
            works: Whether the request is carried out nevertheless.
        """
        if isinstance(body, str | bytes):
            content, kind = body, "text/html"
        else:
            content, kind = json.dumps(body), "application/json"
        raw = content.encode() if isinstance(content, str) else content
        reply = Reply(status=status, body=raw, headers={"Content-Type": kind, **(headers or {})})
        return cls(instead=reply, works=works)

    @classmethod
    def rate_limited(cls, retry_after: str | float | None = None) -> Self:
        """A 429, with this Retry-After if one is given: seconds, or a date."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.answer(429, {"detail": "Too many requests"}, headers=headers)

    @classmethod
    def bad_gateway(cls) -> Self:
        """A 502 with an HTML page, as a proxy answers for a server that is away."""
        return cls.answer(502, _HTML_502)

    @classmethod
    def reset(cls, *, at: int | None = None, works: bool = False) -> Self:
        """The connection is reset before anything is answered.

        Args:
            at: Bytes of the request's body that are taken before; by default all of them.
            works: Whether the request, come whole, is carried out nevertheless.
        """
        return cls(reset_at=math.inf if at is None else at, works=works and at is None)

    @classmethod
    def cut(cls, at: int) -> Self:
        """The answer ends after this many bytes of its body, although its head promises more."""
        return cls(cut_at=at)

    @classmethod
    def stall(cls, at: int | None = None) -> Self:
        """The answer does not go on until ``fake.release()``, or until the fake closes.

        Args:
            at: Bytes of its body that are sent before; by default not even the head.
        """
        return cls(stall_at=-1 if at is None else at)

    @classmethod
    def slow(cls, seconds: float) -> Self:
        """The answer comes after some seconds, by the fake's ``sleep``."""
        return cls(delay=seconds)


@define(kw_only=True)
class Failing:
    """A fault that was asked for, and the requests that it strikes."""

    fault: Fault
    """What goes wrong."""
    method: str | None
    """Their HTTP method; None for any."""
    path: str
    """A shell pattern that their path fits."""
    left: float
    """How many of them it is yet to strike; ``inf`` for all."""
    struck: int = 0
    """How often it has struck."""
    _first: asyncio.Event = field(init=False, repr=False, factory=asyncio.Event)

    def strike(self) -> Fault:
        """Use it up once."""
        self.left -= 1
        self.struck += 1
        self._first.set()
        return self.fault

    async def wait(self) -> None:
        """Wait until it has struck for the first time."""
        await self._first.wait()

    def stop(self) -> None:
        """Let it strike no more."""
        self.left = 0


@define
class Faults:
    """The faults that were asked for, first come, first to strike."""

    planned: list[Failing] = field(init=False, factory=list[Failing])

    def add(self, fault: Fault, *, method: str | None, path: str, times: int | None) -> Failing:
        """Plan a fault."""
        failing = Failing(fault=fault, method=method, path=path, left=math.inf if times is None else times)
        self.planned.append(failing)
        return failing

    def take(self, method: str, path: str) -> Fault:
        """What goes wrong with this request: at most one fault, perhaps one that does nothing."""
        for failing in self.planned:
            fits = failing.method in {None, method} and fnmatchcase(path, failing.path)
            if fits and failing.left > 0:
                return failing.strike()
        return Fault()


@frozen(kw_only=True)
class WebhookFault:
    """Something that goes wrong with a webhook. Made by the class methods, for ``fake.fail_webhooks()``."""

    copies: int = 1
    """How often it is sent."""
    held: bool = False
    """Whether it waits until another one was delivered."""
    delay: float = 0.0
    """Seconds before it is sent."""

    @classmethod
    def drop(cls) -> Self:
        """It is not sent, until ``fake.resend()``."""
        return cls(copies=0)

    @classmethod
    def duplicate(cls, copies: int = 2) -> Self:
        """It is sent several times at once, with the same id."""
        return cls(copies=copies)

    @classmethod
    def reorder(cls) -> Self:
        """It is sent after the one that follows it, or, if none does, when ``fake.settle()`` is called."""
        return cls(held=True)

    @classmethod
    def late(cls, seconds: float) -> Self:
        """It is sent after some seconds, by the fake's ``sleep``."""
        return cls(delay=seconds)
