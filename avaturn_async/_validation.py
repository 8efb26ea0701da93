"""Checks of arguments and ids, made before a request is sent: ValueError for a value, TypeError for a type."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import quote, urlencode
from uuid import UUID

from attrs import Attribute
from yarl import URL

from avaturn_async.errors import AvaturnError

_MAX_SHOWN = 60

# uuid.UUID() also accepts braces, "urn:uuid:", missing dashes, underscores and digits of other scripts.
is_canonical_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
"""Return a match if a text is a UUID in canonical form, else None."""


def parse_uuid(text: Any) -> UUID:
    """Return the UUID of its canonical text: 8-4-4-4-12 hexadecimal digits in either case.

    Raises:
        ValueError: ``text`` is not a str in that form.
    """
    if isinstance(text, str) and is_canonical_uuid(text):
        return UUID(text)
    shown = repr(text[:60]) if isinstance(text, str) else type(text).__name__
    raise ValueError(f"not a UUID in canonical form, 8-4-4-4-12 hexadecimal digits: {shown}")


def parse_id(value: UUID | str, name: str = "avatar_id") -> UUID:
    """Return an id that a caller passed as a UUID, or as its canonical text, as a UUID.

    Args:
        value: The id.
        name: The name of the caller's argument, for the error message.

    Raises:
        ValueError: The text is not a UUID in canonical form.
        TypeError: The value is neither a UUID nor a str.
    """
    if isinstance(value, UUID):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a uuid.UUID or a str, not {type(value).__name__}")
    try:
        return parse_uuid(value)
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{name} is {reason}")


def format_id(value: UUID | str, name: str = "avatar_id") -> str:
    """Return the canonical text of an id in lower case. Errors are those of ``parse_id``."""
    if isinstance(value, str) and is_canonical_uuid(value):
        return value.lower()
    return str(parse_id(value, name))


def encode_text(name: str, text: str) -> bytes:
    """Return a text in UTF-8; ``name`` is the argument in the error message.

    Raises:
        ValueError: The text has a lone surrogate, which UTF-8 cannot express.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must hold no lone surrogate") from None


def validate_token(token: str) -> str:
    """Return the API token if it can stand in a header."""
    if not isinstance(token, str):
        remedy = ": is the environment variable set?" if token is None else ""
        raise TypeError(f"token must be a str, not {type(token).__name__}{remedy}")
    if not token.strip():
        raise ValueError("token must not be empty: take the API token of the project")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("token must be printable ASCII without spaces and line ends, and without the word Bearer")
    return token


def validate_base_url(base_url: str | URL, *, allow_private_urls: bool) -> URL:
    """Return the URL of the API: https, or http for this machine, without user, query and fragment."""
    url = _parse_url(base_url)
    if not url.host or url.scheme not in {"http", "https"}:
        raise ValueError("base_url must be a URL such as https://api.avaturn.me")
    if url.user or url.password or url.query_string or url.fragment:
        raise ValueError("base_url must have no user, query or fragment: the token is an argument of its own")
    if url.path.rstrip("/").endswith("/api/v1"):
        raise ValueError("base_url must end before /api/v1, which is in the path of each call")
    if url.scheme == "http" and not (allow_private_urls or _is_this_machine(url.host)):
        raise ValueError("base_url must be https: the token would travel readable (http is for this machine only)")
    return url


def _parse_url(text: str | URL) -> URL:
    """Return the URL, or an empty one."""
    try:
        return URL(text)
    except (ValueError, TypeError):
        return URL()


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def validate_path(path: str) -> str:
    """Return a path that stays on the origin of base_url, quoted where necessary."""
    validate_type("path", path, str)
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError("path must start with one /, such as /api/v1/users/new: it cannot name another host")
    if any(c in path for c in "?#\\") or not path.isprintable():
        raise ValueError("path must hold no ?, #, backslash or control character: the query goes into params=")
    # yarl leaves %2F as it is, and turns %2e into the dot that it stands for.
    raw = URL(path).raw_path
    if any(part in {".", ".."} for part in raw.split("/")):
        raise ValueError("path must not hold . or .. as a segment")
    return raw


def format_query(params: Mapping[str, Any] | None) -> str:
    """Return the query string of parameters; a list or tuple repeats its name."""
    if params is None:
        return ""
    validate_type("params", params, Mapping, ': give a dict, such as {"name": "value"}')
    pairs = [
        (encode_text("a name in params", str(name)), encode_text(f"params[{name!r}]", _format_query_value(name, item)))
        for name, value in params.items()
        for item in (cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,))
    ]
    return urlencode(pairs, safe="/")


