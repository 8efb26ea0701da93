"""Count the package's functions that one webhook passes: ``python -m tests.support.count_calls`` prints them.

The webhook is verified and stored on a MemoryStore, and the opener that waits for its event is woken.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import avaturn_async
from avaturn_async.webhooks import AvatarReady, HmacSha256, SessionRouter, WebhookReceiver, WebhookRequest

PACKAGE = Path(avaturn_async.__file__).parent


def build_request(verifier: HmacSha256, n: int) -> WebhookRequest:
    ids = {"avatar_id": str(UUID(int=n)), "session_id": str(UUID(int=n))}
    body = json.dumps({"event": "avatar.ready", **ids, "user_id": "user", "status": "ready"}).encode()
    return WebhookRequest(method="POST", headers=verifier.sign(body), body=body)


@contextmanager
def count_calls() -> Iterator[Counter[tuple[str, str]]]:
    """Count the calls of each function of the package in the block, by file and name."""
    calls: Counter[tuple[str, str]] = Counter()
    prefix = f"{PACKAGE}/"

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # A comprehension or lambda is a part of the function around it.
        if event == "call" and code.co_filename.startswith(prefix) and not code.co_name.startswith("<"):
            calls[code.co_filename.removeprefix(prefix), code.co_qualname] += 1

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(previous)


async def count_functions() -> Counter[tuple[str, str]]:
    """Return the calls of each function between ``receive()`` and the event at its opener."""
    verifier = HmacSha256("secret", header="X-Signature")
    found: Counter[tuple[str, str]] = Counter()
    async with SessionRouter() as router:
        receiver = WebhookReceiver(router, verifier=verifier)
        for n in (1, 2):  # what the first webhook makes once does not count
            request = build_request(verifier, n)
            opener = asyncio.ensure_future(router.wait_for(AvatarReady, session_id=UUID(int=n), timeout=5))
            await asyncio.sleep(0)
            with count_calls() as found:
                reply = await receiver.receive(request)
                await opener
            assert reply.status == 200
    return found


if __name__ == "__main__":
    functions = asyncio.run(count_functions())
    for (file, name), calls in sorted(functions.items()):
        print(f"{file:36} {name:48} {calls}")
    print(f"{len(functions)} functions in {len({file for file, _ in functions})} files")
