"""What callers pass, checked in one place before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import quote, urlencode
from uuid import UUID

from yarl import URL


def checked_token(token: str) -> str:
    if not isinstance(token, str):
        raise TypeError(f"token must be a str, not {type(token).__name__}")
    if not token.strip():
        raise ValueError("token must not be empty: take the API token of the project")
    if token != token.strip() or not token.isascii() or not token.isprintable() or " " in token:
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
    if url.scheme == "http" and not (allow_private_urls or _is_this_machine(url.host or "")):
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


def segment(name: str, value: str) -> str:
    """A text as one segment of a path, which it cannot leave.

    Raises:
        ValueError: It is empty, or one of the names that mean another place.
        TypeError: It is no text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value.strip() or value in {".", ".."}:
        raise ValueError(f"{name} must be an id, not {value!r}")
    return quote(value, safe="")


def seconds(value: float) -> float:
    """A timeout that makes sense.

    Raises:
        ValueError: It is not a positive number.
    """
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {value!r}")
    return value
