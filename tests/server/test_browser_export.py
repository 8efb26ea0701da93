"""accept_browser_export: a page's claim is checked through the API and the router, and its URL is never requested."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from attrs import frozen

from avaturn_async import AvaturnClient, BrowserExport, BrowserExportError, RetryPolicy, accept_browser_export
from avaturn_async.errors import ServerError
from avaturn_async.testing import FakeAvaturn, Fault
from avaturn_async.testing.samples import read_sample_glb
from avaturn_async.webhooks import RoutedSession, SessionRouter

GLB = read_sample_glb()


def data_url(content: bytes = GLB, kind: str = "model/gltf-binary") -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


@frozen(kw_only=True)
class Backend:
    """A backend whose user made an avatar in a session, and another user who did the same."""

    fake: FakeAvaturn
    client: AvaturnClient
    router: SessionRouter
    session: RoutedSession
    other_session: RoutedSession
    payload: dict[str, Any]
    other_payload: dict[str, Any]

    async def accept(self, payload: Any, **options: Any) -> BrowserExport:
        return await accept_browser_export(self.client, payload, user_id=self.session.user_id, **options)


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with (
        FakeAvaturn() as fake,
        AvaturnClient("token", base_url=fake.url, retry=RetryPolicy(attempts=1)) as client,
        SessionRouter() as router,
    ):
        made: list[tuple[RoutedSession, dict[str, Any]]] = []
        for _ in range(2):
            session = await router.open_session(client, (await client.create_user()).id)
            payload = {
                "url": "https://evil.example/avatar.glb",
                "urlType": "httpURL",
                "avatarId": str(await fake.finish_session(session.id)),
                "sessionId": str(session.id),
                "bodyId": "body_1",
                "gender": "female",
                "avatarSupportsFaceAnimations": True,
            }
            made.append((session, payload))
        yield Backend(
            fake=fake,
            client=client,
            router=router,
            session=made[0][0],
            other_session=made[1][0],
            payload=made[0][1],
            other_payload=made[1][1],
        )


@pytest.mark.parametrize("by", ["session", "router", "user only"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_true_claim_gets_the_url_of_the_api(backend: Backend, by: str, *, wrapped: bool) -> None:
    payload: Any = backend.payload
    if wrapped:
        payload = {"source": "avaturn", "eventName": "v2.avatar.exported", "data": payload}
    options: dict[str, Any] = {}
    if by == "session":
        options["session"] = backend.session
    elif by == "router":
        options["router"] = backend.router
    export = await backend.accept(payload, **options)
    assert str(export.avatar_id) == backend.payload["avatarId"]
    assert export.user_id == backend.session.user_id
    assert export.session_id == (None if by == "user only" else backend.session.id)
    assert export.url.startswith(backend.fake.url)
    assert (export.glb, export.body_id, export.gender) == (None, "body_1", "female")
    assert export.avatar_supports_face_animations is True
    assert export.url not in repr(export)


async def test_optional_fields_may_be_absent(backend: Backend) -> None:
    payload = {name: backend.payload[name] for name in ("url", "urlType", "avatarId")}
    export = await backend.accept(payload)
    assert (export.body_id, export.gender, export.avatar_supports_face_animations) == (None, None, None)


async def test_data_url_is_decoded_within_its_bound(backend: Backend) -> None:
    payload = {**backend.payload, "urlType": "dataURL", "url": data_url()}
    for kind in ("model/gltf-binary", "application/octet-stream", ""):
        export = await backend.accept({**payload, "url": data_url(kind=kind)})
        assert export.glb == GLB
    assert (await backend.accept(payload, max_bytes=len(GLB))).glb == GLB
    with pytest.raises(BrowserExportError, match=f"more than {len(GLB) - 1} bytes"):
        await backend.accept(payload, max_bytes=len(GLB) - 1)
    not_base64 = {**payload, "url": data_url() + "%"}
    with pytest.raises(BrowserExportError, match="more than 9 bytes"):  # refused before it is decoded
        await backend.accept(not_base64, max_bytes=9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"avatarId": None}, "avatarId must be a UUID"),
        ({"avatarId": "../../users"}, "avatarId must be a UUID"),
        ({"avatarId": 5}, "avatarId must be a UUID"),
        ({"sessionId": "nonsense"}, "sessionId must be a UUID"),
        ({"url": None}, "url must be a text"),
        ({"url": ""}, "url must be a text"),
        ({"url": {"href": "https://x"}}, "url must be a text"),
        ({"url": "ftp://169.254.169.254/latest"}, "url must begin with https://"),
        ({"url": "file:///etc/passwd"}, "url must begin with https://"),
        ({"url": "https://x/" + "a" * 3000}, "at most 2048 characters"),
        ({"urlType": None}, "urlType must be httpURL or dataURL"),
        ({"urlType": ["httpURL"]}, "urlType must be httpURL or dataURL"),
        ({"urlType": "dataURL"}, "base64 data URL of a GLB"),
        ({"urlType": "dataURL", "url": "data:text/html;base64,PGI+"}, "base64 data URL of a GLB"),
        ({"urlType": "dataURL", "url": "data:model/gltf-binary;base64,%%%"}, "not valid base64"),
        ({"urlType": "dataURL", "url": "data:model/gltf-binary;base64,é"}, "not valid base64"),
        ({"urlType": "dataURL", "url": data_url(b"")}, "does not hold a GLB"),
        ({"urlType": "dataURL", "url": data_url(b"<html>" * 10)}, "does not hold a GLB"),
        ({"urlType": "dataURL", "url": data_url(GLB[:-4])}, "does not hold a GLB"),
        ({"urlType": "dataURL", "url": data_url(GLB + b"\0")}, "does not hold a GLB"),
        ({"bodyId": 5}, "bodyId must be a text"),
        ({"gender": "x" * 3000}, "gender must be a text of at most"),
        ({"avatarSupportsFaceAnimations": "yes"}, "must be true or false"),
        ({"avatarId": str(uuid4())}, "is not an avatar of this user"),
    ],
)
async def test_wrong_payload_is_one_clear_error(backend: Backend, change: dict[str, Any], message: str) -> None:
    before = len(backend.fake.requests)
    with pytest.raises(BrowserExportError, match=message):
        await backend.accept({**backend.payload, **change})
    requests = backend.fake.requests[before:]
    assert all(request.path.endswith("/avatars") for request in requests)
    assert not requests or "is not an avatar" in message


@pytest.mark.parametrize("payload", [None, 5, "text", [], [{}]])
async def test_payload_that_is_not_an_object_is_refused(backend: Backend, payload: Any) -> None:
    with pytest.raises(BrowserExportError, match="must be a JSON object"):
        await backend.accept(payload)


async def test_claim_about_another_user_is_refused(backend: Backend) -> None:
    with pytest.raises(BrowserExportError, match="is not an avatar of this user"):
        await backend.accept(backend.other_payload)
    with pytest.raises(BrowserExportError, match="is not a session of this user"):
        await backend.accept(backend.other_payload, router=backend.router)
    with pytest.raises(BrowserExportError, match="sessionId is not the session of this page"):
        await backend.accept(
            {**backend.payload, "sessionId": backend.other_payload["sessionId"]}, session=backend.session
        )
    with pytest.raises(BrowserExportError, match="is not a session of this user"):
        await backend.accept(backend.other_payload, session=backend.other_session)


async def test_session_that_was_not_opened_here_is_refused(backend: Backend) -> None:
    session = await backend.client.new_session(backend.session.user_id)
    with pytest.raises(BrowserExportError, match="was not opened here"):
        await backend.accept({**backend.payload, "sessionId": str(session.id)}, router=backend.router)
    with pytest.raises(BrowserExportError, match="sessionId is missing"):
        await backend.accept({**backend.payload, "sessionId": None}, router=backend.router)


async def test_failed_avatar_is_refused_and_an_api_failure_is_raised(backend: Backend) -> None:
    backend.fake.fail(Fault.answer(500, {}), path="/api/v1/users/*")
    with pytest.raises(ServerError):
        await backend.accept(backend.payload)
    backend.fake.fail_tasks("avatar")
    avatar_id = await backend.fake.finish_session((await backend.client.new_session(backend.session.user_id)).id)
    assert str(avatar_id) == backend.payload["avatarId"]
    new = await backend.client.new_avatar(backend.session.user_id)
    await backend.client.upload_photos(
        new.upload_url, frontal=b"\xff\xd8\xff" + bytes(9), side_1=b"\xff\xd8\xff" + bytes(9),
        side_2=b"\xff\xd8\xff" + bytes(9), body_type="male",
    )  # fmt: skip
    await backend.fake.wait_idle()
    with pytest.raises(BrowserExportError, match="failed: it has no export"):
        await backend.accept({**backend.payload, "avatarId": str(new.avatar_id), "sessionId": None})


async def test_invalid_arguments_of_the_caller_are_value_errors(backend: Backend) -> None:
    with pytest.raises(ValueError, match="user_id"):
        await accept_browser_export(backend.client, backend.payload, user_id="", session=backend.session)
    before = len(backend.fake.requests)
    with pytest.raises(ValueError, match="max_bytes"):
        await backend.accept(backend.payload, max_bytes=0)
    with pytest.raises(ValueError, match="timeout"):
        await backend.accept(backend.payload, timeout=-1)
    assert len(backend.fake.requests) == before
