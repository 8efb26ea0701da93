"""Uploads of photos: what is accepted, the form on the wire, and how each failure ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from aiohttp import web
from attrs import define, field, frozen
from conftest import pickled
from support.scripted_server import (
    Connection,
    Step,
    cut_body,
    hang_up,
    reset,
    response,
    serve,
    stall_after,
    stall_body,
    stall_head,
    unused_port,
)
from support.transfer_rig import HEIC, JPEG, PNG, SECRET, WEBP, get_all_text, rig, serving, unguarded

from avaturn_async import (
    AvaturnConnectionError,
    AvaturnDecodeError,
    AvaturnError,
    AvaturnTimeoutError,
    BodyType,
    ClientClosedError,
    RetryPolicy,
    TransferError,
)

OK = response(200, {"status": "ok"})
LARGE = JPEG + bytes(20_000_000)


@frozen
class FormField:
    """A field of the form as the server read it."""

    name: str
    file_name: str | None
    content_type: str | None
    content: bytes


@define
class Receiver:
    """An aiohttp server that reads forms."""

    url: str = ""
    headers: list[dict[str, str]] = field(factory=list[dict[str, str]])
    forms: list[list[FormField]] = field(factory=list[list[FormField]])

    async def receive(self, request: web.BaseRequest) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        parts = cast("AsyncIterator[Any]", await request.multipart())
        self.forms.append(
            [FormField(p.name, p.filename, p.headers.get("Content-Type"), await p.read()) async for p in parts]
        )
        return web.json_response({"status": "ok"})


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.receive))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/upload?key={SECRET}"
    yield receiver
    await runner.cleanup()


async def test_form_is_the_documented_one(tmp_path: Path) -> None:
    path = tmp_path / "my holiday, by Jane.png"
    path.write_bytes(PNG)
    async with receiving() as receiver, unguarded() as made:
        with path.open("rb") as opened:
            await made.upload(str(path), receiver.url, side_1=opened, body_type=BodyType.FEMALE)
            assert not opened.closed
    assert receiver.forms == [
        [
            FormField("body-type", None, None, b"female"),
            FormField("telephoto", None, None, b"false"),
            FormField("image-frontal", "frontal.png", "image/png", PNG),
            FormField("image-side-1", "side-1.png", "image/png", PNG),
            FormField("image-side-2", "side-2.jpg", "image/jpeg", JPEG),
        ]
    ]
    [headers] = receiver.headers
    assert "Transfer-Encoding" not in headers
    assert "Authorization" not in headers
    assert "Jane" not in str(headers)


@pytest.mark.parametrize(
    ("photo", "content_type", "file_name"),
    [
        (JPEG, "image/jpeg", "frontal.jpg"),
        (PNG, "image/png", "frontal.png"),
        (WEBP, "image/webp", "frontal.webp"),
        (HEIC, "image/heic", "frontal.heic"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "image/heic", "frontal.heic"),
        (HEIC.replace(b"ftypheic", b"ftypXXXX"), "image/heic", "frontal.heic"),
        (bytearray(PNG), "image/png", "frontal.png"),
        (memoryview(PNG), "image/png", "frontal.png"),
    ],
)
async def test_content_type_is_that_of_the_bytes(photo: Any, content_type: str, file_name: str) -> None:
    async with receiving() as receiver, unguarded() as made:
        await made.upload(photo, receiver.url, telephoto=True)
    _, telephoto, frontal, *_ = receiver.forms[0]
    assert (frontal.file_name, frontal.content_type, frontal.content) == (file_name, content_type, bytes(photo))
    assert telephoto.content == b"true"


class PathLike:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


class ShortReads(io.BytesIO):
    """A stream like a raw file: read() may return fewer bytes than requested, before the end."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(7, size or 0))


async def test_path_or_file_of_any_kind_is_sent_from_its_position_and_put_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(PNG)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - as a web framework passes it
    spooled.write(b"before" + PNG)
    spooled.seek(6)
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw, spooled:
        async with receiving() as receiver, unguarded() as made:
            for photo in (path, PathLike(path), buffered, raw, spooled, io.BytesIO(PNG), ShortReads(PNG)):
                await made.upload(photo, receiver.url, side_1=photo)  # one file may be two photos
                await made.upload(photo, receiver.url)
        assert [form[2].content for form in receiver.forms] == [PNG] * 14
        assert [form[3].content for form in receiver.forms] == [PNG] * 14
        assert [opened.tell() for opened in (buffered, raw, spooled)] == [0, 0, 6]


async def test_file_may_be_closed_by_the_caller_when_all_is_sent() -> None:
    photo = io.BytesIO(JPEG)

    def close(sent: int, total: int) -> None:
        if sent == total:
            photo.close()

    async with serving(OK) as made:
        await made.upload(photo, on_progress=close)
        assert JPEG in made.requests[0].body