def _format_query_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float | UUID):
        kind = type(value).__name__
        raise TypeError(f"params[{name!r}] must be text, a number, a truth value or a UUID, not {kind}")
    return str(value)


def validate_user_id(user_id: str) -> str:
    """Return the id of a user if it can be one segment of a path."""
    validate_type("user_id", user_id, str)
    if not user_id.strip() or user_id in {".", ".."}:
        raise ValueError(f"user_id must be an id, not {user_id!r}")
    encode_text("user_id", user_id)
    return user_id


def quote_user_id(user_id: str) -> str:
    """Return the id of a user as one quoted segment of a path."""
    return quote(validate_user_id(user_id), safe="")


def validate_timeout(value: float) -> float:
    """Return a timeout: a finite number of seconds above 0."""
    if not _is_finite(value) or value <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {_show(value)}")
    return value


def validate_seconds(name: str, value: float) -> float:
    """Return a finite number of seconds from 0 up; ``name`` is the argument in the error message."""
    if not _is_finite(value) or value < 0:
        raise ValueError(f"{name} must be a number of seconds from 0 up, not {_show(value)}")
    return value


def validate_positive(**numbers: float) -> None:
    """Refuse numbers that are not finite and above 0; the keywords are the arguments in the error message."""
    for name, value in numbers.items():
        if not _is_finite(value) or value <= 0:
            raise ValueError(f"{name} must be a number above zero, not {_show(value)}")


def validate_count(name: str, value: Any) -> int:
    """Return a whole number from 1 up; ``name`` is the argument in the error message."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 up, not {_show(value)}")
    return value


def get_kind(value: object) -> str:
    """Return the type of a wrong argument for an error message, which never shows the value: it can be a secret."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def validate_type(name: str, value: Any, expected: type, remedy: str = "") -> None:
    """Refuse an argument of another type; ``name`` is the argument in the error message.

    Raises:
        TypeError: ``value`` is not an ``expected``.
    """
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be a {expected.__name__}, not {get_kind(value)}{remedy}")


def validate_client(client: Any) -> None:
    """Refuse an id, or the class, in the place of an AvaturnClient.

    Raises:
        TypeError: ``client`` is not an object with calls.
    """
    if isinstance(client, str | UUID | type):
        raise TypeError(f"client must be an AvaturnClient, not {get_kind(client)}")


def validate_proxy(proxy: str | URL, name: str = "proxy") -> URL:
    """Return the URL of a proxy. The error does not show it, since it may hold a password."""
    url = _parse_url(proxy)
    if not url.host or url.scheme not in {"http", "https"}:
        raise ValueError(f"{name} must be a URL such as http://host:3128")
    return url


def validate_seconds_field(_: object, attribute: Attribute[float], value: float) -> None:
    """Validate an attrs field with ``validate_seconds``."""
    validate_seconds(attribute.name, value)


def validate_on_progress(on_progress: Callable[..., object] | None) -> None:
    """Refuse a callback that is async, since the transfer would never await it.

    Raises:
        TypeError: ``on_progress`` is not callable, or is an async function.
    """
    if on_progress is None:
        return
    if not callable(on_progress):
        raise TypeError(f"on_progress must be callable, not {type(on_progress).__name__}")
    call = getattr(on_progress, "__call__", None)  # noqa: B004 - an object whose __call__ is async counts, too
    if inspect.iscoroutinefunction(on_progress) or inspect.iscoroutinefunction(call):
        raise TypeError("on_progress must be a plain function: an async one would never be awaited")


def is_other_loop(loop: asyncio.AbstractEventLoop | None, pid: int) -> bool:
    """Return whether state that the process ``pid`` made in ``loop`` must be made anew for the running loop.

    Raises:
        AvaturnError: ``loop`` is another loop that still runs, in another thread; or this process is a forked child,
            and ``loop`` was open at the fork.
    """
    if loop is None or loop is asyncio.get_running_loop():
        return False
    # A fork shares the epoll of an open loop: to close a socket here would take it from the parent's loop.
    if pid != os.getpid() and not loop.is_closed():
        raise AvaturnError("this AvaturnClient was used before a fork: make one client in each process")
    if loop.is_running():
        raise AvaturnError("this AvaturnClient is used in two running event loops: make one client for each loop")
    return True


def _is_finite(value: Any) -> bool:
    # math.isfinite() raises OverflowError for an int that is larger than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _show(value: object) -> str:
    try:
        return repr(value)[:_MAX_SHOWN]
    except ValueError:  # an int has too many digits for Python's conversion to decimal
        return f"a {type(value).__name__} of too many digits"
