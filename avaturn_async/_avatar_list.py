"""The avatars of a user, read row by row: a row that this release cannot read must not hide the other rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from avaturn_async._converter import structure
from avaturn_async._validation import parse_uuid, quote_user_id
from avaturn_async.errors import AvaturnDecodeError
from avaturn_async.models import Avatar

if TYPE_CHECKING:
    from avaturn_async.client import AvaturnClient

_logger = logging.getLogger("avaturn_async.waiting")


async def list_avatars(client: AvaturnClient, user_id: str) -> dict[UUID, Avatar | AvaturnDecodeError]:
    """Return all avatars of a user by id, with the error in place of a row that is not as documented.

    ``client.list_user_avatars`` refuses a list with one such row. Then the list is requested once more without
    decoding, and each row is decoded by itself. A row without a readable id is logged and left out.

    Raises:
        AvaturnDecodeError: The response is not a list.
    """
    try:
        avatars = await client.list_user_avatars(user_id, include_not_ready=True)
    except AvaturnDecodeError as error:
        drift = error
    else:
        return {avatar.id: avatar for avatar in avatars}
    path = f"/api/v1/users/{quote_user_id(user_id)}/avatars"
    rows: Any = await client.request("GET", path, params={"include_not_ready": True})
    if not isinstance(rows, list):
        raise drift
    _logger.warning("the list of avatars is not as documented, reading it row by row: %s", "; ".join(drift.problems))
    found: dict[UUID, Avatar | AvaturnDecodeError] = {}
    for index, row in enumerate(cast("Sequence[Any]", rows)):
        try:
            avatar = structure(row, Avatar, path=f"$[{index}]")
        except AvaturnDecodeError as error:
            message, problems = error.args
            unreadable = AvaturnDecodeError(f"GET {path}: {message}", problems)
            try:
                unreadable.avatar_id = parse_uuid(cast("dict[str, Any]", row)["id"])
            except (ValueError, TypeError, KeyError, IndexError):
                continue
            found[unreadable.avatar_id] = unreadable
        else:
            found[avatar.id] = avatar
    return found


async def find_avatar(client: AvaturnClient, user_id: str, avatar_id: UUID) -> Avatar | None:
    """Return an avatar of a user; None if the user does not have it.

    Raises:
        AvaturnDecodeError: The row of this avatar is not as documented.
    """
    avatar = (await list_avatars(client, user_id)).get(avatar_id)
    if isinstance(avatar, AvaturnDecodeError):
        raise avatar
    return avatar
