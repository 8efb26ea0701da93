"""HTTP for transfers: validated URLs, a guarded resolver, redirects, and failures without secrets.

The URL of a result may come from a webhook, and following any URL would open the server's own network. So the guard
checks the addresses of a host each time it is resolved, and aiohttp connects to those very addresses: a name that
resolves differently later (DNS rebinding) gains nothing. With a proxy, the proxy resolves the name: the guard then
checks literal addresses only, and the proxy must refuse private ones.

An upload or download URL is a credential, perhaps with its path. So errors name the host only, and are raised outside
of ``except`` blocks: aiohttp's exceptions hold the whole URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random as random_module
import re
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from avaturn_async._retry import FailedAttempt, RetryPolicy, RetryState
from avaturn_async._transport import Sockets, SSLOption, find_proxy, make_failed_attempt
from avaturn_async._validation import is_other_loop, validate_timeout
from avaturn_async._version import __version__
from avaturn_async.errors import (
    AvaturnConnectionError,
    AvaturnTimeoutError,
    ClientClosedError,
    TransferError,
)

P = ParamSpec("P")
T = TypeVar("T")

NETWORK_ERRORS = (TimeoutError, aiohttp.ClientError, OSError)
"""What aiohttp raises when the server or the connection fails."""
EXPIRED_STATUSES = frozenset({403, 404, 410})
"""Statuses of a URL that has expired or never existed."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_HEADERS = {
    "User-Agent": f"avaturn_async/{__version__}",
    # An uncompressed body, so that Content-Length and Range refer to the file itself.
    "Accept-Encoding": "identity",
}
_REMEDY = "(allow_private_urls=True is for tests)"
# yarl drops lone surrogates.
_NOT_IN_URL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NAME = re.compile(r"(?=.{1,254}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.IGNORECASE)
# Chunks of up to this size arrive whole, and the network goes on while one is written to the disk.
_READ_BUFFER = 1 << 20
# Threads for file work of one client. Other code can keep the default executor busy.
_MAX_THREADS = 8

# IANA's special-purpose registries (RFC 6890). ipaddress.is_global differs between Python releases.
_SPECIAL_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, reachable from each virtual machine there
        "169.254.0.0/16",  # link-local, with the metadata services of the clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# The rest of IPv6 is loopback, local, multicast or reserved.
_UNICAST_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
# Where a network has only IPv6, DNS64 gives each IPv4 address in this prefix (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")

# To some resolvers, a host whose last label is a number is an IPv4 address (WHATWG URL, 3.5).
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)


