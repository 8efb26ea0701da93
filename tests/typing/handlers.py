"""Handlers are checked against the event that they are registered for. Checked by type checkers, never run."""

from typing import assert_type
from uuid import UUID

from avaturn_async.webhooks import (
    AvatarReady,
    Event,
    ExportReady,
    RenderReady,
    RoutedSession,
    SessionRouter,
    UnknownEvent,
)

router = SessionRouter()


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


class Service:
    async def avatar(self, event: AvatarReady, session: RoutedSession | None) -> None: ...
    async def render(self, event: RenderReady, session: RoutedSession | None) -> None: ...


async def a_decorator_leaves_the_function_as_it_is(event: AvatarReady) -> None:
    assert_type(await unknown(UnknownEvent(event="x"), None), int)
    await router.on(AvatarReady)(Service().avatar)(event, None)


async def of_any_event(event: Event, session: RoutedSession | None) -> None: ...
async def without_session(event: RenderReady) -> None: ...
def not_async(event: RenderReady, session: RoutedSession | None) -> None: ...
async def of_known_sessions(event: RenderReady, session: RoutedSession) -> None: ...
async def with_more(event: RenderReady, session: RoutedSession | None, more: int) -> None: ...
async def of_known_events(event: AvatarReady | ExportReady | RenderReady) -> None: ...


router.on(AvatarReady)(of_any_event)
router.on(RenderReady)(of_any_event)

# What is not refused any more fails the check: mypy warns of the ignore that is not needed, and so does pyright.
router.on(RenderReady)(Service().avatar)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(AvatarReady)(Service().render)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(ExportReady)(unknown)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(UnknownEvent)(both)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(RenderReady)(without_session)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(RenderReady)(not_async)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(RenderReady)(of_known_sessions)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(RenderReady)(with_more)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
router.on(str)(of_any_event)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
router.on_unrouted(of_known_events)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
router.on_unrouted(of_any_event)  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]
