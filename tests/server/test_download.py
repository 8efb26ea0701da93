"""Downloads: complete under their name or not there at all, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted_server import Connection, Step, chunked, file, hang_up, reset, response, stall_after, stall_head
from support.transfer_rig import HEIC, JPEG, NOW, PNG, SECRET, WEBP, get_all_text, glb, list_names, serving

from avaturn_async import (
    AvaturnClient,
    AvaturnConnectionError,
    AvaturnError,
    AvaturnTimeoutError,
    ClientClosedError,
    RetryPolicy,
    TransferError,
)
from avaturn_async.transfers.partial_file import PartialFile, get_safe_name
from avaturn_async.transfers.session import FileThreads

MODEL = glb()
OCTETS = "application/octet-stream"
PART = response(200, raw=b"1234", Content_Length="9")


async def test_file_arrives_complete_with_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    (tmp_path / "usual").touch()
    async with serving(file(MODEL)) as made:
        path = await made.download(tmp_path / "me.glb", on_progress=lambda *at: seen.append(at))
        # A kept connection could be dead when photos are sent, which happens only once.
        assert made.requests[0].headers["Connection"] == "close"
        assert made.requests[0].headers["Accept-Encoding"] == "identity"
    assert path == tmp_path / "me.glb"
    assert path.read_bytes() == MODEL
    assert list_names(tmp_path) == ["me.glb", "usual"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert seen[-1] == (1000, 1000)


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o666])
async def test_old_file_is_replaced_only_by_a_complete_one_and_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "me.glb"
    path.write_bytes(b"old")
    path.chmod(mode)
    # One attempt: a second one would wait for a thread while the connection ends.
    async with serving(file(MODEL, cut=500, etag=None), retry=RetryPolicy(attempts=1)) as made:
        with pytest.raises(TransferError, match="interrupted after 500 bytes of 1000"):
            await made.download(path)
        assert path.read_bytes() == b"old"
    async with serving(file(MODEL)) as made:
        await made.download(str(path))
    assert path.read_bytes() == MODEL
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list_names(tmp_path) == ["me.glb"]


@pytest.mark.parametrize("exists", [True, False])
async def test_link_at_the_destination_is_written_through_to_its_target(tmp_path: Path, *, exists: bool) -> None:
    target = tmp_path / "real" / "model.glb"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    (tmp_path / "link.glb").symlink_to(Path("real") / "model.glb")
    async with serving(file(MODEL)) as made:
        assert await made.download(tmp_path / "link.glb") == tmp_path / "link.glb"
    assert (tmp_path / "link.glb").is_symlink()
    assert target.read_bytes() == MODEL
    assert list_names(target.parent) == ["model.glb"]


async def test_relative_destination_stays_where_it_was_when_the_process_changes_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    async with serving(file(MODEL)) as made:
        assert await made.download(".") == Path("export.glb")
        assert await made.download("me.glb", on_progress=lambda *_: os.chdir("inner")) == Path("me.glb")
    assert list_names(tmp_path) == ["export.glb", "inner", "me.glb"]


@pytest.mark.parametrize("directory_can_be_synced", [True, False])
async def test_bytes_are_on_the_disk_before_the_name_and_the_name_thereafter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, directory_can_be_synced: bool
) -> None:
    done: list[str] = []
    replace = Path.replace

    def logged_fsync(fd: int) -> None:
        found = os.fstat(fd)
        done.append("sync directory" if stat.S_ISDIR(found.st_mode) else f"sync {found.st_size}")
        if stat.S_ISDIR(found.st_mode) and not directory_can_be_synced:
            raise OSError(22, "Invalid argument")

    def logged_replace(self: Path, target: Path) -> Path:
        done.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    async with serving(file(MODEL)) as made:
        await made.download(tmp_path)
    assert done == ["sync 1000", "replace", "sync directory"]


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
def test_name_from_a_url_is_safe(raw_path: str, name: str) -> None:
    assert get_safe_name(raw_path) == name


@given(st.text())
def test_name_from_any_url_is_not_a_path_hidden_or_long(raw_path: str) -> None:
    for text in (raw_path, "/" + "".join(f"%{byte:02x}" for byte in raw_path.encode(errors="replace"))):
        name = get_safe_name(text)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", name)
        assert not name.endswith(".")


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/..%2f..%2fme.glb", "_.._me.glb"), ("/%2e%2e/", "download"), ("/a/../../me.glb", "me.glb")],
)
async def test_file_in_a_directory_gets_its_name_from_the_url(tmp_path: Path, path: str, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    async with serving(file(MODEL)) as made:
        assert await made.download(f"{inner}/", path) == inner / name
    assert (list_names(tmp_path), list_names(inner)) == (["inner"], [name])


@contextmanager
def read_only_directory() -> Iterator[Path]:
    """A directory that this process cannot write into inside of the block, also if root runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o555)
        is_root = os.getuid() == 0
        if is_root:
            os.setresuid(65_534, 65_534, 0)
        try:
            yield directory
        finally:
            if is_root:
                os.setresuid(0, 0, 0)
            directory.chmod(0o755)


