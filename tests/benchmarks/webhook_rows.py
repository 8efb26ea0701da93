"""One webhook, from the request's bytes to the opener that waits for it: the CPU time of the receiving process."""

from __future__ import annotations

import socket
from functools import partial
from http.client import HTTPResponse

from .measure import Child, Measured, Row, compare
from .webhook_server import PEERS

WEBHOOKS = 200


class Server:
    """A contender, and one connection to it."""

    def __init__(self, child: Child, name: str) -> None:
        self._child = child
        self._build_request = PEERS[name].build_request
        self._connection = socket.create_connection(("127.0.0.1", int(child.read())))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent = 0

    def turn(self, count: int) -> float:
        """Send webhooks one after the other, each with a waiting opener; return the CPU seconds."""
        requests = [self._build_request(n) for n in range(self._sent, self._sent + count)]
        before = float(self._child.ask(f"wait {self._sent} {count}"))
        self._sent += count
        for request in requests:
            self._connection.sendall(request)
            # uvicorn sends head and body apart: the delayed ACK of the first would hold the second up for 40 ms.
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            response = HTTPResponse(self._connection)
            response.begin()
            response.read()
            if response.status not in (200, 204):
                raise RuntimeError(f"refused: {response.status}")
        return float(self._child.ask("end")) - before

    def close(self) -> None:
        self._connection.close()


def measure_webhook(peer: str, quick: bool) -> Measured:  # noqa: FBT001 - the signature of Row.measure
    """Return the ratio of ours to a peer. New processes, since a process's place in memory changes its speed."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(2 if quick else 5):
        with Child("webhook_server", "avaturn") as our_child, Child("webhook_server", peer) as their_child:
            servers = Server(our_child, "avaturn"), Server(their_child, peer)
            for turn in range(6 if quick else 16):
                for server, seconds in zip(servers, (ours, theirs), strict=True):
                    taken = server.turn(WEBHOOKS)
                    if turn:  # the first one warms up
                        seconds.append(taken)
            for server in servers:
                server.close()
    return compare(ours, theirs, WEBHOOKS)


GOALS = {"bare": 2.2, "aiogram": 0.75, "hikari": 0.90, "standardwebhooks": 0.85, "stripe": 0.50}
ROWS = {f"webhook:{peer}": Row(goal, partial(measure_webhook, peer)) for peer, goal in GOALS.items()}
