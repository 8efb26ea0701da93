"""What callers pass, checked in one place before anything is sent: else a ValueError or a TypeError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import quote, urlencode
from uuid import UUID

from attrs import Attribute
from yarl import URL

from avaturn_async._structure import dumps, unstructure
from avaturn_async.models import Customization


def checked_token(token: str) -> str:
    if not isinstance(token, str):
        raise TypeError(f"token must be a str, not {type(token).__name__}")
    if not token.strip():
        raise ValueError("token must not be empty: take the API token of the project")
    if not token.isascii() or not token.isprintable() or " " in token:
        # Such a token was not copied whole; in a header it would be a mistake or an attack.
        raise ValueError("token must be printable ASCII without spaces and line ends")
    return token


def checked_base_url(base_url: str | URL, *, allow_private_urls: bool) -> URL:
    try:
        url = URL(base_url)
    except (ValueError, TypeError):
        url = URL()
    if not url.host or url.scheme not in {"http", "https"}:
        raise ValueError("base_url must be a URL such as https://api.avaturn.me")
    if url.user or url.password or url.query_string or url.fragment:
        raise ValueError("base_url must have no user, query or fragment: the token is an argument of its own")
    if url.path.rstrip("/").endswith("/api/v1"):
        raise ValueError("base_url must end before /api/v1, which is in the path of each call")
    if url.scheme == "http" and not (allow_private_urls or _is_this_machine(url.host)):
        raise ValueError(
            "base_url must be https: the token would travel readable (http is for this machine only)"
        )
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_path(path: str) -> str:
    """A path that stays on the origin of base_url, quoted where it must be."""
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError("path must start with one /, such as /api/v1/users/new: it cannot name another host")
    if any(c in path for c in "?#\\") or not path.isprintable():
        raise ValueError(
            "path must hold no ?, #, backslash or control character: the query goes into params="
        )
    # Requoting leaves %2F as it is and turns %2e into the dot that it means.
    raw = URL(path).raw_path
    if any(part in {".", ".."} for part in raw.split("/")):
        raise ValueError("path must not hold . or .. as a segment")
    return raw


def query_string(params: Mapping[str, Any] | None) -> str:
    if not params:
        return ""
    pairs = [
        (name, _query_text(name, item))
        for name, value in params.items()
        for item in (cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,))
    ]
    return urlencode(pairs, safe="/")


def _query_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float | UUID):
        kind = type(value).__name__
        raise TypeError(f"params[{name!r}] must be text, a number, a truth value or a UUID, not {kind}")
    return str(value)


def checked_user_id(user_id: str) -> str:
    if not isinstance(user_id, str):
        raise TypeError(f"user_id must be a str, not {type(user_id).__name__}")
    # In a path . and .. would mean another place.
    if not user_id.strip() or user_id in {".", ".."}:
        raise ValueError(f"user_id must be an id, not {user_id!r}")
    user_id.encode()  # of a lone surrogate there are no bytes: a UnicodeEncodeError, and so a ValueError
    return user_id


def user_segment(user_id: str) -> str:
    """A user's id as one segment of a path, which it cannot leave."""
    return quote(checked_user_id(user_id), safe="")


def customization_body(customization: Customization) -> bytes:
    """What Set Customization sends."""
    if not isinstance(customization, Customization):
        raise TypeError(f"customization must be a Customization, not {type(customization).__name__}")
    return dumps(unstructure(customization))


def checked_timeout(value: float) -> float:
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {value!r}")
    return value


def checked_seconds(name: str, value: float) -> float:
    if not _is_finite(value) or value < 0:
        raise ValueError(f"{name} must be a number of seconds from 0 up, not {value!r}")
    return value


def seconds_from_zero(_: object, attribute: Attribute[float], value: float) -> None:
    """``checked_seconds`` as a validator of attrs."""
    checked_seconds(attribute.name, value)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
