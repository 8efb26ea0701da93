"""The SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from avaturn_async import AvaturnClient

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"


@asynccontextmanager
async def calls(url: str) -> AsyncIterator[Mapping[str, Callable[[], Awaitable[object]]]]:
    async with AvaturnClient("token", base_url=url) as client:
        yield {
            "new_session": lambda: client.new_session("TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF"),
            "create_export": lambda: client.create_export(AVATAR),
            "get_customization": lambda: client.get_customization(AVATAR),
            "list_20": lambda: client.list_user_avatars("20"),
            "list_1000": lambda: client.list_user_avatars("1000"),
        }
