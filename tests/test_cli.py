"""python -m avaturn_async: what it prints, keeps and sends, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import pty
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from avaturn_async import AvaturnClient, __version__, _cli
from avaturn_async._cli import _output, main
from avaturn_async._cli._deliveries import Delivery, delivery_of, line_of, read_deliveries
from avaturn_async._cli._failures import Failure, Misuse
from avaturn_async._cli._parser import make_parser
from avaturn_async.testing.__main__ import main as fake_main
from avaturn_async.webhooks import AvatarReady, ExportReady, RenderReady, UnknownEvent, parse_event

SECRET = "hush-hush-5ecret"
WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()
AVATAR_ID = "12345678-1234-5678-1234-567812345678"
SCHEMES = {
    "hmac": ["--scheme", "hmac", "--header", "X-Sig", "--prefix", "sha256=", "--encoding", "base64"],
    "hmac with a timestamp": [
        *("--scheme", "hmac", "--header", "X-Sig", "--timestamp-header", "X-Time"),
        *("--template", "{timestamp}.{body}", "--tolerance", "60"),
    ],
    "standard": ["--scheme", "standard"],
    "header": ["--scheme", "header", "--header", "X-Key"],
    "query": ["--scheme", "query", "--parameter", "k"],
    "query of the default name": ["--scheme", "query"],
    "basic": ["--scheme", "basic", "--user", "avaturn"],
}


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)


class Command:
    """A command that runs in this process, and what it says."""

    def __init__(self, argv: Sequence[str]) -> None:
        options = make_parser().parse_args(argv)
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.task: asyncio.Task[int] = asyncio.ensure_future(options.run(options, self._say))

    def _say(self, text: str, style: str = "") -> None:
        assert style in {"", "green", "red"}
        assert SECRET not in text
        self.lines.put_nowait(text)

    async def line(self) -> str:
        """The next line that it says."""
        line = asyncio.ensure_future(self.lines.get())
        await asyncio.wait({line, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            self.task.result()
        return await line


async def ran(*argv: str) -> tuple[int, list[str]]:
    """The exit code of a command that ends by itself, and what it said."""
    command = Command(argv)
    code = await command.task
    return code, [command.lines.get_nowait() for _ in range(command.lines.qsize())]


@asynccontextmanager
async def running(*argv: str) -> AsyncGenerator[tuple[Command, str]]:
    """A command that serves, and its URL."""
    command = Command([*argv, "--port", "0"])
    try:
        first = await command.line()
        yield command, next(word for word in first.split() if word.startswith("http://"))
    finally:
        command.task.cancel()
        await asyncio.wait({command.task})


@asynccontextmanager
async def raw_server(
    answer: bytes, *, tls: ssl.SSLContext | None = None, stall: bool = False
) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A server that answers always the same; its port, and the requests as they stood on the wire."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(h[15:]) for h in head.split(b"\r\n") if h.startswith(b"Content-Length:"))
        requests.append(head + await reader.readexactly(length))
        if stall:
            await reader.read()
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


async def post_raw(url: str, request: bytes) -> bytes:
    """The first line of what is answered to the very bytes of a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
    writer.write(request)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


