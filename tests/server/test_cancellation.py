"""Each public coroutine of the client, cancelled after each of its first 100 steps, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cancellation import Outcome, Stepper, run_steps
from support.loop_thread import running_loop
from support.transfer_rig import JPEG

from avaturn_async import (
    AvaturnClient,
    Customization,
    create_avatar,
    export_avatar,
    wait_for_avatar,
    wait_for_export,
    wait_for_new_avatar,
)
from avaturn_async.browser_export import accept_browser_export
from avaturn_async.testing import FakeAvaturn
from avaturn_async.waiting import PollPolicy

Call = Callable[[AvaturnClient], Coroutine[Any, Any, object]]
PHOTOS: dict[str, Any] = {"frontal": JPEG, "side_1": JPEG, "side_2": JPEG, "body_type": "male"}
POLL = PollPolicy(first=0.005, factor=1.0, cap=0.005)


@pytest.fixture
def url() -> Iterator[str]:
    """Run FakeAvaturn in a thread: its steps are not those of the client."""
    with running_loop() as thread:
        fake = FakeAvaturn()
        thread.run(fake.__aenter__())
        yield fake.url
        thread.run(fake.close())


def test_a_call_of_a_client_leaves_nothing_when_it_is_cancelled(url: str, tmp_path: Path) -> None:
    run_steps(lambda stepper: check_client(stepper.watch(tmp_path), url, tmp_path))


async def check_client(stepper: Stepper, url: str, folder: Path) -> None:
    photo = folder / "frontal.jpg"
    photo.write_bytes(JPEG * 5000)  # several chunks
    photos = {**PHOTOS, "frontal": photo}
    clients: list[AvaturnClient] = []
    customization = Customization(body="body_0")

    def make() -> AvaturnClient:
        return AvaturnClient("token", base_url=url)

    async with make() as client:
        user = await client.create_user()
        avatar = await create_avatar(client, user.id, customization=customization, timeout=30, poll=POLL, **PHOTOS)
        export = await wait_for_export(client, avatar.id, timeout=30, poll=POLL)
    assert export.url is not None
    file_url = export.url

    async def upload(client: AvaturnClient) -> None:
        new = await client.new_avatar(user.id)
        await client.upload_photos(new.upload_url, **photos)

    async def stream(client: AvaturnClient) -> None:
        async with client.open_download(file_url) as file:
            async for _ in file:
                pass

    async def accept(client: AvaturnClient) -> None:
        payload = {"url": "https://x.test/a.glb", "urlType": "httpURL", "avatarId": str(avatar.id)}
        await accept_browser_export(client, payload, user_id=user.id, timeout=30)

    async def delete_new(client: AvaturnClient) -> None:
        new = await client.new_avatar(user.id)
        await client.delete_user_avatar(user.id, new.avatar_id)

    async def use(client: AvaturnClient) -> None:
        async with client:
            await client.create_user()
            await stream(client)

    calls: list[Call] = [
        lambda client: client.create_user(),
        lambda client: client.new_session(user.id),
        lambda client: client.list_user_avatars(user.id),
        lambda client: client.new_avatar(user.id),
        lambda client: client.get_customization(avatar.id),
        lambda client: client.set_customization(avatar.id, customization),
        delete_new,
        lambda client: client.render_user_avatar(avatar.id),
        lambda client: client.create_export(avatar.id),
        lambda client: client.request("GET", f"/api/v1/users/{user.id}/avatars"),
        upload,
        lambda client: client.download(file_url, folder / "avatar.glb"),
        stream,
        lambda client: wait_for_avatar(client, user.id, avatar.id, timeout=30),
        lambda client: wait_for_new_avatar(client, user.id, known=(), timeout=30),
        lambda client: export_avatar(client, avatar.id, folder / "avatar.glb", timeout=30, poll=POLL),
        lambda client: create_avatar(client, user.id, customization=customization, timeout=30, poll=POLL, **PHOTOS),
        accept,
        use,
    ]
    (folder / "avatar.glb").touch()
    nothing = stepper.look()

    async def make_client() -> None:
        clients[:] = [make()]

    async def close(_: Outcome) -> None:
        """See that the client still works, and that nothing is left when it is closed."""
        if clients[0] not in closed:
            await clients[0].list_user_avatars(user.id)
        await clients[0].close()
        await stepper.check_nothing_left(nothing)

    closed: list[AvaturnClient] = []
    for call in calls:

        async def run(call: Call = call) -> None:
            if call is use:
                closed.append(clients[0])
            await call(clients[0])

        # What a client keeps open, such as an idle connection, ends with its close().
        await stepper.cancel_each(run, before=make_client, after=close, is_kept=True, is_kept_when_cancelled=True)


def test_close_of_a_client_leaves_nothing_when_it_is_cancelled(url: str) -> None:
    run_steps(lambda stepper: check_client_close(stepper, url))


async def check_client_close(stepper: Stepper, url: str) -> None:
    clients: list[AvaturnClient] = []
    async with AvaturnClient("token", base_url=url) as client:
        user = await client.create_user()
        avatar = await create_avatar(
            client, user.id, customization=Customization(body="body_0"), timeout=30, poll=POLL, **PHOTOS
        )
        file_url = (await wait_for_export(client, avatar.id, timeout=30, poll=POLL)).url
    assert file_url is not None
    nothing = stepper.look()
    transfers: list[asyncio.Task[None]] = []

    async def start() -> None:
        client = AvaturnClient("token", base_url=url)
        await client.list_user_avatars(user.id)
        started = asyncio.Event()

        async def hold() -> None:
            async with client.open_download(file_url):
                started.set()
                await asyncio.sleep(0.05)

        transfers[:] = [asyncio.create_task(hold())]
        await started.wait()
        clients[:] = [client]

    async def close() -> None:
        await clients[0].close()

    async def check(_: Outcome) -> None:
        await asyncio.gather(*transfers, return_exceptions=True)
        await stepper.check_nothing_left(nothing, "close()")

    await stepper.cancel_each(close, before=start, after=check, first=1)
