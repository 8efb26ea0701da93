"""Events: strict JSON, canonical ids, and drift that is kept instead of lost."""

from __future__ import annotations

import json
import pickle
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avaturn_async import ScanStatus, TaskStatus
from avaturn_async.webhooks import (
    AvatarReady,
    Event,
    ExportReady,
    RenderReady,
    UnknownEvent,
    WebhookPayloadError,
    event_body,
    parse_event,
)

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
SESSION = "497f6eca-6276-4993-bfeb-53cbbbba6f08"
RENDER = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
URL = "https://files.example/x.glb?signature=hush"


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("posted", "event"),
    [
        (
            {"event": "avatar.ready", "avatar_id": AVATAR},
            AvatarReady(avatar_id=UUID(AVATAR)),
        ),
        (
            {
                "event": "avatar.ready",
                "avatar_id": AVATAR.upper(),
                "user_id": "u",
                "session_id": SESSION,
                "status": "failed",
                "new": 1,
                "position": 7,
                "raw": "x",
            },
            AvatarReady(avatar_id=UUID(AVATAR), user_id="u", session_id=UUID(SESSION), status=ScanStatus.FAILED),
        ),
        (
            {
                "event": "avatar.ready",
                "avatar_id": AVATAR,
                "session_id": None,
                "status": None,
                "user_id": None,
            },
            AvatarReady(avatar_id=UUID(AVATAR)),
        ),
        (
            {
                "event": "export.ready",
                "avatar_id": AVATAR,
                "user_id": "u",
                "status": "ready",
                "export_url": URL,
            },
            ExportReady(avatar_id=UUID(AVATAR), user_id="u", status=TaskStatus.READY, export_url=URL),
        ),
        (
            {
                "event": "export.ready",
                "avatar_id": AVATAR,
                "user_id": "u",
                "status": "failed",
                "export_url": None,
            },
            ExportReady(avatar_id=UUID(AVATAR), user_id="u", status=TaskStatus.FAILED),
        ),
        (
            {
                "event": "render.ready",
                "avatar_id": AVATAR,
                "user_id": "u",
                "id": RENDER,
                "status": "ready",
                "render_url": URL,
                "session_id": SESSION,
            },
            RenderReady(
                avatar_id=UUID(AVATAR),
                user_id="u",
                id=UUID(RENDER),
                status=TaskStatus.READY,
                render_url=URL,
                session_id=UUID(SESSION),
            ),
        ),
        (
            {"event": "render.ready", "avatar_id": AVATAR, "user_id": "u", "id": RENDER, "status": "queued"},
            RenderReady(avatar_id=UUID(AVATAR), user_id="u", id=UUID(RENDER), status=TaskStatus("queued")),
        ),
        (
            {"event": "user.gone", "user_id": "u", "session_id": SESSION, "avatar_id": AVATAR},
            UnknownEvent(
                event="user.gone",
                user_id="u",
                session_id=UUID(SESSION),
                avatar_id=UUID(AVATAR),
                raw={"event": "user.gone", "user_id": "u", "session_id": SESSION, "avatar_id": AVATAR},
            ),
        ),
    ],
)
def test_each_event_is_read_with_all_that_was_posted(posted: dict[str, Any], event: Event) -> None:
    read = parse_event(json.dumps(posted).encode())
    assert read == event
    assert read.event == posted["event"]
    assert read.raw == posted
    assert read.position == 0
    assert "hush" not in repr(read)
    assert pickle.loads(pickle.dumps(read)) == read  # noqa: S301 - our own bytes
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        read.position = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("posted", "problems"),
    [
        ({"event": "avatar.ready"}, ["missing $.avatar_id"]),
        ({"event": "avatar.ready", "avatar_id": None}, ["missing $.avatar_id"]),
        ({"event": "avatar.ready", "avatar_id": f"{{{AVATAR}}}"}, ["expected UUID at $.avatar_id"]),
        ({"event": "avatar.ready", "avatar_id": AVATAR.replace("-", "")}, ["expected UUID at $.avatar_id"]),
        (
            {"event": "avatar.ready", "avatar_id": 5, "status": 1, "user_id": [], "session_id": "x"},
            [
                "expected UUID at $.avatar_id",
                "expected str at $.user_id",
                "expected UUID at $.session_id",
                "expected str at $.status",
            ],
        ),
        (
            {"event": "export.ready"},
            ["missing $.avatar_id", "missing $.user_id", "missing $.status"],
        ),
        (
            {
                "event": "export.ready",
                "avatar_id": AVATAR,
                "user_id": "u",
                "status": "ready",
                "export_url": {},
            },
            ["expected str at $.export_url"],
        ),
        (
            {"event": "render.ready", "avatar_id": AVATAR, "user_id": "u", "status": "ready"},
            ["missing $.id"],
        ),
        (
            {"event": "render.ready", "avatar_id": AVATAR, "user_id": "u", "id": RENDER, "status": True},
            ["expected str at $.status"],
        ),
    ],
)
def test_a_known_event_of_another_shape_is_kept_with_its_problems(posted: dict[str, Any], problems: list[str]) -> None:
    read = parse_event(json.dumps(posted).encode())
    assert isinstance(read, UnknownEvent)
    assert read.event == posted["event"]
    assert list(read.problems) == problems
    assert read.raw == posted
    assert read.avatar_id == (UUID(AVATAR) if posted.get("avatar_id") == AVATAR else None)


def test_body_that_was_parsed_already_is_refused() -> None:
    body: Any = {"event": "avatar.ready"}
    with pytest.raises(TypeError, match="body must be the raw bytes of the webhook, not dict"):
        parse_event(body)


