"""One request: URL, token, timeout, retry, and a status or a broken connection turned into our errors.

Errors are raised outside of ``except`` blocks: aiohttp's exceptions hold the request with its headers, and
one that is chained to ours would carry the token into every traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random as random_module
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import aiohttp
from aiohttp import hdrs
from attrs import frozen
from multidict import CIMultiDict
from yarl import URL

from avaturn_async import errors
from avaturn_async._arguments import checked_timeout
from avaturn_async._retry import RetryPolicy, next_delay, parse_retry_after
from avaturn_async._structure import loads, structure
from avaturn_async._version import __version__

logger = logging.getLogger("avaturn_async.transport")

T = TypeVar("T")

# Left to itself aiohttp calls an empty body application/octet-stream.
_NO_GUESS = frozenset({"Content-Type"})
_LONGEST_WORDS = 200
_MOST_PROBLEMS = 20
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_PASSING = frozenset({429, 502, 503, 504})
_BACK_LATER = frozenset({429, 503})
_STATUS_ERRORS: dict[int, type[errors.AvaturnStatusError]] = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.GoneError,
    422: errors.RequestValidationError,
    429: errors.RateLimitError,
}
# What precedes the host of a URL and what follows its path can be a credential; a JSON encoder may have
# escaped the slashes. A URL without either matches, too: so no part of a long text is looked through twice.
_URL = re.compile(
    r"(https?:(?:\\?/){2})(?:[^\s\"'<>/?#]*@)?([^\s\"'<>?#]*)(?:[?#][^\s\"'<>]*)?", re.IGNORECASE
)


@frozen
class _Failure:
    """An attempt that failed."""

    error: errors.AvaturnError
    unsent: bool = False
    """The request provably never left: there was no connection."""
    hopeless: bool = False
    """It would fail again."""


class _DroppedError(aiohttp.ClientConnectionError):
    """The connection broke; the argument says how."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending an idempotent request again by itself: attempts are counted here."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise _DroppedError(reason)


