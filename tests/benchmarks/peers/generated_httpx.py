"""The client that openapi-python-client generates (httpx, attrs), as its own README uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from uuid import UUID

AVATAR = UUID("0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11")


@asynccontextmanager
async def calls(url: str) -> AsyncIterator[Mapping[str, Callable[[], Awaitable[object]]]]:
    package = "generated_with_httpx"
    new_session = import_module(f"{package}.api.sessions.new_session").asyncio
    create_export = import_module(f"{package}.api.exports.create_export").asyncio
    get_customization = import_module(f"{package}.api.avatars.get_customization").asyncio
    list_user_avatars = import_module(f"{package}.api.avatars.list_user_avatars").asyncio
    request = import_module(f"{package}.models").NewSessionRequest
    async with import_module(package).AuthenticatedClient(base_url=url, token="token") as client:
        yield {
            "new_session": lambda: new_session(
                client=client, body=request(user_id="TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF")
            ),
            "create_export": lambda: create_export(client=client, avatar_id=AVATAR),
            "get_customization": lambda: get_customization(AVATAR, client=client),
            "list_20": lambda: list_user_avatars("20", client=client),
            "list_1000": lambda: list_user_avatars("1000", client=client),
        }
