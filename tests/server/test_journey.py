"""From a user to a GLB on the disk under each fault, and under random pairs of faults.

It ends with the complete file or with a documented error: never with a hang, a part of a file, a second user, a task
that goes on, or a connection that stays open (warnings are errors).
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avaturn_async import (
    AvaturnClient,
    AvaturnError,
    Customization,
    PollPolicy,
    RetryPolicy,
    create_avatar,
    export_avatar,
    wait_for_avatar,
)
from avaturn_async.testing import SLACK_LIKE, FakeAvaturn, Fault, VirtualTime, WebhookFault
from avaturn_async.testing.samples import read_sample_image
from avaturn_async.webhooks import HmacSha256, SessionRouter, WebhookReceiver

SIGNATURE = HmacSha256("known-to-both", header="X-Signature")
PHOTO = read_sample_image("jpg")
QUICK = PollPolicy(first=0.005, cap=0.01)
Plan = Callable[[FakeAvaturn], object]


@frozen
class Failure:
    """A fault, where it is planned, and how often."""

    name: str
    plan: Plan

    def __repr__(self) -> str:
        return self.name


PATHS = (
    "/api/v1/users/new",
    "/api/v1/sessions/new",
    "/api/v1/users/*/avatars",
    "/api/v1/avatars/new",
    "/upload/*",
    "/api/v1/avatars/*/customization",
    "/api/v1/exports/new",
    "/files/*",
)
FAULTS = {
    "stall": Fault.stall(),
    "stall in the body": Fault.stall(1),
    "cut at 0": Fault.cut(0),
    "cut at 1": Fault.cut(1),
    "cut at 3000": Fault.cut(3000),
    "reset": Fault.reset(),
    "reset after the work": Fault.reset(execute=True),
    "429": Fault.rate_limited(),
    "429, now": Fault.rate_limited("0"),
    "429, in a year": Fault.rate_limited("31536000"),
    "429, NaN": Fault.rate_limited("NaN"),
    "502": Fault.bad_gateway(),
    "403": Fault.answer(403, {"detail": "expired"}),
    "another shape": Fault.answer(200, {"odd": [1]}),
    "slow": Fault.slow(0.001),
}


WEBHOOK_FAULTS = {
    "dropped": WebhookFault.drop(),
    "doubled": WebhookFault.duplicate(),
    "reordered": WebhookFault.reorder(),
    "late": WebhookFault.late(0.001),
}


def on_path(path: str, fault: Fault, times: int) -> Plan:
    return lambda fake: fake.fail(fault, path=path, times=times)


def on_webhooks(fault: WebhookFault, times: int) -> Plan:
    return lambda fake: fake.fail_webhooks(fault, times=times)


def on_tasks(kind: str) -> Plan:
    return lambda fake: fake.fail_tasks(kind)


FAILURES = [
    Failure("none", lambda _: None),
    *(
        Failure(f"{name} x{times} on {path}", on_path(path, fault, times))
        for (name, fault), path, times in itertools.product(FAULTS.items(), PATHS, (1, 9))
    ),
    *(
        Failure(f"webhooks {name} x{times}", on_webhooks(fault, times))
        for (name, fault), times in itertools.product(WEBHOOK_FAULTS.items(), (1, 9))
    ),
    *(Failure(f"{kind} fails", on_tasks(kind)) for kind in ("avatar", "export")),
    Failure("slow processing", lambda fake: setattr(fake, "processing_delay", 0.01)),
]


def count_users(made: list[int]) -> aiohttp.TraceConfig:
    """Trace the attempts of Create User that may have made a user: all but those that were refused with a 429."""
    trace = aiohttp.TraceConfig()

    async def on_start(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        if params.url.path == "/api/v1/users/new":
            made.append(0)

    async def on_end(_: object, __: object, params: aiohttp.TraceRequestEndParams) -> None:
        if params.url.path == "/api/v1/users/new" and params.response.status == 429:
            made.pop()

    trace.on_request_start.append(on_start)
    trace.on_request_end.append(on_end)
    return trace


async def by_session(
    fake: FakeAvaturn, client: AvaturnClient, router: SessionRouter, folder: Path, limit: float
) -> Path:
    user = await client.create_user()
    session = await router.open_session(client, user.id)
    avatar_id = await fake.finish_session(session.id, wait=False)
    await wait_for_avatar(client, user.id, avatar_id, timeout=limit, router=router, poll=QUICK)
    return await export_avatar(client, avatar_id, folder / "avatar.glb", timeout=limit, router=router, poll=QUICK)


async def by_photos(_: FakeAvaturn, client: AvaturnClient, router: SessionRouter, folder: Path, limit: float) -> Path:
    user = await client.create_user()
    avatar = await create_avatar(
        client,
        user.id,
        frontal=PHOTO,
        side_1=PHOTO,
        side_2=PHOTO,
        body_type="male",
        customization=Customization(body="body_0"),
        timeout=limit,
        router=router,
        poll=QUICK,
    )
    return await export_avatar(client, avatar.id, folder / "avatar.glb", timeout=limit, router=router, poll=QUICK)


async def run_journey(journey: Any, failures: list[Failure], folder: Path, *, limit: float = 1) -> AvaturnError | None:
    """Run a journey, check what it leaves, and return the error that it ended with."""
    router, app = SessionRouter(), web.Application()
    WebhookReceiver(router, verifier=SIGNATURE, read_timeout=1).add_to(app, "/avaturn")
    # Short for a server that stalls; on a busy machine nothing else may be taken for that.
    timeout = 0.1 if any("stall" in failure.name for failure in failures) else 10.0
    error: AvaturnError | None = None
    users: list[int] = []
    async with asyncio.timeout(30), TestServer(app) as backend:
        url = str(backend.make_url("/avaturn"))
        options: dict[str, Any] = {"retry": RetryPolicy(base=0, cap=0.01), "trace_configs": [count_users(users)]}
        async with (
            FakeAvaturn(webhook_url=url, sign=SIGNATURE, webhook_retries=SLACK_LIKE, sleep=VirtualTime().sleep) as fake,
            AvaturnClient("any-token", base_url=fake.url, timeout=timeout, **options) as client,
        ):
            for failure in failures:
                failure.plan(fake)
            try:
                path = await journey(fake, client, router, folder, limit)
            except AvaturnError as ended:
                error = ended
    left = sorted(folder.iterdir())
    assert len(users) <= 1
    if error is None:
        glb = path.read_bytes()
        assert left == [path]
        assert glb[:4] == b"glTF"
        assert int.from_bytes(glb[8:12], "little") == len(glb)
    else:
        assert left == []
        assert "any-token" not in str(error)
    await asyncio.sleep(0)
    # A cancelled task may still be there, and ends.
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        assert all(task.cancelling() for task in tasks)
        _, running = await asyncio.wait(tasks, timeout=10)
        assert not running
    return error


@pytest.mark.parametrize(
    ("journey", "failure"),
    [
        pytest.param(journey, failure, id=f"{journey.__name__} {failure}")
        for journey, others in (
            (by_session, ("/avatars/new", "/upload/*", "/customization")),
            (by_photos, ("/sessions/new",)),
        )
        for failure in FAILURES
        if not failure.name.endswith(others)  # a path that the journey does not take
    ],
)
async def test_journey_ends_well_or_with_an_error_under_each_fault(
    journey: Any, failure: Failure, tmp_path: Path
) -> None:
    # A temporary fault must not end the journey, however slow the machine.
    temporary = failure.name.startswith(("none", "slow", "webhooks"))
    temporary |= "x1 on /api/v1/exports/new" in failure.name and failure.name.startswith(
        ("502", "cut", "reset", "stall", "429 ")
    )
    error = await run_journey(journey, [failure], tmp_path, limit=25 if temporary else 1)
    if temporary:
        assert error is None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([by_session, by_photos]), st.lists(st.sampled_from(FAILURES), min_size=2, max_size=2))
def test_journey_ends_well_or_with_an_error_under_pairs_of_faults(journey: Any, failures: list[Failure]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_journey(journey, failures, Path(folder)))
