"""Webhooks to be posted: each about an avatar and a session of its own, signed, and ready for the wire."""

from __future__ import annotations

import hmac
import json
import socket
from uuid import NAMESPACE_URL, uuid5

SECRET = "a secret of the benchmark, which is long enough"
HEADER = "X-Signature"


def session_id(n: int) -> str:
    return _id("session", n)


def body(n: int) -> bytes:
    event = {
        "event": "avatar.ready",
        "avatar_id": _id("avatar", n),
        "user_id": "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF",
        "session_id": session_id(n),
        "status": "ready",
    }
    return json.dumps(event).encode()


def _id(kind: str, n: int) -> str:
    # As the vendor's, they come in no order: an index of them is written all over.
    return str(uuid5(NAMESPACE_URL, f"{kind}/{n}"))


def signature(content: bytes) -> str:
    return hmac.new(SECRET.encode(), content, "sha256").hexdigest()


def request(n: int) -> bytes:
    content = body(n)
    head = (
        "POST /webhook HTTP/1.1\r\nHost: hooks.example\r\nUser-Agent: benchmark\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        f"{HEADER}: {signature(content)}\r\n\r\n"
    )
    return head.encode() + content


def post(connection: socket.socket, requests: list[bytes]) -> None:
    """Send each when the one before was answered with 200."""
    for data in requests:
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65_536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not taken: {answer[:60]!r}")
