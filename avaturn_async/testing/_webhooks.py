"""The webhooks of FakeAvaturn: signed, posted, and each attempt recorded with the status it was answered."""

from __future__ import annotations

import json
from typing import Any, Protocol

import aiohttp
from attrs import define, field, frozen

_JSON = {"Content-Type": "application/json"}


class Signer(Protocol):
    """What signs a webhook: every Verifier of ``avaturn_async.webhooks``, or an object of yours."""

    def sign(self, body: bytes, *, timestamp: float | None = None, id: str | None = None) -> dict[str, str]:  # noqa: A002 - the name in the design
        """The headers that make the body authentic."""
        ...


@frozen(kw_only=True)
class Delivery:
    """One attempt to deliver a webhook."""

    id: str
    """The same for every attempt at the same event."""
    attempt: int
    """Counts from 1."""
    event: dict[str, Any] = field(repr=False)
    """What was sent, as JSON values."""
    body: bytes = field(repr=False)
    """What was sent, as bytes."""
    headers: dict[str, str] = field(repr=False)
    """The headers it was sent with, signature included."""
    status: int | None
    """What the receiver answered; None if it did not."""

    @property
    def accepted(self) -> bool:
        """Whether the receiver answered with a 2xx."""
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - HTTP


@define(kw_only=True)
class Webhooks:
    """Sends webhooks to the registered URL, if there is one."""

    url: str | None = field(repr=False)
    signer: Signer | None
    timeout: float
    events: list[dict[str, Any]] = field(factory=list[dict[str, Any]])
    deliveries: list[Delivery] = field(factory=list[Delivery])
    http: aiohttp.ClientSession | None = None

    async def send(self, event: dict[str, Any], *, id: str) -> None:  # noqa: A002 - the name in the design
        """Make an event known; returns after the first attempt to deliver it."""
        self.events.append(event)
        body = json.dumps(event, separators=(",", ":")).encode()
        if self.url is not None:
            await self._attempt(self.url, event, body, id, attempt=1)

    async def _attempt(self, url: str, event: dict[str, Any], body: bytes, id_: str, *, attempt: int) -> bool:
        headers = dict(_JSON)
        if self.signer is not None:
            headers |= self.signer.sign(body, id=id_)
        status = await self._post(url, body, headers)
        delivery = Delivery(id=id_, attempt=attempt, event=event, body=body, headers=headers, status=status)
        self.deliveries.append(delivery)
        return delivery.accepted

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> int | None:
        if self.http is None:
            self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.timeout))
        try:
            async with self.http.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status
        except (TimeoutError, aiohttp.ClientError):
            return None

    async def close(self) -> None:
        """Close the connections to the receiver."""
        if self.http is not None:
            await self.http.close()
            self.http = None