# listen


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
async def test_what_send_signs_is_what_listen_takes_and_prints(
    scheme: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if scheme == ["--scheme", "standard"]:
        monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", WHSEC)
    async with running("listen", "--path", "/hook", *scheme) as (command, url):
        code, said = await ran("send", url.partition("?")[0], "--avatar-id", AVATAR_ID, *scheme)
        assert code == 0
        assert said[1].endswith(": 200")
        line = await command.line()
    assert "avatar.ready" in line
    assert f"avatar_id={AVATAR_ID}" in line
    assert "status=ready" in line


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
async def test_what_another_secret_signed_is_refused_with_a_reason_and_not_printed(
    scheme: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = "another-secret"
    if scheme == ["--scheme", "standard"]:
        monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", WHSEC)
        other = "whsec_" + base64.b64encode(b"another").decode()
    monkeypatch.setenv("OTHER", other)
    async with running("listen", *scheme) as (command, url):
        code, said = await ran("send", url.partition("?")[0], *scheme, "--secret-env", "OTHER")
        assert code == 1
        assert said[1].endswith(": 401")
        assert command.lines.empty()
    assert "does not match" in caplog.text
    assert not any(secret in caplog.text for secret in (SECRET, WHSEC, other))


async def test_a_secret_comes_from_a_file_and_may_be_rotated(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"the-old-one\n")
    new.write_bytes(b"the-new-one\r\n")
    files = ["--secret-file", str(new), "--secret-file", str(old)]
    async with running("listen", *SCHEMES["header"], *files) as (_, url):
        for file in (old, new):
            assert (await ran("send", url, *SCHEMES["header"], "--secret-file", str(file)))[0] == 0


async def test_a_secret_may_come_from_a_pipe_which_tells_it_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    telling = asyncio.to_thread(pipe.write_text, SECRET)
    async with running("listen", *SCHEMES["query"]) as (_, url):
        told = asyncio.create_task(telling)
        send = asyncio.create_subprocess_exec(
            *command_line("send", url.partition("?")[0], *SCHEMES["query"], "--secret-file", str(pipe))
        )
        assert await (await send).wait() == 0
        await told


async def test_a_result_url_is_a_credential_and_not_printed() -> None:
    async with running("listen", *SCHEMES["hmac"]) as (command, url):
        result = "https://files.example.com/x?sig=credential"
        await ran("send", url, *SCHEMES["hmac"], "--event", "export.ready", "--result-url", result)
        line = await command.line()
    assert "export_url=…" in line
    assert "credential" not in line


async def test_what_comes_from_the_wire_cannot_drive_the_terminal(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"event": "\x1b[2J\r\n" + "x" * 500, "avatar_id": 7, "user_id": "\x07"}))
    async with running("listen", *SCHEMES["hmac"]) as (command, url):
        assert (await ran("send", url, *SCHEMES["hmac"], "--body", str(body)))[0] == 0
        line = await command.line()
    assert line.isprintable()
    assert r"\x1b[2J\r\n" in line
    assert len(line) < 300


async def test_what_an_event_has_wrong_is_printed(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"event": "export.ready"}')
    async with running("listen", *SCHEMES["hmac"]) as (command, url):
        await ran("send", url, *SCHEMES["hmac"], "--body", str(body))
        assert "missing $.avatar_id" in await command.line()


async def test_forwarding_changes_no_byte_and_gives_back_the_answer() -> None:
    body = b'{ "event" : "avatar.ready",  "avatar_id": "%s" }' % AVATAR_ID.encode()
    request = (
        b"POST /avaturn?key=%s&a=%%2f+b HTTP/1.1\r\nhost: there\r\nx-oDD: caf\xe9\r\nX-Odd: 2\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (SECRET.encode(), len(body), body)
    )
    async with raw_server(b"HTTP/1.1 202 Accepted\r\n\r\n") as (port, requests):
        app = f"http://127.0.0.1:{port}/mine"
        async with running("listen", *SCHEMES["query of the default name"], "--forward", app) as (
            command,
            url,
        ):
            assert (await post_raw(url, request)).startswith(b"HTTP/1.1 202")
            assert (await command.line()).endswith("forwarded: 202")
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


async def test_the_sender_is_told_to_come_again_while_nobody_takes_what_is_forwarded() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with running("listen", *SCHEMES["hmac"], "--forward", away) as (command, url):
        code, said = await ran("send", url, *SCHEMES["hmac"])
        assert (code, said[1][-5:]) == (1, ": 502")
        assert "not forwarded" in await command.line()


async def test_what_is_not_authentic_is_not_forwarded() -> None:
    async with raw_server(OK) as (port, requests):
        forward = ["--forward", f"http://127.0.0.1:{port}"]
        async with running("listen", *SCHEMES["hmac"], *forward) as (_, url):
            assert (await ran("send", url))[0] == 1
    assert not requests


# record and replay


