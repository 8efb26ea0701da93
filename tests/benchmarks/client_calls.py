"""Calls of two clients in turn: ``python -m tests.benchmarks.client_calls CALL URL PEER``, ``... download URL WHO``.

For each line of input, a number of calls, it prints the CPU seconds of the SDK and of the peer. Both run in one
process, since two processes differ by several percent in their place in memory.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp

from avaturn_async import AvaturnClient

Calls = Mapping[str, Callable[[], Awaitable[Any]]]
AVATAR = UUID("0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11")
USER = "TGTLFCCRG67V6ERUMDTK3JNI5AYGF6XF"


@asynccontextmanager
async def open_sdk(url: str) -> AsyncIterator[Calls]:
    async with AvaturnClient("token", base_url=url) as client:
        yield {
            "new_session": lambda: client.new_session(USER),
            "create_export": lambda: client.create_export(AVATAR),
            "get_customization": lambda: client.get_customization(AVATAR),
            "list_20": lambda: client.list_user_avatars("20"),
            "list_1000": lambda: client.list_user_avatars("1000"),
        }


@asynccontextmanager
async def open_bare(url: str) -> AsyncIterator[Calls]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer token"}) as session:

        async def call(method: str, path: str, **options: Any) -> Any:
            async with session.request(method, f"{url}/api/v1{path}", **options) as response:
                return await response.json()

        yield {
            "new_session": lambda: call("POST", "/sessions/new", json={"user_id": USER}),
            "create_export": lambda: call("POST", "/exports/new", params={"avatar_id": str(AVATAR)}),
            "get_customization": lambda: call("GET", f"/avatars/{AVATAR}/customization"),
            "list_20": lambda: call("GET", "/users/20/avatars"),
            "list_1000": lambda: call("GET", "/users/1000/avatars"),
        }


@asynccontextmanager
async def open_openapi_generator(url: str) -> AsyncIterator[Calls]:
    package = import_module("generated_aiohttp")
    async with package.ApiClient(package.Configuration(host=url, access_token="token")) as client:
        sessions, avatars, exports = package.SessionsApi(client), package.AvatarsApi(client), package.ExportsApi(client)
        yield {
            "new_session": lambda: sessions.new_session(package.NewSessionRequest(user_id=USER)),
            "create_export": lambda: exports.create_export(AVATAR),
            "get_customization": lambda: avatars.get_customization(AVATAR),
            "list_20": lambda: avatars.list_user_avatars("20"),
            "list_1000": lambda: avatars.list_user_avatars("1000"),
        }


@asynccontextmanager
async def open_openapi_python_client(url: str) -> AsyncIterator[Calls]:
    package = "generated_httpx"
    new_session = import_module(f"{package}.api.sessions.new_session").asyncio
    create_export = import_module(f"{package}.api.exports.create_export").asyncio
    get_customization = import_module(f"{package}.api.avatars.get_customization").asyncio
    list_avatars = import_module(f"{package}.api.avatars.list_user_avatars").asyncio
    request = import_module(f"{package}.models").NewSessionRequest
    async with import_module(package).AuthenticatedClient(base_url=url, token="token") as client:
        yield {
            "new_session": lambda: new_session(client=client, body=request(user_id=USER)),
            "create_export": lambda: create_export(client=client, avatar_id=AVATAR),
            "get_customization": lambda: get_customization(AVATAR, client=client),
            "list_20": lambda: list_avatars("20", client=client),
            "list_1000": lambda: list_avatars("1000", client=client),
        }


PEERS = {
    "bare": open_bare,
    "openapi-generator": open_openapi_generator,
    "openapi-python-client": open_openapi_python_client,
}


async def compare_calls(name: str, url: str, peer: str) -> None:
    async with open_sdk(url) as ours, PEERS[peer](url) as theirs:
        calls = ours[name], theirs[name]
        while line := sys.stdin.readline():
            seconds = [0.0, 0.0]
            for n in range(int(line)):
                for which in (0, 1) if n % 2 else (1, 0):
                    started = time.process_time()
                    assert await calls[which]() is not None
                    seconds[which] += time.process_time() - started
            print(*seconds, flush=True)


async def download(url: str, who: str) -> None:
    """Print the CPU seconds and the peak memory in megabytes."""
    file = Path(tempfile.mkdtemp()) / "file"
    started = time.process_time()
    if who == "ours":
        async with AvaturnClient("token", base_url=url) as client:
            await client.download(f"{url}/file", file)
    else:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/file") as response:
            with file.open("wb") as out:
                async for chunk in response.content.iter_chunked(65_536):
                    out.write(chunk)
    seconds = time.process_time() - started
    file.unlink()
    file.parent.rmdir()
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, flush=True)


if __name__ == "__main__":
    call, *arguments = sys.argv[1:]
    asyncio.run(download(*arguments) if call == "download" else compare_calls(call, *arguments))
