"""``avaturn record`` and ``avaturn replay``: what the file holds, and which bytes are sent again."""

from __future__ import annotations

import gzip
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import SECRET, Commands, post_raw, raw_server, serving_process

RECORDED = {
    "at": "2026-01-01T00:00:00+00:00",
    "peer": "::1",
    "method": "POST",
    "path": "/x",
    "query": "a=1",
    "headers": [],
    "body": "{}",
}


@pytest.fixture
def commands() -> Iterator[Commands]:
    with Commands() as commands:
        yield commands


def make_line(**changes: Any) -> bytes:
    return json.dumps(RECORDED | changes).encode() + b"\n"


BODIES = {
    "text": b'{"event": "avatar.ready"}',
    "gzip": gzip.compress(b"{}"),
    "empty": b"",
    "line ends": b"\xff\r\n\x00",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_recorded_request_is_replayed_byte_for_byte(body: bytes, commands: Commands, tmp_path: Path) -> None:
    headers = b"X-Sig: caf\xe9 =\r\nx-TWICE: 1\r\nX-Twice: 2\r\nContent-Encoding: gzip\r\n"
    request = b"PUT /a%%2fb?k=%s&x=%%zz+'{} HTTP/1.1\r\nHost: h\r\n%sConnection: close\r\n" % (SECRET.encode(), headers)
    file = tmp_path / "deliveries.jsonl"
    async with commands.serve("record", str(file)) as server:
        status = await post_raw(server.url, request + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert status.startswith(b"HTTP/1.1 200")
        line = await server.line()
        # Names of headers, but neither their values nor the query.
        assert f"PUT /a%2fb?…  {len(body)} bytes  (Host, X-Sig, x-TWICE" in line
        assert "caf" not in line
    async with raw_server() as (port, requests):
        replayed = await commands.run("replay", str(file), f"http://127.0.0.1:{port}/here")
        assert (replayed.code, replayed.out[0].rpartition(" ")[2]) == (0, "200")
    assert requests[0] == (
        b"PUT /here?k=%s&x=%%zz+'{} HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (SECRET.encode(), port, headers, len(body), body)
    )


async def test_line_of_the_file_holds_the_whole_request(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "f"
    async with commands.serve("record", str(file)) as server:
        await post_raw(server.url, b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n\xff{")
    (line,) = file.read_bytes().splitlines()
    values = json.loads(line)
    assert values.pop("at").endswith("+00:00")
    assert values == {
        "peer": "127.0.0.1",
        "method": "POST",
        "path": "/a",
        "query": "b=c",
        "headers": [["Host", "h"], ["X-A", "1"], ["Content-Length", "2"]],
        "body_base64": "/3s=",
    }


async def test_recording_is_appended_and_readable_only_by_its_owner(commands: Commands, tmp_path: Path) -> None:
    new, existing = tmp_path / "new", tmp_path / "existing"
    existing.write_bytes(make_line())
    existing.chmod(0o644)
    for file in (new, existing):
        async with commands.serve("record", str(file)) as server:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            await commands.run("send", server.url)
    assert [len(file.read_bytes().splitlines()) for file in (new, existing)] == [1, 2]


async def test_recording_that_ends_within_a_line_gets_a_new_line_first(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(make_line() + b'{"at": "2026-')
    async with commands.serve("record", str(file)) as server:
        await commands.run("send", server.url)
    lines = file.read_bytes().splitlines()
    assert (len(lines), lines[1], json.loads(lines[2])["method"]) == (3, b'{"at": "2026-', "POST")
    async with raw_server() as (port, requests):
        # The line that is not whole does not prevent the replay of another.
        assert (await commands.run("replay", str(file), f"http://127.0.0.1:{port}", "--line", "3")).code == 0
    assert len(requests) == 1


async def test_new_recording_is_never_readable_by_others(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the later change of the mode, which would hide the mode of the creation.
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    async with commands.serve("record", str(tmp_path / "f")):
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600


async def test_answer_option_is_the_status_of_each_response(commands: Commands, tmp_path: Path) -> None:
    async with commands.serve("record", str(tmp_path / "f"), "--answer", "503") as server:
        assert (await commands.run("send", server.url)).out[1].endswith(": 503")


async def test_request_that_does_not_reach_the_disk_gets_503(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "f"
    async with commands.serve("record", str(file)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            assert (await commands.run("send", server.url)).out[1].endswith(": 503")
        assert file.read_bytes() == b""
        assert server.errors.get(timeout=10) == "a request was not kept: No space left on device"


async def test_request_is_kept_and_answered_if_its_line_cannot_be_printed(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    async with commands.serve("record", str(file)) as server:
        with monkeypatch.context() as patched, os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as stdout:
            patched.setattr(sys, "stdout", stdout)
            status = await post_raw(server.url, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        assert status.split()[1] == b"200"
        assert server.errors.get(timeout=10) == "cannot write to standard output: No space left on device"
    assert len(file.read_bytes().splitlines()) == 1


async def test_full_disk_leaves_no_half_line_and_later_requests_are_kept(commands: Commands, tmp_path: Path) -> None:
    file, large = tmp_path / "f", tmp_path / "large"
    large.write_bytes(b"x" * 5_000)
    with serving_process("record", str(file)) as (process, url):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3_000, 3_000))
        statuses = [(await commands.run("send", url, *body)).code for body in ((), ("--body", str(large)), ())]
    assert statuses == [0, 1, 0]
    assert [json.loads(line)["method"] for line in file.read_bytes().splitlines()] == ["POST", "POST"]


@pytest.mark.parametrize(
    ("rest", "timeout", "status", "reason"),
    [
        (b"Content-Length: 5\r\n\r\nx", "0.01", b"408", "its body did not come in time"),
        (b"Content-Length: 1500000\r\n\r\n" + b"x" * 1_500_000, "60", b"413", "its body has more than 1048576 bytes"),
    ],
    ids=["slow", "large"],
)
async def test_body_beyond_the_limits_is_refused_reported_and_not_kept(
    rest: bytes, timeout: str, status: bytes, reason: str, commands: Commands, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    async with commands.serve("record", str(file), "--timeout", timeout) as server:
        line = await post_raw(server.url, b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + rest)
        assert server.errors.get(timeout=10) == f"a request was not kept: {reason}"
    assert line.split()[1] == status
    assert file.read_bytes() == b""


NOT_DELIVERIES = {
    "no JSON": b"POST / HTTP/1.1",
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": make_line(at=1),
    "a method that ends the line": make_line(method="GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    "a query that ends the line": make_line(query="a HTTP/1.1\r\nX: y"),
    "a header that ends the line": make_line(headers=[["X", "y\r\nZ: z"]]),
    "an invalid header name": make_line(headers=[["X: y\r\nZ", "z"]]),
    "a header beyond a byte": make_line(headers=[["X", "☃"]]),
    "half a pair": make_line(headers=[["X"]]),
    "half a surrogate pair": make_line(body="\ud800"),
    "invalid base64": json.dumps({k: v for k, v in RECORDED.items() if k != "body"} | {"body_base64": "-"}).encode(),
}


@pytest.mark.parametrize("line", NOT_DELIVERIES.values(), ids=NOT_DELIVERIES.keys())
async def test_file_with_an_invalid_line_is_not_replayed(line: bytes, commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(make_line() + line.rstrip(b"\n") + b"\n")
    async with raw_server() as (port, requests):
        replayed = await commands.run("replay", str(file), f"http://127.0.0.1:{port}")
    assert (replayed.code, replayed.err) == (1, [f"error: {file}, line 2: not a recorded delivery"])
    assert not requests


async def test_replay_sends_one_line_with_the_query_of_the_url(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"".join(make_line(body=str(n)) for n in (1, 2, 3)))
    async with raw_server() as (port, requests):
        assert (await commands.run("replay", str(file), f"http://127.0.0.1:{port}/y?b=2", "--line", "2")).code == 0
        assert requests[0].startswith(b"POST /y?b=2 HTTP/1.1\r\n")
        assert requests[0].endswith(b"\r\n\r\n2")
        replayed = await commands.run("replay", str(file), f"http://127.0.0.1:{port}", "--line", "4")
        assert (replayed.code, replayed.err) == (1, [f"error: {file} holds no delivery in line 4"])
    assert len(requests) == 1


async def test_empty_line_of_a_recording_is_skipped_and_counted(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"\n" + make_line() + b"  \r\n" + make_line(body="[]") + b"\n")
    async with raw_server() as (port, requests):
        replayed = await commands.run("replay", str(file), f"http://127.0.0.1:{port}")
        assert (replayed.code, [line.split(",")[0] for line in replayed.out]) == (0, ["line 2", "line 4"])
        await commands.run("replay", str(file), f"http://127.0.0.1:{port}", "--line", "4")
        replayed = await commands.run("replay", str(file), f"http://127.0.0.1:{port}", "--line", "3")
        assert replayed.err == [f"error: {file} holds no delivery in line 3"]
    assert [request.partition(b"\r\n\r\n")[2] for request in requests] == [b"{}", b"[]", b"[]"]


async def test_replay_continues_after_a_refusal_and_exits_with_1(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(make_line() * 2)
    async with raw_server(b"HTTP/1.1 401 No\r\n\r\n") as (port, requests):
        replayed = await commands.run("replay", str(file), f"http://127.0.0.1:{port}")
    assert replayed.code == 1
    assert replayed.out == [f"line {n}, of {RECORDED['at']}, 2 bytes: 401" for n in (1, 2)]
    assert len(requests) == 2


async def test_file_without_deliveries_is_a_failure(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    replayed = await commands.run("replay", str(file), "http://127.0.0.1:1")
    assert (replayed.code, replayed.err) == (1, [f"error: {file} holds no delivery"])


@pytest.mark.parametrize(("name", "reason"), [("missing/f", "No such file or directory"), (".", "")])
async def test_unusable_file_is_named(name: str, reason: str, commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / name
    replayed = await commands.run("replay", str(file), "http://127.0.0.1:1")
    recorded = await commands.run("record", str(file))
    assert (replayed.code, recorded.code) == (1, 1)
    assert replayed.err == [f"error: cannot read {file}: {reason or 'Is a directory'}"]
    assert recorded.err == [f"error: cannot write {file}: {reason or 'not a regular file'}"]
