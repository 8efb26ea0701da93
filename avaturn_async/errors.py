"""Every error of the SDK, in one tree.

::

    AvaturnError
    ├── AvaturnConnectionError              no usable answer
    │   └── AvaturnTimeoutError             also a TimeoutError
    ├── AvaturnStatusError                  the server said no (itself for 3xx and other 4xx)
    │   ├── BadRequestError                 400
    │   ├── AuthenticationError             401
    │   ├── PermissionDeniedError           403
    │   ├── NotFoundError                   404
    │   ├── ConflictError                   409
    │   ├── GoneError                       410
    │   ├── RequestValidationError          422
    │   ├── RateLimitError                  429
    │   └── ServerError                     5xx
    ├── AvaturnDecodeError                  an answer of another shape than documented
    ├── TaskFailedError                     an avatar, export or render ended as failed
    ├── TransferError                       a photo or a file did not get across
    ├── UnknownSessionError                 also a KeyError: nobody opened that session
    ├── ClientClosedError                   also a RuntimeError: the client was used after close()
    ├── RouterClosedError                   the router was closed while something waited on it
    ├── StoreError                          the event store could not do its work
    │   └── StoreFullError                  its bounds are reached
    └── WebhookError
        ├── WebhookRejected                 not authentic
        └── WebhookPayloadError             authentic, but not an event

Wrong use by the caller (an empty id, a URL that is none) is a ``ValueError`` before anything is sent.
All of them pickle: each hands its arguments, in order, to ``Exception``.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "AvaturnConnectionError",
    "AvaturnDecodeError",
    "AvaturnError",
    "AvaturnStatusError",
    "AvaturnTimeoutError",
    "BadRequestError",
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


def _one_line(text: str) -> str:
    return " ".join(text.split())


class AvaturnError(Exception):
    """Base of everything that the SDK raises of its own."""


class AvaturnConnectionError(AvaturnError):
    """No usable answer came: refused, reset, cut, or unreadable as HTTP."""


class AvaturnTimeoutError(AvaturnConnectionError, TimeoutError):
    """The time given for one attempt, or for a wait, was over."""


class AvaturnStatusError(AvaturnError):
    """The server answered with a status that is not a success."""

    status: int
    """HTTP status code."""
    method: str
    """HTTP method of the request."""
    path: str
    """Path of the request, without its query."""
    body: str
    """What the server said: at most 200 characters, without token and without queries of URLs."""
    problems: tuple[str, ...]
    """The places that a 422 names, such as ``body.user_id: field required``."""
    request_id: str | None
    """The ``X-Request-Id`` of the answer."""
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
        self.method = method
        self.path = path
        self.body = body
        self.problems = problems
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = f"{self.method} {self.path}: {self.status}"
        if words := _one_line("; ".join(self.problems) or self.body):
            text += f": {words}"
        if self.retry_after is not None:
            text += f" (retry after {self.retry_after:g} s)"
        if self.request_id:
            text += f" (request {self.request_id})"
        return text


class BadRequestError(AvaturnStatusError):
    """400: the server could not read the request."""


class AuthenticationError(AvaturnStatusError):
    """401: the token is missing, wrong or revoked, or the plan has no API access."""


class PermissionDeniedError(AvaturnStatusError):
    """403: the token may not do this."""


class NotFoundError(AvaturnStatusError):
    """404: there is no such thing in this project."""


class ConflictError(AvaturnStatusError):
    """409: for a customization, an asset in a slot that it does not belong to."""


class GoneError(AvaturnStatusError):
    """410: for a customization, assets that are gone."""


class RequestValidationError(AvaturnStatusError):
    """422: the request does not fit the API's schema; ``problems`` names the places."""


class RateLimitError(AvaturnStatusError):
    """429: too many requests; ``retry_after`` says how long to wait, if the server did."""


class ServerError(AvaturnStatusError):
    """5xx: the server failed."""


class AvaturnDecodeError(AvaturnError):
    """An answer that is not JSON, or JSON of another shape than documented."""

    problems: tuple[str, ...]
    """Each place that is wrong, such as ``expected str at $[3].status``."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, problems)
        self.problems = problems

    def __str__(self) -> str:
        message = str(self.args[0])
        return _one_line(f"{message}: {'; '.join(self.problems)}") if self.problems else message


class TaskFailedError(AvaturnError):
    """An avatar, an export or a render ended with status ``failed``."""


class TransferError(AvaturnError):
    """A photo or a file did not get across: refused address, cut, expired or too large."""

    status: int | None
    """HTTP status code of the answer, if that is the reason."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownSessionError(AvaturnError, KeyError):
    """Nobody opened that session through this router, or it is past its time to live."""

    def __str__(self) -> str:
        # KeyError would show the repr of a sentence.
        return Exception.__str__(self)


class ClientClosedError(AvaturnError, RuntimeError):
    """The client was used after ``close()``."""


class RouterClosedError(AvaturnError):
    """The router was closed while something waited on it, or was used afterwards."""


class StoreError(AvaturnError):
    """The event store could not do its work; the sender of a webhook is told to come again."""


class StoreFullError(StoreError):
    """The event store reached its bounds; nothing stored was dropped for the newcomer."""


class WebhookError(AvaturnError):
    """An incoming webhook was not taken."""


class WebhookRejected(WebhookError):  # noqa: N818 - the name says what happened to the webhook
    """The webhook is not authentic."""


class WebhookPayloadError(WebhookError):
    """The webhook is authentic, but its body is no event."""
