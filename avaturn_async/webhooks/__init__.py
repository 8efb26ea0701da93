"""Webhooks of Avaturn: verified, stored, and routed to the code that opened the session."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from avaturn_async.errors import RouterClosedError, UnknownSessionError, WebhookPayloadError, WebhookRejected
from avaturn_async.webhooks.access_log import AccessLogFilter
from avaturn_async.webhooks.confirmation import ConfirmByApi
from avaturn_async.webhooks.events import (
    AvatarReady,
    Event,
    ExportReady,
    RenderReady,
    UnknownEvent,
    event_body,
    parse_event,
)
from avaturn_async.webhooks.receiver import WebhookReceiver
from avaturn_async.webhooks.request import WebhookReply, WebhookRequest
from avaturn_async.webhooks.router import FailedEvent, RoutedSession, SessionRouter
from avaturn_async.webhooks.stores.base import EventStore
from avaturn_async.webhooks.stores.memory import MemoryStore
from avaturn_async.webhooks.verification import (
    AllOf,
    AnyOf,
    BasicAuth,
    HmacSha256,
    SharedSecret,
    StandardWebhooks,
    Unverified,
    Verifier,
)

if TYPE_CHECKING:
    from avaturn_async.webhooks.stores.postgres import PostgresStore
    from avaturn_async.webhooks.stores.redis import RedisStore
    from avaturn_async.webhooks.stores.sqlite import SQLiteStore

__all__ = [
    "AccessLogFilter",
    "AllOf",
    "AnyOf",
    "AvatarReady",
    "BasicAuth",
    "ConfirmByApi",
    "Event",
    "EventStore",
    "ExportReady",
    "FailedEvent",
    "HmacSha256",
    "MemoryStore",
    "PostgresStore",
    "RedisStore",
    "RenderReady",
    "RoutedSession",
    "RouterClosedError",
    "SQLiteStore",
    "SessionRouter",
    "SharedSecret",
    "StandardWebhooks",
    "UnknownEvent",
    "UnknownSessionError",
    "Unverified",
    "Verifier",
    "WebhookPayloadError",
    "WebhookReceiver",
    "WebhookRejected",
    "WebhookReply",
    "WebhookRequest",
    "event_body",
    "parse_event",
]

# Loaded on first use: a program with a MemoryStore needs neither sqlite3, redis nor asyncpg.
_LAZY = {
    "PostgresStore": "avaturn_async.webhooks.stores.postgres",
    "RedisStore": "avaturn_async.webhooks.stores.redis",
    "SQLiteStore": "avaturn_async.webhooks.stores.sqlite",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