@pytest.mark.parametrize(
    ("posted", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"event": "x"} x', "not JSON"),
        (b"\xff", "not UTF-8"),
        ('{"event": "x"}'.encode("utf-16"), "not UTF-8"),
        (b'{"event": "\\ud800"}', "a lone surrogate"),
        (b'{"event": "x", "\\udc00": 1}', "a lone surrogate"),
        (b'{"event": "\xed\xa0\x80"}', "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'"' + b"[" * 99 + b'"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "no event of type str in the object"),
        (b'{"event": 5}', "no event of type str in the object"),
        (b'{"event": "x", "a": 1, "a": 1}', "duplicate key"),
        (b'{"event": "x", "a": NaN}', "NaN is not JSON"),
        (b'{"event": "x", "a": -Infinity}', "-Infinity is not JSON"),
        (b'{"event": "x", "a": 1e999}', "a number that is not finite"),
        (b'{"event": "x", "a": -1e999}', "a number that is not finite"),
        (b'{"event": "x", "a": ' + b"9" * 21 + b"}", "an integer of more than 20 digits"),
        (b'{"event": "x", "a": -' + b"9" * 21 + b"}", "an integer of more than 20 digits"),
        (b'{"event": "x", "a": ' + b"9" * 9999 + b"}", "an integer of more than 20 digits"),
        (b'{"event": "x", "a": ' + b"[" * 64 + b"]" * 64 + b"}", "nested too deeply"),
        (b'{"event": "x", "a": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_not_strict_json_is_refused_with_a_reason_that_shows_nothing(posted: bytes, reason: str) -> None:
    with pytest.raises(WebhookPayloadError) as caught:
        parse_event(posted)
    assert str(caught.value) == reason
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "posted",
    [
        b'\xef\xbb\xbf{"event": "x"}',
        b'{"event": "\\ud83d\\ude00"}',
        b'{"event": "x", "a": 99999999999999999999, "b": -1.5e300}',
        b'{"event": "x", "a": -99999999999999999999}',
        b'{"event": "x", "a": "[[[[ {{{{ ' + b"[{" * 99 + b'"}',
        b'{"event": "x", "a": ' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"event": "x", "a": [' + b"{}," * 999 + b"{}]}",
    ],
)
def test_what_is_strict_json_is_taken(posted: bytes) -> None:
    assert isinstance(parse_event(posted), UnknownEvent)


ids = st.none() | st.uuids()
texts = st.none() | st.text(max_size=9)
extras = st.dictionaries(st.text(max_size=3).map(lambda k: f"_{k}"), st.integers() | st.booleans(), max_size=2)
events = st.one_of(
    st.builds(
        AvatarReady,
        avatar_id=st.uuids(),
        user_id=texts,
        session_id=ids,
        status=st.none() | st.sampled_from(ScanStatus),
        raw=st.just({}),
    ),
    st.builds(
        ExportReady,
        avatar_id=st.uuids(),
        user_id=st.text(max_size=9),
        status=st.sampled_from(TaskStatus),
        export_url=texts,
        session_id=ids,
        raw=st.just({"export_url": "https://forged.example", "new": [1]}),
    ),
    st.builds(
        RenderReady,
        avatar_id=st.uuids(),
        user_id=st.text(max_size=9),
        id=st.uuids(),
        status=st.sampled_from(TaskStatus),
        render_url=texts,
        session_id=ids,
        raw=st.just({}),
    ),
)


@given(events)
def test_an_event_goes_to_bytes_and_back(event: Event) -> None:
    again = parse_event(event_body(event))
    assert again == event
    assert again.raw.keys() >= event.raw.keys()


@pytest.mark.parametrize(
    "posted",
    [
        {"event": "x", "avatar_id": AVATAR.upper(), "new": [1, {"a": None}]},
        {"event": "render.ready", "avatar_id": 5, "user_id": None, "id": "x", "session_id": SESSION},
        {"event": "export.ready", "avatar_id": AVATAR, "user_id": {}, "status": "ready"},
    ],
)
def test_an_unknown_event_goes_to_bytes_and_back_with_what_could_not_be_read(posted: dict[str, Any]) -> None:
    event = parse_event(json.dumps(posted).encode())
    assert isinstance(event, UnknownEvent)
    assert parse_event(event_body(event)) == event
    moved = attrs.evolve(event, session_id=UUID(RENDER))
    assert parse_event(event_body(moved)).session_id == UUID(RENDER)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode(errors="surrogatepass")))
def test_random_bytes_are_an_event_or_refused(posted: bytes) -> None:
    try:
        parse_event(posted)
    except WebhookPayloadError as error:
        assert str(error)  # noqa: PT017 - either is fine


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.text(max_size=5) | st.uuids().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["avatar_id", "user_id", "session_id", "status", "id", "export_url", "render_url"])


@given(
    st.sampled_from(["avatar.ready", "export.ready", "render.ready", "x"]),
    st.dictionaries(names, json_values, max_size=7),
)
def test_whatever_shape_an_object_with_event_has_it_is_an_event(name: str, fields: dict[str, Any]) -> None:
    posted = json.dumps({"event": name, **fields}).encode()
    try:
        read = parse_event(posted)
    except WebhookPayloadError as error:
        assert "\\ud" in posted.decode().lower(), error  # noqa: PT017 - a lone surrogate
    else:
        assert read.event == name
        assert read.raw == json.loads(posted)


def test_events_of_all_types_hash() -> None:
    bodies = [b'{"event": "new.type", "x": {"y": []}}', b'{"event": "avatar.ready", "avatar_id": 5}']
    bodies.append(b'{"event": "avatar.ready", "avatar_id": "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"}')
    assert len({parse_event(body) for body in bodies + bodies}) == 3
