"""Webhooks of Avaturn: verified, stored and brought to whoever opened the session."""

from avaturn_async.errors import RouterClosedError, UnknownSessionError, WebhookPayloadError, WebhookRejected
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
from avaturn_async.webhooks.router import RoutedSession, SessionRouter
from avaturn_async.webhooks.stores import EventStore
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

__all__ = [
    "AllOf",
    "AnyOf",
    "AvatarReady",
    "BasicAuth",
    "ConfirmByApi",
    "Event",
    "EventStore",
    "ExportReady",
    "HmacSha256",
    "MemoryStore",
    "RenderReady",
    "RoutedSession",
    "RouterClosedError",
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
