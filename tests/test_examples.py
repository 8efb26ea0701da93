"""Every example does what it says, run as one would run it, against FakeAvaturn."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import chromium
import pytest
from aiohttp import web
from redis_server import needs_redis, running_redis

from avaturn_async import AvaturnClient, Create
from avaturn_async.testing import FakeAvaturn
from avaturn_async.testing._images import make_image

ROOT = Path(__file__).parent.parent
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
    running = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=cwd
    )
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
    assert len(source.splitlines()) <= 60
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
def test_wrong_arguments_get_the_usage(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(EXAMPLES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    with pytest.raises(SystemExit, match=rf"{name}.py [A-Z]"):
        runpy.run_path(path, run_name="__main__")


@pytest.mark.usefixtures("environment")
async def test_create_from_photos(fake: FakeAvaturn, client: AvaturnClient, tmp_path: Path) -> None:
    photos = [tmp_path / f"{side}.jpg" for side in ("front", "left", "right")]
    for photo in photos:
        photo.write_bytes(make_image("jpg"))
    out = await run("create_from_photos.py", *photos, "female")
    user_id, avatar_id = re.findall(r"^(?:user|avatar): (\S+)", out, re.MULTILINE)
    [avatar] = await client.list_user_avatars(user_id)
    assert str(avatar.id) == avatar_id
    assert (await client.get_customization(avatar_id)).body == "body_0"
    assert not fake.complaints


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


@pytest.mark.skipif(chromium.binary() is None, reason="no Chromium on this machine")
@pytest.mark.usefixtures("environment")
async def test_webhook_app_in_a_browser(fake: FakeAvaturn, serve_app: Serve, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(make_image("jpg"))
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
async def test_fastapi_app(fake: FakeAvaturn) -> None:
    argv = ("-m", "uvicorn", "--app-dir", EXAMPLES, "--port", 0, "fastapi_app:app")
    async with process(*argv) as running:
        assert running.stdout is not None
        async for line in running.stdout:
            if found := re.search(r"running on (http://\S+)", line.decode()):
                break
        assert found is not None
        fake.webhook_url = f"{found[1]}/avaturn?key={SECRET}"
        async with aiohttp.ClientSession(found[1]) as http:
            async with http.post("/sessions") as response:
                session_id = (await response.json())["id"]
            waiting = asyncio.create_task(get_json(http, f"/sessions/{session_id}/avatar"))
            avatar_id = await fake.finish_session(session_id)
            assert await waiting == (200, {"id": str(avatar_id), "status": "ready"})
            stranger = "00000000-0000-0000-0000-000000000000"
            assert (await get_json(http, f"/sessions/{stranger}/avatar"))[0] == 404
        running.terminate()
        log = (await running.stdout.read()).decode()
    assert "POST /sessions" in log
    assert SECRET not in log


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
    monkeypatch.delenv("REDIS_URL", raising=False)
    await check_several_workers(tmp_path)
    assert (tmp_path / "avaturn-events.db").exists()


@needs_redis
@pytest.mark.usefixtures("whole_lines")
async def test_several_workers_on_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with running_redis(tmp_path) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        await check_several_workers(tmp_path)
    assert not (tmp_path / "avaturn-events.db").exists()


async def test_test_your_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(EXAMPLES / "test_your_app.py", tmp_path)
    async with process("-m", "pytest", "-q", "test_your_app.py", cwd=tmp_path) as running:
        out, _ = await running.communicate()
    assert "1 passed" in out.decode()


async def test_quickstart_goes_from_a_session_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("AVATURN_API_TOKEN", raising=False)
    lines = (await run("quickstart.py", cwd=tmp_path)).splitlines()
    for said in ("user: ", "session, ", "webhook: avatar.ready", "avatar: "):
        assert [line for line in lines if line.startswith(said)]
    assert lines[-1] == "avatar.glb"
    assert (tmp_path / "avatar.glb").read_bytes().startswith(b"glTF")


@pytest.mark.usefixtures("environment")
async def test_quickstart_takes_photos_and_the_api_that_the_environment_names(
    fake: FakeAvaturn, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(make_image("jpg", "common/preview"))
    lines = (await run("quickstart.py", photo, photo, photo, cwd=tmp_path)).splitlines()
    assert lines[-1] == "avatar.glb"
    assert "stand-in" not in lines[0]
    assert [r.method for r in fake.requests if "avatars/new" in r.path] == ["POST"]


def test_no_example_is_forgotten() -> None:
    source = Path(__file__).read_text()
    assert all(f"test_{path.stem.removeprefix('test_')}" in source for path in EXAMPLES.glob("*.py"))
