"""An answer without a body, as an aiohttp response.

aiohttp puts the head of each response together anew, which takes as long as to verify a webhook and to read
it. But between two answers of one status, to which nobody added anything, nothing differs but the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from attrs import define, frozen
from multidict import CIMultiDict

# What aiohttp itself gives an answer without a body.
_OWN_HEADERS = frozenset({hdrs.CONTENT_LENGTH, hdrs.DATE, hdrs.SERVER})
_PREPARE = web.Response.prepare


@frozen
class _Head:
    """What was put together in some second."""

    second: int
    headers: CIMultiDict[str]
    sent: bytes


@define
class _Usual:
    """The answers of a status that are sent as they were made."""

    like: dict[str, Any]
    """The attributes of one that nobody has changed."""
    head: _Head = _Head(-1, CIMultiDict(), b"")
    """That of the last one."""


class Heads:
    """What aiohttp made of answers of each status within this second."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._usual: dict[int, _Usual] = {}

    def usual(self, status: int) -> _Usual:
        """The usual answers of a status."""
        found = self._usual.get(status)
        if found is None:
            found = self._usual[status] = _Usual(vars(Answer(status=status)))
        return found


class Answer(web.Response):
    """An empty response. It is aiohttp's own, but for the work that would only be repeated.

    What others do to it, such as middlewares, signals and cookies, has the effect that it always has: then
    aiohttp puts it together.
    """

    heads = Heads()
    _head = b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Get ready to be sent."""
        heads = self.heads
        usual, second = heads.usual(self.status), int(heads.clock())
        if vars(self) != usual.like or not _is_usual(request):
            return await super().prepare(request)
        head = usual.head
        if head.second != second:
            writer = await super().prepare(request)
            if _OWN_HEADERS.issuperset(self._headers):
                usual.head = _Head(second, CIMultiDict(self._headers), self._serialized())
            return writer
        # All that prepare() leaves behind.
        self._req, self._payload_writer, self._keep_alive = request, request.writer, True
        self._headers.extend(head.headers)
        self._head = head.sent
        return self._payload_writer

    def _serialized(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self._headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send more: nothing, as there is no room for it in a length of 0."""
        if not self._head:
            await super().write(data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send it."""
        writer = self._payload_writer
        if not self._head or writer is None:
            await super().write_eof(data)
            return
        await writer.write_eof(self._head)
        self._eof_sent, self._req, self._payload_writer = True, None, None
        self._body_length = writer.output_size


def _is_usual(request: web.BaseRequest) -> bool:
    """Whether nothing about a request makes an answer to it another, and nobody looks at what it gets."""
    if request.method != hdrs.METH_POST or request.version != aiohttp.HttpVersion11 or not request.keep_alive:
        return False
    match = getattr(request, "_match_info", None)
    if match is None or _IS_WATCHED or web.Response.prepare is not _PREPARE:
        return False
    for app in match.apps:  # noqa: SIM110 - this is for each webhook, and any() takes twice the time
        if app.on_response_prepare:
            return False
    return True


def is_watched(prepare: Any) -> bool:
    """Whether it is not aiohttp's own: agents that watch an application wrap it, to see each response."""
    return hasattr(prepare, "__wrapped__") or prepare.__module__ != web.Response.__module__


_IS_WATCHED = is_watched(_PREPARE)
