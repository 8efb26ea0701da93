"""A server that stands in for Avaturn in tests, demos and front-end work.

``FakeAvaturn`` is the whole of Avaturn that a backend meets: the API, photo uploads, temporary URLs and
webhooks. ``python -m avaturn_async.testing`` runs it alone.

``avaturn_async.testing.fixtures`` has it as fixtures for pytest, and ``avaturn_async.testing.stores`` the
tests that every event store has to pass.
"""

from avaturn_async.testing._catalogue import ASSETS, BODIES, Asset, Body
from avaturn_async.testing._faults import Failing, Fault, WebhookFault
from avaturn_async.testing._requests import FormFile, RecordedRequest
from avaturn_async.testing._server import FakeAvaturn
from avaturn_async.testing._virtual_time import VirtualTime
from avaturn_async.testing._webhooks import NO_RETRIES, SLACK_LIKE, SVIX_LIKE, Delivery

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
