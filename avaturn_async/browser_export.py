"""Check what a page received from Avaturn's web SDK and posted to its backend.

The vendor's web SDK gives the page an ExportAvatarResult, ``{url, urlType, avatarId, sessionId, bodyId, gender,
avatarSupportsFaceAnimations}`` (https://docs.avaturn.me). A page runs on the user's machine, so a backend must treat
what it posts as a claim: any user can post the id of an avatar of another user, or any URL.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from attrs import field, frozen

from avaturn_async._avatar_list import find_avatar
from avaturn_async._validation import parse_uuid, validate_count, validate_seconds, validate_user_id
from avaturn_async.errors import BrowserExportError, UnknownSessionError
from avaturn_async.models import Export, ScanStatus
from avaturn_async.transfers.file_type import FileType, find_mismatch
from avaturn_async.waiting import wait_for_export

if TYPE_CHECKING:
    from avaturn_async.client import AvaturnClient
    from avaturn_async.webhooks import RoutedSession, SessionRouter

__all__ = ["BrowserExport", "accept_browser_export"]

MAX_GLB_BYTES = 67_108_864
_MAX_TEXT = 2_048
_DATA_PREFIXES = (
    "data:model/gltf-binary;base64,",
    "data:application/octet-stream;base64,",
    "data:application/gltf-buffer;base64,",
    "data:;base64,",
)


@frozen(kw_only=True)
class BrowserExport:
    """A checked export of a page."""

    avatar_id: UUID
    """The avatar. It belongs to the user."""
    user_id: str
    """The user."""
    session_id: UUID | None = None
    """The session, if it was checked through a router."""
    url: str = field(repr=False)
    """Temporary URL of the GLB, from Create Export: download it at once with ``client.download``."""
    glb: bytes | None = field(default=None, repr=False)
    """The GLB that the page sent as a ``dataURL``. It is a valid GLB, made by the page: not what Avaturn exported."""
    body_id: str | None = None
    """As the page claims."""
    gender: str | None = None
    """As the page claims."""
    avatar_supports_face_animations: bool | None = None
    """As the page claims."""


async def accept_browser_export(
    client: AvaturnClient,
    payload: Any,
    *,
    user_id: str,
    session: RoutedSession | None = None,
    router: SessionRouter | None = None,
    timeout: float = 60.0,
    max_bytes: int = MAX_GLB_BYTES,
) -> BrowserExport:
    """Check an ExportAvatarResult that a page posted, and return the export that Avaturn has for it.

    The shape is checked first. Then the API is asked whether the avatar is one of the user, and the session, if one is
    known, must be a session of this user. The GLB comes from Create Export. The URL of the payload is never requested.

    Args:
        client: Lists the avatars of the user and requests the export.
        payload: The parsed JSON of the page: the result itself, or the message ``{source, eventName, data}`` around
            it.
        user_id: The Avaturn user of the person who is signed in to your backend; never taken from the page.
        session: The session that your backend opened for this page.
        router: Without ``session``: looks up the session that the payload names.
        timeout: Seconds to wait for the export.
        max_bytes: Maximum size in bytes of the GLB in a ``dataURL``.

    Returns:
        The checked export.

    Raises:
        BrowserExportError: The payload is not as documented, or claims something that is not true.
        AvaturnError: The API failed, so the payload could not be checked. AvaturnTimeoutError: no export in time.
    """
    validate_user_id(user_id)
    validate_seconds("timeout", timeout)
    validate_count("max_bytes", max_bytes)
    result = _get_result(payload)
    avatar_id = _get_uuid(result, "avatarId")
    session_id = None if result.get("sessionId") is None else _get_uuid(result, "sessionId")
    body_id, gender = _get_text(result, "bodyId"), _get_text(result, "gender")
    supports_face_animations = result.get("avatarSupportsFaceAnimations")
    if not isinstance(supports_face_animations, bool | None):
        raise BrowserExportError("avatarSupportsFaceAnimations must be true or false")
    glb = await _get_glb(result, max_bytes)
    checked_session = await _check_session(session_id, user_id, session, router)
    avatar = await find_avatar(client, user_id, avatar_id)
    if avatar is None:
        raise BrowserExportError(f"avatar {avatar_id} is not an avatar of this user")
    if avatar.status == ScanStatus.FAILED:
        raise BrowserExportError(f"avatar {avatar_id} failed: it has no export")
    export: Export = await wait_for_export(client, avatar_id, timeout=timeout)
    return BrowserExport(
        avatar_id=avatar_id,
        user_id=user_id,
        session_id=checked_session,
        url=cast("str", export.url),
        glb=glb,
        body_id=body_id,
        gender=gender,
        avatar_supports_face_animations=supports_face_animations,
    )


def _get_result(payload: Any) -> Mapping[str, Any]:
    """Return the ExportAvatarResult in a payload."""
    if isinstance(payload, Mapping) and isinstance(cast("Mapping[str, Any]", payload).get("data"), Mapping):
        payload = cast("Mapping[str, Any]", payload)["data"]
    if not isinstance(payload, Mapping):
        raise BrowserExportError("the payload must be a JSON object")
    return cast("Mapping[str, Any]", payload)


def _get_uuid(result: Mapping[str, Any], name: str) -> UUID:
    try:
        return parse_uuid(result.get(name))
    except ValueError:
        raise BrowserExportError(f"{name} must be a UUID") from None


def _get_text(result: Mapping[str, Any], name: str) -> str | None:
    value = result.get(name)
    if value is not None and not (isinstance(value, str) and len(value) <= _MAX_TEXT):
        raise BrowserExportError(f"{name} must be a text of at most {_MAX_TEXT} characters")
    return value


async def _get_glb(result: Mapping[str, Any], max_bytes: int) -> bytes | None:
    """Return the GLB of a ``dataURL``; None for an ``httpURL``, which is checked but not used."""
    url, url_type = result.get("url"), result.get("urlType")
    if not isinstance(url, str) or not url:
        raise BrowserExportError("url must be a text")
    if url_type == "httpURL":
        if len(url) > _MAX_TEXT or not url.startswith(("https://", "http://")):
            raise BrowserExportError(f"url must begin with https:// and have at most {_MAX_TEXT} characters")
        return None
    if url_type != "dataURL":
        raise BrowserExportError("urlType must be httpURL or dataURL")
    prefix = next((prefix for prefix in _DATA_PREFIXES if url.startswith(prefix)), None)
    if prefix is None:
        raise BrowserExportError("url must be a base64 data URL of a GLB, such as data:model/gltf-binary;base64,…")
    # Four characters hold three bytes: a longer text is refused before it is decoded.
    if (len(url) - len(prefix)) // 4 * 3 > max_bytes + 2:
        raise BrowserExportError(f"the GLB in url has more than {max_bytes} bytes")
    try:
        # In a thread, since megabytes take milliseconds.
        glb = await asyncio.to_thread(base64.b64decode, url[len(prefix) :], validate=True)
    except (binascii.Error, ValueError):
        raise BrowserExportError("url is not valid base64") from None
    if len(glb) > max_bytes:
        raise BrowserExportError(f"the GLB in url has more than {max_bytes} bytes")
    if reason := find_mismatch(FileType.GLB, glb, len(glb)):
        raise BrowserExportError(f"url does not hold a GLB: {reason}")
    return glb


async def _check_session(
    session_id: UUID | None, user_id: str, session: RoutedSession | None, router: SessionRouter | None
) -> UUID | None:
    """Return the id of the session if it was checked; it must be a session of the user."""
    if session is None:
        if router is None:
            return None
        if session_id is None:
            raise BrowserExportError("sessionId is missing")
        try:
            session = await router.session(session_id)
        except UnknownSessionError:
            raise BrowserExportError(f"session {session_id} was not opened here, or has expired") from None
    elif session_id != session.id:
        raise BrowserExportError("sessionId is not the session of this page")
    if session.user_id != user_id:
        raise BrowserExportError(f"session {session.id} is not a session of this user")
    return session.id
