"""aiohttp alone: one session, the header, the parsed JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"


@asynccontextmanager
async def calls(url: str) -> AsyncIterator[Mapping[str, Callable[[], Awaitable[object]]]]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer token"}) as session:

        async def new_session() -> Any:
            body = {"user_id": "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF"}
            async with session.post(f"{url}/api/v1/sessions/new", json=body) as response:
                return await response.json()

        async def create_export() -> Any:
            async with session.post(f"{url}/api/v1/exports/new", params={"avatar_id": AVATAR}) as response:
                return await response.json()

        async def get_customization() -> Any:
            async with session.get(f"{url}/api/v1/avatars/{AVATAR}/customization") as response:
                return await response.json()

        async def list_user_avatars(user_id: str) -> Any:
            async with session.get(f"{url}/api/v1/users/{user_id}/avatars") as response:
                return await response.json()

        yield {
            "new_session": new_session,
            "create_export": create_export,
            "get_customization": get_customization,
            "list_20": lambda: list_user_avatars("20"),
            "list_1000": lambda: list_user_avatars("1000"),
        }
