"""What Avaturn works on after its answer: avatars, exports and renders; a webhook tells of the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from attrs import define, field

from avaturn_async.testing._glb import make_glb
from avaturn_async.testing._images import CONTENT_TYPES, make_image
from avaturn_async.testing._webhooks import Webhooks
from avaturn_async.testing._world import FakeAvatar, FakeExport, World


@define(kw_only=True)
class Tasks:
    """Carries out the long work. What was deleted meanwhile is dropped without a webhook."""

    world: World
    webhooks: Webhooks
    sleep: Callable[[float], Awaitable[object]]
    delay: float
    """Seconds that each task takes."""
    session_id_everywhere: bool
    """Whether export.ready and render.ready carry a session_id too; the published examples do not."""
    glb: bytes | None = field(repr=False)
    """What exports contain; by default a figure made in code."""
    failures: Counter[str] = field(factory=Counter[str])
    """How many of the next avatars, exports and renders end as failed."""

    async def process_avatar(self, avatar: FakeAvatar, session_id: UUID | None = None) -> None:
        """Make an avatar of photos, if it is not there yet, and send avatar.ready."""
        if avatar.status != "ready":
            await self.make_avatar(avatar)
        await self.announce(avatar, session_id)

    async def make_avatar(self, avatar: FakeAvatar) -> None:
        """Make an avatar of photos; if that goes on already, wait for its end."""
        if avatar.made is not None:
            await avatar.made.wait()
            return
        avatar.made = asyncio.Event()
        avatar.status = "processing"
        try:
            ready = await self._work("avatar")
            avatar.status = "ready" if ready else "failed"
        finally:
            avatar.made.set()
            avatar.made = None

    async def announce(self, avatar: FakeAvatar, session_id: UUID | None) -> None:
        """Send avatar.ready, which says failed too."""
        if self.world.avatars.get(avatar.id) is avatar:
            await self._send("avatar.ready", avatar, session_id, status=avatar.status)

    async def export(self, avatar: FakeAvatar, export: FakeExport) -> None:
        """Make the GLB of an avatar and send export.ready, once for each export."""
        ready = await self._work("export")
        if self.world.exports.get(avatar.id) is not export:
            return
        export.status = "ready" if ready else "failed"
        export.content = self.glb_of(avatar)
        url = self.export_url(avatar, export)
        session_id = self._session_of_result(avatar)
        await self._send("export.ready", avatar, session_id, status=export.status, export_url=url)

    def glb_of(self, avatar: FakeAvatar) -> bytes:
        """What an export of the avatar contains as it is now."""
        return make_glb(str(avatar.id), avatar.customization or {}) if self.glb is None else self.glb

    def export_url(self, avatar: FakeAvatar, export: FakeExport) -> str | None:
        """A fresh temporary URL of an export that is ready."""
        if export.status != "ready":
            return None
        return self.world.publish(avatar, "avatar.glb", export.content, "model/gltf-binary")

    async def render(self, avatar: FakeAvatar, render_id: UUID, scene: str, image_format: str) -> None:
        """Make the picture of an avatar and send render.ready."""
        ready = await self._work("render")
        if self.world.avatars.get(avatar.id) is not avatar:
            return
        url = None
        if ready:
            image = make_image(image_format, scene)
            url = self.world.publish(
                avatar, f"{render_id}.{image_format}", image, CONTENT_TYPES[image_format]
            )
        fields = {"id": str(render_id), "status": "ready" if ready else "failed", "render_url": url}
        await self._send("render.ready", avatar, self._session_of_result(avatar), **fields)

    async def _work(self, kind: str) -> bool:
        """Take the time that it takes; whether it succeeds."""
        await self.sleep(self.delay)
        if self.failures[kind] <= 0:
            return True
        self.failures[kind] -= 1
        return False

    def _session_of_result(self, avatar: FakeAvatar) -> UUID | None:
        """The session that export.ready and render.ready name, if they are to name one."""
        return avatar.session_id if self.session_id_everywhere else None

    async def _send(
        self, name: str, avatar: FakeAvatar, session_id: UUID | None, **fields: str | None
    ) -> None:
        event: dict[str, Any] = {"event": name, "avatar_id": str(avatar.id), "user_id": avatar.user_id}
        if session_id is not None:
            event["session_id"] = str(session_id)
        await self.webhooks.send(event | fields, id=f"msg_{self.world.new_id().hex}")
