"""A figure of boxes as a real glTF 2.0 binary, made in code: what the exports of FakeAvaturn contain.

Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html#glb-file-format-specification
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import product
from typing import Any

_Vector = tuple[float, float, float]

_SKIN, _CLOTHES, _SHOES = range(3)
_COLORS = ((0.87, 0.67, 0.53), (0.20, 0.38, 0.68), (0.15, 0.15, 0.17))
# (material, centre, size) in metres: about as tall as a person, standing on the ground, looking along +Z.
_BOXES: tuple[tuple[int, _Vector, _Vector], ...] = (
    (_SKIN, (0.0, 1.62, 0.0), (0.20, 0.26, 0.22)),
    (_SKIN, (0.0, 1.46, 0.0), (0.10, 0.08, 0.10)),
    (_CLOTHES, (0.0, 1.14, 0.0), (0.42, 0.58, 0.24)),
    (_CLOTHES, (-0.28, 1.26, 0.0), (0.14, 0.34, 0.16)),
    (_CLOTHES, (0.28, 1.26, 0.0), (0.14, 0.34, 0.16)),
    (_SKIN, (-0.28, 0.94, 0.0), (0.11, 0.32, 0.12)),
    (_SKIN, (0.28, 0.94, 0.0), (0.11, 0.32, 0.12)),
    (_CLOTHES, (-0.11, 0.48, 0.0), (0.18, 0.78, 0.20)),
    (_CLOTHES, (0.11, 0.48, 0.0), (0.18, 0.78, 0.20)),
    (_SHOES, (-0.11, 0.05, 0.04), (0.17, 0.10, 0.30)),
    (_SHOES, (0.11, 0.05, 0.04), (0.17, 0.10, 0.30)),
)
_FLOAT, _UNSIGNED_SHORT = 5126, 5123
_VERTICES, _INDICES = 34962, 34963


def make_glb(avatar_id: str, customization: dict[str, Any]) -> bytes:
    """A GLB that says in its ``asset.extras`` whose it is, so that two exports can be told apart."""
    binary = bytearray()
    gltf: dict[str, Any] = {
        "asset": {
            "version": "2.0",
            "generator": "FakeAvaturn",
            "extras": {"avatar_id": avatar_id, "customization": customization},
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "avatar", "mesh": 0}],
        "meshes": [{"name": "avatar", "primitives": []}],
        "materials": [
            {
                "name": name,
                "pbrMetallicRoughness": {"baseColorFactor": [*color, 1.0], "metallicFactor": 0.0},
            }
            for name, color in zip(("skin", "clothes", "shoes"), _COLORS, strict=True)
        ],
        "accessors": [],
        "bufferViews": [],
    }
    for material in (_SKIN, _CLOTHES, _SHOES):
        _add_primitive(gltf, binary, material)
    gltf["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(gltf, separators=(",", ":")).encode()
    return _pack(text, bytes(binary))


def _pack(text: bytes, binary: bytes) -> bytes:
    """Header, JSON chunk (padded with spaces) and BIN chunk (padded with zeros), all little-endian."""
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    length = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        (
            struct.pack("<4sII", b"glTF", 2, length),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        )
    )


def _add_primitive(gltf: dict[str, Any], binary: bytearray, material: int) -> None:
    """All boxes of one material, with positions, normals and indices."""
    positions: list[_Vector] = []
    normals: list[_Vector] = []
    indices: list[int] = []
    for made_of, centre, size in _BOXES:
        if made_of == material:
            for normal, corners in _sides(centre, size):
                first = len(positions)
                positions += corners
                normals += [normal] * 4
                indices += [first + i for i in (0, 1, 2, 0, 2, 3)]
    bounds = {
        "min": [min(p[axis] for p in positions) for axis in range(3)],
        "max": [max(p[axis] for p in positions) for axis in range(3)],
    }
    gltf["meshes"][0]["primitives"].append(
        {
            "attributes": {
                "POSITION": _add_accessor(gltf, binary, _floats(positions), "VEC3", len(positions), bounds),
                "NORMAL": _add_accessor(gltf, binary, _floats(normals), "VEC3", len(normals), {}),
            },
            "indices": _add_accessor(gltf, binary, _shorts(indices), "SCALAR", len(indices), {}),
            "material": material,
        }
    )


def _sides(centre: _Vector, size: _Vector) -> Iterator[tuple[_Vector, list[_Vector]]]:
    """The six sides of a box: an outward normal, and four corners counter-clockwise seen from outside."""
    for axis, sign in product(range(3), (1.0, -1.0)):
        normal = [0.0, 0.0, 0.0]
        normal[axis] = sign
        around = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
        corners: list[_Vector] = []
        for a, b in around if sign > 0 else around[::-1]:
            corner = list(centre)
            corner[axis] += sign * size[axis] / 2
            corner[(axis + 1) % 3] += a * size[(axis + 1) % 3] / 2
            corner[(axis + 2) % 3] += b * size[(axis + 2) % 3] / 2
            corners.append((_single(corner[0]), _single(corner[1]), _single(corner[2])))
        yield (normal[0], normal[1], normal[2]), corners


def _single(value: float) -> float:
    """The value as it will stand in the file, so that min and max are exactly those of the data."""
    single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return single


def _floats(vectors: list[_Vector]) -> bytes:
    return b"".join(struct.pack("<3f", *v) for v in vectors)


def _shorts(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


def _add_accessor(
    gltf: dict[str, Any], binary: bytearray, data: bytes, kind: str, count: int, bounds: dict[str, Any]
) -> int:
    """Append data to the buffer; the number of its accessor.

    Everything is a multiple of four bytes long (a box has 36 indices of two), so that all of it is aligned.
    """
    target, component = (_INDICES, _UNSIGNED_SHORT) if kind == "SCALAR" else (_VERTICES, _FLOAT)
    view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(data), "target": target}
    gltf["bufferViews"].append(view)
    binary += data
    accessor = {"bufferView": len(gltf["bufferViews"]) - 1, "componentType": component, "count": count}
    gltf["accessors"].append({**accessor, "type": kind, **bounds})
    return len(gltf["accessors"]) - 1
