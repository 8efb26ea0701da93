"""One API request: URL, headers, attempt, status, retry; failures become errors of the SDK.

Errors are raised outside of ``except`` blocks: aiohttp's exceptions hold the request with its headers, and a chained
one would carry the token into every traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import logging
import os
import random as random_module
import re
import socket
import ssl as ssl_module
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

import aiohttp
from aiohttp import hdrs
from attrs import frozen
from multidict import CIMultiDict
from yarl import URL

from avaturn_async import errors
from avaturn_async._converter import loads, structure
from avaturn_async._retry import FailedAttempt, RetryPolicy, RetryState, parse_retry_after
from avaturn_async._throttle import Throttle
from avaturn_async._validation import (
    get_kind,
    is_other_loop,
    validate_count,
    validate_proxy,
    validate_timeout,
    validate_type,
)
from avaturn_async._version import __version__

logger = logging.getLogger("avaturn_async.transport")

T = TypeVar("T")
HttpOption: TypeAlias = aiohttp.ClientSession | Callable[[], aiohttp.ClientSession]
"""A ClientSession of the caller, or a function that returns one inside the running loop."""
SSLOption: TypeAlias = ssl_module.SSLContext | aiohttp.Fingerprint | bool
"""What aiohttp accepts as ``ssl=``."""

DEFAULT_MAX_CONCURRENCY = 100
"""Calls at once of a client that has its own ClientSession; aiohttp's own limit of connections."""
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
# aiohttp sends an empty body as application/octet-stream otherwise.
_SKIP_AUTO_HEADERS = frozenset({"Content-Type"})
# aiohttp 3.14 warns of larger bodies of bytes: it writes those at once, and a BytesIO in parts.
_MAX_PLAIN_BODY = 1 << 20
_MAX_BODY_EXCERPT = 200
_MAX_PROBLEMS = 20
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
# The user part and the query of a URL can be credentials, and may hold an apostrophe (RFC 3986, 2.2). A JSON encoder
# may have escaped the slashes. URLs without either match, too, so that the search is linear in the length of the text.
_URL = re.compile(r"(https?:(?:\\?/){2})(?:[^\s\"<>/?#]*@)?([^\s\"<>?#]*)(?:[?#][^\s\"<>]*)?", re.IGNORECASE)

# The beginning of aiohttp's ValueError for an Authorization header beside other credentials.
_CREDENTIALS_ERROR = "Cannot combine AUTHORIZATION header"


class _ConnectionLostError(aiohttp.ClientConnectionError):
    """The connection broke; the argument says how."""


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating an idempotent request on its own, since the retry policy counts attempts."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise _ConnectionLostError(reason)


class Sockets(WeakSet[socket.socket]):
    """The sockets of a ClientSession in one event loop."""

    def create(self, address: tuple[Any, ...]) -> socket.socket:
        """Return a new socket for a row of ``getaddrinfo``. This is what aiohttp takes as ``socket_factory=``."""
        created = socket.socket(*address[:3])
        self.add(created)
        return created

    def shut_down(self) -> None:
        """End the connections. The close of one with a peer that does not read would wait for that peer."""
        for each in tuple(self):
            with contextlib.suppress(OSError):  # it has ended, or is not connected yet
                each.shutdown(socket.SHUT_RDWR)


def make_failed_attempt(error: errors.AvaturnError, cause: Exception, *, idempotent: bool) -> FailedAttempt:
    """Return the failed attempt for what aiohttp raised; ``error`` is raised if there is no further attempt."""
    not_sent = isinstance(cause, aiohttp.ClientConnectorError)
    # A certificate that is invalid now is invalid in a second, too.
    permanent = isinstance(cause, aiohttp.ClientConnectorCertificateError)
    return FailedAttempt(error, retryable=(idempotent or not_sent) and not permanent, had_no_effect=not_sent)


