"""How the processes on one file wake each other: a datagram on loopback that says "look".

A datagram works on every system, needs no files beside the database, and vanishes where nobody listens any
more. It may also get lost, which is why the store looks by itself every second.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

_LOOPBACK = "127.0.0.1"


class Hints(asyncio.DatagramProtocol):
    """One process's ear and voice.

    Args:
        heard: Called in the event loop when another process says that something appeared.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        # Only who can read the file knows it: others on this machine cannot keep us busy.
        self.token = os.urandom(16)
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._voice = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._voice.settimeout(0)

    async def open(self) -> None:
        """Begin to listen; where that is not possible, the store's own looking has to do."""
        with suppress(OSError):
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self, local_addr=(_LOOPBACK, 0)
            )
            self.port = self._transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        """Listen and speak no more."""
        self._voice.close()
        if self._transport is not None:
            self._transport.close()

    def tell(self, others: Iterable[tuple[bytes, int]]) -> None:
        """Say to others, given as token and port, that something appeared; from any thread."""
        for token, port in others:
            with suppress(OSError):
                self._voice.sendto(token, (_LOOPBACK, port))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 - asyncio's signature
        """Somebody says something."""
        if data == self.token:
            self._heard()
