"""WebhookReceiver: from a request to a reply.

The checks stand in the order of their cost, and nothing is parsed before it is authentic. The reply is 200 only after
the store has the event. ``receive()`` is independent of any web framework; ``handle`` is the aiohttp handler and
``asgi`` the ASGI application, and both call ``receive()``.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from avaturn_async._validation import get_kind, validate_positive
from avaturn_async.errors import (
    AvaturnError,
    RouterClosedError,
    StoreError,
    StoreFullError,
    UnknownSessionError,
    WebhookPayloadError,
    WebhookRejected,
    ends_task,
)
from avaturn_async.webhooks.events import (
    AvatarReady,
    Event,
    RenderReady,
    UnknownEvent,
    event_body,
    parse_event,
)
from avaturn_async.webhooks.replies import ReplyCounter, printable
from avaturn_async.webhooks.request import WebhookReply, WebhookRequest
from avaturn_async.webhooks.verification import Verifier, accepts_unsigned, validate_verifier, verify

if TYPE_CHECKING:
    from aiohttp import web

    from avaturn_async.webhooks.asgi import AsgiApp
    from avaturn_async.webhooks.router import SessionRouter

__all__ = ["WebhookReceiver"]

# int() of a longer text is slow, and no length has more digits.
_MAX_LENGTH_DIGITS = 18
# Only these methods are logged: any other text comes from the sender.
_METHODS = frozenset({"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
# Bounds of the bodies that are being read. Beyond them, the body that has been read for the longest time is given up,
# so that senders that hold their bodies back cannot shut out a body that comes at once.
_MAX_READERS = 10_000
_MAX_PARTIAL_BYTES = 67_108_864


class Confirmation(Protocol):
    """Confirms events, as ConfirmByApi does."""

    async def check(self, event: Event) -> Event | None:
        """Return the event to trust, or None if it is not confirmed.

        Raises:
            UnknownSessionError: The event belongs to a session that the router does not know.
            AvaturnError: The event cannot be confirmed at present.
        """
        ...


class WebhookReceiver:
    """Verifies incoming webhooks and publishes their events to a router.

    ::

        receiver = WebhookReceiver(router, verifier=SharedSecret(secret, query="key"))
        receiver.add_to(app, "/avaturn")

    Args:
        router: Receives the events.
        verifier: Decides whether a webhook is authentic. It has no default.
        confirm: Confirms each event before it is published, such as ConfirmByApi.
        max_body: Bytes of the largest accepted body.
        read_timeout: Seconds within which a body must arrive.
        max_in_flight: Number of webhooks processed at a time; the reply to a further webhook is 503. Bodies that are
            being read do not count.
        peer: Returns the sender's address for the log, given aiohttp's request or the ASGI scope. By default the
            address of the connection, which is the proxy's behind a proxy.
        clock: Returns seconds that only rise, for the rate of the log.

    Raises:
        ValueError: ``verifier`` accepts unsigned webhooks and ``confirm`` is missing, or a number is not above zero.
        TypeError: ``router``, ``verifier`` or ``confirm`` has another type.
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
        peer: Callable[[Any], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not hasattr(router, "publish"):
            raise TypeError(f"router must be a SessionRouter, not {type(router).__name__}")
        validate_verifier(verifier)
        if confirm is None and accepts_unsigned(verifier):
            raise ValueError("this verifier accepts unsigned webhooks: give confirm=ConfirmByApi(client, router) too")
        if confirm is not None and (isinstance(confirm, type) or not hasattr(confirm, "check")):
            raise TypeError(f"confirm must be ConfirmByApi(client, router), not {get_kind(confirm)}")
        validate_positive(max_body=max_body, read_timeout=read_timeout, max_in_flight=max_in_flight)
        self.router = router
        self.max_body = max_body
        self.read_timeout = read_timeout
        self._max_in_flight = max_in_flight
        self._verifier = verifier
        self._is_unsigned = accepts_unsigned(verifier)
        self._confirm = confirm
        self._peer = peer
        # Webhooks between check_headers() and their reply.
        self._in_flight = 0
        # Bytes read so far of each body that is being read, the oldest first; each timeout can end its reader.
        self._readers: dict[asyncio.Timeout, int] = {}
        # Their sum.
        self._partial_bytes = 0
        self._replies = ReplyCounter(clock=clock)

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Count of webhooks by outcome since the start; a live, read-only view.

        Waiters and handlers receive events with the outcome ``stored``. The reply is 200 also to a ``duplicate``, to an
        event that the API does not confirm (``not_confirmed``), and to an event of an ``unknown_session``, which only
        ``on_unrouted`` receives. The reply to all other outcomes is an error.
        """
        return MappingProxyType(self._replies.counts)

    async def receive(self, request: WebhookRequest) -> WebhookReply:
        """Process a complete request of any framework and return the reply.

        The reply to an internal error is a 503.

        Raises:
            TypeError: ``request`` is the request of a web framework.
        """
        if not isinstance(request, WebhookRequest):
            raise TypeError(
                f"request must be a WebhookRequest, not {type(request).__name__}: "
                "for aiohttp there is handle(), for FastAPI and Starlette asgi"
            )
        refusal = self.check_headers(request)
        if refusal is not None:
            return refusal
        self._in_flight += 1
        task = asyncio.current_task()
        try:
            return await self._process(request)
        except BaseException as error:
            # An error in a verifier, a confirmation or a store must not be a 500. The panic of an extension module
            # (pyo3) is a BaseException, too.
            if ends_task(error, task):
                raise
            outcome, reason = _get_outcome(error)
            return self._replies.reply(request, outcome, reason)
        finally:
            self._in_flight -= 1

    def check_headers(self, request: WebhookRequest) -> WebhookReply | None:
        """Return the reply to a request that is refused by its head alone, else None.

        Adapters call this before they read the body, with ``body=b""``. ``receive()`` calls it too.
        """
        if request.method != "POST":
            method = request.method if request.method in _METHODS else "unknown method"
            return self._replies.reply(request, "method_not_allowed", method)
        declared = [int(v[:_MAX_LENGTH_DIGITS]) for v in request.values(b"content-length") if v.isdigit()]
        length = max([len(request.body), *declared])
        if length > self.max_body:
            return self._replies.reply(request, "too_large", f"longer than {self.max_body} bytes", length)
        encodings = request.values(b"content-encoding")
        if any(value.strip().lower() not in (b"", b"identity") for value in encodings):
            return self._replies.reply(request, "unsupported_encoding", "the body has a Content-Encoding", length)
        if self.router.closing:
            return self._replies.reply(request, "shutting_down", "the router is closing", length)
        if self._in_flight >= self._max_in_flight:
            return self._replies.reply(request, "busy", f"{self._max_in_flight} webhooks in flight", length)
        try:
            verify(self._verifier, request, by_head=True)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - as in receive(); a cancellation cannot arrive here
            outcome, reason = _get_outcome(error)
            return self._replies.reply(request, outcome, reason, length)
        return None

    async def read_body(self, head: WebhookRequest, next_chunk: Callable[[], Awaitable[bytes]]) -> bytes | WebhookReply:
        """Read a body within the bounds of size and time, for adapters.

        Args:
            head: The request without its body.
            next_chunk: Returns the next bytes; ``b""`` at the end. Each Exception means an incomplete body.

        Returns:
            The body, or the reply to a body that is too large, too slow or incomplete.
        """
        body = bytearray()
        timeout = asyncio.timeout(self.read_timeout)
        try:
            async with timeout:
                self._readers[timeout] = 0
                self._end_oldest_readers(timeout)
                while chunk := await next_chunk():
                    body += chunk
                    if len(body) > self.max_body:
                        return self._replies.reply(head, "too_large", f"longer than {self.max_body} bytes", len(body))
                    if timeout in self._readers:  # not so if this body was given up, and the timeout comes next
                        self._partial_bytes += len(chunk)
                        self._readers[timeout] = len(body)
                        self._end_oldest_readers(timeout)
        except TimeoutError:
            return self._replies.reply(
                head, "read_timeout", f"no complete body within {self.read_timeout} s", len(body)
            )
        except asyncio.CancelledError:
            self._replies.reply(head, "incomplete_body", "the handler was cancelled", len(body))
            raise
        except Exception as error:  # noqa: BLE001 - each HTTP parser has its own errors for an incomplete body
            return self._replies.reply(head, "incomplete_body", type(error).__name__, len(body))
        finally:
            self._partial_bytes -= self._readers.pop(timeout, 0)
        return bytes(body)

    def _end_oldest_readers(self, newest: asyncio.Timeout) -> None:
        """Give up the oldest bodies while the bodies that are being read exceed their bounds."""
        max_bytes = max(_MAX_PARTIAL_BYTES, 4 * self.max_body)
        while len(self._readers) > _MAX_READERS or self._partial_bytes > max_bytes:
            oldest = next(iter(self._readers))
            if oldest is newest:
                return
            self._partial_bytes -= self._readers.pop(oldest)
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())

    async def _process(self, request: WebhookRequest) -> WebhookReply:
        """Verify, parse, confirm and publish a request that check_headers() accepted."""
        body = request.body
        delivery_id = verify(self._verifier, request)
        types = [value for value in request.values(b"content-type") if value.strip()]  # an empty one says nothing
        name = types[0].partition(b";")[0].strip().lower() if types else b"application/json"
        if len(types) > 1 or not (name == b"application/json" or (b"/" in name and name.endswith(b"+json"))):
            shown = b", ".join(types).decode("latin-1")
            return self._replies.reply(request, "unsupported_media_type", f"content type {printable(shown)}")
        posted = event = parse_event(body)
        if delivery_id is not None:
            key, unique_for = f"id:{delivery_id}", None
        else:
            # Equal bodies without an id may be two events: a person who saves an avatar twice.
            content = _get_identity(event).encode() if self._is_unsigned else body
            key, unique_for = f"sha256:{hashlib.sha256(content).hexdigest()}", self.router.dedup_window
        unknown_session = None
        if self._confirm is not None:
            if await self.router.contains(key):  # a duplicate costs no request to the API
                return self._replies.reply(request, "duplicate", event=event)
            trusted: Event | None
            try:
                if isinstance(event, UnknownEvent):
                    # The API has no call that could confirm it, so a valid secret must be enough.
                    trusted = None if self._is_unsigned else event
                else:
                    trusted = await self._confirm.check(event)
            except UnknownSessionError as error:
                unknown_session = str(error)
                if self._is_unsigned:
                    return self._replies.reply(request, "unknown_session", unknown_session, event=event)
            else:
                if trusted is None:
                    return self._replies.reply(
                        request, "not_confirmed", "the API does not confirm the event", event=event
                    )
                event = trusted
                body = body if event is posted else event_body(event)
        is_new = await self.router.publish(
            event, key=key, body=body, unique_for=unique_for, confirmed=unknown_session is None
        )
        if not is_new:
            return self._replies.reply(request, "duplicate", event=event)
        if unknown_session is not None:
            return self._replies.reply(request, "unknown_session", unknown_session, event=event)
        if isinstance(event, UnknownEvent) and event.problems:
            text = "webhook of another shape than documented"
            self._replies.warn(request, "schema_drift", text, "; ".join(event.problems), event=event)
        return self._replies.reply(request, "stored", event=event)

    def get_peer(self, request: Any, default: str) -> str:
        """Return the sender's address for the log, from the ``peer`` option if it was given."""
        if self._peer is None:
            return default
        try:
            return str(self._peer(request))
        except Exception:  # noqa: BLE001 - an error in the user's function must not cost a webhook
            return default

    # The adapters. Their modules are imported on first use, since they need a web framework.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Handle an aiohttp request: ``app.router.add_post(path, receiver.handle)``. See also ``add_to``."""
        from avaturn_async.webhooks import aiohttp_adapter  # noqa: PLC0415

        return await aiohttp_adapter.handle(self, request)

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """Serve as aiohttp's expect_handler: refuse by the head, before the sender sends a body."""
        from avaturn_async.webhooks import aiohttp_adapter  # noqa: PLC0415

        return await aiohttp_adapter.expect(self, request)

    def add_to(self, app: web.Application, path: str) -> None:
        """Mount in an aiohttp app, for every method. The router starts and closes with the app.

        Raises:
            TypeError: ``app`` is not an application of aiohttp.
        """
        from avaturn_async.webhooks import aiohttp_adapter  # noqa: PLC0415

        aiohttp_adapter.add_to(self, app, path)

    @property
    def asgi(self) -> AsgiApp:
        """The ASGI application, to mount in FastAPI, Starlette or another framework."""
        from avaturn_async.webhooks.asgi import AsgiApp  # noqa: PLC0415

        return AsgiApp(self)


def _get_identity(event: Event) -> str:
    """Return what makes an unsigned event unique: a sender could vary all other fields, which the API replaces."""
    match event:
        case AvatarReady():
            return f"{event.event} {event.avatar_id} {event.session_id}"
        case RenderReady():
            return f"{event.event} {event.avatar_id} {event.id}"
        case _:
            return f"{event.event} {event.avatar_id}"


# The first class that fits decides.
_ERROR_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (WebhookRejected, "unauthorized"),
    (WebhookPayloadError, "invalid_json"),
    (RouterClosedError, "shutting_down"),
    (StoreFullError, "store_full"),
    (StoreError, "store_unavailable"),
    (AvaturnError, "confirmation_unavailable"),
)


def _get_outcome(error: BaseException) -> tuple[str, str]:
    """Return the outcome and the reason for an error."""
    for cls, outcome in _ERROR_OUTCOMES:
        if isinstance(error, cls):
            return outcome, str(error)
    # The text of an unexpected error may hold anything, the body included.
    *_, place = traceback.extract_tb(error.__traceback__)
    return "internal_error", f"{type(error).__name__} in {place.filename}, line {place.lineno}"
