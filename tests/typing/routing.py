"""What the router gives and takes, as a type checker sees it. Checked, never run."""

from collections.abc import AsyncIterator
from typing import assert_never, assert_type
from uuid import UUID

from avaturn_async import AvaturnClient, Export, Render
from avaturn_async.webhooks import (
    AvatarReady,
    ConfirmByApi,
    Event,
    ExportReady,
    RenderReady,
    RoutedSession,
    SessionRouter,
    UnknownEvent,
    parse_event,
)


async def sessions(router: SessionRouter, client: AvaturnClient, avatar_id: UUID) -> None:
    session = await router.open_session(client, "user", context={"account": 42})
    assert_type(session, RoutedSession)
    assert_type(session.url, str | None)
    ready = await session.wait_for(AvatarReady, timeout=600)
    assert_type(ready, AvatarReady)
    assert_type(await session.wait_for(ExportReady, timeout=1, after=ready), ExportReady)
    assert_type(await router.wait_for(RenderReady, render_id="", timeout=1), RenderReady)
    assert_type(session.events(), AsyncIterator[Event])
    assert_type(await router.create_export(client, avatar_id, session=session), Export)
    assert_type(await router.render_user_avatar(client, avatar_id, session=session.id), Render)
    assert_type(await ConfirmByApi(client, router).check(ready), Event | None)
    assert_type(await router.session("0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"), RoutedSession)


async def what_a_checker_refuses(router: SessionRouter, session: RoutedSession) -> None:
    await session.wait_for(AvatarReady)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await session.wait_for(str, timeout=1)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    other: AvatarReady = await session.wait_for(ExportReady, timeout=1)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await router.wait_for(other, timeout=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def every_event(event: Event) -> str | None:
    match event:
        case AvatarReady():
            assert_type(event.user_id, str | None)
            return event.status
        case ExportReady():
            return event.export_url
        case RenderReady(id=render_id):
            assert_type(render_id, UUID)
            return event.render_url
        case UnknownEvent():
            return event.event
        case _:
            assert_never(event)


def an_event_that_is_forgotten(body: bytes) -> str | None:
    match parse_event(body):
        case AvatarReady() | ExportReady() | RenderReady() as event:
            return event.user_id
        case rest:
            assert_never(rest)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
