"""EventStoreContract fails for a store that breaks a rule, and passes for one that uses what the rules leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import pytest

from avaturn_async import StoreFullError
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks import MemoryStore


class Contract(EventStoreContract):
    """The contract of a subclass of MemoryStore. pytest does not collect it."""

    __test__ = False

    def __init__(self, store_class: type[MemoryStore]) -> None:
        self.store_class = store_class

    async def make_store(self, *, max_events: int, max_bytes: int) -> MemoryStore:
        return self.store_class(
            ttl=self.ttl, lease=self.lease, clock=self.clock, max_events=max_events, max_bytes=max_bytes
        )


def change(method: str, make: Callable[[Any], Any]) -> type[MemoryStore]:
    """Return a MemoryStore with a method replaced by ``make(method)``."""
    return type("Changed", (MemoryStore,), {method: make(getattr(MemoryStore, method))})


def ignore(_: Any) -> Any:
    async def nothing(*_: object, **__: object) -> None: ...

    return nothing


def after(edit: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a change of the result of an async method."""

    def make(method: Any) -> Any:
        async def changed(self: MemoryStore, *arguments: Any, **options: Any) -> Any:
            return edit(await method(self, *arguments, **options))

        return changed

    return make


def without(name: str, value: object) -> Callable[[Any], Any]:
    """Return a change that overrides a keyword argument of an async method."""

    def make(method: Any) -> Any:
        async def changed(self: MemoryStore, *arguments: Any, **options: Any) -> Any:
            return await method(self, *arguments, **options | {name: value})

        return changed

    return make


def entry_with(**changes: Any) -> Callable[[Any], Any]:
    """Return a change of the entry that is appended."""

    def make(append: Any) -> Any:
        async def changed(self: MemoryStore, entry: Any) -> int:
            position: int = await append(self, attrs.evolve(entry, **changes))
            return position

        return changed

    return make


def swallow_full(append: Any) -> Any:
    async def changed(self: MemoryStore, entry: Any) -> int:
        try:
            position: int = await append(self, entry)
        except StoreFullError:
            return 0
        return position

    return changed


def read_from_the_lowest(read: Any) -> Any:
    async def changed(self: MemoryStore, topics: Mapping[str, int], *, limit: int = 100) -> Any:
        return await read(self, dict.fromkeys(topics, min(topics.values(), default=0)), limit=limit)

    return changed


def fail_without_reason(fail: Any) -> Any:
    async def changed(self: MemoryStore, group: str, position: int, _: str) -> None:
        await fail(self, group, position, "")

    return changed


def first_attempt(claimed: Sequence[Any]) -> list[Any]:
    return [attrs.evolve(each, attempt=1) for each in claimed]


BROKEN = {
    "test_entry_is_read_as_it_was_appended": change("append", entry_with(body=b"")),
    "test_positions_rise_and_order_the_log": change("append", after(lambda position: position % 3)),
    "test_key_makes_a_duplicate": change("append", entry_with(key=None)),
    "test_key_is_taken_for_the_lifetime_of_its_entry": change("contains", after(lambda _: True)),
    "test_key_is_free_after_unique_for_though_its_entry_lives": change("append", entry_with(unique_for=None)),
    "test_full_store_refuses_events_and_drops_nothing": change("append", swallow_full),
    "test_entries_of_one_batch_do_not_pass_the_bound_together": change("append", swallow_full),
    "test_lifetimes_of_events_records_and_own_ttl": change("append", entry_with(ttl=None)),
    "test_stats_count_live_entries": change("stats", after(lambda stats: {**stats, "records": 0})),
    "test_read_merges_topics_each_behind_its_own_position": change("read", read_from_the_lowest),
    "test_pages_together_are_the_whole_log": change("read", after(lambda entries: entries[1:])),
    "test_entries_are_claimed_once_and_oldest_first": change("claim", without("limit", 100)),
    "test_groups_are_listed_by_name": change("groups", after(lambda groups: [*groups][::-1])),
    "test_acknowledged_entry_is_not_claimed_again": change("ack", ignore),
    "test_claim_returns_as_many_entries_as_there_are_up_to_its_limit": change("claim", after(lambda found: found[:5])),
    "test_lease_ends_and_the_attempt_is_counted": change("claim", after(first_attempt)),
    "test_renewed_lease_does_not_end": change("renew", ignore),
    "test_counted_renewal_is_an_attempt": change("renew", without("count", value=False)),
    "test_returned_entry_can_be_claimed_at_once": change("nack", ignore),
    "test_failed_entry_is_listed_and_can_be_retried": change("fail", fail_without_reason),
    "test_entry_that_failed_without_a_lease_is_claimed_once_after_retry": change("retry", ignore),
    "test_position_is_not_reused_after_everything_expired": change("append", after(lambda _: 1)),
    "test_call_on_a_store_that_is_not_started_raises": change("stats", ignore),
    "test_options_are_public": change("__init__", lambda _: lambda self, **__: MemoryStore.__init__(self)),
}


@pytest.mark.parametrize(("name", "store_class"), BROKEN.items(), ids=BROKEN.keys())
async def test_store_that_breaks_a_rule_fails_its_test(name: str, store_class: type[MemoryStore]) -> None:
    test = getattr(Contract(store_class), name)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await test()


async def test_listener_without_topics_passes() -> None:
    class Coarse(MemoryStore):
        """Names no topics: "look at everything"."""

        def listen(self, callback: Callable[[Iterable[str] | None], None]) -> Callable[[], None]:
            return super().listen(lambda _: callback(None))

    contract = Contract(Coarse)
    await contract.test_listener_is_called_with_the_topics_of_readable_entries()
    await contract.test_listener_is_called_when_a_group_can_claim_again()
