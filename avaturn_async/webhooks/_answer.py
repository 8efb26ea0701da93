"""An answer without a body, as an aiohttp response.

aiohttp puts the head of each response together anew, which takes longer than to verify a webhook and to read
it. But between two answers of one status, to which nobody added anything, nothing differs but the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from attrs import define


@define
class _Usual:
    """The answers of a status that are sent as they were made."""

    like: dict[str, Any]
    """The attributes of one that nobody has changed."""
    second: int = -1
    """When the last of them was put together,"""
    head: bytes = b""
    """and what that gave."""


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
    _sent = 0

    @property
    def prepared(self) -> bool:
        """Whether it is being sent."""
        return self._sent > 0 or super().prepared

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection stays; None as long as nobody knows."""
        return True if self._sent else super().keep_alive

    @property
    def body_length(self) -> int:
        """Bytes that were sent, as aiohttp counts them: those of the head, too."""
        return self._sent or super().body_length

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head."""
        if self._sent:
            return None
        heads = self.heads
        usual, second = heads.usual(self.status), int(heads.clock())
        if vars(self) != usual.like or not _is_usual(request):
            return await super().prepare(request)
        if usual.second != second:
            writer = await super().prepare(request)
            lines = [f"HTTP/1.1 {self.status} {self.reason}", *(f"{k}: {v}" for k, v in self.headers.items())]
            usual.second, usual.head = second, "\r\n".join([*lines, "", ""]).encode()
            return writer
        self._sent = len(usual.head)
        await request.writer.write_eof(usual.head)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End it."""
        if not self._sent:
            await super().write_eof(data)


def _is_usual(request: web.BaseRequest) -> bool:
    """Whether there is nothing about a request that an answer to it depends on."""
    if request.method != hdrs.METH_POST or request.version != aiohttp.HttpVersion11 or not request.keep_alive:
        return False
    if not isinstance(request, web.Request):
        return False
    for app in request.match_info.apps:  # noqa: SIM110 - this is for each webhook, and any() takes twice the time
        if app.on_response_prepare:
            return False
    return True