def find_secret(secret: str) -> re.Pattern[str]:
    """Return a pattern that finds a text, also with characters escaped as in JSON or percent-encoded as in a URL."""

    def spell(character: str) -> str:
        literal, code = re.escape(character), f"{ord(character):04x}"
        encoded = "%".join(f"(?i:(?:25)?{byte:02x})" for byte in character.encode(errors="replace"))
        return rf"(?:{literal}|\\{literal}|\\u(?i:{code})|%{encoded})"

    # In a form, + stands for a space.
    return re.compile("".join(spell(c) if c not in " +" else rf"(?:{spell(' ')}|{spell('+')})" for c in secret))


def find_proxy(url: URL, proxy: str | URL | None, *, trust_env: bool) -> URL | None:
    """Return the proxy for a URL: the given one, or with ``trust_env`` the one of the environment.

    The environment is read here and not by aiohttp, which would read ``~/.netrc`` as well and then refuse the token.

    Raises:
        ValueError: The environment has a proxy that is not a URL. The error names the variable.
    """
    if proxy is not None:
        return URL(proxy)
    if not trust_env or urllib.request.proxy_bypass(url.host or ""):
        return None
    found = urllib.request.getproxies().get(url.scheme)
    if not found:
        return None
    name = f"{url.scheme}_proxy"
    name = name if os.environ.get(name) else name.upper()
    # "host:3128" is usual, too.
    return validate_proxy(found if "://" in found else f"http://{found}", f"the environment variable {name}")


def _validate_http(http: Any) -> None:
    """Refuse what is neither a ClientSession nor a function that can return one.

    Raises:
        TypeError: ``http`` is something else.
        ValueError: The ClientSession has credentials of its own.
    """
    if http is None:
        return
    is_function = callable(http) and not isinstance(http, type) and not inspect.iscoroutinefunction(http)
    if not (isinstance(http, aiohttp.ClientSession) or is_function):
        raise TypeError(f"http must be a ClientSession, or a plain function that returns one, not {get_kind(http)}")
    _validate_auth(http)


def _validate_auth(http: Any) -> None:
    """Refuse a ClientSession with credentials, since aiohttp sends no header with a token beside them."""
    # aiohttp 4 has no ClientSession.auth.
    if getattr(http, "auth", None) is not None:
        raise ValueError("the ClientSession given as http= has auth= of its own: give one without")


@frozen
class _LoopState:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    pid: int
    """The process that made it; a forked child has another one."""
    session: aiohttp.ClientSession
    throttle: Throttle
    sockets: Sockets
    """Those of a ClientSession of ours."""