async def async_read(_: int = -1) -> bytes:
    raise NotImplementedError


class AsyncFile:
    read = staticmethod(async_read)


class Unseekable(io.BytesIO):
    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")


def closed_file() -> BinaryIO:
    opened = io.BytesIO(PNG)
    opened.close()
    return opened


def file_at_its_end() -> BinaryIO:
    opened = io.BytesIO(PNG)
    opened.read()
    return opened


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        (b"", "it is empty"),
        (io.BytesIO(), "it is empty"),
        (file_at_its_end(), "what follows its position"),
        (b"no image", "give a JPEG, PNG, WebP or HEIC file"),
        (b"RIFF\x30\x00\x00\x00WAVE", "no image"),
        (b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00mp42", "no image"),
        (b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif", "no image"),
        (b"\x00\x00\x00\x10ftypisom\x00\x00\x00\x00heic", "no image"),
        (b"\x00\x00\x00\x14ftypisomheic\x00\x00\x00\x00", "no image"),
        (b"GIF89a", "no image"),
        (io.StringIO("text"), "binary mode"),
        (Unseekable(PNG), "can seek"),
        (closed_file(), "is open"),
        (AsyncFile(), "UploadFile.file"),
        (None, "not NoneType"),
        (5, "not int"),
        ("no/such/file.jpg", "there is no file 'no/such/file.jpg'"),
        ("", "is a directory"),
        ("x" * 5000, "cannot be read"),
        ("nul\x00byte", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["frontal", "side_2"])
async def test_invalid_photo_is_a_value_error_that_names_it_before_a_request(photo: Any, words: str, name: str) -> None:
    async with serving(OK) as made:
        with pytest.raises(ValueError, match=f"^{name}: ") as caught:
            await made.upload(**{name: photo})
        assert made.requests == []
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


async def test_path_of_a_directory_a_pipe_or_an_empty_file_is_refused(tmp_path: Path) -> None:
    pipe, empty = tmp_path / "pipe", tmp_path / "empty.jpg"
    os.mkfifo(pipe)
    empty.touch()
    async with unguarded() as made:
        for path, words in ((tmp_path, "is a directory"), (pipe, "no regular file"), (empty, "it is empty")):
            with pytest.raises(ValueError, match=words):
                await made.upload(path, "http://127.0.0.1:1/")


async def test_path_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(Path, "open", refuse)
    async with unguarded() as made:
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            await made.upload(path, "http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("body_type", value) for value in ("", "Male", BodyType("other"), None, 1, ["male"])),
        *(("telephoto", value) for value in ("false", 0, None)),
        *(("timeout", value) for value in (0, -1, float("nan"), float("inf"), "5", True)),
    ],
)
async def test_invalid_option_is_refused_before_a_request(option: str, value: Any) -> None:
    async with serving(OK) as made:
        with pytest.raises(ValueError, match=option):
            await made.upload(**{option: value})
        assert made.requests == []


async def test_progress_rises_to_the_content_length() -> None:
    seen: list[tuple[int, int]] = []
    async with serving(OK) as made:
        await made.upload(JPEG + bytes(700_000), on_progress=lambda sent, total: seen.append((sent, total)))
        total = int(made.requests[0].headers["Content-Length"])
    sizes = [sent for sent, _ in seen]
    assert sizes == sorted(set(sizes))
    assert {each for _, each in seen} == {total}
    assert seen[-1] == (total, total)
    assert len(seen) > 3


async def test_exception_of_on_progress_ends_the_upload_and_is_raised_as_it_is() -> None:
    class StopError(OSError):
        pass

    def stop(sent: int, _: int) -> None:
        if sent > 300_000:
            raise StopError

    async with serving(OK) as made:
        with pytest.raises(StopError) as caught:
            await made.upload(JPEG + bytes(900_000), on_progress=stop)
        assert made.requests == []
    assert SECRET not in get_all_text(caught.value)
    assert made.slept == []


async def test_photo_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG + bytes(900_000))
    async with serving(OK) as made:
        with pytest.raises(TransferError, match="frontal: the file changed"):
            await made.upload(path, on_progress=lambda *_: os.truncate(path, 1000))


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422, 429, 500, 502, 503])
async def test_error_status_is_raised_with_the_words_of_the_server_and_nothing_is_sent_again(status: int) -> None:
    refusal = response(status, raw=b"too  dark,\nsorry", Retry_After="0", Location="/up2")
    async with serving(refusal) as made:
        with pytest.raises(TransferError) as caught:
            await made.upload()
        assert len(made.requests) == 1
    remedy = " (the URL has expired or never existed; only a new avatar has another)"
    remedy = remedy if status in {403, 404, 410} else ""
    assert str(caught.value) == f"upload to 127.0.0.1: {status}: too dark, sorry{remedy}"
    assert caught.value.status == status
    assert vars(pickled(caught.value)) == {"status": status}
    assert made.slept == []


