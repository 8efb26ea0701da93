"""Files down: whole under their name or not there at all, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import secrets
import socket
import stat
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_rig import HEIC, JPEG, NOW, PNG, WEBP, Rig, everything_said, glb, left_in, rig

from avaturn_async import (
    AvaturnConnectionError,
    AvaturnError,
    AvaturnTimeoutError,
    ClientClosedError,
    RetryPolicy,
    TransferError,
)
from avaturn_async._files import Part, safe_name
from avaturn_async._threads import in_thread

MODEL = glb()
OCTETS = "application/octet-stream"


@define
class Request:
    """A request, and the connection that it came on."""

    path: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    over: asyncio.Event

    def head(self, status: int = 200, **headers: Any) -> None:
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [
            f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None
        ]
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    async def serve(
        self,
        content: bytes,
        *,
        cut: int | None = None,
        ranges: bool = True,
        etag: str | None = '"v1"',
        content_type: str = OCTETS,
        **headers: Any,
    ) -> None:
        """What a file server does; ``cut`` bytes of the body are sent and then nothing."""
        start, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        current = etag or headers.get("Last_Modified")
        if ranges and wanted and self.headers.get("if-range") == current:
            start, status = int(wanted[1]), 206
            if start >= len(content):
                self.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
                return
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        self.head(status, Content_Length=len(body), Content_Type=content_type, ETag=etag, **headers)
        self.writer.write(body if cut is None else body[:cut])
        await self.writer.drain()


Step = Callable[[Request], Awaitable[None]]


@define
class Server:
    """Answers each request by the next step; the last one stays."""

    steps: list[Step]
    url: str = ""
    requests: list[Request] = field(factory=list[Request])
    _over: asyncio.Event = field(factory=asyncio.Event)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            request = Request(head[0].split(" ")[1], headers, writer, self._over)
            self.requests.append(request)
            await self.steps[min(len(self.requests), len(self.steps)) - 1](request)
        writer.close()


@asynccontextmanager
async def serve(*steps: Step) -> AsyncIterator[Server]:
    made = Server(list(steps))
    server = await asyncio.start_server(made._handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/export.glb?key=SECRETSECRET"
    try:
        yield made
    finally:
        made._over.set()
        server.close()
        await server.wait_closed()


def file(content: bytes = MODEL, **how: Any) -> Step:
    return lambda request: request.serve(content, **how)


def status(code: int, **headers: Any) -> Step:
    async def step(request: Request) -> None:
        request.head(code, Content_Length=2, **headers)
        request.writer.write(b"no")

    return step


def raw(content: bytes) -> Step:
    async def step(request: Request) -> None:
        request.writer.write(content)

    return step


def stalled(content: bytes = b"") -> Step:
    async def step(request: Request) -> None:
        request.writer.write(content)
        await request.over.wait()

    return step


async def reset(request: Request) -> None:
    request.writer.transport.abort()


def unguarded(**options: Any) -> contextlib.AbstractAsyncContextManager[Rig]:
    return rig(allow_private_urls=True, **options)


async def test_a_file_arrives_whole_under_its_name(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    async with serve(file()) as server, unguarded() as made:
        path = await made.transfers.download(
            server.url, tmp_path / "me.glb", on_progress=lambda *at: seen.append(at)
        )
    assert path == tmp_path / "me.glb"
    assert path.read_bytes() == MODEL
    assert left_in(tmp_path) == ["me.glb"]
    assert seen[-1] == (1000, 1000)


async def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    async with serve(file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path / "me.glb")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


async def test_an_old_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "me.glb"
    path.write_bytes(b"old")
    async with serve(file(cut=500, etag=None)) as server, unguarded() as made:
        with pytest.raises(TransferError, match="cut after 500 bytes of 1000"):
            await made.transfers.download(server.url, path)
        assert path.read_bytes() == b"old"
        server.steps[:] = [file()]
        await made.transfers.download(server.url, str(path))
    assert path.read_bytes() == MODEL
    assert left_in(tmp_path) == ["me.glb"]


async def test_a_link_at_the_destination_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / "me.glb").symlink_to(other)
    async with serve(file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path / "me.glb")
    assert not path.is_symlink()
    assert other.read_bytes() == b"precious"


async def test_a_relative_destination_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with serve(file()) as server, unguarded() as made:
        assert await made.transfers.download(server.url, "me.glb") == Path("me.glb")
        assert await made.transfers.download(server.url, ".") == Path("export.glb")
    assert left_in(tmp_path) == ["export.glb", "me.glb"]


async def test_bytes_are_on_the_disk_before_the_name_is_and_the_name_thereafter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(fd: int) -> None:
        what = os.fstat(fd)
        done.append("sync directory" if stat.S_ISDIR(what.st_mode) else f"sync {what.st_size}")
        fsync(fd)

    def logged_replace(self: Path, target: Path) -> Path:
        done.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    async with serve(file()) as server, unguarded() as made:
        await made.transfers.download(server.url, tmp_path)
    assert done == ["sync 1000", "replace", "sync directory"]


async def test_a_directory_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_directories(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    async with serve(file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("raw_path", "name"),
    [
        ("/a/model.glb", "model.glb"),
        ("/a/my%20model%20(1).glb", "my_model_1_.glb"),
        ("", "download"),
        ("/", "download"),
        ("/a/", "download"),
        ("/a/.", "download"),
        ("/a/..", "download"),
        ("/a/%2e%2e", "download"),
        ("/a/...", "download"),
        ("/a/%20", "download"),
        ("/a/..%2f..%2fetc%2fpasswd", "_.._etc_passwd"),
        ("/a/..%5c..%5cx.glb", "_.._x.glb"),
        ("/a/%252e%252e%252fx", "_2e_2e_2fx"),
        ("/a/C%3A%5Cx.glb", "C_x.glb"),
        ("/a/x.glb%00.png", "x.glb_.png"),
        ("/a/x.glb:stream", "x.glb_stream"),
        ("/a/.bashrc", "bashrc"),
        ("/a/-rf.glb", "rf.glb"),
        ("/a/x.glb.", "x.glb"),
        ("/a/x%0a.glb", "x_.glb"),
        ("/a/con", "_con"),
        ("/a/NUL.glb", "_NUL.glb"),
        ("/a/com1.tar.gz", "_com1.tar.gz"),
        ("/a/lpt9", "_lpt9"),
        ("/a/conin$", "_conin_"),
        ("/a/console.glb", "console.glb"),
        ("/a/%ff%fe.glb", "_.glb"),
        ("/a/%E2%80%AEblg.exe", "_blg.exe"),
        ("/a/" + "x" * 300 + ".glb", "x" * 116 + ".glb"),
        ("/a/x." + "y" * 300, "x." + "y" * 118),
        ("/a/" + "x" * 119 + "." + "y" * 50, "x" * 119),
    ],
)
def test_the_name_from_a_url_stays_in_its_directory(raw_path: str, name: str) -> None:
    assert safe_name(raw_path) == name


@given(st.text())
def test_no_name_from_a_url_is_a_path_hidden_or_long(raw_path: str) -> None:
    for text in (raw_path, "/" + "".join(f"%{byte:02x}" for byte in raw_path.encode(errors="replace"))):
        name = safe_name(text)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name)
        assert not name.endswith(".")


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/..%2f..%2fme.glb", "_.._me.glb"), ("/%2e%2e/", "download"), ("/a/../../me.glb", "me.glb")],
)
async def test_a_directory_takes_a_name_from_the_url(tmp_path: Path, path: str, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    async with serve(file()) as server, unguarded() as made:
        url = server.url.replace("/export.glb", path)
        assert await made.transfers.download(url, f"{inner}/") == inner / name
    assert (left_in(tmp_path), left_in(inner)) == (["inner"], [name])


async def test_a_destination_that_cannot_be_is_a_value_error_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "inner" / "export.glb").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    async with serve(file()) as server, unguarded() as made:
        for destination, words in (
            (tmp_path / "no" / "me.glb", "there is no directory"),
            (f"{tmp_path}/no/", "there is no directory"),
            (tmp_path / "file" / "me.glb", "there is no directory"),
            (tmp_path / "inner", "no file that could be replaced"),
            (tmp_path / "pipe", "no file that could be replaced"),
            ("/dev/null", "no file that could be replaced"),
        ):
            with pytest.raises(ValueError, match=words):
                await made.transfers.download(server.url, destination)
        assert server.requests == []
    assert left_in(tmp_path) == ["file", "inner", "pipe"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("timeout", value) for value in (0, -1, float("nan"), float("inf"), "5", True)),
        *(("max_bytes", value) for value in (0, -1, 1.5, "5", True)),
    ],
)
async def test_arguments_that_make_no_sense_are_value_errors_before_anything_is_sent(
    tmp_path: Path, option: str, value: Any
) -> None:
    async with serve(file()) as server, unguarded() as made:
        with pytest.raises(ValueError, match=option):
            await made.transfers.download(server.url, tmp_path, **{option: value})
        assert server.requests == []


async def test_a_cut_file_is_resumed_where_it_ended(tmp_path: Path) -> None:
    seen: list[int] = []
    cut = [file(cut=400), file(cut=100), file()]
    async with serve(*cut) as server, unguarded() as made:
        path = await made.transfers.download(
            server.url, tmp_path, on_progress=lambda done, _: seen.append(done)
        )
    assert path.read_bytes() == MODEL
    assert [r.headers.get("range") for r in server.requests] == [None, "bytes=400-", "bytes=500-"]
    assert {r.headers.get("if-range") for r in server.requests[1:]} == {'"v1"'}
    assert made.slept == [0.25, 0.5]
    assert seen == sorted(set(seen))


async def test_a_file_of_which_nothing_came_is_not_asked_for_in_parts(tmp_path: Path) -> None:
    async with serve(file(cut=0), file()) as server, unguarded() as made:
        await made.transfers.download(server.url, tmp_path)
    assert "range" not in server.requests[1].headers


async def test_a_date_that_is_old_enough_serves_in_place_of_an_etag(tmp_path: Path) -> None:
    modified = formatdate(NOW - 60, usegmt=True)
    how: dict[str, Any] = {"etag": None, "Last_Modified": modified, "Date": formatdate(NOW, usegmt=True)}
    async with serve(file(cut=400, **how), file(**how)) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL
    assert server.requests[1].headers["if-range"] == modified


@pytest.mark.parametrize(
    "how",
    [
        {"etag": None},
        {"etag": 'W/"v1"', "Last_Modified": formatdate(NOW - 60), "Date": formatdate(NOW)},
        {"etag": "v1"},
        {"etag": '"v1'},
        {"etag": '"v\xff"'},
        {"etag": None, "Last_Modified": formatdate(NOW), "Date": formatdate(NOW)},
        {"etag": None, "Last_Modified": formatdate(NOW - 60)},
        {"etag": None, "Last_Modified": "yesterday", "Date": formatdate(NOW)},
        {"etag": None, "Last_Modified": "Mon, 01 Jan 0001 00:00:00 -2359", "Date": formatdate(NOW)},
        {"etag": None, "Last_Modified": "Mon, 01 Jan 2001 00:00:00 (\xff)", "Date": formatdate(NOW)},
    ],
)
async def test_without_a_strong_validator_the_file_is_begun_again(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    async with serve(file(cut=400, **how), file(**how)) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL
    assert "range" not in server.requests[1].headers


async def test_a_server_without_ranges_begins_again(tmp_path: Path) -> None:
    seen: list[int] = []
    async with serve(file(cut=900), file(ranges=False)) as server, unguarded() as made:
        path = await made.transfers.download(
            server.url, tmp_path, on_progress=lambda done, _: seen.append(done)
        )
    assert path.read_bytes() == MODEL
    assert server.requests[1].headers["range"] == "bytes=900-"
    assert seen[-1] == 1000


async def test_a_file_that_changed_is_begun_again_and_never_mixed(tmp_path: Path) -> None:
    other = glb(700)
    async with serve(file(cut=900), file(other, etag='"v2"')) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == other
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("content_range", "etag"),
    [
        ("bytes 400-999/1000", '"v2"'),
        ("bytes 300-999/1000", '"v1"'),
        ("bytes 500-999/1000", '"v1"'),
        ("bytes 400-999/1001", '"v1"'),
        ("bytes 400-/1000", '"v1"'),
        ("bytes */1000", '"v1"'),
        ("bytes 400-999/" + "9" * 30, '"v1"'),
        ("bytes ٤٠٠-999/1000", '"v1"'),
        ("400-999/1000", '"v1"'),
        (None, '"v1"'),
    ],
)
async def test_a_resumption_that_does_not_fit_is_not_used(
    tmp_path: Path, content_range: str | None, etag: str
) -> None:
    async def odd(request: Request) -> None:
        fields = {"Content-Range": content_range, "ETag": etag, "Content-Length": "600"}
        lines = ["HTTP/1.1 206 Partial", *(f"{name}: {value}" for name, value in fields.items() if value)]
        request.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + bytes(600))

    async with serve(file(cut=400), odd, file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL
    assert "range" not in server.requests[2].headers
    assert made.slept == [0.25, 0.5]


@pytest.mark.parametrize("total", ["*", "1000"])
async def test_a_resumption_may_leave_out_the_etag_and_the_length(tmp_path: Path, total: str) -> None:
    async def rest(request: Request) -> None:
        request.head(206, Content_Range=f"bytes 400-999/{total}", Content_Length=600)
        request.writer.write(MODEL[400:])

    async with serve(file(cut=400), rest) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL


async def test_a_part_of_the_rest_is_followed_by_another(tmp_path: Path) -> None:
    async def some(request: Request) -> None:
        request.head(206, Content_Range="bytes 400-699/1000", Content_Length=300, ETag='"v1"')
        request.writer.write(MODEL[400:700])

    async with serve(file(cut=400), some, file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL
    assert server.requests[2].headers["range"] == "bytes=700-"


async def test_a_range_that_is_not_there_any_more_begins_again(tmp_path: Path) -> None:
    # Chunked, all of it, but without its end: what is missing is nothing, and nobody knows.
    whole = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "v1"\r\n\r\n3e8\r\n' + MODEL + b"\r\n"
    async with serve(raw(whole), file(), file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL
    assert [r.headers.get("range") for r in server.requests] == [None, "bytes=1000-", None]


async def test_a_part_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    async def part(request: Request) -> None:
        request.head(206, Content_Range="bytes 0-9/1000", Content_Length=10)
        request.writer.write(MODEL[:10])

    async with serve(part) as server, unguarded() as made:
        with pytest.raises(TransferError, match="206"):
            await made.transfers.download(server.url, tmp_path)
    assert left_in(tmp_path) == []


async def test_a_file_of_unknown_length_is_taken_and_progress_ends_with_its_length(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + MODEL + b"\r\n0\r\n\r\n"
    async with serve(raw(chunked)) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path, on_progress=lambda *at: seen.append(at))
    assert path.read_bytes() == MODEL
    assert (seen[0][1], seen[-1]) == (None, (1000, 1000))


async def test_an_empty_file_is_one(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    async with serve(file(b"")) as server, unguarded() as made:
        url = server.url.replace("export.glb", "empty")
        path = await made.transfers.download(url, tmp_path, on_progress=lambda *at: seen.append(at))
    assert path.read_bytes() == b""
    assert seen == [(0, 0)]


CUTS = st.lists(st.integers(0, 1000), max_size=4)
SERVERS = st.fixed_dictionaries(
    {"ranges": st.booleans(), "etag": st.sampled_from(['"v1"', 'W/"v1"', None])},
)


@settings(max_examples=60, deadline=None)
@given(cuts=CUTS, how=SERVERS, changed_at=st.integers(0, 4))
def test_wherever_it_is_cut_the_file_ends_whole_or_not_there(
    cuts: list[int], how: dict[str, Any], changed_at: int
) -> None:
    new = glb(900)

    async def journey(directory: Path) -> None:
        def version(nth: int, cut: int | None) -> Step:
            if nth < changed_at:
                return file(cut=cut, **how)
            return file(new, cut=cut, **how | {"etag": how["etag"] and how["etag"].replace("1", "2")})

        steps = [version(nth, cut) for nth, cut in enumerate(cuts)]
        async with serve(*steps, version(len(cuts), None)) as server, unguarded() as made:
            try:
                path = await made.transfers.download(server.url, directory)
            except TransferError:
                assert len(made.slept) == 2
                assert left_in(directory) == []
            else:
                assert path.read_bytes() in (MODEL, new)
                assert left_in(directory) == ["export.glb"]

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(journey(Path(directory)))


@pytest.mark.parametrize("code", [403, 404, 410])
async def test_an_expired_url_is_an_error_that_says_to_ask_for_a_new_one(tmp_path: Path, code: int) -> None:
    async with serve(status(code)) as server, unguarded() as made:
        with pytest.raises(TransferError, match="ask for a new one") as caught:
            await made.transfers.download(server.url, tmp_path)
        assert len(server.requests) == 1
    assert caught.value.status == code
    assert (made.slept, left_in(tmp_path)) == ([], [])
    assert "SECRETSECRET" not in everything_said(caught.value)


async def test_a_url_that_expires_between_two_attempts_is_such_an_error(tmp_path: Path) -> None:
    async with serve(file(cut=400), status(403)) as server, unguarded() as made:
        with pytest.raises(TransferError, match="403: the URL has expired"):
            await made.transfers.download(server.url, tmp_path)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("code", [201, 202, 205, 300, 400, 401, 418, 500, 501])
async def test_another_status_is_an_error_at_once(tmp_path: Path, code: int) -> None:
    async with serve(status(code, Location="/x")) as server, unguarded() as made:
        with pytest.raises(TransferError, match=f"download from 127.0.0.1: {code}$") as caught:
            await made.transfers.download(server.url, tmp_path)
        assert len(server.requests) == 1
    assert caught.value.status == code
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_a_passing_status_is_tried_again(tmp_path: Path, code: int) -> None:
    async with serve(status(code), file(cut=400), file()) as server, unguarded() as made:
        path = await made.transfers.download(server.url, tmp_path)
    assert path.read_bytes() == MODEL
    assert made.slept == [0.25, 0.5]
    assert [r.headers.get("range") for r in server.requests] == [None, None, "bytes=400-"]


async def test_a_file_goes_on_after_a_passing_status_in_the_middle(tmp_path: Path) -> None:
    async with serve(file(cut=400), status(503), file()) as server, unguarded() as made:
        await made.transfers.download(server.url, tmp_path)
    assert server.requests[2].headers["range"] == "bytes=400-"


async def test_retry_after_is_sat_out_unless_it_is_too_long(tmp_path: Path) -> None:
    later = formatdate(NOW + 3, usegmt=True)
    steps = [status(429, Retry_After="2"), status(503, Retry_After=later), file()]
    async with serve(*steps) as server, unguarded() as made:
        await made.transfers.download(server.url, tmp_path)
        assert made.slept == [2.0, 3.0]
        server.steps[:] = [status(503, Retry_After="9")]
        with pytest.raises(TransferError, match="503"):
            await made.transfers.download(server.url, tmp_path)
    assert made.slept == [2.0, 3.0]


async def test_attempts_and_budget_of_the_policy_are_kept(tmp_path: Path) -> None:
    async with serve(file(cut=10, etag=None)) as server:
        for policy, times in ((RetryPolicy(attempts=1), 1), (RetryPolicy(attempts=5), 5)):
            server.requests.clear()
            async with unguarded(retry=policy) as made:
                with pytest.raises(TransferError):
                    await made.transfers.download(server.url, tmp_path)
            assert len(server.requests) == times
        async with unguarded(retry=RetryPolicy(attempts=9, budget=2.0)) as made:
            with pytest.raises(TransferError):
                await made.transfers.download(server.url, tmp_path)
        assert made.slept == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (reset, AvaturnConnectionError, "download from 127.0.0.1: "),
        (raw(b"no HTTP\r\n\r\n"), AvaturnConnectionError, "download from 127.0.0.1: "),
        (stalled(), AvaturnTimeoutError, "silence for 0.05 s"),
        (
            stalled(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"),
            AvaturnTimeoutError,
            "silence for 0.05 s",
        ),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"), TransferError, "cut after 4 bytes of 9"),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n1234"),
            TransferError,
            "cut after 4 bytes:",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1234\r\nzz\r\n"),
            AvaturnConnectionError,
            ": ",
        ),
    ],
)
async def test_how_it_ends_when_it_never_gets_better(
    tmp_path: Path, step: Step, kind: type[AvaturnError], words: str
) -> None:
    timeout = 0.05 if kind is AvaturnTimeoutError else 30.0
    async with serve(step) as server, unguarded() as made:
        with pytest.raises(kind) as caught:
            await made.transfers.download(server.url, tmp_path, timeout=timeout)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "SECRETSECRET" not in everything_said(caught.value)
    assert caught.value.__context__ is None
    assert made.slept == [0.25, 0.5]
    assert left_in(tmp_path) == []


async def test_a_host_that_does_not_shake_hands_is_a_timeout(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        async with unguarded(timeout=0.05, retry=RetryPolicy(attempts=1)) as made:
            with pytest.raises(AvaturnTimeoutError):
                await made.transfers.download(f"https://127.0.0.1:{listening.getsockname()[1]}/x", tmp_path)


async def test_a_slow_file_that_moves_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    here = asyncio.Event()

    async def trickle(request: Request) -> None:
        nonlocal passed
        request.head(200, Content_Length=1000)
        for at in range(0, 1000, 100):
            request.writer.write(MODEL[at : at + 100])
            await here.wait()
            here.clear()
            passed += 20.0

    async with serve(trickle) as server, unguarded(timeout=30.0) as made:
        path = await made.transfers.download(server.url, tmp_path, on_progress=lambda *_: here.set())
    assert path.read_bytes() == MODEL
    assert passed == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP"])
async def test_a_packed_answer_is_refused(tmp_path: Path, encoding: str) -> None:
    async with serve(file(Content_Encoding=encoding)) as server, unguarded() as made:
        with pytest.raises(TransferError, match="Content-Encoding"):
            await made.transfers.download(server.url, tmp_path)
        assert server.requests[0].headers["accept-encoding"] == "identity"
        server.steps[:] = [file(Content_Encoding="identity")]
        await made.transfers.download(server.url, tmp_path)


async def test_a_refusal_that_is_packed_is_still_that_refusal(tmp_path: Path) -> None:
    packed = {"Content_Encoding": "gzip"}
    async with serve(status(503, **packed), status(403, **packed)) as server, unguarded() as made:
        with pytest.raises(TransferError, match="403: the URL has expired") as caught:
            await made.transfers.download(server.url, tmp_path)
    assert caught.value.status == 403
    assert len(made.slept) == 1


@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_larger_than_max_bytes_is_refused(tmp_path: Path, *, declared: bool) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + MODEL + b"\r\n0\r\n\r\n"
    # The declared one stalls: nothing of its body is waited for.
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with serve(stalled(head) if declared else raw(chunked)) as server, unguarded() as made:
        with pytest.raises(TransferError, match="larger than max_bytes, 999"):
            await made.transfers.download(server.url, tmp_path, max_bytes=999)
        assert left_in(tmp_path) == []
        assert made.slept == []
        server.steps[:] = [file() if declared else raw(chunked)]
        await made.transfers.download(server.url, tmp_path, max_bytes=1000)


async def test_max_bytes_counts_what_came_before_a_cut(tmp_path: Path) -> None:
    async def rest(request: Request) -> None:
        request.head(206, Content_Range="bytes 400-999/*", Transfer_Encoding="chunked")
        request.writer.write(b"258\r\n" + MODEL[400:] + b"\r\n0\r\n\r\n")

    cut = (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "v1"\r\n\r\n190\r\n' + MODEL[:400] + b"\r\n"
    )
    async with serve(raw(cut), rest) as server, unguarded() as made:
        with pytest.raises(TransferError, match="larger than max_bytes"):
            await made.transfers.download(server.url, tmp_path, max_bytes=999)


HTML = b"<html>please log in</html>"


@pytest.mark.parametrize(
    ("name", "destination", "content_type", "content", "words"),
    [
        ("a.glb", "x", OCTETS, HTML, "it is no GLB"),
        ("a.GLB", "x", OCTETS, HTML, "it is no GLB"),
        ("a", "x.glb", OCTETS, HTML, "it is no GLB"),
        ("a", "x", "model/gltf-binary", HTML, "it is no GLB"),
        ("a.glb", "x", OCTETS, b"", "it is no GLB"),
        ("a.glb", "x", OCTETS, b"glTF", "it is no GLB"),
        ("a.glb", "x", OCTETS, b"gltf" + MODEL[4:], "it is no GLB"),
        ("a.glb", "x", OCTETS, MODEL[:4] + b"\x01" + MODEL[5:], "GLB of version 1"),
        ("a.glb", "x", OCTETS, MODEL[:-1], "says 1000 bytes, it has 999"),
        ("a.glb", "x", OCTETS, MODEL + b"x", "says 1000 bytes, it has 1001"),
        ("a.jpg", "x", OCTETS, HTML, "it is no JPEG, PNG or WebP image"),
        ("a", "x.PNG", OCTETS, HTML, "no JPEG"),
        ("a", "x", "image/webp", HTML, "no JPEG"),
        ("a", "x", "IMAGE/JPEG; q=1", b"", "no JPEG"),
        ("a.glb", "x.glb", "image/png", MODEL, "no JPEG"),
        ("a.png", "x.glb", OCTETS, PNG, "no GLB"),
    ],
)
async def test_a_file_that_is_not_what_it_was_announced_as_is_refused(
    tmp_path: Path, name: str, destination: str, content_type: str, content: bytes, words: str
) -> None:
    async with serve(file(content, content_type=content_type)) as server, unguarded() as made:
        with pytest.raises(TransferError, match=words):
            await made.transfers.download(server.url.replace("export.glb", name), tmp_path / destination)
        assert len(server.requests) == 1
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "destination", "content_type", "content"),
    [
        ("a.glb", "x.glb", "model/gltf-binary", MODEL),
        ("a.glb", "x.glb", "text/html", MODEL),
        ("a.jpg", "x.jpeg", "image/jpeg", JPEG),
        ("a.png", "x.png", "image/png", PNG),
        ("a.webp", "x.webp", "image/webp", WEBP),
        ("a.jpg", "x.png", "image/webp", WEBP),
        ("a.heic", "x.avif", "image/avif", HEIC),
        ("a.txt", "x", "text/html", HTML),
        ("a", "x", OCTETS, b""),
    ],
)
async def test_a_file_that_is_what_it_was_announced_as_is_taken(
    tmp_path: Path, name: str, destination: str, content_type: str, content: bytes
) -> None:
    async with serve(file(content, content_type=content_type)) as server, unguarded() as made:
        path = await made.transfers.download(server.url.replace("export.glb", name), tmp_path / destination)
    assert path.read_bytes() == content


async def test_what_progress_raises_comes_out_as_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    for error in (ValueError("stop"), TimeoutError("mine"), ConnectionResetError("mine"), KeyError("stop")):

        def stop(*_: Any, error: Exception = error) -> None:
            raise error

        async with serve(file()) as server, unguarded() as made:
            with pytest.raises(type(error)) as caught:
                await made.transfers.download(server.url, tmp_path, on_progress=stop)
            assert len(server.requests) == 1
        assert caught.value is error
        assert error.__context__ is None
        assert left_in(tmp_path) == []


async def test_a_full_disk_is_its_own_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Part, "append", refuse)
    async with serve(file()) as server, unguarded() as made:
        with pytest.raises(OSError, match="No space left"):
            await made.transfers.download(server.url, tmp_path)
        assert len(server.requests) == 1
    assert left_in(tmp_path) == []


async def test_a_disk_that_is_full_when_the_file_is_closed_leaves_nothing(tmp_path: Path) -> None:
    class Full:
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    part = Part(tmp_path / "x")
    part.open()
    real = part._opened()
    part._file = Full()  # type: ignore[assignment]
    part.discard()
    real.close()
    assert left_in(tmp_path) == []


async def test_a_directory_that_may_not_be_written_is_an_error_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    async with serve(file()) as server, unguarded() as made:
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(PermissionError):
            await made.transfers.download(server.url, tmp_path)
        assert server.requests == []


async def test_the_directory_of_the_process_may_change_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    async with serve(file()) as server, unguarded() as made:
        await made.transfers.download(server.url, "me.glb", on_progress=lambda *_: os.chdir("inner"))
    assert left_in(tmp_path) == ["inner", "me.glb"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / ".avaturn-guessed.part").symlink_to(precious)
    part = Part(tmp_path / "x")
    with pytest.raises(FileExistsError):
        part.open()
    part.discard()
    assert left_in(tmp_path) == [".avaturn-guessed.part", "precious"]
    assert precious.read_bytes() == b"precious"


def test_a_part_is_written_out_before_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: sizes.append(os.fstat(fd).st_size))
    part = Part(tmp_path / "x")
    part.open()
    part.append([b"abc"])
    part.commit()
    assert sizes[0] == 3


def test_a_part_is_opened_before_it_is_used(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        Part(tmp_path / "x").append([])


@pytest.mark.parametrize("work", ["open", "append", "begin_again", "problem", "commit", "discard"])
async def test_a_download_cancelled_amid_work_on_the_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    loop = asyncio.get_running_loop()
    at_it, go_on = asyncio.Event(), threading.Event()
    real = getattr(Part, work)
    parts: list[Part] = []

    def slow(self: Part, *args: Any) -> Any:
        parts.append(self)
        loop.call_soon_threadsafe(at_it.set)
        go_on.wait(10)
        return real(self, *args)

    monkeypatch.setattr(Part, work, slow)
    async with serve(file(cut=400, etag=None), file()) as server, unguarded() as made:
        task = asyncio.create_task(made.transfers.download(server.url, tmp_path))
        await at_it.wait()
        for _ in range(3):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    # What was about to get its name got it, whole.
    assert left_in(tmp_path) == (["export.glb"] if work in ("commit", "discard") else [])
    assert parts[0]._opened().closed


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"])
async def test_a_download_cancelled_while_it_waits_leaves_nothing(tmp_path: Path, sent: bytes) -> None:
    asked = asyncio.Event()

    async def stall(request: Request) -> None:
        request.writer.write(sent)
        asked.set()
        await request.over.wait()

    async with serve(stall) as server, unguarded() as made:
        task = asyncio.create_task(made.transfers.download(server.url, tmp_path))
        await asked.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left_in(tmp_path) == []


async def test_work_that_fails_after_its_caller_was_cancelled_is_not_reported_as_lost() -> None:
    go_on = threading.Event()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail() -> None:
        go_on.wait(10)
        raise ValueError("too late")

    task = asyncio.create_task(in_thread(fail))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    # pytest.raises would keep the traceback, and with it what shall be collected.
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    del task
    await asyncio.sleep(0)  # what woke this test up holds the task until then
    gc.collect()
    assert reported == []


async def test_many_downloads_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    async with serve(file()) as server, unguarded() as made:
        paths = await asyncio.gather(
            *(made.transfers.download(server.url, tmp_path / f"{n % 20}.glb") for n in range(150))
        )
    assert all(path.read_bytes() == MODEL for path in paths)
    assert len(left_in(tmp_path)) == 20


async def test_no_download_waits_for_another_to_end(tmp_path: Path) -> None:
    everybody = asyncio.Event()

    async def stall(request: Request) -> None:
        if len(server.requests) == 101:
            everybody.set()
        await request.over.wait()

    async with serve(stall) as server, unguarded() as made:
        tasks = [
            asyncio.create_task(made.transfers.download(server.url, tmp_path / f"{n}.glb"))
            for n in range(101)
        ]
        await everybody.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert left_in(tmp_path) == []


async def test_a_large_download_needs_little_memory(tmp_path: Path) -> None:
    size, piece = 64 << 20, bytes(1 << 16)

    async def large(request: Request) -> None:
        request.head(200, Content_Length=size)
        for _ in range(0, size, len(piece)):
            request.writer.write(piece)
            await request.writer.drain()

    async with serve(large) as server, unguarded() as made:
        tracemalloc.start()
        try:
            path = await made.transfers.download(f"{server.url}&x".replace(".glb", ""), tmp_path / "large")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert path.stat().st_size == size
    assert peak < 10 << 20


async def test_a_client_closed_in_the_middle_ends_the_download(tmp_path: Path) -> None:
    async with (
        serve(stalled(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234")) as server,
        unguarded() as made,
    ):
        here = asyncio.Event()
        task = asyncio.create_task(
            made.transfers.download(server.url, tmp_path, on_progress=lambda *_: here.set())
        )
        await here.wait()
        await made.transfers.close()
        with pytest.raises(ClientClosedError):
            await task
    assert left_in(tmp_path) == []
