"""Wait for avatars, exports and renders: the webhook or polling, whichever brings the result first.

Each function needs a ``timeout`` in seconds for the whole wait, and ends with AvaturnTimeoutError when it expires. With
a ``router`` the webhook ends the wait. If the webhook is lost or the store is unavailable, polling (with backoff) still
returns the result, only later. A poll that fails with 5xx, 429 or without a connection is repeated; other errors of
the API are raised. Errors that concern a known avatar have its id in ``avatar_id``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from attrs import Attribute, field, frozen

from avaturn_async._avatar_list import find_avatar, list_avatars
from avaturn_async._converter import encode_customization
from avaturn_async._validation import (
    parse_id,
    validate_client,
    validate_on_progress,
    validate_seconds,
    validate_seconds_field,
    validate_type,
)
from avaturn_async.errors import (
    AvaturnConnectionError,
    AvaturnDecodeError,
    AvaturnError,
    AvaturnStatusError,
    AvaturnTimeoutError,
    RateLimitError,
    ServerError,
    StoreError,
    TaskFailedError,
)
from avaturn_async.models import Avatar, Export, ScanStatus, TaskStatus

if TYPE_CHECKING:
    import os

    from avaturn_async.client import AvaturnClient
    from avaturn_async.models import BodyType, Customization
    from avaturn_async.transfers.upload import Photo
    from avaturn_async.webhooks import AvatarReady, ExportReady, RenderReady, RoutedSession, SessionRouter

__all__ = [
    "PollPolicy",
    "create_avatar",
    "export_avatar",
    "wait_for_avatar",
    "wait_for_export",
    "wait_for_new_avatar",
    "wait_for_render",
]

_logger = logging.getLogger("avaturn_async.waiting")

T = TypeVar("T")
ErrorT = TypeVar("ErrorT", bound=BaseException)
MAX_FACTOR = 10


def _validate_factor(_: Any, attribute: Attribute[float], value: float) -> None:
    validate_seconds(attribute.name, value)
    if not 1 <= value <= MAX_FACTOR:
        raise ValueError(f"{attribute.name} must be a number from 1 to {MAX_FACTOR}, not {value!r}")


@frozen(kw_only=True)
class PollPolicy:
    """How often the API is polled.

    The n-th pause is a random number of seconds from the upper half of ``min(cap, first * factor ** n)``, so that
    many waiters that began together do not poll together.

    Raises:
        ValueError: A number is outside of its range.
    """

    first: float = field(default=1.0, validator=validate_seconds_field)
    """Seconds of the first pause."""
    factor: float = field(default=1.5, validator=_validate_factor)
    """Growth of the pauses, from 1 to 10."""
    cap: float = field(default=15.0, validator=validate_seconds_field)
    """Seconds of the longest pause."""

    def pause(self, n: int, random: Callable[[], float] = random.random) -> float:
        """Return the seconds of the n-th pause, counted from 0."""
        longest = min(self.cap, self.first * self.factor ** min(n, 100))
        return longest * (0.5 + random() / 2)


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
        client: Lists the avatars of the user.
        user_id: The user of the avatar.
        avatar_id: The avatar.
        timeout: Seconds for the whole wait.
        router: Receives the webhooks, if the program has one.
        poll: How often the list is requested.

    Returns:
        The avatar, with status ``ready``.

    Raises:
        TaskFailedError: The avatar failed.
        AvaturnTimeoutError: It was not ready in time.
        AvaturnDecodeError: The row of this avatar is not as documented.
    """
    avatar_id = parse_id(avatar_id)
    _validate(client, router, poll)

    async def poll_once() -> Avatar | None:
        avatar = await find_avatar(client, user_id, avatar_id)
        return avatar if avatar is not None and _is_done(avatar.status) else None

    async def wait_for_webhook(router: SessionRouter) -> Avatar | None:
        from avaturn_async.webhooks import AvatarReady  # noqa: PLC0415 - not needed without a router

        event = await router.wait_for(AvatarReady, avatar_id=avatar_id, timeout=timeout)
        # The status of avatar.ready is not documented.
        return Avatar(id=avatar_id, status=event.status) if event.status and _is_done(event.status) else None

    async with _deadline(timeout, f"avatar {avatar_id} was not ready", avatar_id):
        webhook = None if router is None else wait_for_webhook(router)
        avatar = await _get_first(poll_once, poll, webhook)
    if avatar.status == ScanStatus.FAILED:
        raise _with_avatar_id(TaskFailedError(f"avatar {avatar_id} failed"), avatar_id)
    return avatar