async def test_error_status_is_raised_also_if_the_connection_breaks_afterwards() -> None:
    async with serving(response(413, raw=b"too", Content_Length="100")) as made:
        with pytest.raises(TransferError) as caught:
            await made.upload()
    assert caught.value.status == 413


async def test_words_of_the_server_are_cut_and_hold_no_part_of_the_url() -> None:
    words = (
        b"no: https://h/path/PATHPATHPATH?key=SECRETSECRET/%2F or https:\\/\\/h\\/x?a=UTF-8''b&SECRET2 or PATHPATHPATHREST "
        b"and key=SECRETSECRET/%2F, SECRETSECRET// \xff " + b"x" * 400
    )
    url = "/PATHPATHPATH/PATHPATHPATHREST?key=SECRETSECRET/%2F"
    async with serving(response(403, raw=words)) as made:
        with pytest.raises(TransferError) as caught:
            await made.upload(url=url)
    text = get_all_text(caught.value)
    assert not any(secret in text for secret in ("SECRET", "PATHPATH", "REST"))
    assert str(caught.value).startswith("upload to 127.0.0.1: 403: no: [URL] or [URL] or [URL] and [URL], [URL] ")
    assert len(str(caught.value)) < 320


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sig=SECRETab%2Bcdefgh%3D&exp=1700000000", "signature SECRETab%2Bcdefgh%3D has expired"),
        ("sig=SECRETab%2Bcdefgh%3D&exp=1700000000", "signature SECRETab%2bcdefgh%3d has expired"),
        ("sig=SECRETab%2Bcdefgh%3D&exp=1700000000", "signature SECRETab+cdefgh= has expired"),
        ("sig=SECRETab%2Bcdefgh%3D&exp=1700000000", "signature SECRETab cdefgh= has expired"),
        ("sig=SECRETab+cdefgh&exp=1", "signature SECRETab+cdefgh has expired"),
        ("sig=SECRETab/cdefgh&exp=1", "signature SECRETab\\/cdefgh has expired"),
        ("SECRETabcdefgh&exp=1", "signature SECRETabcdefgh has expired"),
        ("sig=SECRET%FFabcdefgh&exp=1", "signature SECRET%FFabcdefgh has expired"),
    ],
)
async def test_value_in_the_query_of_an_upload_url_is_removed_in_each_spelling(query: str, words: str) -> None:
    async with serving(response(403, raw=words.encode())) as made:
        with pytest.raises(TransferError, match=r"403: signature \[URL\] has expired") as caught:
            await made.upload(url=f"/up?{query}")
    assert "SECRET" not in get_all_text(caught.value)


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (reset, AvaturnConnectionError, "upload to 127.0.0.1: "),
        (hang_up, AvaturnConnectionError, "ServerDisconnectedError"),
        (cut_body, AvaturnConnectionError, "ClientPayloadError"),
        (b"no HTTP\r\n\r\n", AvaturnConnectionError, "upload to 127.0.0.1: "),
        (response(200, raw=b"<html>welcome</html>"), AvaturnDecodeError, "not JSON"),
        (stall_head, AvaturnTimeoutError, "no progress for 0.05 s"),
        (stall_body, AvaturnTimeoutError, "no progress for 0.05 s"),
    ],
)
async def test_upload_without_a_usable_response_is_not_repeated(
    step: Step, kind: type[AvaturnError], words: str
) -> None:
    timeout = 0.05 if kind is AvaturnTimeoutError else 30.0
    async with serving(step) as made:
        with pytest.raises(AvaturnError) as caught:
            await made.upload(timeout=timeout)
        assert len(made.requests) == 1
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert SECRET not in get_all_text(caught.value)
    assert caught.value.__context__ is None
    assert made.slept == []


@pytest.mark.parametrize("body", [b"", b"null", b'{"status": "queued"}', b" [] "])
async def test_any_json_or_nothing_is_a_success(body: bytes) -> None:
    async with serving(response(201, raw=body)) as made:
        await made.upload()


def respond_early(content: bytes) -> Step:
    async def step(connection: Connection) -> None:
        await connection.reader.readexactly(1000)
        connection.writer.write(content)
        while await connection.reader.read(1 << 16):
            pass

    return step


async def stop_reading(connection: Connection) -> None:
    await connection.reader.readexactly(1000)
    await connection.stall()


