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
    """Carries files over connections of its own, which know neither the token nor a caller's session.

    Args:
        options: Those of ``Transfers``, which is made when the first file is carried.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
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
        """Send the photos of a new avatar to the ``upload_url`` that came with it.

        They are streamed, and sent once: again only when there was no connection at all.

        Args:
            upload_url: The URL; a credential by itself, so no token goes there.
            frontal: The face from the front: a path, the bytes of an image file, or such a file, open for
                binary reading and seekable. A file is read from its position on, and put back there.
            side_1: The face from one side.
            side_2: The face from the other side.
            body_type: ``male`` or ``female``.
            telephoto: Whether the photos were taken with a telephoto lens.
            on_progress: Called with the bytes sent and the bytes in all; what it raises ends the upload.
            timeout: Seconds of silence, in either direction, until it fails; by default the client's timeout.

        Raises:
            ValueError: A photo is none, or another argument makes no sense; nothing was sent.
            TransferError: The address is refused, or the server said no (``status``).
            AvaturnConnectionError: No usable answer; AvaturnTimeoutError after silence. The photos may have
                arrived.
            AvaturnDecodeError: The answer is no JSON.
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
        """Fetch the file behind a result URL.

        It is streamed into a temporary file beside its destination, which is renamed when it is whole and on
        the disk. After a cut it is resumed, or begun again, within the retry policy.

        Args:
            url: The URL; no token goes there.
            destination: The file to make or replace, or a directory, where it gets a safe name from the URL.
            on_progress: Called with the bytes that are here and those in all, None while nobody knows; what
                it raises ends the download. A download that is begun again counts from 0 again.
            max_bytes: The largest size that is taken.
            timeout: Seconds of silence until an attempt fails; by default the client's timeout.

        Returns:
            The file.

        Raises:
            ValueError: An argument makes no sense; nothing was sent.
            TransferError: The file did not get across: a refused address, an expired URL or another status
                (``status``), a cut, too large, or no GLB or image though it was announced as one.
            AvaturnConnectionError: No usable answer; AvaturnTimeoutError after silence.
            OSError: The file could not be written.
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

            self._transfers = Transfers(**self._options)
        return self._transfers

    async def _close_files(self) -> None:
        self._files_closed = True
        if self._transfers is not None:
            await self._transfers.close()
