"""The converter: nothing is coerced, nothing is lost, each wrong place is named.

These tests use the private module, since hypothesis sends thousands of values through it, and since a field type
without a hook shows in no call of this release.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
from types import MappingProxyType
from typing import Any, get_args, get_type_hints
from uuid import UUID, uuid4

import attrs
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from avaturn_async import (
    AssetSlot,
    AssetSlots,
    Avatar,
    AvaturnDecodeError,
    BodyType,
    BoneScale,
    Customization,
    Export,
    NewAvatar,
    Render,
    ScanStatus,
    Session,
    TaskStatus,
    User,
    models,
)
from avaturn_async._converter import converter, dumps, loads, structure, unstructure
from avaturn_async.webhooks import AvatarReady, ExportReady, RenderReady

ID = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
CANONICAL = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


@pytest.mark.parametrize(
    ("value", "cls", "problems"),
    [
        (None, User, ["expected object at $"]),
        ([], User, ["expected object at $"]),
        ("x", User, ["expected object at $"]),
        ({"id": None}, User, ["expected str at $.id"]),
        ({"id": 5}, User, ["expected str at $.id"]),
        ({"id": True}, User, ["expected str at $.id"]),
        ({"id": ["x"]}, User, ["expected str at $.id"]),
        ({"url": "u"}, Session, ["missing $.id"]),
        ({"id": "x", "url": 5}, Session, ["expected UUID at $.id", "expected str at $.url"]),
        ({"id": ID.replace("-", ""), "url": "u"}, Session, ["expected UUID at $.id"]),
        ({"id": "{" + ID + "}", "url": "u"}, Session, ["expected UUID at $.id"]),
        ({"id": 5, "status": "pending"}, Render, ["expected UUID at $.id"]),
        ({"status": "ready", "url": 5}, Export, ["expected str at $.url"]),
        ({"status": None}, Export, ["expected str at $.status"]),
        ({"status": 5}, Export, ["expected str at $.status"]),
        ({}, tuple[Avatar, ...], ["expected array at $"]),
        ("text", tuple[Avatar, ...], ["expected array at $"]),
        (
            [{"id": ID, "status": "ready"}, 5, {"id": ID}, {"id": ID, "status": 1}],
            tuple[Avatar, ...],
            ["expected object at $[1]", "missing $[2].status", "expected str at $[3].status"],
        ),
        ({"assets": []}, Customization, ["expected object at $.assets"]),
        (
            {"assets": {"eyewear": {"color": 5}}},
            Customization,
            ["missing $.assets.eyewear.id", "expected str at $.assets.eyewear.color"],
        ),
        (
            {"bone_scale": {"head": True, "arms": "1", "chest": [1]}},
            Customization,
            [
                "expected number at $.bone_scale.head",
                "expected number at $.bone_scale.arms",
                "expected number at $.bone_scale.chest",
            ],
        ),
        (
            {"skin_tone_correction": float("inf")},
            Customization,
            ["expected number at $.skin_tone_correction"],
        ),
        (
            {"metadata": {"k": 5, "l": None}},
            Customization,
            ["expected str at $.metadata.k", "expected str at $.metadata.l"],
        ),
        ({"metadata": [["a", "b"]]}, Customization, ["expected object at $.metadata"]),
    ],
)
def test_wrong_shape_names_each_place(value: Any, cls: Any, problems: list[str]) -> None:
    with pytest.raises(AvaturnDecodeError) as caught:
        structure(value, cls)
    assert list(caught.value.problems) == problems
    assert all(problem in str(caught.value) for problem in problems)


def test_integer_beyond_the_range_of_float_is_a_number() -> None:
    sent = {"bone_scale": {"head": 10**400}}
    assert unstructure(structure(sent, Customization)) == sent


def test_problems_are_bounded_in_number_and_length() -> None:
    with pytest.raises(AvaturnDecodeError) as caught:
        structure([5] * 10_000, tuple[Avatar, ...])
    assert len(caught.value.problems) == 20
    with pytest.raises(AvaturnDecodeError) as caught:
        structure({"metadata": {"k" * 5000: 5}}, Customization)
    assert len(caught.value.problems[0]) == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"nul", b"\xff", b"NaN", b"-Infinity", b"[" * 200_000, b"1" * 10_000])
def test_invalid_json_is_a_decode_error(raw: bytes) -> None:
    with pytest.raises(AvaturnDecodeError, match=r"not JSON|nested too deeply"):
        loads(raw)


def test_absent_fields_are_none_and_unknown_keys_are_ignored() -> None:
    assert structure({"id": ID, "url": "u", "new": [1]}, Session) == Session(id=UUID(ID), url="u")
    assert structure({"status": "ready"}, Export).url is None
    assert structure({}, Customization) == Customization()


def test_unknown_enum_value_is_a_value() -> None:
    status = structure({"status": "queued"}, Export).status
    assert status == "queued"
    assert isinstance(status, TaskStatus)
    assert (str(status), f"{status}", status.name, status.value) == ("queued", "queued", "queued", "queued")
    assert hash(status) == hash("queued")
    assert json.dumps(status) == '"queued"'
    assert pickle.loads(pickle.dumps(status)) == copy.deepcopy(status) == status  # noqa: S301 - our own bytes
    assert TaskStatus("ready") is TaskStatus.READY
    assert list(ScanStatus) == ["pending", "processing", "ready", "failed"]
    wrong: Any
    for wrong in (None, 5, [], b"ready"):
        with pytest.raises(ValueError, match="is not a valid"):
            BodyType(wrong)


@pytest.mark.parametrize(
    "model",
    [
        Session(id=UUID(ID), url="https://u.example/?t=hush", custom_upload_url="https://u.example/?t=hush"),
        NewAvatar(avatar_id=UUID(ID), upload_url="https://u.example/?t=hush"),
        Render(id=UUID(ID), status=TaskStatus.READY, render_url="https://u.example/?t=hush"),
        Export(status=TaskStatus.READY, url="https://u.example/?t=hush"),
    ],
)
def test_models_are_frozen_picklable_and_hide_urls_with_credentials(model: Any) -> None:
    assert "hush" not in repr(model)
    assert "hush" not in str(model)
    assert pickle.loads(pickle.dumps(model)) == model  # noqa: S301 - our own bytes
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        model.status = "x"
    assert not hasattr(model, "__dict__")


@pytest.mark.parametrize("wrong", ["", "{" + ID[1:-1] + "}", "urn:uuid:" + ID[9:], ID + "\n", "0" * 36, 5, None, b"x"])
def test_id_of_a_model_is_a_uuid_or_its_canonical_text(wrong: Any) -> None:
    assert AssetSlot(id=ID) == AssetSlot(id=UUID(ID)) == AssetSlot(id=ID.upper())
    with pytest.raises((ValueError, TypeError), match=r"canonical|UUID or a str"):
        AssetSlot(id=wrong)
    with pytest.raises(AvaturnDecodeError, match=r"expected UUID at \$\.id"):
        structure({"id": wrong}, AssetSlot)


@given(st.uuids(), st.booleans())
def test_id_equals_the_uuid_that_python_parses(id_: UUID, upper: bool) -> None:  # noqa: FBT001
    text = str(id_).upper() if upper else str(id_)
    read = structure({"id": text}, AssetSlot).id
    assert type(read) is UUID
    assert read == id_
    assert hash(read) == hash(id_)
    assert (str(read), read.is_safe) == (str(id_), id_.is_safe)
    assert pickle.loads(pickle.dumps(read)) == copy.deepcopy(read) == id_  # noqa: S301 - our own bytes


@given(st.text("0123456789abcdefABCDEF- _g\u0661", min_size=34, max_size=38) | st.from_regex(CANONICAL))
def test_id_is_accepted_only_in_canonical_form(text: str) -> None:
    if re.fullmatch(CANONICAL, text):
        assert structure({"id": text}, AssetSlot).id == UUID(text)
    else:
        with pytest.raises(AvaturnDecodeError):
            structure({"id": text}, AssetSlot)


@frozen(kw_only=True)
class Future:
    """A model with field types that no model of this release has."""

    total: int
    done: bool
    left: int | None = None
    parts: tuple[int, ...] | None = None


def test_model_may_have_int_and_bool_fields() -> None:
    read = structure({"total": 3, "done": False, "parts": [1, 2]}, Future)
    assert read == Future(total=3, done=False, parts=(1, 2))
    assert unstructure(read) == {"total": 3, "done": False, "parts": [1, 2]}
    with pytest.raises(AvaturnDecodeError) as caught:
        structure({"total": True, "done": 1, "left": 1.0, "parts": ["1"]}, Future)
    places = ["int at $.total", "bool at $.done", "int at $.left", "int at $.parts[0]"]
    assert list(caught.value.problems) == [f"expected {place}" for place in places]


MODELS = [value for value in vars(models).values() if isinstance(value, type) and attrs.has(value)]
EVENTS = [AvatarReady, ExportReady, RenderReady]
JSON_SAMPLES: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True],
    "number": [3, 2.5],
    "string": ["x", ID],
    "array": [[], [1]],
    "object": [{}, {"id": ID, "status": "ready"}],
}


@pytest.mark.parametrize(
    ("cls", "name", "kind"),
    [
        (cls, field.name, kind)
        for cls in (*MODELS, *EVENTS)
        for field, kind in zip(attrs.fields(cls), get_type_hints(cls).values(), strict=True)
        if field.init and field.name not in {"extra", "raw", "position"}
    ],
)
def test_field_of_a_model_accepts_one_json_type_only(cls: Any, name: str, kind: Any) -> None:
    """A type without a hook of ours would get cattrs's lax default: ``bytes`` accepts 3, for example."""

    def accepts(value: Any) -> bool:
        try:
            converter.structure(value, kind)
        except Exception:  # noqa: BLE001 - any refusal counts
            return False
        return True

    accepted = {json_type for json_type, samples in JSON_SAMPLES.items() if any(map(accepts, samples))}
    assert len(accepted - {"null"}) == 1, f"{cls.__name__}.{name} accepts {accepted}"
    assert ("null" in accepted) == (type(None) in get_args(kind))


