"""AvaturnClient: the ten calls of the Avaturn API, further calls by path, photo uploads and downloads.

The vendor's reference: https://docs.avaturn.me. Each call takes ``timeout=``, seconds for one attempt with head and
body together, and raises the errors of :mod:`avaturn_async.errors`. An invalid argument is a ValueError or a
TypeError, before any request is sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from yarl import URL

from avaturn_async._converter import dumps, encode_customization, unstructure
from avaturn_async._retry import RetryPolicy
from avaturn_async._transport import HttpOption, SSLOption, Transport
from avaturn_async._validation import (
    encode_text,
    format_id,
    format_query,
    get_kind,
    parse_id,
    quote_user_id,
    validate_base_url,
    validate_path,
    validate_token,
    validate_type,
    validate_user_id,
)
from avaturn_async.errors import ClientClosedError
from avaturn_async.models import (
    Avatar,
    BodyType,
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
    from pathlib import Path
    from types import TracebackType

    import aiohttp

    from avaturn_async.transfers.download import Download
    from avaturn_async.transfers.session import TransferSession
    from avaturn_async.transfers.upload import Photo

_BASE_URL = "https://api.avaturn.me"
_SCENE = re.compile(r"[a-zA-Z0-9_/]+")
_METHOD = re.compile(r"[A-Za-z]+")
_AVATARS = tuple[Avatar, ...]
_CONFIG_TYPES: dict[type, str] = {
    CreateOrEditExisting: "create_or_edit_existing",
    Create: "create",
    EditExisting: "edit_existing",
}


class AvaturnClient:
    """Client of the Avaturn API.

    ::

        async with AvaturnClient.from_env() as client:
            user = await client.create_user()
            session = await client.new_session(user.id)

    A client belongs to one running event loop at a time. After that loop has ended it can be used in another one.
    A forked process needs a client of its own: one that was used before the fork raises AvaturnError there.

    Args:
        token: API token of the project. It is sent to the origin of ``base_url`` only.
        base_url: URL of the API. Plain http is accepted for this machine only.
        timeout: Seconds for one attempt of a call, from when it may use a connection; for a transfer, seconds without
            progress.
        retry: How often a request is sent again.
        http: A ClientSession of yours for the calls, or a function that returns one inside the running loop, such as
            ``lambda: app["http"]``. The client never closes it and never changes its headers. Where it has
            ``trust_env`` and ``~/.netrc`` names the host, calls do without its middlewares.
        allow_private_urls: Accept plain http and private addresses of uploads and downloads. For tests only.
        trace_configs: TraceConfigs of aiohttp for the ClientSessions that the client makes.
        max_concurrency: Most calls at the same time; further calls wait, and that is not part of their timeout.
            Default: the limit of connections of ``http``, else 100.
        proxy: URL of an HTTP proxy for calls and transfers. The proxy resolves host names, so it must itself refuse
            private addresses.
        trust_env: Take the proxy from the environment (HTTPS_PROXY, NO_PROXY). ``~/.netrc`` is not used.
        ssl: What aiohttp accepts as ``ssl=``, such as an ``ssl.SSLContext``, for calls and transfers.

    Raises:
        ValueError: An argument is invalid.
        TypeError: An argument has another type.
    """

    def __init__(
        self,
        token: str,
        *,
        base_url: str | URL = _BASE_URL,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
        http: HttpOption | None = None,
        allow_private_urls: bool = False,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        max_concurrency: int | None = None,
        proxy: str | URL | None = None,
        trust_env: bool = False,
        ssl: SSLOption | None = None,
    ) -> None:
        token = validate_token(token)
        url = validate_base_url(base_url, allow_private_urls=allow_private_urls)
        self._transport = Transport(
            token,
            base_url=url,
            timeout=timeout,
            retry=retry,
            http=http,
            trace_configs=trace_configs,
            max_concurrency=max_concurrency,
            proxy=proxy,
            trust_env=trust_env,
            ssl=ssl,
        )
        self._transfer_options: dict[str, Any] = {
            "base_url": url,
            "retry": retry,
            "timeout": timeout,
            "allow_private_urls": allow_private_urls,
            "trace_configs": trace_configs,
            "proxy": proxy,
            "trust_env": trust_env,
            "ssl": ssl,
        }
        # Made with the first transfer.
        self._transfers: TransferSession | None = None

    @classmethod
    def from_env(
        cls,
        *,
        base_url: str | URL | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
        http: HttpOption | None = None,
        allow_private_urls: bool = False,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        max_concurrency: int | None = None,
        proxy: str | URL | None = None,
        trust_env: bool = False,
        ssl: SSLOption | None = None,
    ) -> Self:
        """Return a client with the token in AVATURN_API_TOKEN, at AVATURN_BASE_URL if that is set.

        The other arguments are those of ``AvaturnClient``.

        Raises:
            ValueError: AVATURN_API_TOKEN is not set, or an argument is invalid.
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
            max_concurrency=max_concurrency,
            proxy=proxy,
            trust_env=trust_env,
            ssl=ssl,
        )

    def __repr__(self) -> str:
        state = " closed" if self._transport.closed else ""
        return f"<AvaturnClient {self._transport.base_url}{state}>"

    async def __aenter__(self) -> Self:
        await self._transport.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the client. Later calls raise ClientClosedError; closing again does nothing.

        Calls and transfers in progress end with ClientClosedError or AvaturnConnectionError; a request may have
        arrived. Calls on a ClientSession given as ``http`` go on, since it stays open.
        """
        try:
            await self._transport.close()
        finally:
            if self._transfers is not None:
                await self._transfers.close()

    async def create_user(self, *, timeout: float | None = None) -> User:
        """Create User: make an anonymous user. Each call makes another one."""
        return await self._transport.call(User, "POST", "/api/v1/users/new", timeout=timeout)

    async def delete_user(self, user_id: str, *, timeout: float | None = None) -> None:
        """Delete User: delete a user with all photos, avatars and cached exports."""
        await self._transport.send("DELETE", f"/api/v1/users/{quote_user_id(user_id)}", timeout=timeout)

    async def new_session(
        self, user_id: str, config: SessionConfig | None = None, *, timeout: float | None = None
    ) -> Session:
        """New Session: make a short-lived link for one visit of a user to the Avaturn UI.

        Args:
            user_id: The user.
            config: What the session shows; by default the vendor's default, CreateOrEditExisting.
            timeout: Seconds for one attempt.
        """
        body: dict[str, Any] = {"user_id": validate_user_id(user_id)}
        if config is not None:
            if type(config) not in _CONFIG_TYPES:
                raise TypeError(
                    f"config must be Create(), EditExisting(…) or CreateOrEditExisting(), not {get_kind(config)}"
                )
            body["config"] = {"type": _CONFIG_TYPES[type(config)], **unstructure(config)}
        return await self._transport.call(Session, "POST", "/api/v1/sessions/new", body=dumps(body), timeout=timeout)

    async def list_user_avatars(
        self, user_id: str, *, include_not_ready: bool = False, timeout: float | None = None
    ) -> tuple[Avatar, ...]:
        """List User Avatars: return those that are ready, or all with ``include_not_ready``."""
        path = f"/api/v1/users/{quote_user_id(user_id)}/avatars"
        query = "include_not_ready=true" if include_not_ready else ""
        return await self._transport.call(_AVATARS, "GET", path, query=query, timeout=timeout)

    async def new_avatar(self, user_id: str, *, timeout: float | None = None) -> NewAvatar:
        """New Avatar: make a provisional avatar and the URL for its photos. Each call makes another one."""
        body = dumps({"user_id": validate_user_id(user_id)})
        return await self._transport.call(NewAvatar, "POST", "/api/v1/avatars/new", body=body, timeout=timeout)

    async def get_customization(self, avatar_id: UUID | str, *, timeout: float | None = None) -> Customization:
        """Get Customization: undefined for an uploaded avatar that was not yet customized or opened."""
        path = f"/api/v1/avatars/{format_id(avatar_id)}/customization"
        return await self._transport.call(Customization, "GET", path, timeout=timeout)

    async def set_customization(
        self, avatar_id: UUID | str, customization: Customization, *, timeout: float | None = None
    ) -> None:
        """Set Customization: use ``attrs.evolve`` on the current one to change a part.

        Raises:
            ConflictError: An asset does not belong into its slot.
            GoneError: An asset no longer exists.
        """
        path = f"/api/v1/avatars/{format_id(avatar_id)}/customization"
        await self._transport.send("PUT", path, body=encode_customization(customization), timeout=timeout)

    async def delete_user_avatar(self, user_id: str, avatar_id: UUID | str, *, timeout: float | None = None) -> None:
        """Delete User Avatar: delete one avatar with its cached exports."""
        path = f"/api/v1/users/{quote_user_id(user_id)}/avatars/{format_id(avatar_id)}"
        await self._transport.send("DELETE", path, timeout=timeout)

    async def render_user_avatar(
        self,
        avatar_id: UUID | str,
        *,
        scene: str = "common/preview",
        format: RenderFormat | str = "jpg",  # noqa: A002 - the vendor's name
        timeout: float | None = None,
    ) -> Render:
        """Render User Avatar Async: start a render; the webhook ``render.ready`` reports its end.

        Args:
            avatar_id: The avatar.
            scene: ``common/preview``, another of the public scenes, or one of the project's own.
            format: ``jpg``, ``png`` or ``webp``.
            timeout: Seconds for one attempt.
        """
        validate_type("scene", scene, str)
        if not _SCENE.fullmatch(scene):
            raise ValueError(f"scene may hold letters, digits, _ and / only, not {scene[:60]!r}")
        if not format:
            raise ValueError("format must be jpg, png or webp, not empty")
        encode_text("format", str(format))
        query = format_query({"avatar_id": parse_id(avatar_id), "scene": scene, "format": str(format)})
        return await self._transport.call(Render, "POST", "/api/v1/renders/new", query=query, timeout=timeout)

    async def create_export(self, avatar_id: UUID | str, *, timeout: float | None = None) -> Export:
        """Create Export: export an avatar as GLB. Repeat the call until it is ready: see ``wait_for_export``."""
        query = f"avatar_id={format_id(avatar_id)}"
        return await self._transport.call(
            Export, "POST", "/api/v1/exports/new", query=query, timeout=timeout, idempotent=True
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
        """Send a request that has no method here, with the same token, retry and errors.

        Args:
            method: HTTP method. A failed POST or PATCH is sent again only if the server did not receive it, refused it
                with a 429, or sent a 503 with Retry-After.
            path: Path from the root of ``base_url``, such as ``/api/v1/users/new``.
            params: The query; values are text, numbers, truth values, UUIDs, or lists of these.
            json: The body, as JSON values; None sends no body.
            timeout: Seconds for one attempt.

        Returns:
            The parsed JSON of the response; None if its body is empty.
        """
        validate_type("method", method, str)
        if not _METHOD.fullmatch(method):
            raise ValueError(f"not an HTTP method: {method[:20]!r}")
        method = method.upper()
        path = validate_path(path)
        body = None if json is None else dumps(json)
        query = format_query(params)
        content = await self._transport.send(method, path, query=query, body=body, timeout=timeout)
        return self._transport.decode(content, object, method, path) if content.strip() else None

    async def upload_photos(
        self,
        upload_url: str,
        *,
        frontal: Photo,
        side_1: Photo,
        side_2: Photo,
        body_type: BodyType | str,
        telephoto: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send the photos of a new avatar to the ``upload_url`` that ``new_avatar`` returned.

        The photos are streamed, and sent once: again only if no connection was made.

        Args:
            upload_url: The URL. It is a credential, so the token is not sent there.
            frontal: Photo of the face from the front: a path, the bytes of an image file, or a seekable file that is
                open for binary reading. A file is read from its position on, and put back there.
            side_1: Photo of the face from one side.
            side_2: Photo of the face from the other side.
            body_type: ``male`` or ``female``.
            telephoto: Whether the photos were taken with a telephoto lens.
            on_progress: Function that is called with the bytes sent and the total bytes. Its exception ends the
                upload.
            timeout: Seconds without progress, in either direction, until it fails. Default: the client's timeout.

        Raises:
            ValueError: A photo or another argument is invalid; nothing was sent.
            TypeError: ``on_progress`` is not a plain function.
            TransferError: The address is refused, or the server did not accept the photos (``status``).
            AvaturnConnectionError: No usable response, or (AvaturnTimeoutError) no progress. The photos may have
                arrived.
            AvaturnDecodeError: The response is not JSON.
        """
        from avaturn_async.transfers.upload import upload_photos  # noqa: PLC0415 - most processes transfer no files

        await upload_photos(
            self._get_transfers(),
            upload_url,
            frontal=frontal,
            side_1=side_1,
            side_2=side_2,
            body_type=body_type,
            telephoto=telephoto,
            on_progress=on_progress,
            timeout=timeout,
        )

    async def download(
        self,
        url: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Callable[[int, int | None], object] | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Download the file behind a result URL.

        The file is streamed into a temporary file beside its destination, which is renamed when it is complete and on
        the disk. An interrupted download is resumed, or begun again, within the retry policy.

        Args:
            url: The URL. The token is not sent there.
            destination: The file to make or replace, or a directory, where it gets a safe name from the URL. A
                symbolic link is followed; a file that is replaced keeps its permissions.
            on_progress: Function that is called with the bytes received, and the total bytes or None while they are
                unknown. Its exception ends the download. A download that begins again counts from 0 again.
            max_bytes: Most bytes that are accepted.
            timeout: Seconds without progress until an attempt fails. Default: the client's timeout.

        Returns:
            The path of the file.

        Raises:
            ValueError: An argument is invalid, or the destination cannot be written; nothing was sent.
            TypeError: ``on_progress`` is not a plain function.
            TransferError: The address is refused, the URL has expired or has another status (``status``), the transfer
                was interrupted, or the file is too large or not of its declared type.
            AvaturnConnectionError: No usable response, or (AvaturnTimeoutError) no progress.
            OSError: The file could not be written.
        """
        from avaturn_async.transfers.download import download  # noqa: PLC0415 - most processes transfer no files

        return await download(
            self._get_transfers(), url, destination, on_progress=on_progress, max_bytes=max_bytes, timeout=timeout
        )

    @asynccontextmanager
    async def open_download(
        self, url: str, *, max_bytes: int | None = None, timeout: float | None = None
    ) -> AsyncGenerator[Download]:
        """Open the file behind a result URL, to stream it to an object storage, for example.

        ::

            async with client.open_download(url) as file:
                async for chunk in file:
                    ...

        The file has ``length`` (bytes, or None if the server does not say) and ``content_type``. It is checked like
        that of ``download``: the last step of the iteration raises if it is incomplete or not of its declared type. An
        interrupted download is resumed, or fails if the server cannot resume it.

        Args:
            url: The URL. The token is not sent there.
            max_bytes: Most bytes that are accepted.
            timeout: Seconds without progress until an attempt fails. Default: the client's timeout.

        Raises:
            ValueError: An argument is invalid; nothing was sent.
            TransferError: As for ``download``; entering the block raises it as well as the iteration.
            AvaturnConnectionError: No usable response, or (AvaturnTimeoutError) no progress.
        """
        from avaturn_async.transfers.download import open_download  # noqa: PLC0415 - most processes transfer no files

        async with open_download(self._get_transfers(), url, max_bytes=max_bytes, timeout=timeout) as file:
            yield file

    def _get_transfers(self) -> TransferSession:
        if self._transport.closed:
            raise ClientClosedError("this AvaturnClient is closed: make a new one")
        if self._transfers is None:
            from avaturn_async.transfers.session import TransferSession  # noqa: PLC0415 - see above

            self._transfers = TransferSession(**self._transfer_options)
        return self._transfers