async def test_directory_that_is_not_writable_is_a_value_error_before_a_request() -> None:
    async with serving(file(MODEL)) as made:
        with read_only_directory() as directory:
            with pytest.raises(ValueError, match=f"destination: the directory '{directory}' is not writable"):
                await made.download(directory / "me.glb")
            with pytest.raises(ValueError, match="is not writable"):
                await made.download(directory)
        assert made.requests == []


async def test_destination_that_cannot_be_written_is_a_value_error_before_a_request(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "inner" / "export.glb").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to_missing").symlink_to(tmp_path / "missing" / "x")
    before = list_names(tmp_path)
    async with serving(file(MODEL)) as made:
        for destination, words in (
            (tmp_path / "no" / "me.glb", "there is no directory"),
            (f"{tmp_path}/no/", "there is no directory"),
            (tmp_path / "file" / "me.glb", "there is no directory"),
            (tmp_path / "to_missing", "there is no directory"),
            (tmp_path / "inner", "no file that could be replaced"),
            (tmp_path / "pipe", "no file that could be replaced"),
            ("/dev/null", "no file that could be replaced"),
            (tmp_path / ("x" * 256), "File name too long"),
            (tmp_path / ("\u00e9" * 130), "File name too long"),
            (tmp_path / "loop", "symbolic links"),
        ):
            with pytest.raises(ValueError, match=words):
                await made.download(destination)
        assert made.requests == []
    assert list_names(tmp_path) == before


