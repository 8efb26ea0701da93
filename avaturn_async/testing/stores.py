"""The contract of event stores, as tests to run against a store of your own.

::

    class TestMyStore(EventStoreContract):
        async def make_store(self, *, max_events, max_bytes):
            bounds = {"max_events": max_events, "max_bytes": max_bytes}
            return MyStore(ttl=self.ttl, takeover=self.takeover, clock=self.clock, **bounds)

It wants pytest with pytest-asyncio in auto mode. The rules are those of :mod:`avaturn_async.webhooks.stores`.
"""

from __future__ import annotations

from avaturn_async.testing._store_events import Keeping, Reading, Routing
from avaturn_async.testing._store_groups import Ending, Handling, Living, Telling

__all__ = ["EventStoreContract"]


class EventStoreContract(Keeping, Routing, Reading, Telling, Handling, Ending, Living):
    """Subclass it, give it ``make_store``, and have pytest collect the subclass.

    Stores of one process need no more. Stores that several processes share give ``make_another`` too; those
    that take no clock set a short ``ttl`` and ``takeover`` and let ``pass_time`` sleep.
    """
