"""WebhookReceiver: from a request to a reply, whatever comes in.

The checks stand in the order of their price, and nothing is parsed before it is authentic. 200 is said once
the store has the event, and never before. ``receive()`` knows no framework; ``handle`` is the aiohttp
handler and ``asgi`` the ASGI application.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from avaturn_async.errors import (
    AvaturnError,
    RouterClosedError,
    StoreError,
    StoreFullError,
    WebhookPayloadError,
    WebhookRejected,
)
from avaturn_async.webhooks._outcomes import Outcomes
from avaturn_async.webhooks.events import Event, UnknownEvent, event_body, parse_event
from avaturn_async.webhooks.request import RawHeaders, WebhookReply, WebhookRequest
from avaturn_async.webhooks.verification import Verifier, believes_anybody, check_verifier

if TYPE_CHECKING:
    from aiohttp import web

    from avaturn_async.webhooks._asgi import AsgiApp
    from avaturn_async.webhooks.router import SessionRouter

__all__ = ["WebhookReceiver"]

_MOST_DIGITS = 18
# Another method could be anything, and does not get into the log.
_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class _NotJsonError(Exception):
    """An authentic webhook whose content type is another."""


class _SeenError(Exception):
    """An event that is stored already, so that the API is not asked about it again."""


class _RefutedError(Exception):
    """An authentic event that the API does not know of."""


# The first that fits counts.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (WebhookRejected, "not_authentic"),
    (_NotJsonError, "not_json"),
    (WebhookPayloadError, "not_an_event"),
    (_SeenError, "duplicate"),
    (_RefutedError, "refuted"),
    (RouterClosedError, "closing"),
    (StoreFullError, "store_full"),
    (StoreError, "store_away"),
    (AvaturnError, "unconfirmed"),
)


class Confirmation(Protocol):
    """What a ConfirmByApi does."""

    async def check(self, event: Event) -> Event | None:
        """The event to believe, or None when it is refuted or about nothing of ours."""
        ...


class WebhookReceiver:
    """Verifies incoming webhooks and hands their events to a router.

    ::

        receiver = WebhookReceiver(router, verifier=SharedSecret(secret, query="key"))
        receiver.add_to(app, "/avaturn")

    Args:
        router: Where events go.
        verifier: What makes a webhook authentic. There is no default.
        confirm: Asks the API about each event before it is believed, such as ConfirmByApi.
        max_body: Bytes of the largest body.
        read_timeout: Seconds that a body may take to arrive.
        max_in_flight: Requests handled at a time; the next is told to come again.
        clock: Seconds that only rise, for the rate of the log.

    Raises:
        ValueError: ``verifier`` accepts everybody and there is no ``confirm``, or a number makes no sense.
        TypeError: ``router`` or ``verifier`` is none.
    """

    def __init__(
        self,
        router: SessionRouter,
        *,
        verifier: Verifier,
        confirm: Confirmation | None = None,
        max_body: int = 262_144,
        read_timeout: float = 10.0,
        max_in_flight: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not hasattr(router, "publish"):
            raise TypeError(f"router must be a SessionRouter, not {type(router).__name__}")
        check_verifier(verifier)
        if confirm is None and believes_anybody(verifier):
            raise ValueError("this verifier accepts everybody: give confirm=ConfirmByApi(client, router) too")
        if not min(max_body, read_timeout, max_in_flight) > 0:
            raise ValueError("max_body, read_timeout and max_in_flight must be above zero")
        self.router = router
        self.max_body = max_body
        self.read_timeout = read_timeout
        self._max_in_flight = max_in_flight
        self._verifier = verifier
        self._confirm = confirm
        self.in_flight: int = 0
        """Requests that are being handled, their bodies being read included; adapters count them."""
        self._outcomes = Outcomes(clock=clock)

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many webhooks ended in which way since the start: a live view."""
        return MappingProxyType(self._outcomes.counts)

    async def receive(self, request: WebhookRequest) -> WebhookReply:
        """The reply to a request that is there as a whole; for any framework.

        Never raises: what goes wrong inside is a 503.
        """
        refusal = self.refuse(request.method, request.headers, peer=request.peer, read=len(request.body))
        if refusal is not None:
            return refusal
        self.in_flight += 1
        try:
            return await self.judge(request)
        finally:
            self.in_flight -= 1

    def refuse(self, method: str, headers: RawHeaders, *, peer: str, read: int = 0) -> WebhookReply | None:
        """The reply to a request whose body is not worth reading, by its head alone."""
        if method != "POST":
            return self.end("wrong_method", reason=method if method in _METHODS else "unknown", peer=peer)
        by_name, length = headers.by_name, read
        for value in by_name.get(b"content-length", ()):
            # Past 18 digits int() gets slow, and the number is no length.
            length = max(length, int(value[:_MOST_DIGITS])) if value.isdigit() else length
        if length > self.max_body:
            return self.end("too_large", reason="declared", peer=peer, length=length)
        if b"content-encoding" in by_name and _is_encoded(by_name[b"content-encoding"]):
            return self.end("encoded", reason="Content-Encoding is not taken", peer=peer, length=length)
        if self.router.closing:
            return self.end("closing", reason="the router is closing", peer=peer, length=length)
        if self.in_flight >= self._max_in_flight:
            return self.end("busy", reason="too many in flight", peer=peer, length=length)
        return None

    def end(self, outcome: str, *, reason: str = "", peer: str = "", length: int = 0) -> WebhookReply:
        """Count and log how a request ended, and give the reply for it."""
        return self._outcomes.reply(outcome, reason=reason, peer=peer, length=length)

    async def judge(self, request: WebhookRequest) -> WebhookReply:
        """The reply to a request that was not refused and is there as a whole."""
        reason = ""
        try:
            event, key = self._read(request)
            body = request.body
            if self._confirm is not None:
                posted, event = event, await self._believed(event, key, self._confirm)
                body = body if event is posted else event_body(event)
            is_new = await self.router.publish(event, key=key, body=body)
            outcome = "stored" if is_new else "duplicate"
            if is_new and isinstance(event, UnknownEvent) and event.problems:
                self._note_drift(event, request)
        except Exception as error:  # noqa: BLE001 - a mistake in a verifier or store must not be a 500
            outcome, reason = _failure(error)
        return self._outcomes.reply(outcome, reason=reason, peer=request.peer, length=len(request.body))

    def _read(self, request: WebhookRequest) -> tuple[Event, str]:
        """The event in an authentic request, and its key."""
        id_ = self._verifier.verify(request)
        if not _is_json(request.headers.by_name.get(b"content-type", ())):
            raise _NotJsonError("content type")
        body = request.body
        key = f"id:{id_}" if id_ is not None else f"sha256:{hashlib.sha256(body).hexdigest()}"
        return parse_event(body), key

    async def _believed(self, event: Event, key: str, confirm: Confirmation) -> Event:
        """The event of which the API, if it can be asked, has said that it is so."""
        if await self.router.seen(key):
            raise _SeenError
        if not isinstance(event, UnknownEvent):
            believed = await confirm.check(event)
        else:
            # There is nothing that one could ask about it: a secret is enough, and nothing at all is not.
            believed = None if believes_anybody(self._verifier) else event
        if believed is None:
            raise _RefutedError("not confirmed")
        return believed

    def _note_drift(self, event: UnknownEvent, request: WebhookRequest) -> None:
        what, why, length = "webhook of another shape", "; ".join(event.problems), len(request.body)
        self._outcomes.note("drift", what, why, peer=request.peer, length=length)

    # The adapters: a line each, so that this file knows no framework until one is used.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The aiohttp handler, for ``app.router.add_post(path, receiver.handle)``; see also ``add_to``."""
        from avaturn_async.webhooks._aiohttp import handle  # noqa: PLC0415

        return await handle(self, request)

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """The aiohttp expect_handler: refuses by the head before a body is sent."""
        from avaturn_async.webhooks._aiohttp import expect  # noqa: PLC0415

        return await expect(self, request)

    def add_to(self, app: web.Application, path: str) -> None:
        """Mount in an aiohttp app, for every method, with the router's lifetime in its cleanup_ctx."""
        from avaturn_async.webhooks._aiohttp import add_to  # noqa: PLC0415

        add_to(self, app, path)

    @property
    def asgi(self) -> AsgiApp:
        """The ASGI application, to be mounted in FastAPI, Starlette or another framework."""
        from avaturn_async.webhooks._asgi import AsgiApp  # noqa: PLC0415

        return AsgiApp(self)


def _is_encoded(encodings: Iterable[bytes]) -> bool:
    """Whether a head says that the body is compressed."""
    return any(value.strip().lower() not in (b"", b"identity") for value in encodings)


def _is_json(types: Sequence[bytes]) -> bool:
    """Whether a head says that the body is JSON, or says nothing."""
    if not types:
        return True
    kind = types[0]
    if kind != b"application/json":
        kind = kind.partition(b";")[0].strip().lower()
    return len(types) == 1 and (kind == b"application/json" or (b"/" in kind and kind.endswith(b"+json")))


def _failure(error: Exception) -> tuple[str, str]:
    """How a webhook ends with an error, and why."""
    for kind, outcome in _FAILURES:
        if isinstance(error, kind):
            return outcome, str(error)
    # Its text could hold anything, the body included.
    return "failed", type(error).__name__
