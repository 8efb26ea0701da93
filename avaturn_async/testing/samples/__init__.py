"""Sample files of FakeAvaturn, also for tests of your own: a GLB, and an image in each format."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONTENT_TYPES", "read_sample_glb", "read_sample_image"]

_FOLDER = Path(__file__).parent
CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Content-Type of each image format."""


def read_sample_glb() -> bytes:
    """Return a small valid GLB: a figure in three colors."""
    return (_FOLDER / "avatar.glb").read_bytes()


def read_sample_image(image_format: str) -> bytes:
    """Return a small valid image in a format: ``jpg``, ``png`` or ``webp``."""
    return (_FOLDER / f"render.{image_format}").read_bytes()
