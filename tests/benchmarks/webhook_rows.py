"""One webhook: with HTTP, without it, and under five hundred connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from functools import partial

from . import load
from .measure import Process, Result, Row, Setup, compare, python, take_turns

WORK = "one webhook: signature, strict parse, dedup, store, wake who waits"
BARE = Row(work=WORK, against="bare aiohttp handler: body read, 200", at_most=1.50)
BY_HAND = Row(
    work=WORK, against="by hand: aiohttp handler, hmac, json.loads, a future in a dict", at_most=1.15
)
RECEIVE = Row(work="`receive()` alone", against="hmac, json.loads, a look into a dict", at_most=3.5)
P99 = Row(work="webhooks over 500 connections at a time, p99", against="250 ms", at_most=1.0)


class _Server:
    """A process that is posted to; a turn is so many webhooks, one after the other on one connection."""

    def __init__(self, setup: Setup, which: str) -> None:
        self._process: Process = python(setup, "hook_server", which)
        self.port = int(self._process.read())
        self._connection = socket.create_connection(("127.0.0.1", self.port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._posted = 0

    def turn(self, times: int) -> float:
        requests = [load.request(self._posted + n) for n in range(times)]
        before = float(self._process.ask(f"wait {self._posted} {times}"))
        load.post(self._connection, requests)
        self._posted += times
        return float(self._process.ask("cpu")) - before

    def close(self) -> None:
        self._connection.close()
        self._process.close()


def rows(setup: Setup) -> Iterator[Result]:
    """Every webhook row."""
    peers = {row: name for row, name in ((BARE, "bare"), (BY_HAND, "by_hand")) if setup.wants(row)}
    if peers:
        names = ("ours", "in_one", *peers.values())
        taken = take_turns(
            {name: partial(_Server, setup, name) for name in names},
            lives=setup.lives, turns=setup.turns, seconds=0.03,
        )  # fmt: skip
        for row, name in peers.items():
            # The limit: what is promised of a webhook has a price without any layers, too.
            limit = compare(row, taken["in_one"], taken[name]).ratio
            yield compare(row, taken["ours"], taken[name], note=f" (all of it in one function: {limit:.2f})")
    if setup.wants(RECEIVE):
        both = {name: partial(python, setup, "receiving", name) for name in ("ours", "by_hand")}
        taken = take_turns(both, lives=setup.lives, turns=setup.turns, seconds=0.02)
        yield compare(RECEIVE, taken["ours"], taken["by_hand"])
    if setup.wants(P99):
        yield _p99(setup)


def _p99(setup: Setup) -> Result:
    """The longest wait but for one in a hundred, in this process as the sender of all five hundred."""
    server = _Server(setup, "ours")
    crowd = python(setup, "crowd", str(server.port), "500", "10" if setup.quick else "40")
    started = time.perf_counter()
    p99, rate, _ = map(float, crowd.read().split())
    crowd.close()
    server.close()
    note = f" ({rate:,.0f} webhooks a second, {time.perf_counter() - started:.0f} s)"
    return Result(row=P99, ours=f"{p99 * 1e3:.0f} ms", theirs="", ratio=p99 / 0.25, note=note)
