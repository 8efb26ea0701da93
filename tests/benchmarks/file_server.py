"""A server that gives a file of 200 MB, again and again: ``python -m tests.benchmarks.file_server``."""

from __future__ import annotations

import socket

CHUNK = b"\x00" * 1_000_000
CHUNKS = 200
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                while b"\r\n\r\n" not in connection.recv(65_536, socket.MSG_PEEK):
                    pass
                connection.recv(65_536)
                connection.sendall(HEAD % (CHUNKS * len(CHUNK)))
                for _ in range(CHUNKS):
                    connection.sendall(CHUNK)
                # Closing at once could cut off what is still under way.
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)


if __name__ == "__main__":
    main()
