"""A server that stands in for Avaturn in tests, demos and front-end work.

``FakeAvaturn`` serves everything of Avaturn that a backend uses: the API, photo uploads, temporary URLs and webhooks.
``avaturn fake`` and ``python -m avaturn_async.testing`` run it alone.

``avaturn_async.testing.fixtures`` contains pytest fixtures, and ``avaturn_async.testing.stores`` the tests that every
event store must pass.
"""

from avaturn_async.testing.catalogue import ASSETS, BODIES, Asset, Body
from avaturn_async.testing.faults import Fault, PlannedFault, WebhookFault
from avaturn_async.testing.messages import FormFile, RecordedRequest
from avaturn_async.testing.server import FakeAvaturn
from avaturn_async.testing.virtual_time import VirtualTime
from avaturn_async.testing.webhooks import NO_RETRIES, SLACK_LIKE, SVIX_LIKE, Delivery

__all__ = [
    "ASSETS",
    "BODIES",
    "NO_RETRIES",
    "SLACK_LIKE",
    "SVIX_LIKE",
    "Asset",
    "Body",
    "Delivery",
    "FakeAvaturn",
    "Fault",
    "FormFile",
    "PlannedFault",
    "RecordedRequest",
    "VirtualTime",
    "WebhookFault",
]
