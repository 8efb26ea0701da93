"""The client that openapi-generator generates (aiohttp, pydantic), as its own README uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from uuid import UUID

AVATAR = UUID("0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11")


@asynccontextmanager
async def calls(url: str) -> AsyncIterator[Mapping[str, Callable[[], Awaitable[object]]]]:
    package = import_module("generated_with_aiohttp")
    configuration = package.Configuration(host=url, access_token="token")
    async with package.ApiClient(configuration) as client:
        sessions, avatars = package.SessionsApi(client), package.AvatarsApi(client)
        exports = package.ExportsApi(client)
        request = package.NewSessionRequest
        yield {
            "new_session": lambda: sessions.new_session(request(user_id="TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF")),
            "create_export": lambda: exports.create_export(AVATAR),
            "get_customization": lambda: avatars.get_customization(AVATAR),
            "list_20": lambda: avatars.list_user_avatars("20"),
            "list_1000": lambda: avatars.list_user_avatars("1000"),
        }
