"""FakeAvaturn: a real server on loopback that stands in for Avaturn."""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, cast
from uuid import UUID

import attrs
from aiohttp import web
from yarl import URL

from avaturn_async._validation import format_id, get_kind, validate_type
from avaturn_async.testing.api import CUSTOMIZATION, Api, check_assets
from avaturn_async.testing.background import Background
from avaturn_async.testing.faults import Fault, PlannedFault, WebhookFault
from avaturn_async.testing.messages import HTTPError, Job, RecordedRequest, Reply, as_json, parse_body
from avaturn_async.testing.samples import read_sample_glb
from avaturn_async.testing.session_page import Page
from avaturn_async.testing.state import FakeState
from avaturn_async.testing.validators import refuse
from avaturn_async.testing.webhooks import NO_RETRIES, Delivery, Signer, Webhooks

_Answer = Callable[..., Reply]
"""Takes a RecordedRequest and, as keywords, the parameters of its path."""


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
        ValueError: ``webhook_url`` is not a URL with http or https, or ``token`` is empty.
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
        if token == "":
            raise ValueError("token must not be empty: None accepts any token")
        if sign is not None and (isinstance(sign, type) or not hasattr(sign, "sign")):
            raise TypeError(f"sign must be a verifier such as BasicAuth(user, password), not {get_kind(sign)}")
        self._address = (host, port)
        self._token = token
        self._sleep = sleep
        self._background = Background()
        self._faults: list[PlannedFault] = []
        # Is set, and replaced by a new one, when stalled responses go on.
        self._released = asyncio.Event()
        self._runner: web.AppRunner | None = None
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
            process=self._process,
            webhooks=self._webhooks,
            url_ttl=url_ttl,
            session_id_everywhere=session_id_in_all_events,
            glb=read_sample_glb() if glb is None else glb,
        )
        self.processing_delay = processing_delay
        self.export_url_type: Literal["httpURL", "dataURL"] = export_url_type
        self.face_animations = face_animations
        self.events: list[dict[str, Any]] = self._webhooks.events
        self.deliveries: list[Delivery] = self._webhooks.deliveries
        self.requests: list[RecordedRequest] = []
        self.violations: list[str] = []

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

    async def __aenter__(self) -> Self:
        api, page = Api(state=self._state), Page(state=self._state, fake=self)
        answers: dict[str, dict[str, _Answer]] = {
            "/api/v1/users/new": {"POST": api.create_user},
            "/api/v1/users/{user_id}": {"DELETE": api.delete_user},
            "/api/v1/users/{user_id}/avatars": {"GET": api.list_user_avatars},
            "/api/v1/users/{user_id}/avatars/{avatar_id}": {"DELETE": api.delete_user_avatar},
            "/api/v1/sessions/new": {"POST": api.new_session},
            "/api/v1/avatars/new": {"POST": api.new_avatar},
            "/api/v1/avatars/{avatar_id}/customization": {"GET": api.get_customization, "PUT": api.set_customization},
            "/api/v1/renders/new": {"POST": api.render_user_avatar},
            "/api/v1/exports/new": {"POST": api.create_export},
            "/upload/{avatar_id}": {"POST": api.upload},
            "/files/{path:.+}": {"GET": api.download, "HEAD": api.download},
            "/session/{session_id}": {"GET": page.show},
            "/session/{session_id}/state": {"GET": page.describe},
            "/session/{session_id}/photos": {"POST": page.photos},
            "/session/{session_id}/edit": {"POST": page.edit},
            "/session/{session_id}/finish": {"POST": page.finish},
            "/page/{name}": {"GET": page.part},
        }
        app = web.Application(middlewares=[self._refuse_unknown])
        for path, by_method in answers.items():
            for method, answer in by_method.items():
                checked = partial(self._authenticate, answer) if path.startswith("/api/") else answer
                app.router.add_route(method, path, partial(self._handle, checked))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        host, port = self._address
        await web.TCPSite(self._runner, host, port).start()
        self._state.url = str(URL.build(scheme="http", host=host, port=self._runner.addresses[0][1]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the server, cancel background tasks and release stalled responses. Calling it again does nothing."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self.release()
            await runner.cleanup()
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
            customization = cast("dict[str, Any]", json.loads(json.dumps(customization, default=str)))
            try:
                refuse(CUSTOMIZATION(customization, ()))
                check_assets(customization)
            except HTTPError as refused:
                raise ValueError(f"customization: {refused.args[1]}") from None
        avatar = self._state.enter(session)
        if customization is not None:
            self._state.customize(avatar, customization)
        task = self._background.spawn(self._state.process_avatar(avatar, session.id))
        if wait:
            await self._background.wait_for(task)
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
        self._faults.append(planned)
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
        self._released.set()
        self._released = asyncio.Event()

    def fail_webhooks(self, fault: WebhookFault, *, event: str | None = None, times: int | None = 1) -> None:
        """Apply a fault to the next webhooks.

        Args:
            fault: The fault.
            event: Type of the webhooks, such as ``export.ready``; by default any.
            times: Number of webhooks; None for all.

        Raises:
            ValueError: ``event`` is not a type of event.
            TypeError: ``fault`` is not a WebhookFault.
        """
        validate_type("fault", fault, WebhookFault, ": such as WebhookFault.drop()")
        if event not in {None, "avatar.ready", "export.ready", "render.ready"}:
            raise ValueError(f"event must be avatar.ready, export.ready or render.ready, not {event!r}")
        self._webhooks.plan(fault, event, math.inf if times is None else times)

    async def resend(self, *, everything: bool = False) -> None:
        """Send each webhook again that got no 2xx, or all webhooks."""
        await self._webhooks.resend(everything=everything)

    def fail_tasks(self, kind: str, *, times: int | None = 1) -> None:
        """Let the next avatars, exports or renders end as failed.

        Args:
            kind: ``avatar``, ``export`` or ``render``.
            times: Number of them; None for all.

        Raises:
            ValueError: ``kind`` is not one of these.
        """
        if kind not in {"avatar", "export", "render"}:
            raise ValueError(f"kind must be avatar, export or render, not {kind!r}")
        self._state.failures[kind] += math.inf if times is None else times

    async def _process(self) -> None:
        """Wait while an avatar, an export or a render is made."""
        await self._sleep(self.processing_delay)

    @web.middleware
    async def _refuse_unknown(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Refuse an unknown path or method as FastAPI does."""
        error = request.match_info.http_exception
        if error is None:
            return await handler(request)
        reply = as_json({"detail": error.reason}, status=error.status)
        if isinstance(error, web.HTTPMethodNotAllowed):
            reply = attrs.evolve(reply, headers={**reply.headers, "Allow": ", ".join(sorted(error.allowed_methods))})
        return await self._handle(lambda *_: reply, request)

    async def _handle(self, answer: _Answer, request: web.Request) -> web.StreamResponse:
        """Record a request, and answer it as its route and a planned fault say."""
        fault = self._take_fault(request)
        limit = math.inf if fault.reset_at is None else fault.reset_at
        received = bytearray()
        try:
            while len(received) < limit and (chunk := await request.content.readany()):
                received += chunk
        except (web.RequestPayloadError, ConnectionError):
            return web.Response(status=400)
        body = bytes(received)
        recorded = RecordedRequest(
            method=request.method,
            path=request.path,
            raw_path=request.raw_path,
            query=request.query,
            headers=request.headers,
            body=body,
            parsed=parse_body(request.headers.get("Content-Type", ""), body),
        )
        self.requests.append(recorded)
        if "Authorization" in request.headers and not request.path.startswith("/api/"):
            self.violations.append(f"{request.method} {request.path}: an Authorization header where none belongs")
        reply = Reply()
        if fault.execute:
            try:
                reply = answer(recorded, **request.match_info)
            except HTTPError as refused:
                reply = refused.reply
        sent = asyncio.Event()
        if reply.then is not None:
            self._background.spawn(_start_after(sent, reply.then))
        if fault.stall_at is not None:
            # A stalled response does not delay the job.
            sent.set()
        try:
            return await self._send(request, fault.response or reply, fault)
        except ConnectionError:
            # The client did not wait for the end of a stall.
            return web.Response()
        finally:
            sent.set()

    def _take_fault(self, request: web.Request) -> Fault:
        """Return the first planned fault that applies to a request; an empty one if none does."""
        for planned in self._faults:
            matches = planned.method in {None, request.method} and fnmatchcase(request.path, planned.path)
            if matches and planned.left > 0 and (fault := planned.apply()) is not None:
                return fault
        return Fault()

    def _authenticate(self, answer: _Answer, request: RecordedRequest, **parameters: str) -> Reply:
        """Return the answer to a request to the API; refuse one without the token (the body is an assumption)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token or self._token not in {None, token}:
            raise HTTPError(401, "Not authenticated")
        return answer(request, **parameters)

    async def _send(self, request: web.Request, reply: Reply, fault: Fault) -> web.StreamResponse:
        transport = cast("asyncio.Transport", request.transport)
        if fault.reset_at is not None:
            # RST in place of FIN, as a crashed process with unread data sends it.
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            return web.Response()
        if fault.delay:
            await self._sleep(fault.delay)
        if fault.stall_at == -1:
            await self._released.wait()
        stops = fault.cut_at if fault.cut_at is not None else fault.stall_at
        if stops is None or stops < 0:
            whole = web.Response(status=reply.status, body=reply.body, headers=reply.headers)
            await whole.prepare(request)
            await whole.write_eof()
            return whole
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.content_length = len(reply.body)
        body = b"" if request.method == "HEAD" else reply.body
        await response.prepare(request)
        await response.write(body[:stops])
        if fault.cut_at is not None:
            transport.close()
        else:
            await self._released.wait()
            await response.write(body[stops:])
        return response


async def _start_after(sent: asyncio.Event, job: Job) -> None:
    """Start a job after the response."""
    await sent.wait()
    await job()
