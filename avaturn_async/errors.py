"""Every error of the SDK, in one tree.

::

    AvaturnError
    ├── AvaturnConnectionError              no usable response
    │   └── AvaturnTimeoutError             also a TimeoutError
    ├── AvaturnStatusError                  not a 2xx status (itself for 3xx and other 4xx)
    │   ├── BadRequestError                 400
    │   ├── AuthenticationError             401
    │   ├── PermissionDeniedError           403
    │   ├── NotFoundError                   404
    │   ├── ConflictError                   409
    │   ├── GoneError                       410
    │   ├── RequestValidationError          422
    │   ├── RateLimitError                  429
    │   └── ServerError                     5xx
    ├── AvaturnDecodeError                  the response does not have the documented shape
    ├── TaskFailedError                     an avatar, export or render ended as failed
    ├── TransferError                       an upload or a download failed
    ├── BrowserExportError                  what a page posted as its export is wrong or untrue
    ├── UnknownSessionError                 also a KeyError: the session is unknown
    ├── ClientClosedError                   also a RuntimeError: the client was used after close()
    ├── RouterClosedError                   the router was closed while a caller waited
    ├── StoreError                          the event store is unavailable
    │   └── StoreFullError                  its bounds are reached
    └── WebhookError
        ├── WebhookRejected                 not authentic
        └── WebhookPayloadError             authentic, but not an event

Invalid arguments raise ``ValueError`` or ``TypeError`` before any request is sent.
All errors can be pickled: each passes its arguments, in order, to ``Exception``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

__all__ = [
    "AuthenticationError",
    "AvaturnConnectionError",
    "AvaturnDecodeError",
    "AvaturnError",
    "AvaturnStatusError",
    "AvaturnTimeoutError",
    "BadRequestError",
    "BrowserExportError",
    "ClientClosedError",
    "ConflictError",
    "GoneError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestValidationError",
    "RouterClosedError",
    "ServerError",
    "StoreError",
    "StoreFullError",
    "TaskFailedError",
    "TransferError",
    "UnknownSessionError",
    "WebhookError",
    "WebhookPayloadError",
    "WebhookRejected",
]


# Line breaks of any kind become a space; other control characters, lone surrogates and marks that reorder text become
# U+FFFD. Text of a server can otherwise forge log lines and control a terminal.
_LINE_BREAKS = re.compile(r"[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def replace_control_characters(text: str) -> str:
    """Return the text in one line, with control, surrogate and text direction characters replaced."""
    return _UNPRINTABLE.sub("\ufffd", _LINE_BREAKS.sub(" ", text))


def ends_task(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Return whether an error ends the program or this task; if not, the code that the task called raised it itself."""
    if isinstance(error, asyncio.CancelledError):
        return task is not None and task.cancelling() > 0
    if isinstance(error, GeneratorExit):
        # It comes from outside when a coroutine is dropped that will never go on, then not in its own task.
        try:
            return asyncio.current_task() is not task
        except RuntimeError:
            return True
    return isinstance(error, KeyboardInterrupt | SystemExit)


def _replace_in(value: Any) -> Any:
    if isinstance(value, str):
        return replace_control_characters(value)
    if isinstance(value, tuple):
        return tuple(map(_replace_in, cast("Sequence[Any]", value)))
    return value


class AvaturnError(Exception):
    """Base of all errors of the SDK. Its texts hold no control characters, whatever a server sent."""

    avatar_id: UUID | None = None
    """The avatar that the failed operation was about, from ``create_avatar`` and the ``wait_for_…`` functions."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*map(_replace_in, args))


class AvaturnConnectionError(AvaturnError):
    """No usable response arrived: refused, reset, interrupted, or not valid HTTP."""


class AvaturnTimeoutError(AvaturnConnectionError, TimeoutError):
    """The timeout of an attempt, or of a wait, expired."""


class AvaturnStatusError(AvaturnError):
    """The server responded with a status other than 2xx."""

    status: int
    """HTTP status code."""
    method: str
    """HTTP method of the request."""
    path: str
    """Path of the request, without its query."""
    body: str
    """Excerpt of the response's body: one line, at most 200 characters, without the token and queries of URLs."""
    problems: tuple[str, ...]
    """The invalid fields that a 422 names, such as ``body.user_id: field required``."""
    request_id: str | None
    """The ``X-Request-Id`` of the response."""
    retry_after: float | None
    """Seconds that the server asked to wait (``Retry-After``)."""

    def __init__(
        self,
        status: int,
        method: str,
        path: str,
        body: str = "",
        problems: tuple[str, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, method, path, body, problems, request_id, retry_after)
        self.status = status
        _, self.method, self.path, self.body, self.problems, self.request_id, _ = self.args
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = f"{self.method} {self.path}: {self.status}"
        if words := " ".join(("; ".join(self.problems) or self.body).split()):
            text += f": {words}"
        if self.retry_after is not None:
            text += f" (retry after {self.retry_after:g} s)"
        if self.request_id:
            text += f" (request {self.request_id})"
        return text


class BadRequestError(AvaturnStatusError):
    """400: the request is malformed."""


class AuthenticationError(AvaturnStatusError):
    """401: the token is missing, wrong or revoked, or the plan has no API access."""


class PermissionDeniedError(AvaturnStatusError):
    """403: the token does not allow this call."""


class NotFoundError(AvaturnStatusError):
    """404: the project has no such user, avatar or path."""


class ConflictError(AvaturnStatusError):
    """409: for a customization, an asset does not belong into its slot."""


class GoneError(AvaturnStatusError):
    """410: for a customization, assets no longer exist."""


class RequestValidationError(AvaturnStatusError):
    """422: the request does not match the API's schema; ``problems`` names the fields."""


class RateLimitError(AvaturnStatusError):
    """429: too many requests. ``retry_after`` is the seconds to wait, or None if the server does not say."""


class ServerError(AvaturnStatusError):
    """5xx: the server failed."""


class AvaturnDecodeError(AvaturnError):
    """The response is not valid JSON or does not have the documented shape."""

    problems: tuple[str, ...]
    """Each wrong place, such as ``expected str at $[3].status``."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, problems)
        self.problems = self.args[1]

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}: {'; '.join(self.problems)}" if self.problems else message


class TaskFailedError(AvaturnError):
    """An avatar, an export or a render ended with the status ``failed``."""


class TransferError(AvaturnError):
    """An upload or a download failed: address refused, transfer interrupted, URL expired, or file too large."""

    status: int | None
    """HTTP status code of the response, if that is the reason."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class BrowserExportError(AvaturnError):
    """What a page posted as its export does not have the documented shape, or claims something untrue."""


class UnknownSessionError(AvaturnError, KeyError):
    """The session was not opened through this router's store, or its TTL has expired."""

    def __str__(self) -> str:
        # str() of a KeyError is the repr of its argument.
        return Exception.__str__(self)


class ClientClosedError(AvaturnError, RuntimeError):
    """The client was used after ``close()``."""


class RouterClosedError(AvaturnError):
    """The router was closed while a caller waited on it, or was used after ``close()``."""


class StoreError(AvaturnError):
    """The event store is unavailable. The sender of a webhook gets a 503 with Retry-After."""


class StoreFullError(StoreError):
    """The event store reached its bounds and stored nothing. It never drops stored events."""


class WebhookError(AvaturnError):
    """An incoming webhook was rejected."""


class WebhookRejected(WebhookError):  # noqa: N818 - public name, an adjective on purpose
    """The webhook is not authentic."""


class WebhookPayloadError(WebhookError):
    """The webhook is authentic, but its body is not an event."""