MOUNTED = """
import asyncio, subprocess, sys
from pathlib import Path
from avaturn_async import AvaturnClient
folder = Path(sys.argv[1])
done = subprocess.run(["mount", "--bind", folder / "source", folder / "mounted file.glb"], capture_output=True)
if done.returncode:
    sys.exit(77)
async def main():
    async with AvaturnClient("token") as client:
        await client.download("https://files.invalid/a.glb", folder / "mounted file.glb")
try:
    asyncio.run(main())
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="bind mounts are Linux's")
def test_mounted_file_is_refused_before_the_download(tmp_path: Path) -> None:
    """A rename onto it fails with EBUSY, after the whole download. A mount namespace keeps it off this machine."""
    (tmp_path / "source").touch()
    (tmp_path / "mounted file.glb").touch()
    unshare = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", MOUNTED, str(tmp_path)]
    try:
        done = subprocess.run(unshare, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip("this machine allows no mount namespaces")
    assert "is a mount point" in done.stdout


async def test_mount_point_is_refused_and_a_file_is_written_without_a_table_of_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.glb"
    target.touch()
    async with serving(file(MODEL)) as made:
        with monkeypatch.context() as patched:
            patched.setattr("os.path.ismount", lambda path: Path(path) == target)
            with pytest.raises(ValueError, match="mount point: mount its directory"):
                await made.download(target)
        assert made.requests == []
        with monkeypatch.context() as patched:
            real = Path.read_bytes
            patched.setattr(Path, "read_bytes", lambda path: real(path if path == target else tmp_path / "none"))
            await made.download(target)
    assert target.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("timeout", value) for value in (0, -1, float("nan"), float("inf"), "5", True)),
        *(("max_bytes", value) for value in (0, -1, 1.5, "5", True)),
    ],
)
async def test_invalid_option_is_refused_before_a_request(tmp_path: Path, option: str, value: Any) -> None:
    async with serving(file(MODEL)) as made, AvaturnClient("token", allow_private_urls=True) as client:
        with pytest.raises(ValueError, match=option):
            await made.download(tmp_path, **{option: value})
        with pytest.raises(ValueError, match=option):
            async with client.open_download("https://files.test/", **{option: value}):
                pass
        assert made.requests == []


class AsyncCallable:
    async def __call__(self, done: int, total: int | None) -> None:
        """Return a coroutine."""


async def async_function(done: int, total: int | None) -> None:
    """Return a coroutine."""


@pytest.mark.parametrize("callback", [async_function, AsyncCallable(), "text"])
async def test_on_progress_must_be_a_plain_function(callback: Any, tmp_path: Path) -> None:
    async with serving(file(MODEL)) as made:
        with pytest.raises(TypeError, match="on_progress must be"):
            await made.download(tmp_path, on_progress=callback)
        with pytest.raises(TypeError, match="on_progress must be"):
            await made.upload(on_progress=callback)
        assert made.requests == []


async def test_interrupted_file_is_resumed_where_it_ended(tmp_path: Path) -> None:
    seen: list[int] = []
    async with serving(
        file(MODEL, cut=400), response(503), file(MODEL, cut=100), file(MODEL), retry=RetryPolicy(attempts=4)
    ) as made:
        path = await made.download(tmp_path, on_progress=lambda done, _: seen.append(done))
        assert path.read_bytes() == MODEL
        assert made.ranges == [None, "bytes=400-", "bytes=400-", "bytes=500-"]
        assert {request.headers.get("If-Range") for request in made.requests[1:]} == {'"v1"'}
    assert made.slept == [0.25, 0.5, 1.0]
    assert seen == sorted(set(seen))


async def test_file_of_which_nothing_arrived_is_requested_whole(tmp_path: Path) -> None:
    async with serving(file(MODEL, cut=0), file(MODEL)) as made:
        await made.download(tmp_path)
        assert made.ranges == [None, None]


DATED = {"etag": None, "Last_Modified": formatdate(NOW - 60, usegmt=True), "Date": formatdate(NOW, usegmt=True)}


@pytest.mark.parametrize(
    ("how", "resumed"),
    [
        ({}, True),
        (DATED, True),
        ({"etag": None}, False),
        (DATED | {"etag": 'W/"v1"'}, False),
        ({"etag": "v1"}, False),
        ({"etag": '"v1'}, False),
        ({"etag": '"v\xff"'}, False),
        (DATED | {"Last_Modified": DATED["Date"]}, False),
        (DATED | {"Date": None}, False),
        (DATED | {"Date": formatdate(NOW)}, False),  # without a time zone, unlike Last-Modified
        *(
            (DATED | {"Last_Modified": date}, False)
            for date in ("yesterday", f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00 (\xff)")
        ),
    ],
)
async def test_file_is_resumed_only_with_a_strong_validator(
    tmp_path: Path, how: dict[str, Any], *, resumed: bool
) -> None:
    async with serving(file(MODEL, cut=400, **how), file(MODEL, **how)) as made:
        path = await made.download(tmp_path)
        assert path.read_bytes() == MODEL
        assert made.ranges == [None, "bytes=400-" if resumed else None]


@pytest.mark.parametrize(
    ("again", "content"), [(file(MODEL, ranges=False), MODEL), (file(glb(700), etag='"v2"'), glb(700))]
)
async def test_file_begins_again_if_the_server_cannot_resume_it(tmp_path: Path, again: Step, content: bytes) -> None:
    seen: list[int] = []
    async with serving(file(MODEL, cut=900), again) as made:
        path = await made.download(tmp_path, on_progress=lambda done, _: seen.append(done))
        assert made.ranges == [None, "bytes=900-"]
    assert path.read_bytes() == content
    assert seen[-1] == len(content)


async def test_file_that_begins_again_after_a_part_was_written_has_no_byte_of_that(tmp_path: Path) -> None:
    written = asyncio.Event()

    async def cut_late(connection: Connection) -> None:
        connection.send_head(200, Content_Length=5 << 20, ETag='"v1"')
        connection.writer.write(glb(5 << 20)[: 3 << 20])
        await written.wait()

    def on_progress(done: int, _: int | None) -> None:
        if done >= 2 << 20:
            written.set()

    async with serving(cut_late, file(MODEL, etag='"v2"')) as made:
        path = await made.download(tmp_path, on_progress=on_progress)
    assert path.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("content_range", "etag"),
    [
        ("bytes 400-999/1000", '"v2"'),
        *(
            (content_range, '"v1"')
            for content_range in (
                *("bytes 300-999/1000", "bytes 500-999/1000", "bytes 400-999/1001", "bytes 400-/1000", "bytes */1000"),
                *("bytes 400-999/" + "9" * 30, "bytes \xb2-999/1000", "400-999/1000", None),
            )
        ),
    ],
)
async def test_206_that_does_not_continue_the_file_is_not_used(
    tmp_path: Path, content_range: str | None, etag: str
) -> None:
    async def send_other(connection: Connection) -> None:
        connection.send_head(206, Content_Range=content_range, ETag=etag, Content_Length=600)
        connection.writer.write(bytes(600))

    async with serving(file(MODEL, cut=400), send_other, file(MODEL)) as made:
        path = await made.download(tmp_path)
        assert path.read_bytes() == MODEL
        assert made.ranges == [None, "bytes=400-", None]
    assert made.slept == [0.25, 0.5]


@pytest.mark.parametrize("total", ["*", "1000"])
async def test_206_may_leave_out_the_etag_and_the_length(tmp_path: Path, total: str) -> None:
    rest = response(206, raw=MODEL[400:], Content_Range=f"bytes 400-999/{total}")
    async with serving(file(MODEL, cut=400), rest) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL


async def test_206_with_less_than_the_rest_is_continued(tmp_path: Path) -> None:
    some = response(206, raw=MODEL[400:700], Content_Range="bytes 400-699/1000", ETag='"v1"')
    async with serving(file(MODEL, cut=400), some, file(MODEL)) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL
        assert made.ranges == [None, "bytes=400-", "bytes=700-"]


async def test_416_begins_again(tmp_path: Path) -> None:
    # All bytes arrive, but not the end of the chunked body.
    async with serving(chunked(MODEL, end=b"", ETag='"v1"'), file(MODEL)) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL
        assert made.ranges == [None, "bytes=1000-", None]


async def test_200_with_a_part_of_the_file_is_not_the_whole_file(tmp_path: Path) -> None:
    """Some servers respond to Range with 200, Content-Range and only the rest."""
    part = response(200, raw=MODEL[400:], ETag='"v1"', Content_Range="bytes 400-999/1000")
    start = response(200, raw=MODEL[:400], ETag='"v1"', Content_Range="bytes 0-399/1000")
    cut = file(MODEL, cut=400)
    async with serving(cut, part, file(MODEL)) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL
        assert made.ranges == [None, "bytes=400-", None]
    for steps in ((cut, part), (part,), (start,)):
        async with serving(*steps) as made:
            with pytest.raises(TransferError, match="a part of the file as the whole"):
                await made.download(tmp_path / "never.bin")
    assert list_names(tmp_path) == ["export.glb"]


async def test_200_whose_content_range_covers_the_file_is_the_whole_file(tmp_path: Path) -> None:
    async with serving(response(200, raw=MODEL, Content_Range="bytes 0-999/1000")) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL


async def test_206_without_a_range_request_is_refused(tmp_path: Path) -> None:
    async with serving(response(206, raw=MODEL[:10], Content_Range="bytes 0-9/1000")) as made:
        with pytest.raises(TransferError, match="206"):
            await made.download(tmp_path)
    assert list_names(tmp_path) == []


@pytest.mark.parametrize(("step", "content", "total"), [(chunked(MODEL), MODEL, None), (file(b""), b"", 0)])
async def test_progress_ends_with_the_length_of_a_file_of_unknown_length_or_of_none(
    tmp_path: Path, step: Step, content: bytes, total: int | None
) -> None:
    seen: list[tuple[int, int | None]] = []
    async with serving(step) as made:
        path = await made.download(tmp_path, "/file", on_progress=lambda *at: seen.append(at))
    assert path.read_bytes() == content
    assert (seen[0][1], seen[-1]) == (total, (len(content), len(content)))


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 1000), max_size=4),
    how=st.fixed_dictionaries({"ranges": st.booleans(), "etag": st.sampled_from(['"v1"', 'W/"v1"', None])}),
    changed_at=st.integers(0, 4),
)
def test_interrupted_file_is_one_version_complete_or_not_there(
    cuts: list[int], how: dict[str, Any], changed_at: int
) -> None:
    new = glb(900)

    async def run(directory: Path) -> None:
        def version(nth: int, cut: int | None) -> Step:
            if nth < changed_at:
                return file(MODEL, cut=cut, **how)
            return file(new, cut=cut, **how | {"etag": how["etag"] and how["etag"].replace("1", "2")})

        steps = [version(nth, cut) for nth, cut in enumerate(cuts)]
        async with serving(*steps, version(len(cuts), None)) as made:
            try:
                path = await made.download(directory)
            except TransferError:
                assert len(made.slept) == 2
                assert list_names(directory) == []
            else:
                assert path.read_bytes() in (MODEL, new)
                assert list_names(directory) == ["export.glb"]

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))


@pytest.mark.parametrize("code", [201, 202, 205, 300, 400, 401, 403, 404, 410, 418, 500, 501])
@pytest.mark.parametrize("before", [(), (file(MODEL, cut=400),)], ids=["at first", "when resumed"])
async def test_status_that_would_come_again_is_raised_at_once(tmp_path: Path, code: int, before: tuple[Step]) -> None:
    async with serving(*before, response(code, Location="/x", Content_Encoding="gzip")) as made:
        with pytest.raises(TransferError, match=f"download from 127.0.0.1: {code}") as caught:
            await made.download(tmp_path)
    assert str(caught.value).endswith("URL has expired or never existed: request a new one") == (
        code in (403, 404, 410)
    )
    assert caught.value.status == code
    assert SECRET not in get_all_text(caught.value)
    assert (len(made.slept), list_names(tmp_path)) == (len(before), [])


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_temporary_status_is_tried_again(tmp_path: Path, code: int) -> None:
    async with serving(response(code, Content_Encoding="gzip"), file(MODEL)) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL
    assert made.slept == [0.25]


async def test_retry_after_is_respected_unless_it_is_beyond_the_cap(tmp_path: Path) -> None:
    later = formatdate(NOW + 3, usegmt=True)
    async with serving(response(429, Retry_After="2"), response(503, Retry_After=later), file(MODEL)) as made:
        await made.download(tmp_path)
    assert made.slept == [2.0, 3.0]
    async with serving(response(503, Retry_After="9")) as made:
        with pytest.raises(TransferError, match="503"):
            await made.download(tmp_path)
    assert made.slept == []


@pytest.mark.parametrize(
    ("policy", "slept"),
    [
        (RetryPolicy(attempts=1), []),
        (RetryPolicy(attempts=5), [0.25, 0.5, 1.0, 2.0]),
        (RetryPolicy(attempts=9, budget=2.0), [0.25, 0.5, 1.0]),
    ],
)
async def test_retry_policy_bounds_the_attempts(tmp_path: Path, policy: RetryPolicy, slept: list[float]) -> None:
    async with serving(file(MODEL, cut=10, etag=None), retry=policy) as made:
        with pytest.raises(TransferError):
            await made.download(tmp_path)
        assert len(made.requests) == len(slept) + 1
    assert made.slept == slept


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (reset, AvaturnConnectionError, "download from 127.0.0.1: "),
        (hang_up, AvaturnConnectionError, "download from 127.0.0.1: ServerDisconnectedError"),
        (b"no HTTP\r\n\r\n", AvaturnConnectionError, "download from 127.0.0.1: "),
        (stall_head, AvaturnTimeoutError, "no progress for 0.05 s"),
        (stall_after(PART), AvaturnTimeoutError, "no progress for 0.05 s"),
        (PART, TransferError, "interrupted after 4 bytes of 9"),
        (chunked(b"1234", end=b"9\r\n1"), TransferError, "interrupted after 5 bytes:"),
        (chunked(b"1234", end=b"zz\r\n"), AvaturnConnectionError, ": "),
    ],
)
async def test_lasting_failure_is_raised_after_the_attempts(
    tmp_path: Path, step: Step, kind: type[AvaturnError], words: str
) -> None:
    timeout = 0.05 if kind is AvaturnTimeoutError else 30.0
    async with serving(step) as made:
        with pytest.raises(kind) as caught:
            await made.download(tmp_path, timeout=timeout)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert SECRET not in get_all_text(caught.value)
    assert caught.value.__context__ is None
    assert made.slept == [0.25, 0.5]
    assert list_names(tmp_path) == []


async def test_slow_file_that_makes_progress_does_not_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    arrived = asyncio.Event()

    async def send_slowly(connection: Connection) -> None:
        nonlocal passed
        connection.send_head(200, Content_Length=1000)
        for at in range(0, 1000, 100):
            connection.writer.write(MODEL[at : at + 100])
            await arrived.wait()
            arrived.clear()
            passed += 20.0

    async with serving(send_slowly, timeout=30.0) as made:
        path = await made.download(tmp_path, on_progress=lambda *_: arrived.set())
    assert path.read_bytes() == MODEL
    assert passed == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "GZIP", "unknown"])
async def test_compressed_file_is_refused(tmp_path: Path, encoding: str) -> None:
    async with serving(file(MODEL, Content_Encoding=encoding)) as made:
        with pytest.raises(TransferError, match="compressed"):
            await made.download(tmp_path)


@pytest.mark.parametrize("encoding", ["", " ", "identity", "Identity", ",", "identity, identity"])
async def test_empty_content_encoding_means_identity(encoding: str, tmp_path: Path) -> None:
    """Amazon S3 sends an empty one."""
    async with serving(file(MODEL, Content_Encoding=encoding)) as made:
        assert (await made.download(tmp_path)).read_bytes() == MODEL


@pytest.mark.parametrize(
    ("steps", "at_the_limit"),
    [
        # Nothing of the body is waited for.
        ((stall_after(response(200, raw=b"", Content_Length="1000")),), (file(MODEL),)),
        ((chunked(MODEL),), (chunked(MODEL),)),
        (
            (
                chunked(MODEL[:400], end=b"", ETag='"v1"'),
                response(206, raw=MODEL[400:], Content_Range="bytes 400-999/*"),
            ),
            (file(MODEL, cut=400), file(MODEL)),
        ),
    ],
    ids=["declared", "chunked", "resumed"],
)
async def test_file_larger_than_max_bytes_is_refused(
    tmp_path: Path, steps: tuple[Step, ...], at_the_limit: tuple[Step, ...]
) -> None:
    async with serving(*steps) as made:
        with pytest.raises(TransferError, match="larger than max_bytes, 999"):
            await made.download(tmp_path, max_bytes=999)
    assert list_names(tmp_path) == []
    assert len(made.slept) == len(steps) - 1
    async with serving(*at_the_limit) as made:
        await made.download(tmp_path, max_bytes=1000)


HTML = b"<html>please log in</html>"


@pytest.mark.parametrize(
    ("name", "destination", "content_type", "content", "words"),
    [
        ("a.glb", "x", OCTETS, HTML, "it is not a GLB"),
        ("a.GLB", "x", OCTETS, HTML, "it is not a GLB"),
        ("a", "x.glb", OCTETS, HTML, "it is not a GLB"),
        ("a", "x", "model/gltf-binary", HTML, "it is not a GLB"),
        ("a.glb", "x", OCTETS, b"", "it is not a GLB"),
        ("a.glb", "x", OCTETS, b"glTF", "it is not a GLB"),
        ("a.glb", "x", OCTETS, b"gltf" + MODEL[4:], "it is not a GLB"),
        ("a.glb", "x", OCTETS, MODEL[:4] + b"\x01" + MODEL[5:], "GLB of version 1"),
        ("a.glb", "x", OCTETS, MODEL[:-1], "says 1000 bytes, it has 999"),
        ("a.glb", "x", OCTETS, MODEL + b"x", "says 1000 bytes, it has 1001"),
        ("a.jpg", "x", OCTETS, HTML, "it is not a JPEG, PNG or WebP image"),
        ("a", "x.PNG", OCTETS, HTML, "not a JPEG"),
        ("a", "x", "image/webp", HTML, "not a JPEG"),
        ("a", "x", "IMAGE/JPEG; q=1", b"", "not a JPEG"),
        ("a.glb", "x.glb", "image/png", MODEL, "not a JPEG"),
        ("a.png", "x.glb", OCTETS, PNG, "not a GLB"),
    ],
)
async def test_file_of_another_type_than_declared_is_refused(
    tmp_path: Path, name: str, destination: str, content_type: str, content: bytes, words: str
) -> None:
    async with serving(file(content, Content_Type=content_type)) as made:
        with pytest.raises(TransferError, match=words):
            await made.download(tmp_path / destination, f"/{name}")
        assert len(made.requests) == 1
    assert list_names(tmp_path) == []


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
    ],
)
async def test_file_of_its_declared_type_is_accepted(
    tmp_path: Path, name: str, destination: str, content_type: str, content: bytes
) -> None:
    async with serving(file(content, Content_Type=content_type)) as made:
        path = await made.download(tmp_path / destination, f"/{name}")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "error", [ValueError("stop"), TimeoutError("mine"), ConnectionResetError("mine"), KeyError("x")]
)
async def test_exception_of_on_progress_is_raised_as_it_is_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise error

    async with serving(file(MODEL)) as made:
        with pytest.raises(type(error)) as caught:
            await made.download(tmp_path, on_progress=stop)
        assert len(made.requests) == 1
    assert caught.value is error
    assert error.__context__ is None
    assert list_names(tmp_path) == []


def open_full_device(path: Path, *_: Any) -> Any:
    """Create a file, and return one whose buffer cannot be written: /dev/full has no space."""
    path.touch()
    return open("/dev/full", "wb")  # noqa: PTH123 - in place of Path.open()


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [(file(MODEL), OSError, "No space left"), (PART, TransferError, "interrupted after 4 bytes of 9")],
    ids=["at the end", "after another error"],
)
async def test_full_disk_leaves_nothing_and_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Step, kind: type[Exception], words: str
) -> None:
    monkeypatch.setattr(Path, "open", open_full_device)
    async with serving(step, retry=RetryPolicy(attempts=1)) as made:
        with pytest.raises(kind, match=words):
            await made.download(tmp_path)
        assert len(made.requests) == 1
    assert list_names(tmp_path) == []


async def test_directory_without_write_permission_is_an_error_before_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    async with serving(file(MODEL)) as made:
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(PermissionError):
            await made.download(tmp_path)
        assert made.requests == []


async def test_link_in_the_place_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    (tmp_path / ".avaturn-guessed.part").symlink_to(precious)
    async with serving(file(MODEL)) as made:
        with pytest.raises(FileExistsError):
            await made.download(tmp_path / "x")
    assert list_names(tmp_path) == [".avaturn-guessed.part", "precious"]
    assert precious.read_bytes() == b"precious"


def test_partial_file_must_be_open_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="open"):
        PartialFile(tmp_path / "x").append([])


@pytest.mark.parametrize("work", ["open", "append", "truncate", "commit", "discard"])
async def test_download_cancelled_during_work_on_the_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    loop = asyncio.get_running_loop()
    begun, go_on = asyncio.Event(), threading.Event()
    real = getattr(PartialFile, work)

    def slow(self: PartialFile, *args: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return real(self, *args)

    monkeypatch.setattr(PartialFile, work, slow)
    async with serving(file(MODEL, cut=400, etag=None), file(MODEL)) as made:
        task = asyncio.create_task(made.download(tmp_path))
        await begun.wait()
        for _ in range(3):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    # A file that was about to get its name is complete.
    assert list_names(tmp_path) == (["export.glb"] if work in ("commit", "discard") else [])
    gc.collect()  # reports a file that is still open


@pytest.mark.parametrize("sent", [b"", PART])
async def test_download_cancelled_while_it_waits_leaves_nothing(tmp_path: Path, sent: bytes) -> None:
    requested = asyncio.Event()

    async def stall(connection: Connection) -> None:
        connection.writer.write(sent)
        requested.set()
        await connection.stall()

    async with serving(stall) as made:
        task = asyncio.create_task(made.download(tmp_path))
        await requested.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list_names(tmp_path) == []


async def test_error_of_a_thread_whose_caller_was_cancelled_is_not_logged_by_asyncio() -> None:
    go_on = threading.Event()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail() -> None:
        go_on.wait(10)
        raise ValueError("too late")

    threads = FileThreads()
    task = asyncio.create_task(threads.run(fail))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    # The exception of `await task` would keep a reference to the future.
    await asyncio.wait((task,))
    assert task.cancelled()
    del task
    await asyncio.sleep(0)  # the callback of asyncio.wait() holds the task until then
    gc.collect()
    assert reported == []
    threads.close()


async def test_cancelled_work_that_waits_for_a_thread_ends_at_once_and_is_not_done() -> None:
    threads = FileThreads()
    release = threading.Event()
    called: list[int] = []
    busy = [asyncio.create_task(threads.run(release.wait, 20)) for _ in range(8)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(threads.run(called.append, 1))
    needed = asyncio.create_task(threads.run_always(called.append, 2))
    await asyncio.sleep(0)
    waiting.cancel()
    needed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not needed.done()
    release.set()
    await asyncio.gather(*busy)
    with pytest.raises(asyncio.CancelledError):
        await needed
    assert called == [2]
    threads.close()


async def test_timeout_holds_while_the_default_executor_is_busy(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    busy = [loop.run_in_executor(None, release.wait, 20) for _ in range((os.cpu_count() or 1) + 5)]
    try:
        async with asyncio.timeout(5), serving(file(MODEL), retry=RetryPolicy(attempts=1)) as made:
            await made.download(tmp_path)
            # asyncio resolves the name in the default executor; uvloop does not, and the connection is refused.
            with pytest.raises(AvaturnConnectionError):
                await made.download(tmp_path, "http://localhost:1/a.glb", timeout=0.05)
    finally:
        release.set()
        await asyncio.gather(*busy)


async def test_concurrent_downloads_are_independent(tmp_path: Path) -> None:
    everything = asyncio.Event()

    async def wait_for_all(connection: Connection) -> None:
        if len(made.requests) == 101:
            everything.set()
        await everything.wait()
        await file(MODEL)(connection)

    async with serving(wait_for_all) as made:
        paths = await asyncio.gather(*(made.download(tmp_path / f"{n % 20}.glb") for n in range(101)))
    assert all(path.read_bytes() == MODEL for path in paths)
    assert len(list_names(tmp_path)) == 20


async def test_large_download_needs_little_memory(tmp_path: Path) -> None:
    size, chunk = 64 << 20, bytes(1 << 16)

    async def send_large(connection: Connection) -> None:
        connection.send_head(200, Content_Length=size)
        for _ in range(0, size, len(chunk)):
            connection.writer.write(chunk)
            await connection.writer.drain()

    async with serving(send_large) as made:
        tracemalloc.start()
        try:
            path = await made.download(tmp_path / "large", "/large")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert path.stat().st_size == size
    assert peak < 10 << 20


async def test_close_of_the_client_ends_a_download_and_its_threads(tmp_path: Path) -> None:
    arrived = asyncio.Event()
    before = set(threading.enumerate())
    async with serving(stall_after(PART)) as made:
        task = asyncio.create_task(made.download(tmp_path, on_progress=lambda *_: arrived.set()))
        await arrived.wait()
        await made.session.close()
        with pytest.raises(ClientClosedError):
            await task
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
            assert not thread.is_alive(), thread
        with pytest.raises(ClientClosedError):
            await made.download(tmp_path)
    assert list_names(tmp_path) == []


FORKING = """
import asyncio, os, sys
from avaturn_async import AvaturnClient