# Customizations that a server could send, now or in a later version.
texts = st.text(max_size=8)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def objects(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the known keys, perhaps null, and some unknown keys, one of them named extra."""
    sent = st.fixed_dictionaries({}, optional={k: st.none() | v for k, v in known.items()})
    unknown = st.dictionaries(texts.filter(lambda k: k not in known) | st.just("extra"), anything, max_size=3)
    return st.builds(lambda a, b: {**a, **b}, sent, unknown)


slots = objects({"color": texts}).map(lambda o: {**o, "id": str(uuid4())})
slot_names = ("clothing", "hair_and_headwear", "eyewear", "footwear")
customizations = objects(
    {
        "assets": objects(dict.fromkeys(slot_names, slots)),
        "body": texts,
        "age": texts,
        "metadata": st.dictionaries(texts, texts, max_size=3),
        "bone_scale": objects(dict.fromkeys(("head", "arms", "chest"), numbers)),
        "skin_tone_correction": numbers,
    }
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "body": texts,
        "age": texts,
        "metadata": st.dictionaries(texts, texts, max_size=3),
        "skin_tone_correction": numbers,
        "bone_scale": st.builds(BoneScale, head=numbers),
        "assets": st.builds(AssetSlots, clothing=st.builds(AssetSlot, id=st.uuids())),
    },
)


def same(a: Any, b: Any) -> bool:
    """Equality that keeps 1, 1.0 and True apart."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@given(customizations)
def test_customization_is_sent_back_unchanged(sent: dict[str, Any]) -> None:
    assert same(json.loads(dumps(unstructure(structure(sent, Customization)))), sent)


@given(customizations, changes)
def test_only_evolved_fields_change(sent: dict[str, Any], change: dict[str, Any]) -> None:
    evolved = attrs.evolve(structure(sent, Customization), **change)
    expected = {**sent, **{k: unstructure(v) for k, v in change.items()}}
    assert same(json.loads(dumps(unstructure(evolved))), expected)


@given(customizations, st.sampled_from(slot_names), st.uuids())
def test_evolving_one_slot_keeps_the_rest(sent: dict[str, Any], slot: str, asset: UUID) -> None:
    read = structure(sent, Customization)
    change: Any = {slot: AssetSlot(id=asset)}
    assets = attrs.evolve(read.assets or AssetSlots(), **change)
    back = unstructure(attrs.evolve(read, assets=assets))
    expected = {**sent, "assets": {**(sent.get("assets") or {}), slot: {"id": str(asset)}}}
    assert same(back, expected)


@given(anything, st.sampled_from([User, Session, tuple[Avatar, ...], NewAvatar, Render, Export, Customization]))
def test_any_json_is_a_model_or_a_decode_error(value: Any, cls: Any) -> None:
    try:
        structure(value, cls)
    except AvaturnDecodeError as error:
        assert error.problems  # noqa: PT017 - either outcome is fine


def test_metadata_accepts_any_mapping() -> None:
    metadata = MappingProxyType({"k": "v"})
    assert json.loads(dumps(unstructure(Customization(metadata=metadata)))) == {"metadata": {"k": "v"}}
