"""The memory of open sessions on MemoryStore, counted by tracemalloc."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any
from uuid import UUID

from avaturn_async import Session
from avaturn_async.webhooks import MemoryStore, SessionRouter, parse_event


class Client:
    """Opens sessions with rising ids, and keeps nothing."""

    opened = 0

    async def new_session(self, *_: Any) -> Session:
        self.opened += 1
        session_id = UUID(int=self.opened)
        return Session(id=session_id, url=f"https://a.example/?t={session_id}", custom_upload_url=None)


async def open_sessions(router: SessionRouter, client: Any, count: int) -> None:
    for _ in range(count):
        session = await router.open_session(client, f"user-{client.opened}", context={"account": client.opened})
        names = {"user_id": session.user_id, "session_id": str(session.id), "status": "ready"}
        body = json.dumps(
            {"event": "avatar.ready", "avatar_id": str(UUID(int=2**64 + client.opened)), **names}
        ).encode()
        await router.publish(parse_event(body), key=f"delivery-{client.opened}", body=body)


async def measure(count: int) -> float:
    """Return the bytes for each of ``count`` open sessions with one event."""
    store, client = MemoryStore(), Client()
    async with SessionRouter(store) as router:
        # What is loaded and made once does not count.
        await open_sessions(router, client, 100)
        gc.collect()
        tracemalloc.start()
        try:
            await open_sessions(router, client, count)
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        stats = await store.stats()
    assert (stats["events"], stats["records"]) == (count + 100, count + 100)
    return used / count


async def test_open_session_with_an_event_takes_at_most_2500_bytes() -> None:
    # A benchmark measures 100,000 sessions, which take about as much each.
    assert await measure(2_000) <= 2_500
