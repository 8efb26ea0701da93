"""A million webhooks: ``python -m tests.benchmarks.soaking`` prints the memory after a tenth, and at the end.

Each is received as a whole and wakes the opener that waits for it; 10,000 of them are alive at a time.
"""

from __future__ import annotations

import asyncio

from avaturn_async.webhooks import AvatarReady, HmacSha256, SessionRouter, WebhookReceiver
from avaturn_async.webhooks.stores.memory import MemoryStore

from . import load
from .keeping import resident
from .receiving import as_request

ALL = 1_000_000
ALIVE = 10_000


async def _main() -> None:
    now = 0.0
    store = MemoryStore(ttl=float(ALIVE), clock=lambda: now)
    async with SessionRouter(store) as router:
        receiver = WebhookReceiver(router, verifier=HmacSha256(load.SECRET, header=load.HEADER))
        for n in range(ALL):
            now = float(n)
            waiting = asyncio.create_task(
                router.wait_for(AvatarReady, session_id=load.session_id(n), timeout=600)
            )
            await asyncio.sleep(0)
            reply = await receiver.receive(as_request(n))
            await waiting
            if reply.status != 200:
                raise RuntimeError(f"not taken: {reply}")
            if n == ALL // 10:
                print(resident(), end=" ")
    print(resident(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
