"""``avaturn send``: the events that it makes up, and what it says of the response."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trustme
from support.commands import SECRET, Commands, raw_server

from avaturn_async.webhooks import AvatarReady, ExportReady, RenderReady, UnknownEvent, parse_event

ID = "12345678-1234-5678-1234-567812345678"


@pytest.fixture
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


@pytest.mark.parametrize(
    ("argv", "kind", "values"),
    [
        ([], AvatarReady, {"status": "ready", "session_id": None}),
        (["--session-id", ID], AvatarReady, {"session_id": UUID(ID)}),
        (["--status", "failed", "--user-id", "u"], AvatarReady, {"status": "failed", "user_id": "u"}),
        (["--event", "export.ready"], ExportReady, {"export_url": "https://example.com/result"}),
        (["--event", "export.ready", "--status", "failed"], ExportReady, {"status": "failed", "export_url": None}),
        (["--event", "render.ready", "--render-id", ID], RenderReady, {"id": UUID(ID)}),
        (["--event", "render.ready", "--result-url", "https://h/x"], RenderReady, {"render_url": "https://h/x"}),
        (["--event", "render.ready", "--status", "failed"], RenderReady, {"render_url": None}),
        (["--event", "avatar.gone"], UnknownEvent, {"event": "avatar.gone"}),
    ],
)
async def test_event_is_made_up_as_the_options_say(
    argv: list[str], kind: type, values: dict[str, Any], commands: Commands
) -> None:
    async with raw_server() as (port, requests):
        sent = await commands.run("send", f"http://127.0.0.1:{port}", *argv)
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert (sent.code, sent.out) == (0, [body.decode(), f"{len(body)} bytes: 200"])
    assert b"Content-Type: application/json" in head
    event = parse_event(body)
    assert type(event) is kind
    assert {name: getattr(event, name) for name in values} == values
    if kind in {ExportReady, RenderReady}:
        # Avaturn sends the URL of a failed task as null; it is never left out.
        assert argv[1].replace(".ready", "_url") in json.loads(body)


async def test_two_events_have_different_ids(commands: Commands) -> None:
    async with raw_server() as (port, requests):
        for _ in range(2):
            await commands.run("send", f"http://127.0.0.1:{port}", "--event", "render.ready")
    first, second = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in requests]
    assert all(first[name] != second[name] for name in ("avatar_id", "user_id", "id"))


async def test_body_of_a_file_or_stdin_is_sent_unchanged(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\xff {")
    async with raw_server() as (port, requests):
        sent = await commands.run("send", f"http://127.0.0.1:{port}", "--body", str(file))
        assert (sent.code, sent.out) == (0, ["3 bytes: 200"])
        with file.open() as opened:
            monkeypatch.setattr(sys, "stdin", opened)
            assert (await commands.run("send", f"http://127.0.0.1:{port}", "--body", "-")).code == 0
    assert [request.partition(b"\r\n\r\n")[2] for request in requests] == [b"\xff {"] * 2


async def test_secret_in_the_query_is_encoded_and_appended(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", "a&b+c/d é")
    async with raw_server() as (port, requests):
        await commands.run("send", f"http://127.0.0.1:{port}/x?a=%26", "--scheme", "query", "--parameter", "k")
    assert requests[0].startswith(b"POST /x?a=%26&k=a%26b%2Bc/d+%C3%A9 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [([], "was not signed: see --scheme"), (["--scheme", "query"], "check --scheme and the secret")],
)
async def test_response_401_is_explained(
    argv: list[str], remedy: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)
    async with raw_server(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n") as (port, _):
        sent = await commands.run("send", f"http://127.0.0.1:{port}", *argv)
    assert sent.code == 1
    assert sent.out[1].endswith(": 401")
    assert sent.out[2].endswith(remedy)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 two hundred\r\n", "not HTTP"),
        (b"x" * 100_000, "not HTTP"),
        (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", "closed without an answer"),
    ],
)
async def test_invalid_response_is_an_error_without_path_and_query(
    response: bytes, reason: str, commands: Commands
) -> None:
    async with raw_server(response) as (port, _):
        sent = await commands.run("send", f"http://127.0.0.1:{port}/path?k={SECRET}")
    assert (sent.code, sent.out) == (1, [])
    assert sent.err[0].startswith(f"error: http://127.0.0.1:{port}: ")
    assert sent.err[0].endswith(reason)


async def test_refused_connection_is_an_error(commands: Commands) -> None:
    sent = await commands.run("send", f"http://[::1]:1/x?k={SECRET}")
    assert sent.code == 1
    assert sent.err[0].startswith("error: http://[::1]:1: ")


async def test_interim_response_is_skipped(commands: Commands) -> None:
    async with raw_server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 204\r\n\r\n") as (port, _):
        assert (await commands.run("send", f"http://127.0.0.1:{port}")).out[1].endswith(": 204")


async def test_missing_response_is_an_error_after_the_timeout(commands: Commands) -> None:
    async with raw_server(stall=True) as (port, _):
        sent = await commands.run("send", f"http://127.0.0.1:{port}", "--timeout", "0.01")
    assert (sent.code, sent.err) == (1, [f"error: http://127.0.0.1:{port}: no answer within 0.01 s"])


async def test_untrusted_certificate_is_an_error(commands: Commands, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with raw_server(tls=context) as (port, _):
        sent = await commands.run("send", f"https://127.0.0.1:{port}")
    assert sent.code == 1
    assert "its certificate is not trusted" in sent.err[0]
    caplog.clear()
