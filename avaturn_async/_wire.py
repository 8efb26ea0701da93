"""One HTTP exchange of a transfer: a checked URL, a guarded connection, failures without secrets.

An upload or download URL is a credential by itself, perhaps with its path. So errors name the host and no
more, and are raised outside of ``except`` blocks: aiohttp's exceptions hold the whole URL, and one that is
chained to ours would carry it into every traceback.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver
from attrs import frozen
from yarl import URL

from avaturn_async._addresses import GuardedResolver, is_name_or_public
from avaturn_async._retry import RetryPolicy, next_delay, parse_retry_after
from avaturn_async._version import __version__
from avaturn_async.errors import (
    AvaturnConnectionError,
    AvaturnError,
    AvaturnTimeoutError,
    ClientClosedError,
    TransferError,
)

NETWORK_ERRORS = (TimeoutError, aiohttp.ClientError, OSError)
"""What aiohttp raises when the other side or the way to it fails."""

_HEADERS = {
    "User-Agent": f"avaturn_async/{__version__}",
    # Nothing is packed, so that lengths and ranges are those of the file itself.
    "Accept-Encoding": "identity",
}
EXPIRED = frozenset({403, 404, 410})
"""The statuses of a URL that is over, or never was."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_REMEDY = "(allow_private_urls=True is for tests)"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"(?=.{1,254}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.IGNORECASE)
# Chunks arrive whole up to this size, and the network runs on while one is written to the disk.
_READ_BUFFER = 1 << 20


@frozen
class Failure:
    """An attempt that failed, and what speaks for or against another."""

    error: AvaturnError
    hopeless: bool = False
    """It would fail again, or must not be made again."""
    retry_after: str | None = None
    """The header of that name, as it was sent."""


def connection_failure(doing: str, error: Exception, limit: float, *, repeatable: bool = True) -> Failure:
    """The failure behind one of NETWORK_ERRORS, in words that hold no URL.

    Args:
        doing: What was tried, and with which host.
        error: The error.
        limit: Seconds of silence that were allowed.
        repeatable: Whether a request that may have arrived can be sent again.
    """
    if isinstance(error, TimeoutError):
        words = f"{doing}: silence for {limit:g} s"
        return Failure(AvaturnTimeoutError(words), hopeless=not repeatable)
    # Without a connection it provably never left. A certificate that is wrong now is wrong in a second, too.
    unsent = isinstance(error, aiohttp.ClientConnectorError)
    hopeless = isinstance(error, aiohttp.ClientConnectorCertificateError) or not (repeatable or unsent)
    return Failure(AvaturnConnectionError(f"{doing}: {reason(error)}"), hopeless=hopeless)


def reason(error: Exception) -> str:
    """Why the network failed. The text of aiohttp's errors may hold the URL, so it is not used."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


class Attempts:
    """Counts the attempts of one transfer and sleeps between them."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._sleep = sleep
        self._random = random
        self._clock = clock
        self._made = 0
        self._waited = 0.0

    async def sleep_or_raise(self, failure: Failure) -> None:
        """Sleep until the next attempt, or raise the failure's error when there is to be none."""
        self._made += 1
        delay = next_delay(
            self._policy,
            attempt=self._made,
            waited=self._waited,
            retry_after=parse_retry_after(failure.retry_after, self._clock()),
            random=self._random,
        )
        if failure.hopeless or delay is None:
            raise failure.error
        await self._sleep(delay)
        self._waited += delay


