"""Random calls on an event store, compared with the model.

A store joins in with the contract's subclass that makes it::

    def test_store_behaves_as_the_model() -> None:
        check_store(TestMyStore)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.store_model import Row, StoreModel

from avaturn_async.errors import StoreFullError
from avaturn_async.testing.stores import EventStoreContract
from avaturn_async.webhooks.stores.base import Entry, NewEntry

TOPICS, KEYS, GROUPS = "abc", "kl", "gh"
MAX_EVENTS, MAX_BYTES = 8, 40
# Lifetimes are whole seconds, and each step in time adds 1/64: no time is ever equal to the end of a lifetime, and a
# store with a real clock has half a second for up to 32 steps.
FRACTION, MAX_STEPS = 1 / 64, 32

entries = st.builds(
    NewEntry,
    topics=st.lists(st.sampled_from(TOPICS), max_size=3).map(tuple),
    body=st.binary(max_size=12),
    key=st.none() | st.sampled_from(KEYS),
    unique_for=st.sampled_from([None, 30.0]),
    ttl=st.sampled_from([None, 20.0, 150.0]),
    dispatch=st.booleans(),
)
groups = st.sampled_from(GROUPS)
# Which of the known positions: an index, counted from the newest one.
indices = st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True)
limits = st.integers(1, 6)


def row(entry: Entry) -> Row:
    return entry.position, frozenset(entry.topics), entry.body


class StoreMachine(RuleBasedStateMachine):
    """Applies the same calls to a store and to the model."""

    make_contract: Callable[[], EventStoreContract]

    def __init__(self) -> None:
        super().__init__()
        self.contract = self.make_contract()
        bound = (MAX_EVENTS, MAX_BYTES) if self.contract.has_bounds else (10**9, 10**9)
        self.model = StoreModel(self.contract.ttl, self.contract.lease, *bound)
        self.runner = asyncio.Runner()
        self.run = self.runner.run
        self.steps = 0

    @initialize()
    def open(self) -> None:
        self.store = self.run(self.contract.make_store(max_events=MAX_EVENTS, max_bytes=MAX_BYTES))
        self.run(self.store.start())
        self.create_group(GROUPS[0])

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    def positions(self, chosen: list[int]) -> Iterator[int]:
        known = [each.position for each in reversed(self.model.log)]
        return (known[index] for index in chosen if index < len(known))

    @rule(new=st.lists(entries, min_size=1, max_size=5))
    def append(self, new: list[NewEntry]) -> None:
        for entry in new:
            self.append_one(entry)

    def append_one(self, entry: NewEntry) -> None:
        if entry.key is not None and self.model.contains(entry.key):
            assert self.run(self.store.append(entry)) == 0
        elif self.model.is_full_for(entry):
            with pytest.raises(StoreFullError):
                self.run(self.store.append(entry))
        else:
            self.model.append(entry, self.run(self.store.append(entry)))

    @rule(topics=st.dictionaries(st.sampled_from(TOPICS), st.integers(0, 12), max_size=3), limit=limits)
    def read(self, topics: dict[str, int], limit: int) -> None:
        known = [0, *(each.position for each in self.model.log)]
        behind = {topic: known[-1 - index] if index < len(known) else 0 for topic, index in topics.items()}
        assert [row(each) for each in self.run(self.store.read(behind, limit=limit))] == self.model.read(behind, limit)

    @rule(group=groups)
    def create_group(self, group: str) -> None:
        self.run(self.store.create_group(group))
        self.model.groups.setdefault(group, {})

    @rule(limit=limits, group=groups)
    def claim(self, group: str, limit: int) -> None:
        if group in self.model.groups:
            claimed = self.run(self.store.claim(group, limit=limit))
            assert [(row(each.entry), each.attempt) for each in claimed] == self.model.claim(group, limit)

    @rule(group=groups, chosen=indices, count=st.booleans())
    def renew(self, group: str, chosen: list[int], count: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
        if group in self.model.groups:
            positions = [each for each in self.positions(chosen) if not self.model.is_lapsed(group, each)]
            positions = [each for each in positions if not self.model.is_of_earlier_start(group, each)]
            self.run(self.store.renew(group, positions, count=count))
            for position in positions:
                self.model.renew(group, position, count=count)

    @rule(group=groups, chosen=indices, method=st.sampled_from(["ack", "nack", "retry"]))
    def settle(self, group: str, chosen: list[int], method: str) -> None:
        if group in self.model.groups:
            positions = list(self.positions(chosen))
            if method == "nack":
                positions = [each for each in positions if not self.model.is_of_earlier_start(group, each)]
            self.run(getattr(self.store, method)(group, positions))
            for position in positions:
                getattr(self.model, method)(group, position)

    @rule(group=groups, chosen=indices, reason=st.sampled_from(["", "ValueError: ü"]))
    def fail(self, group: str, chosen: list[int], reason: str) -> None:
        if group in self.model.groups:
            for position in self.positions(chosen):
                self.run(self.store.fail(group, position, reason))
                self.model.fail(group, position, reason)

    @rule(group=groups, limit=limits)
    def list_failed(self, group: str, limit: int) -> None:
        if group in self.model.groups:
            failed = self.run(self.store.failed(group, limit=limit))
            found = [(row(each.entry), each.attempts, each.reason) for each in failed]
            assert found == self.model.failed(group, limit)

    @rule()
    def list_groups(self) -> None:
        groups = self.run(self.store.groups())
        assert list(groups) == sorted(groups)
        assert self.model.groups_with_failures() <= set(groups) <= set(self.model.groups)

    @precondition(lambda self: self.steps < MAX_STEPS)
    @rule(seconds=st.sampled_from([3, 11, 25, 60, 130]))
    def pass_time(self, seconds: int) -> None:
        self.steps += 1
        self.run(self.contract.pass_time(seconds + FRACTION))
        self.model.now += seconds + FRACTION

    @rule(limit=limits)
    def purge(self, limit: int) -> None:
        while self.run(self.store.purge_expired(limit=limit)):
            pass

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.run(self.store.start())
        self.model.starts += 1

    @rule()
    def count(self) -> None:
        stats = self.run(self.store.stats())
        assert {name: stats[name] for name in ("events", "bytes", "records")} == self.model.stats()

    @invariant()
    def log_agrees(self) -> None:
        everything = dict.fromkeys(TOPICS, 0)
        assert [row(each) for each in self.run(self.store.read(everything))] == self.model.read(everything, 100)

    @invariant()
    def keys_agree(self) -> None:
        for key in KEYS:
            assert self.run(self.store.contains(key)) == self.model.contains(key)


def check_store(make: Callable[[], EventStoreContract], *, examples: int = 100) -> None:
    """Compare a store with the model; ``make`` returns the contract for each of the examples, with an empty store."""

    class Machine(StoreMachine):
        make_contract = staticmethod(make)

    if sys.flags.dev_mode:
        # asyncio's debug mode makes an example three times as slow, and that run looks for warnings.
        examples //= 4
    options: dict[str, Any] = {"max_examples": examples, "stateful_step_count": 40, "deadline": None}
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(Machine, settings=settings(**options, suppress_health_check=checks))