BODIES = {
    "text": b'{"event": "avatar.ready"}',
    "gzip": gzip.compress(b"{}"),
    "empty": b"",
    "bytes": b"\xff\r\n\x00",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_delivery_is_replayed_byte_for_byte(body: bytes, tmp_path: Path) -> None:
    headers = b"X-Sig: caf\xe9 =\r\nx-TWICE: 1\r\nX-Twice: 2\r\nContent-Encoding: gzip\r\n"
    request = b"PUT /a%%2fb?k=%s&x=%%zz+'{} HTTP/1.1\r\nHost: h\r\n%sConnection: close\r\n" % (
        SECRET.encode(),
        headers,
    )
    file = tmp_path / "deliveries.jsonl"
    async with running("record", str(file)) as (command, url):
        answer = await post_raw(url, request + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert answer.startswith(b"HTTP/1.1 200")
        assert "PUT /a%2fb?…" in (line := await command.line())
        assert "X-Sig" in line
        assert "caf" not in line
    async with raw_server(OK) as (port, requests):
        code, said = await ran("replay", str(file), f"http://127.0.0.1:{port}/here")
        assert (code, said[0][-5:]) == (0, ": 200")
    assert requests[0] == (
        b"PUT /here?k=%s&x=%%zz+'{} HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (SECRET.encode(), port, headers, len(body), body)
    )


@given(
    path=st.binary(max_size=20),
    values=st.lists(st.binary(max_size=20), max_size=4),
    body=st.binary(max_size=50) | st.text(max_size=50).map(str.encode),
)
def test_what_is_read_is_what_was_written(path: bytes, values: list[bytes], body: bytes) -> None:
    delivery = Delivery(
        at="2026-01-01T00:00:00+00:00",
        peer="::1",
        method="POST",
        path=b"/" + bytes(b for b in path if 32 < b < 127 or b > 127),
        query=b"",
        headers=tuple((b"X-H", value.translate(None, b"\r\n\0")) for value in values),
        body=body,
    )
    line = line_of(delivery)
    assert line.endswith(b"\n")
    assert len(line.splitlines()) == 1
    assert delivery_of(line) == delivery


async def test_only_its_owner_can_read_what_was_recorded(tmp_path: Path) -> None:
    fresh, there = tmp_path / "fresh", tmp_path / "there"
    there.write_bytes(line_of(DELIVERY))
    there.chmod(0o644)
    for file in (fresh, there):
        async with running("record", str(file)) as (_, url):
            await ran("send", url)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(read_deliveries(fresh)) == 1
    assert len(read_deliveries(there)) == 2


async def test_the_sender_is_answered_as_one_wants(tmp_path: Path) -> None:
    async with running("record", str(tmp_path / "f"), "--answer", "503") as (_, url):
        assert (await ran("send", url))[1][1].endswith(": 503")


async def test_what_could_not_be_kept_was_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async with running("record", str(tmp_path / "f")) as (_, url):
        monkeypatch.setattr(os, "fsync", full)
        assert (await ran("send", url))[1][1].endswith(": 503")
    assert capsys.readouterr().err == "not kept: No space left on device\n"


@pytest.mark.parametrize(
    ("request_", "timeout", "status"),
    [
        (b"Content-Length: 5\r\n\r\nx", "0.01", b"408"),
        (b"Content-Length: 1500000\r\n\r\n" + b"x" * 1_500_000, "60", b"413"),
    ],
    ids=["too slow", "too large"],
)
async def test_a_body_has_its_bounds_when_it_is_recorded(
    request_: bytes, timeout: str, status: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    async with running("record", str(file), "--timeout", timeout) as (_, url):
        answer = await post_raw(url, b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + request_)
    assert answer.split()[1] == status
    assert file.read_bytes() == b""


DELIVERY = Delivery(
    at="2026-01-01T00:00:00+00:00",
    peer="::1",
    method="POST",
    path=b"/x",
    query=b"a=1",
    headers=(),
    body=b"{}",
)


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(line_of(DELIVERY)) | changes).encode()


NOT_DELIVERIES = {
    "no JSON": b"POST / HTTP/1.1",
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "nothing in it": b"{}",
    "a number": changed(at=1),
    "a method that ends the line": changed(method="GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    "a query that ends the line": changed(query="a HTTP/1.1\r\nX: y"),
    "a header that ends the line": changed(headers=[["X", "y\r\nZ: z"]]),
    "a header name that is none": changed(headers=[["X: y\r\nZ", "z"]]),
    "a header that is no byte": changed(headers=[["X", "☃"]]),
    "a header that is no pair": changed(headers=[["X"]]),
    "half a surrogate pair": changed(body="\ud800"),
    "no base64": json.dumps(
        {k: v for k, v in json.loads(changed(body_base64="-")).items() if k != "body"}
    ).encode(),
}


@pytest.mark.parametrize("line", NOT_DELIVERIES.values(), ids=NOT_DELIVERIES.keys())
async def test_nothing_is_sent_of_a_file_with_a_line_that_is_no_delivery(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(line_of(DELIVERY) + line + b"\n")
    async with raw_server(OK) as (port, requests):
        with pytest.raises(Failure, match="line 2: not a recorded delivery"):
            await ran("replay", str(file), f"http://127.0.0.1:{port}")
    assert not requests


async def test_one_delivery_of_several_is_replayed_and_a_query_in_the_url_counts_more(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"".join(line_of(attrs.evolve(DELIVERY, body=b"%d" % n)) for n in (1, 2, 3)))
    async with raw_server(OK) as (port, requests):
        assert (await ran("replay", str(file), f"http://127.0.0.1:{port}/y?b=2", "--line", "2"))[0] == 0
        assert [r.split(b"\r\n")[0] for r in requests] == [b"POST /y?b=2 HTTP/1.1"]
        assert requests[0].endswith(b"\r\n\r\n2")
        with pytest.raises(Failure, match="no line 4"):
            await ran("replay", str(file), f"http://127.0.0.1:{port}", "--line", "4")


async def test_replay_goes_on_after_one_that_is_refused_and_fails_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(line_of(DELIVERY) * 2)
    async with raw_server(b"HTTP/1.1 401 No\r\n\r\n") as (port, requests):
        code, said = await ran("replay", str(file), f"http://127.0.0.1:{port}")
    assert code == 1
    assert len(said) == len(requests) == 2


def test_a_file_without_deliveries_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    with pytest.raises(Failure, match="holds no deliveries"):
        read_deliveries(file)


@pytest.mark.parametrize("name", ["missing/f", "."])
async def test_a_file_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    with pytest.raises(Failure, match="cannot read"):
        await ran("replay", str(file), "http://127.0.0.1:1")
    with pytest.raises(Failure, match="cannot write"):
        await ran("record", str(file))


# send


@pytest.mark.parametrize(
    ("argv", "kind", "values"),
    [
        (
            ["--event", "avatar.ready", "--session-id", AVATAR_ID],
            AvatarReady,
            {"session_id": UUID(AVATAR_ID)},
        ),
        (
            ["--event", "export.ready"],
            ExportReady,
            {"status": "ready", "export_url": "https://example.com/result"},
        ),
        (
            ["--event", "export.ready", "--status", "failed"],
            ExportReady,
            {"status": "failed", "export_url": None},
        ),
        (["--event", "render.ready", "--render-id", AVATAR_ID], RenderReady, {"id": UUID(AVATAR_ID)}),
        (["--event", "render.ready", "--status", "failed", "--user-id", "u"], RenderReady, {"user_id": "u"}),
        (["--event", "avatar.gone"], UnknownEvent, {"event": "avatar.gone"}),
    ],
)
async def test_every_event_can_be_made_up(argv: list[str], kind: type, values: dict[str, Any]) -> None:
    async with raw_server(OK) as (port, requests):
        assert (await ran("send", f"http://127.0.0.1:{port}", *argv))[0] == 0
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    event = parse_event(body)
    assert type(event) is kind
    assert {name: getattr(event, name) for name in values} == values
    if "failed" in argv:
        assert json.loads(body)[argv[1].replace(".ready", "_url")] is None


async def test_a_body_of_ones_own_is_sent_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\xff {")
    async with raw_server(OK) as (port, requests):
        assert (await ran("send", f"http://127.0.0.1:{port}", "--body", str(file)))[0] == 0
        with file.open("rb") as opened:
            monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": opened}))
            assert (await ran("send", f"http://127.0.0.1:{port}", "--body", "-"))[0] == 0
    assert [request.partition(b"\r\n\r\n")[2] for request in requests] == [b"\xff {"] * 2


async def test_a_secret_of_the_query_goes_behind_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", "a&b+c/d é")
    async with raw_server(OK) as (port, requests):
        await ran("send", f"http://127.0.0.1:{port}/x?a=%26", *SCHEMES["query"])
    assert requests[0].startswith(b"POST /x?a=%26&k=a%26b%2Bc%2Fd%20%C3%A9 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 two hundred\r\n", "not HTTP"),
        (b"x" * 100_000, "not HTTP"),
        (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", "closed without an answer"),
    ],
)
async def test_an_answer_that_is_none_is_a_sentence(answer: bytes, sentence: str) -> None:
    async with raw_server(answer) as (port, _):
        with pytest.raises(Failure, match=f"^http://127.0.0.1:{port}: .*{sentence}"):
            await ran("send", f"http://127.0.0.1:{port}/path?k={SECRET}")


def test_a_place_of_ipv6_is_named_as_in_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "http://[::1]:1/x"]) == 1
    assert capsys.readouterr().err.startswith("error: http://[::1]:1: ")


async def test_an_interim_answer_is_passed_over() -> None:
    async with raw_server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 204\r\n\r\n") as (port, _):
        assert (await ran("send", f"http://127.0.0.1:{port}"))[1][1].endswith(": 204")


async def test_an_answer_that_does_not_come_is_a_sentence() -> None:
    async with raw_server(OK, stall=True) as (port, _):
        with pytest.raises(Failure, match=r"no answer within 0\.01 s"):
            await ran("send", f"http://127.0.0.1:{port}", "--timeout", "0.01")


async def test_a_certificate_that_is_not_trusted_is_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with raw_server(OK, tls=context) as (port, _):
        with pytest.raises(Failure, match="certificate is not trusted"):
            await ran("send", f"https://127.0.0.1:{port}")
    caplog.clear()


# wrong use


WRONG = {
    "no command": ([], "COMMAND"),
    "no such command": (["lissten"], "lissten"),
    "no scheme": (["listen"], "--scheme"),
    "no such scheme": (["listen", "--scheme", "none"], "none"),
    "hmac without header": (["listen", "--scheme", "hmac"], "--scheme hmac needs --header"),
    "basic without user": (["listen", "--scheme", "basic"], "needs --user"),
    "an option of another scheme": (
        ["listen", *SCHEMES["basic"], "--header", "X"],
        "--header has no meaning for",
    ),
    "an option without a scheme": (["send", "http://h/", "--user", "u"], "--user has no meaning without"),
    "a secret without a scheme": (
        ["send", "http://h/", "--secret-file", os.devnull],
        "--secret-file has no meaning",
    ),
    "a template that holds no body": (["listen", *SCHEMES["hmac"], "--template", "x"], "template must hold"),
    "a secret on the command line": (["listen", *SCHEMES["hmac"], "--secret", SECRET], "list of processes"),
    "the same with =": (["listen", *SCHEMES["hmac"], f"--secret={SECRET}"], "list of processes"),
    "a variable that is not set": (
        ["listen", *SCHEMES["hmac"], "--secret-env", "NOWHERE"],
        "NOWHERE is not set",
    ),
    "a variable that is not UTF-8": (
        ["listen", *SCHEMES["hmac"], "--secret-env", "BYTES"],
        "BYTES is not UTF-8",
    ),
    "a scheme without a secret": (["listen", *SCHEMES["hmac"]], "AVATURN_WEBHOOK_SECRET is not set"),
    "a blank secret": (["listen", *SCHEMES["hmac"], "--secret-env", "BLANK"], "blank"),
    "a file that is not there": (["listen", *SCHEMES["hmac"], "--secret-file", "/nowhere"], "No such file"),
    "a file that is not UTF-8": (["listen", *SCHEMES["hmac"], "--secret-file", sys.executable], "not UTF-8"),
    "no base64": (["listen", "--scheme", "standard"], "whsec_"),
    "a port that is none": (["listen", "--port", "65536", *SCHEMES["hmac"]], "65535"),
    "a path that is none": (["listen", "--path", "avaturn", *SCHEMES["hmac"]], "a path such as"),
    "a path that is a pattern": (["listen", "--path", "/{x}", *SCHEMES["hmac"]], "a path such as"),
    "a URL that is none": (["send", f"localhost:80?k={SECRET}"], "a URL such as"),
    "a URL that cannot be parsed": (["send", f"http://[{SECRET}"], "a URL such as"),
    "a password in a URL": (["send", f"http://u:{SECRET}@h/"], "no user or password"),
    "a timeout that is none": (["send", "http://h/", "--timeout", "soon"], "seconds above 0"),
    "a timeout without end": (["send", "http://h/", "--timeout", "inf"], "seconds above 0"),
    "a line that is none": (["replay", "f", "http://h/", "--line", "0"], "from 1 up"),
    "a status that is none": (["record", "f", "--answer", "99"], "HTTP status"),
    "an id that is none": (["send", "http://h/", "--avatar-id", "{x}"], "UUID in canonical form"),
    "a fake's port that is none": (["fake", "--port", "70000"], "0-65535"),
    "a fake's header that is none": (["fake", "--signature-header", "a b"], "name of a header"),
    "a fake's secret on the command line": (["fake", "--secret", SECRET], "list of processes"),
    "a fake's blank secret": (["fake", "--secret-env", "BLANK"], "blank"),
    "a fake's variable that is not set": (["fake", "--secret-env", "NOWHERE"], "NOWHERE is not set"),
    "a variable without a scheme": (
        ["send", "http://h/", "--secret-env", "X"],
        "--secret-env has no meaning",
    ),
    "a body that is not there": (["send", "http://h/", "--body", "/nowhere"], "cannot read /nowhere"),
}


@pytest.mark.parametrize(("argv", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_use_is_a_sentence_and_exit_code_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLANK", "  ")
    if "AVATURN_WEBHOOK_SECRET is not set" in sentence:
        monkeypatch.delenv("AVATURN_WEBHOOK_SECRET")
    os.environb[b"BYTES"] = b"\xff\xfe"
    with pytest.raises(SystemExit) as ended:
        main(argv)
    del os.environb[b"BYTES"]
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert sentence in " ".join(said.err.split())
    assert SECRET not in said.err
    assert not said.out


def test_misuse_and_failure_are_two_things() -> None:
    assert not issubclass(Misuse, Failure)


# as a process


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def command_line(*argv: str) -> list[str]:
    return [sys.executable, "-m", "avaturn_async", *argv]


def process(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*argv), capture_output=True, text=True, check=False)


@contextmanager
def serving(*argv: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = command_line(*argv, "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running, next(w for w in running.stdout.readline().split() if w.startswith("http://"))
        finally:
            running.kill()


@contextmanager
def interruptible(*argv: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command_line(*argv), stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def test_version_and_help_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert process("--version").stdout == f"avaturn_async {__version__}\n"
    for command in ([], ["listen"], ["record"], ["replay"], ["send"], ["fake"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
        assert "Exit codes:" in capsys.readouterr().out


def test_ctrl_c_ends_a_server_with_130_and_no_traceback() -> None:
    with serving("listen", *SCHEMES["hmac"]) as (running, url):
        assert main(["send", url, *SCHEMES["hmac"]]) == 0
        assert main(["send", url]) == 1
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
        assert running.returncode == 130
    assert "avatar.ready" in out
    assert "\x1b" not in out
    assert "401: header x-sig missing" in err
    assert "Traceback" not in err
    assert SECRET not in out + err


@pytest.mark.parametrize(
    "argv",
    [
        ["listen", *SCHEMES["hmac"]],
        ["record", "kept"],
        ["fake"],
    ],
    ids=" ".join,
)
def test_ctrl_c_ends_every_server(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(*argv) as (running, _):
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "")


@pytest.mark.parametrize("command", ["send", "replay"])
def test_ctrl_c_ends_what_waits_for_an_answer(command: str, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    headers = ((b"X", b"y"),)
    delivery = Delivery(at="", peer="", method="POST", path=b"/", query=b"", headers=headers, body=b"{}")
    file.write_bytes(line_of(delivery))
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with interruptible(command, *([url] if command == "send" else [str(file), url])) as running:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(4) == b"POST"
                running.send_signal(signal.SIGINT)
                _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "")


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "avaturn_async", "send", "http://127.0.0.1:9/", "--body"],
        ["-m", "avaturn_async", "send", "http://127.0.0.1:9/", *SCHEMES["hmac"], "--secret-file"],
        ["-m", "avaturn_async", "fake", "--secret-file"],
        ["-m", "avaturn_async.testing", "--secret-file"],
    ],
    ids=" ".join,
)
def test_ctrl_c_ends_what_reads_from_a_pipe(argv: list[str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, *argv, str(pipe)]
    # In development mode Python complains of the file that it had just opened when the signal came.
    env = {**os.environ, "PYTHONDEVMODE": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as running, pipe.open("wb"):
        # It opened the pipe, since otherwise we could not have.
        err = pressed_until_it_ends(running)
    assert (running.returncode, err) == (130, "")


def pressed_until_it_ends(running: subprocess.Popen[str]) -> str:
    """Press Ctrl-C, and once more where nothing came of it, as one does: Python looks for signals between two steps.

    What comes after its last look and before the read that waits, a few microseconds, is seen when the read ends.
    """
    for _ in range(3):
        running.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return running.communicate(timeout=10)[1]
    raise AssertionError("Ctrl-C does not end it")


def test_ctrl_c_is_130_wherever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli, "say", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["listen", "--port", "0", *SCHEMES["hmac"]]) == 130


def test_a_port_in_use_and_a_url_out_of_reach_are_sentences(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        in_use = process("record", str(tmp_path / "f"), "--port", str(port))
    assert in_use.returncode == 1
    assert in_use.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    port = free_port()
    away = process("send", f"http://127.0.0.1:{port}/x?k={SECRET}")
    assert away.returncode == 1
    assert away.stderr.startswith(f"error: http://127.0.0.1:{port}: ")
    assert SECRET not in away.stderr


def test_fake_is_the_stand_in_that_runs_alone() -> None:
    async def use(url: str) -> None:
        async with AvaturnClient("any-token", base_url=url) as client:
            await client.create_user()

    with serving("fake") as (running, url):
        asyncio.run(use(url))
        assert main(["fake", "--port", str(URL(url).port)]) == 1
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 130
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()


def test_an_argument_that_the_fake_refuses_is_a_sentence_there_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        fake_main(["--port", "70000"])
    assert ended.value.code == 2
    assert "0-65535" in capsys.readouterr().err


def test_a_name_that_is_no_host_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", "--host", "nowhere.invalid", *SCHEMES["hmac"]]) == 1
    assert "cannot listen on nowhere.invalid:8080" in capsys.readouterr().err


async def test_an_ipv6_address_stands_in_brackets() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with running("listen", "--host", "::1", *SCHEMES["hmac"]) as (_, url):
        assert url.startswith("http://[::1]:")
        assert (await ran("send", url, *SCHEMES["hmac"]))[0] == 0


def test_a_reader_that_leaves_does_no_harm() -> None:
    with serving("listen", *SCHEMES["hmac"]) as (running, url):
        assert running.stdout is not None
        running.stdout.close()
        assert [main(["send", url, *SCHEMES["hmac"]]) for _ in range(2)] == [0, 0]
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=30) == 130
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_what_is_said_to_nobody_is_lost_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    with os.fdopen(ours, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        _output.say("one")
        _output.say("two")


@pytest.mark.parametrize(("rich", "starts"), [(True, b"\x1b[32m["), (False, b"[")], ids=["rich", "without"])
def test_colours_come_on_a_terminal_if_rich_is_there(
    *, rich: bool, starts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    vars(_output)["_console"].cache_clear()
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        _output.say("[b]: 200", "green")
        assert os.read(ours, 1000).startswith(starts + b"b]: 200")
    os.close(ours)
    vars(_output)["_console"].cache_clear()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_an_encoding_has_no_letters_for_is_said_all_the_same(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", stdout)
    _output.say("user_id=Ж")
    assert stdout.buffer.getvalue() == b"user_id=\\u0416\n"


def test_say_prints_plainly_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _output.say("[red]x[/red]", "green")
    assert capsys.readouterr().out == "[red]x[/red]\n"
