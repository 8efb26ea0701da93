"""Photo uploads and temporary URLs of FakeAvaturn, and its sample files."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avaturn_async import (
    AssetSlots,
    AvaturnClient,
    ConflictError,
    Customization,
    NewAvatar,
    User,
)
from avaturn_async.testing import FakeAvaturn, Fault, FormFile
from avaturn_async.testing.messages import parse_body
from avaturn_async.testing.samples import read_sample_glb, read_sample_image


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fake(clock: Clock) -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn(seed=1, clock=clock, url_ttl=60) as fake:
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


@pytest.fixture
async def export_url(fake: FakeAvaturn, client: AvaturnClient, user: User) -> str:
    avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
    await client.create_export(avatar_id)
    await fake.wait_idle()
    return str((await client.create_export(avatar_id)).url)


@pytest.fixture
async def new_avatar(client: AvaturnClient, user: User) -> NewAvatar:
    return await client.new_avatar(user.id)


def _form(**changes: Any) -> aiohttp.FormData:
    fields = {
        "image-frontal": b"front",
        "image-side-1": b"left",
        "image-side-2": b"right",
        "body-type": "male",
    }
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in (fields | {key.replace("_", "-"): value for key, value in changes.items()}).items():
        if isinstance(value, bytes):
            form.add_field(name, value, filename=f"{name}.jpg", content_type="image/jpeg")
        elif value is not None:
            form.add_field(name, value)
    return form


async def test_uploaded_photos_become_an_avatar(
    fake: FakeAvaturn, client: AvaturnClient, http: aiohttp.ClientSession, user: User, new_avatar: NewAvatar
) -> None:
    async def statuses() -> list[str]:
        return [a.status for a in await client.list_user_avatars(user.id, include_not_ready=True)]

    assert await statuses() == ["pending"]
    async with http.post(new_avatar.upload_url, data=_form(telephoto="true")) as response:
        assert response.status == 200
        assert await response.json() == {"status": "processing"}
    await fake.wait_idle()
    assert await statuses() == ["ready"]
    assert fake.events == [
        {
            "event": "avatar.ready",
            "avatar_id": str(new_avatar.avatar_id),
            "user_id": user.id,
            "status": "ready",
        }
    ]
    front = fake.requests[-2].parsed["image-frontal"]
    assert front == FormFile(filename="image-frontal.jpg", content_type="image/jpeg", content=b"front")


async def test_uploaded_avatar_is_refused_until_it_is_customized(
    fake: FakeAvaturn, client: AvaturnClient, http: aiohttp.ClientSession, new_avatar: NewAvatar
) -> None:
    async with http.post(new_avatar.upload_url, data=_form()):
        await fake.wait_idle()
    with pytest.raises(ConflictError, match="set one first"):
        await client.get_customization(new_avatar.avatar_id)
    with pytest.raises(ConflictError, match="set one first"):
        await client.render_user_avatar(new_avatar.avatar_id)
    with pytest.raises(ConflictError, match="set one first"):
        await client.create_export(new_avatar.avatar_id)
    await client.set_customization(new_avatar.avatar_id, Customization(assets=AssetSlots()))
    assert (await client.create_export(new_avatar.avatar_id)).status == "pending"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"image_frontal": None}, "image-frontal"),
        ({"image_side_1": None, "image_side1": b"x"}, "image-side-1"),
        ({"image_side_2": "no file"}, "image-side-2"),
        ({"image_side_2": b""}, "image-side-2"),
        ({"body_type": None}, "body-type"),
        ({"body_type": "robot"}, "body-type"),
        ({"body_type": b"male"}, "body-type"),
        ({"telephoto": "True"}, "telephoto"),
    ],
)
async def test_invalid_photo_form_is_refused_with_the_place(
    http: aiohttp.ClientSession, new_avatar: NewAvatar, changes: dict[str, Any], place: str
) -> None:
    async with http.post(new_avatar.upload_url, data=_form(**changes)) as response:
        assert response.status == 422
        assert [problem["loc"] for problem in (await response.json())["detail"]] == [["body", place]]


@given(content=st.binary(max_size=60) | st.sampled_from([b"--x--", b"\r\n--x", b"--x\r\n\r\n"]))
def test_multipart_form_is_parsed_without_loss(content: bytes) -> None:
    boundary = "a" * 40  # longer than what hypothesis makes up
    part = 'Content-Disposition: form-data; name="image-frontal"; filename="é.jpg"\r\nContent-Type: image/png'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (
        boundary.encode(),
        part.encode(),
        content,
        boundary.encode(),
    )
    form = parse_body(f'multipart/form-data; boundary="{boundary}"', body)
    assert form["image-frontal"].content == content
    assert form["image-frontal"].content_type == "image/png"


@given(content_type=st.text(max_size=40), body=st.binary(max_size=60))
@example(content_type="multipart/form-data", body=b"--\r\n\r\n--")
@example(content_type="multipart/form-data; boundary=x", body=b"--x\r\n--x\r\nContent-Disposition: ;\r\n\r\n--x--")
@example(content_type="application/json", body=b"\xff")
@example(content_type="multipart/form-data; boundary=\udcff", body=b"--x--")
def test_parser_of_bodies_never_raises(content_type: str, body: bytes) -> None:
    parse_body(content_type, body)


async def test_upload_needs_a_form_and_the_exact_url_and_works_once(
    http: aiohttp.ClientSession, new_avatar: NewAvatar
) -> None:
    url = new_avatar.upload_url
    for wrong in (url + "0", url.partition("?")[0], url.replace(str(new_avatar.avatar_id), "nobody")):
        async with http.post(wrong, data=_form()) as response:
            assert response.status == 403
    async with http.post(url, json={"body-type": "male"}) as response:
        assert response.status == 422
    for status in (200, 409):
        async with http.post(url, data=_form()) as response:
            assert response.status == status


async def test_token_sent_to_an_upload_or_file_url_is_a_violation(
    fake: FakeAvaturn, http: aiohttp.ClientSession, new_avatar: NewAvatar, export_url: str
) -> None:
    headers = {"Authorization": "Bearer token"}
    async with http.post(new_avatar.upload_url, data=_form(), headers=headers):
        pass
    async with http.get(export_url, headers=headers):
        pass
    # Also where the file is not sent.
    fake.fail(Fault.answer(503))
    async with http.get(export_url, headers=headers):
        pass
    assert [complaint.split()[0] for complaint in fake.violations] == ["POST", "GET", "GET"]
    assert not any("token" in c.split(":")[0] or "signature" in c for c in fake.violations)


async def test_temporary_url_serves_the_file_until_it_expires(
    http: aiohttp.ClientSession, export_url: str, clock: Clock
) -> None:
    async with http.get(export_url) as response:
        content = await response.read()
        assert response.status == 200
        assert response.headers["Content-Type"] == "model/gltf-binary"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert int(response.headers["Content-Length"]) == len(content)
        assert content.startswith(b"glTF")
    async with http.head(export_url) as response:
        assert int(response.headers["Content-Length"]) == len(content)
        assert await response.read() == b""
    clock.now += 59.9
    async with http.get(export_url) as response:
        assert response.status == 200
    clock.now += 0.1
    async with http.get(export_url) as response:
        assert response.status == 403
    for other in (export_url + "0", export_url.replace("avatar.glb", "other.glb")):
        async with http.get(other) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("range_", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=5-9", slice(5, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=-1000000", slice(0, None)),
        ("bytes=5-1000000", slice(5, None)),
    ],
)
async def test_range_request_gets_its_part_of_the_file(
    http: aiohttp.ClientSession, export_url: str, range_: str, part: slice
) -> None:
    async with http.get(export_url) as response:
        whole, etag = await response.read(), response.headers["ETag"]
    headers = {"Range": range_, "If-Range": etag}
    async with http.get(export_url, headers=headers) as response:
        assert response.status == 206
        assert await response.read() == whole[part]
        start, stop, _ = part.indices(len(whole))
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Range": '"other"', "Range": "bytes=5-9"},
        {"Range": "bytes=-"},
        {"Range": "bytes=" + "1" * 5_000 + "-"},
    ],
)
async def test_invalid_range_or_another_version_gets_the_whole_file(
    http: aiohttp.ClientSession, export_url: str, headers: dict[str, str]
) -> None:
    async with http.get(export_url, headers=headers) as response:
        assert response.status == 200
        assert len(await response.read()) == int(response.headers["Content-Length"])


async def test_range_behind_the_end_gets_416(http: aiohttp.ClientSession, export_url: str) -> None:
    for range_ in ("bytes=1000000-", "bytes=9-5"):
        async with http.get(export_url, headers={"Range": range_}) as response:
            assert response.status == 416
            assert response.headers["Content-Range"].startswith("bytes */")


async def test_export_contains_the_glb_of_the_constructor() -> None:
    async with (
        FakeAvaturn(glb=b"glTF and so on") as fake,
        AvaturnClient("token", base_url=fake.url) as client,
        aiohttp.ClientSession() as http,
    ):
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        await client.create_export(avatar_id)
        await fake.wait_idle()
        async with http.get(fake.events[-1]["export_url"]) as response:
            assert await response.read() == b"glTF and so on"


@pytest.mark.parametrize(
    ("format_", "content_type", "magic"),
    [
        ("jpg", "image/jpeg", b"\xff\xd8\xff"),
        ("png", "image/png", b"\x89PNG"),
        ("webp", "image/webp", b"RIFF"),
    ],
)
async def test_render_is_an_image_of_the_requested_format(
    fake: FakeAvaturn,
    client: AvaturnClient,
    http: aiohttp.ClientSession,
    user: User,
    format_: str,
    content_type: str,
    magic: bytes,
) -> None:
    avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
    await client.render_user_avatar(avatar_id, format=format_)
    await fake.wait_idle()
    async with http.get(fake.events[-1]["render_url"]) as response:
        assert response.headers["Content-Type"] == content_type
        assert (await response.read()).startswith(magic)


def test_sample_glb_is_valid_and_shows_a_figure() -> None:
    glb = read_sample_glb()
    magic, version, length, json_length, json_type = struct.unpack_from("<4sIII4s", glb)
    assert (magic, version, length, json_type) == (b"glTF", 2, len(glb), b"JSON")
    gltf = json.loads(glb[20 : 20 + json_length])
    binary_length, binary_type = struct.unpack_from("<I4s", glb, 20 + json_length)
    binary = glb[28 + json_length :]
    assert (binary_type, binary_length) == (b"BIN\0", len(binary))
    assert json_length % 4 == binary_length % 4 == 0
    assert 0 <= binary_length - gltf["buffers"][0]["byteLength"] < 4
    assert gltf["asset"]["version"] == "2.0"
    assert gltf["nodes"][gltf["scenes"][gltf["scene"]]["nodes"][0]]["mesh"] == 0

    def values(number: int) -> list[tuple[float, ...]]:
        accessor = gltf["accessors"][number]
        view = gltf["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        form = {("VEC3", 5126): "<3f", ("SCALAR", 5123): "<H"}[accessor["type"], accessor["componentType"]]
        assert struct.calcsize(form) * accessor["count"] == view["byteLength"]
        data = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        return list(struct.iter_unpack(form, data))

    for primitive in gltf["meshes"][0]["primitives"]:
        positions, normals = (values(primitive["attributes"][name]) for name in ("POSITION", "NORMAL"))
        indices = [index for (index,) in values(primitive["indices"])]
        bounds = gltf["accessors"][primitive["attributes"]["POSITION"]]
        assert bounds["min"] == [min(axis) for axis in zip(*positions, strict=True)]
        assert bounds["max"] == [max(axis) for axis in zip(*positions, strict=True)]
        assert len(normals) == len(positions)
        assert set(indices) == set(range(len(positions)))
        assert 0 <= primitive["material"] < len(gltf["materials"])
        for at in range(0, len(indices), 3):
            a, b, c = (positions[int(i)] for i in indices[at : at + 3])
            u, v = ([q - p for p, q in zip(a, corner, strict=True)] for corner in (b, c))
            across = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
            # The front of every triangle looks outwards, which is what makes it visible.
            assert sum(x * n for x, n in zip(across, normals[int(indices[at])], strict=True)) > 0


def _png_pixels(png: bytes) -> list[bytes]:
    at, chunks = 8, {}
    while at < len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(name + data),)
        chunks[name] = data
        at += 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (128, 128, 8, 6, 0, 0, 0)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == 128 * (1 + 128 * 4)
    return [rows[y * 513 + 1 + x * 4 :][:4] for y in range(128) for x in range(128)]


def test_sample_images_are_complete() -> None:
    assert len(set(_png_pixels(read_sample_image("png")))) == 5
    webp = read_sample_image("webp")
    assert struct.unpack_from("<4sI4s", webp) == (b"RIFF", len(webp) - 8, b"WEBP")
    jpeg = read_sample_image("jpg")
    assert (jpeg[:3], jpeg[-2:]) == (b"\xff\xd8\xff", b"\xff\xd9")