async def wait_for_new_avatar(
    client: AvaturnClient,
    user_id: str,
    *,
    known: Iterable[Avatar | UUID | str],
    timeout: float,
    session: RoutedSession | UUID | str | None = None,
    router: SessionRouter | None = None,
    poll: PollPolicy = _POLL,
) -> Avatar:
    """Wait for the avatar that a user makes in a session.

    ::

        known = await client.list_user_avatars(user.id, include_not_ready=True)
        session = await client.new_session(user.id)
        ...  # show session.url to the user
        avatar = await wait_for_new_avatar(client, user.id, known=known, timeout=1800)

    Polling finds an avatar that is not in ``known``, so it works without webhooks. With ``session`` the webhook of
    that session is waited for, too; it also brings an avatar of ``known`` that the user edited.

    Args:
        client: Lists the avatars of the user.
        user_id: The user of the session.
        known: Avatars, or their ids, that the user had before the session was opened.
        timeout: Seconds for the whole wait.
        session: What ``router.open_session`` returned, or the id of that session.
        router: The router, if ``session`` is an id.
        poll: How often the list is requested.

    Returns:
        The first new avatar that is ready.

    Raises:
        TaskFailedError: All new avatars failed.
        AvaturnTimeoutError: No new avatar was ready in time.
        AvaturnDecodeError: The row of a new avatar is not as documented.
        ValueError: ``router`` without ``session``, or the id of a session without ``router``.
        TypeError: An argument has another type; no request was sent.
    """
    _validate(client, router, poll)
    if router is not None and session is None:
        raise ValueError("router= needs session=: a router alone does not know which session to wait for")
    session_id: UUID | None = None
    if isinstance(session, UUID | str):
        if router is None:
            raise ValueError("session= is an id: give router= as well, or what router.open_session returned")
        session_id = parse_id(session, "session")
    elif session is not None:
        if not hasattr(session, "router"):
            kind = type(session).__name__
            raise TypeError(f"session must be what router.open_session returned, or an id with router=, not {kind}")
        session_id, router = session.id, session.router
    if isinstance(known, str | UUID | Avatar) or not isinstance(known, Iterable):
        raise TypeError(f"known must be avatars or ids, such as () or a list, not one {type(known).__name__}")
    known_ids = {avatar.id if isinstance(avatar, Avatar) else parse_id(avatar, "known") for avatar in known}

    async def poll_once() -> Avatar | None:
        rows = await list_avatars(client, user_id)
        new = [row for id_, row in rows.items() if id_ not in known_ids]
        drift = next((row for row in new if isinstance(row, AvaturnDecodeError)), None)
        if drift is not None:
            raise drift
        avatars = [row for row in new if isinstance(row, Avatar)]
        ready = next((avatar for avatar in avatars if avatar.status == ScanStatus.READY), None)
        if avatars and all(avatar.status == ScanStatus.FAILED for avatar in avatars):
            return avatars[0]
        return ready

    async def wait_for_webhook(session_id: UUID, router: SessionRouter) -> Avatar | None:
        from avaturn_async.webhooks import AvatarReady  # noqa: PLC0415 - not needed without a session

        event: AvatarReady | None = None
        while True:
            event = await router.wait_for(AvatarReady, session_id=session_id, timeout=timeout, after=event)
            status = event.status
            if status is None or not _is_done(status):
                avatar, _ = await _try_poll(partial(find_avatar, client, user_id, event.avatar_id))
                status = None if avatar is None else avatar.status
            if status == ScanStatus.READY:
                return Avatar(id=event.avatar_id, status=status)

    async with _deadline(timeout, f"user {user_id} had no new avatar"):
        webhook = None if session_id is None or router is None else wait_for_webhook(session_id, router)
        avatar = await _get_first(poll_once, poll, webhook)
    if avatar.status == ScanStatus.FAILED:
        raise _with_avatar_id(TaskFailedError(f"avatar {avatar.id} failed"), avatar.id)
    return avatar


