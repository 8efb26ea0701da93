"""What SQLiteStore acknowledged is there, also when the process that wrote it was killed."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from attrs import define, field
from store_process import StoreProcess, append_without_end

from avaturn_async.webhooks.stores import Arrival, StoredEvent
from avaturn_async.webhooks.stores.sqlite import SQLiteStore

_ROUNDS = 30
_WRITERS = ("a", "b")


@define
class Account:
    """What one sender sent, what was acknowledged, and what it has to send again."""

    sent: set[str] = field(factory=set[str])
    acknowledged: dict[str, int] = field(factory=dict[str, int])
    duplicates: int = 0

    def enter(self, said: tuple[str | int, str]) -> None:
        what, key = said
        if what == "sent":
            self.sent.add(key)
            return
        # 0: it was stored by an attempt that was killed before it could say so.
        self.duplicates += what == 0
        assert key not in self.acknowledged
        self.acknowledged[key] = int(what)

    def unanswered(self) -> list[str]:
        return sorted(self.sent - self.acknowledged.keys())


async def test_nothing_acknowledged_is_lost_when_writers_are_killed_at_random(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    chance = random.Random(5)
    accounts = {name: Account() for name in _WRITERS}
    kills = 0
    for _ in range(_ROUNDS):
        processes = {
            name: StoreProcess(path, append_without_end, name, account.unanswered(), 8)
            for name, account in accounts.items()
        }
        # The first is killed while the second writes on.
        for name, process in processes.items():
            for _ in range(chance.randrange(20, 80)):
                accounts[name].enter(await process.reply())
            for _ in range(chance.randrange(20_000)):
                pass  # until the middle of whatever it does
            process.kill()
            kills += 1
            for said in process.last_words():
                accounts[name].enter(said)

    assert kills >= 50
    for name, account in accounts.items():
        stored = await _stored(path, f"avatar:{name}")
        keys = Counter(event.body[: len(event.body) // 20].decode() for event in stored)
        assert account.acknowledged.keys() - keys.keys() == set()
        assert keys.keys() - account.sent == set()
        assert set(keys.values()) == {1}
        positions = {event.position for event in stored}
        assert {position for position in account.acknowledged.values() if position} <= positions
        assert len(account.acknowledged) > _ROUNDS
        print(  # noqa: T201 - the figures of the day, with -s
            f"{name}: {len(account.sent)} sent, {len(account.acknowledged)} acknowledged, "
            f"{len(keys)} stored, {account.duplicates} duplicates after {kills} kills"
        )
    _check_file(path)


async def test_what_a_killed_process_held_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    ahead = 0.0
    store = SQLiteStore(path, takeover=30.0, clock=lambda: time.time() + ahead)
    await store.start()
    try:
        await store.join("g")
        for n in range(8):
            await store.append(Arrival(key=f"{n}", body=b"x"))
        with StoreProcess(path) as handler:
            held = await handler.call("claim", "g", limit=5)
        handler.last_words()
        assert len(held) == 5
        assert len(await store.claim("g", limit=100)) == 3
        ahead = 29.0
        assert await store.claim("g", limit=100) == ()
        ahead = 31.0
        assert [event.position for event in await store.claim("g", limit=5)] == [
            event.position for event in held
        ]
    finally:
        await store.close()


async def _stored(path: Path, topic: str) -> list[StoredEvent]:
    store = SQLiteStore(path)
    await store.start()
    found: list[StoredEvent] = []
    while page := await store.read(topic, after=found[-1].cursor if found else 0):
        found += page
    await store.close()
    return found


def _check_file(path: Path) -> None:
    """Nothing in the file contradicts itself."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counted = connection.execute("SELECT count(*), sum(length(body)) FROM events").fetchone()
        assert connection.execute("SELECT events, bytes FROM counters").fetchone() == counted
        lost = "SELECT count(*) FROM appearances WHERE position NOT IN (SELECT position FROM events)"
        assert connection.execute(lost).fetchone() == (0,)
