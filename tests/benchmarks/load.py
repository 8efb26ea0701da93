"""Webhooks to be posted: each about an avatar and a session of its own, signed, and ready for the wire."""

from __future__ import annotations

import hmac
import json
import socket

SECRET = "a secret of the benchmark, which is long enough"
HEADER = "X-Signature"


def session_id(n: int) -> str:
    return f"5e551011-0000-4000-8000-{n:012x}"


def body(n: int) -> bytes:
    event = {
        "event": "avatar.ready",
        "avatar_id": f"0000a7a2-0000-4000-8000-{n:012x}",
        "user_id": "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF",
        "session_id": session_id(n),
        "status": "ready",
    }
    return json.dumps(event).encode()


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