async def wait_for_export(
    client: AvaturnClient,
    avatar_id: UUID | str,
    *,
    timeout: float,
    router: SessionRouter | None = None,
    poll: PollPolicy = _POLL,
) -> Export:
    """Request the export of an avatar and wait until it is ready.

    Args:
        client: Requests the export, repeatedly until it is ready.
        avatar_id: The avatar.
        timeout: Seconds for the whole wait.
        router: Receives the webhooks, if the program has one.
        poll: How often the export is requested.

    Returns:
        The export. Its ``url`` is temporary: download the file at once.

    Raises:
        TaskFailedError: The export failed.
        AvaturnTimeoutError: It was not ready in time.
    """
    avatar_id = parse_id(avatar_id)
    _validate(client, router, poll)

    async def poll_once() -> Export | None:
        export = await client.create_export(avatar_id)
        return export if _is_usable(export.status, export.url) else None

    async def wait_for_webhook(router: SessionRouter, after: ExportReady | None) -> Export | None:
        from avaturn_async.webhooks import ExportReady  # noqa: PLC0415 - not needed without a router

        event = await router.wait_for(ExportReady, avatar_id=avatar_id, timeout=timeout, after=after)
        usable = _is_usable(event.status, event.export_url)
        return Export(status=event.status, url=event.export_url) if usable else None

    async with _deadline(timeout, f"the export of avatar {avatar_id} was not ready", avatar_id):
        webhook = None
        if router is not None:
            # An earlier event can be about an older version of the avatar, and its URL can have expired. A store that
            # is unavailable cannot tell which events are earlier, so only polling is left.
            with contextlib.suppress(StoreError):
                webhook = wait_for_webhook(router, await _get_latest_export(router, avatar_id))
        export = await _get_first(poll_once, poll, webhook)
    if export.status == TaskStatus.FAILED:
        raise _with_avatar_id(TaskFailedError(f"the export of avatar {avatar_id} failed"), avatar_id)
    return export


