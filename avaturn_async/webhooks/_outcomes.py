"""How a webhook ended: the one table of outcomes and replies, counted, and logged at a bounded rate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from attrs import define, field

from avaturn_async.webhooks.request import WebhookReply

logger = logging.getLogger("avaturn_async.webhooks")

_RETRY = (("Retry-After", "5"),)
_CLOSE = (("Connection", "close"),)

REPLIES: Mapping[str, WebhookReply] = MappingProxyType(
    {
        "stored": WebhookReply(status=200),
        "duplicate": WebhookReply(status=200),
        "refuted": WebhookReply(status=200),
        "wrong_method": WebhookReply(status=405, headers=(("Allow", "POST"),)),
        "too_large": WebhookReply(status=413, headers=_CLOSE),
        "encoded": WebhookReply(status=415, headers=_CLOSE),
        "closing": WebhookReply(status=503, headers=_RETRY),
        "busy": WebhookReply(status=503, headers=_RETRY),
        "too_slow": WebhookReply(status=408, headers=_CLOSE),
        "cut": WebhookReply(status=400, headers=_CLOSE),
        "not_authentic": WebhookReply(status=401),
        "not_json": WebhookReply(status=415),
        "not_an_event": WebhookReply(status=400),
        "store_full": WebhookReply(status=503, headers=_RETRY),
        "store_away": WebhookReply(status=503, headers=_RETRY),
        "unconfirmed": WebhookReply(status=503, headers=_RETRY),
        "failed": WebhookReply(status=503, headers=_RETRY),
    }
)
"""Every way in which a webhook can end, and what its sender is told."""

_QUIET = frozenset({"stored", "duplicate"})


@define(kw_only=True)
class Outcomes:
    """Counts outcomes, and writes at most a line a second for each."""

    clock: Callable[[], float]
    counts: dict[str, int] = field(factory=lambda: dict.fromkeys(REPLIES, 0))
    _logged: dict[str, float] = field(factory=dict[str, float])
    _kept_back: dict[str, int] = field(factory=dict[str, int])

    def reply(self, outcome: str, *, reason: str = "", peer: str = "", length: int = 0) -> WebhookReply:
        """Count an outcome, log it, and give the reply for it."""
        self.counts[outcome] += 1
        reply = REPLIES[outcome]
        if outcome not in _QUIET:
            self.note(outcome, f"webhook {outcome}, {reply.status}", reason, peer=peer, length=length)
        return reply

    def note(self, kind: str, what: str, reason: str, *, peer: str, length: int) -> None:
        """Write a line, unless one of its kind was written within the last second."""
        now = self.clock()
        if now - self._logged.get(kind, float("-inf")) < 1:
            self._kept_back[kind] = self._kept_back.get(kind, 0) + 1
            return
        self._logged[kind] = now
        kept_back = self._kept_back.pop(kind, 0)
        logger.warning(
            "%s: %s (from %s, %d bytes, %d more like it kept back)", what, reason, peer, length, kept_back
        )