def is_public(address: str) -> bool:
    """Return whether the text is an IP address, in its usual spelling, of the public internet."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inner = _get_inner_v4(ip)
        if inner is None:
            return ip.scope_id is None and ip in _UNICAST_V6 and not any(ip in network for network in _SPECIAL_V6)
        ip = inner
    return not any(ip in network for network in _SPECIAL_V4)


def _get_inner_v4(ip: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to this IPv6 address end at."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour


def is_name_or_public(host: str) -> bool:
    """Return whether a URL's host is a name, still to be resolved, or a public address in its usual spelling.

    aiohttp does not resolve a host of digits. ``127.1``, ``0x7f.1``, ``017700000001`` and ``2130706433`` are spellings
    of 127.0.0.1, so only the usual one is accepted.
    """
    if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return is_public(host)
    return True


class GuardedResolver(AbstractResolver):
    """Resolves names with another resolver, and refuses names with an address that is not public."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name, all of them public.

        Raises:
            TransferError: One of the addresses is not public.
            OSError: The name has no address.
        """
        found = await self._resolver.resolve(host, port, family)
        if not found:
            raise OSError(f"{host} has no addresses")  # aiohttp expects at least one
        if not all(is_public(each["host"]) for each in found):
            raise TransferError(f"{host} resolves to an address that is not public")
        return found

    async def close(self) -> None:
        """Do nothing: the TransferSession closes the resolver."""


def _new_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="avaturn_files")


class FileThreads:
    """Threads for blocking file work, so that it waits for nothing but other file work of the client."""

    def __init__(self) -> None:
        # The pool of each process by its id: a forked child has the object of its parent's, and none of its threads.
        self._pools: defaultdict[int, ThreadPoolExecutor] = defaultdict(_new_pool)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread and return its result.

        A cancelled caller waits for a function that runs already, since the caller goes on to close its file
        (``asyncio.to_thread`` would not wait). A function that still waits for a thread is not called then.
        """
        return await self._wait(self._pools[os.getpid()].submit(function, *args, **kwargs), cancellable=True)

    async def run_always(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread, also if the caller is cancelled: for the removal of files."""
        return await self._wait(self._pools[os.getpid()].submit(function, *args, **kwargs), cancellable=False)

    async def _wait(self, job: Future[T], *, cancellable: bool) -> T:
        future = asyncio.wrap_future(job)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                if cancellable and job.cancel():
                    raise
                cancelled = error
        if cancelled is not None:
            future.exception()  # retrieved, so that asyncio does not report it
            raise cancelled
        return future.result()

    def close(self) -> None:
        """Let the threads end, without waiting for them."""
        self._pools[os.getpid()].shutdown(wait=False)


class TransferSession:
    """Sends requests to the hosts of upload and download URLs, without token and cookies.

    It has two ClientSessions: one with the guard, and one for URLs that need none: those with the origin of
    ``base_url``, those that go through a proxy, or all with ``allow_private_urls``.

    Args:
        base_url: URL of the API. URLs of its origin are always accepted.
        retry: Retry policy of a transfer.
        timeout: Seconds without progress, in either direction, until an attempt fails.
        allow_private_urls: Whether plain http and private addresses are accepted.
        trace_configs: TraceConfigs for the ClientSessions.
        proxy: URL of an HTTP proxy.
        trust_env: Whether the proxy is taken from the environment.
        ssl: What aiohttp accepts as ``ssl=``.
        resolver: Resolves host names. Default: aiohttp's own.
        sleep: Sleeps a number of seconds between attempts.
        random: Returns a number from 0 up to 1.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self,
        *,
        base_url: URL,
        retry: RetryPolicy,
        timeout: float,
        allow_private_urls: bool = False,
        trace_configs: Sequence[aiohttp.TraceConfig] = (),
        proxy: str | URL | None = None,
        trust_env: bool = False,
        ssl: SSLOption | None = None,
        resolver: AbstractResolver | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        """Returns seconds since the epoch."""
        self.threads: FileThreads = FileThreads()
        self._trusted_origin = _get_origin(base_url)
        self._allow_private_urls = allow_private_urls
        self._retry = retry
        self._timeout = validate_timeout(timeout)
        self._trace_configs = list(trace_configs)
        self._proxy = proxy
        self._trust_env = trust_env
        self._ssl = True if ssl is None else ssl
        self._external_resolver = resolver
        self._sleep = sleep
        self._random = random
        # The loop that the rest belongs to; all of it is made at first use, and anew in another loop.
        self._loop: asyncio.AbstractEventLoop | None = None
        # The process that made it; a forked child has another one.
        self._pid = 0
        self._resolver: AbstractResolver | None = None
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._sockets = Sockets()
        # Responses whose bodies are being read.
        self._responses: WeakSet[aiohttp.ClientResponse] = WeakSet()
        # Transfers under way; the last one ends the threads of a closed session.
        self._active = 0
        self._closed = False

    @contextmanager
    def use(self) -> Generator[None]:
        """Keep the threads alive for one transfer.

        Raises:
            ClientClosedError: The client is closed.
        """
        if self._closed:
            raise ClientClosedError("this AvaturnClient is closed: make a new one")
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            if self._closed and not self._active:
                self.threads.close()

    async def close(self) -> None:
        """Close the connections, and end the transfers that use them. Calling it again does nothing.

        Raises:
            AvaturnError: The client is in use in another running loop.
        """
        other_loop = is_other_loop(self._loop, self._pid)
        self._closed = True
        if not self._active:
            self.threads.close()
        await (self._drop_sessions() if other_loop else self._close_sessions())

    async def _drop_sessions(self) -> None:
        sessions, self._sessions = self._sessions, {}
        self._sockets = Sockets()
        self._resolver = None
        # Their loop has ended, and their connections with it; they must only not be reported as unclosed.
        for session in sessions.values():
            with contextlib.suppress(Exception):
                await session.close()

    async def _close_sessions(self) -> None:
        # aiohttp 3.14: closing a session does not wake a reader of a body; closing the response does.
        for response in tuple(self._responses):
            response.close()
        self._sockets.shut_down()
        sessions, self._sessions = self._sessions, {}
        resolver, self._resolver = self._resolver, None
        async with AsyncExitStack() as stack:
            # Each is closed, also if the caller is cancelled meanwhile.
            if resolver is not None and self._external_resolver is None:
                stack.push_async_callback(resolver.close)
            for session in sessions.values():
                stack.push_async_callback(session.close)

    def get_timeout(self, timeout: float | None) -> float:
        """Return the seconds without progress until an attempt fails; None means the client's timeout."""
        return self._timeout if timeout is None else validate_timeout(timeout)

    def new_retries(self) -> RetryState:
        """Return the retry state of a new transfer."""
        return RetryState(self._retry, sleep=self._sleep_unless_closed, random=self._random)

    async def _sleep_unless_closed(self, delay: float) -> None:
        # A closed session makes no further attempt, so there is nothing to wait for.
        if not self._closed:
            await self._sleep(delay)

    def validate_url(self, name: str, text: str | URL) -> URL:
        """Return a URL that may be requested, as far as that is known before its host is resolved.

        Raises:
            ValueError: ``text`` is not a URL, or not https. The message does not contain it.
            TypeError: ``text`` is neither a str nor a URL.
        """
        if not isinstance(text, str | URL):
            remedy = ": it is None until the file is ready" if text is None else ""
            raise TypeError(f"{name} must be a str, not {type(text).__name__}{remedy}")
        url = _parse_url(text)
        if url is None:
            raise ValueError(f"{name} must be a URL such as https://host/path")
        if url.scheme != "https" and not self._is_trusted(url):
            raise ValueError(f"{name} must be https: it is a credential and would travel readable")
        return url

    async def get(
        self, url: URL, *, headers: Mapping[str, str], timeout: float
    ) -> aiohttp.ClientResponse | FailedAttempt:
        """Send a GET and follow redirects, each of them validated like the first URL.

        Args:
            url: A validated URL.
            headers: Headers of the request.
            timeout: Seconds without progress until it fails.

        Raises:
            TransferError: The host, or that of a redirect, is refused.
        """
        limits = aiohttp.ClientTimeout(total=None, connect=timeout, sock_read=timeout)
        description = ""
        for _ in range(_MAX_REDIRECTS + 1):
            description = f"download from {url.raw_host}"
            try:
                response = await self.request(description, "GET", url, headers=headers, timeout=limits)
            except NETWORK_ERRORS as error:
                return to_failed_attempt(description, error, timeout)
            if response.status not in _REDIRECTS:
                return response
            async with response:
                url = self._get_redirect(description, url, response.headers.get("Location", ""))
        raise TransferError(f"{description}: more than {_MAX_REDIRECTS} redirects")

    async def request(
        self,
        description: str,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        data: Any = None,
    ) -> aiohttp.ClientResponse:
        """Send one request without redirects. Network failures are raised as NETWORK_ERRORS.

        Raises:
            TransferError: The host is refused.
            ClientClosedError: The client is closed.
        """
        proxy = find_proxy(url, self._proxy, trust_env=self._trust_env)
        session = await self._get_session(description, url, proxied=proxy is not None)
        try:
            response = await session.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                data=data,
                timeout=timeout,
                allow_redirects=False,
                read_bufsize=_READ_BUFFER,
                proxy=proxy,
            )
        except TransferError as error:
            reason = str(error)
        else:
            self._responses.add(response)
            return response
        raise TransferError(f"{description}: refused, {reason} {_REMEDY}")

    async def _get_session(self, description: str, url: URL, *, proxied: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosedError("this AvaturnClient is closed: make a new one")
        trusted = self._is_trusted(url)
        if not trusted and not is_name_or_public(url.raw_host or ""):
            raise TransferError(f"{description}: refused, its address is not public {_REMEDY}")
        if is_other_loop(self._loop, self._pid):
            await self._drop_sessions()
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()
        if self._resolver is None:
            self._resolver = self._external_resolver or aiohttp.DefaultResolver()
        unguarded = trusted or proxied
        if unguarded not in self._sessions:
            self._sessions[unguarded] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver if unguarded else GuardedResolver(self._resolver),
                    use_dns_cache=False,  # resolved, and so checked, for each connection
                    force_close=True,  # an idle connection may be dead, and photos are sent only once
                    limit=0,  # a wait for a free connection would count as no progress
                    ssl=self._ssl,
                    socket_factory=self._sockets.create,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=self._trace_configs,
                auto_decompress=False,
            )
        return self._sessions[unguarded]

    def _is_trusted(self, url: URL) -> bool:
        return self._allow_private_urls or _get_origin(url) == self._trusted_origin

    def _get_redirect(self, description: str, url: URL, location: str) -> URL:
        try:
            target = self.validate_url("Location", url.join(_to_url(location))) if location else None
        except ValueError:
            target = None
        if target is None:
            raise TransferError(f"{description}: redirected to a URL that is not https")
        return target