url, folder = sys.argv[1:]
client = AvaturnClient("token", base_url=url)
asyncio.run(client.download(f"{url}/parent.glb", folder))
child = os.fork()
if not child:
    asyncio.run(client.download(f"{url}/child.glb", folder))
asyncio.run(client.close())
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork")
async def test_client_that_downloaded_a_file_does_so_in_a_forked_process_too(tmp_path: Path) -> None:
    async with serving(file(MODEL)) as made:
        program = await asyncio.create_subprocess_exec(
            # Python 3.12 and later warn of a fork beside threads.
            *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, made.url, str(tmp_path)),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(30):
                assert await program.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
    assert list_names(tmp_path) == ["child.glb", "parent.glb"]


async def read(client: AvaturnClient, url: str, **options: Any) -> bytes:
    async with client.open_download(url, **options) as opened:
        return b"".join([chunk async for chunk in opened])


def new_client() -> AvaturnClient:
    return AvaturnClient("token", allow_private_urls=True, retry=RetryPolicy(base=0))


async def test_open_download_gives_length_type_and_chunks_without_the_token() -> None:
    step = file(MODEL, Content_Type="model/gltf-binary")
    async with serving(step) as made, new_client() as client:
        async with client.open_download(f"{made.url}/a.glb") as opened:
            assert (opened.length, opened.content_type, opened.received) == (1000, "model/gltf-binary", 0)
            assert b"".join([chunk async for chunk in opened]) == MODEL
            assert opened.received == 1000
        assert "Authorization" not in made.requests[0].headers


