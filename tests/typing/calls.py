"""What each of the ten calls gives, as a type checker sees it. Checked, never run."""

from pathlib import Path
from typing import Any, assert_type
from uuid import UUID

from avaturn_async import (
    Avatar,
    AvaturnClient,
    BodyType,
    Create,
    CreateOrEditExisting,
    Customization,
    EditExisting,
    Export,
    NewAvatar,
    Render,
    RenderFormat,
    ScanStatus,
    Session,
    TaskStatus,
    User,
    create_avatar,
    export_avatar,
    wait_for_avatar,
    wait_for_export,
    wait_for_render,
)
from avaturn_async.webhooks import RenderReady, SessionRouter


async def ten_calls(client: AvaturnClient, avatar_id: UUID) -> None:
    user = await client.create_user()
    assert_type(user, User)
    assert_type(user.id, str)
    session = await client.new_session(user.id)
    assert_type(session, Session)
    assert_type(session.id, UUID)
    assert_type(session.custom_upload_url, str | None)
    await client.new_session(user.id, CreateOrEditExisting())
    await client.new_session(user.id, Create(), timeout=5)
    await client.new_session(user.id, EditExisting(avatar_id=avatar_id))
    await client.new_session(user.id, EditExisting(avatar_id="0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"))
    avatars = await client.list_user_avatars(user.id, include_not_ready=True)
    assert_type(avatars, tuple[Avatar, ...])
    assert_type(avatars[0].status, ScanStatus)
    assert_type(await client.new_avatar(user.id), NewAvatar)
    customization = await client.get_customization(avatar_id)
    assert_type(customization, Customization)
    assert_type(customization.skin_tone_correction, float | None)
    await client.set_customization(str(avatar_id), customization)
    render = await client.render_user_avatar(avatar_id, format=RenderFormat.PNG)
    assert_type(render, Render)
    assert_type(render.status, TaskStatus)
    export = await client.create_export(avatar_id)
    assert_type(export, Export)
    assert_type(export.url, str | None)
    await client.delete_user_avatar(user.id, avatar_id)
    await client.delete_user(user.id)
    assert_type(await client.request("GET", "/api/v1/new"), Any)


async def beyond_the_ten(client: AvaturnClient, router: SessionRouter, avatar_id: UUID) -> None:
    await client.upload_photos("u", frontal=b"", side_1="a.jpg", side_2=Path("b.jpg"), body_type=BodyType.MALE)
    assert_type(await client.download("u", "."), Path)
    assert_type(await wait_for_avatar(client, "u", avatar_id, timeout=5), Avatar)
    assert_type(await wait_for_export(client, avatar_id, timeout=5, router=router), Export)
    assert_type(await wait_for_render(avatar_id, timeout=5, router=router), RenderReady)
    assert_type(await export_avatar(client, avatar_id, Path(), timeout=5), Path)
    avatar = await create_avatar(
        client,
        "u",
        frontal=b"",
        side_1=b"",
        side_2=b"",
        body_type="male",
        customization=Customization(body="body_0"),
        timeout=5,
    )
    assert_type(avatar, Avatar)


async def what_a_checker_refuses(client: AvaturnClient) -> None:
    await client.new_session(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.list_user_avatars("u", True)  # type: ignore[call-arg] # noqa: FBT003 # pyright: ignore[reportCallIssue]
    await client.new_session("u", {"type": "create"})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await wait_for_render("r", timeout=5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
