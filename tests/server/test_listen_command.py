"""``avaturn listen``: which webhooks it accepts, what it prints, and what it forwards. ``avaturn send`` posts them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import SECRET, Commands, post_raw, raw_server
from yarl import URL

WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()
AVATAR_ID = "12345678-1234-5678-1234-567812345678"
HMAC = ["--scheme", "hmac", "--header", "X-Sig", "--prefix", "sha256=", "--encoding", "base64"]
SCHEMES = {
    "hmac": HMAC,
    "hmac with a timestamp": [
        *("--scheme", "hmac", "--header", "X-Sig", "--timestamp-header", "X-Time"),
        *("--template", "{timestamp}.{body}", "--tolerance", "60"),
    ],
    "standard": ["--scheme", "standard"],
    "header": ["--scheme", "header", "--header", "X-Key"],
    "query": ["--scheme", "query", "--parameter", "k"],
    "query with the default parameter": ["--scheme", "query"],
    "basic": ["--scheme", "basic", "--user", "avaturn"],
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)
    with Commands() as commands:
        yield commands


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
async def test_webhook_of_send_with_the_same_scheme_is_accepted_and_printed(
    scheme: list[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme == ["--scheme", "standard"]:
        monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", WHSEC)
    async with commands.serve("listen", "--path", "/hook", *scheme) as server:
        sent = await commands.run("send", server.url.partition("?")[0], "--avatar-id", AVATAR_ID, *scheme)
        assert (sent.code, sent.out[1].rpartition(" ")[2]) == (0, "200")
        line = await server.line()
    assert "avatar.ready" in line
    assert f"avatar_id={AVATAR_ID}" in line
    assert "status=ready" in line


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
async def test_webhook_with_another_secret_is_refused_with_a_reason_and_not_printed(
    scheme: list[str], commands: Commands, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = "another-secret"
    if scheme == ["--scheme", "standard"]:
        monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", WHSEC)
        other = "whsec_" + base64.b64encode(b"another").decode()
    monkeypatch.setenv("OTHER", other)
    async with commands.serve("listen", *scheme) as server:
        sent = await commands.run("send", server.url.partition("?")[0], *scheme, "--secret-env", "OTHER")
        assert (sent.code, sent.out[1].rpartition(" ")[2]) == (1, "401")
        assert server.lines.empty()
    assert "does not match" in caplog.text
    assert not any(secret in caplog.text for secret in (SECRET, WHSEC, other))


async def test_each_secret_file_is_accepted_during_a_rotation(commands: Commands, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"the-old-one\n")
    new.write_bytes(b"the-new-one\r\n")
    scheme = SCHEMES["header"]
    async with commands.serve("listen", *scheme, "--secret-file", str(new), "--secret-file", str(old)) as server:
        for file in (old, new):
            assert (await commands.run("send", server.url, *scheme, "--secret-file", str(file))).code == 0


async def test_secret_file_can_be_a_pipe(commands: Commands, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with commands.serve("listen", *SCHEMES["query"]) as server:
        writing = asyncio.create_task(asyncio.to_thread(pipe.write_text, SECRET))
        url = server.url.partition("?")[0]
        assert (await commands.run("send", url, *SCHEMES["query"], "--secret-file", str(pipe))).code == 0
        await writing


async def test_line_of_an_event_shows_time_problems_and_no_result_url(commands: Commands, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"event": "export.ready"}')
    async with commands.serve("listen", *HMAC) as server:
        result = "https://files.example.com/x?sig=credential"
        await commands.run("send", server.url, *HMAC, "--event", "export.ready", "--result-url", result)
        line = await server.line()
        time.strptime(line[:8], "%H:%M:%S")
        assert "export_url=…" in line
        assert "credential" not in line
        await commands.run("send", server.url, *HMAC, "--body", str(body))
        assert "missing $.avatar_id" in await server.line()


async def test_line_of_an_event_is_short_and_without_control_characters(commands: Commands, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"event": "\x1b[2J\r\n" + "x" * 500, "avatar_id": 7, "user_id": "\x07"}))
    async with commands.serve("listen", *HMAC) as server:
        assert (await commands.run("send", server.url, *HMAC, "--body", str(body))).code == 0
        line = await server.line()
    assert line.isprintable()
    assert r"\x1b[2J\r\n" in line
    assert len(line) < 300


async def test_forwarded_webhook_keeps_its_bytes_and_its_sender_gets_the_status(commands: Commands) -> None:
    scheme = SCHEMES["query with the default parameter"]
    body = b'{ "event" : "avatar.ready",  "avatar_id": "%s" }' % AVATAR_ID.encode()
    request = (
        b"POST /avaturn?key=%s&a=%%2f+b HTTP/1.1\r\nhost: there\r\nx-oDD: caf\xe9\r\nX-Odd: 2\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (SECRET.encode(), len(body), body)
    )
    async with raw_server(b"HTTP/1.1 202 Accepted\r\n\r\n") as (port, requests):
        app = f"http://127.0.0.1:{port}/mine"
        async with commands.serve("listen", *scheme, "--forward", app) as server:
            assert (await post_raw(server.url, request)).startswith(b"HTTP/1.1 202")
            assert (await server.line()).endswith("forwarded: 202")
    head, _, got = requests[0].partition(b"\r\n\r\n")
    assert got == body
    assert head.split(b"\r\n") == [
        b"POST /mine?key=%s&a=%%2f+b HTTP/1.1" % SECRET.encode(),
        b"Host: 127.0.0.1:%d" % port,
        b"x-oDD: caf\xe9",
        b"X-Odd: 2",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]


async def test_sender_gets_502_while_the_forward_url_is_unavailable(commands: Commands) -> None:
    async with commands.serve("listen", *HMAC, "--forward", "http://127.0.0.1:1") as server:
        sent = await commands.run("send", server.url, *HMAC)
        assert (sent.code, sent.out[1].rpartition(" ")[2]) == (1, "502")
        assert "not forwarded, http://127.0.0.1:1: " in await server.line()


async def test_webhook_that_is_refused_is_not_forwarded(commands: Commands) -> None:
    async with (
        raw_server() as (port, requests),
        commands.serve("listen", *HMAC, "--forward", f"http://127.0.0.1:{port}") as server,
    ):
        assert (await commands.run("send", server.url)).code == 1
    assert not requests


async def test_request_to_another_path_is_printed_without_its_query(commands: Commands) -> None:
    async with commands.serve("listen", "--path", "/hook", *SCHEMES["query"]) as server:
        sent = URL(server.url).with_path("/hok").with_query(k=SECRET)
        assert (await commands.run("send", str(sent))).out[1].endswith(": 404")
        assert (await server.line()).endswith("  POST /hok: 404, webhooks go to /hook")


async def test_ipv6_address_is_printed_in_brackets(commands: Commands) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with commands.serve("listen", "--host", "::1", *HMAC) as server:
        assert server.url.startswith("http://[::1]:")
        assert (await commands.run("send", server.url, *HMAC)).code == 0
