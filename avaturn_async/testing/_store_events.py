"""How events are kept, brought to their sessions, and read: rules 1 to 4."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from avaturn_async.errors import StoreFullError
from avaturn_async.testing._store_rules import (
    AVATAR,
    OTHER_AVATAR,
    RENDER,
    A,
    B,
    C,
    StoreRules,
    arrival,
    bodies,
    read_all,
    record,
    under,
)
from avaturn_async.webhooks.stores import Arrival


class Keeping(StoreRules):
    """Rule 1."""

    async def test_what_was_appended_is_read_back(self) -> None:
        async with self.opened() as store:
            position = await store.append(arrival("one", session=A))
            [event] = await store.read(f"session:{A}")
            assert position > 0
            assert (event.position, event.body, event.session_id) == (position, b"one", A)

    async def test_a_body_may_be_any_bytes(self) -> None:
        body = bytes(range(256)) * 100
        async with self.opened() as store:
            await store.append(Arrival(key="é☃", body=body, subjects=(AVATAR,)))
            assert [event.body for event in await store.read(AVATAR)] == [body]
            assert await store.seen("é☃")

    async def test_a_key_is_kept_once(self) -> None:
        async with self.opened() as store:
            assert not await store.seen("one")
            assert await store.append(arrival("one", session=A)) > 0
            assert await store.append(arrival("one", session=B, subjects=(OTHER_AVATAR,))) == 0
            assert await store.seen("one")
            assert await under(store, f"session:{B}") == await under(store, OTHER_AVATAR) == []
            assert (await store.sizes())["events"] == 1

    async def test_of_simultaneous_duplicates_one_is_kept(self) -> None:
        async with self.opened() as store:
            positions = await asyncio.gather(*(store.append(arrival("one")) for _ in range(20)))
            assert sum(position > 0 for position in positions) == 1
            assert await under(store, AVATAR) == ["one"]

    async def test_a_key_is_free_again_when_its_time_is_over(self) -> None:
        async with self.opened() as store:
            first = await store.append(arrival("one"))
            await self.pass_time(self.ttl * 1.01)
            assert not await store.seen("one")
            assert await store.append(arrival("one")) > first
            assert await under(store, AVATAR) == ["one"]

    async def test_a_full_store_refuses_and_drops_nothing(self) -> None:
        self.needs_bounds()
        async with self.opened(max_events=2) as store:
            await store.append(arrival("one"))
            await store.append(arrival("two"))
            with pytest.raises(StoreFullError):
                await store.append(arrival("three"))
            assert await store.append(arrival("one")) == 0
            assert not await store.seen("three")
            assert await under(store, AVATAR) == ["one", "two"]

    async def test_a_store_is_full_by_bytes_too(self) -> None:
        self.needs_bounds()
        async with self.opened(max_bytes=10) as store:
            await store.append(Arrival(key="1", body=b"123456"))
            with pytest.raises(StoreFullError):
                await store.append(Arrival(key="2", body=b"12345"))
            assert await store.append(Arrival(key="3", body=b"1234")) > 0
            assert (await store.sizes())["bytes"] == 10

    async def test_a_full_store_has_room_again_when_the_time_is_over(self) -> None:
        self.needs_bounds()
        async with self.opened(max_events=2) as store:
            await store.append(arrival("one"))
            await store.append(arrival("two"))
            await self.pass_time(self.ttl * 1.01)
            assert await store.append(arrival("three")) > 0
            assert await under(store, AVATAR) == ["three"]


class Routing(StoreRules):
    """Rules 2 and 3."""

    async def test_an_event_goes_to_the_session_it_names(self) -> None:
        async with self.opened() as store:
            await store.bind(AVATAR, B)
            await store.append(arrival("one", session=A))
            assert await under(store, f"session:{A}") == ["one"]
            assert await under(store, f"session:{B}") == []

    async def test_an_event_goes_where_its_first_bound_subject_leads(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("before", subjects=(RENDER, AVATAR)))
            await store.bind(AVATAR, A)
            await store.append(arrival("by avatar", subjects=(RENDER, AVATAR)))
            await store.bind(RENDER, B)
            await store.append(arrival("by render", subjects=(RENDER, AVATAR)))
            assert await under(store, f"session:{A}") == ["before", "by avatar"]
            assert await under(store, f"session:{B}") == ["before", "by avatar", "by render"]
            assert await under(store, RENDER) == ["before", "by avatar", "by render"]

    async def test_an_event_binds_what_it_says_to_its_session(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("made", session=A, binds=(AVATAR,)))
            await store.append(arrival("follows"))
            assert await store.bound(AVATAR) == A
            assert await under(store, f"session:{A}") == ["made", "follows"]

    async def test_an_event_without_a_session_binds_nothing(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("one", binds=(AVATAR,)))
            assert await store.bound(AVATAR) is None

    async def test_what_waits_for_a_session_is_found_in_every_order(self) -> None:
        first = arrival("first", subjects=(RENDER, AVATAR))
        second = arrival("second")
        maker = arrival("maker", session=A, binds=(AVATAR,))
        for order in permutations((first, second, maker)):
            async with self.opened() as store:
                for step in order:
                    await store.append(step)
                found = await read_all(store, f"session:{A}")
                assert sorted(bodies(found)) == ["first", "maker", "second"]
                assert {event.session_id for event in found} == {A}
            await self.pass_time(self.ttl * 1.01)

    async def test_a_session_binds_what_it_is_opened_with(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("early"))
            await store.append(arrival("other", subjects=(OTHER_AVATAR,)))
            await store.save_session(record(A), binds=(AVATAR, OTHER_AVATAR))
            assert await under(store, f"session:{A}") == ["early", "other"]

    async def test_a_name_that_no_event_has_can_be_bound_and_bound_away(self) -> None:
        async with self.opened() as store:
            await store.save_session(record(A))
            await store.bind("rendering:1", A)
            assert await store.bound("rendering:1") == A
            await store.bind("rendering:1", C)
            assert await store.bound("rendering:1") == C
            assert await store.load_session(C) is None

    async def test_the_newest_binding_takes_what_comes_after_it(self) -> None:
        async with self.opened() as store:
            await store.bind(AVATAR, A)
            await store.append(arrival("one"))
            await store.bind(AVATAR, B)
            await store.append(arrival("two"))
            assert await store.bound(AVATAR) == B
            assert await under(store, f"session:{A}") == ["one"]
            assert await under(store, f"session:{B}") == ["two"]

    async def test_an_event_that_named_its_session_is_not_brought_elsewhere(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("one", session=A))
            await store.bind(AVATAR, B)
            assert await under(store, f"session:{B}") == []

    async def test_a_more_telling_subject_adds_a_session_once(self) -> None:
        async with self.opened() as store:
            await store.bind(AVATAR, A)
            await store.append(arrival("render", subjects=(RENDER, AVATAR)))
            for session in (B, B, C):
                await store.bind(RENDER, session)
            assert await under(store, f"session:{A}") == ["render"]
            assert await under(store, f"session:{B}") == ["render"]
            assert await under(store, f"session:{C}") == []
            assert [event.session_id for event in await store.read(RENDER)] == [A]

    async def test_a_less_telling_subject_adds_nothing(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("render", subjects=(RENDER, AVATAR)))
            await store.bind(RENDER, A)
            await store.bind(AVATAR, B)
            assert await under(store, f"session:{A}") == ["render"]
            assert await under(store, f"session:{B}") == []

    async def test_a_more_telling_subject_of_the_same_session_adds_nothing(self) -> None:
        async with self.opened() as store:
            await store.bind(AVATAR, A)
            await store.append(arrival("render", subjects=(RENDER, AVATAR)))
            await store.bind(RENDER, A)
            assert await under(store, f"session:{A}") == ["render"]


class Reading(StoreRules):
    """Rule 4."""

    async def test_positions_and_cursors_rise(self) -> None:
        async with self.opened() as store:
            positions = [await store.append(arrival(f"{n:03}")) for n in range(250)]
            found = await read_all(store, AVATAR)
            assert positions == sorted(set(positions))
            assert [event.position for event in found] == positions
            assert [event.cursor for event in found] == sorted({event.cursor for event in found})
            assert await read_all(store, AVATAR, after=found[99].cursor) == found[100:]

    async def test_an_event_that_is_bound_late_appears_behind_newer_ones(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("old"))
            await store.append(arrival("new", session=A, subjects=()))
            [new] = await store.read(f"session:{A}")
            await store.bind(AVATAR, A)
            [old] = await store.read(f"session:{A}", after=new.cursor)
            assert (old.body, old.session_id) == (b"old", A)
            assert old.position < new.position
            assert old.cursor > new.cursor

    async def test_topics_do_not_mix(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("a", session=A))
            await store.append(arrival("b", session=B, subjects=(OTHER_AVATAR,)))
            assert await under(store, f"session:{A}") == await under(store, AVATAR) == ["a"]
            assert await under(store, f"session:{B}") == await under(store, OTHER_AVATAR) == ["b"]
            assert await under(store, f"session:{C}") == []
