"""The rules of event stores as plain data: a list of rows, and a dictionary of states for each group."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from avaturn_async.webhooks.stores.base import NewEntry

# Position, topics and body of an entry. The order of the topics is not promised.
Row = tuple[int, frozenset[str], bytes]


@define
class ModelEntry:
    position: int
    entry: NewEntry
    expires_at: float

    @property
    def row(self) -> Row:
        return self.position, frozenset(self.entry.topics), self.entry.body


@define
class Delivery:
    """The state of an entry in a group."""

    attempts: int = 0
    leased_until: float | None = None
    claimed_in: int = 0
    """The start of the store in which it was claimed."""
    acked: bool = False
    reason: str | None = None


@define
class StoreModel:
    ttl: float
    lease: float
    max_events: int
    max_bytes: int
    now: float = 0.0
    starts: int = 1
    log: list[ModelEntry] = field(factory=list[ModelEntry])
    keys: dict[str, float] = field(factory=dict[str, float])
    groups: dict[str, dict[int, Delivery]] = field(factory=dict[str, dict[int, Delivery]])

    def live(self) -> list[ModelEntry]:
        return [each for each in self.log if each.expires_at > self.now]

    def events(self) -> list[ModelEntry]:
        return [each for each in self.live() if each.entry.dispatch]

    def stats(self) -> dict[str, int]:
        events = self.events()
        return {
            "events": len(events),
            "bytes": sum(len(each.entry.body) for each in events),
            "records": len(self.live()) - len(events),
        }

    def contains(self, key: str) -> bool:
        return self.keys.get(key, self.now) > self.now

    def is_full_for(self, entry: NewEntry) -> bool:
        stats = self.stats()
        too_large = stats["bytes"] + len(entry.body) > self.max_bytes
        return entry.dispatch and (stats["events"] >= self.max_events or too_large)

    def append(self, entry: NewEntry, position: int) -> None:
        assert not self.log or position > self.log[-1].position >= 1
        lifetime = entry.ttl if entry.ttl is not None else self.ttl * (1 if entry.dispatch else 2)
        self.log.append(ModelEntry(position, entry, self.now + lifetime))
        if entry.key is not None:
            self.keys[entry.key] = self.now + (lifetime if entry.unique_for is None else entry.unique_for)

    def read(self, topics: Mapping[str, int], limit: int) -> list[Row]:
        return [
            each.row
            for each in self.live()
            if any(topic in each.entry.topics and each.position > after for topic, after in topics.items())
        ][:limit]

    def delivery(self, group: str, position: int) -> Delivery | None:
        """Return the state of a live event in a group."""
        if all(each.position != position for each in self.events()):
            return None
        return self.groups[group].setdefault(position, Delivery())

    def is_lapsed(self, group: str, position: int) -> bool:
        """Return whether a lease ended that was not claimed again. ``renew`` may extend such a lease or not."""
        delivery = self.delivery(group, position)
        return delivery is not None and delivery.leased_until is not None and delivery.leased_until <= self.now

    def is_of_earlier_start(self, group: str, position: int) -> bool:
        """Return whether a lease is from before ``close()``. ``renew`` and ``nack`` may change such a lease or not."""
        delivery = self.delivery(group, position)
        return delivery is not None and delivery.leased_until is not None and delivery.claimed_in < self.starts

    def claim(self, group: str, limit: int) -> list[tuple[Row, int]]:
        claimed: list[tuple[Row, int]] = []
        for each in self.events():
            delivery = self.delivery(group, each.position)
            assert delivery is not None
            leased = delivery.leased_until is not None and delivery.leased_until > self.now
            if len(claimed) < limit and not (leased or delivery.acked or delivery.reason is not None):
                delivery.attempts += 1
                delivery.leased_until = self.now + self.lease
                delivery.claimed_in = self.starts
                claimed.append((each.row, delivery.attempts))
        return claimed

    def renew(self, group: str, position: int, *, count: bool) -> None:
        delivery = self.delivery(group, position)
        if delivery is not None and delivery.leased_until is not None:
            delivery.leased_until = self.now + self.lease
            delivery.attempts += count

    def ack(self, group: str, position: int) -> None:
        if self.delivery(group, position) is not None:
            self.groups[group][position] = Delivery(acked=True)

    def nack(self, group: str, position: int) -> None:
        delivery = self.delivery(group, position)
        if delivery is not None:
            delivery.leased_until = None

    def fail(self, group: str, position: int, reason: str) -> None:
        delivery = self.delivery(group, position)
        if delivery is not None:
            self.groups[group][position] = Delivery(delivery.attempts, reason=reason)

    def failed(self, group: str, limit: int) -> list[tuple[Row, int, str]]:
        found: list[tuple[Row, int, str]] = []
        for each in self.events():
            delivery = self.delivery(group, each.position)
            if delivery is not None and delivery.reason is not None:
                found.append((each.row, delivery.attempts, delivery.reason))
        return found[:limit]

    def retry(self, group: str, position: int) -> None:
        delivery = self.delivery(group, position)
        if delivery is not None and delivery.reason is not None:
            self.groups[group][position] = Delivery()

    def groups_with_failures(self) -> set[str]:
        return {group for group in self.groups if self.failed(group, 1)}
