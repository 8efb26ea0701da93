"""EventStoreContract: the rules of event stores as tests. Import it from ``avaturn_async.testing.stores``.

::

    class TestMyStore(EventStoreContract):
        async def make_store(self, *, max_events, max_bytes):
            return MyStore(
                ttl=self.ttl, lease=self.lease, clock=self.clock, max_events=max_events, max_bytes=max_bytes
            )

It needs pytest and pytest-asyncio, in strict or auto mode. The rules are numbered in
:mod:`avaturn_async.webhooks.stores.base`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import attrs
import pytest

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores.base import Claimed, Entry, EventStore, NewEntry

__all__ = ["EventStoreContract"]


def bodies(entries: Iterable[Entry]) -> list[str]:
    """Return the bodies of entries as text."""
    return [entry.body.decode() for entry in entries]


def attempts(claimed: Iterable[Claimed]) -> list[tuple[str, int]]:
    """Return the body and the attempt of each claimed entry."""
    return [(each.entry.body.decode(), each.attempt) for each in claimed]


async def append(
    store: EventStore,
    body: str,
    *topics: str,
    key: str | None = None,
    unique_for: float | None = None,
    ttl: float | None = None,
    dispatch: bool = True,
) -> int:
    """Append an entry under ``topics``, by default under ``t``."""
    return await store.append(
        NewEntry(topics or ("t",), body.encode(), key=key, unique_for=unique_for, ttl=ttl, dispatch=dispatch)
    )


async def read_all(store: EventStore, topics: Mapping[str, int] | None = None, *, limit: int = 100) -> list[str]:
    """Return the bodies behind ``topics`` (by default all of ``t``), page by page as rule 4 allows it."""
    positions = dict(topics or {"t": 0})
    found: list[str] = []
    while page := await store.read(positions, limit=limit):
        found += bodies(page)
        positions = {topic: max(after, page[-1].position) for topic, after in positions.items()}
        if len(page) < limit:
            break
    return found


class Notifications:
    """Records the calls of a listener."""

    def __init__(self, store: EventStore) -> None:
        self._calls: asyncio.Queue[set[str] | None] = asyncio.Queue()
        self.stop: Callable[[], None] = store.listen(self._record)

    def _record(self, topics: Iterable[str] | None) -> None:
        self._calls.put_nowait(None if topics is None else set(topics))

    async def wait_for(self, *topics: str) -> None:
        """Wait for calls that include ``topics``, or for any call if there are none; then forget all calls."""
        missing, is_complete = set(topics), False
        async with asyncio.timeout(10):
            while not is_complete:
                called = await self._calls.get()
                missing = set[str]() if called is None else missing - called
                is_complete = not missing and self._calls.empty()


@pytest.mark.asyncio
class EventStoreContract(ABC):
    """Tests of all rules: subclass it, implement ``make_store``, and have pytest collect the subclass.

    A store that several processes share implements ``make_another`` too. A store that takes no clock sets a short
    ``ttl`` and ``lease``, and sleeps in ``pass_time``. Each test has an instance of its own.
    """

    ttl: float = 100.0
    """TTL in seconds of the stores that ``make_store`` returns."""
    lease: float = 10.0
    """Lease in seconds of the stores that ``make_store`` returns."""
    has_bounds: bool = True
    """Whether the store enforces ``max_events`` and ``max_bytes``."""
    now: float = 1_000.0
    """The time that ``clock`` returns."""

    def clock(self) -> float:
        """Return the time in seconds, for stores that take a clock."""
        return self.now

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the store."""
        self.now += seconds

    @abstractmethod
    async def make_store(self, *, max_events: int, max_bytes: int) -> EventStore:
        """Return an empty store that is not started."""

    async def make_another(self, store: EventStore) -> EventStore | None:
        """Return the same log as another process opens it, not started; None for a store of one process."""
        del store
        return None

    @asynccontextmanager
    async def opened(
        self, *, max_events: int = 10_000, max_bytes: int = 10_000_000, group: str | None = None
    ) -> AsyncGenerator[EventStore]:
        """Start a store, perhaps with a consumer group, and close it at the end."""
        store = await self.make_store(max_events=max_events, max_bytes=max_bytes)
        await store.start()
        try:
            if group is not None:
                await store.create_group(group)
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def opened_twice(self) -> AsyncGenerator[tuple[EventStore, EventStore]]:
        """Start a store, and the same log as another process has it; skip the test if it has no other process."""
        async with self.opened() as store:
            other = await self.make_another(store)
            if other is None:
                pytest.skip("a store of one process")
            await other.start()
            try:
                yield store, other
            finally:
                await other.close()

    # Rule 1: append, positions.

    async def test_entry_is_read_as_it_was_appended(self) -> None:
        async with self.opened() as store:
            body = bytes(range(256))
            position = await store.append(NewEntry(("a", "b"), body, key="k"))
            for topic in ("a", "b"):
                (entry,) = await store.read({topic: 0})
                assert (entry.position, set(entry.topics), entry.body) == (position, {"a", "b"}, body)

    async def test_positions_rise_and_order_the_log(self) -> None:
        async with self.opened() as store:
            positions = [await append(store, str(n)) for n in range(5)]
            positions += await asyncio.gather(*(append(store, str(n)) for n in range(5, 60)))
            assert positions[0] >= 1
            assert len(set(positions)) == 60
            entries = await store.read({"t": 0})
            assert [entry.position for entry in entries] == sorted(positions)
            by_body = {entry.body: entry.position for entry in entries}
            assert [by_body[str(n).encode()] for n in range(60)] == positions
            assert all(first.at <= second.at for first, second in pairwise(entries))

    async def test_entry_of_a_wrong_type_is_refused_and_those_beside_it_are_appended(self) -> None:
        async with self.opened() as store:
            wrong: list[tuple[str, Any]] = [
                ("topics", "session:1"),
                ("topics", ("t", 1)),
                ("body", None),
                ("body", "x"),
                ("key", b"k"),
            ]
            for field, value in wrong:
                entry = attrs.evolve(NewEntry(("t",), b"x"), **{field: value})
                notifications = Notifications(store)
                before, error, after = await asyncio.gather(
                    append(store, field, "a"), store.append(entry), append(store, field, "b"), return_exceptions=True
                )
                assert isinstance(before, int)
                assert isinstance(after, int)
                assert isinstance(error, TypeError)
                assert field in str(error)
                await notifications.wait_for("a", "b")
                notifications.stop()
            assert await read_all(store, {"a": 0}) == [field for field, _ in wrong]
            assert await read_all(store) == []

    async def test_position_is_not_reused_after_everything_expired(self) -> None:
        async with self.opened() as store:
            last = await append(store, "1")
            await self.pass_time(2.1 * self.ttl)
            while await store.purge_expired():
                pass
            assert await append(store, "2") > last
            await store.close()
            await store.start()
            assert await append(store, "3") > last + 1

    async def test_reader_never_sees_a_position_before_a_lower_one(self) -> None:
        async with self.opened_twice() as (store, other):
            seen: list[int] = []

            async def follow() -> None:
                after = 0
                while len(seen) < 60:
                    page = await other.read({"t": after})
                    seen.extend(entry.position for entry in page)
                    after = page[-1].position if page else after
                    await asyncio.sleep(0)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follow())
                for n in range(30):
                    tasks.create_task(append(store, f"a{n}"))
                    tasks.create_task(append(other, f"b{n}"))
            assert seen == [entry.position for entry in await store.read({"t": 0})]

    # Rule 2: duplicates.

    async def test_key_makes_a_duplicate(self) -> None:
        async with self.opened() as store:
            assert not await store.contains("k")
            results = await asyncio.gather(*(append(store, "1", key="k") for _ in range(5)))
            assert sorted(map(bool, results)) == [False] * 4 + [True]
            assert await store.contains("k")
            assert await append(store, "2", "u", key="k") == 0
            assert await append(store, "3", key="other") > 0
            assert await append(store, "4") > 0
            assert await append(store, "5") > 0
            assert await read_all(store) == ["1", "3", "4", "5"]
            assert await read_all(store, {"u": 0}) == []

    async def test_key_is_taken_for_the_lifetime_of_its_entry(self) -> None:
        async with self.opened() as store:
            await append(store, "1", key="k")
            await self.pass_time(0.5 * self.ttl)
            assert await append(store, "2", key="k") == 0
            await self.pass_time(0.6 * self.ttl)
            assert not await store.contains("k")
            assert await append(store, "3", key="k") > 0
            assert await read_all(store) == ["3"]

    async def test_key_is_free_after_unique_for_though_its_entry_lives(self) -> None:
        async with self.opened() as store:
            await append(store, "1", key="k", unique_for=0.4 * self.ttl)
            await self.pass_time(0.25 * self.ttl)
            # A duplicate does not extend the time, whatever it says itself.
            assert await append(store, "2", key="k", unique_for=self.ttl) == 0
            await self.pass_time(0.25 * self.ttl)
            assert not await store.contains("k")
            assert await append(store, "3", key="k", unique_for=0.4 * self.ttl) > 0
            assert await store.contains("k")
            assert await read_all(store) == ["1", "3"]

    async def test_key_stays_taken_after_unique_for_if_it_was_taken_again(self) -> None:
        async with self.opened() as store:
            await append(store, "1", key="k", unique_for=0.2 * self.ttl)
            await self.pass_time(0.3 * self.ttl)
            await append(store, "2", key="k")
            # The first entry expires; the key belongs to the second one.
            await self.pass_time(0.75 * self.ttl)
            while await store.purge_expired():
                pass
            assert await store.contains("k")
            assert await append(store, "3", key="k") == 0

    # Rules 3 and 7: bounds and lifetimes.

    def skip_without_bounds(self) -> None:
        """Skip a test of bounds for a store that has none."""
        if not self.has_bounds:
            pytest.skip("a store without bounds")

    async def test_full_store_refuses_events_and_drops_nothing(self) -> None:
        self.skip_without_bounds()
        async with self.opened(max_events=2) as store:
            await append(store, "1", key="k")
            await append(store, "2")
            with pytest.raises(StoreFullError):
                await append(store, "3", key="new")
            assert not await store.contains("new")
            assert await append(store, "1", key="k") == 0
            assert await append(store, "record", dispatch=False) > 0
            assert await read_all(store) == ["1", "2", "record"]
            await self.pass_time(1.1 * self.ttl)
            assert await append(store, "3", key="new") > 0
            assert await read_all(store) == ["record", "3"]

    async def test_store_is_full_by_the_bytes_of_bodies(self) -> None:
        self.skip_without_bounds()
        async with self.opened(max_bytes=10) as store:
            await append(store, "123456")
            with pytest.raises(StoreFullError):
                await append(store, "12345")
            assert await append(store, "1" * 50, dispatch=False) > 0
            assert await append(store, "1234") > 0

    async def test_entries_of_one_batch_do_not_pass_the_bound_together(self) -> None:
        self.skip_without_bounds()
        async with self.opened(max_events=3) as store:
            results = await asyncio.gather(*(append(store, str(n)) for n in range(6)), return_exceptions=True)
            assert sum(isinstance(result, StoreFullError) for result in results) == 3
            assert len(await read_all(store)) == 3

    async def test_lifetimes_of_events_records_and_own_ttl(self) -> None:
        async with self.opened() as store:
            await append(store, "event")
            await append(store, "record", dispatch=False)
            await append(store, "short", ttl=0.4 * self.ttl)
            await append(store, "long", ttl=2.6 * self.ttl)
            assert await read_all(store) == ["event", "record", "short", "long"]
            await self.pass_time(0.6 * self.ttl)
            assert await read_all(store) == ["event", "record", "long"]
            await self.pass_time(0.6 * self.ttl)
            assert await read_all(store) == ["record", "long"]
            await self.pass_time(self.ttl)
            assert await read_all(store) == ["long"]
            while await store.purge_expired(limit=2):
                pass
            assert await read_all(store) == ["long"]
            stats = await store.stats()
            assert (stats["events"], stats["bytes"], stats["records"]) == (1, 4, 0)

    async def test_expired_entries_do_not_fill_a_page(self) -> None:
        async with self.opened() as store:
            for n in range(5):
                await append(store, f"short{n}", ttl=0.2 * self.ttl)
            await append(store, "1")
            await append(store, "2")
            await self.pass_time(0.5 * self.ttl)
            assert bodies(await store.read({"t": 0}, limit=2)) == ["1", "2"]

    async def test_stats_count_live_entries(self) -> None:
        async with self.opened() as store:
            await append(store, "123")
            await append(store, "4567")
            await append(store, "record", dispatch=False)
            stats = await store.stats()
            assert (stats["events"], stats["bytes"], stats["records"]) == (2, 7, 1)

    # Rule 4: read.

    async def test_read_merges_topics_each_behind_its_own_position(self) -> None:
        async with self.opened() as store:
            first = await append(store, "1", "a")
            await append(store, "2", "b")
            both = await append(store, "3", "a", "b")
            await append(store, "4", "c")
            await append(store, "5", "a", "a")
            assert bodies(await store.read({"a": 0, "b": 0})) == ["1", "2", "3", "5"]
            assert bodies(await store.read({"a": first, "b": both})) == ["3", "5"]
            assert bodies(await store.read({"a": both, "b": 0})) == ["2", "3", "5"]
            assert bodies(await store.read({"a": 0, "b": 0}, limit=3)) == ["1", "2", "3"]
            assert bodies(await store.read({"unknown": 0})) == []
            assert bodies(await store.read({})) == []

    async def test_pages_together_are_the_whole_log(self) -> None:
        async with self.opened() as store:
            expected: list[str] = []
            for n in range(25):
                await append(store, str(n), *(("t", "u") if n % 3 else ("u",)))
                expected.append(str(n))
            assert await read_all(store, {"t": 0, "u": 0}, limit=4) == expected

    # Rule 5: notifications.

    async def test_listener_is_called_with_the_topics_of_readable_entries(self) -> None:
        async with self.opened() as store:
            notifications = Notifications(store)
            await append(store, "1", "a", "b")
            await notifications.wait_for("a", "b")
            assert bodies(await store.read({"a": 0})) == ["1"]
            await append(store, "2", "c", dispatch=False)
            await notifications.wait_for("c")
            await store.append(NewEntry((), b"3"))
            await notifications.wait_for()
            notifications.stop()
            notifications.stop()

    async def test_listener_is_called_for_entries_of_another_process(self) -> None:
        async with self.opened_twice() as (store, other):
            notifications = Notifications(other)
            await append(store, "1", "a")
            await notifications.wait_for("a")
            assert bodies(await other.read({"a": 0})) == ["1"]

    async def test_listener_is_called_when_a_group_can_claim_again(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1", "a")
            await store.claim("g", limit=1)
            notifications = Notifications(store)
            await store.nack("g", [position])
            await notifications.wait_for()
            await store.claim("g", limit=1)
            await store.fail("g", position, "reason")
            await store.retry("g", [position])
            await notifications.wait_for()

    async def test_listener_that_was_stopped_is_not_called(self) -> None:
        async with self.opened() as store:
            calls: list[object] = []
            store.listen(calls.append)()
            notifications = Notifications(store)
            await append(store, "1", "a")
            await notifications.wait_for("a")
            assert calls == []

    # Rule 6: consumer groups.

    async def test_entries_are_claimed_once_and_oldest_first(self) -> None:
        async with self.opened() as store:
            await append(store, "1")
            await append(store, "record", dispatch=False)
            await store.create_group("g")
            await append(store, "2", "u")
            await store.append(NewEntry((), b"3"))
            await store.create_group("g")
            first = await store.claim("g", limit=2)
            assert attempts(first) == [("1", 1), ("2", 1)]
            assert first[1].entry.topics == ("u",)
            assert attempts(await store.claim("g", limit=5)) == [("3", 1)]
            assert attempts(await store.claim("g", limit=5)) == []

    async def test_groups_are_independent(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1")
            await store.claim("g", limit=5)
            await store.ack("g", [position])
            await store.create_group("h")
            assert attempts(await store.claim("h", limit=5)) == [("1", 1)]
            assert attempts(await store.claim("g", limit=5)) == []

    async def test_groups_are_listed_by_name(self) -> None:
        async with self.opened() as store:
            assert list(await store.groups()) == []
            for group in ("shop.mail:AvatarReady", "b Ü#2:unrouted", "shop.mail:AvatarReady"):
                await store.create_group(group)
            assert list(await store.groups()) == ["b Ü#2:unrouted", "shop.mail:AvatarReady"]

    async def test_missing_group_is_a_new_group_to_each_method(self) -> None:
        async with self.opened() as store:
            first = await store.append(NewEntry(("t",), b"1"))
            second = await store.append(NewEntry(("t",), b"2"))
            assert await store.failed("failed") == []
            await store.renew("renewed", [first])
            await store.nack("returned", [first])
            await store.retry("retried", [first])
            await store.ack("acknowledged", [first])
            await store.fail("given up", first, "reason")
            assert [failed.reason for failed in await store.failed("given up")] == ["reason"]
            for group in ("acknowledged", "given up"):
                assert [claimed.entry.position for claimed in await store.claim(group, limit=9)] == [second]
            for group in ("failed", "renewed", "returned", "retried", "new"):
                assert [claimed.entry.position for claimed in await store.claim(group, limit=9)] == [first, second]

    async def test_record_cannot_fail(self) -> None:
        async with self.opened() as store:
            position = await append(store, "record", dispatch=False)
            await store.fail("g", position, "reason")
            assert list(await store.failed("g")) == []
            await store.retry("g", [position])
            assert attempts(await store.claim("g", limit=5)) == []

    async def test_missing_group_has_nothing_of_another_group(self) -> None:
        async with self.opened() as store:
            position = await append(store, "1")
            await store.claim("g", limit=1)
            await store.fail("g", position, "reason")
            assert list(await store.failed("missing")) == []
            await store.retry("missing", [position])
            await store.renew("missing", [position], count=True)
            assert [(failed.entry.position, failed.attempts) for failed in await store.failed("g")] == [(position, 1)]

    async def test_acknowledged_entry_is_not_claimed_again(self) -> None:
        async with self.opened(group="g") as store:
            positions = [await append(store, str(n)) for n in range(3)]
            await store.ack("g", [positions[1]])
            await store.claim("g", limit=1)
            await store.ack("g", [positions[0], 10**15])
            await self.pass_time(1.1 * self.lease)
            assert attempts(await store.claim("g", limit=5)) == [("2", 1)]

    async def test_group_that_claims_in_vain_for_several_ttls_receives_the_next_entry(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1")
            await store.claim("g", limit=5)
            await store.ack("g", [position])
            for _ in range(8):
                await self.pass_time(0.5 * self.ttl)
                assert attempts(await store.claim("g", limit=5)) == []
            await append(store, "2")
            assert attempts(await store.claim("g", limit=5)) == [("2", 1)]

    async def test_lease_ends_and_the_attempt_is_counted(self) -> None:
        async with self.opened(group="g") as store:
            await append(store, "1")
            await append(store, "2")
            assert attempts(await store.claim("g", limit=1)) == [("1", 1)]
            await self.pass_time(1.1 * self.lease)
            assert attempts(await store.claim("g", limit=5)) == [("1", 2), ("2", 1)]

    async def test_renewed_lease_does_not_end(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1")
            await store.claim("g", limit=1)
            for _ in range(3):
                await self.pass_time(0.6 * self.lease)
                await store.renew("g", [position, 10**15])
                assert attempts(await store.claim("g", limit=1)) == []
            await self.pass_time(1.1 * self.lease)
            assert attempts(await store.claim("g", limit=1)) == [("1", 2)]

    async def test_renewed_lease_does_not_hide_an_ended_one(self) -> None:
        async with self.opened(group="g") as store:
            first = await append(store, "1")
            await append(store, "2")
            await store.claim("g", limit=2)
            await self.pass_time(0.6 * self.lease)
            await store.renew("g", [first])
            await self.pass_time(0.6 * self.lease)
            assert attempts(await store.claim("g", limit=5)) == [("2", 2)]

    async def test_counted_renewal_is_an_attempt(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1")
            await store.claim("g", limit=1)
            await store.renew("g", [position], count=True)
            await store.nack("g", [position])
            assert attempts(await store.claim("g", limit=1)) == [("1", 3)]

    async def test_returned_entry_can_be_claimed_at_once(self) -> None:
        async with self.opened(group="g") as store:
            positions = [await append(store, str(n)) for n in range(2)]
            await store.claim("g", limit=5)
            await store.nack("g", [*positions, 10**15])
            await store.nack("g", positions)
            assert attempts(await store.claim("g", limit=5)) == [("0", 2), ("1", 2)]

    async def test_expired_entry_is_not_claimed(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1", ttl=0.3 * self.ttl)
            await append(store, "2")
            await store.claim("g", limit=1)
            await store.fail("g", position, "reason")
            await self.pass_time(0.5 * self.ttl)
            assert attempts(await store.claim("g", limit=5)) == [("2", 1)]
            assert await store.failed("g") == []

    async def test_claim_returns_as_many_entries_as_there_are_up_to_its_limit(self) -> None:
        async with self.opened(group="g") as store:
            for n in range(24):
                await append(store, str(n), ttl=(0.3 if n % 3 else 2) * self.ttl)
            await self.pass_time(0.5 * self.ttl)
            for expected in ("0", "3", "6", "9", "12", "15"), ("18", "21"):
                assert attempts(await store.claim("g", limit=6)) == [(body, 1) for body in expected]

    async def test_lease_of_another_process_is_left_alone(self) -> None:
        async with self.opened_twice() as (store, other):
            await store.create_group("g")
            position = await append(store, "1")
            assert attempts(await store.claim("g", limit=1)) == [("1", 1)]
            assert attempts(await other.claim("g", limit=1)) == []
            await other.nack("g", [position])
            assert attempts(await other.claim("g", limit=1)) == []
            await self.pass_time(1.1 * self.lease)
            assert attempts(await other.claim("g", limit=1)) == [("1", 2)]
            await store.nack("g", [position])
            await store.renew("g", [position], count=True)
            assert attempts(await store.claim("g", limit=1)) == []
            await self.pass_time(1.1 * self.lease)
            assert attempts(await other.claim("g", limit=1)) == [("1", 3)]
            # An acknowledgement counts, even if another process has the lease.
            await store.ack("g", [position])
            await self.pass_time(1.1 * self.lease)
            assert attempts(await other.claim("g", limit=1)) == []

    async def test_failed_entry_is_listed_and_can_be_retried(self) -> None:
        async with self.opened(group="g") as store:
            positions = [await append(store, str(n)) for n in range(3)]
            await store.claim("g", limit=5)
            await store.renew("g", [positions[0]], count=True)
            await store.fail("g", positions[2], "second")
            await store.fail("g", positions[0], "ValueError: größer")
            await store.ack("g", [positions[1]])
            await self.pass_time(1.1 * self.lease)
            assert attempts(await store.claim("g", limit=5)) == []
            failed = await store.failed("g")
            assert [(f.entry.body, f.attempts, f.reason) for f in failed] == [
                (b"0", 2, "ValueError: größer"),
                (b"2", 1, "second"),
            ]
            assert [f.entry.position for f in await store.failed("g", limit=1)] == [positions[0]]
            await store.retry("g", [positions[0], positions[1]])
            assert [f.entry.body for f in await store.failed("g")] == [b"2"]
            assert attempts(await store.claim("g", limit=5)) == [("0", 1)]

    async def test_entry_that_failed_without_a_lease_is_claimed_once_after_retry(self) -> None:
        async with self.opened(group="g") as store:
            position = await append(store, "1")
            await store.fail("g", position, "reason")
            assert attempts(await store.claim("g", limit=5)) == []
            assert [(f.entry.body, f.attempts) for f in await store.failed("g")] == [(b"1", 0)]
            await store.retry("g", [position])
            assert attempts(await store.claim("g", limit=5)) == [("1", 1)]
            await store.ack("g", [position])
            assert attempts(await store.claim("g", limit=5)) == []

    async def test_cancelled_claim_leaves_no_lease(self) -> None:
        async with self.opened(group="g") as store:
            await append(store, "1")
            for steps in range(12):
                task = asyncio.create_task(store.claim("g", limit=1))
                for _ in range(steps):
                    await asyncio.sleep(0)
                if task.done():
                    await store.nack("g", [each.entry.position for each in task.result()])
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    await store.nack("g", [each.entry.position for each in task.result()])
                async with asyncio.timeout(5):
                    # A store can hand the lease back after the cancellation was delivered.
                    while not (claimed := await store.claim("g", limit=1)):
                        await asyncio.sleep(0.01)
                await store.nack("g", [claimed[0].entry.position])

    # Rule 8, and the lifecycle.

    async def test_call_on_a_store_that_is_not_started_raises(self) -> None:
        store = await self.make_store(max_events=10, max_bytes=1000)
        for _ in ("before start()", "after close()"):
            for call in (
                store.append(NewEntry(("t",), b"x")),
                store.contains("k"),
                store.read({"t": 0}),
                store.create_group("g"),
                store.groups(),
                store.claim("g", limit=1),
                store.renew("g", [1]),
                store.ack("g", [1]),
                store.nack("g", [1]),
                store.fail("g", 1, "reason"),
                store.failed("g"),
                store.retry("g", [1]),
                store.purge_expired(),
                store.stats(),
            ):
                with pytest.raises(StoreError, match="not started"):
                    await call
            await store.start()
            await store.close()

    async def test_store_starts_and_closes_repeatedly_and_keeps_its_entries(self) -> None:
        store = await self.make_store(max_events=100, max_bytes=1000)
        await store.close()
        await store.start()
        await store.start()
        await append(store, "1")
        await store.close()
        await store.close()
        await store.start()
        assert await read_all(store) == ["1"]
        await store.close()

    async def test_store_that_is_closed_and_started_while_it_starts_works(self) -> None:
        store = await self.make_store(max_events=100, max_bytes=1000)
        await asyncio.gather(store.start(), store.close(), store.start())
        await append(store, "1")
        assert await read_all(store) == ["1"]
        await store.close()

    async def test_store_starts_in_a_new_loop_after_the_first_loop_ended(self) -> None:
        store = await self.make_store(max_events=100, max_bytes=1000)

        async def use(body: str) -> list[str]:
            await asyncio.gather(store.start(), store.start())
            await append(store, body)
            return await read_all(store)

        async def use_and_close() -> list[str]:
            found = await use("2")
            await store.close()
            return found

        # Each loop runs in a thread, since this test has a loop of its own; the first one ends without close().
        assert await asyncio.to_thread(asyncio.run, use("1")) == ["1"]
        assert await asyncio.to_thread(asyncio.run, use_and_close()) == ["1", "2"]

    async def test_use_from_a_second_running_loop_raises(self) -> None:
        async with self.opened() as store:

            async def use() -> None:
                for call in (store.start, store.stats, store.close):
                    with pytest.raises(StoreError, match="another running event loop"):
                        await call()

            await asyncio.to_thread(asyncio.run, use())
            await append(store, "1")
            assert await read_all(store) == ["1"]

    async def test_store_closed_in_one_loop_starts_in_another(self) -> None:
        async with self.opened() as store:
            await store.close()

            async def use() -> None:
                await store.start()
                await append(store, "1")
                await store.close()

            await asyncio.to_thread(asyncio.run, use())
            await store.start()
            assert await read_all(store) == ["1"]

    async def test_options_are_public(self) -> None:
        store = await self.make_store(max_events=100, max_bytes=1000)
        assert (store.lease_seconds, store.ttl_seconds) == (self.lease, self.ttl)
