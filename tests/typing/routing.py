"""What the router gives and takes, as a type checker sees it. Checked, never run."""

from collections.abc import AsyncIterator
from typing import assert_type
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
)

router = SessionRouter()


async def sessions(client: AvaturnClient, avatar_id: UUID) -> None:
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
    await session.wait_for(AvatarReady)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await session.wait_for(str, timeout=1)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


@router.on(AvatarReady)
@router.on(ExportReady)
async def both(event: AvatarReady | ExportReady, session: RoutedSession | None) -> None:
    assert_type(event.avatar_id, UUID)
    assert_type(session, RoutedSession | None)


@router.on(UnknownEvent)
async def unknown(event: UnknownEvent, session: RoutedSession | None) -> int:
    return len(event.problems) + (session is None)


@router.on_unrouted
async def unrouted(event: Event) -> None:
    assert_type(event.event, str)


@router.on(RenderReady)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def of_another_event(event: AvatarReady, session: RoutedSession | None) -> None: ...


@router.on(RenderReady)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def without_session(event: RenderReady) -> None: ...


@router.on(RenderReady)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def not_async(event: RenderReady, session: RoutedSession | None) -> None: ...


@router.on(RenderReady)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def of_known_sessions(event: RenderReady, session: RoutedSession) -> None: ...
