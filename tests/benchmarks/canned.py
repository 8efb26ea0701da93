"""A server that answers every call at once, from memory: ``python -m tests.benchmarks.canned`` prints its port."""

from __future__ import annotations

import asyncio
import json
import re
from uuid import UUID

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
ASSETS = [str(UUID(int=0x497F6ECA_6276_4993_BFEB_53CBBBBA6F08 + n)) for n in range(4)]

_BODY_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


def _avatars(count: int) -> list[dict[str, str]]:
    ids = (UUID(int=0x0E0E9A3C_5D5A_4F43_9A55_2D9C3F0C8A11 + n * 0x1_0001_0001) for n in range(count))
    return [{"id": str(avatar), "status": "ready"} for avatar in ids]


ANSWERS: dict[bytes, object] = {
    b"/api/v1/sessions/new": {
        "id": AVATAR,
        "url": "https://session.example/?token=" + "x" * 300,
        "custom_upload_url": None,
    },
    b"/api/v1/exports/new": {"status": "pending", "url": None},
    b"/api/v1/users/20/avatars": _avatars(20),
    b"/api/v1/users/1000/avatars": _avatars(1000),
    b"/api/v1/avatars/" + AVATAR.encode() + b"/customization": {
        "assets": {
            "clothing": {"id": ASSETS[0]},
            "hair_and_headwear": {"id": ASSETS[1], "color": "#aabbcc"},
            "eyewear": {"id": ASSETS[2], "color": "#aabbccaa"},
            "footwear": {"id": ASSETS[3]},
        },
        "body": "body_0",
        "age": "adult",
        "metadata": {"account": "42", "campaign": "spring"},
        "bone_scale": {"head": 0, "arms": 0.5, "chest": 0},
        "skin_tone_correction": 0.25,
    },
}


def _response(answer: object) -> bytes:
    body = json.dumps(answer, separators=(",", ":")).encode()
    return (
        b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: canned\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )


_RESPONSES = {path: _response(answer) for path, answer in ANSWERS.items()}
_MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class _Canned(asyncio.Protocol):
    """Reads a request to its end and answers by its path."""

    def __init__(self) -> None:
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        length = _BODY_LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        self._read = b""
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.write(_RESPONSES.get(path, _MISSING))


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(_Canned, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
