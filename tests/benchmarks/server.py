"""HTTP responses from memory, for the calls of clients: a thread of the parent, whose CPU time no row counts."""

from __future__ import annotations

import json
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from uuid import UUID

FILE_SIZE = 200_000_000
_CHUNK = bytes(1_000_000)
_ID = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
_SLOT = {"id": _ID, "color": "#aabbccaa"}


def _list_avatars(count: int) -> list[dict[str, str]]:
    return [{"id": str(UUID(int=UUID(_ID).int + n * 0x1_0001_0001)), "status": "ready"} for n in range(count)]


_BODIES = {
    "/api/v1/sessions/new": {"id": _ID, "url": "https://session.example/?t=" + "x" * 300, "custom_upload_url": None},
    "/api/v1/exports/new": {"status": "pending", "url": None},
    "/api/v1/users/20/avatars": _list_avatars(20),
    "/api/v1/users/1000/avatars": _list_avatars(1000),
    f"/api/v1/avatars/{_ID}/customization": {
        "assets": dict.fromkeys(("clothing", "hair_and_headwear", "eyewear", "footwear"), _SLOT),
        "body": "body_0",
        "age": "adult",
        "metadata": {"account": "42", "campaign": "spring"},
        "bone_scale": {"head": 0, "arms": 0.5, "chest": 0},
        "skin_tone_correction": 0.25,
    },
}
_RESPONSES = {path: json.dumps(body, separators=(",", ":")).encode() for path, body in _BODIES.items()}


class _Handler(StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) != b"\r\n":
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            self.rfile.read(length)
            path = line.split(b" ")[1].decode().partition("?")[0]
            body = _RESPONSES.get(path, b"")
            size = FILE_SIZE if path == "/file" else len(body)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
            self.wfile.write(head.encode() + body)
            if path == "/file":
                for _ in range(FILE_SIZE // len(_CHUNK)):
                    self.wfile.write(_CHUNK)


class _Server(ThreadingTCPServer):
    daemon_threads = True


def start_server() -> str:
    """Return the URL of a server that runs until the process ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"
