"""Servers for the tests of stores, and the stores that several processes can share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from support.postgres_server import needs_postgres, running_postgres
from support.redis_server import WITH_AOF, RedisServer, needs_redis, running_redis


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Any]:
    """A client of the server, which holds no keys."""
    client: Any = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with running_postgres({"fsync": "off"}) as server:
        yield server.url


@pytest.fixture(
    params=["sqlite", pytest.param("redis", marks=needs_redis), pytest.param("postgres", marks=needs_postgres)]
)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each engine that several processes can share, as durable as it can be."""
    if request.param == "sqlite":
        yield str(tmp_path / "events.db")
        return
    with running_redis(tmp_path, WITH_AOF) if request.param == "redis" else running_postgres() as server:
        yield server.url
