"""A hint between processes says "look", and only to those who share a file."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from avaturn_async.webhooks.stores._sqlite_hints import Hints


async def test_only_who_knows_the_token_is_heard() -> None:
    heard = asyncio.Event()
    count = 0

    def hear() -> None:
        nonlocal count
        count += 1
        heard.set()

    ear, voice = Hints(hear), Hints(lambda: None)
    await ear.open()
    for junk in (b"", b"look", voice.token, ear.token + b"x", bytes(60_000)):
        voice.tell([(junk, ear.port)])
    voice.tell([(ear.token, ear.port)])
    async with asyncio.timeout(10):
        await heard.wait()
    assert count == 1
    ear.close()
    voice.close()


async def test_those_who_are_gone_keep_nobody_from_being_told() -> None:
    heard = asyncio.Event()
    ear, gone, voice = Hints(heard.set), Hints(lambda: None), Hints(lambda: None)
    await ear.open()
    await gone.open()
    gone.close()
    voice.tell([(gone.token, gone.port), (gone.token, 0), (ear.token, ear.port)])
    async with asyncio.timeout(10):
        await heard.wait()
    ear.close()
    voice.close()
    voice.tell([(ear.token, ear.port)])


async def test_only_this_machine_is_listened_to() -> None:
    ear = Hints(lambda: None)
    await ear.open()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        # The port is free for everybody else on other addresses.
        other.bind(("127.0.0.2", ear.port))
    ear.close()


async def test_a_machine_that_lets_nobody_listen_has_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(asyncio.get_running_loop(), "create_datagram_endpoint", refuse)
    ear = Hints(lambda: None)
    await ear.open()
    assert ear.port == 0
    ear.close()
