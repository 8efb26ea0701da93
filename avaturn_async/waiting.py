"""Waiting for what Avaturn does in its own time: the webhook first, polling as the safety net.

Each function ends within a second of its ``timeout``, which is required. With a ``router`` the webhook wakes
it; a webhook that is lost, or a store that is away, only delays, since the API is asked as well, ever more
slowly. A poll that fails with 5xx, 429 or no connection is skipped; other errors of the API are raised.
However many wait for the same thing with the same client, one loop asks for it, as often as the first of
them said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from avaturn_async._arguments import customization_body
from avaturn_async._ids import as_uuid
from avaturn_async._polling import PollPolicy, deadline_of, first
from avaturn_async.errors import AvaturnError, AvaturnTimeoutError, StoreError, TaskFailedError
from avaturn_async.models import Avatar, Export, ScanStatus, TaskStatus

if TYPE_CHECKING:
    import os

    from avaturn_async._transfer import Photo
    from avaturn_async.client import AvaturnClient
    from avaturn_async.models import BodyType, Customization, NewAvatar
    from avaturn_async.webhooks import ExportReady, RenderReady, SessionRouter

__all__ = [
    "PollPolicy",
    "create_avatar",
    "export_avatar",
    "wait_for_avatar",
    "wait_for_export",
    "wait_for_render",
]

_POLL = PollPolicy()


async def wait_for_avatar(
    client: AvaturnClient,
    user_id: str,
    avatar_id: UUID | str,
    *,
    timeout: float,
    router: SessionRouter | None = None,
    poll: PollPolicy = _POLL,
) -> Avatar:
    """Wait until an avatar is ready.

    Args:
        client: Asks for the list of the user's avatars.
        user_id: The avatar's user.
        avatar_id: The avatar.
        timeout: Seconds in all.
        router: Gets the webhooks, if there is one.
        poll: How often the API is asked.

    Raises:
        TaskFailedError: The avatar failed.
        AvaturnTimeoutError: It was not ready in time.
    """
    avatar_id = as_uuid(avatar_id)

    async def ask() -> Avatar | None:
        avatars = await client.list_user_avatars(user_id, include_not_ready=True)
        return next((a for a in avatars if a.id == avatar_id and _ended(a.status)), None)

    async def hear(router: SessionRouter) -> Avatar | None:
        from avaturn_async.webhooks import AvatarReady  # noqa: PLC0415 - never loaded without a router

        event = await router.wait_for(AvatarReady, avatar_id=avatar_id, timeout=timeout)
        # That avatar.ready carries a status is not published.
        status = event.status
        return Avatar(id=avatar_id, status=status) if status is not None and _ended(status) else None

    async with deadline_of(timeout, f"avatar {avatar_id} was not ready"):
        avatar = await first(client, ("avatar", user_id, avatar_id), ask, poll, hear=hear, router=router)
    if avatar.status == ScanStatus.FAILED:
        raise TaskFailedError(f"avatar {avatar_id} failed")
    return avatar


async def wait_for_export(
    client: AvaturnClient,
    avatar_id: UUID | str,
    *,
    timeout: float,
    router: SessionRouter | None = None,
    poll: PollPolicy = _POLL,
) -> Export:
    """Ask for the export of an avatar and wait until it is ready; its ``url`` is temporary.

    Args:
        client: Asks for the export, and again until it is ready.
        avatar_id: The avatar.
        timeout: Seconds in all.
        router: Gets the webhooks, if there is one.
        poll: How often the API is asked.

    Raises:
        TaskFailedError: The export failed.
        AvaturnTimeoutError: It was not ready in time.
    """
    avatar_id = as_uuid(avatar_id)

    known: ExportReady | None = None

    async def ask() -> Export | None:
        export = await client.create_export(avatar_id)
        return export if _usable(export.status, export.url) else None

    async def hear(router: SessionRouter) -> Export | None:
        from avaturn_async.webhooks import ExportReady  # noqa: PLC0415 - never loaded without a router

        event = await router.wait_for(ExportReady, avatar_id=avatar_id, timeout=timeout, after=known)
        usable = _usable(event.status, event.export_url)
        return Export(status=event.status, url=event.export_url) if usable else None

    async with deadline_of(timeout, f"the export of avatar {avatar_id} was not ready"):
        if router is not None:
            known = await _latest_export(router, avatar_id)
        export = await first(client, ("export", avatar_id), ask, poll, hear=hear, router=router)
    if export.status == TaskStatus.FAILED:
        raise TaskFailedError(f"the export of avatar {avatar_id} failed")
    return export


async def wait_for_render(
    client: AvaturnClient,  # noqa: ARG001 - as the others; the API has no call that asks for a render
    render_id: UUID | str,
    *,
    timeout: float,
    router: SessionRouter,
) -> RenderReady:
    """Wait for the webhook of a render, which cannot be polled; its ``render_url`` is temporary.

    Args:
        client: For the day that renders can be asked for.
        render_id: What ``render_user_avatar`` answered as ``id``.
        timeout: Seconds in all.
        router: Gets the webhooks.

    Raises:
        TaskFailedError: The render failed.
        AvaturnTimeoutError: No webhook came in time.
    """
    from avaturn_async.webhooks import RenderReady  # noqa: PLC0415 - webhooks build on this side

    render_id = as_uuid(render_id, "render_id")
    event = await router.wait_for(RenderReady, render_id=render_id, timeout=timeout)
    if event.status == TaskStatus.FAILED:
        raise TaskFailedError(f"render {render_id} failed")
    return event


async def export_avatar(
    client: AvaturnClient,
    avatar_id: UUID | str,
    destination: str | os.PathLike[str],
    *,
    timeout: float,
    router: SessionRouter | None = None,
    on_progress: Callable[[int, int | None], Any] | None = None,
    poll: PollPolicy = _POLL,
) -> Path:
    """Export an avatar and download the GLB.

    Args:
        client: Asks for the export and downloads it.
        avatar_id: The avatar. One made from photos needs a customization first: see ``create_avatar``.
        destination: File or directory.
        timeout: Seconds in all, download included.
        router: Gets the webhooks, if there is one.
        on_progress: Called with (bytes done, bytes in all or None).
        poll: How often the API is asked.

    Returns:
        The path of the file.

    Raises:
        ValueError: The destination cannot be; no export was asked for.
        TaskFailedError: The export failed.
        AvaturnTimeoutError: The file was not on the disk in time.
        TransferError: It did not get across.
        OSError: It could not be written.
    """
    from avaturn_async._files import target_of  # noqa: PLC0415 - many a backend never carries a file

    async with deadline_of(timeout, f"the export of avatar {as_uuid(avatar_id)} was not on disk"):
        # Looked at again when the file comes; here so that nobody waits minutes to hear of a typing error.
        target_of(destination, "avatar.glb")
        export = await wait_for_export(client, avatar_id, timeout=timeout, router=router, poll=poll)
        return await client.download(cast("str", export.url), destination, on_progress=on_progress)


async def create_avatar(
    client: AvaturnClient,
    user_id: str,
    *,
    frontal: Photo,
    side_1: Photo,
    side_2: Photo,
    body_type: BodyType | str,
    customization: Customization,
    timeout: float,
    telephoto: bool = False,
    router: SessionRouter | None = None,
    on_progress: Callable[[int, int | None], Any] | None = None,
    poll: PollPolicy = _POLL,
) -> Avatar:
    """Make an avatar from photos, ready to be rendered and exported.

    An avatar made from photos is in an undefined state until a customization is set: hence the argument.
    When it goes wrong after the avatar was made, a note on the error (``__notes__``) names its id.

    Args:
        client: Makes the calls.
        user_id: Whose avatar it is.
        frontal: Photo from the front: a path, bytes or an open binary file.
        side_1: Photo from one side.
        side_2: Photo from the other side.
        body_type: ``male`` or ``female``.
        customization: What is set when the avatar is ready, such as ``Customization(body="body_0")``.
        timeout: Seconds in all.
        telephoto: Whether the photos were taken with a telephoto lens.
        router: Gets the webhooks, if there is one.
        on_progress: Called with (bytes sent, bytes in all) while the photos go up.
        poll: How often the API is asked.

    Returns:
        The avatar.

    Raises:
        ValueError: A photo is none, or another argument makes no sense; nothing was sent.
        TaskFailedError: The avatar failed.
        AvaturnTimeoutError: It was not ready in time.
        TransferError: The photos did not get across.
    """
    from avaturn_async._upload import form_of  # noqa: PLC0415 - many a backend never carries a file

    form: dict[str, Any] = {
        "frontal": frontal,
        "side_1": side_1,
        "side_2": side_2,
        "body_type": body_type,
        "telephoto": telephoto,
    }
    made: NewAvatar | None = None
    try:
        async with deadline_of(timeout, f"the avatar of user {user_id} was not ready"):
            # What cannot be sent is refused before an avatar is made for it.
            customization_body(customization)
            async with form_of(**form):
                pass
            made = await client.new_avatar(user_id)
            await client.upload_photos(made.upload_url, **form, on_progress=on_progress)
            avatar = await wait_for_avatar(
                client, user_id, made.avatar_id, timeout=timeout, router=router, poll=poll
            )
            await client.set_customization(made.avatar_id, customization)
    except AvaturnError as error:
        if made is not None:
            error.add_note(f"avatar {made.avatar_id} was made for it")
        raise
    return avatar


async def _latest_export(router: SessionRouter, avatar_id: UUID) -> ExportReady | None:
    """The newest event so far: it may be about an older version, and its URL may be over."""
    from avaturn_async.webhooks import ExportReady  # noqa: PLC0415 - never loaded without a router

    known: ExportReady | None = None
    # Without its store the router cannot tell, and polling has to do.
    with contextlib.suppress(AvaturnTimeoutError, StoreError):
        while True:
            known = await router.wait_for(ExportReady, avatar_id=avatar_id, timeout=0, after=known)
    return known


def _ended(status: str) -> bool:
    return status in {"ready", "failed"}


def _usable(status: str, url: str | None) -> bool:
    return status == TaskStatus.FAILED or (status == TaskStatus.READY and url is not None)