class Transport:
    """Sends requests to one origin with one token.

    The parameters are those of ``AvaturnClient``, and these:

    Args:
        sleep: Sleeps a number of seconds.
        random: Returns a number from 0 up to 1.
        clock: Returns seconds since the epoch.
        monotonic: Returns the seconds of a clock that never goes back. Default: that of the event loop.
    """

    def __init__(
        self,
        token: str,
        *,
        base_url: URL,
        timeout: float,
        retry: RetryPolicy,
        http: HttpOption | None = None,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        max_concurrency: int | None = None,
        proxy: str | URL | None = None,
        trust_env: bool = False,
        ssl: SSLOption | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        if max_concurrency is not None:
            validate_count("max_concurrency", max_concurrency)
        _validate_http(http)
        validate_type("retry", retry, RetryPolicy, ": give RetryPolicy(attempts=3), for example")
        if not isinstance(ssl, ssl_module.SSLContext | aiohttp.Fingerprint | bool | None):
            raise TypeError(f"ssl must be an SSLContext, a Fingerprint or a bool, not {type(ssl).__name__}")
        if proxy is not None:
            validate_proxy(proxy)
        self.base_url = base_url
        self.closed = False
        self._base = str(base_url).rstrip("/")
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=validate_timeout(timeout))
        self._retry = retry
        self._http = http
        self._trace_configs = list(trace_configs)
        self._max_concurrency = max_concurrency
        self._proxy = proxy
        self._trust_env = trust_env
        self._ssl = ssl
        self._sleep = sleep
        self._random = random
        self._clock = clock
        self._monotonic = monotonic
        self._default_headers = CIMultiDict(
            {
                hdrs.AUTHORIZATION: f"Bearer {token}",
                hdrs.ACCEPT: "application/json",
                hdrs.USER_AGENT: f"avaturn_async/{__version__}",
            }
        )
        # A ClientSession of ours has the default headers; they never go into one of the caller.
        self._headers = CIMultiDict(self._default_headers if http is not None else {})
        self._json_headers = CIMultiDict({**self._headers, hdrs.CONTENT_TYPE: "application/json"})
        # Options of each request, for a ClientSession of the caller only.
        self._request_options: dict[str, Any] = {}
        if http is not None:
            if proxy is not None or trust_env:
                self._request_options["proxy"] = find_proxy(base_url, proxy, trust_env=trust_env)
            if ssl is not None:
                self._request_options["ssl"] = ssl
        self._state: _LoopState | None = None
        # Responses whose bodies are being read.
        self._responses: set[aiohttp.ClientResponse] = set()

    async def ready(self) -> _LoopState:
        """Return the state of the running loop. It is made at first use, and anew after the loop has ended.

        Raises:
            ClientClosedError: The client, or the ClientSession of the caller, is closed.
            AvaturnError: The client is in use in another running loop, or was used before a fork.
        """
        if self.closed:
            raise errors.ClientClosedError("this AvaturnClient is closed: make a new one")
        state = self._state
        if state is not None and is_other_loop(state.loop, state.pid):
            self._state = None
            await self._close_session(state)
            state = self._state
        if state is None:
            state = self._state = self._make_state()
        if state.session.closed:
            raise errors.ClientClosedError("the ClientSession given as http= is closed")
        return state

    def _make_state(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        limit = self._max_concurrency
        sockets = Sockets()
        if self._http is not None:
            session = self._http
            if not isinstance(session, aiohttp.ClientSession):
                session = session()
                validate_type("the result of the function given as http=", session, aiohttp.ClientSession)
                _validate_auth(session)
            # A call waits for its slot here and not in the connector, where its timeout would run already.
            connector = session.connector
            limits = [limit, connector and connector.limit, connector and connector.limit_per_host]
            limit = min((each for each in limits if each), default=DEFAULT_MAX_CONCURRENCY)
        else:
            # Before there is a connector, which an error would leave open.
            proxy = find_proxy(self.base_url, self._proxy, trust_env=self._trust_env)
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, ssl=True if self._ssl is None else self._ssl, socket_factory=sockets.create
                ),
                headers=self._default_headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=self._trace_configs,
                middlewares=(_send_once,),
                proxy=proxy,
            )
        throttle = Throttle(
            limit or DEFAULT_MAX_CONCURRENCY,
            self._retry,
            sleep=self._sleep,
            random=self._random,
            monotonic=self._monotonic or loop.time,
        )
        return _LoopState(loop, os.getpid(), session, throttle, sockets)

    async def close(self) -> None:
        """Close the ClientSession, if it is ours.

        Raises:
            AvaturnError: The client is in use in another running loop.
        """
        if self._state is not None:
            is_other_loop(self._state.loop, self._state.pid)  # raises
        self.closed = True
        if self._state is not None:
            await self._close_session(self._state)

    async def _close_session(self, state: _LoopState) -> None:
        if self._http is not None:
            return
        if state.loop is asyncio.get_running_loop():
            # aiohttp 3.14: closing a session does not wake a reader of a body; closing the response does.
            for response in tuple(self._responses):
                response.close()
            state.sockets.shut_down()
            await state.session.close()
        else:
            # The loop has ended, and its connections with it; the session must only not be reported as unclosed.
            with contextlib.suppress(Exception):
                await state.session.close()

    async def call(
        self,
        model: type[T],
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        timeout: float | None = None,
        idempotent: bool | None = None,
    ) -> T:
        """Send a request and return its JSON response as ``model``. Parameters are those of ``send``."""
        content = await self.send(method, path, query=query, body=body, timeout=timeout, idempotent=idempotent)
        return self.decode(content, model, method, path)

    def decode(self, content: bytes, model: type[T], method: str, path: str) -> T:
        """Return the model in the body of a response.

        Raises:
            AvaturnDecodeError: The body is not JSON, or does not have the documented shape.
        """
        try:
            value = loads(content)
            return value if model is object else structure(value, model, redact=self.redact)
        except errors.AvaturnDecodeError as error:
            message, problems = error.args
        raise errors.AvaturnDecodeError(f"{method} {path}: {message}", problems)

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        timeout: float | None = None,
        idempotent: bool | None = None,
    ) -> bytes:
        """Send a request, repeat it where that is safe, and return the body of its 2xx response.

        Args:
            method: HTTP method in capitals.
            path: Quoted path from the root of ``base_url``.
            query: Quoted query string.
            body: JSON.
            timeout: Seconds for one attempt, head and body together, from when it may use a connection.
            idempotent: Whether a request that may have arrived can be repeated. Default: as HTTP defines the method.
        """
        url = URL(f"{self._base}{path}?{query}" if query else f"{self._base}{path}", encoded=True)
        limit = self._timeout if timeout is None else aiohttp.ClientTimeout(total=validate_timeout(timeout))
        if idempotent is None:
            idempotent = method in IDEMPOTENT_METHODS
        options: dict[str, Any] = {
            "data": body,
            "headers": self._headers if body is None else self._json_headers,
            "skip_auto_headers": _SKIP_AUTO_HEADERS if body is None and method != "GET" else None,
            "timeout": limit,
            "allow_redirects": False,
            "raise_for_status": False,
            "auto_decompress": True,
            **self._request_options,
        }
        retries = RetryState(self._retry, sleep=self._sleep, random=self._random)
        may_have_succeeded = False
        refused = False
        while True:
            state = await self.ready()
            throttle = state.throttle
            began = await throttle.acquire(first=refused)
            succeeded, delay = False, None
            try:
                if self.closed or state.session.closed:
                    await self.ready()  # raises: it was closed while this call waited
                result = await self._attempt(state.session, method, url, path, options, idempotent=idempotent)
                if isinstance(result, bytes) or not isinstance(result.error, errors.RateLimitError):
                    refused, succeeded = False, True
                else:
                    refused = True
                    # A Retry-After beyond the cap is raised below; other calls learn it from their own responses.
                    if result.retry_after is None or result.retry_after <= self._retry.cap:
                        delay = throttle.pause(began, result.retry_after)
            finally:
                throttle.release(succeeded=succeeded)
            if isinstance(result, bytes):
                return result
            if method == "DELETE" and may_have_succeeded and isinstance(result.error, errors.NotFoundError):
                return b""
            may_have_succeeded = may_have_succeeded or not result.had_no_effect
            # A closed client makes no further attempt, so there is nothing to wait for.
            await retries.sleep_or_raise(result, delay=0 if self.closed else delay)

    async def _attempt(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        path: str,
        options: dict[str, Any],
        *,
        idempotent: bool,
    ) -> bytes | FailedAttempt:
        began = time.monotonic()
        try:
            response = await self._request(session, method, url, options)
            self._responses.add(response)
            try:
                # This gives the connection back, or closes it, also after an error.
                content = await response.read()
            finally:
                self._responses.discard(response)
        except RuntimeError as cause:
            if self._http is not None:
                cause.add_note("Was the ClientSession given as http= made in another event loop? Give a function.")
            raise
        except TimeoutError:
            error: errors.AvaturnError = errors.AvaturnTimeoutError(
                f"{method} {path}: no response within {options['timeout'].total:g} s"
            )
            failed = FailedAttempt(error, retryable=idempotent)
        except (aiohttp.ClientError, OSError) as cause:
            name = "" if isinstance(cause, _ConnectionLostError) else f"{type(cause).__name__}: "
            reason = self.redact(f"{name}{cause}")
            error = errors.AvaturnConnectionError(f"{method} {path}: {reason}")
            failed = make_failed_attempt(error, cause, idempotent=idempotent)
        else:
            elapsed = (time.monotonic() - began) * 1000
            logger.debug("%s %s: %d in %.0f ms", method, path, response.status, elapsed)
            if 200 <= response.status < 300:  # noqa: PLR2004 - the 2xx
                return content
            return self._get_failure(method, path, response, content, idempotent=idempotent)
        logger.debug("%s in %.0f ms", error, (time.monotonic() - began) * 1000)
        return failed

    async def _request(
        self, session: aiohttp.ClientSession, method: str, url: URL, options: dict[str, Any]
    ) -> aiohttp.ClientResponse:
        body: bytes | None = options["data"]
        if body is not None and len(body) > _MAX_PLAIN_BODY:
            options = {**options, "data": io.BytesIO(body)}  # each attempt reads its own
        try:
            return await session.request(method, url, **options)
        except ValueError as error:
            # aiohttp sends nothing and refuses our header if trust_env finds credentials in ~/.netrc. All other errors
            # can come after the request, from the caller's middlewares and traces.
            if not str(error).startswith(_CREDENTIALS_ERROR):
                raise
        # A middleware runs later, so the token replaces the credentials. Those of the request replace those of the
        # session, for which aiohttp 3.14 has no public name.
        headers = {name: value for name, value in options["headers"].items() if name != hdrs.AUTHORIZATION}
        options = {**options, "headers": headers, "middlewares": (self._set_token,)}
        return await session.request(method, url, **options)

    async def _set_token(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers[hdrs.AUTHORIZATION] = f"Bearer {self._token}"
        return await handler(request)

    def _get_failure(
        self, method: str, path: str, response: aiohttp.ClientResponse, content: bytes, *, idempotent: bool
    ) -> FailedAttempt:
        status = response.status
        error_class = _STATUS_ERRORS.get(status)
        if error_class is None:
            error_class = errors.ServerError if status >= 500 else errors.AvaturnStatusError  # noqa: PLR2004 - the 5xx
        request_id = response.headers.get("X-Request-Id")
        retry_after = parse_retry_after(response.headers.get("Retry-After"), self._clock())
        error = error_class(
            status,
            method,
            path,
            self.redact(content.decode(errors="replace")),
            tuple(map(self.redact, _parse_problems(content))) if status == 422 else (),  # noqa: PLR2004
            self.redact(request_id) if request_id else None,
            retry_after,
        )
        if status == 429:  # noqa: PLR2004
            # The server refused the request, so that nothing can have happened (RFC 6585, 4).
            return FailedAttempt(error, retryable=True, retry_after=retry_after, had_no_effect=True)
        if idempotent:
            return FailedAttempt(error, retryable=status in RETRYABLE_STATUSES, retry_after=retry_after)
        retryable = status == 503 and retry_after is not None  # noqa: PLR2004
        return FailedAttempt(error, retryable=retryable, retry_after=retry_after)

    @cached_property
    def _token_pattern(self) -> re.Pattern[str]:
        return find_secret(self._token)

    def redact(self, text: str) -> str:
        """Return the text without the token and without users and queries of URLs, cut at 200 characters."""
        text = self._token_pattern.sub("[token]", text)
        return _URL.sub(r"\1\2", text)[:_MAX_BODY_EXCERPT]


def _parse_problems(content: bytes) -> list[str]:
    """Return the fields in FastAPI's validation body, as ``body.user_id: field required``."""
    found: list[str] = []
    with contextlib.suppress(ValueError, RecursionError, LookupError, TypeError):
        for entry in json.loads(content)["detail"][:_MAX_PROBLEMS]:
            place = ".".join(map(str, entry["loc"]))
            found.append(f"{place}: {entry['msg']}")
    return found
