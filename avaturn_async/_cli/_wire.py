"""One request over a connection of its own, with headers and body byte for byte as they are given.

An HTTP library would write headers its own way, and a delivery that is sent again must be what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import ssl
from collections.abc import Iterable

from yarl import URL

from avaturn_async._cli._failures import Failure, why

# What belongs to a connection and not to a delivery; all of it is made anew.
_OF_THE_CONNECTION = frozenset(
    {b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"te", b"trailer"}
    | {b"transfer-encoding", b"upgrade"}
)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_OK = 200


def web_url(text: str) -> URL:
    """A URL to send to, for argparse.

    Raises:
        ArgumentTypeError: It is none; the message does not show it, since its query may hold a secret.
    """
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise argparse.ArgumentTypeError("must be a URL such as http://127.0.0.1:8080/avaturn")
    if url.user or url.password:
        raise argparse.ArgumentTypeError(
            "must have no user or password: use --scheme basic, --user, and the secret for the password"
        )
    return url


async def deliver(
    url: URL,
    *,
    method: str = "POST",
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    timeout: float,
) -> int:
    """Send a request and give the status of the answer.

    Args:
        url: Where to.
        method: HTTP method.
        query: The query, undecoded, in case the URL has none.
        headers: Names and values; those that belong to a connection are left out.
        body: The body.
        timeout: Seconds in all.

    Raises:
        Failure: There is no answer.
    """
    query = url.raw_query_string.encode() or query
    target = url.raw_path.encode() + (b"?" + query if query else b"")
    head = [
        b"%s %s HTTP/1.1" % (method.encode(), target),
        f"Host: {url.raw_authority}".encode(),
        *(b"%s: %s" % pair for pair in headers if pair[0].lower() not in _OF_THE_CONNECTION),
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]
    try:
        async with asyncio.timeout(timeout):
            return await _exchange(url, b"\r\n".join(head) + b"\r\n\r\n" + body)
    except TimeoutError:
        reason = f"no answer within {timeout:g} s"
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not trusted: {error.verify_message}"
    except OSError as error:
        reason = why(error)
    except ValueError:
        reason = "its answer is not HTTP"
    raise Failure(f"{url.origin()}: {reason}")


async def _exchange(url: URL, request: bytes) -> int:
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=url.scheme == "https" or None)
    try:
        writer.write(request)
        while (status := await _status(reader)) < _OK:
            # An interim answer: its headers end with an empty line.
            while await reader.readline() not in {b"\r\n", b"\n", b""}:
                pass
        return status
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _status(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    if not line:
        raise ConnectionResetError("the connection was closed without an answer")
    match = _STATUS.fullmatch(line)
    if match is None:
        raise ValueError
    return int(match[1])
