"""Who is told, who handles what, and when it all ends: rules 5 to 7."""

from __future__ import annotations

import asyncio

import pytest

from avaturn_async.testing._store_rules import (
    AVATAR,
    OTHER_AVATAR,
    A,
    B,
    Hints,
    StoreRules,
    arrival,
    bodies,
    claimed,
    expire_all,
    record,
    under,
)


class Telling(StoreRules):
    """Rule 5."""

    async def test_whoever_listens_is_told_what_can_be_read(self) -> None:
        async with self.opened() as store:
            hints = Hints(store)
            await store.append(arrival("one", session=A))
            await hints.told(AVATAR, f"session:{A}")
            await store.append(arrival("two", subjects=(OTHER_AVATAR,)))
            await hints.told(OTHER_AVATAR)
            await store.bind(OTHER_AVATAR, B)
            await hints.told(f"session:{B}")

    async def test_an_event_about_nothing_known_is_told_too(self) -> None:
        async with self.opened() as store:
            hints = Hints(store)
            await store.append(arrival("one", subjects=()))
            await hints.told()

    async def test_what_is_released_is_told(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(arrival("one"))
            [event] = await store.claim("g", limit=1)
            hints = Hints(store)
            await store.release("g", (event.position,))
            await hints.told()

    async def test_whoever_listens_no_longer_is_told_nothing(self) -> None:
        async with self.opened() as store:
            left, stays = Hints(store), Hints(store)
            left.stop()
            left.stop()
            await store.append(arrival("one"))
            await stays.told(AVATAR)
            assert left.count == 0


class Handling(StoreRules):
    """Rule 6."""

    async def test_each_event_is_claimed_once(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            for n in range(30):
                await store.append(arrival(f"{n:02}"))
            claims = await asyncio.gather(*(store.claim("g", limit=7) for _ in range(6)))
            assert max(map(len, claims)) <= 7
            assert sorted(bodies(event for claim in claims for event in claim)) == [
                f"{n:02}" for n in range(30)
            ]
            assert await claimed(store) == []

    async def test_a_claimed_event_tells_its_session(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.bind(AVATAR, A)
            position = await store.append(arrival("one"))
            [event] = await store.claim("g", limit=5)
            assert (event.position, event.body, event.session_id) == (position, b"one", A)

    async def test_groups_do_not_disturb_each_other_and_begin_with_the_oldest(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("one"))
            await store.join("g")
            assert await claimed(store, "g") == ["one"]
            await store.join("h")
            await store.join("g")
            assert await claimed(store, "h") == ["one"]
            assert await claimed(store, "g") == []

    async def test_what_is_finished_is_not_claimed_again(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(arrival("one"))
            await store.append(arrival("two"))
            await store.finish("g", [event.position for event in await store.claim("g", limit=1)])
            await self.pass_time(self.takeover * 1.1)
            assert await claimed(store) == ["two"]

    async def test_what_is_released_can_be_claimed_at_once(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(arrival("one"))
            for _ in range(2):
                [event] = await store.claim("g", limit=5)
                await store.release("g", (event.position,))
            assert await claimed(store) == ["one"]

    async def test_what_is_held_stays_held_and_lapses_when_nobody_holds_on(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(arrival("one"))
            [event] = await store.claim("g", limit=5)
            for _ in range(3):
                await self.pass_time(self.takeover * 0.6)
                assert await claimed(store) == []
                await store.hold("g", (event.position,))
            await self.pass_time(self.takeover * 1.1)
            assert await claimed(store) == ["one"]
            await store.finish("g", (event.position,))
            await self.pass_time(self.takeover * 1.1)
            assert await claimed(store) == []

    async def test_holding_releasing_and_finishing_pass_over_what_is_not_held(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(arrival("one"))
            [event] = await store.claim("g", limit=5)
            await store.finish("g", (event.position,))
            for act in (store.hold, store.release, store.finish):
                await act("g", (event.position, event.position + 1_000))
            assert await claimed(store) == []

    async def test_another_process_takes_over_and_is_left_alone_then(self) -> None:
        async with self.opened() as store:
            another = await self.make_another(store)
            if another is None:
                pytest.skip("this store is in one process only")
            await another.start()
            try:
                await store.join("g")
                await store.append(arrival("one"))
                [event] = await store.claim("g", limit=5)
                await another.join("g")
                assert await claimed(another) == []
                await self.pass_time(self.takeover * 1.1)
                assert await claimed(another) == ["one"]
                await store.release("g", (event.position,))
                await store.hold("g", (event.position,))
                assert await claimed(store) == []
            finally:
                await another.close()


class Ending(StoreRules):
    """Rule 7."""

    async def test_everything_is_gone_when_its_time_is_over(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.save_session(record(A), binds=(OTHER_AVATAR,))
            for n in range(30):
                await store.append(arrival(f"{n}", session=A, binds=(AVATAR,)))
            await store.claim("g", limit=10)
            await self.pass_time(self.ttl * 1.01)
            assert await store.load_session(A) is None
            assert await store.bound(AVATAR) is await store.bound(OTHER_AVATAR) is None
            assert await under(store, AVATAR) == await under(store, f"session:{A}") == []
            assert await claimed(store) == []
            await expire_all(store)
            assert set((await store.sizes()).values()) == {0}

    async def test_what_is_over_takes_no_part_before_it_is_dropped(self) -> None:
        async with self.opened() as store:
            await store.save_session(record(A))
            await store.bind(AVATAR, A)
            await store.append(arrival("old", subjects=(OTHER_AVATAR,)))
            await self.pass_time(self.ttl * 1.01)
            await store.append(arrival("new"))
            await store.bind(OTHER_AVATAR, B)
            assert await under(store, f"session:{A}") == await under(store, f"session:{B}") == []

    async def test_a_session_that_was_opened_is_found(self) -> None:
        async with self.opened() as store:
            assert await store.load_session(A) is None
            await store.save_session(record(A))
            assert await store.load_session(A) == record(A)

    async def test_an_event_renews_its_session_and_the_binding_that_led_there(self) -> None:
        async with self.opened() as store:
            await store.save_session(record(A), binds=(AVATAR,))
            await self.pass_time(self.ttl * 0.6)
            await store.append(arrival("one"))
            await self.pass_time(self.ttl * 0.6)
            await expire_all(store)
            assert await store.load_session(A) == record(A)
            assert await store.bound(AVATAR) == A

    async def test_an_event_renews_the_session_that_it_names(self) -> None:
        async with self.opened() as store:
            await store.save_session(record(A))
            await self.pass_time(self.ttl * 0.6)
            await store.append(arrival("one", session=A))
            await self.pass_time(self.ttl * 0.6)
            await expire_all(store)
            assert await store.load_session(A) == record(A)

    async def test_an_event_that_is_bound_late_renews_its_session(self) -> None:
        async with self.opened() as store:
            await store.save_session(record(A))
            await self.pass_time(self.ttl * 0.6)
            await store.append(arrival("one"))
            await store.bind(AVATAR, A)
            await self.pass_time(self.ttl * 0.6)
            await expire_all(store)
            assert await store.load_session(A) == record(A)
            assert await store.bound(AVATAR) == A

    async def test_an_event_is_kept_for_its_whole_time(self) -> None:
        async with self.opened() as store:
            await store.append(arrival("one"))
            await self.pass_time(self.ttl * 0.9)
            await expire_all(store)
            assert await under(store, AVATAR) == ["one"]


class Living(StoreRules):
    """What goes without a rule."""

    async def test_it_starts_and_closes_twice_and_again(self) -> None:
        store = await self.make_store(max_events=10, max_bytes=1_000)
        for _ in range(2):
            await store.start()
            await store.start()
            await store.append(arrival("one"))
            assert await under(store, AVATAR) == ["one"]
            await store.close()
            await store.close()

    async def test_it_tells_after_how_long_a_claim_lapses(self) -> None:
        async with self.opened() as store:
            assert store.takeover == self.takeover
