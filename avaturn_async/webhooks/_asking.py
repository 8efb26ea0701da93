"""Renders that are being asked for: the API has the question, and nobody here knows the id of the answer yet.

Their events may be faster than the answers that tell their ids. Other processes must know of them as well,
since an event may reach any of them, so that a mark in the store stands for as long as this process asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from avaturn_async.errors import StoreError
from avaturn_async.webhooks.stores import EventStore

# Bindings can be renewed but not taken back: this one says that nobody asks any more.
_NOBODY = str(UUID(int=0))


class Asking:
    """Who asks for a render of which avatar, here and in the other processes."""

    def __init__(self) -> None:
        self._here: dict[UUID, set[asyncio.Future[None]]] = {}
        self._marking = asyncio.Lock()

    @asynccontextmanager
    async def render_of(self, avatar_id: UUID, session_id: str, store: EventStore) -> AsyncGenerator[None]:
        """Everything that happens inside of this belongs to the question."""
        if not self._here:
            # A lock belongs to the event loop in which somebody had to wait for it.
            self._marking = asyncio.Lock()
        answered = asyncio.get_running_loop().create_future()
        asked = self._here.setdefault(avatar_id, set())
        asked.add(answered)
        try:
            await self._mark(avatar_id, session_id, store)
            yield
        finally:
            answered.set_result(None)
            asked.remove(answered)
            if not asked:
                await self._end(avatar_id, store)

    async def _end(self, avatar_id: UUID, store: EventStore) -> None:
        try:
            # A mark that stays makes events of unknown renders wait. That is no reason to lose an answer.
            with suppress(StoreError):
                await self._mark(avatar_id, _NOBODY, store)
        finally:
            if not self._here.get(avatar_id):
                self._here.pop(avatar_id, None)

    async def _mark(self, avatar_id: UUID, who: str, store: EventStore) -> None:
        # One at a time, so that who begins to ask while another ends does not find the mark taken away.
        async with self._marking:
            await store.bind(_subject(avatar_id), who)

    async def is_over(self, avatar_id: UUID, store: EventStore, *, timeout: float) -> bool:
        """Wait until what is asked here has an id; False if that takes too long, or another process asks."""
        asked = tuple(self._here.get(avatar_id, ()))
        if asked:
            _, pending = await asyncio.wait(asked, timeout=timeout)
            return not pending
        return await store.bound(_subject(avatar_id)) in (None, _NOBODY)


def _subject(avatar_id: UUID) -> str:
    return f"rendering:{avatar_id}"
