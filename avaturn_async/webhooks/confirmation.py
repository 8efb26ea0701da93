"""ConfirmByApi: take the facts of an event from the API, not from the POST.

Avaturn has not published how its webhooks are signed, so a POST is only a reason to call the API. Calls are sent only
for ids that the router's store knows, so that made-up ids cannot make this process flood the API.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import attrs

from avaturn_async._validation import validate_positive
from avaturn_async.errors import AvaturnError, NotFoundError, UnknownSessionError
from avaturn_async.models import Avatar, ScanStatus, TaskStatus
from avaturn_async.webhooks import routing
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady

if TYPE_CHECKING:
    from avaturn_async.client import AvaturnClient
    from avaturn_async.webhooks.router import SessionRouter

__all__ = ["ConfirmByApi"]

T = TypeVar("T")
_UNFINISHED = (ScanStatus.PENDING, ScanStatus.PROCESSING)
_NOT_RAW = ("raw", "position")


class ConfirmByApi:
    """Check with the API whether an event is true, and replace its fields by what the API returns.

    An avatar must be in the list of the user whose session it belongs to, and gets the status of that list. An export
    gets the status and the URL that ``create_export`` returns. A render must have been requested through the router;
    its URL cannot be confirmed: download it with ``client.download`` only, which refuses private addresses.

    Args:
        client: Sends the requests; or a function without arguments that returns the client, for a client that can only
            be created in a running event loop.
        router: Its store knows the sessions, avatars and renders.
        max_concurrency: API requests at a time.
        render_timeout: Seconds to wait for the response of a render request whose event arrives first.

    Raises:
        TypeError: ``client`` or ``router`` has another type.
        ValueError: A number is not above zero.
    """

    def __init__(
        self,
        client: AvaturnClient | Callable[[], AvaturnClient],
        router: SessionRouter,
        *,
        max_concurrency: int = 8,
        render_timeout: float = 10.0,
    ) -> None:
        given: Any = client
        is_client = hasattr(given, "list_user_avatars") or callable(given)
        if isinstance(given, type) or not is_client or not hasattr(router, "bus"):
            kinds = f"{type(given).__name__} and {type(router).__name__}"
            raise TypeError(f"ConfirmByApi takes an AvaturnClient and a SessionRouter, not {kinds}")
        validate_positive(max_concurrency=max_concurrency, render_timeout=render_timeout)
        self._client = client
        self._bus = router.bus
        self._max_concurrency = max_concurrency
        self._render_timeout = render_timeout
        # The loop that the attributes below belong to.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(max_concurrency)
        # Requests in flight, which equal ones share.
        self._in_flight: dict[tuple[str, object], asyncio.Future[Any]] = {}
        # Number of callers that wait for each of them.
        self._callers: Counter[asyncio.Future[Any]] = Counter()

    async def check(self, event: Event) -> Event | None:
        """Return the confirmed event, with ``raw`` built from the confirmed fields; None if the API refutes it.

        Raises:
            UnknownSessionError: The event names a session that was not opened through this router's store.
            AvaturnError: The API is unavailable, or has not finished the task yet: the sender must try again.
        """
        match event:
            case AvatarReady():
                return await self._confirm_avatar(event)
            case ExportReady():
                return await self._confirm_export(event)
            case RenderReady():
                return await self._confirm_render(event)
            case _:
                return None

    async def _confirm_avatar(self, event: AvatarReady) -> Event | None:
        if event.session_id is None:
            session = await self._bus.find_owner(event.avatar_id)
        else:
            session = await self._bus.find_opened(event.session_id)
            if session is None:
                raise _get_unknown_session(event)
        if session is None:
            return None
        # Never the user that the POST names: a session has the avatars of its own user only.
        status = await self._get_avatar_status(session.user_id, event.avatar_id)
        if status is None:
            return None
        if status in _UNFINISHED:
            raise AvaturnError(f"avatar {event.avatar_id} is still {status}")
        return _replace_facts(event, user_id=session.user_id, status=status)

    async def _confirm_export(self, event: ExportReady) -> Event | None:
        facts = await self._find_facts(event, requester=None)
        if facts is None:
            return None
        try:
            export = await self._request_shared(
                ("export", event.avatar_id),
                lambda: self._get_client().create_export(event.avatar_id),
                is_final=lambda export: export.status != TaskStatus.PENDING,
            )
        except NotFoundError:
            return None
        if export.status == TaskStatus.PENDING:
            raise AvaturnError(f"the export of avatar {event.avatar_id} is still pending")
        return _replace_facts(event, **facts, status=export.status, export_url=export.url)

    async def _confirm_render(self, event: RenderReady) -> Event | None:
        requester = await self._find_requester(event)
        if requester is None:
            if event.session_id is not None and await self._bus.find_opened(event.session_id) is None:
                raise _get_unknown_session(event)
            return None
        facts = await self._find_facts(event, requester=requester)
        return None if facts is None else _replace_facts(event, **facts)

    async def _find_requester(self, event: RenderReady) -> routing.Opened | None:
        """Return the session that requested a render. Wait while a request for its avatar has no response yet."""
        topics = [f"render:{event.id}", f"asking:{event.avatar_id}"]
        with self._bus.waiting(topics) as notified:
            try:
                async with asyncio.timeout(self._render_timeout):
                    while True:
                        notified.clear()
                        entries = await self._bus.read_all(topics)
                        owner = routing.find_owner(entries, avatar_id=event.avatar_id, render_id=event.id)
                        if owner is not None or not routing.has_open_requests(entries):
                            break
                        self._bus.check_open()
                        await notified.wait()
            except TimeoutError:
                raise AvaturnError(
                    f"render {event.id} is unknown, and a render of avatar {event.avatar_id} is being requested"
                ) from None
        return None if owner is None else await self._bus.find_opened(owner)

    async def _find_facts(
        self, event: ExportReady | RenderReady, *, requester: routing.Opened | None
    ) -> dict[str, Any] | None:
        """Return the user and the session to replace those of the POST; None if the avatar is not of a known user.

        The session that the POST names is kept if it is one of the avatar's user. If not, the event still belongs to
        the session of its render or its avatar.
        """
        owner = await self._bus.find_owner(event.avatar_id)
        named = None if event.session_id is None else await self._bus.find_opened(event.session_id)
        session = requester or owner or named
        if session is None:
            if event.session_id is not None:
                raise _get_unknown_session(event)
            return None
        is_users_avatar = owner is not None and owner.user_id == session.user_id
        if not is_users_avatar and await self._get_avatar_status(session.user_id, event.avatar_id) is None:
            return None
        is_users_session = named is not None and named.user_id == session.user_id
        return {"user_id": session.user_id, "session_id": event.session_id if is_users_session else None}

    async def _get_avatar_status(self, user_id: str, avatar_id: UUID) -> ScanStatus | None:
        """Return the status of an avatar; None if the user does not have it."""

        def find(avatars: tuple[Avatar, ...]) -> ScanStatus | None:
            return next((avatar.status for avatar in avatars if avatar.id == avatar_id), None)

        try:
            avatars = await self._request_shared(
                ("avatars", user_id),
                lambda: self._get_client().list_user_avatars(user_id, include_not_ready=True),
                is_final=lambda avatars: find(avatars) not in (None, *_UNFINISHED),
            )
        except NotFoundError:
            return None
        return find(avatars)

    def _get_client(self) -> AvaturnClient:
        client: Any = self._client
        return cast("AvaturnClient", client if hasattr(client, "list_user_avatars") else client())

    async def _request_shared(
        self, key: tuple[str, object], call: Callable[[], Awaitable[T]], *, is_final: Callable[[T], bool]
    ) -> T:
        """Return the result of a call, which is shared with equal calls in flight."""
        joined = key in self._in_flight
        result = await self._join(key, call)
        if joined and not is_final(result):
            # The call that was joined may have been sent before the thing happened that this event reports.
            result = await self._join(key, call)
        return result

    async def _join(self, key: tuple[str, object], call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._slots = asyncio.Semaphore(self._max_concurrency)
            self._in_flight = {}
        request = self._in_flight.get(key)
        if request is None or request.done():  # an eager task can be done here, and forgotten a tick later
            request = self._in_flight[key] = loop.create_task(self._call_in_slot(call), name=f"confirm {key[0]}")
            request.add_done_callback(lambda done: self._on_done(key, done))
        self._callers[request] += 1
        try:
            # The call is shared: the cancellation of one caller must not end it for the rest.
            result: T = await asyncio.shield(request)
        finally:
            self._callers[request] -= 1
            if not self._callers[request]:
                del self._callers[request]
                if not request.done():
                    # All callers were cancelled. The next one must not join a call that ends.
                    self._forget(key, request)
                    request.cancel()
        return result

    async def _call_in_slot(self, call: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            return await call()

    def _forget(self, key: tuple[str, object], request: asyncio.Future[Any]) -> None:
        if self._in_flight.get(key) is request:
            del self._in_flight[key]

    def _on_done(self, key: tuple[str, object], request: asyncio.Future[Any]) -> None:
        self._forget(key, request)
        if not request.cancelled():
            request.exception()  # all callers may have been cancelled


def _get_unknown_session(event: Event) -> UnknownSessionError:
    return UnknownSessionError(
        f"session {event.session_id} is unknown: was it opened through this router's store?"
        " several workers need a shared store"
    )


def _replace_facts(event: AvatarReady | ExportReady | RenderReady, **facts: Any) -> Event:
    """Return the event with these facts, and with nothing in ``raw`` that only the POST said."""
    confirmed = attrs.evolve(event, **facts)
    fields = attrs.asdict(confirmed, recurse=False)
    raw = {name: str(value) for name, value in fields.items() if name not in _NOT_RAW and value is not None}
    return attrs.evolve(confirmed, raw=raw)
