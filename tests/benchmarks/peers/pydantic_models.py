"""aiohttp with pydantic models of the same shape, in each of the ways that people write it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from uuid import UUID

import aiohttp
from pydantic import BaseModel, TypeAdapter


class ScanStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class Avatar(BaseModel):
    id: UUID
    status: ScanStatus


@asynccontextmanager
async def calls(url: str) -> AsyncIterator[Mapping[str, Callable[[], Awaitable[object]]]]:
    avatars = TypeAdapter(list[Avatar])
    address = f"{url}/api/v1/users/1000/avatars"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer token"}) as session:

        async def validate_json() -> object:
            async with session.get(address) as response:
                return avatars.validate_json(await response.read())

        async def validate_python() -> object:
            async with session.get(address) as response:
                return avatars.validate_python(await response.json())

        async def model_validate() -> object:
            async with session.get(address) as response:
                return [Avatar.model_validate(row) for row in await response.json()]

        yield {
            "validate_json": validate_json,
            "validate_python": validate_python,
            "model_validate": model_validate,
        }
