"""Every Python block of the README runs, as it stands there."""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import inspect
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import aiohttp
import attrs
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from starlette.routing import Route

import avaturn_async
import avaturn_async.webhooks
from avaturn_async import AvaturnClient, PollPolicy, ScanStatus, export_avatar
from avaturn_async._cli._parser import make_parser
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, HmacSha256, SessionRouter, SharedSecret, WebhookReceiver
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


@pytest.mark.parametrize("name", ["aiohttp.access", "uvicorn.access"])
async def test_the_filter_keeps_the_query_out_of_the_access_log(names: dict[str, Any], name: str) -> None:
    logger = logging.getLogger(name)
    before = list(logger.filters)
    arguments = ("127.0.0.1", "POST /avaturn?key=hush HTTP/1.1", 200)
    record = logger.makeRecord(name, logging.INFO, __file__, 1, '%s "%s" %s', arguments, None)
    try:
        await run(block("class WithoutQuery"), names)
        assert logger.filter(record)
    finally:
        logger.filters[:] = before
    assert record.getMessage() == '127.0.0.1 "POST /avaturn" 200'


async def test_testing_your_app(
    names: dict[str, Any], fake_avaturn: Any, avaturn_client: Any, webhook_verifier: Any, serve_app: Any
) -> None:
    made = await run(block("async def test_my_app"), names)
    await made["test_my_app_learns_of_the_avatar"](fake_avaturn, avaturn_client, webhook_verifier, serve_app)


async def test_a_route_of_fastapi_is_the_path_that_was_registered(names: dict[str, Any]) -> None:
    names |= {"FastAPI": FastAPI, "Route": Route, "lifespan": None}
    names["receiver"] = WebhookReceiver(names["router"], verifier=SharedSecret("hush", query="key"))
    app = (await run(block("app = FastAPI("), names))["app"]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"event": "x"}'}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/avaturn", "query_string": b"key=hush", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    await names["router"].close()


async def test_no_span_shows_the_query_of_a_url(names: dict[str, Any], fake: FakeAvaturn) -> None:
    reason = "OpenTelemetry is not installed: it comes with the extra dev"
    contrib = pytest.importorskip("opentelemetry.instrumentation.aiohttp_client", reason=reason)
    trace = pytest.importorskip("opentelemetry.sdk.trace", reason=reason)
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason=reason)
    export = pytest.importorskip("opentelemetry.sdk.trace.export", reason=reason)
    exporter, provider = memory.InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    instrumentor = contrib.AioHttpClientInstrumentor()
    instrument = functools.partial(instrumentor.instrument, tracer_provider=provider)
    names["AioHttpClientInstrumentor"] = lambda: SimpleNamespace(instrument=instrument)
    try:
        await run(block("AioHttpClientInstrumentor()"), names)
        async with AvaturnClient.from_env() as client:
            await client.request("GET", "/api/v1/users/u/avatars", params={"q": "hush"})
    except avaturn_async.NotFoundError:
        pass
    finally:
        instrumentor.uninstrument()
        provider.shutdown()
    [span] = exporter.get_finished_spans()
    assert span.attributes["http.url"] == f"{fake.url}/api/v1/users/u/avatars"
    assert "hush" not in span.to_json()


async def test_outcomes_make_a_page_for_prometheus(names: dict[str, Any]) -> None:
    signature = HmacSha256("secret", header="X-Sig")
    names["receiver"] = receiver = WebhookReceiver(names["router"], verifier=signature)
    names["app"] = app = web.Application()
    receiver.add_to(app, "/hook")
    await run(block("async def metrics"), names)
    body = b'{"event": "avatar.ready", "avatar_id": "12345678-1234-5678-1234-567812345678"}'
    async with TestClient(TestServer(app)) as http:
        for headers in (signature.sign(body), signature.sign(body), {}):
            async with http.post("/hook", data=body, headers={**headers, "Content-Type": "application/json"}):
                pass
        async with http.get("/metrics") as response:
            assert response.content_type == "text/plain"
            page = await response.text()
    assert page.endswith("\n")
    line = re.compile(r"(# TYPE [a-z_]+ counter|[a-z_]+\{outcome=\"[a-z_]+\"\} \d+)")
    assert all(line.fullmatch(each) for each in page.splitlines())
    for outcome, count in (("stored", 1), ("duplicate", 1), ("not_authentic", 1), ("busy", 0)):
        assert f'avaturn_webhooks_total{{outcome="{outcome}"}} {count}\n' in page


def test_the_command_line_takes_what_is_shown_and_told() -> None:
    parser = make_parser()
    [shown] = re.findall(r"^AVATURN_WEBHOOK_SECRET=\S+ python -m avaturn_async (.*)$", README, re.MULTILINE)
    assert parser.parse_args(shown.split()).scheme == "query"
    section = README.split("## Command line\n")[1].split("\n## ")[0]
    told = set(re.findall(r"`(listen|record|replay|send|fake)\b", section))
    [commands] = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    assert told == set(commands)
    helps = "".join(commands[name].format_help() for name in told)
    assert all(option in helps for option in re.findall(r"--[a-z-]+", section))


def test_what_is_named_here_is_there() -> None:
    root = Path(__file__).parent.parent
    files = re.findall(r"`((?:examples/)?(?:test_)?[a-z_]+(?:/|\.py))`", README)
    assert files
    places = (root, root / "tests", Path(avaturn_async.__file__).parent)
    assert [name for name in files if not any((place / name).exists() for place in places)] == []


def test_the_loggers_are_all_told() -> None:
    sources = [path.read_text() for path in Path(avaturn_async.__file__).parent.rglob("*.py")]
    loggers = {name for source in sources for name in re.findall(r'getLogger\("(.*?)"\)', source)}
    assert loggers == set(re.findall(r"^\| `(avaturn_async\.[a-z]+)` \|", README, re.MULTILINE))


def test_it_stays_short() -> None:
    assert len(README.splitlines()) <= 320
