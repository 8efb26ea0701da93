"""FakeAvaturn: a real server on loopback that stands in for Avaturn."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from aiohttp import web

from avaturn_async.models import as_uuid
from avaturn_async.testing._api import Api, check_assets
from avaturn_async.testing._background import Background
from avaturn_async.testing._files import Files
from avaturn_async.testing._page import Page
from avaturn_async.testing._requests import RecordedRequest, Refused, Reply, parse_body
from avaturn_async.testing._routes import Route, find_route, make_routes
from avaturn_async.testing._tasks import Tasks
from avaturn_async.testing._webhooks import Delivery, Signer, Webhooks
from avaturn_async.testing._world import World

if TYPE_CHECKING:
    from types import TracebackType

_LARGEST_BODY = 256 * 1024 * 1024


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
        url_ttl: Seconds until a temporary URL expires.
        session_id_in_all_events: Whether export.ready and render.ready name the session too, which the
            vendor's examples do not.
        glb: What exports contain; by default a small figure that a viewer shows.
        seed: Makes all ids the same in every run.
        clock: Seconds, for temporary URLs.
        sleep: Waits some seconds.
        webhook_timeout: Seconds that the receiver of a webhook has for its answer.
        host: The address to listen on.
        port: The port to listen on; by default a free one.
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
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._token = token
        self._address = (host, port)
        self._runner: web.AppRunner | None = None
        self._background = Background()
        self._webhooks = Webhooks(url=webhook_url, signer=sign, timeout=webhook_timeout)
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
        self._routes = make_routes(
            Api(world=self._world, tasks=self._tasks),
            Files(world=self._world, tasks=self._tasks),
            Page(world=self._world),
        )
        self.requests: list[RecordedRequest] = []
        """Every request, in the order of arrival."""
        self.complaints: list[str] = []
        """What a client did that works but is wrong, such as a token sent to an upload URL."""

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

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        host, port = self._address
        await web.TCPSite(self._runner, host, port).start()
        self._world.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop: what runs in the background is cancelled. Twice is fine."""
        runner, self._runner = self._runner, None
        await self._background.close()
        if runner is not None:
            await runner.cleanup()
        await self._webhooks.close()

    async def settle(self) -> None:
        """Wait until nothing is being processed and every webhook was answered."""
        await self._background.settle()

    async def finish_session(
        self, session_id: UUID | str, *, customization: dict[str, Any] | None = None, wait: bool = True
    ) -> UUID:
        """Do what the person does in the Avaturn UI: take the photos, or edit, and press Next.

        A session makes or edits an avatar by the rules of its type; ``create_or_edit_existing`` edits the
        newest avatar of the user, if there is one.

        Args:
            session_id: The session.
            customization: What the person chooses, as JSON values; by default what was, or the defaults.
            wait: Return when the avatar is processed and avatar.ready was answered, not at once.

        Returns:
            The id of the avatar.

        Raises:
            LookupError: There is no such session, or the avatar that it is about was deleted.
            ValueError: The customization does not fit.
        """
        session = self._world.sessions[as_uuid(session_id)]
        if customization is not None:
            try:
                check_assets(customization.get("assets", {}))
            except Refused as refused:
                raise ValueError(f"customization: {refused.args[1]}") from None
        avatar = self._world.enter(session)
        if customization is not None:
            self._world.customize(avatar, customization)
        task = self._background.spawn(self._tasks.process_avatar(avatar, session.id))
        if wait:
            await asyncio.shield(task)
        return avatar.id

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

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
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
        try:
            route, parameters = find_route(self._routes, recorded)
            self._check_token(route, recorded)
            reply = route.answer(recorded, **parameters)
        except Refused as refused:
            reply = refused.reply
        return await self._send(request, reply)

    def _check_token(self, route: Route, request: RecordedRequest) -> None:
        """401 without the token where it is wanted; its body is an assumption."""
        header = request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if not route.wants_token:
            if header:
                self.complaints.append(f"{request.method} {request.path}: a token came where none is wanted")
        elif scheme.lower() != "bearer" or not token or self._token not in {None, token}:
            raise Refused(401, "Not authenticated")

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        if reply.then is None:
            return response
        sent = asyncio.Event()
        self._background.spawn(self._later(sent, reply.then))
        try:
            await response.prepare(request)
            await response.write_eof()
        finally:
            sent.set()
        return response

    async def _later(self, sent: asyncio.Event, job: Callable[[], Awaitable[None]]) -> None:
        """Work that is known to settle() from the start, and begins when the answer is out."""
        await sent.wait()
        await job()
