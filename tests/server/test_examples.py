"""Every example does what it says, run as one would run it, against FakeAvaturn."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import runpy
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support import chromium
from support.postgres_server import needs_postgres, running_postgres
from support.redis_server import find_free_port, needs_redis, running_redis

from avaturn_async import AvaturnClient, Create, NotFoundError
from avaturn_async.testing import FakeAvaturn, Fault
from avaturn_async.testing.samples import read_sample_glb, read_sample_image
from avaturn_async.webhooks import AvatarReady, SessionRouter, SharedSecret, SQLiteStore

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
SECRET = "a-long-random-secret"
Serve = Callable[[web.Application], Awaitable[str]]

pytest_plugins = ["avaturn_async.testing.fixtures"]


@pytest.fixture
async def fake() -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn() as server:
        yield server


@pytest.fixture
async def client(fake: FakeAvaturn) -> AsyncIterator[AvaturnClient]:
    async with AvaturnClient("any-token", base_url=fake.url) as made:
        yield made


@pytest.fixture
def environment(fake: FakeAvaturn, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples want of a user's environment."""
    monkeypatch.setenv("AVATURN_API_TOKEN", "any-token")
    monkeypatch.setenv("AVATURN_BASE_URL", fake.url)
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@asynccontextmanager
async def process(*argv: object, cwd: Path | None = None) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A Python that runs, with both outputs in one."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, *map(str, argv)]
    running = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=cwd)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
        rest, _ = await running.communicate()
    assert b"Traceback" not in rest


async def run(example: str, *argv: object, cwd: Path | None = None) -> str:
    """What an example prints; it succeeds."""
    async with process(EXAMPLES / example, *argv, cwd=cwd) as running:
        out, _ = await running.communicate()
    assert running.returncode == 0, out.decode()
    return out.decode()


