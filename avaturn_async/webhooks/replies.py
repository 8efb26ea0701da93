"""The outcomes of webhooks: the one table of replies, the counters, and a log of bounded rate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from attrs import define, field

from avaturn_async.errors import replace_control_characters
from avaturn_async.webhooks.events import Event
from avaturn_async.webhooks.request import WebhookReply, WebhookRequest
from avaturn_async.webhooks.routing import get_event_topics

logger: logging.Logger = logging.getLogger("avaturn_async.webhooks")

_RETRY = (("Retry-After", "5"),)
_CLOSE = (("Connection", "close"),)
_LOG_INTERVAL = 1.0
_MAX_TEXT = 200

REPLIES: Mapping[str, WebhookReply] = MappingProxyType(
    {
        "stored": WebhookReply(status=200),
        "duplicate": WebhookReply(status=200),
        "unknown_session": WebhookReply(status=200),
        "not_confirmed": WebhookReply(status=200),
        "confirmation_unavailable": WebhookReply(status=503, headers=_RETRY),
        "unauthorized": WebhookReply(status=401),
        "invalid_json": WebhookReply(status=400),
        "unsupported_media_type": WebhookReply(status=415),
        "unsupported_encoding": WebhookReply(status=415, headers=_CLOSE),
        "too_large": WebhookReply(status=413, headers=_CLOSE),
        "method_not_allowed": WebhookReply(status=405, headers=(("Allow", "POST"),)),
        "read_timeout": WebhookReply(status=408, headers=_CLOSE),
        "incomplete_body": WebhookReply(status=400, headers=_CLOSE),
        "busy": WebhookReply(status=503, headers=_RETRY),
        "shutting_down": WebhookReply(status=503, headers=_RETRY),
        "store_full": WebhookReply(status=503, headers=_RETRY),
        "store_unavailable": WebhookReply(status=503, headers=_RETRY),
        "internal_error": WebhookReply(status=503, headers=_RETRY),
    }
)
"""Each outcome of a webhook and its reply."""


@define(kw_only=True)
class ReplyCounter:
    """Counts outcomes, and logs at most one warning per second for each."""

    clock: Callable[[], float]
    counts: dict[str, int] = field(factory=lambda: dict.fromkeys(REPLIES, 0))
    # The time of the last line of each kind, and the number of lines suppressed since.
    _logged_at: dict[str, float] = field(factory=dict[str, float])
    _suppressed: dict[str, int] = field(factory=dict[str, int])

    def reply(
        self,
        request: WebhookRequest,
        outcome: str,
        reason: str = "",
        length: int | None = None,
        *,
        event: Event | None = None,
    ) -> WebhookReply:
        """Count and log an outcome and return its reply.

        Args:
            request: The request.
            outcome: A key of ``REPLIES``.
            reason: The cause.
            length: Bytes of the body; None: the body of the request is complete.
            event: The event in the body.
        """
        self.counts[outcome] += 1
        reply = REPLIES[outcome]
        if outcome not in ("stored", "duplicate"):
            self.warn(request, outcome, f"webhook {outcome}", reason, length, event=event)
        if event is not None and logger.isEnabledFor(logging.DEBUG):
            extra = _build_extra(outcome, reason, request=request, event=event)
            name, session_id = extra["event"], extra["session_id"]
            topic = next(iter(get_event_topics(event)), None) if outcome == "stored" else None
            logger.debug("webhook %s: %s, session %s, routed to %s", outcome, name, session_id, topic, extra=extra)
        return reply

    def warn(
        self,
        request: WebhookRequest,
        outcome: str,
        text: str,
        reason: str,
        length: int | None = None,
        *,
        event: Event | None = None,
    ) -> None:
        """Log a warning, unless one with this outcome was logged within the last second."""
        now = self.clock()
        if now - self._logged_at.get(outcome, float("-inf")) < _LOG_INTERVAL:
            self._suppressed[outcome] = self._suppressed.get(outcome, 0) + 1
            if self._suppressed[outcome] == 1:
                # Without a loop, the next line of this outcome is preceded by the count.
                with suppress(RuntimeError):
                    asyncio.get_running_loop().call_later(_LOG_INTERVAL, self._log_suppressed, outcome)
            return
        self._log_suppressed(outcome)
        self._logged_at[outcome] = now
        extra = _build_extra(outcome, reason, request=request, event=event)
        length = len(request.body) if length is None else length
        place = f"from {extra['peer']}, {length} bytes"
        logger.warning("%s, %d: %s (%s)", text, extra["status"], extra["reason"], place, extra=extra)

    def _log_suppressed(self, outcome: str) -> None:
        count = self._suppressed.pop(outcome, 0)
        if count:
            extra = _build_extra(outcome, f"{count} more within the second")
            logger.warning("webhook %s, %d: %s", outcome, extra["status"], extra["reason"], extra=extra)


def _build_extra(
    outcome: str, reason: str, *, request: WebhookRequest | None = None, event: Event | None = None
) -> dict[str, Any]:
    """Return the ``extra`` fields of a log record."""
    return {
        "outcome": outcome,
        # "schema_drift" has no reply of its own: such an event is stored.
        "status": REPLIES[outcome if outcome in REPLIES else "stored"].status,
        "reason": printable(reason),
        "peer": "" if request is None else printable(request.peer),
        "event": None if event is None else printable(event.event),
        "session_id": None if event is None or event.session_id is None else str(event.session_id),
    }


def printable(text: str) -> str:
    """Return the first 200 characters of a text in one line, without control characters and surrogates."""
    return replace_control_characters(text[:_MAX_TEXT])
