"""Responses and webhooks of FakeAvaturn and requests of the client, checked against bodies/openapi.yaml."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import attrs
import pytest
from jsonschema import Draft202012Validator, ValidationError
from support.openapi_contract import check_event, check_request, check_response, operations, schemas

from avaturn_async import AvaturnClient, Create, CreateOrEditExisting, EditExisting
from avaturn_async.testing import ASSETS, FakeAvaturn, RecordedRequest

_ASSET = {a.alias: str(a.id) for a in ASSETS}


@attrs.frozen(kw_only=True)
class Scene:
    """A server with a user, an avatar that is ready, and one without photos."""

    fake: FakeAvaturn
    http: aiohttp.ClientSession
    user: str
    ready: str
    pending: str
    unknown: str = "6e0c8f0e-7d43-4f10-9c1d-0a1b2c3d4e5f"

    async def request(self, operation_id: str, options: dict[str, Any]) -> tuple[int, bytes]:
        """Send a request whose ids are names in braces, and check that the response is described."""
        operation = operations()[operation_id]
        names = {"user_id": self.user, "avatar_id": self.ready} | attrs.asdict(
            self, filter=lambda _, value: isinstance(value, str)
        )
        sent = {key: _fill(value, names) for key, value in options.items()}
        path = operation["path"].format(**(names | sent.pop("path", {})))
        headers = {"Authorization": "Bearer token"} | sent.pop("headers", {})
        url = self.fake.url + path
        async with self.http.request(operation["method"], url, headers=headers, **sent) as response:
            body = await response.read()
            check_response(operation_id, response.status, response.headers["Content-Type"], body)
            return response.status, body


def _fill(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, names) for key, item in value.items()}
    return value.format(**names) if isinstance(value, str) and value.startswith("{") else value


@asynccontextmanager
async def _scene() -> AsyncIterator[Scene]:
    async with FakeAvaturn(seed=1) as fake, aiohttp.ClientSession() as http:
        async with AvaturnClient("token", base_url=fake.url) as client:
            user = await client.create_user()
            session = await client.new_session(user.id, Create())
            ready = await fake.finish_session(session.id)
            pending = (await client.new_avatar(user.id)).avatar_id
        yield Scene(fake=fake, http=http, user=user.id, ready=str(ready), pending=str(pending))


_SLOT = {"clothing": {"id": _ASSET["hoodie"]}}
_RESPONSES: list[tuple[str, int, dict[str, Any]]] = [
    ("create_user", 200, {}),
    ("create_user", 401, {"headers": {"Authorization": ""}}),
    ("create_user", 401, {"headers": {"Authorization": "Basic dG9rZW4="}}),
    ("create_user", 401, {"headers": {"Authorization": "Bearer "}}),
    ("delete_user", 200, {}),
    ("delete_user", 404, {"path": {"user_id": "UNKNOWN"}}),
    ("delete_user", 404, {"path": {"user_id": "a%2Fb"}}),
    ("list_user_avatars", 200, {}),
    ("list_user_avatars", 200, {"params": {"include_not_ready": "true"}}),
    ("list_user_avatars", 404, {"path": {"user_id": "UNKNOWN"}}),
    ("list_user_avatars", 422, {"params": {"include_not_ready": "maybe"}}),
    ("delete_user_avatar", 200, {}),
    ("delete_user_avatar", 404, {"path": {"avatar_id": "{unknown}"}}),
    ("delete_user_avatar", 404, {"path": {"user_id": "UNKNOWN"}}),
    ("delete_user_avatar", 422, {"path": {"avatar_id": "not-a-uuid"}}),
    ("new_session", 200, {"json": {"user_id": "{user}"}}),
    ("new_session", 200, {"json": {"user_id": "{user}", "config": {"type": "create"}}}),
    (
        "new_session",
        200,
        {"json": {"user_id": "{user}", "config": {"type": "edit_existing", "avatar_id": "{ready}"}}},
    ),
    ("new_session", 401, {"json": {"user_id": "{user}"}, "headers": {"Authorization": ""}}),
    ("new_session", 404, {"json": {"user_id": "UNKNOWN"}}),
    (
        "new_session",
        404,
        {"json": {"user_id": "{user}", "config": {"type": "edit_existing", "avatar_id": "{unknown}"}}},
    ),
    ("new_session", 422, {}),
    ("new_session", 422, {"data": b"{", "headers": {"Content-Type": "application/json"}}),
    ("new_session", 422, {"data": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}),
    ("new_session", 422, {"data": b'{"user_id": "x"}', "headers": {"Content-Type": "text/plain"}}),
    ("new_session", 422, {"json": []}),
    ("new_session", 422, {"json": {}}),
    ("new_session", 422, {"json": {"user_id": 5}}),
    ("new_session", 422, {"json": {"user_id": "{user}", "config": None}}),
    ("new_session", 422, {"json": {"user_id": "{user}", "config": {}}}),
    ("new_session", 422, {"json": {"user_id": "{user}", "config": {"type": []}}}),
    ("new_session", 422, {"json": {"user_id": "{user}", "config": {"type": "edit"}}}),
    ("new_session", 422, {"json": {"user_id": "{user}", "config": {"type": "edit_existing"}}}),
    ("new_session", 422, {"params": {"user_id": "{user}"}}),
    ("new_avatar", 200, {"json": {"user_id": "{user}"}}),
    ("new_avatar", 404, {"json": {"user_id": "UNKNOWN"}}),
    ("new_avatar", 422, {"json": {"user": "{user}"}}),
    ("get_customization", 200, {}),
    ("get_customization", 404, {"path": {"avatar_id": "{unknown}"}}),
    ("get_customization", 409, {"path": {"avatar_id": "{pending}"}}),
    ("get_customization", 422, {"path": {"avatar_id": "5"}}),
    ("set_customization", 202, {"json": {}}),
    ("set_customization", 202, {"json": {"assets": _SLOT, "body": "body_2"}}),
    (
        "set_customization",
        202,
        {"json": {"assets": {"hair_and_headwear": {"id": _ASSET["cap"], "color": None}}}},
    ),
    ("set_customization", 202, {"json": {}, "path": {"avatar_id": "{pending}"}}),
    ("set_customization", 404, {"json": {}, "path": {"avatar_id": "{unknown}"}}),
    ("set_customization", 409, {"json": {"assets": {"footwear": {"id": _ASSET["hoodie"]}}}}),
    ("set_customization", 410, {"json": {"assets": {"clothing": {"id": _ASSET["withdrawn_jacket"]}}}}),
    ("set_customization", 410, {"json": {"assets": {"clothing": {"id": str(uuid4())}}}}),
    ("set_customization", 422, {"json": {"assets": {"clothing": {"id": "hoodie"}}}}),
    ("set_customization", 422, {"json": {"assets": {"clothing": {}}}}),
    ("set_customization", 422, {"json": {"assets": {"clothing": None}}}),
    ("set_customization", 422, {"json": {"assets": {"eyewear": {"id": str(uuid4()), "color": "#aabbcc"}}}}),
    (
        "set_customization",
        422,
        {"json": {"assets": {"hair_and_headwear": {"id": str(uuid4()), "color": "red"}}}},
    ),
    ("set_customization", 422, {"json": {"metadata": {"a": 1}}}),
    ("set_customization", 422, {"json": {"metadata": []}}),
    ("set_customization", 422, {"json": {"bone_scale": {"head": "1"}}}),
    ("set_customization", 422, {"json": {"skin_tone_correction": True}}),
    ("set_customization", 422, {"json": {"body": 1}}),
    ("render_user_avatar", 200, {"params": {"avatar_id": "{ready}", "scene": "common/preview"}}),
    ("render_user_avatar", 200, {"params": {"avatar_id": "{ready}", "scene": "my/own", "format": "webp"}}),
    ("render_user_avatar", 404, {"params": {"avatar_id": "{unknown}", "scene": "common/preview"}}),
    ("render_user_avatar", 409, {"params": {"avatar_id": "{pending}", "scene": "common/preview"}}),
    ("render_user_avatar", 422, {"json": {"avatar_id": "{ready}", "scene": "common/preview"}}),
    ("render_user_avatar", 422, {"params": {"avatar_id": "{ready}"}}),
    ("render_user_avatar", 422, {"params": {"avatar_id": "{ready}", "scene": "../preview"}}),
    ("render_user_avatar", 422, {"params": {"avatar_id": "{ready}", "scene": "x", "format": "gif"}}),
    ("create_export", 200, {"params": {"avatar_id": "{ready}"}}),
    ("create_export", 401, {"headers": {"Authorization": "token"}}),
    ("create_export", 404, {"params": {"avatar_id": "{unknown}"}}),
    ("create_export", 409, {"params": {"avatar_id": "{pending}"}}),
    ("create_export", 422, {"json": {"avatar_id": "{ready}"}}),
    ("create_export", 422, {"params": {"avatar_id": "{{ready}}"}}),
]


@pytest.mark.parametrize(("operation_id", "status", "request_"), _RESPONSES)
async def test_response_of_the_fake_is_described(operation_id: str, status: int, request_: dict[str, Any]) -> None:
    async with _scene() as scene:
        received, body = await scene.request(operation_id, request_)
        assert received == status, body


def test_success_of_each_operation_is_checked() -> None:
    successes = {name for name, status, _ in _RESPONSES if status < 300}
    assert successes == set(operations())


@pytest.mark.parametrize("failing", [None, "avatar", "export", "render"])
async def test_webhook_of_the_fake_is_described(failing: str | None) -> None:
    async with FakeAvaturn(session_id_in_all_events=failing is None) as fake:
        if failing is not None:
            fake.fail_tasks(failing)
        async with AvaturnClient("token", base_url=fake.url) as client:
            user = await client.create_user()
            first = await fake.finish_session((await client.new_session(user.id)).id)
            second = await fake.finish_session((await client.new_session(user.id, Create())).id)
            avatar_id = second if failing == "avatar" else first
            await client.create_export(avatar_id)
            await client.render_user_avatar(avatar_id)
        await fake.wait_idle()
        assert sorted(event["event"] for event in fake.events) == [
            "avatar.ready",
            "avatar.ready",
            "export.ready",
            "render.ready",
        ]
        for event in fake.events:
            check_event(event)


async def test_request_of_each_call_is_described() -> None:
    async with FakeAvaturn() as fake, AvaturnClient("token", base_url=fake.url) as client:
        user = await client.create_user()
        for config in (None, CreateOrEditExisting(), Create()):
            session = await client.new_session(user.id, config)
        avatar_id = await fake.finish_session(session.id)
        await client.new_session(user.id, EditExisting(avatar_id=avatar_id))
        await client.list_user_avatars(user.id)
        await client.list_user_avatars(user.id, include_not_ready=True)
        customization = await client.get_customization(avatar_id)
        await client.set_customization(avatar_id, attrs.evolve(customization, body="body_1"))
        await client.render_user_avatar(avatar_id, scene="common/forest_half_body", format="png")
        await client.create_export(avatar_id)
        await client.new_avatar(user.id)
        await client.delete_user_avatar(user.id, avatar_id)
        await client.delete_user(user.id)
        assert {check_request(request) for request in fake.requests} == set(operations())
        assert fake.violations == []


async def test_request_that_is_not_described_is_found() -> None:
    async with FakeAvaturn() as fake, AvaturnClient("token", base_url=fake.url) as client:
        await client.request("POST", "/api/v1/users/new", params={"name": "Ann"})
        await client.request("POST", "/api/v1/users/new", json={"name": "Ann"})
        queried, with_body = fake.requests
    for request in (queried, with_body):
        with pytest.raises(AssertionError):
            check_request(request)
    with pytest.raises(AssertionError, match="no operation"):
        check_request(attrs.evolve(queried, path="/v1/users/new"))
    with pytest.raises(ValidationError):
        check_request(_session_request(with_body))


def _session_request(request: RecordedRequest) -> RecordedRequest:
    """Return the most frequent mistake: the type of a session at the top."""
    return attrs.evolve(request, path="/api/v1/sessions/new", parsed={"user_id": "x", "session_type": "create"})


@pytest.mark.parametrize("name", sorted(schemas()))
def test_description_consists_of_valid_schemas(name: str) -> None:
    Draft202012Validator.check_schema(schemas()[name])