def to_failed_attempt(description: str, error: Exception, timeout: float, *, idempotent: bool = True) -> FailedAttempt:
    """Return the failed attempt for one of NETWORK_ERRORS, in words without the URL.

    Args:
        description: What was tried, and with which host.
        error: The error.
        timeout: Seconds without progress that were allowed.
        idempotent: Whether a request that may have arrived can be repeated.
    """
    if isinstance(error, TimeoutError):
        failure: AvaturnConnectionError = AvaturnTimeoutError(f"{description}: no progress for {timeout:g} s")
    else:
        failure = AvaturnConnectionError(f"{description}: {get_reason(error)}")
    return make_failed_attempt(failure, error, idempotent=idempotent)


def get_reason(error: Exception) -> str:
    """Return why the network failed. The text of aiohttp's errors may hold the URL, so it is not used."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__


def _get_origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port


def _to_url(text: str) -> URL:
    """Return the URL in its very spelling, which a signature may cover; quoted only where necessary.

    Raises:
        ValueError: ``text`` is not a URL.
    """
    if _NOT_IN_URL.search(text):
        raise ValueError("a URL holds no control character and no lone surrogate")
    return URL(text, encoded=text.isascii() and " " not in text)


def _parse_url(text: str | URL) -> URL | None:
    """Return an absolute http or https URL whose host is a name or an address, or None."""
    try:
        parsed = _to_url(str(text))
        host, port = parsed.raw_host or "", parsed.port
    except ValueError:
        return None
    valid = parsed.scheme in {"http", "https"} and (":" in host or _NAME.fullmatch(host)) and port
    return parsed if valid else None
