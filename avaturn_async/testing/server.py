"""FakeAvaturn: a real server on loopback that stands in for Avaturn."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from uuid import UUID

from avaturn_async._validation import format_id, get_kind, validate_type
from avaturn_async.testing.api import Api, check_customization
from avaturn_async.testing.background import Background
from avaturn_async.testing.faults import Fault, PlannedFault, WebhookFault
from avaturn_async.testing.http_server import Answer, FakeServer
from avaturn_async.testing.messages import HTTPError, RecordedRequest
from avaturn_async.testing.samples import read_sample_glb
from avaturn_async.testing.session_page import Page
from avaturn_async.testing.state import FakeState
from avaturn_async.testing.webhooks import NO_RETRIES, Delivery, Signer, Webhooks


class FakeAvaturn:
    """Answers the ten calls with state, takes photos, serves files and sends signed webhooks.

    ::

        async with FakeAvaturn(webhook_url="http://127.0.0.1:8080/hook", sign=verifier) as fake:
            client = AvaturnClient("any token", base_url=fake.url)

    Args:
        webhook_url: Where webhooks are posted; without it none are. Also an attribute.
        sign: A Verifier, or an object with its ``sign()``; without it webhooks are not signed.
        token: The only accepted token; by default any that is not empty.
        processing_delay: Seconds that an avatar, an export or a render takes. With 0 it takes no time, but begins
            after the response. Also an attribute.
        url_ttl: Seconds until the URL of an export or a render expires. An upload URL does not expire here, since
            its lifetime is not published: ``fail(Fault.answer(403), path="/upload/*")``.
        session_id_in_all_events: Whether export.ready and render.ready have a ``session_id`` too, unlike in Avaturn's
            examples.
        glb: Content of exports; by default a small sample.
        export_url_type: What the session page exports: ``httpURL``, a temporary URL, or ``dataURL``, the GLB itself.
            Also an attribute.
        face_animations: The type of the avatars that the session page exports (``avatarSupportsFaceAnimations``).
            Also an attribute.
        seed: Makes all ids the same in every run.
        clock: Returns the time in seconds, for temporary URLs and rate limits.
        sleep: Waits some seconds, for processing and faults.
        webhook_timeout: Seconds that the receiver of a webhook has for its response.
        webhook_retries: Seconds before each retry of a webhook whose response was not a 2xx: ``NO_RETRIES``,
            ``SLACK_LIKE``, ``SVIX_LIKE``, or other numbers.
        host: Address to listen on.
        port: Port to listen on; by default a free one.

    Attributes:
        events: The events that were sent, or would have been with a ``webhook_url``, as JSON values.
        deliveries: Every attempt to deliver a webhook, with the status of the response.
        requests: Every request, in the order of arrival.
        violations: Wrong behaviour of a client that the server accepts, such as a token sent to an upload URL.

    Raises:
        ValueError: ``webhook_url`` is not a URL with http or https.
        TypeError: ``sign`` has no method ``sign()``.
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
        export_url_type: Literal["httpURL", "dataURL"] = "httpURL",
        face_animations: bool = False,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        webhook_timeout: float = 10.0,
        webhook_retries: Sequence[float] = NO_RETRIES,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if sign is not None and (isinstance(sign, type) or not hasattr(sign, "sign")):
            raise TypeError(f"sign must be a verifier such as BasicAuth(user, password), not {get_kind(sign)}")
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
        # Without a seed, credentials must not be guessable.
        rng = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311 - the caller's choice
        self._state = FakeState(
            rng=rng,
            clock=clock,
            sleep=sleep,
            webhooks=self._webhooks,
            url_ttl=url_ttl,
            delay=processing_delay,
            session_id_everywhere=session_id_in_all_events,
            glb=read_sample_glb() if glb is None else glb,
        )
        self._page = Page(state=self._state, export_url_type=export_url_type, face_animations=face_animations)
        routes = _make_routes(Api(state=self._state), self._page)
        self._http = FakeServer(routes=routes, token=token, background=self._background, sleep=sleep)
        self.events: list[dict[str, Any]] = self._webhooks.events
        self.deliveries: list[Delivery] = self._webhooks.deliveries
        self.requests: list[RecordedRequest] = self._http.requests
        self.violations: list[str] = self._http.violations

    @property
    def url(self) -> str:
        """The URL of the server: the ``base_url`` of a client.

        Raises:
            RuntimeError: The server was not started.
        """
        if not self._state.url:
            raise RuntimeError("FakeAvaturn was not started: use it in an async with block")
        return self._state.url

    @property
    def webhook_url(self) -> str | None:
        """Where webhooks are posted; None for nowhere."""
        return self._webhooks.url

    @webhook_url.setter
    def webhook_url(self, url: str | None) -> None:
        self._webhooks.url = url

    @property
    def processing_delay(self) -> float:
        """Seconds that an avatar, an export or a render takes."""
        return self._state.delay

    @processing_delay.setter
    def processing_delay(self, seconds: float) -> None:
        self._state.delay = seconds

    @property
    def export_url_type(self) -> Literal["httpURL", "dataURL"]:
        """The ``urlType`` that the session page exports."""
        return self._page.export_url_type

    @export_url_type.setter
    def export_url_type(self, url_type: Literal["httpURL", "dataURL"]) -> None:
        self._page.export_url_type = url_type

    @property
    def face_animations(self) -> bool:
        """The ``avatarSupportsFaceAnimations`` that the session page exports."""
        return self._page.face_animations

    @face_animations.setter
    def face_animations(self, supported: bool) -> None:
        self._page.face_animations = supported

    async def __aenter__(self) -> Self:
        self._state.url = await self._http.start(*self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the server, cancel background tasks and release stalled responses. Calling it again does nothing."""
        await self._http.close()
        await self._background.close()
        await self._webhooks.close()

    async def wait_idle(self) -> None:
        """Wait until processing has ended and every webhook was posted, also one that a fault holds back."""
        await self._background.wait_idle()
        while await self._webhooks.send_held():
            await self._background.wait_idle()

    async def finish_session(
        self, session_id: UUID | str, *, customization: dict[str, Any] | None = None, wait: bool = True
    ) -> UUID:
        """Do what a person does in the Avaturn UI: take the photos, or edit, and press Next.

        The type of the session decides whether it creates or edits an avatar; ``create_or_edit_existing`` edits the
        newest avatar of the user, if there is one.

        Args:
            session_id: The session.
            customization: The choice of the person, as JSON values (ids can be UUIDs); by default unchanged.
            wait: Return after the response to avatar.ready, not at once.

        Returns:
            The id of the avatar.

        Raises:
            LookupError: The session is unknown, or its avatar was deleted.
            ValueError: The customization or the id is invalid.
        """
        session = self._state.sessions.get(format_id(session_id, "session_id"))
        if session is None:
            raise LookupError(f"there is no session {session_id}")
        if customization is not None:
            # A copy: later changes of the caller's object do not change the avatar.
            customization = json.loads(json.dumps(customization, default=str))
            try:
                check_customization(customization)
            except HTTPError as refused:
                raise ValueError(f"customization: {refused.args[1]}") from None
        avatar = self._state.enter(session)
        if customization is not None:
            self._state.customize(avatar, customization)
        task = self._background.spawn(self._state.process_avatar(avatar, session.id))
        if wait:
            await asyncio.shield(task)
        return UUID(avatar.id)

    def expire_urls(self) -> None:
        """Let all URLs of exports and renders expire now."""
        for file in self._state.files.values():
            file.expires_at = -math.inf

    def fail(self, fault: Fault, *, path: str = "*", method: str | None = None, times: int | None = 1) -> PlannedFault:
        """Apply a fault to the next requests.

        Args:
            fault: The fault.
            path: Path of the requests as a shell pattern: ``/api/v1/exports/new``, ``/files/*``, ``/upload/*``. By
                default every path.
            method: HTTP method of the requests; by default any.
            times: Number of requests; None for all.

        Returns:
            The planned fault, which counts its requests and can be stopped.

        Raises:
            TypeError: ``fault`` is not a Fault.
        """
        validate_type("fault", fault, Fault, ": such as Fault.answer(500)")
        method = method.upper() if method else None
        left = math.inf if times is None else times
        planned = PlannedFault(fault=fault, method=method, path=path, left=left, clock=self._state.clock)
        self._http.faults.append(planned)
        return planned

    def rate_limit(self, calls: int, per: float, *, retry_after: bool = True, path: str = "/api/*") -> PlannedFault:
        """Answer requests above a rate with 429, until the returned plan is stopped.

        Args:
            calls: Requests that are allowed in each window.
            per: Seconds of the window, by the fake's clock.
            retry_after: Whether the 429 has a Retry-After, in whole seconds.
            path: The path of the requests, as a shell pattern.
        """
        return self.fail(Fault.rate_limit(calls, per, retry_after=retry_after), path=path, times=None)

    def release(self) -> None:
        """Continue all stalled responses."""
        self._http.release()

    def fail_webhooks(self, fault: WebhookFault, *, event: str | None = None, times: int = 1) -> None:
        """Apply a fault to the next webhooks.

        Args:
            fault: The fault.
            event: Type of the webhooks, such as ``export.ready``; by default any.
            times: Number of webhooks.

        Raises:
            ValueError: ``event`` is not a type of event.
            TypeError: ``fault`` is not a WebhookFault.
        """
        validate_type("fault", fault, WebhookFault, ": such as WebhookFault.drop()")
        if event not in {None, "avatar.ready", "export.ready", "render.ready"}:
            raise ValueError(f"event must be avatar.ready, export.ready or render.ready, not {event!r}")
        self._webhooks.faults += [(fault, event)] * times

    async def resend(self, *, everything: bool = False) -> None:
        """Send each webhook again that got no 2xx, or all webhooks."""
        await self._webhooks.resend(everything=everything)

    def fail_tasks(self, kind: str, *, times: int = 1) -> None:
        """Let the next avatars, exports or renders end as failed.

        Args:
            kind: ``avatar``, ``export`` or ``render``.
            times: Number of them.

        Raises:
            ValueError: ``kind`` is not one of these.
        """
        if kind not in {"avatar", "export", "render"}:
            raise ValueError(f"kind must be avatar, export or render, not {kind!r}")
        self._state.failures[kind] += times


def _make_routes(api: Api, page: Page) -> dict[tuple[str, str], Answer]:
    return {
        ("POST", "/api/v1/users/new"): api.create_user,
        ("DELETE", "/api/v1/users/{user_id}"): api.delete_user,
        ("GET", "/api/v1/users/{user_id}/avatars"): api.list_user_avatars,
        ("DELETE", "/api/v1/users/{user_id}/avatars/{avatar_id}"): api.delete_user_avatar,
        ("POST", "/api/v1/sessions/new"): api.new_session,
        ("POST", "/api/v1/avatars/new"): api.new_avatar,
        ("GET", "/api/v1/avatars/{avatar_id}/customization"): api.get_customization,
        ("PUT", "/api/v1/avatars/{avatar_id}/customization"): api.set_customization,
        ("POST", "/api/v1/renders/new"): api.render_user_avatar,
        ("POST", "/api/v1/exports/new"): api.create_export,
        ("POST", "/upload/{avatar_id}"): api.upload,
        ("GET", "/files/{path:.+}"): api.download,
        ("HEAD", "/files/{path:.+}"): api.download,
        ("GET", "/session/{session_id}"): page.show,
        ("GET", "/session/{session_id}/state"): page.describe,
        ("POST", "/session/{session_id}/photos"): page.photos,
        ("POST", "/session/{session_id}/edit"): page.edit,
        ("POST", "/session/{session_id}/finish"): page.finish,
        ("GET", "/page/{name}"): page.part,
    }
