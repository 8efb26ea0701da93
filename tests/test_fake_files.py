"""Photos go up and files come down as with Avaturn: URLs that expire, want no token, and give real files."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import AsyncIterator
from random import Random
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
    RetryPolicy,
    User,
)
from avaturn_async.testing import FakeAvaturn, FormFile, _images
from avaturn_async.testing._glb import make_glb
from avaturn_async.testing._images import make_image
from avaturn_async.testing._requests import parse_body


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
async def client(fake: FakeAvaturn) -> AsyncIterator[AvaturnClient]:
    async with AvaturnClient("token", base_url=fake.url, retry=RetryPolicy(attempts=1)) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


@pytest.fixture
async def user(client: AvaturnClient) -> User:
    return await client.create_user()


@pytest.fixture
async def export_url(fake: FakeAvaturn, client: AvaturnClient, user: User) -> str:
    avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
    await client.create_export(avatar_id)
    await fake.settle()
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
    await fake.settle()
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


async def test_an_uploaded_avatar_is_undefined_until_it_is_customized(
    fake: FakeAvaturn, client: AvaturnClient, http: aiohttp.ClientSession, new_avatar: NewAvatar
) -> None:
    async with http.post(new_avatar.upload_url, data=_form()):
        await fake.settle()
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
async def test_a_photo_form_that_does_not_fit_is_refused_with_the_place(
    http: aiohttp.ClientSession, new_avatar: NewAvatar, changes: dict[str, Any], place: str
) -> None:
    async with http.post(new_avatar.upload_url, data=_form(**changes)) as response:
        assert response.status == 422
        assert [problem["loc"] for problem in (await response.json())["detail"]] == [["body", place]]


@given(content=st.binary(max_size=60) | st.sampled_from([b"--x--", b"\r\n--x", b"--x\r\n\r\n"]))
def test_a_form_gives_back_the_bytes_that_were_put_in(content: bytes) -> None:
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
@example(
    content_type="multipart/form-data; boundary=x", body=b"--x\r\n--x\r\nContent-Disposition: ;\r\n\r\n--x--"
)
@example(content_type="application/json", body=b"\xff")
@example(content_type="multipart/form-data; boundary=\udcff", body=b"--x--")
def test_no_body_whatever_is_too_much_for_the_fake(content_type: str, body: bytes) -> None:
    parse_body(content_type, body)


async def test_an_upload_is_a_multipart_form_to_the_very_url_and_once(
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


async def test_a_token_that_goes_where_none_is_wanted_is_complained_of(
    fake: FakeAvaturn, http: aiohttp.ClientSession, new_avatar: NewAvatar, export_url: str
) -> None:
    headers = {"Authorization": "Bearer token"}
    async with http.post(new_avatar.upload_url, data=_form(), headers=headers):
        pass
    async with http.get(export_url, headers=headers):
        pass
    assert [complaint.split()[0] for complaint in fake.complaints] == ["POST", "GET"]
    assert not any("token" in c.split(":")[0] or "signature" in c for c in fake.complaints)


async def test_a_temporary_url_gives_the_file_until_it_expires(
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
async def test_a_part_of_a_file_can_be_asked_for(
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
async def test_a_changed_file_or_a_range_that_is_none_gives_the_whole(
    http: aiohttp.ClientSession, export_url: str, headers: dict[str, str]
) -> None:
    async with http.get(export_url, headers=headers) as response:
        assert response.status == 200
        assert len(await response.read()) == int(response.headers["Content-Length"])


async def test_a_range_behind_the_end_is_416(http: aiohttp.ClientSession, export_url: str) -> None:
    for range_ in ("bytes=1000000-", "bytes=9-5"):
        async with http.get(export_url, headers={"Range": range_}) as response:
            assert response.status == 416
            assert response.headers["Content-Range"].startswith("bytes */")


async def test_an_export_holds_the_bytes_that_were_asked_for() -> None:
    async with (
        FakeAvaturn(glb=b"glTF and so on") as fake,
        AvaturnClient("token", base_url=fake.url) as client,
        aiohttp.ClientSession() as http,
    ):
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        await client.create_export(avatar_id)
        await fake.settle()
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
async def test_a_render_is_an_image_of_the_format_that_was_asked_for(
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
    await fake.settle()
    async with http.get(fake.events[-1]["render_url"]) as response:
        assert response.headers["Content-Type"] == content_type
        assert (await response.read()).startswith(magic)


def test_an_export_is_a_valid_glb_with_a_figure_to_look_at() -> None:
    glb = make_glb("some-avatar", {"body": "body_0"})
    magic, version, length, json_length, json_type = struct.unpack_from("<4sIII4s", glb)
    assert (magic, version, length, json_type) == (b"glTF", 2, len(glb), b"JSON")
    gltf = json.loads(glb[20 : 20 + json_length])
    binary_length, binary_type = struct.unpack_from("<I4s", glb, 20 + json_length)
    binary = glb[28 + json_length :]
    assert (binary_type, binary_length) == (b"BIN\0", len(binary))
    assert json_length % 4 == binary_length % 4 == 0
    assert 0 <= binary_length - gltf["buffers"][0]["byteLength"] < 4
    assert gltf["asset"]["version"] == "2.0"
    assert gltf["asset"]["extras"]["avatar_id"] == "some-avatar"
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


def _webp_pixels(webp: bytes) -> list[bytes]:
    """As libwebp reads it, as far as this file goes: simple codes of two symbols."""
    riff, size, kind, chunk, length = struct.unpack_from("<4sI4s4sI", webp)
    assert (riff, kind, chunk) == (b"RIFF", b"WEBP", b"VP8L")
    assert size == len(webp) - 8
    bits = iter([byte >> i & 1 for byte in webp[20 : 20 + length] for i in range(8)])

    def take(width: int) -> int:
        return sum(next(bits) << i for i in range(width))

    assert (take(8), take(14), take(14), take(1), take(3)) == (0x2F, 127, 127, 1, 0)
    assert take(3) == 0
    codes = []
    for _ in range(4):
        assert take(3) == 0b111
        codes.append((take(8), take(8)))
        assert codes[-1][0] < codes[-1][1]
    assert (take(1), take(1), take(1), take(1)) == (1, 0, 0, 0)
    pixels = []
    for _ in range(128 * 128):
        green, red, blue, alpha = (code[take(1)] for code in codes)
        pixels.append(bytes((red, green, blue, alpha)))
    assert len(list(bits)) < 8
    return pixels


def _jpeg_levels(jpeg: bytes) -> list[list[int]]:
    """The level of each block, by component, as a decoder finds it before the inverse transform."""
    at, segments = 2, {}
    while jpeg[at + 1] != 0xDA:
        length = struct.unpack_from(">H", jpeg, at + 2)[0]
        segments[jpeg[at + 1]] = jpeg[at + 4 : at + 2 + length]
        at += 2 + length
    assert segments[0xE0].startswith(b"JFIF\0")
    assert struct.unpack(">BHHB", segments[0xC0][:6]) == (8, 128, 128, 3)
    assert jpeg.endswith(b"\xff\xd9")
    scan = jpeg[at + 14 : -2]
    assert b"\xff" not in scan  # it would be a marker
    bits = "".join(f"{byte:08b}" for byte in scan)
    levels, position = [[0], [0], [0]], 0
    for block in range(256 * 3):
        size = int(bits[position : position + 4], 2)
        amplitude = int("0" + bits[position + 4 : position + 4 + size], 2)
        if size and bits[position + 4] == "0":
            amplitude -= (1 << size) - 1
        levels[block % 3].append(levels[block % 3][-1] + amplitude)
        position += 4 + size
        assert bits[position] == "0"
        position += 1
    assert set(bits[position:]) <= {"1"}
    assert len(bits) - position < 8
    return [component[1:] for component in levels]


@pytest.mark.parametrize(("scene", "alpha"), [("common/preview", 255), ("common/transparent_half_body", 0)])
def test_a_png_and_a_webp_show_the_same_picture(scene: str, alpha: int) -> None:
    pixels = _png_pixels(make_image("png", scene))
    assert pixels[0][3] == alpha
    assert len(set(pixels)) == 5
    assert _webp_pixels(make_image("webp", scene)) == pixels


def _flip(random: Random) -> bool:
    return random.random() < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_jpeg_shows_any_cells_as_they_are(seed: int) -> None:
    random = Random(seed)
    cells = [[(_flip(random), _flip(random), _flip(random), True) for _ in range(16)] for _ in range(16)]
    jpeg = _images._jpeg(cells)
    flat = [cell for row in cells for cell in row]
    for cell, y, cb, cr in zip(flat, *_jpeg_levels(jpeg), strict=True):
        red, green, blue, _ = _images._values(cell)
        assert abs(y + 128 + 1.402 * cr - red) < 2
        assert abs(y + 128 - 0.344136 * cb - 0.714136 * cr - green) < 2
        assert abs(y + 128 + 1.772 * cb - blue) < 2


_SCENES = (
    "common/preview",
    "common/city_full_body",
    "common/forest_full_body",
    "common/futuristic_fantasy_full_body",
    "common/forest_half_body",
    "common/transparent_half_body",
    "common/transparent_full_body",
)


def test_every_public_scene_looks_different() -> None:
    assert len({make_image("png", scene) for scene in _SCENES}) == len(_SCENES)


@pytest.mark.parametrize("scene", [*_SCENES, "mine/own"])
def test_a_jpeg_of_every_scene_can_be_read(scene: str) -> None:
    assert _jpeg_levels(make_image("jpg", scene))