@pytest.mark.parametrize(
    ("step", "kind", "words", "timeout"),
    [
        (stop_reading, AvaturnTimeoutError, r"no progress for 0\.05 s", 0.05),
        (respond_early(response(413, raw=b"too large")), TransferError, "413: too large", 30),
        (respond_early(OK), TransferError, r"responded when \d+ of 2\d+ bytes were sent", 30),
    ],
)
async def test_server_that_does_not_read_all_photos_is_an_error(
    step: Step, kind: type[AvaturnError], words: str, timeout: float
) -> None:
    async with serving(step, read_bodies=False) as made:
        with pytest.raises(kind, match=words):
            await made.upload(LARGE, timeout=timeout)


async def test_endless_response_is_not_read_to_its_end() -> None:
    endless = stall_after(response(422, raw=b"x" * 200_000, Content_Length="1000000000"))
    async with serving(endless) as made, asyncio.timeout(10):  # less than the timeout of the upload
        with pytest.raises(TransferError, match="422"):
            await made.upload()


@pytest.mark.parametrize("slow", ["upload", "response"])
async def test_slow_upload_that_makes_progress_does_not_time_out(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed)

    def pass_time() -> None:
        nonlocal passed
        passed += 20.0

    async def respond_slowly(connection: Connection) -> None:
        if slow == "response":
            pass_time()
            connection.send_head(200, Content_Length=2)
            for part in (b"{", b"}"):
                await asyncio.sleep(0.05)  # the client reads what came before
                pass_time()
                connection.writer.write(part)
        else:
            connection.writer.write(OK)

    on_progress = (lambda *_: pass_time()) if slow == "upload" else None
    async with serving(respond_slowly, timeout=30.0) as made:
        await made.upload(JPEG + bytes(1_000_000), on_progress=on_progress)
    assert passed > 100 if slow == "upload" else passed == 60


async def test_upload_is_tried_again_after_a_refused_connection_since_nothing_was_sent() -> None:
    port = unused_port()
    async with contextlib.AsyncExitStack() as stack:
        servers: list[Any] = []

        async def start() -> None:
            if len(made.slept) == 2:
                servers.append(await stack.enter_async_context(serve(OK, port=port)))

        seen: list[int] = []
        made = await stack.enter_async_context(unguarded(on_sleep=start))
        await made.upload(io.BytesIO(PNG), f"http://127.0.0.1:{port}/up", on_progress=lambda sent, _: seen.append(sent))
        assert PNG in servers[0].requests[0].body
    assert made.slept == [0.25, 0.5]
    assert seen == sorted(set(seen))


async def test_lasting_refusal_of_connections_is_raised_after_the_attempts() -> None:
    async with unguarded(retry=RetryPolicy(attempts=2)) as made:
        with pytest.raises(AvaturnConnectionError, match="Connection refused"):
            await made.upload(url=f"http://127.0.0.1:{unused_port()}/up")
    assert made.slept == [0.25]


async def test_cancelled_upload_waits_for_its_thread_and_closes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    reading, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    opened: list[BinaryIO] = []

    class SlowFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if size == 1 << 18:  # not the first bytes, which show the type
                loop.call_soon_threadsafe(reading.set)
                go_on.wait(10)
            return super().read(size)

    def open_slowly(*_: Any) -> BinaryIO:
        opened.append(SlowFile(LARGE))
        return opened[-1]

    monkeypatch.setattr(Path, "open", open_slowly)
    async with serving(stop_reading, read_bodies=False) as made:
        task = asyncio.create_task(made.upload(path))
        await reading.wait()
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        assert not opened[0].closed
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert opened[0].closed


async def test_large_upload_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    os.truncate(path, 24 << 20)  # sparse
    received = 0

    async def count(connection: Connection) -> None:
        nonlocal received
        length = int(connection.request.headers["Content-Length"])
        while received < length:
            received += len(await connection.reader.read(1 << 16))
        connection.writer.write(OK)

    async with serving(count, read_bodies=False) as made:
        tracemalloc.start()
        try:
            await made.upload(path, side_1=path, side_2=path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert received > 72 << 20
    assert peak < 6 << 20


async def test_closed_client_starts_no_upload() -> None:
    async with serving(OK) as made:
        await made.upload()
        await made.session.close()
        with pytest.raises(ClientClosedError):
            await made.upload()
        assert len(made.requests) == 1


async def test_server_without_tls_is_a_timeout() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/up"
        async with rig(allow_private_urls=True, timeout=0.05, retry=RetryPolicy(attempts=1)) as made:
            with pytest.raises(AvaturnTimeoutError):
                await made.upload(url=url)
            with pytest.raises(AvaturnTimeoutError):
                await made.download("x", url)
