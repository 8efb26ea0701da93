"""FakeAvaturn: a real server on loopback that stands in for Avaturn."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from avaturn_async._ids import as_uuid
from avaturn_async.testing._api import Api, check_customization
from avaturn_async.testing._background import Background
from avaturn_async.testing._faults import Failing, Fault, WebhookFault
from avaturn_async.testing._files import Files
from avaturn_async.testing._http import Http
from avaturn_async.testing._page import Page
from avaturn_async.testing._requests import RecordedRequest, Refused
from avaturn_async.testing._routes import make_routes
from avaturn_async.testing._tasks import Tasks
from avaturn_async.testing._webhooks import NO_RETRIES, Delivery, Signer, Webhooks
from avaturn_async.testing._world import World

if TYPE_CHECKING:
    from types import TracebackType


class FakeAvaturn:
    """Answers the ten calls with state, takes photos, serves files and sends signed webhooks.

    ::

        async with FakeAvaturn(webhook_url="http://127.0.0.1:8080/hook", sign=verifier) as fake:
            client = AvaturnClient("any token", base_url=fake.url)

    Args:
        webhook_url: Where webhooks go; none are posted without it. Also an attribute, to be set later.
        sign: A Verifier, or anything with its ``sign()``; without it webhooks are not signed.
        token: The only token that is taken; by default any that is not empty.
        processing_delay: Seconds that an avatar, an export or a render takes. With 0 they are done at once,
            but after the answer. Also an attribute.
        url_ttl: Seconds until the URL of an export or a render expires. How long one for photos lives is not
            published, so that it does not expire here: ``fail(Fault.answer(403), path="/upload/*")``.
        session_id_in_all_events: Whether export.ready and render.ready name the session too, which the
            vendor's examples do not.
        glb: What exports contain; by default a small figure that a viewer shows.
        seed: Makes all ids the same in every run.
        clock: Seconds, for temporary URLs.
        sleep: Waits some seconds.
        webhook_timeout: Seconds that the receiver of a webhook has for its answer.
        webhook_retries: Seconds before each further attempt at a webhook that was not answered with a 2xx:
            ``NO_RETRIES``, ``SLACK_LIKE``, ``SVIX_LIKE``, or your own.
        host: The address to listen on.
        port: The port to listen on; by default a free one.

    Raises:
        ValueError: The webhook_url is not a URL with http or https, now or when it is set.
    """

    def __init__(
        self,
        webhook_url: str | None = None,
        sign: Signer | None = None,
        *,
        token: str | None = None,
        processing_delay: float = 0.0,
        url_ttl: float = 900.0,
        session_id_in_all_events: bool = False,
        glb: bytes | None = None,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        webhook_timeout: float = 10.0,
        webhook_retries: Sequence[float] = NO_RETRIES,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._address = (host, port)
        self._background = Background()
        self._webhooks = Webhooks(
            url=webhook_url,
            signer=sign,
            timeout=webhook_timeout,
            retries=webhook_retries,
            background=self._background,
            sleep=sleep,
        )
        # A seed is for tests; without one, credentials are not to be guessed.
        rng = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311 - asked for
        self._world = World(rng=rng, clock=clock, url_ttl=url_ttl)
        self._tasks = Tasks(
            world=self._world,
            webhooks=self._webhooks,
            sleep=sleep,
            delay=processing_delay,
            session_id_everywhere=session_id_in_all_events,
            glb=glb,
        )
        routes = make_routes(
            Api(world=self._world, tasks=self._tasks),
            Files(world=self._world, tasks=self._tasks),
            Page(world=self._world, tasks=self._tasks),
        )
        self._http = Http(routes=routes, token=token, background=self._background, sleep=sleep)

    @property
    def url(self) -> str:
        """Where it listens: the ``base_url`` of a client. Empty until it was entered."""
        return self._world.url

    @property
    def webhook_url(self) -> str | None:
        """Where webhooks go."""
        return self._webhooks.url

    @webhook_url.setter
    def webhook_url(self, url: str | None) -> None:
        self._webhooks.url = url

    @property
    def processing_delay(self) -> float:
        """Seconds that an avatar, an export or a render takes."""
        return self._tasks.delay

    @processing_delay.setter
    def processing_delay(self, seconds: float) -> None:
        self._tasks.delay = seconds

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that were sent, or would have been with a webhook_url."""
        return self._webhooks.events

    @property
    def deliveries(self) -> list[Delivery]:
        """Every attempt to deliver a webhook, with the status that it was answered."""
        return self._webhooks.deliveries

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request, in the order of arrival."""
        return self._http.requests

    @property
    def complaints(self) -> list[str]:
        """What a client did that works but is wrong, such as a token sent to an upload URL."""
        return self._http.complaints

    async def __aenter__(self) -> Self:
        self._world.url = await self._http.start(*self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop: what runs in the background is cancelled, what stalls is let go. Twice is fine."""
        await self._http.close()
        await self._background.close()
        await self._webhooks.close()

    async def settle(self) -> None:
        """Wait until nothing is being processed and every webhook, also a held one, was answered."""
        await self._background.settle()
        while await self._webhooks.send_held():
            await self._background.settle()

    async def finish_session(
        self, session_id: UUID | str, *, customization: dict[str, Any] | None = None, wait: bool = True
    ) -> UUID:
        """Do what the person does in the Avaturn UI: take the photos, or edit, and press Next.

        A session makes or edits an avatar by the rules of its type; ``create_or_edit_existing`` edits the
        newest avatar of the user, if there is one.

        Args:
            session_id: The session.
            customization: What the person chooses, as JSON values (ids may be UUIDs); by default what was, or
                the defaults.
            wait: Return when the avatar is processed and avatar.ready was answered, not at once.

        Returns:
            The id of the avatar.

        Raises:
            LookupError: There is no such session, or the avatar that it is about was deleted.
            ValueError: The customization does not fit, or the id is none.
        """
        session = self._world.sessions.get(as_uuid(session_id, "session_id"))
        if session is None:
            raise LookupError(f"there is no session {session_id}")
        if customization is not None:
            # A copy, so that what the caller does to theirs later does not change the avatar.
            customization = json.loads(json.dumps(customization, default=str))
            try:
                check_customization(customization)
            except Refused as refused:
                raise ValueError(f"customization: {refused.args[1]}") from None
        avatar = self._world.enter(session)
        if customization is not None:
            self._world.customize(avatar, customization)
        task = self._background.spawn(self._tasks.process_avatar(avatar, session.id))
        if wait:
            await asyncio.shield(task)
        return avatar.id

    def expire_urls(self) -> None:
        """Let every URL of an export or a render that was given out expire now."""
        for file in self._world.files.values():
            file.expires_at = -math.inf

    def fail(
        self, fault: Fault, *, path: str = "*", method: str | None = None, times: int | None = 1
    ) -> Failing:
        """Let something go wrong with the next requests.

        Args:
            fault: What.
            path: The path of those requests, as a shell pattern: ``/api/v1/exports/new``, ``/files/*``,
                ``/upload/*``. By default every path.
            method: Their HTTP method; by default any.
            times: How many of them; None for all.

        Returns:
            The plan, which says how often the fault has struck and can be stopped.
        """
        method = method.upper() if method else None
        return self._http.faults.add(fault, method=method, path=path, times=times)

    def release(self) -> None:
        """Let every answer that stalls go on."""
        self._http.release()

    def fail_webhooks(self, fault: WebhookFault, *, event: str | None = None, times: int = 1) -> None:
        """Let something go wrong with the next webhooks.

        Args:
            fault: What.
            event: Only with this event, such as ``export.ready``.
            times: How many of them.

        Raises:
            ValueError: There is no such event.
        """
        if event not in {None, "avatar.ready", "export.ready", "render.ready"}:
            raise ValueError(f"event must be avatar.ready, export.ready or render.ready, not {event!r}")
        self._webhooks.faults += [(fault, event)] * times

    async def resend(self, *, everything: bool = False) -> None:
        """Send the webhooks once more that no receiver accepted, or all of them."""
        await self._webhooks.resend(everything=everything)

    def fail_tasks(self, kind: str, *, times: int = 1) -> None:
        """Let the next avatars, exports or renders end as failed.

        Args:
            kind: ``avatar``, ``export`` or ``render``.
            times: How many of them.

        Raises:
            ValueError: There is no such kind.
        """
        if kind not in {"avatar", "export", "render"}:
            raise ValueError(f"kind must be avatar, export or render, not {kind!r}")
        self._tasks.failures[kind] += times
