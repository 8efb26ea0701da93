"""AvaturnClient: the ten calls of the Avaturn API, and the way to those that do not exist yet.

Vendor's reference: https://docs.avaturn.me. Every method takes ``timeout=``, seconds for one attempt with
head and body together, and raises the errors of :mod:`avaturn_async.errors`. An argument that makes no sense
is a ValueError, one of the wrong type a TypeError, before anything is sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from yarl import URL

from avaturn_async._arguments import (
    checked_base_url,
    checked_path,
    checked_token,
    checked_user_id,
    customization_body,
    query_string,
    user_segment,
)
from avaturn_async._file_client import FileClient
from avaturn_async._ids import as_uuid, id_text
from avaturn_async._retry import RetryPolicy
from avaturn_async._structure import dumps, unstructure
from avaturn_async._transport import Transport
from avaturn_async.models import (
    Avatar,
    Create,
    CreateOrEditExisting,
    Customization,
    EditExisting,
    Export,
    NewAvatar,
    Render,
    RenderFormat,
    Session,
    SessionConfig,
    User,
)

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

_BASE_URL = "https://api.avaturn.me"
_SCENE = re.compile(r"[a-zA-Z0-9_/]+")
_METHOD = re.compile(r"[A-Za-z]+")
_AVATARS = tuple[Avatar, ...]
_CONFIG_TYPES: dict[type, str] = {
    CreateOrEditExisting: "create_or_edit_existing",
    Create: "create",
    EditExisting: "edit_existing",
}


class AvaturnClient(FileClient):
    """Issues the calls of the Avaturn API.

    ::

        async with AvaturnClient.from_env() as client:
            user = await client.create_user()
            session = await client.new_session(user.id)

    Args:
        token: The project's API token. It goes to the origin of ``base_url`` and nowhere else.
        base_url: Where the API is. Plain http is taken for this machine only.
        timeout: Seconds for one attempt of a call, head and body together.
        retry: How often and how patiently a request is sent again.
        http: A ClientSession of yours to send with. It is not closed, and its headers stay as they are.
        allow_private_urls: Whether plain http and private addresses are fine: for tests, never in production.
        trace_configs: aiohttp's TraceConfigs, for the ClientSessions that the client makes itself.

    Raises:
        ValueError: An argument makes no sense.
    """

    def __init__(
        self,
        token: str,
        *,
        base_url: str | URL = _BASE_URL,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
        http: aiohttp.ClientSession | None = None,
        allow_private_urls: bool = False,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
    ) -> None:
        if http is not None and http.auth is not None:
            raise ValueError("the ClientSession given as http= has auth= of its own: give one without")
        token = checked_token(token)
        url = checked_base_url(base_url, allow_private_urls=allow_private_urls)
        self._transport = Transport(
            token, base_url=url, timeout=timeout, retry=retry, http=http, trace_configs=trace_configs
        )
        super().__init__(
            retry=retry,
            timeout=timeout,
            base_url=url,
            allow_private_urls=allow_private_urls,
            trace_configs=trace_configs,
        )

    @classmethod
    def from_env(
        cls,
        *,
        base_url: str | URL | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
        http: aiohttp.ClientSession | None = None,
        allow_private_urls: bool = False,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
    ) -> Self:
        """A client with the token in AVATURN_API_TOKEN, at AVATURN_BASE_URL if that is set.

        Raises:
            ValueError: AVATURN_API_TOKEN is not set.
        """
        token = os.environ.get("AVATURN_API_TOKEN", "")
        if not token:
            raise ValueError("AVATURN_API_TOKEN is not set: put the project's API token there")
        return cls(
            token,
            base_url=base_url or os.environ.get("AVATURN_BASE_URL") or _BASE_URL,
            timeout=timeout,
            retry=retry,
            http=http,
            allow_private_urls=allow_private_urls,
            trace_configs=trace_configs,
        )

    def __repr__(self) -> str:
        state = " closed" if self._transport.closed else ""
        return f"<AvaturnClient {self._transport.base_url}{state}>"

    async def __aenter__(self) -> Self:
        self._transport.session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that the client opened; calls raise ClientClosedError then. Twice is fine."""
        await self._transport.close()
        await self._close_files()

    async def create_user(self, *, timeout: float | None = None) -> User:
        """Create User: an anonymous user. Every call makes another one."""
        return await self._transport.call(User, "POST", "/api/v1/users/new", timeout=timeout)

    async def delete_user(self, user_id: str, *, timeout: float | None = None) -> None:
        """Delete User, with all photos, avatars and cached exports."""
        await self._transport.send("DELETE", f"/api/v1/users/{user_segment(user_id)}", timeout=timeout)

    async def new_session(
        self, user_id: str, config: SessionConfig | None = None, *, timeout: float | None = None
    ) -> Session:
        """New Session: a short-lived link for one visit of a user to the Avaturn UI.

        Args:
            user_id: The user.
            config: What the session shows; by default the vendor's default, CreateOrEditExisting.
            timeout: Seconds for one attempt.
        """
        body: dict[str, Any] = {"user_id": checked_user_id(user_id)}
        if config is not None:
            if type(config) not in _CONFIG_TYPES:
                raise TypeError(f"config must be a SessionConfig, not {type(config).__name__}")
            body["config"] = {"type": _CONFIG_TYPES[type(config)], **unstructure(config)}
        return await self._transport.call(
            Session, "POST", "/api/v1/sessions/new", body=dumps(body), timeout=timeout
        )

    async def list_user_avatars(
        self, user_id: str, *, include_not_ready: bool = False, timeout: float | None = None
    ) -> tuple[Avatar, ...]:
        """List User Avatars: those that are ready, or all of them with ``include_not_ready``."""
        path = f"/api/v1/users/{user_segment(user_id)}/avatars"
        query = "include_not_ready=true" if include_not_ready else ""
        return await self._transport.call(_AVATARS, "GET", path, query=query, timeout=timeout)

    async def new_avatar(self, user_id: str, *, timeout: float | None = None) -> NewAvatar:
        """New Avatar: a provisional avatar and the URL for its photos. Every call makes another one."""
        body = dumps({"user_id": checked_user_id(user_id)})
        return await self._transport.call(
            NewAvatar, "POST", "/api/v1/avatars/new", body=body, timeout=timeout
        )

    async def get_customization(
        self, avatar_id: UUID | str, *, timeout: float | None = None
    ) -> Customization:
        """Get Customization. Undefined for an uploaded avatar that was not yet customized or opened."""
        path = f"/api/v1/avatars/{id_text(avatar_id)}/customization"
        return await self._transport.call(Customization, "GET", path, timeout=timeout)

    async def set_customization(
        self, avatar_id: UUID | str, customization: Customization, *, timeout: float | None = None
    ) -> None:
        """Set Customization: ``attrs.evolve`` the one that was read to change some of it.

        Raises:
            ConflictError: An asset is in a slot that it does not belong to.
            GoneError: One or more assets are gone.
        """
        path = f"/api/v1/avatars/{id_text(avatar_id)}/customization"
        await self._transport.send("PUT", path, body=customization_body(customization), timeout=timeout)

    async def delete_user_avatar(
        self, user_id: str, avatar_id: UUID | str, *, timeout: float | None = None
    ) -> None:
        """Delete User Avatar: one avatar with its cached exports."""
        path = f"/api/v1/users/{user_segment(user_id)}/avatars/{id_text(avatar_id)}"
        await self._transport.send("DELETE", path, timeout=timeout)

    async def render_user_avatar(
        self,
        avatar_id: UUID | str,
        *,
        scene: str = "common/preview",
        format: RenderFormat | str = "jpg",  # noqa: A002 - the vendor's name
        timeout: float | None = None,
    ) -> Render:
        """Render User Avatar Async: start a render; its end comes as the webhook ``render.ready``.

        Args:
            avatar_id: The avatar.
            scene: ``common/preview``, another of the public scenes, or one of the project's own.
            format: ``jpg``, ``png`` or ``webp``.
            timeout: Seconds for one attempt.
        """
        if not _SCENE.fullmatch(scene):
            raise ValueError(f"scene may hold letters, digits, _ and / only, not {scene[:60]!r}")
        if not format:
            raise ValueError("format must be jpg, png or webp, not empty")
        query = query_string({"avatar_id": as_uuid(avatar_id), "scene": scene, "format": str(format)})
        return await self._transport.call(Render, "POST", "/api/v1/renders/new", query=query, timeout=timeout)

    async def create_export(self, avatar_id: UUID | str, *, timeout: float | None = None) -> Export:
        """Create Export: the avatar as GLB. Repeat the call until it is ready: see ``wait_for_export``."""
        query = f"avatar_id={id_text(avatar_id)}"
        return await self._transport.call(
            Export, "POST", "/api/v1/exports/new", query=query, timeout=timeout, repeatable=True
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Any:
        """A call that this release does not know, with the same token, retry and errors.

        Args:
            method: HTTP method. A POST or PATCH that failed is sent again only when it provably never left,
                or when the server said when to come back.
            path: Path from the root of ``base_url``, such as ``/api/v1/users/new``.
            params: The query; values are text, numbers, truth values, UUIDs, or lists of them.
            json: The body, as JSON values; None for none.
            timeout: Seconds for one attempt.

        Returns:
            The parsed JSON of the answer; None if its body is empty.
        """
        if not _METHOD.fullmatch(method):
            raise ValueError(f"not an HTTP method: {method[:20]!r}")
        method = method.upper()
        path = checked_path(path)
        body = None if json is None else dumps(json)
        query = query_string(params)
        content = await self._transport.send(method, path, query=query, body=body, timeout=timeout)
        return self._transport.decode(content, object, method, path) if content.strip() else None