async def test_open_download_goes_on_after_an_interruption_if_the_server_can() -> None:
    async with serving(file(MODEL, cut=400), file(MODEL)) as made, new_client() as client:
        assert await read(client, made.url) == MODEL
    async with serving(file(MODEL, cut=400), file(MODEL, ranges=False)) as made, new_client() as client:
        with pytest.raises(TransferError, match="the server cannot resume it"):
            await read(client, made.url)


@pytest.mark.parametrize(
    ("step", "options", "words"),
    [
        (response(403), {}, "403: the URL has expired"),
        (file(MODEL, Content_Encoding="gzip"), {}, "compressed"),
        (file(MODEL), {"max_bytes": 999}, "larger than max_bytes"),
        (file(MODEL[:-1]), {}, "header says 1000 bytes"),
    ],
)
async def test_open_download_checks_what_download_checks(step: Step, options: dict[str, Any], words: str) -> None:
    async with serving(step) as made, new_client() as client:
        with pytest.raises(TransferError, match=words):
            await read(client, f"{made.url}/a.glb", **options)


@pytest.mark.parametrize("step", [file(MODEL), stall_after(response(200, raw=MODEL, Content_Length="5000"))])
@pytest.mark.parametrize("begun", [True, False])
async def test_file_is_not_requested_again_after_the_block_of_open_download(step: Step, *, begun: bool) -> None:
    async with serving(step) as made, new_client() as client:
        async with client.open_download(made.url) as opened:
            chunks = aiter(opened)
            if begun:
                await anext(chunks)
        with pytest.raises(RuntimeError, match="inside the block of open_download, which has ended"):
            await anext(chunks)
        assert len(made.requests) == 1


async def test_open_download_refuses_private_addresses_and_plain_http() -> None:
    async with AvaturnClient("token") as client:
        with pytest.raises(TransferError, match="not public"):
            await read(client, "https://127.0.0.1/a.glb")
        with pytest.raises(ValueError, match="must be https"):
            await read(client, "http://files.example/a.glb")
