"""The webhooks of FakeAvaturn: signed, posted, and each attempt recorded with the status of the response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
from attrs import define, field, frozen
from yarl import URL

from avaturn_async.testing.background import Background
from avaturn_async.testing.faults import WebhookFault

NO_RETRIES: Sequence[float] = ()
"""A webhook is sent once."""
SLACK_LIKE: Sequence[float] = (0, 60, 300)
"""Seconds before each retry of a webhook, as the Events API of Slack documents them."""
SVIX_LIKE: Sequence[float] = (5, 300, 1800, 7200, 18000, 36000, 36000)
"""Seconds before each retry of a webhook, as Svix (Standard Webhooks) documents them."""


class Signer(Protocol):
    """Signs webhooks: every Verifier of ``avaturn_async.webhooks``, or an object of the user."""

    def sign(self, body: bytes, *, timestamp: float | None = None, id: str | None = None) -> dict[str, str]:  # noqa: A002 - the name in the design
        """Return the headers of a signed request."""
        ...


@frozen(kw_only=True)
class Delivery:
    """One attempt to deliver a webhook."""

    id: str
    """Id of the event, equal in all attempts."""
    attempt: int
    """Counts from 1."""
    event: dict[str, Any] = field(repr=False)
    """The event as JSON values."""
    body: bytes = field(repr=False)
    """Body."""
    headers: dict[str, str] = field(repr=False)
    """Headers, with the signature."""
    status: int | None
    """HTTP status of the response; None without a response."""

    @property
    def accepted(self) -> bool:
        """Whether the receiver answered with a 2xx."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - HTTP


@define(kw_only=True, eq=False)
class _Message:
    """An event on its way to the receiver."""

    id: str
    event: dict[str, Any]
    attempts: int = 0
    accepted: bool = False


@define(kw_only=True)
class _PlannedFault:
    """A fault, and the webhooks that it still applies to."""

    fault: WebhookFault
    event: str | None
    """Type of the webhooks; None for any."""
    left: float


def _validate_url(_: Any, __: Any, url: str | None) -> None:
    """Refuse a URL that cannot receive webhooks. The error does not contain it, since it can hold a secret."""
    with suppress(ValueError):
        if url is None or (URL(url).scheme in {"http", "https"} and (URL(url).host or "").encode("idna")):
            return
    raise ValueError("webhook_url must be a URL such as http://127.0.0.1:8080/webhook")


@define(kw_only=True)
class Webhooks:
    """Sends webhooks to the registered URL, if there is one."""

    url: str | None = field(repr=False, validator=_validate_url)
    signer: Signer | None
    timeout: float
    retries: Sequence[float]
    """Seconds before each further attempt at a webhook that was not accepted."""
    background: Background
    sleep: Callable[[float], Awaitable[object]]
    events: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    deliveries: list[Delivery] = field(factory=list[Delivery])
    _faults: list[_PlannedFault] = field(init=False, factory=list["_PlannedFault"])
    _messages: list[_Message] = field(init=False, factory=list[_Message])
    _held: list[_Message] = field(init=False, factory=list[_Message])
    _http: aiohttp.ClientSession | None = field(init=False, default=None)

    def plan(self, fault: WebhookFault, event: str | None, times: float) -> None:
        """Apply a fault to the next webhooks of a type, or of any."""
        self._faults.append(_PlannedFault(fault=fault, event=event, left=times))

    async def send(self, event: dict[str, Any], *, id: str) -> None:  # noqa: A002 - the name in the design
        """Send an event; return after the first attempt, or at once if a fault delays it."""
        message = _Message(id=id, event=event)
        self.events.append(event)
        self._messages.append(message)
        fault = self._take_fault(event["event"])
        if fault.held:
            self._held.append(message)
        elif fault.delay:
            self.background.spawn(self._deliver_late(message, fault.delay))
        else:
            await asyncio.gather(*(self._deliver(message) for _ in range(fault.copies)))
            await self.send_held()

    async def send_held(self) -> bool:
        """Send the webhooks that a fault holds back; return whether there were any."""
        held, self._held = self._held, []
        for message in held:
            await self._deliver(message)
        return bool(held)

    async def resend(self, *, everything: bool) -> None:
        """Send each webhook again that was not accepted, or all webhooks."""
        self._held.clear()
        for message in list(self._messages):
            if everything or not message.accepted:
                await self._deliver(message)

    async def close(self) -> None:
        """Close the connections to the receiver."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _take_fault(self, name: str) -> WebhookFault:
        for planned in self._faults:
            if planned.event in {None, name} and planned.left > 0:
                planned.left -= 1
                return planned.fault
        return WebhookFault()

    async def _deliver_late(self, message: _Message, seconds: float) -> None:
        await self.sleep(seconds)
        await self._deliver(message)
        await self.send_held()

    async def _deliver(self, message: _Message) -> None:
        """Send the message once; if it is not accepted, retry in the background."""
        if not await self._attempt(message) and self.retries:
            self.background.spawn(self._retry(message))

    async def _retry(self, message: _Message) -> None:
        for seconds in self.retries:
            await self.sleep(seconds)
            if await self._attempt(message):
                return

    async def _attempt(self, message: _Message) -> bool:
        """Post and record the message; return whether it was accepted or has no receiver."""
        if self.url is None:
            return True
        message.attempts += 1
        attempt = message.attempts
        body = json.dumps(message.event, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        if self.signer is not None:
            headers |= self.signer.sign(body, id=message.id)
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.timeout))
        status = None
        with suppress(TimeoutError, aiohttp.ClientError):
            async with self._http.post(self.url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        delivery = Delivery(
            id=message.id, attempt=attempt, event=message.event, body=body, headers=headers, status=status
        )
        self.deliveries.append(delivery)
        message.accepted = message.accepted or delivery.accepted
        return delivery.accepted
