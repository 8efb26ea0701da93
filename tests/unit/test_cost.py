"""Bounds on the functions that are called, which are the same on every machine. No test here measures time.

``python -m tests.benchmarks`` measures time and memory.
"""

from __future__ import annotations

import gc
import logging
from uuid import UUID

import pytest
from aioresponses import aioresponses
from support.count_calls import count_calls, count_functions
from support.forged_requests import forge_requests, make_receivers, receive_forged

from avaturn_async import AvaturnClient
from avaturn_async.webhooks import MemoryStore, SessionRouter, WebhookRequest
from avaturn_async.webhooks.stores.base import NewEntry


async def test_webhook_passes_few_functions_and_files(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "avaturn_async.webhooks")  # as in production
    # Measured; the goal is 25 functions in 8 files.
    functions = await count_functions()
    files = {file for file, _ in functions}
    assert 10 < len(functions) <= 41, sorted(functions)
    assert len(files) <= 11, sorted(files)


async def test_longer_list_costs_no_more_for_each_avatar() -> None:
    row = {"id": "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11", "status": "ready"}

    async def count_list(length: int) -> int:
        with aioresponses() as mocked:
            mocked.get("https://api.avaturn.me/api/v1/users/u/avatars", payload=[row] * length)
            with count_calls() as calls:
                assert len(await client.list_user_avatars("u")) == length
        return calls.total()

    async with AvaturnClient("token") as client:
        await count_list(1)  # makes the hooks
        assert 0 < await count_list(1_000) <= 100 * await count_list(10)


async def test_memory_store_does_no_more_with_many_events_than_with_few() -> None:
    store = MemoryStore()
    await store.start()

    def build_entry(n: int) -> NewEntry:
        return NewEntry((f"session:{UUID(int=n)}", f"avatar:{UUID(int=n)}"), b"{}", str(n))

    async def count_one(n: int) -> int:
        with count_calls() as calls:
            await store.append(build_entry(n))
            await store.read({f"session:{UUID(int=n)}": 0})
        return calls.total()

    few = await count_one(1)
    for n in range(2, 5_000):
        await store.append(build_entry(n))
    assert 0 < await count_one(5_000) <= few


async def test_forged_requests_leave_nothing_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    """The program support/forged_requests.py sends a million, and prints the memory of its process."""
    caplog.set_level(logging.WARNING, "avaturn_async.webhooks")  # as in production
    router = SessionRouter()
    receivers, requests = make_receivers(router), forge_requests()

    async def count_objects_after(count: int) -> int:
        await receive_forged(receivers, requests, count)
        caplog.clear()
        gc.collect()
        return len(gc.get_objects())

    few = await count_objects_after(2_000)
    many = await count_objects_after(18_000)
    # asyncio keeps about 100 cancelled timers.
    assert many - few < 1_000
    assert sum(sum(each.outcomes.values()) for each in receivers.values()) == 20_000
    assert sum(each.outcomes["stored"] for each in receivers.values()) == 0
    await router.close()


async def test_large_bodies_leave_nothing_in_memory() -> None:
    """A body of 240 KB can become 80,000 objects, which nothing may keep."""
    router = SessionRouter()
    receiver = make_receivers(router)["unverified"]
    before = len(gc.get_objects())
    for n in range(5):
        body = b'{"event": "%d", "a": [' % n + b"[]," * 80_000 + b"0]}"
        await receiver.receive(WebhookRequest(method="POST", headers=(), body=body))
    gc.collect()
    assert receiver.outcomes["not_confirmed"] == 5
    assert len(gc.get_objects()) - before < 80_000
    await router.close()
