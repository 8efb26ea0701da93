"""The long work of Avaturn after its response: avatars, exports and renders. A webhook reports the end of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define, field

from avaturn_async.testing.samples import CONTENT_TYPES, read_sample_image
from avaturn_async.testing.state import FakeAvatar, FakeExport, FakeState
from avaturn_async.testing.webhooks import Webhooks


@define(kw_only=True)
class Jobs:
    """Carries out the long work. A result for a deleted avatar is dropped without a webhook."""

    state: FakeState
    webhooks: Webhooks
    sleep: Callable[[float], Awaitable[object]]
    delay: float
    """Seconds that each job takes."""
    session_id_everywhere: bool
    """Whether export.ready and render.ready have a session_id too; the published examples do not."""
    glb: bytes = field(repr=False)
    """The content of exports."""
    failures: Counter[str] = field(factory=Counter[str])
    """How many of the next avatars, exports and renders end as failed."""

    async def process_avatar(self, avatar: FakeAvatar, session_id: str | None = None) -> None:
        """Make an avatar unless it is ready, and send avatar.ready."""
        if avatar.status != "ready":
            await self.make_avatar(avatar)
        await self.announce(avatar, session_id)

    async def make_avatar(self, avatar: FakeAvatar) -> None:
        """Make an avatar; if another job is making it, wait for that job."""
        if avatar.processed is not None:
            await avatar.processed.wait()
            return
        avatar.processed = asyncio.Event()
        avatar.status = "processing"
        try:
            ready = await self._work("avatar")
            avatar.status = "ready" if ready else "failed"
        finally:
            avatar.processed.set()
            avatar.processed = None

    async def announce(self, avatar: FakeAvatar, session_id: str | None) -> None:
        """Send avatar.ready with the status of the avatar, ready or failed."""
        if self.state.avatars.get(avatar.id) is avatar:
            await self._send("avatar.ready", avatar, session_id, status=avatar.status)

    async def export(self, avatar: FakeAvatar, export: FakeExport) -> None:
        """Make the GLB of an avatar and send export.ready, once for each export."""
        ready = await self._work("export")
        if self.state.exports.get(avatar.id) is not export:
            return
        export.status = "ready" if ready else "failed"
        url = self.export_url(avatar, export)
        session_id = avatar.session_id if self.session_id_everywhere else None
        await self._send("export.ready", avatar, session_id, status=export.status, export_url=url)

    def export_url(self, avatar: FakeAvatar, export: FakeExport) -> str | None:
        """Return a new temporary URL of an export; None if it is not ready."""
        if export.status != "ready":
            return None
        return self.state.publish(avatar, "avatar.glb", self.glb, "model/gltf-binary")

    async def render(self, avatar: FakeAvatar, render_id: str, image_format: str) -> None:
        """Make an image of an avatar and send render.ready."""
        ready = await self._work("render")
        if self.state.avatars.get(avatar.id) is not avatar:
            return
        url = None
        if ready:
            image = read_sample_image(image_format)
            url = self.state.publish(avatar, f"{render_id}.{image_format}", image, CONTENT_TYPES[image_format])
        fields = {"id": render_id, "status": "ready" if ready else "failed", "render_url": url}
        session_id = avatar.session_id if self.session_id_everywhere else None
        await self._send("render.ready", avatar, session_id, **fields)

    async def _work(self, kind: str) -> bool:
        """Wait for the delay; return whether the job succeeds."""
        await self.sleep(self.delay)
        if self.failures[kind] <= 0:
            return True
        self.failures[kind] -= 1
        return False

    async def _send(self, name: str, avatar: FakeAvatar, session_id: str | None, **fields: str | None) -> None:
        event: dict[str, Any] = {"event": name, "avatar_id": avatar.id, "user_id": avatar.user_id}
        if session_id is not None:
            event["session_id"] = session_id
        await self.webhooks.send(event | fields, id=f"msg_{self.state.new_id().replace('-', '')}")
