"""Photos up: what is taken for a photo, what stands on the wire, and how it ends when it goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from aiohttp import web
from attrs import define, field, frozen
from conftest import pickled
from scripted_server import (
    Connection,
    answer,
    cut_body,
    hang_up,
    reset,
    serve,
    stall_body,
    stall_head,
    unused_port,
)
from transfer_rig import HEIC, JPEG, PNG, WEBP, Rig, everything_said, rig

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
from avaturn_async._photos import Photos

WELL = answer(200, {"status": "ok"})


@frozen
class FormField:
    """A field of the form as the server read it."""

    name: str
    file_name: str | None
    content_type: str | None
    content: bytes


@define
class Receiver:
    """A server that reads forms."""

    url: str = ""
    headers: list[dict[str, str]] = field(factory=list[dict[str, str]])
    forms: list[list[FormField]] = field(factory=list[list[FormField]])


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()

    async def take(request: web.Request) -> web.StreamResponse:
        made.headers.append(dict(request.headers))
        parts = cast("AsyncIterator[Any]", await request.multipart())
        made.forms.append(
            [
                FormField(part.name, part.filename, part.headers.get("Content-Type"), await part.read())
                async for part in parts
            ]
        )
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_post("/upload", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/upload?key=SECRETSECRET"
    yield made
    await runner.cleanup()


def unguarded(**options: Any) -> contextlib.AbstractAsyncContextManager[Rig]:
    return rig(allow_private_urls=True, **options)


async def send(made: Rig, url: str, photo: Any = JPEG, **options: Any) -> None:
    given = {"frontal": photo, "side_1": PNG, "side_2": JPEG, "body_type": "male"} | options
    await made.transfers.upload_photos(url, **given)


async def test_the_form_is_the_documented_one(tmp_path: Path) -> None:
    path = tmp_path / "my holiday, by Jane.png"
    path.write_bytes(PNG)
    async with receiver() as server, unguarded() as made:
        with path.open("rb") as file:
            await made.transfers.upload_photos(
                server.url, frontal=str(path), side_1=file, side_2=JPEG, body_type=BodyType.FEMALE
            )
            assert not file.closed
    assert server.forms == [
        [
            FormField("body-type", None, None, b"female"),
            FormField("telephoto", None, None, b"false"),
            FormField("image-frontal", "frontal.png", "image/png", PNG),
            FormField("image-side-1", "side-1.png", "image/png", PNG),
            FormField("image-side-2", "side-2.jpg", "image/jpeg", JPEG),
        ]
    ]
    (headers,) = server.headers
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
async def test_the_content_type_is_what_the_bytes_say(photo: Any, content_type: str, file_name: str) -> None:
    async with receiver() as server, unguarded() as made:
        await send(made, server.url, photo, telephoto=True)
    found = server.forms[0][2]
    assert (found.file_name, found.content_type, found.content) == (file_name, content_type, bytes(photo))
    assert server.forms[0][1].content == b"true"


class PathLike:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


async def test_paths_and_files_of_every_kind_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(PNG)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - what a web framework hands over
    spooled.write(b"before" + PNG)
    spooled.seek(6)
    with path.open("rb") as file, path.open("rb", buffering=0) as raw, spooled:
        async with receiver() as server, unguarded() as made:
            for photo in (path, PathLike(path), file, raw, spooled, io.BytesIO(PNG)):
                await send(made, server.url, photo)
                await send(made, server.url, photo)  # put back to where they were
        assert [form[2].content for form in server.forms] == [PNG] * 12
        assert [f.tell() for f in (file, raw, spooled)] == [0, 0, 6]


async def test_a_file_that_its_owner_closes_in_time_is_no_trouble() -> None:
    photo = io.BytesIO(JPEG)

    def close(sent: int, total: int) -> None:
        if sent == total:
            photo.close()

    async with receiver() as server, unguarded() as made:
        await send(made, server.url, photo, on_progress=close)
    assert server.forms[0][2].content == JPEG


async def test_one_file_object_can_be_two_photos() -> None:
    photo = io.BytesIO(JPEG * 5000)
    async with receiver() as server, unguarded() as made:
        await send(made, server.url, photo, side_1=photo)
    assert [f.content for f in server.forms[0][2:4]] == [JPEG * 5000] * 2


async def async_read(_: int = -1) -> bytes:
    raise NotImplementedError


class AsyncFile:
    read = staticmethod(async_read)


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("seek")


def closed_file() -> BinaryIO:
    file = io.BytesIO(PNG)
    file.close()
    return file


def at_its_end() -> BinaryIO:
    file = io.BytesIO(PNG)
    file.read()
    return file


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        (b"", "it is empty"),
        (io.BytesIO(), "it is empty"),
        (at_its_end(), "what follows its position"),
        (b"no image", "give a JPEG, PNG, WebP or HEIC file"),
        (b"<html>", "no image"),
        (b"RIFF\x30\x00\x00\x00WAVE", "no image"),
        (b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00mp42", "no image"),
        (b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif", "no image"),
        (b"\x00\x00\x00\x10ftypisom\x00\x00\x00\x00heic", "no image"),
        (b"GIF89a", "no image"),
        (io.StringIO("text"), "binary mode"),
        (Unseekable(PNG), "can seek"),
        (closed_file(), "is open"),
        (AsyncFile(), "UploadFile.file"),
        (None, "not NoneType"),
        (5, "not int"),
        ({"a": 1}, "not dict"),
        ("no/such/file.jpg", "there is no file 'no/such/file.jpg'"),
        ("", "is a directory"),
        ("x" * 5000, "cannot be read"),
        ("nul\x00byte", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["frontal", "side_2"])
async def test_what_is_no_photo_is_an_error_that_names_it_before_anything_is_sent(
    photo: Any, words: str, name: str
) -> None:
    async with serve(WELL) as server, unguarded() as made:
        with pytest.raises(ValueError, match=f"^{name}: ") as caught:
            await send(made, f"{server.url}/up", **{name: photo})
        assert server.connections == 0
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


async def test_a_directory_a_pipe_and_a_secret_file_are_no_photos(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    async with serve(WELL) as server, unguarded() as made:
        for path, words in ((tmp_path, "is a directory"), (pipe, "no regular file"), (empty, "it is empty")):
            with pytest.raises(ValueError, match=words):
                await send(made, f"{server.url}/up", path)
        assert server.connections == 0


async def test_a_file_that_may_not_be_read_is_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(Path, "open", refuse)
    async with unguarded() as made:
        with pytest.raises(ValueError, match="cannot be read: Permission denied"):
            await send(made, "http://127.0.0.1:1/", path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("body_type", value) for value in ("", "Male", "other", BodyType("other"), None, 1, ["male"])),
        *(("telephoto", value) for value in ("false", 0, 1, None)),
        *(("timeout", value) for value in (0, -1, float("nan"), float("inf"), "5", True)),
    ],
)
async def test_arguments_that_make_no_sense_are_value_errors_before_anything_is_sent(
    option: str, value: Any
) -> None:
    async with serve(WELL) as server, unguarded() as made:
        with pytest.raises(ValueError, match=option):
            await send(made, f"{server.url}/up", **{option: value})
        assert server.connections == 0


async def test_progress_rises_and_ends_with_all_of_it() -> None:
    seen: list[tuple[int, int]] = []
    async with receiver() as server, unguarded() as made:
        photo = JPEG + bytes(700_000)
        await send(made, server.url, photo, on_progress=lambda sent, total: seen.append((sent, total)))
    sizes = [sent for sent, _ in seen]
    assert sizes == sorted(set(sizes))
    assert {total for _, total in seen} == {int(server.headers[0]["Content-Length"])}
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) > 3


async def test_what_progress_raises_ends_the_upload_and_comes_out_as_it_is() -> None:
    class StopError(OSError):
        pass

    def stop(sent: int, _: int) -> None:
        if sent > 300_000:
            raise StopError

    async with serve(WELL) as server, unguarded() as made:
        with pytest.raises(StopError) as caught:
            await send(made, f"{server.url}/up?SECRETSECRET", JPEG + bytes(900_000), on_progress=stop)
        assert server.requests == []
    assert "SECRETSECRET" not in everything_said(caught.value)
    assert made.slept == []


async def test_a_photo_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG + bytes(900_000))
    async with serve(WELL) as server, unguarded() as made:
        with pytest.raises(TransferError, match="frontal: the file changed"):
            await send(made, f"{server.url}/up", path, on_progress=lambda *_: os.truncate(path, 1000))


@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422, 429, 500, 502, 503]
)
async def test_a_status_that_is_no_success_is_an_error_that_carries_it_and_nothing_is_sent_again(
    status: int,
) -> None:
    no = answer(status, raw=b"too  dark,\nsorry", Retry_After="0", Location="/up2")
    async with serve(no) as server, unguarded() as made:
        with pytest.raises(TransferError) as caught:
            await send(made, f"{server.url}/up")
        assert len(server.requests) == 1
    remedy = " (its URL has expired, or never was good: only a new avatar has another)"
    remedy = remedy if status in {403, 404, 410} else ""
    assert str(caught.value) == f"upload to 127.0.0.1: {status}: too dark, sorry{remedy}"
    assert caught.value.status == status
    assert vars(pickled(caught.value)) == {"status": status}
    assert made.slept == []


async def test_the_server_s_words_are_cut_and_hold_nothing_of_the_url() -> None:
    words = (
        b"no: https://h/path/PATHPATHPATH?key=SECRETSECRET/%2F or https:\\/\\/h\\/x?SECRET2 or PATHPATHPATH "
        b"and key=SECRETSECRET/%2F, SECRETSECRET// \xff " + b"x" * 400
    )
    async with serve(answer(403, raw=words)) as server, unguarded() as made:
        with pytest.raises(TransferError) as caught:
            await send(made, f"{server.url}/PATHPATHPATH?key=SECRETSECRET/%2F")
    said = everything_said(caught.value)
    assert not any(secret in said for secret in ("SECRET", "PATHPATH"))
    assert len(str(caught.value)) < 320
    assert str(caught.value).startswith("upload to 127.0.0.1: 403: no: [URL] or [URL]")


@pytest.mark.parametrize(
    ("step", "kind", "words"),
    [
        (reset, AvaturnConnectionError, "upload to 127.0.0.1: "),
        (hang_up, AvaturnConnectionError, "ServerDisconnectedError"),
        (cut_body, AvaturnConnectionError, "ClientPayloadError"),
        (b"no HTTP\r\n\r\n", AvaturnConnectionError, "upload to 127.0.0.1: "),
        (answer(200, raw=b"<html>welcome</html>"), AvaturnDecodeError, "not JSON"),
        (stall_head, AvaturnTimeoutError, "silence for 0.05 s"),
        (stall_body, AvaturnTimeoutError, "silence for 0.05 s"),
    ],
)
async def test_no_usable_answer_is_a_connection_error_and_nothing_is_sent_again(
    step: Any, kind: type[AvaturnError], words: str
) -> None:
    timeout = 0.05 if kind is AvaturnTimeoutError else 30.0
    async with serve(step) as server, unguarded() as made:
        with pytest.raises(AvaturnError) as caught:
            await send(made, f"{server.url}/up?SECRETSECRET", timeout=timeout)
        assert len(server.requests) == 1
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "SECRETSECRET" not in everything_said(caught.value)
    assert caught.value.__context__ is None
    assert made.slept == []


@pytest.mark.parametrize("body", [b"", b"null", b'{"status": "queued"}', b" [] "])
async def test_an_answer_without_a_known_status_is_no_error(body: bytes) -> None:
    async with serve(answer(201, raw=body)) as server, unguarded() as made:
        await send(made, f"{server.url}/up")


@asynccontextmanager
async def raw_server(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], port: int = 0
) -> AsyncIterator[str]:
    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, EOFError), contextlib.closing(writer):
            await handle(reader, writer)

    server = await asyncio.start_server(serve_one, "127.0.0.1", port, limit=1 << 16)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/up"
    server.close()
    await server.wait_closed()


async def test_a_server_that_stops_reading_is_a_timeout() -> None:
    over = asyncio.Event()

    async def take_little(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        await over.wait()

    async with raw_server(take_little) as url, unguarded() as made:
        with pytest.raises(AvaturnTimeoutError, match=r"silence for 0\.05 s"):
            await send(made, url, JPEG + bytes(20_000_000), timeout=0.05)
        over.set()


async def test_a_server_that_says_no_early_is_heard() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        writer.write(answer(413, raw=b"too large"))
        while await reader.read(1 << 16):
            pass

    async with raw_server(refuse) as url, unguarded() as made:
        with pytest.raises(TransferError, match="413: too large"):
            await send(made, url, JPEG + bytes(20_000_000))


async def test_a_success_before_all_was_sent_is_none() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        writer.write(WELL)
        while await reader.read(1 << 16):
            pass

    async with raw_server(hasty) as url, unguarded() as made:
        with pytest.raises(TransferError, match=r"answered when \d+ of 2\d+ bytes were sent"):
            await send(made, url, JPEG + bytes(20_000_000))


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    async def endless(connection: Connection) -> None:
        connection.writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 200_000)
        await connection.stall()

    async with serve(endless) as server, unguarded() as made:
        # It is the length that ends it, not the silence thereafter.
        async with asyncio.timeout(10):
            with pytest.raises(TransferError, match="422"):
                await send(made, f"{server.url}/up")


async def test_a_slow_upload_that_moves_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed)

    def pass_time(*_: int) -> None:
        nonlocal passed
        passed += 20.0

    async with receiver() as server, unguarded(timeout=30.0) as made:
        await send(made, server.url, JPEG + bytes(1_000_000), on_progress=pass_time)
    assert passed > 100


async def test_a_refused_connection_is_tried_again_since_nothing_was_sent() -> None:
    port = unused_port()
    async with contextlib.AsyncExitStack() as stack:

        async def answer_now(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            bodies.append(await reader.readexactly(length))
            writer.write(WELL)

        async def start() -> None:
            if len(made.slept) == 2:
                await stack.enter_async_context(raw_server(answer_now, port))

        bodies: list[bytes] = []
        seen: list[int] = []
        made = await stack.enter_async_context(unguarded(on_sleep=start))
        await send(
            made,
            f"http://127.0.0.1:{port}/up",
            io.BytesIO(PNG),
            on_progress=lambda sent, _: seen.append(sent),
        )
    assert made.slept == [0.25, 0.5]
    assert PNG in bodies[0]
    assert seen == sorted(set(seen))


async def test_a_connection_that_stays_refused_is_an_error_after_the_attempts() -> None:
    async with unguarded(retry=RetryPolicy(attempts=2)) as made:
        with pytest.raises(AvaturnConnectionError, match="Connection refused"):
            await send(made, f"http://127.0.0.1:{unused_port()}/up")
    assert made.slept == [0.25]


@pytest.mark.parametrize("until", ["read", "written"])
async def test_a_cancelled_upload_waits_for_its_thread_and_closes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG + bytes(20_000_000))
    reading, go_on, over = asyncio.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    files: list[BinaryIO] = []
    real = Photos.read

    def slow_read(self: Photos, *args: Any) -> bytes:
        files[:] = [source.file for source in self.sources]
        loop.call_soon_threadsafe(reading.set)
        if until == "read":
            with self._lock:
                go_on.wait(10)
        return real(self, *args)

    async def take_little(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(1000)
        await over.wait()

    monkeypatch.setattr(Photos, "read", slow_read)
    async with raw_server(take_little) as url, unguarded() as made:
        task = asyncio.create_task(send(made, url, path))
        await reading.wait()
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        if until == "read":
            assert not task.done()
            assert not files[0].closed
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        over.set()
    assert files[0].closed


async def test_a_large_upload_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    os.truncate(path, 24 << 20)  # sparse
    got = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while got < length:
            got += len(await reader.read(1 << 16))
        writer.write(WELL)

    async with raw_server(count) as url, unguarded() as made:
        tracemalloc.start()
        try:
            await send(made, url, path, side_1=path, side_2=path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert got > 72 << 20
    assert peak < 6 << 20


async def test_after_close_nothing_is_sent_and_closing_twice_is_fine() -> None:
    async with serve(WELL) as server, unguarded() as made:
        await send(made, f"{server.url}/up")
        await made.transfers.close()
        await made.transfers.close()
        with pytest.raises(ClientClosedError):
            await send(made, f"{server.url}/up")
        assert len(server.requests) == 1


async def test_an_address_where_nobody_speaks_tls_is_a_timeout() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        async with unguarded(timeout=0.05, retry=RetryPolicy(attempts=1)) as made:
            listening.listen(1)
            with pytest.raises(AvaturnTimeoutError):
                await send(made, f"https://127.0.0.1:{listening.getsockname()[1]}/up")
