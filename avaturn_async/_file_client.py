"""The half of AvaturnClient that carries files: photos up, results down."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avaturn_async.errors import ClientClosedError

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from avaturn_async._transfer import Photo, Transfers
    from avaturn_async.models import BodyType


class FileClient:
    """Carries files over connections of its own, which know neither the token nor a caller's session."""

    def __init__(self, **options: Any) -> None:
        self._transfer_options = options
        self._transfers: Transfers | None = None
        self._files_closed = False

    async def upload_photos(
        self,
        upload_url: str,
        *,
        frontal: Photo,
        side_1: Photo,
        side_2: Photo,
        body_type: BodyType | str,
        telephoto: bool = False,
        on_progress: Callable[[int, int], Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send the photos of a new avatar: see :meth:`Transfers.upload_photos`.

        They are streamed, without the token, and sent once. A photo is a path, the bytes of an image file, or
        such a file, open for binary reading. ``timeout`` is the longest silence, in seconds.

        Raises:
            ValueError: A photo is none, or another argument makes no sense; nothing was sent.
            TransferError: The address is refused, or the server said no.
        """
        await self._files().upload_photos(
            upload_url,
            frontal=frontal,
            side_1=side_1,
            side_2=side_2,
            body_type=body_type,
            telephoto=telephoto,
            on_progress=on_progress,
            timeout=timeout,
        )

    async def download(
        self,
        url: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Callable[[int, int | None], Any] | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Fetch the file behind a result URL to a file or into a directory: see :meth:`Transfers.download`.

        It is streamed, without the token, and appears under its name when it is whole. ``timeout`` is the
        longest silence, in seconds.

        Raises:
            ValueError: An argument makes no sense; nothing was sent.
            TransferError: A refused address, an expired URL, a cut, too large, or not what it should be.
        """
        return await self._files().download(
            url, destination, on_progress=on_progress, max_bytes=max_bytes, timeout=timeout
        )

    def _files(self) -> Transfers:
        if self._files_closed:
            raise ClientClosedError("this AvaturnClient is closed: make a new one")
        if self._transfers is None:
            # Many a backend never carries a file.
            from avaturn_async._transfer import Transfers  # noqa: PLC0415

            self._transfers = Transfers(**self._transfer_options)
        return self._transfers

    async def _close_files(self) -> None:
        self._files_closed = True
        if self._transfers is not None:
            await self._transfers.close()
