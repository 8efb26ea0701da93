"""MemoryStore keeps the contract of all stores, in slices and within its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores import Arrival, SessionRecord
from avaturn_async.webhooks.stores.memory import MemoryStore


class TestMemoryStore(EventStoreContract):
    async def make_store(self, *, max_events: int, max_bytes: int) -> MemoryStore:
        return MemoryStore(
            ttl=self.ttl,
            max_events=max_events,
            max_bytes=max_bytes,
            clock=self.clock,
            takeover=self.takeover,
        )


class _LateStore(MemoryStore):
    """Tells late what happened, as a store elsewhere does, and bit by bit."""

    def listen(self, wake: Callable[[Iterable[str] | None], None]) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def later(topics: Iterable[str] | None) -> None:
            parts: list[list[str] | None] = (
                [None] if topics is None else [[topic] for topic in topics] or [[]]
            )
            for turns, part in enumerate(parts):
                loop.call_later(turns / 1000, wake, part)

        return super().listen(later)


class TestAStoreThatTellsLateAndHasNoBounds(EventStoreContract):
    has_bounds = False

    async def make_store(self, *, max_events: int, max_bytes: int) -> MemoryStore:
        del max_events, max_bytes
        return _LateStore(ttl=self.ttl, clock=self.clock, takeover=self.takeover)


@pytest.mark.parametrize("option", ["ttl", "max_events", "max_bytes", "takeover"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_bound_that_makes_no_sense_is_refused(option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match="must be above zero"):
        MemoryStore(**options)


async def test_expiry_never_takes_more_than_was_asked_for() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    for n in range(20):
        await store.save_session(
            SessionRecord(id=f"{n}", user_id="u", context="null"), binds=(f"avatar:{n}",)
        )
        await store.append(Arrival(key=f"{n}", body=b"x"))
    now = 11.0
    dropped = [await store.expire(limit=7) for _ in range(10)]
    assert dropped == [7, 7, 7, 7, 7, 7, 7, 7, 4, 0]


async def test_every_table_is_empty_when_the_time_is_over() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    empty = _tables(store)
    await store.join("g")
    for n in range(300):
        await store.save_session(
            SessionRecord(id=f"{n}", user_id="u", context="null"), binds=(f"avatar:{n}",)
        )
        await store.append(Arrival(key=f"r{n}", body=b"x", subjects=(f"render:{n}", f"avatar:{n}")))
        await store.bind(f"render:{n}", f"{n + 1}")
        await store.append(Arrival(key=f"a{n}", body=b"x", session_id=f"{n}", subjects=(f"avatar:{n}",)))
        now += 0.001
    claimed = await store.claim("g", limit=100)
    await store.release("g", [event.position for event in claimed[:50]])
    assert _tables(store) != empty
    now = 20.0
    while await store.expire(limit=50):
        pass
    assert _tables(store) == empty


async def test_the_note_of_an_end_is_not_taken_for_one_of_what_came_later() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    for n in range(150):
        await store.save_session(_record(n), binds=(f"avatar:{n}",))
    # With this one both end, and the notes of their first ends stand behind those of 149 others.
    await store.append(Arrival(key="a", body=b"x", subjects=("avatar:149",)))
    now = 11.0
    await store.save_session(_record(149), binds=("avatar:149",))
    while await store.expire(limit=50):
        pass
    assert await store.load_session("149") == _record(149)
    assert await store.bound("avatar:149") == "149"
    assert await store.sizes() == {"events": 0, "bytes": 0, "sessions": 1, "bindings": 1}


@pytest.mark.parametrize("kind", ["sessions", "bindings"])
async def test_sessions_and_bindings_are_dropped_as_others_come(kind: str) -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    kept: list[int] = []
    for n, when in enumerate((0.0, 5.0, 12.0, 16.0)):
        now = when
        if kind == "sessions":
            await store.save_session(_record(n))
        else:
            await store.bind(f"avatar:{n}", "elsewhere")
        kept.append((await store.sizes())[kind])
    assert kept == [1, 2, 2, 2]


async def test_what_an_event_binds_beside_its_subjects_ends_as_well() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    empty = _tables(store)
    await store.append(Arrival(key="a", body=b"x", session_id="1", binds=("avatar:1",)))
    assert await store.bound("avatar:1") == "1"
    now = 11.0
    while await store.expire(limit=50):
        pass
    assert _tables(store) == empty


async def test_what_is_renewed_again_and_again_takes_no_more_room() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    empty = _tables(store)
    await store.save_session(_record(1))
    await store.bind("avatar:1", "1")
    once = _tables(store)
    for _ in range(100):
        now += 1
        await store.bind("avatar:1", "1")
        assert await store.load_session("1") == _record(1)
        assert _tables(store) == once
    now += 11
    while await store.expire(limit=50):
        pass
    assert _tables(store) == empty


async def test_an_end_that_was_put_off_is_come_to_nevertheless() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    empty = _tables(store)
    await store.bind("avatar:1", "1")
    now = 5.0
    await store.bind("avatar:2", "1")
    now = 9.0
    await store.bind("avatar:1", "1")
    now = 16.0
    assert await store.expire(limit=50) == 1
    assert await store.bound("avatar:1") == "1"
    now = 19.0
    assert await store.expire(limit=50) == 1
    assert _tables(store) == empty


async def test_a_binding_that_ended_before_its_events_ends_again() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    empty = _tables(store)
    for subject in ("avatar:1", "render:1"):
        await store.bind(subject, "1")
    now = 5.0
    # It finds its session through the render, which leaves the binding of the avatar as it is.
    await store.append(Arrival(key="a", body=b"x", subjects=("render:1", "avatar:1")))
    now = 12.0
    await store.expire(limit=50)
    assert await store.bound("avatar:1") is None
    assert (await store.read("avatar:1"))[0].body == b"x"
    now = 13.0
    await store.bind("avatar:1", "1")
    now = 16.0
    await store.expire(limit=50)
    assert await store.bound("avatar:1") == "1"
    now = 30.0
    await store.expire(limit=50)
    assert _tables(store) == empty


async def test_what_is_renewed_is_in_the_way_of_nothing_that_is_over() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    await store.save_session(_record(1))
    await store.append(Arrival(key="a", body=b"x", session_id="1"))
    now = 1.0
    for n in (2, 3):
        await store.save_session(_record(n))
    now = 5.0
    await store.save_session(_record(4))
    now = 6.0
    for key, session_id in (("b", "1"), ("c", "2")):
        await store.append(Arrival(key=key, body=b"x", session_id=session_id))
    now = 12.0
    # The first event, and the third session.
    assert await store.expire(limit=50) == 2
    assert await store.sizes() == {"events": 2, "bytes": 2, "sessions": 3, "bindings": 0}
    now = 15.5
    assert await store.expire(limit=50) == 1
    assert await store.load_session("1") == _record(1)


async def test_what_ends_with_an_event_waits_for_nothing() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    await store.save_session(_record(1))
    await store.append(Arrival(key="a", body=b"x", session_id="1"))
    now = 5.0
    await store.save_session(_record(2))
    now = 11.0
    assert [await store.expire(limit=1) for _ in range(3)] == [1, 1, 0]
    assert (await store.sizes())["sessions"] == 1


async def test_an_event_that_ends_takes_nothing_along_that_another_one_renewed() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    await store.save_session(_record(1))
    await store.append(
        Arrival(key="a", body=b"x", session_id="1", subjects=("avatar:1",), binds=("avatar:1",))
    )
    now = 6.0
    await store.append(Arrival(key="b", body=b"x", subjects=("avatar:1",)))
    now = 11.0
    assert await store.expire(limit=50) > 0
    assert await store.load_session("1") == _record(1)
    assert await store.bound("avatar:1") == "1"


async def test_a_bind_to_a_session_that_nobody_opened_leaves_nothing_behind() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    empty = _tables(store)
    await store.bind("avatar:1", "1")
    now = 11.0
    assert await store.expire(limit=50) == 1
    assert _tables(store) == empty


async def test_appending_cleans_up_by_itself() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, clock=lambda: now)
    for n in range(250):
        await store.append(Arrival(key=f"{n}", body=b"x"))
    now = 11.0
    kept: list[int] = []
    for n in range(3):
        await store.append(Arrival(key=f"new {n}", body=b"x"))
        kept.append((await store.sizes())["events"])
    assert kept == [151, 52, 3]


async def test_what_is_over_is_in_nobodys_way_also_behind_a_slice() -> None:
    now = 0.0
    store = MemoryStore(ttl=10, max_bytes=500, clock=lambda: now)
    for n in range(500):
        await store.append(Arrival(key=f"{n}", body=b"x"))
    now = 11.0
    assert await store.append(Arrival(key="499", body=b"x")) > 0
    assert (await store.sizes())["events"] == 400
    assert await store.append(Arrival(key="large", body=b"x" * 499)) > 0
    assert (await store.sizes())["bytes"] == 500


def _tables(store: MemoryStore) -> dict[str, int]:
    """How many rows each table has, groups and their claims included."""
    claims = [table for claims in store._groups.values() for table in (claims._held, claims._released)]
    tables = {name: len(table) for name, table in vars(store).items() if hasattr(table, "__len__")}
    return {**tables, "_groups": 0, "claims": sum(map(len, claims))}


def _record(n: int) -> SessionRecord:
    return SessionRecord(id=f"{n}", user_id="u", context="null")
