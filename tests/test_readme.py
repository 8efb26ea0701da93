"""Every Python block of the README runs, as it stands there."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import attrs
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import avaturn_async
import avaturn_async.webhooks
from avaturn_async import AvaturnClient, PollPolicy, ScanStatus, export_avatar
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, SessionRouter, WebhookReceiver
from avaturn_async.webhooks.events import event_body

pytest_plugins = ["avaturn_async.testing.fixtures"]

README = Path(__file__).parent.parent.joinpath("README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(marker: str) -> str:
    """The one block that holds the marker."""
    [found] = [b for b in BLOCKS if marker in b]
    return str(found)


@pytest.fixture
async def fake() -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn() as server:
        yield server


@pytest.fixture
def names(fake: FakeAvaturn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the blocks take for granted: the public names and the environment of a user."""
    monkeypatch.setenv("AVATURN_API_TOKEN", "any-token")
    monkeypatch.setenv("AVATURN_BASE_URL", fake.url)
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {
        "__name__": "readme",
        "web": web,
        "logging": logging,
        "attrs": attrs,
        "TestServer": TestServer,
    }
    for module in (avaturn_async, avaturn_async.webhooks):
        for name in module.__all__:
            if name != "RedisStore":
                known[name] = getattr(module, name)
    return {**known, "FakeAvaturn": FakeAvaturn, "router": SessionRouter()}


async def run(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block, which may await at its top level."""
    code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # noqa: S307 - the README is ours
    if inspect.isawaitable(result):
        await result
    return names


def test_no_block_is_forgotten() -> None:
    source = Path(__file__).read_text()
    markers = re.findall(r'block\("(.*?)"\)', source)
    assert all(any(marker in b for marker in markers) for b in BLOCKS)


def session_in(url: str) -> str:
    """The id in a session URL of the stand-in."""
    return url.split("/session/")[1].split("?", maxsplit=1)[0]


async def test_sixty_seconds(
    names: dict[str, Any], fake: FakeAvaturn, capsys: pytest.CaptureFixture[str]
) -> None:
    made = await run(block("@router.on(AvatarReady)"), names)
    async with TestServer(made["app"]) as server, aiohttp.ClientSession() as http:
        fake.webhook_url = str(server.make_url("/avaturn?key=a-long-random-secret"))
        async with http.post(server.make_url("/start")) as response:
            avatar_id = await fake.finish_session(session_in((await response.json())["open"]))
    # Closing the app drains the handlers.
    assert f"account {{'account': 42}} has avatar {avatar_id} ready" in capsys.readouterr().out


async def test_waiting_in_a_script(names: dict[str, Any], fake: FakeAvaturn) -> None:
    finished: list[asyncio.Task[None]] = []

    async def person(url: str) -> None:
        avatar_id = await fake.finish_session(session_in(url))
        event = AvatarReady(avatar_id=avatar_id, session_id=UUID(session_in(url)), status=ScanStatus.READY)
        await names["router"].publish(event, key="k", body=event_body(event))

    names["print"] = lambda _, url: finished.append(asyncio.create_task(person(url)))
    names["export_avatar"] = functools.partial(export_avatar, poll=PollPolicy(first=0))
    made = await run(block("path = await export_avatar"), names)
    assert made["path"].read_bytes().startswith(b"glTF")


async def test_changing_a_customization(names: dict[str, Any], fake: FakeAvaturn) -> None:
    async with AvaturnClient.from_env() as client:
        session = await client.new_session((await client.create_user()).id)
        names["avatar_id"] = await fake.finish_session(session.id)
        await run(block("attrs.evolve("), names)
        assert (await client.get_customization(names["avatar_id"])).body == "body_1"


async def test_confirming_by_the_api(names: dict[str, Any]) -> None:
    async with AvaturnClient.from_env() as names["client"]:
        made = await run(block("confirm=ConfirmByApi"), names)
    assert isinstance(made["receiver"], WebhookReceiver)


async def test_the_filter_keeps_the_query_out_of_the_access_log(
    names: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("aiohttp.access")
    before = list(logger.filters)
    try:
        await run(block("class WithoutQuery"), names)
        logger.info('%s "%s" %s', "127.0.0.1", "POST /avaturn?key=hush HTTP/1.1", 200)
    finally:
        logger.filters[:] = before
    assert caplog.messages[-1] == '127.0.0.1 "POST /avaturn" 200'


async def test_testing_your_app(
    names: dict[str, Any], fake_avaturn: Any, avaturn_client: Any, webhook_verifier: Any, serve_app: Any
) -> None:
    made = await run(block("async def test_my_app"), names)
    await made["test_my_app_learns_of_the_avatar"](fake_avaturn, avaturn_client, webhook_verifier, serve_app)