async def wait_for_render(render_id: UUID | str, *, timeout: float, router: SessionRouter) -> RenderReady:
    """Wait for the webhook of a render. The API has no call that returns a render, so it cannot be polled.

    Args:
        render_id: The ``id`` that ``render_user_avatar`` returned.
        timeout: Seconds for the whole wait.
        router: Receives the webhooks.

    Returns:
        The event. Its ``render_url`` is temporary (15 minutes): download the image at once.

    Raises:
        TaskFailedError: The render failed.
        AvaturnTimeoutError: No webhook came in time.
    """
    from avaturn_async.webhooks import RenderReady  # noqa: PLC0415 - the webhook side imports this side

    render_id = parse_id(render_id, "render_id")
    _validate(None, router, _POLL)
    event = await router.wait_for(RenderReady, render_id=render_id, timeout=timeout)
    if event.status == TaskStatus.FAILED:
        raise _with_avatar_id(TaskFailedError(f"render {render_id} failed"), event.avatar_id)
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
        client: Requests the export and downloads the file.
        avatar_id: The avatar. An avatar made from photos needs a customization first: see ``create_avatar``.
        destination: File or directory.
        timeout: Seconds for everything, download included.
        router: Receives the webhooks, if the program has one.
        on_progress: Called with the bytes received and the bytes in all, or None while the size is unknown.
        poll: How often the export is requested.

    Returns:
        The path of the file.

    Raises:
        ValueError: The destination cannot be written; no export was requested.
        TypeError: ``on_progress`` is not a plain function; no export was requested.
        TaskFailedError: The export failed.
        AvaturnTimeoutError: The file was not complete in time.
        TransferError: The download failed.
        OSError: The file could not be written.
    """
    from avaturn_async.transfers.partial_file import resolve_destination  # noqa: PLC0415 - not needed by most backends

    avatar_id = parse_id(avatar_id)
    validate_on_progress(on_progress)
    async with _deadline(timeout, f"the export of avatar {avatar_id} was not on disk", avatar_id):
        # download() checks it again; checked first so that a mistake shows before minutes of waiting.
        resolve_destination(destination, "avatar.glb")
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
    avatar_id: UUID | str | None = None,
    on_created: Callable[[UUID], Any] | None = None,
    router: SessionRouter | None = None,
    on_progress: Callable[[int, int], Any] | None = None,
    poll: PollPolicy = _POLL,
) -> Avatar:
    """Make an avatar from photos, ready to be rendered and exported.

    An avatar made from photos is in an undefined state until a customization is set; hence the argument.

    A program that can be interrupted stores the id that ``on_created`` receives, and passes it as ``avatar_id`` in
    its next run. Then no other avatar is made: the call waits for this one and sets its customization. If that avatar
    never received its photos, it stays ``pending`` and the call ends with AvaturnTimeoutError: delete it and make
    another one, since the API returns the upload URL only once.

    Args:
        client: Makes the calls.
        user_id: The user of the avatar.
        frontal: Photo from the front: a path, bytes or an open binary file.
        side_1: Photo from one side.
        side_2: Photo from the other side.
        body_type: ``male`` or ``female``.
        customization: What is set when the avatar is ready, such as ``Customization(body="body_0")``.
        timeout: Seconds for everything.
        telephoto: Whether the photos were taken with a telephoto lens.
        avatar_id: An avatar that an earlier call made; the photos are not sent again.
        on_created: Called with the id as soon as the avatar exists; awaited if it returns an awaitable.
        router: Receives the webhooks, if the program has one.
        on_progress: Called with the bytes sent and the bytes in all while the photos are uploaded.
        poll: How often the list of avatars is requested.

    Returns:
        The avatar.

    Raises:
        ValueError: A photo is not usable, or another argument is invalid; no request was sent.
        TypeError: ``on_progress`` or ``on_created`` cannot be called as documented; no request was sent.
        TaskFailedError: The avatar failed.
        AvaturnTimeoutError: It was not ready in time.
        TransferError: The upload of the photos failed.
    """
    from avaturn_async.transfers.upload import validate_photos  # noqa: PLC0415 - not needed by most backends

    form: dict[str, Any] = {
        "frontal": frontal,
        "side_1": side_1,
        "side_2": side_2,
        "body_type": body_type,
        "telephoto": telephoto,
    }
    made = None if avatar_id is None else parse_id(avatar_id)
    _validate(client, router, poll)
    validate_on_progress(on_progress)
    if on_created is not None and not callable(on_created):
        raise TypeError(f"on_created must be callable, not {type(on_created).__name__}")
    try:
        async with _deadline(timeout, f"the avatar of user {user_id} was not ready"):
            # Photos and customization are checked before an avatar is made for them.
            encode_customization(customization)
            if made is None:
                await validate_photos(**form)
                new = await client.new_avatar(user_id)
                made = new.avatar_id
                if on_created is not None:
                    result = on_created(made)
                    if inspect.isawaitable(result):
                        await result
                await client.upload_photos(new.upload_url, **form, on_progress=on_progress)
            avatar = await wait_for_avatar(client, user_id, made, timeout=timeout, router=router, poll=poll)
            await client.set_customization(made, customization)
    except AvaturnError as error:
        _with_avatar_id(error, made)
        raise
    return avatar


def _validate(client: Any, router: Any, poll: Any) -> None:
    """Refuse arguments that were mixed up, before a request is sent.

    Raises:
        TypeError: An argument has another type.
    """
    validate_client(client)
    if router is not None and not hasattr(router, "wait_for"):
        raise TypeError(f"router must be a SessionRouter, not {type(router).__name__}")
    validate_type("poll", poll, PollPolicy, ": give PollPolicy(first=5), for example")


@asynccontextmanager
async def _deadline(timeout: float, message: str, avatar_id: UUID | None = None) -> AsyncGenerator[None]:
    """Limit the time of a block; an AvaturnTimeoutError begins with ``message``. Errors get the avatar's id."""
    validate_seconds("timeout", timeout)
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            _with_avatar_id(error, avatar_id)
            raise
        expired = AvaturnTimeoutError(f"{message} within {timeout:g} s")
    except AvaturnError as error:
        _with_avatar_id(error, avatar_id)
        raise
    else:
        return
    raise _with_avatar_id(expired, avatar_id)


