"""The contract of event stores, as tests to run against a store of your own.

::

    class TestMyStore(EventStoreContract):
        async def make_store(self, *, max_events, max_bytes):
            return MyStore(
                ttl=self.ttl,
                takeover=self.takeover,
                clock=self.clock,
                max_events=max_events,
                max_bytes=max_bytes,
            )

It wants pytest with pytest-asyncio in auto mode. The rules are those of :mod:`avaturn_async.webhooks.stores`.
"""

from __future__ import annotations

import pytest

# Else a broken rule would say AssertionError and no more: pytest shows the values only in modules that it was
# told of before they are imported.
pytest.register_assert_rewrite(
    *(f"avaturn_async.testing.{name}" for name in ("_store_rules", "_store_events", "_store_groups"))
)

from avaturn_async.testing._store_events import Keeping, Reading, Routing  # noqa: E402
from avaturn_async.testing._store_groups import Ending, Handling, Living, Telling  # noqa: E402

__all__ = ["EventStoreContract"]


class EventStoreContract(Keeping, Routing, Reading, Telling, Handling, Ending, Living):
    """Subclass it, give it ``make_store``, and have pytest collect the subclass.

    Stores of one process need no more. Stores that several processes share give ``make_another`` too; those
    that take no clock set a short ``ttl`` and ``takeover`` and let ``pass_time`` sleep.
    """
