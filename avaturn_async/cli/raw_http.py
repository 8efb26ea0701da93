"""One request with headers and body byte for byte as they are given.

HTTP libraries write headers in their own way, and ``replay`` repeats exactly what was recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl

from yarl import URL

from avaturn_async.cli.output import CommandError, get_reason
from avaturn_async.webhooks import WebhookRequest

# Headers of a connection (RFC 9110 7.6.1) and of the length of the body, which send_request() writes itself.
_OMITTED_HEADERS = {
    *(b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding"),
    b"upgrade",
}
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_OK = 200


async def send_request(url: URL, request: WebhookRequest, *, timeout: float) -> int:
    """Send a request over a new connection and return the status of the response.

    Args:
        url: Where to send it; its query, if it has one, replaces that of the request.
        request: The request; headers of a connection are omitted.
        timeout: Seconds for the whole request.

    Raises:
        CommandError: The server sends no valid response in time.
    """
    query = url.raw_query_string.encode() or request.query.encode(errors="surrogateescape")
    target = url.raw_path.encode() + (b"?" + query if query else b"")
    lines = [
        b"%s %s HTTP/1.1" % (request.method.encode(), target),
        f"Host: {url.raw_authority}".encode(),
        *(b"%s: %s" % pair for pair in request.headers if pair[0].lower() not in _OMITTED_HEADERS),
        b"Content-Length: %d" % len(request.body),
        b"Connection: close",
    ]
    try:
        async with asyncio.timeout(timeout):
            return await _exchange(url, b"\r\n".join(lines) + b"\r\n\r\n" + request.body)
    except TimeoutError:
        reason = f"no answer within {timeout:g} s"
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not trusted: {error.verify_message}"
    except OSError as error:
        reason = get_reason(error)
    except ValueError:
        reason = "its answer is not HTTP"
    # Without path and query, which can hold a secret.
    raise CommandError(f"{url.origin()}: {reason}")


async def _exchange(url: URL, request: bytes) -> int:
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=url.scheme == "https" or None)
    try:
        writer.write(request)
        while True:
            line = await reader.readline()
            if not line:
                raise ConnectionResetError("the connection was closed without an answer")
            match = _STATUS_LINE.fullmatch(line)
            if match is None:
                raise ValueError(line)
            if int(match[1]) >= _OK:
                return int(match[1])
            # An interim response, such as 103 (RFC 9110 15.2): its headers end with an empty line.
            while await reader.readline() not in {b"\r\n", b"\n", b""}:
                pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
