"""The README: its blocks run as they stand, its tables agree with the code, its links exist."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import avaturn_async
import avaturn_async.webhooks
from avaturn_async import AvaturnClient, PollPolicy, RetryPolicy
from avaturn_async.errors import AvaturnError, ClientClosedError
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import ConfirmByApi, SessionRouter, WebhookReceiver

pytest_plugins = ["avaturn_async.testing.fixtures"]

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
CLIENT, WEBHOOK = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def environment(fake_avaturn: FakeAvaturn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVATURN_API_TOKEN", "any-token")
    monkeypatch.setenv("AVATURN_BASE_URL", fake_avaturn.url)
    monkeypatch.chdir(tmp_path)


def run(source: str, **names: Any) -> dict[str, Any]:
    names["__name__"] = names.get("__name__", "readme")
    exec(compile(source, "README.md", "exec"), names)  # noqa: S102 - our own README
    return names


@pytest.mark.usefixtures("environment")
async def test_client_block_saves_an_avatar(fake_avaturn: FakeAvaturn, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    printed: list[str] = []

    def print_and_make_the_avatar(label: str, value: object) -> None:
        printed.append(label)
        if label == "Open this page:":
            session_id = str(value).split("/session/")[1].partition("?")[0]
            asyncio.run_coroutine_threadsafe(fake_avaturn.finish_session(session_id), loop)

    await asyncio.to_thread(run, CLIENT, print=print_and_make_the_avatar)
    assert printed == ["Open this page:", "Saved"]
    assert (tmp_path / "avatar.glb").read_bytes().startswith(b"glTF")


@pytest.mark.usefixtures("environment")
async def test_webhook_block_calls_the_handler_and_hides_the_secret(
    fake_avaturn: FakeAvaturn, serve_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    printed: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()
    access_log = logging.getLogger("aiohttp.access")
    before = list(access_log.filters)
    try:
        names = run(WEBHOOK, print=lambda *words: printed.put_nowait(words))
        fake_avaturn.webhook_url = await serve_app(names["app"]) + "/avaturn?key=a-long-random-secret"
        async with names["client"] as client:
            user = await client.create_user()
            session = await names["router"].open_session(client, user.id, context={"account": 42})
            avatar_id = await fake_avaturn.finish_session(session.id)
            async with asyncio.timeout(20):
                assert await printed.get() == ("avatar", avatar_id, "is", "ready", "for", {"account": 42})
            async with aiohttp.ClientSession() as http, http.post(fake_avaturn.webhook_url, json={}) as response:
                assert response.status == 400
            await names["router"].close()
    finally:
        access_log.filters[:] = before
    assert "a-long-random-secret" not in caplog.text


@pytest.mark.usefixtures("environment")
async def test_webhook_block_closes_its_client_when_the_app_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    access_log = logging.getLogger("aiohttp.access")
    monkeypatch.setattr(access_log, "filters", list(access_log.filters))
    names = run(WEBHOOK)
    runner = web.AppRunner(names["app"])
    await runner.setup()
    await names["client"].create_user()
    await runner.cleanup()
    with pytest.raises(ClientClosedError):
        await names["client"].create_user()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!https)[^)]*)\)", README))))
def test_link_exists(link: str) -> None:
    assert (ROOT / link).is_file()


def test_every_example_is_linked() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} - {"quickstart.py"} <= set(
        re.findall(r"examples/([a-z_]+\.py)", README)
    )


def test_readme_is_short() -> None:
    assert len(README.encode()) <= 9_000


def get_section(title: str) -> str:
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def test_all_calls_are_listed() -> None:
    listed = re.findall(r"^\| `([a-z_]+)\((.*?)\)`", get_section("Calls"), re.MULTILINE)
    assert len(listed) == 10
    for name, arguments in listed:
        parameters = [
            p for p in inspect.signature(getattr(AvaturnClient, name)).parameters.values() if p.name != "timeout"
        ]
        shown = [argument.partition("=")[0].strip() for argument in arguments.split(",") if argument]
        assert shown == [p.name for p in parameters[1:]]


@pytest.mark.parametrize(
    ("row", "objects"),
    [
        ("AvaturnClient", [AvaturnClient, RetryPolicy]),
        ("WebhookReceiver", [WebhookReceiver]),
        ("SessionRouter", [SessionRouter]),
        ("wait_for_…", [PollPolicy]),
    ],
)
def test_options_are_listed_with_their_defaults(row: str, objects: list[Any]) -> None:
    [line] = [line for line in get_section("Configuration").splitlines() if line.startswith(f"| `{row}`")]
    defaults = {
        p.name: p.default
        for each in objects
        for p in inspect.signature(each).parameters.values()
        if p.default != p.empty
    }
    for name, shown in re.findall(r"([a-z_]+)=([0-9_.]+|None|False)", line.partition("|")[2]):
        assert defaults[name] == eval(shown), name  # noqa: S307 - our own README


def test_every_error_is_listed() -> None:
    section = get_section("Errors")
    names = [name for name in avaturn_async.errors.__all__ if name not in {"AvaturnError", "AvaturnStatusError"}]
    assert [n for n in names if f"`{n}`" not in section and not n.startswith("Webhook")] == []
    assert all(issubclass(getattr(avaturn_async.errors, name), AvaturnError) for name in names)


def test_every_event_field_is_listed() -> None:
    section = get_section("Events")
    for name, fields in re.findall(r"^\| `(\w+)` \| `([\w ]+)`", section, re.MULTILINE):
        assert set(fields.split()) <= set(inspect.signature(getattr(avaturn_async.webhooks, name)).parameters) | {
            "event"
        }


def test_confirmation_is_the_one_of_the_block() -> None:
    assert ConfirmByApi.__name__ in WEBHOOK
