"""The client's way to the transfers: made at first use, closed with the client, without the token."""

from __future__ import annotations

from pathlib import Path

import pytest

from avaturn_async import (
    AvaturnClient,
    ClientClosedError,
    Customization,
    PollPolicy,
    create_avatar,
    export_avatar,
)
from avaturn_async.testing import FakeAvaturn

PHOTO = b"\xff\xd8\xff\xe0" + bytes(2000)


async def test_photos_go_up_and_the_glb_comes_down_without_the_token(tmp_path: Path) -> None:
    sent: list[tuple[int, int | None]] = []
    async with FakeAvaturn() as fake, AvaturnClient("any-token", base_url=fake.url) as client:
        user = await client.create_user()
        avatar = await create_avatar(
            client,
            user.id,
            frontal=PHOTO,
            side_1=PHOTO,
            side_2=PHOTO,
            body_type="female",
            customization=Customization(body="body_1"),
            timeout=30,
            on_progress=lambda done, total: sent.append((done, total)),
            poll=PollPolicy(first=0),
        )
        path = await export_avatar(client, avatar.id, tmp_path, timeout=30, poll=PollPolicy(first=0))
        assert (await client.get_customization(avatar.id)).body == "body_1"
    assert path.read_bytes().startswith(b"glTF")
    assert sent[-1][0] == sent[-1][1]
    assert fake.complaints == []
    assert len([r for r in fake.requests if r.path == "/api/v1/users/new"]) == 1


async def test_a_closed_client_carries_nothing(tmp_path: Path) -> None:
    async with FakeAvaturn() as fake:
        client = AvaturnClient("any-token", base_url=fake.url)
        await client.close()
        with pytest.raises(ClientClosedError, match="make a new one"):
            await client.download(f"{fake.url}/x.glb", tmp_path)
        with pytest.raises(ClientClosedError, match="make a new one"):
            await client.upload_photos(fake.url, frontal=PHOTO, side_1=PHOTO, side_2=PHOTO, body_type="male")
    assert fake.requests == []