def _with_avatar_id(error: ErrorT, avatar_id: UUID | None) -> ErrorT:
    if isinstance(error, AvaturnError) and error.avatar_id is None:
        error.avatar_id = avatar_id
    return error


async def _get_first(
    poll_once: Callable[[], Awaitable[T | None]], poll: PollPolicy, webhook: Coroutine[Any, Any, T | None] | None
) -> T:
    """Return the result of polling or of the webhook, whichever comes first.

    Args:
        poll_once: Requests the result; None: there is no result yet.
        poll: The pauses between polls.
        webhook: Waits for the webhook; None: the event does not tell enough.
    """
    if webhook is None:
        return await _poll(poll_once, poll)
    polling = asyncio.create_task(_poll(poll_once, poll))
    waiting = asyncio.create_task(webhook)
    try:
        await asyncio.wait({polling, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not polling.done():
            result = await _get_webhook_result(waiting, poll_once)
            if result is not None:
                return result
        return await polling
    finally:
        for task in (polling, waiting):
            task.cancel()
        await asyncio.wait({polling, waiting})
        for task in (polling, waiting):
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio does not log it


async def _get_webhook_result(
    waiting: asyncio.Task[T | None], poll_once: Callable[[], Awaitable[T | None]]
) -> T | None:
    """Return the result of the webhook, or of a poll right now if the event does not tell enough."""
    try:
        result = waiting.result()
    except StoreError as error:
        _logger.debug("the store is unavailable, polling goes on: %s", error)
        return None
    return result if result is not None else (await _try_poll(poll_once))[0]


async def _poll(poll_once: Callable[[], Awaitable[T | None]], poll: PollPolicy) -> T:
    n = 0
    while True:
        result, retry_after = await _try_poll(poll_once)
        if result is not None:
            return result
        await asyncio.sleep(max(poll.pause(n), retry_after))
        n += 1


async def _try_poll(poll_once: Callable[[], Awaitable[T | None]]) -> tuple[T | None, float]:
    """Return the result, or None and the seconds for which the server asked not to repeat the request."""
    try:
        return await poll_once(), 0.0
    except (AvaturnConnectionError, RateLimitError, ServerError) as error:
        _logger.debug("poll failed, will retry: %s", error)
        retry_after = error.retry_after if isinstance(error, AvaturnStatusError) else None
        return None, retry_after or 0.0


async def _get_latest_export(router: SessionRouter, avatar_id: UUID) -> ExportReady | None:
    """Return the newest export event that arrived before."""
    from avaturn_async.webhooks import ExportReady  # noqa: PLC0415 - not needed without a router

    latest: ExportReady | None = None
    with contextlib.suppress(AvaturnTimeoutError):
        while True:
            latest = await router.wait_for(ExportReady, avatar_id=avatar_id, timeout=0, after=latest)
    return latest


def _is_done(status: str) -> bool:
    return status in {ScanStatus.READY, ScanStatus.FAILED}


def _is_usable(status: str, url: str | None) -> bool:
    return status == TaskStatus.FAILED or (status == TaskStatus.READY and url is not None)
