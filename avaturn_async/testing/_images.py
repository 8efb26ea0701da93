"""Small pictures of a figure as real JPEG, PNG and WebP files, made in code without an image library.

The figure is drawn in cells of 8 by 8 pixels, and every channel of a pixel is either low or high. That is
what keeps the encoders short: a JPEG block of one colour has nothing but a DC coefficient, and a WebP pixel
is four bits, one for each channel.
"""

from __future__ import annotations

import struct
import zlib

CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""The formats of a render, and what they are called in a Content-Type."""

_CELL = 8
# . background, h hair, s skin, c clothes, d trousers, shoes and eyes
_FIGURE = (
    "................",
    ".....hhhhhh.....",
    "....hhhhhhhh....",
    "....hssssssh....",
    "....hsdssdsh....",
    ".....ssssss.....",
    ".....ssssss.....",
    "......ssss......",
    "...cccccccccc...",
    "..cccccccccccc..",
    "..cc.cccccc.cc..",
    "..ss.cccccc.ss..",
    ".....dddddd.....",
    ".....dd..dd.....",
    ".....dd..dd.....",
    "....ddd..ddd....",
)
_SIDE = len(_FIGURE)
_LOW = (40, 45, 55, 0)
_HIGH = (225, 175, 150, 255)

# Which channels of a pixel are high: red, green, blue, alpha.
_Pixel = tuple[bool, bool, bool, bool]
_COLORS: dict[str, _Pixel] = {
    "h": (True, False, False, True),
    "s": (True, True, True, True),
    "c": (False, False, True, True),
    "d": (False, False, False, True),
}
# By a word in the name of the scene.
_BACKGROUNDS: dict[str, _Pixel] = {
    "transparent": (False, True, True, False),
    "preview": (False, True, True, True),
    "city": (True, True, False, True),
    "forest": (False, True, False, True),
    "": (True, False, True, True),
}


def make_image(format: str, scene: str = "common/preview") -> bytes:  # noqa: A002 - the vendor's name
    """A picture of 128 by 128 pixels in the given format, which shows of which scene it is."""
    background = next(pixel for word, pixel in _BACKGROUNDS.items() if word in scene)
    cells = [[_COLORS.get(cell, background) for cell in row] for row in _FIGURE]
    if "half_body" in scene:
        cells = _closer(cells)
    return {"jpg": _jpeg, "png": _png, "webp": _webp}[format](cells)


def _closer(cells: list[list[_Pixel]]) -> list[list[_Pixel]]:
    """Head and shoulders, twice as large."""
    return [[pixel for pixel in row[4:12] for _ in range(2)] for row in cells[1:9] for _ in range(2)]


def _values(pixel: _Pixel) -> bytes:
    return bytes(high if on else low for on, low, high in zip(pixel, _LOW, _HIGH, strict=True))


def _png(cells: list[list[_Pixel]]) -> bytes:
    """Eight bits for each of red, green, blue and alpha; https://www.w3.org/TR/png-3/."""
    rows = b"".join((b"\0" + b"".join(_values(p) * _CELL for p in row)) * _CELL for row in cells)
    header = struct.pack(">IIBBBBB", _SIDE * _CELL, _SIDE * _CELL, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _webp(cells: list[list[_Pixel]]) -> bytes:
    """Lossless; https://developers.google.com/speed/webp/docs/webp_lossless_bitstream_specification."""
    bits: list[int] = []

    def put(value: int, width: int) -> None:
        bits.extend(value >> i & 1 for i in range(width))

    put(0x2F, 8)
    put(_SIDE * _CELL - 1, 14)
    put(_SIDE * _CELL - 1, 14)
    put(1, 1)  # alpha is used
    put(0, 3)  # version
    put(0, 3)  # no transform, no colour cache, one group of codes for the whole picture
    order = (1, 0, 2, 3)  # green stands before red
    for channel in order:
        put(0b111, 3)  # a simple code, of two symbols, the first of eight bits
        put(_LOW[channel], 8)
        put(_HIGH[channel], 8)
    put(0b0001, 4)  # distances: a simple code of the one symbol 0, never used
    for row in cells:
        line = [int(p[channel]) for p in row for _ in range(_CELL) for channel in order]
        bits.extend(line * _CELL)
    bits += [0] * (-len(bits) % 8)
    data = bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
    chunk = b"VP8L" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _jpeg(cells: list[list[_Pixel]]) -> bytes:
    """Baseline JFIF, one block of 8 by 8 pixels for each cell; https://www.w3.org/Graphics/JPEG/itu-t81.pdf."""
    bits: list[str] = []
    before = [0, 0, 0]
    for pixel in (p for row in cells for p in row):
        red, green, blue, _ = _values(pixel)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        levels = (luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402)
        for component, level in enumerate(map(round, levels)):
            difference = level - before[component]
            before[component] = level
            size = abs(difference).bit_length()
            amplitude = difference if difference >= 0 else difference + (1 << size) - 1
            # The DC code, which is the size in four bits; its amplitude; then "no AC coefficients".
            bits.append(f"{size:04b}" + (f"{amplitude:0{size}b}" if size else "") + "0")
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    # A byte 0xff would have to be escaped, but these few levels never make eight ones in a row.
    scan = int(stream, 2).to_bytes(len(stream) // 8, "big")
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"),
            _segment(0xDB, bytes([0, *[8] * 64])),  # every coefficient in steps of 8
            _segment(
                0xC0,
                struct.pack(">BHHB", 8, _SIDE * _CELL, _SIDE * _CELL, 3)
                + b"".join(bytes([component, 0x11, 0]) for component in (1, 2, 3)),
            ),
            _segment(0xC4, bytes([0x00, 0, 0, 0, 9, *[0] * 12, *range(9)])),  # DC: sizes 0 to 8
            _segment(0xC4, bytes([0x10, 1, *[0] * 15, 0])),  # AC: "end of block" only
            _segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])),
            scan,
            b"\xff\xd9",
        )
    )


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