class Wire:
    """Sends requests to the hosts of upload and download URLs, without token, cookies and proxies.

    There are two ClientSessions: one behind the guard, and one for URLs that need none, which are those with
    the origin of ``base_url``, or all of them with ``allow_private_urls``.
    """

    def __init__(
        self,
        *,
        base_url: URL,
        allow_private_urls: bool,
        trace_configs: Sequence[aiohttp.TraceConfig],
        resolver: AbstractResolver | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._trusted_origin = _origin(base_url)
        self._trust_all = allow_private_urls
        self._trace_configs = list(trace_configs)
        self._given_resolver = resolver
        self._ssl = True if ssl_context is None else ssl_context
        self._resolver: AbstractResolver | None = None
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._responses: WeakSet[aiohttp.ClientResponse] = WeakSet()
        self._closed = False

    async def close(self) -> None:
        """Close the sessions, and end what goes on in them. Twice is fine."""
        self._closed = True
        # To close a session does not wake who reads a body of it (aiohttp 3.14); to close the response does.
        for response in tuple(self._responses):
            response.close()
        for session in self._sessions.values():
            await session.close()
        if self._resolver is not None and self._given_resolver is None:
            await self._resolver.close()

    def checked(self, name: str, text: str | URL) -> URL:
        """A URL that may be asked for, as far as it can be told without resolving its host.

        Raises:
            ValueError: It is none, or not https. The message does not hold it.
        """
        url = _parsed(text)
        if url is None:
            raise ValueError(f"{name} must be a URL such as https://host/path")
        if url.scheme != "https" and not self._trusts(url):
            raise ValueError(f"{name} must be https: it is a credential and would travel readable")
        return url

    async def get(
        self, url: URL, *, headers: Mapping[str, str], limit: float
    ) -> aiohttp.ClientResponse | Failure:
        """GET, with redirects followed, each of them checked like the first URL.

        Args:
            url: A checked URL.
            headers: Headers of the request.
            limit: Seconds of silence until it fails.

        Raises:
            TransferError: The host, or that of a redirect, is refused.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=limit, sock_read=limit)
        doing = ""
        for _ in range(_MOST_REDIRECTS + 1):
            doing = f"download from {url.raw_host}"
            try:
                response = await self.request(doing, "GET", url, headers=headers, timeout=timeout)
            except NETWORK_ERRORS as error:
                return connection_failure(doing, error, limit)
            if response.status not in _REDIRECTS:
                return response
            async with response:
                url = self._redirected(doing, url, response.headers.get("Location", ""))
        raise TransferError(f"{doing}: redirected more than {_MOST_REDIRECTS} times")

    async def request(
        self,
        doing: str,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        data: Any = None,
    ) -> aiohttp.ClientResponse:
        """One request, without redirects; its errors are those of NETWORK_ERRORS.

        Raises:
            TransferError: The host is refused.
            ClientClosedError: After ``close()``.
        """
        session = self._session(doing, url)
        try:
            response = await session.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                data=data,
                timeout=timeout,
                allow_redirects=False,
                read_bufsize=_READ_BUFFER,
                ssl=self._ssl,
            )
        except TransferError as refused:
            words = str(refused)
        else:
            self._responses.add(response)
            return response
        raise TransferError(f"{doing}: refused, {words} {_REMEDY}")

    def _session(self, doing: str, url: URL) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosedError("this AvaturnClient is closed: make a new one")
        trusted = self._trusts(url)
        if not trusted and not is_name_or_public(url.raw_host or ""):
            raise TransferError(f"{doing}: refused, its address is not public {_REMEDY}")
        if self._resolver is None:
            self._resolver = self._given_resolver or aiohttp.DefaultResolver()
        if trusted not in self._sessions:
            self._sessions[trusted] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver if trusted else GuardedResolver(self._resolver),
                    use_dns_cache=False,  # resolved, and so checked, for each connection
                    force_close=True,  # an idle connection may be dead, and photos are sent only once
                    limit=0,  # to wait for a turn would count as silence
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=self._trace_configs,
                auto_decompress=False,
            )
        return self._sessions[trusted]

    def _trusts(self, url: URL) -> bool:
        return self._trust_all or _origin(url) == self._trusted_origin

    def _redirected(self, doing: str, url: URL, location: str) -> URL:
        try:
            target = self.checked("Location", url.join(_spelled(location))) if location else None
        except ValueError:
            target = None
        if target is None:
            raise TransferError(f"{doing}: redirected to what is no https URL")
        return target


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port


def _spelled(text: str) -> URL:
    """A URL in its very spelling, which a signature may cover; quoted only where it has to be.

    Raises:
        ValueError: It is none.
    """
    if _CONTROL.search(text):
        raise ValueError("a URL holds no control characters")
    return URL(text, encoded=text.isascii() and " " not in text)


def _parsed(text: Any) -> URL | None:
    """An absolute http or https URL whose host is a name or an address, or None."""
    if not isinstance(text, str | URL):
        return None
    try:
        parsed = _spelled(str(text))
        host, port = parsed.raw_host or "", parsed.port
    except ValueError:
        return None
    good = parsed.scheme in {"http", "https"} and (":" in host or _NAME.fullmatch(host)) and port
    return parsed if good else None