async def new_avatar(fake: FakeAvaturn, client: AvaturnClient, user_id: str) -> str:
    return str(await fake.finish_session((await client.new_session(user_id, Create())).id))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_does_and_how_it_is_run(path: Path) -> None:
    source = path.read_text()
    assert source.startswith('"""')
    assert len(source.splitlines()) <= 80
    assert path.name in source or "if __name__" in source or "asyncio.run" in source


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create_from_photos", []),
        ("create_from_photos", ["front.jpg", "left.jpg", "right.jpg", "robot"]),
        ("customize_avatar", []),
        ("export_to_disk", []),
        ("render_gallery", []),
    ],
)
def test_wrong_arguments_get_the_usage(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(EXAMPLES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    with pytest.raises(SystemExit, match=rf"{name}.py [A-Z]"):
        runpy.run_path(path, run_name="__main__")


@pytest.mark.usefixtures("environment")
async def test_create_from_photos(fake: FakeAvaturn, client: AvaturnClient, tmp_path: Path) -> None:
    photos = [tmp_path / f"{side}.jpg" for side in ("front", "left", "right")]
    for photo in photos:
        photo.write_bytes(read_sample_image("jpg"))
    out = await run("create_from_photos.py", *photos, "female")
    user_id, avatar_id = re.findall(r"^(?:user|avatar): (\S+)", out, re.MULTILINE)
    [avatar] = await client.list_user_avatars(user_id)
    assert str(avatar.id) == avatar_id
    assert (await client.get_customization(avatar_id)).body == "body_0"
    assert not fake.violations


@pytest.mark.usefixtures("environment")
async def test_customize_avatar(fake: FakeAvaturn, client: AvaturnClient) -> None:
    avatar_id = await new_avatar(fake, client, (await client.create_user()).id)
    before = await client.get_customization(avatar_id)
    assert before.body != "body_1"
    assert "-> body_1; everything else as it was" in await run("customize_avatar.py", avatar_id, "body_1")
    after = await client.get_customization(avatar_id)
    assert (after.body, after.assets, after.age) == ("body_1", before.assets, before.age)


@pytest.mark.usefixtures("environment")
async def test_export_to_disk(fake: FakeAvaturn, client: AvaturnClient, tmp_path: Path) -> None:
    user = await client.create_user()
    avatars = [await new_avatar(fake, client, user.id) for _ in range(3)]
    fake.fail_tasks("export")
    out = await run("export_to_disk.py", user.id, tmp_path / "new" / "folder")
    assert out.startswith("3 avatars are ready")
    files = list((tmp_path / "new" / "folder").iterdir())
    assert len(files) == 2
    assert all(file.read_bytes().startswith(b"glTF") and file.stem in avatars for file in files)
    assert len([line for line in out.splitlines() if line.split(":")[0] in avatars]) == 3
    assert "failed" in out


@pytest.mark.usefixtures("environment")
async def test_render_gallery(
    fake: FakeAvaturn, client: AvaturnClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("PORT", str(port))
    avatar_id = await new_avatar(fake, client, (await client.create_user()).id)
    fake.webhook_url = f"http://127.0.0.1:{port}/avaturn?key={SECRET}"
    fake.fail_tasks("render")
    await run("render_gallery.py", avatar_id, tmp_path)
    page = (tmp_path / "index.html").read_text()
    shown = re.findall("<img src='(.*?)'", page)
    assert len(shown) == 6
    assert page.count("failed") == 1
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in shown)


def webhook_app() -> web.Application:
    app = runpy.run_path(str(EXAMPLES / "webhook_app.py"))["make_app"]()
    assert isinstance(app, web.Application)
    return app


@pytest.mark.usefixtures("environment")
async def test_webhook_app_pushes_the_avatar_to_the_page(fake: FakeAvaturn, serve_app: Serve) -> None:
    url = await serve_app(webhook_app())
    fake.webhook_url = f"{url}/avaturn?key={SECRET}"
    async with aiohttp.ClientSession(url) as http:
        async with http.post("/start") as response:
            session_id = (await response.json())["id"]
        async with http.get(f"/result/{session_id}") as events:
            assert events.content_type == "text/event-stream"
            avatar_id = await fake.finish_session(session_id)
            line = await events.content.readline()
        for stranger in ("00000000-0000-0000-0000-000000000000", "none"):
            async with http.get(f"/result/{stranger}") as response:
                assert response.status == 404
    assert json.loads(line.removeprefix(b"data: ")) == {"avatar_id": str(avatar_id), "status": "ready"}


@pytest.mark.usefixtures("environment")
async def test_larger_app_routes_a_webhook_and_logs_the_sender_behind_a_proxy(
    serve_app: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeAvaturn(sign=SharedSecret(SECRET, header="X-Avaturn-Key")) as fake, aiohttp.ClientSession() as http:
        monkeypatch.setenv("AVATURN_BASE_URL", fake.url)
        url = await serve_app(runpy.run_path(str(EXAMPLES / "larger_app.py"))["make_app"]())
        fake.webhook_url = hook = f"{url}/avatars/webhook"
        async with http.post(f"{url}/avatars/sessions") as response:
            avatar_id = await fake.finish_session((await response.json())["id"])
        async with asyncio.timeout(20):
            while f"avatar {avatar_id} of account 42" not in caplog.text:
                await asyncio.sleep(0)
        fake.fail(Fault.answer(400))
        async with http.post(f"{url}/avatars/sessions") as response:
            assert (response.status, await response.json()) == (502, {"error": "BadRequestError"})
        async with http.post(hook, json={}, headers={"X-Forwarded-For": "198.51.100.7, 203.0.113.9"}) as response:
            assert response.status == 401
    assert "203.0.113.9" in caplog.text
    assert "198.51.100.7" not in caplog.text


@pytest.mark.skipif(chromium.binary() is None, reason="no Chromium on this machine")
@pytest.mark.usefixtures("environment")
async def test_webhook_app_in_a_browser(fake: FakeAvaturn, serve_app: Serve, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(read_sample_image("jpg"))
    url = await serve_app(webhook_app())
    fake.webhook_url = f"{url}/avaturn?key={SECRET}"
    with chromium.running() as devtools:
        async with chromium.new_tab(devtools) as tab:
            await tab.open(url)
            await tab.click("#start")
            for side in ("frontal", "side-1", "side-2"):
                await tab.choose_file(f'input[name="image-{side}"]', photo, origin=fake.url)
            await tab.click('[name="body-type"][value="male"]', origin=fake.url)
            await tab.click("#create:enabled", origin=fake.url)
            await tab.click("#next", origin=fake.url)
            said = await tab.text("#result:not(:empty)")
            assert tab.problems == []
    assert json.loads(said) == {"avatar_id": fake.events[0]["avatar_id"], "status": "ready"}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("workers", [1, 2])
async def test_fastapi_app_returns_the_avatar_whichever_worker_gets_the_webhook(
    fake: FakeAvaturn, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATURN_STORE", str(tmp_path / "avaturn.db"))
    argv = ("-m", "uvicorn", "--app-dir", EXAMPLES, "--workers", workers, "--port", find_free_port(), "fastapi_app:app")
    async with process(*argv) as running:
        assert running.stdout is not None
        url = ""
        started = 0
        while started < workers or not url:
            line = (await running.stdout.readline()).decode()
            assert line, "the server ended"
            url = found[1] if (found := re.search(r"running on (http://\S+)", line)) else url
            started += "Application startup complete" in line
        fake.webhook_url = f"{url}/avaturn?key={SECRET}"
        for _ in range(1 if workers == 1 else 8):
            # A new connection for each request, so that the requests reach both workers.
            async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(force_close=True)) as http:
                async with http.post("/sessions") as response:
                    session_id = (await response.json())["id"]
                waiting = asyncio.create_task(get_json(http, f"/sessions/{session_id}/avatar"))
                avatar_id = await fake.finish_session(session_id)
                assert await waiting == (200, {"id": str(avatar_id), "status": "ready"})
        async with aiohttp.ClientSession(url) as http:
            stranger = "00000000-0000-0000-0000-000000000000"
            assert (await get_json(http, f"/sessions/{stranger}/avatar"))[0] == 404
        running.terminate()
        log = (await running.stdout.read()).decode()
    assert "POST /avaturn" in log
    assert SECRET not in log


@needs_postgres
@pytest.mark.usefixtures("environment")
async def test_fastapi_pool_writes_the_avatar_to_the_table_of_the_app(
    fake: FakeAvaturn, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg  # noqa: PLC0415 - not installed everywhere

    with running_postgres() as server:
        connection: Any = await asyncpg.connect(server.url)
        table = re.search("CREATE TABLE .*", (EXAMPLES / "fastapi_pool.py").read_text())
        assert table is not None
        await connection.execute(table[0])
        await connection.close()
        monkeypatch.setenv("DATABASE_URL", server.url)
        async with process("-m", "uvicorn", "--app-dir", EXAMPLES, "--port", 0, "fastapi_pool:app") as running:
            assert running.stdout is not None
            found = None
            while found is None:
                line = (await running.stdout.readline()).decode()
                assert line, "the server ended"
                found = re.search(r"running on (http://\S+)", line)
            fake.webhook_url = f"{found[1]}/avaturn?key={SECRET}"
            async with aiohttp.ClientSession(found[1]) as http, asyncio.timeout(20):
                async with http.post("/accounts/42/sessions") as response:
                    session_id = (await response.json())["id"]
                avatar_id = await fake.finish_session(session_id)
                while not (avatars := (await get_json(http, "/accounts/42/avatars"))[1]):
                    await asyncio.sleep(0.01)
                assert avatars == [{"id": str(avatar_id), "status": "ready"}]
                assert await get_json(http, "/accounts/43/avatars") == (200, [])
            running.terminate()
            await running.stdout.read()


async def get_json(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(path) as response:
        return response.status, await response.json()


@pytest.fixture
def whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What several processes print comes line by line, which it does not where nothing is buffered."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


async def check_several_workers(folder: Path) -> None:
    out = await run("several_workers.py", cwd=folder)
    assert "main opened 4 sessions" in out
    for told in (
        r"^worker [12] handled avatar.ready of (account \d)$",
        r"^main has seen avatar.ready of (account \d)$",
    ):
        assert sorted(re.findall(told, out, re.MULTILINE)) == [f"account {n}" for n in range(1, 5)]
    received = re.findall(r"^worker ([12]) received (\d) webhooks$", out, re.MULTILINE)
    assert {worker for worker, _ in received} == {"1", "2"}
    assert sum(int(count) for _, count in received) == 4


@pytest.mark.usefixtures("whole_lines")
async def test_several_workers_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("STORE_URL", raising=False)
    await check_several_workers(tmp_path)
    assert (tmp_path / "avaturn-events.db").exists()


@needs_redis
@pytest.mark.usefixtures("whole_lines")
async def test_several_workers_on_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with running_redis(tmp_path) as server:
        monkeypatch.setenv("STORE_URL", server.url)
        await check_several_workers(tmp_path)
    assert not (tmp_path / "avaturn-events.db").exists()


@needs_postgres
@pytest.mark.usefixtures("whole_lines")
async def test_several_workers_on_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with running_postgres() as server:
        monkeypatch.setenv("STORE_URL", server.url)
        await check_several_workers(tmp_path)
    assert not (tmp_path / "avaturn-events.db").exists()


async def test_test_your_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(EXAMPLES / "test_your_app.py", tmp_path)
    async with process("-m", "pytest", "-q", "test_your_app.py", cwd=tmp_path) as running:
        out, _ = await running.communicate()
    assert "1 passed" in out.decode()


async def test_quickstart_goes_from_a_session_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("AVATURN_API_TOKEN", raising=False)
    lines = (await run("quickstart.py", cwd=tmp_path)).splitlines()
    assert lines[0] == "AVATURN_API_TOKEN is not set: using a stand-in server"
    for start in ("user: ", "session page: ", "avatar: "):
        assert [line for line in lines if line.startswith(start)]
    assert lines[-1] == "saved avatar.glb - any glTF viewer opens it"
    assert (tmp_path / "avatar.glb").read_bytes().startswith(b"glTF")


@pytest.mark.usefixtures("environment")
async def test_quickstart_takes_photos_and_the_api_that_the_environment_names(
    fake: FakeAvaturn, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(read_sample_image("jpg"))
    lines = (await run("quickstart.py", photo, photo, photo, cwd=tmp_path)).splitlines()
    assert lines[-1] == "saved avatar.glb - any glTF viewer opens it"
    assert "stand-in" not in lines[0]
    assert [r.method for r in fake.requests if "avatars/new" in r.path] == ["POST"]


PEOPLE = int(os.environ.get("AVATURN_TEST_PEOPLE", "12"))


async def test_batch_makes_each_avatar_once_through_rate_limits_and_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(read_sample_image("jpg"))
    rows = [f"person{n},female,photo.jpg,photo.jpg,{'missing' if n == 0 else 'photo'}.jpg" for n in range(PEOPLE + 1)]
    table = tmp_path / "people.csv"
    table.write_text("\n".join(["name,body_type,frontal,side_1,side_2", *rows]))
    out = tmp_path / "out"
    async with FakeAvaturn() as fake:
        monkeypatch.setenv("AVATURN_API_TOKEN", "any-token")
        monkeypatch.setenv("AVATURN_BASE_URL", fake.url)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        for n in range(3):
            # A burst above the rate is refused, with and without Retry-After.
            limit = fake.rate_limit(5, per=0.2, retry_after=n == 1)
            async with process(EXAMPLES / "batch.py", table, out) as running:
                while limit.hits < PEOPLE // 3 and running.returncode is None:
                    await asyncio.sleep(0.01)
                running.kill()
            limit.stop()
            assert limit.hits >= PEOPLE // 3
        async with process(EXAMPLES / "batch.py", table, out) as running:
            printed = (await running.communicate())[0].decode()
        assert running.returncode == 1
        made: list[int] = []
        async with AvaturnClient("any-token", base_url=fake.url) as client:
            for user_id in {r.parsed["user_id"] for r in fake.requests if r.path == "/api/v1/avatars/new"}:
                with suppress(NotFoundError):  # deleted by the next run
                    made.append(len(await client.list_user_avatars(user_id, include_not_ready=True)))
    assert f"{PEOPLE} of {PEOPLE + 1} people have a GLB" in printed
    assert "person0: side_2: " in printed
    assert [number for number in made if number] == [1] * PEOPLE
    glbs = sorted(path.name for path in out.glob("*.glb"))
    assert glbs == sorted(f"person{n}.glb" for n in range(1, PEOPLE + 1))


@pytest.mark.usefixtures("environment")
async def test_batch_makes_a_failed_avatar_again_in_the_next_run(fake: FakeAvaturn, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(read_sample_image("jpg"))
    table = tmp_path / "people.csv"
    table.write_text("name,body_type,frontal,side_1,side_2\njane,female,photo.jpg,photo.jpg,photo.jpg\n")
    fake.fail_tasks("avatar")
    async with process(EXAMPLES / "batch.py", table, tmp_path) as running:
        assert b"0 of 1 people have a GLB" in (await running.communicate())[0]
    assert "1 of 1 people have a GLB" in await run("batch.py", table, tmp_path)
    assert (tmp_path / "jane.glb").read_bytes() == read_sample_glb()


@pytest.mark.usefixtures("environment")
async def test_object_storage_puts_the_file_without_a_temporary_one(
    fake: FakeAvaturn, client: AvaturnClient, serve_app: Serve, tmp_path: Path
) -> None:
    stored: dict[str, tuple[bytes, str | None, str | None]] = {}

    async def put(request: web.Request) -> web.Response:
        if request.headers.get("Content-Length") is None:  # as S3 does
            return web.Response(status=411)
        body = await request.read()
        stored[request.path] = (body, request.headers["Content-Type"], request.query.get("X-Amz-Signature"))
        return web.Response()

    app = web.Application()
    app.router.add_put("/bucket/{key}", put)
    url = await serve_app(app)
    avatar_id = await new_avatar(fake, client, (await client.create_user()).id)
    printed = await run("object_storage.py", avatar_id, f"{url}/bucket/avatar.glb?X-Amz-Signature=abc", cwd=tmp_path)
    glb = read_sample_glb()
    assert stored == {"/bucket/avatar.glb": (glb, "model/gltf-binary", "abc")}
    assert printed == f"stored {len(glb)} bytes\n"
    assert list(tmp_path.iterdir()) == []


async def test_queue_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert (await run("queue_consumer.py")).startswith("from the queue: avatar.ready ")


@pytest.mark.usefixtures("environment")
async def test_lambda_function_stores_the_event_for_another_process(
    fake: FakeAvaturn, client: AvaturnClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATURN_EVENTS", str(tmp_path / "events.db"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    handler = runpy.run_path(str(EXAMPLES / "lambda_function.py"))["handler"]

    def invoke(body: str, *, encoded: bool, key: str = SECRET, method: str = "POST") -> int:
        event = {
            "headers": {"content-type": "application/json"},
            "rawQueryString": f"key={key}",
            "body": base64.b64encode(body.encode()).decode() if encoded else body,
            "isBase64Encoded": encoded,
            "requestContext": {"http": {"method": method, "sourceIp": "192.0.2.1"}},
        }
        status = handler(event, None)["statusCode"]
        assert isinstance(status, int)
        return status

    async with SessionRouter(SQLiteStore(tmp_path / "events.db")) as router:
        session = await router.open_session(client, (await client.create_user()).id)
        avatar_id = await fake.finish_session(session.id)
        body = json.dumps({"event": "avatar.ready", "avatar_id": str(avatar_id), "session_id": str(session.id)})
        assert await asyncio.to_thread(invoke, body, encoded=False, key="wrong") == 401
        assert await asyncio.to_thread(invoke, body, encoded=False, method="GET") == 405
        for encoded in (True, False):
            assert await asyncio.to_thread(invoke, body, encoded=encoded) == 200
        assert (await session.wait_for(AvatarReady, timeout=30)).avatar_id == avatar_id


async def test_django_view(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)
    argv = ("-u", "-m", "uvicorn", "--app-dir", EXAMPLES, "--lifespan", "off", "--port", 0, "django_view:application")
    async with process(*argv) as running:
        assert running.stdout is not None
        async for line in running.stdout:
            if found := re.search(r"running on (http://\S+)", line.decode()):
                break
        assert found is not None
        body = {"event": "avatar.ready", "avatar_id": "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"}
        async with aiohttp.ClientSession(found[1]) as http:
            for key, status in (("wrong", 401), (SECRET, 200)):
                async with http.post(f"/avaturn?key={key}", json=body) as response:
                    assert response.status == status
        async for line in running.stdout:
            if b"avatar 0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11 of None" in line:
                break
        running.terminate()
        await running.stdout.read()


@pytest.mark.skipif(chromium.binary() is None, reason="no Chromium on this machine")
@pytest.mark.skipif("AVATURN_WEB_SDK" not in os.environ, reason="AVATURN_WEB_SDK does not name the unpacked web SDK")
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("url_type", ["httpURL", "dataURL"])
async def test_browser_export_in_a_browser(
    fake: FakeAvaturn, serve_app: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url_type: Any
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVATURN_SDK_URL", "/sdk.js")
    fake.export_url_type = url_type
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(read_sample_image("jpg"))
    names = runpy.run_path(str(EXAMPLES / "browser_export.py"))
    app = web.Application(client_max_size=10_000_000)
    app.add_routes(names["routes"])
    sdk = Path(os.environ["AVATURN_WEB_SDK"]) / "dist" / "index.js"

    async def serve_sdk(_: web.Request) -> web.Response:
        return web.Response(text=sdk.read_text(), content_type="text/javascript")

    app.router.add_get("/sdk.js", serve_sdk)
    app.cleanup_ctx.append(names["lifetime"])
    url = await serve_app(app)
    with chromium.running() as devtools:
        async with chromium.new_tab(devtools) as tab:
            await tab.open(url)
            for side in ("frontal", "side-1", "side-2"):
                await tab.choose_file(f'input[name="image-{side}"]', photo, origin=fake.url)
            await tab.click('[name="body-type"][value="male"]', origin=fake.url)
            await tab.click("#create:enabled", origin=fake.url)
            await tab.click("#next", origin=fake.url)
            shown = await tab.text("#result:not(:empty)")
    assert (tmp_path / shown).read_bytes() == read_sample_glb()


def test_no_example_is_forgotten() -> None:
    source = Path(__file__).read_text()
    assert all(f"test_{path.stem.removeprefix('test_')}" in source for path in EXAMPLES.glob("*.py"))