class Transport:
    """Sends requests to one origin with one token."""

    def __init__(
        self,
        token: str,
        *,
        base_url: URL,
        timeout: float,
        retry: RetryPolicy,
        http: aiohttp.ClientSession | None = None,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.base_url = base_url
        self._base = str(base_url).rstrip("/")
        self._token = token
        self._of_all = {
            hdrs.AUTHORIZATION: f"Bearer {token}",
            hdrs.ACCEPT: "application/json",
            hdrs.USER_AGENT: f"avaturn_async/{__version__}",
        }
        # A ClientSession of ours has these, one that was given must not. They are in aiohttp's own kind of
        # mapping, which it need not make anew for each request.
        self._headers = CIMultiDict({} if http is None else self._of_all)
        self._json_headers = CIMultiDict({**self._headers, hdrs.CONTENT_TYPE: "application/json"})
        self._limit = aiohttp.ClientTimeout(total=checked_timeout(timeout))
        self._retry = retry
        self._given = http
        self._own: aiohttp.ClientSession | None = None
        self._trace_configs = list(trace_configs)
        self.closed = False
        self._sleep = sleep
        self._random = random
        self._clock = clock

    async def close(self) -> None:
        """Close the ClientSession, if it is ours."""
        self.closed = True
        if self._own is not None:
            await self._own.close()

    def session(self) -> aiohttp.ClientSession:
        """The ClientSession to send with, made at first use so that it belongs to the running loop."""
        if self.closed:
            raise errors.ClientClosedError("this AvaturnClient is closed: make a new one")
        if self._given is not None:
            if self._given.closed:
                raise errors.ClientClosedError("the ClientSession given as http= is closed")
            return self._given
        if self._own is None:
            self._own = aiohttp.ClientSession(
                headers=self._of_all,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=self._trace_configs,
                middlewares=(_send_once,),
            )
        return self._own

    async def call(
        self,
        answer: type[T],
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        timeout: float | None = None,
        repeatable: bool | None = None,
    ) -> T:
        """Send a request and structure its JSON answer as ``answer``."""
        content = await self.send(
            method, path, query=query, body=body, timeout=timeout, repeatable=repeatable
        )
        return self.decode(content, answer, method, path)

    def decode(self, content: bytes, answer: type[T], method: str, path: str) -> T:
        """The model in an answer's body.

        Raises:
            AvaturnDecodeError: It is not JSON, or of another shape than documented.
        """
        try:
            value = loads(content)
            return value if answer is object else structure(value, answer)
        except errors.AvaturnDecodeError as error:
            message, problems = error.args
        raise errors.AvaturnDecodeError(f"{method} {path}: {message}", tuple(map(self.clean, problems)))

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        timeout: float | None = None,
        repeatable: bool | None = None,
    ) -> bytes:
        """Send a request, again where that is safe, and give the body of its successful answer.

        Args:
            method: HTTP method in capitals.
            path: Quoted path from the root of ``base_url``.
            query: The query, quoted.
            body: JSON.
            timeout: Seconds for one attempt, head and body together.
            repeatable: Whether a request that may have arrived can be sent again; by default what the
                method means in HTTP.
        """
        url = URL(f"{self._base}{path}?{query}" if query else f"{self._base}{path}", encoded=True)
        limit = self._limit if timeout is None else aiohttp.ClientTimeout(total=checked_timeout(timeout))
        if repeatable is None:
            repeatable = method in _REPEATABLE
        waited = 0.0
        attempt = 0
        perhaps_done = False
        while True:
            attempt += 1
            result = await self._attempt(method, url, path, body, limit)
            if isinstance(result, bytes):
                return result
            error = result.error
            if method == "DELETE" and perhaps_done and isinstance(error, errors.NotFoundError):
                return b""
            delay = None
            if _worth_repeating(result, repeatable=repeatable):
                after = error.retry_after if isinstance(error, errors.AvaturnStatusError) else None
                delay = next_delay(
                    self._retry, attempt=attempt, waited=waited, retry_after=after, random=self._random
                )
            if delay is None:
                raise error
            perhaps_done = perhaps_done or not (result.unsent or isinstance(error, errors.RateLimitError))
            logger.debug("attempt %d failed, the next in %.2f s: %s", attempt, delay, error)
            await self._sleep(delay)
            waited += delay

    async def _attempt(
        self, method: str, url: URL, path: str, body: bytes | None, limit: aiohttp.ClientTimeout
    ) -> bytes | _Failure:
        session = self.session()
        try:
            response = await session.request(
                method,
                url,
                data=body,
                headers=self._headers if body is None else self._json_headers,
                skip_auto_headers=_NO_GUESS if body is None and method != "GET" else None,
                timeout=limit,
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=True,
            )
            # This gives the connection back, or ends it, whatever comes.
            content = await response.read()
            if 200 <= response.status < 300:  # noqa: PLR2004 - the 2xx
                return content
            return _Failure(self._status_error(method, path, response, content))
        except TimeoutError:
            words = f"{method} {path}: no answer within {limit.total:g} s"
            return _Failure(errors.AvaturnTimeoutError(words))
        except (aiohttp.ClientError, OSError) as error:
            unsent = isinstance(error, aiohttp.ClientConnectorError)
            # A certificate that is wrong now is wrong in a second, too.
            hopeless = isinstance(error, aiohttp.ClientConnectorCertificateError)
            name = "" if isinstance(error, _DroppedError) else f"{type(error).__name__}: "
            reason = self.clean(f"{name}{error}")
        reason = " ".join(reason.split())
        return _Failure(errors.AvaturnConnectionError(f"{method} {path}: {reason}"), unsent, hopeless)

    def _status_error(
        self, method: str, path: str, response: aiohttp.ClientResponse, content: bytes
    ) -> errors.AvaturnStatusError:
        status = response.status
        kind = _STATUS_ERRORS.get(status)
        if kind is None:
            kind = errors.ServerError if status >= 500 else errors.AvaturnStatusError  # noqa: PLR2004 - the 5xx
        request_id = response.headers.get("X-Request-Id")
        return kind(
            status,
            method,
            path,
            self.clean(content.decode(errors="replace")),
            tuple(map(self.clean, _problems(content)[:_MOST_PROBLEMS])) if status == 422 else (),  # noqa: PLR2004
            self.clean(request_id) if request_id else None,
            parse_retry_after(response.headers.get("Retry-After"), self._clock()),
        )

    def clean(self, text: str) -> str:
        """The text without the token, and without users and queries of URLs; cut at 200 characters."""
        text = text.replace(self._token, "[token]")
        return _URL.sub(r"\1\2", text)[:_LONGEST_WORDS]


def _worth_repeating(failure: _Failure, *, repeatable: bool) -> bool:
    error = failure.error
    if isinstance(error, errors.AvaturnStatusError):
        if repeatable:
            return error.status in _PASSING
        return error.status in _BACK_LATER and error.retry_after is not None
    return (repeatable or failure.unsent) and not failure.hopeless


def _problems(content: bytes) -> list[str]:
    """The places in FastAPI's validation body, as ``body.user_id: field required``; none if it is another."""
    found: list[str] = []
    with contextlib.suppress(ValueError, RecursionError, LookupError, TypeError):
        for entry in json.loads(content)["detail"]:
            place = ".".join(map(str, entry["loc"]))
            found.append(f"{place}: {entry['msg']}")
    return found
