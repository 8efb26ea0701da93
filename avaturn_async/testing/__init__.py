"""A server that stands in for Avaturn in tests, demos and front-end work.

``FakeAvaturn`` is the whole of Avaturn that a backend meets: the API, photo uploads, temporary URLs and
webhooks. ``python -m avaturn_async.testing`` runs it alone.
"""

from avaturn_async.testing._catalogue import ASSETS, BODIES, Asset, Body
from avaturn_async.testing._faults import (
    NO_RETRIES,
    SLACK_LIKE,
    SVIX_LIKE,
    Failing,
    Fault,
    VirtualTime,
    WebhookFault,
)
from avaturn_async.testing._requests import FormFile, RecordedRequest
from avaturn_async.testing._server import FakeAvaturn
from avaturn_async.testing._webhooks import Delivery

__all__ = [
    "ASSETS",
    "BODIES",
    "NO_RETRIES",
    "SLACK_LIKE",
    "SVIX_LIKE",
    "Asset",
    "Body",
    "Delivery",
    "Failing",
    "FakeAvaturn",
    "Fault",
    "FormFile",
    "RecordedRequest",
    "VirtualTime",
    "WebhookFault",
]
