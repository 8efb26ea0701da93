"""A client and a user of the FakeAvaturn that a file of tests makes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from avaturn_async import AvaturnClient, RetryPolicy, User
from avaturn_async.testing import FakeAvaturn


@pytest.fixture
async def client(fake: FakeAvaturn) -> AsyncIterator[AvaturnClient]:
    async with AvaturnClient("token", base_url=fake.url, retry=RetryPolicy(attempts=1)) as client:
        yield client


@pytest.fixture
async def user(client: AvaturnClient) -> User:
    return await client.create_user()
