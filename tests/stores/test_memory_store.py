"""MemoryStore: the rules that only it has; the contract suite has the others."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from support.store_machine import check_store

from avaturn_async import StoreFullError
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores.base import NewEntry
from avaturn_async.webhooks.stores.memory import MemoryStore


class TestMemoryStore(EventStoreContract):
    async def make_store(self, *, max_events: int, max_bytes: int) -> MemoryStore:
        return MemoryStore(ttl=self.ttl, lease=self.lease, clock=self.clock, max_events=max_events, max_bytes=max_bytes)


def test_store_behaves_as_the_model() -> None:
    check_store(TestMemoryStore, examples=100)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_expired_events_make_room_for_new_ones() -> None:
    clock = Clock()
    store = MemoryStore(ttl=10, max_events=2, clock=clock)
    await store.start()
    await store.append(NewEntry(("t",), b"1"))
    await store.append(NewEntry(("t",), b"2"))
    with pytest.raises(StoreFullError, match="max_events=2"):
        await store.append(NewEntry(("t",), b"3"))
    clock.now = 10
    position = await store.append(NewEntry(("t",), b"4"))
    assert [(entry.position, entry.body) for entry in await store.read({"t": 0})] == [(position, b"4")]
    assert await store.stats() == {"events": 1, "bytes": 1, "records": 0}


async def test_expired_records_that_were_not_purged_make_room_for_an_event() -> None:
    clock = Clock()
    store = MemoryStore(ttl=10, max_events=1, clock=clock)
    await store.start()
    await store.append(NewEntry(("t",), b"1"))
    for _ in range(500):  # more than one append purges
        await store.append(NewEntry(("t",), b"", ttl=5, dispatch=False))
    clock.now = 10
    await store.append(NewEntry(("t",), b"2"))
    assert await store.stats() == {"events": 1, "bytes": 1, "records": 0}


async def test_expired_entry_that_was_not_purged_is_neither_claimed_nor_counted() -> None:
    clock = Clock()
    store = MemoryStore(ttl=10, clock=clock)
    await store.start()
    await store.create_group("g")
    await store.append(NewEntry((), b"1"))
    clock.now = 5
    second = await store.append(NewEntry((), b"2"))
    clock.now = 10
    assert [claimed.entry.position for claimed in await store.claim("g", limit=5)] == [second]
    assert await store.stats() == {"events": 1, "bytes": 1, "records": 0}


async def test_lease_that_ended_is_claimed_again_before_newer_entries() -> None:
    clock = Clock()
    store = MemoryStore(lease=30, clock=clock)
    await store.start()
    await store.create_group("g")
    first = await store.append(NewEntry((), b"1"))
    assert [(c.entry.position, c.attempt) for c in await store.claim("g", limit=5)] == [(first, 1)]
    second = await store.append(NewEntry((), b"2"))
    clock.now = 30
    assert [(c.entry.position, c.attempt) for c in await store.claim("g", limit=5)] == [(first, 2), (second, 1)]
    await store.ack("g", [first])
    await store.nack("g", [second])
    assert [(c.entry.position, c.attempt) for c in await store.claim("g", limit=5)] == [(second, 2)]


async def test_append_survives_a_listener_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    await store.start()
    topics: list[object] = []
    store.listen(Mock(side_effect=ValueError))
    store.listen(topics.append)
    assert await store.append(NewEntry(("t",), b"1")) > 0
    assert topics == [("t",)]
    assert "a listener of MemoryStore failed" in caplog.text


async def test_group_that_is_not_claimed_keeps_nothing_of_expired_entries() -> None:
    clock = Clock()
    store = MemoryStore(ttl=10, clock=clock)
    await store.start()
    await store.create_group("g")
    for _ in range(20):
        for _ in range(100):
            await store.append(NewEntry((), b"1"))
        clock.now += 11
        while await store.purge_expired():
            pass
    assert len(store._groups["g"].queue) <= 200


async def test_key_that_outlives_its_entry_leaves_nothing() -> None:
    clock = Clock()
    store = MemoryStore(ttl=10, clock=clock)
    await store.start()
    await store.append(NewEntry((), b"1", key="k", unique_for=20))
    clock.now = 11
    assert await store.purge_expired() == 1
    assert await store.contains("k")
    clock.now = 21
    assert await store.purge_expired() == 1
    assert store._keys == {}


@pytest.mark.parametrize("option", ["ttl", "max_events", "max_bytes", "lease"])
def test_option_that_is_not_above_zero_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        MemoryStore(**dict[str, Any]({option: 0}))
