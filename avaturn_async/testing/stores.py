"""The contract of event stores, as tests to run against a store of your own.

::

    class TestMyStore(EventStoreContract):
        async def make_store(self, *, max_events, max_bytes):
            bounds = {"max_events": max_events, "max_bytes": max_bytes}
            return MyStore(ttl=self.ttl, takeover=self.takeover, clock=self.clock, **bounds)

It wants pytest with pytest-asyncio in auto mode. The rules are those of :mod:`avaturn_async.webhooks.stores`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import permutations

import pytest

from avaturn_async.errors import StoreFullError
from avaturn_async.webhooks.stores import Arrival, EventStore, SessionRecord, StoredEvent

__all__ = ["EventStoreContract"]

_A, _B, _C = (f"00000000-0000-4000-8000-00000000000{n}" for n in "abc")
_AVATAR, _OTHER_AVATAR = f"avatar:{_A}", f"avatar:{_B}"
_RENDER = f"render:{_A}"


def _arrival(
    key: str,
    *,
    session: str | None = None,
    subjects: tuple[str, ...] = (_AVATAR,),
    binds: tuple[str, ...] = (),
) -> Arrival:
    return Arrival(key=key, body=key.encode(), session_id=session, subjects=subjects, binds=binds)


def _record(session_id: str) -> SessionRecord:
    return SessionRecord(id=session_id, user_id="user", context='{"account":42}')


def _bodies(events: Iterable[StoredEvent]) -> list[str]:
    return [event.body.decode() for event in events]


async def _all(store: EventStore, topic: str, *, after: int = 0) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while page := await store.read(topic, after=found[-1].cursor if found else after):
        found += page
    return found


async def _under(store: EventStore, topic: str) -> list[str]:
    return _bodies(await _all(store, topic))


async def _expire_all(store: EventStore) -> None:
    while await store.expire(limit=10):
        pass


class EventStoreContract(ABC):
    """Subclass it, give it ``make_store``, and have pytest collect the subclass.

    Each test begins with a new instance, so that ``self`` may hold what belongs to one test.
    """

    ttl: float = 100.0
    """Seconds that the stores of ``make_store`` keep things."""
    takeover: float = 10.0
    """Seconds after which a claim lapses in the stores of ``make_store``."""
    has_bounds: bool = True
    """Whether the store itself refuses what goes beyond ``max_events`` and ``max_bytes``."""
    now: float = 1_000.0
    """What ``clock`` says."""

    def clock(self) -> float:
        """The time, in seconds, for stores that take a clock."""
        return self.now

    async def pass_time(self, seconds: float) -> None:
        """Let time pass. For a store that takes no clock: sleep, with a short ``ttl`` and ``takeover``."""
        self.now += seconds

    @abstractmethod
    async def make_store(self, *, max_events: int, max_bytes: int) -> EventStore:
        """A store with nothing in it, not started."""

    async def make_another(self, store: EventStore) -> EventStore | None:
        """The store as another process has it, not started; None if it is in one process only."""
        del store
        return None

    @asynccontextmanager
    async def opened(
        self, *, max_events: int = 10_000, max_bytes: int = 10_000_000
    ) -> AsyncGenerator[EventStore, None]:
        """A store that is started, and closed in the end."""
        store = await self.make_store(max_events=max_events, max_bytes=max_bytes)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    # Rule 1

    async def test_what_was_appended_is_read_back(self) -> None:
        async with self.opened() as store:
            position = await store.append(_arrival("one", session=_A))
            [event] = await store.read(f"session:{_A}")
            assert position > 0
            assert (event.position, event.body, event.session_id) == (position, b"one", _A)

    async def test_a_body_may_be_any_bytes(self) -> None:
        body = bytes(range(256)) * 100
        async with self.opened() as store:
            await store.append(Arrival(key="é☃", body=body, subjects=(_AVATAR,)))
            assert [event.body for event in await store.read(_AVATAR)] == [body]
            assert await store.seen("é☃")

    async def test_a_key_is_kept_once(self) -> None:
        async with self.opened() as store:
            assert not await store.seen("one")
            assert await store.append(_arrival("one", session=_A)) > 0
            assert await store.append(_arrival("one", session=_B, subjects=(_OTHER_AVATAR,))) == 0
            assert await store.seen("one")
            assert await _under(store, f"session:{_B}") == await _under(store, _OTHER_AVATAR) == []
            assert (await store.sizes())["events"] == 1

    async def test_of_simultaneous_duplicates_one_is_kept(self) -> None:
        async with self.opened() as store:
            positions = await asyncio.gather(*(store.append(_arrival("one")) for _ in range(20)))
            assert sum(position > 0 for position in positions) == 1
            assert await _under(store, _AVATAR) == ["one"]

    async def test_a_key_is_free_again_when_its_time_is_over(self) -> None:
        async with self.opened() as store:
            first = await store.append(_arrival("one"))
            await self.pass_time(self.ttl * 1.01)
            assert not await store.seen("one")
            assert await store.append(_arrival("one")) > first
            assert await _under(store, _AVATAR) == ["one"]

    async def test_a_full_store_refuses_and_drops_nothing(self) -> None:
        self._needs_bounds()
        async with self.opened(max_events=2) as store:
            await store.append(_arrival("one"))
            await store.append(_arrival("two"))
            with pytest.raises(StoreFullError):
                await store.append(_arrival("three"))
            assert await store.append(_arrival("one")) == 0
            assert not await store.seen("three")
            assert await _under(store, _AVATAR) == ["one", "two"]

    async def test_a_store_is_full_by_bytes_too(self) -> None:
        self._needs_bounds()
        async with self.opened(max_bytes=10) as store:
            await store.append(Arrival(key="1", body=b"123456"))
            with pytest.raises(StoreFullError):
                await store.append(Arrival(key="2", body=b"12345"))
            assert await store.append(Arrival(key="3", body=b"1234")) > 0
            assert (await store.sizes())["bytes"] == 10

    async def test_a_full_store_has_room_again_when_the_time_is_over(self) -> None:
        self._needs_bounds()
        async with self.opened(max_events=2) as store:
            await store.append(_arrival("one"))
            await store.append(_arrival("two"))
            await self.pass_time(self.ttl * 1.01)
            assert await store.append(_arrival("three")) > 0
            assert await _under(store, _AVATAR) == ["three"]

    # Rules 2 and 3

    async def test_an_event_goes_to_the_session_it_names(self) -> None:
        async with self.opened() as store:
            await store.bind(_AVATAR, _B)
            await store.append(_arrival("one", session=_A))
            assert await _under(store, f"session:{_A}") == ["one"]
            assert await _under(store, f"session:{_B}") == []

    async def test_an_event_goes_where_its_first_bound_subject_leads(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("before", subjects=(_RENDER, _AVATAR)))
            await store.bind(_AVATAR, _A)
            await store.append(_arrival("by avatar", subjects=(_RENDER, _AVATAR)))
            await store.bind(_RENDER, _B)
            await store.append(_arrival("by render", subjects=(_RENDER, _AVATAR)))
            assert await _under(store, f"session:{_A}") == ["before", "by avatar"]
            assert await _under(store, f"session:{_B}") == ["before", "by avatar", "by render"]
            assert await _under(store, _RENDER) == ["before", "by avatar", "by render"]

    async def test_an_event_binds_what_it_says_to_its_session(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("made", session=_A, binds=(_AVATAR,)))
            await store.append(_arrival("follows"))
            assert await store.bound(_AVATAR) == _A
            assert await _under(store, f"session:{_A}") == ["made", "follows"]

    async def test_an_event_without_a_session_binds_nothing(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("one", binds=(_AVATAR,)))
            assert await store.bound(_AVATAR) is None

    async def test_what_waits_for_a_session_is_found_in_every_order(self) -> None:
        first = _arrival("first", subjects=(_RENDER, _AVATAR))
        second = _arrival("second")
        maker = _arrival("maker", session=_A, binds=(_AVATAR,))
        for order in permutations((first, second, maker)):
            async with self.opened() as store:
                for arrival in order:
                    await store.append(arrival)
                found = await _all(store, f"session:{_A}")
                assert sorted(_bodies(found)) == ["first", "maker", "second"]
                assert {event.session_id for event in found} == {_A}
            await self.pass_time(self.ttl * 1.01)

    async def test_a_session_binds_what_it_is_opened_with(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("early"))
            await store.append(_arrival("other", subjects=(_OTHER_AVATAR,)))
            await store.save_session(_record(_A), binds=(_AVATAR, _OTHER_AVATAR))
            assert await _under(store, f"session:{_A}") == ["early", "other"]

    async def test_the_newest_binding_takes_what_comes_after_it(self) -> None:
        async with self.opened() as store:
            await store.bind(_AVATAR, _A)
            await store.append(_arrival("one"))
            await store.bind(_AVATAR, _B)
            await store.append(_arrival("two"))
            assert await store.bound(_AVATAR) == _B
            assert await _under(store, f"session:{_A}") == ["one"]
            assert await _under(store, f"session:{_B}") == ["two"]

    async def test_an_event_that_named_its_session_is_not_brought_elsewhere(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("one", session=_A))
            await store.bind(_AVATAR, _B)
            assert await _under(store, f"session:{_B}") == []

    async def test_a_more_telling_subject_adds_a_session_once(self) -> None:
        async with self.opened() as store:
            await store.bind(_AVATAR, _A)
            await store.append(_arrival("render", subjects=(_RENDER, _AVATAR)))
            for session in (_B, _B, _C):
                await store.bind(_RENDER, session)
            assert await _under(store, f"session:{_A}") == ["render"]
            assert await _under(store, f"session:{_B}") == ["render"]
            assert await _under(store, f"session:{_C}") == []
            assert [event.session_id for event in await store.read(_RENDER)] == [_A]

    async def test_a_more_telling_subject_of_the_same_session_adds_nothing(self) -> None:
        async with self.opened() as store:
            await store.bind(_AVATAR, _A)
            await store.append(_arrival("render", subjects=(_RENDER, _AVATAR)))
            await store.bind(_RENDER, _A)
            assert await _under(store, f"session:{_A}") == ["render"]

    # Rule 4

    async def test_positions_and_cursors_rise(self) -> None:
        async with self.opened() as store:
            positions = [await store.append(_arrival(f"{n:03}")) for n in range(250)]
            found = await _all(store, _AVATAR)
            assert positions == sorted(set(positions))
            assert [event.position for event in found] == positions
            assert [event.cursor for event in found] == sorted({event.cursor for event in found})
            assert await _all(store, _AVATAR, after=found[99].cursor) == found[100:]

    async def test_an_event_that_is_bound_late_appears_behind_newer_ones(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("old"))
            await store.append(_arrival("new", session=_A, subjects=()))
            [new] = await store.read(f"session:{_A}")
            await store.bind(_AVATAR, _A)
            [old] = await store.read(f"session:{_A}", after=new.cursor)
            assert (old.body, old.session_id) == (b"old", _A)
            assert old.position < new.position
            assert old.cursor > new.cursor

    async def test_topics_do_not_mix(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("a", session=_A))
            await store.append(_arrival("b", session=_B, subjects=(_OTHER_AVATAR,)))
            assert await _under(store, f"session:{_A}") == await _under(store, _AVATAR) == ["a"]
            assert await _under(store, f"session:{_B}") == await _under(store, _OTHER_AVATAR) == ["b"]
            assert await _under(store, f"session:{_C}") == []

    # Rule 5

    async def test_whoever_listens_is_told_what_can_be_read(self) -> None:
        async with self.opened() as store:
            hints = _Hints(store)
            await store.append(_arrival("one", session=_A))
            await hints.told(_AVATAR, f"session:{_A}")
            await store.append(_arrival("two", subjects=(_OTHER_AVATAR,)))
            await hints.told(_OTHER_AVATAR)
            await store.bind(_OTHER_AVATAR, _B)
            await hints.told(f"session:{_B}")

    async def test_an_event_about_nothing_known_is_told_too(self) -> None:
        async with self.opened() as store:
            hints = _Hints(store)
            await store.append(_arrival("one", subjects=()))
            await hints.told()

    async def test_what_is_released_is_told(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(_arrival("one"))
            [event] = await store.claim("g", limit=1)
            hints = _Hints(store)
            await store.release("g", (event.position,))
            await hints.told()

    async def test_whoever_listens_no_longer_is_told_nothing(self) -> None:
        async with self.opened() as store:
            left, stays = _Hints(store), _Hints(store)
            left.stop()
            left.stop()
            await store.append(_arrival("one"))
            await stays.told(_AVATAR)
            assert left.count == 0

    # Rule 6

    async def test_each_event_is_claimed_once(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            for n in range(30):
                await store.append(_arrival(f"{n:02}"))
            claims = await asyncio.gather(*(store.claim("g", limit=7) for _ in range(6)))
            assert max(map(len, claims)) <= 7
            assert sorted(_bodies(event for claim in claims for event in claim)) == [
                f"{n:02}" for n in range(30)
            ]
            assert await _claimed(store) == []

    async def test_a_claimed_event_tells_its_session(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.bind(_AVATAR, _A)
            position = await store.append(_arrival("one"))
            [event] = await store.claim("g", limit=5)
            assert (event.position, event.body, event.session_id) == (position, b"one", _A)

    async def test_groups_do_not_disturb_each_other_and_begin_with_the_oldest(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("one"))
            await store.join("g")
            assert await _claimed(store, "g") == ["one"]
            await store.join("h")
            await store.join("g")
            assert await _claimed(store, "h") == ["one"]
            assert await _claimed(store, "g") == []

    async def test_what_is_finished_is_not_claimed_again(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(_arrival("one"))
            await store.append(_arrival("two"))
            await store.finish("g", [event.position for event in await store.claim("g", limit=1)])
            await self.pass_time(self.takeover * 1.1)
            assert await _claimed(store) == ["two"]

    async def test_what_is_released_can_be_claimed_at_once(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(_arrival("one"))
            for _ in range(2):
                [event] = await store.claim("g", limit=5)
                await store.release("g", (event.position,))
            assert await _claimed(store) == ["one"]

    async def test_what_is_held_stays_held_and_lapses_when_nobody_holds_on(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(_arrival("one"))
            [event] = await store.claim("g", limit=5)
            for _ in range(3):
                await self.pass_time(self.takeover * 0.6)
                assert await _claimed(store) == []
                await store.hold("g", (event.position,))
            await self.pass_time(self.takeover * 1.1)
            assert await _claimed(store) == ["one"]
            await store.finish("g", (event.position,))
            await self.pass_time(self.takeover * 1.1)
            assert await _claimed(store) == []

    async def test_holding_releasing_and_finishing_pass_over_what_is_not_held(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.append(_arrival("one"))
            [event] = await store.claim("g", limit=5)
            await store.finish("g", (event.position,))
            for act in (store.hold, store.release, store.finish):
                await act("g", (event.position, event.position + 1_000))
            assert await _claimed(store) == []

    async def test_another_process_takes_over_and_is_left_alone_then(self) -> None:
        async with self.opened() as store:
            another = await self.make_another(store)
            if another is None:
                return
            await another.start()
            try:
                await store.join("g")
                await store.append(_arrival("one"))
                [event] = await store.claim("g", limit=5)
                await another.join("g")
                assert await _claimed(another) == []
                await self.pass_time(self.takeover * 1.1)
                assert await _claimed(another) == ["one"]
                await store.release("g", (event.position,))
                await store.hold("g", (event.position,))
                assert await _claimed(store) == []
            finally:
                await another.close()

    # Rule 7

    async def test_everything_is_gone_when_its_time_is_over(self) -> None:
        async with self.opened() as store:
            await store.join("g")
            await store.save_session(_record(_A), binds=(_OTHER_AVATAR,))
            for n in range(30):
                await store.append(_arrival(f"{n}", session=_A, binds=(_AVATAR,)))
            await store.claim("g", limit=10)
            await self.pass_time(self.ttl * 1.01)
            assert await store.load_session(_A) is None
            assert await store.bound(_AVATAR) is await store.bound(_OTHER_AVATAR) is None
            assert await _under(store, _AVATAR) == await _under(store, f"session:{_A}") == []
            assert await _claimed(store) == []
            await _expire_all(store)
            assert set((await store.sizes()).values()) == {0}

    async def test_what_is_over_takes_no_part_before_it_is_dropped(self) -> None:
        async with self.opened() as store:
            await store.save_session(_record(_A))
            await store.bind(_AVATAR, _A)
            await store.append(_arrival("old", subjects=(_OTHER_AVATAR,)))
            await self.pass_time(self.ttl * 1.01)
            await store.append(_arrival("new"))
            await store.bind(_OTHER_AVATAR, _B)
            assert await _under(store, f"session:{_A}") == await _under(store, f"session:{_B}") == []

    async def test_a_session_that_was_opened_is_found(self) -> None:
        async with self.opened() as store:
            assert await store.load_session(_A) is None
            await store.save_session(_record(_A))
            assert await store.load_session(_A) == _record(_A)

    async def test_an_event_renews_its_session_and_the_binding_that_led_there(self) -> None:
        async with self.opened() as store:
            await store.save_session(_record(_A), binds=(_AVATAR,))
            await self.pass_time(self.ttl * 0.6)
            await store.append(_arrival("one"))
            await self.pass_time(self.ttl * 0.6)
            assert await store.load_session(_A) == _record(_A)
            assert await store.bound(_AVATAR) == _A

    async def test_an_event_that_is_bound_late_renews_its_session(self) -> None:
        async with self.opened() as store:
            await store.save_session(_record(_A))
            await self.pass_time(self.ttl * 0.6)
            await store.append(_arrival("one"))
            await store.bind(_AVATAR, _A)
            await self.pass_time(self.ttl * 0.6)
            assert await store.load_session(_A) == _record(_A)
            assert await store.bound(_AVATAR) == _A

    async def test_an_event_is_kept_for_its_whole_time(self) -> None:
        async with self.opened() as store:
            await store.append(_arrival("one"))
            await self.pass_time(self.ttl * 0.9)
            await _expire_all(store)
            assert await _under(store, _AVATAR) == ["one"]

    # Its life

    async def test_it_starts_and_closes_twice_and_again(self) -> None:
        store = await self.make_store(max_events=10, max_bytes=1_000)
        for _ in range(2):
            await store.start()
            await store.start()
            await store.append(_arrival("one"))
            assert await _under(store, _AVATAR) == ["one"]
            await store.close()
            await store.close()

    async def test_it_tells_after_how_long_a_claim_lapses(self) -> None:
        async with self.opened() as store:
            assert store.takeover == self.takeover

    def _needs_bounds(self) -> None:
        if not self.has_bounds:
            pytest.skip("this store has no bounds of its own")


class _Hints:
    """Collects what a store tells whoever listens."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._topics: set[str] | None = set()
        self._came = asyncio.Event()
        self.count = 0
        self.stop = store.listen(self._wake)

    def _wake(self, topics: Iterable[str] | None) -> None:
        self.count += 1
        # None hints at everything, from then on until it was looked at.
        self._topics = None if topics is None or self._topics is None else {*self._topics, *topics}
        self._came.set()

    async def told(self, *topics: str) -> None:
        """Wait for a hint that has these topics in it, see that they can be read, and forget it."""
        async with asyncio.timeout(10):
            await self._came.wait()
            while self._topics is not None and not self._topics.issuperset(topics):
                self._came.clear()
                await self._came.wait()
        for topic in topics:
            assert await self._store.read(topic)
        self._came.clear()
        self._topics = set()


async def _claimed(store: EventStore, group: str = "g") -> Sequence[str]:
    """All that can be claimed now, which is not finished then."""
    found: list[StoredEvent] = []
    while claimed := await store.claim(group, limit=100):
        found += claimed
    return _bodies(found)
