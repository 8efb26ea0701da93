"""The state of FakeAvaturn, and the long work after its responses: avatars, exports and renders."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote
from uuid import UUID

from attrs import define, field

from avaturn_async.testing.catalogue import default_customization
from avaturn_async.testing.samples import CONTENT_TYPES, read_sample_image
from avaturn_async.testing.webhooks import Webhooks


@define(kw_only=True)
class FakeExport:
    """An export of one version of an avatar."""

    version: int
    status: str = "pending"


@define(kw_only=True)
class FakeAvatar:
    """An avatar."""

    id: str
    user_id: str
    status: str = "pending"
    """pending (waits for photos), processing, ready or failed."""
    customization: dict[str, Any] | None = None
    """None until it is opened in a session or customized; most calls refuse such an avatar."""
    version: int = 0
    """Increases with every change; an export belongs to one version."""
    export: FakeExport | None = None
    """The newest export."""
    session_id: str | None = None
    """The last session that created or edited it."""
    upload_key: str | None = field(default=None, repr=False)
    """The credential in its upload URL, if it is created by direct upload."""
    processed: asyncio.Event | None = field(default=None, repr=False)
    """While it is processed: is set when it becomes ready or failed."""


@define(kw_only=True)
class FakeSession:
    """A session of a user."""

    id: str
    user_id: str
    type: str
    """Type of its configuration: create_or_edit_existing, create or edit_existing."""
    key: str = field(repr=False)
    """The credential in its URL."""
    avatar_id: str | None
    """The avatar that it edits, or that was created or edited in it; None before."""


@define(kw_only=True)
class TemporaryFile:
    """A file behind a temporary URL."""

    path: str
    """Path in the URL, after /files/."""
    content: bytes = field(repr=False)
    content_type: str
    expires_at: float
    """By the fake's clock."""
    avatar_id: str


@define(kw_only=True)
class FakeState:
    """Users, sessions, avatars and files. Ids are the canonical text of UUIDs in lower case.

    The methods for long work are coroutines. Each ends with a webhook, but a result for a deleted avatar is dropped
    without one.
    """

    rng: random.Random
    clock: Callable[[], float]
    process: Callable[[], Awaitable[object]]
    """Waits while an avatar, an export or a render is made."""
    webhooks: Webhooks
    url_ttl: float
    session_id_everywhere: bool
    """Whether export.ready and render.ready have a session_id too; the published examples do not."""
    glb: bytes = field(repr=False)
    """The content of exports."""
    failures: dict[str, float] = field(factory=lambda: {"avatar": 0.0, "export": 0.0, "render": 0.0})
    """How many of the next avatars, exports and renders end as failed."""
    url: str = ""
    users: set[str] = field(factory=set[str])
    sessions: dict[str, FakeSession] = field(factory=dict[str, FakeSession])
    avatars: dict[str, FakeAvatar] = field(factory=dict[str, FakeAvatar])
    files: dict[str, TemporaryFile] = field(factory=dict[str, TemporaryFile])

    def new_id(self) -> str:
        """Return a random id."""
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    def new_key(self) -> str:
        """Return a credential for a URL."""
        return self.rng.randbytes(24).hex()

    def new_avatar(self, user_id: str) -> FakeAvatar:
        """Create an avatar without photos."""
        avatar = FakeAvatar(id=self.new_id(), user_id=user_id)
        self.avatars[avatar.id] = avatar
        return avatar

    def get_avatars(self, user_id: str) -> list[FakeAvatar]:
        """Return the avatars of a user, oldest first."""
        return [a for a in self.avatars.values() if a.user_id == user_id]

    def delete_avatar(self, avatar: FakeAvatar) -> None:
        """Delete an avatar with its temporary files."""
        del self.avatars[avatar.id]
        self.files = {key: f for key, f in self.files.items() if f.avatar_id != avatar.id}

    def customize(self, avatar: FakeAvatar, customization: dict[str, Any]) -> None:
        """Replace the customization of an avatar; its export becomes outdated."""
        avatar.customization = customization
        avatar.version += 1

    def enter(self, session: FakeSession) -> FakeAvatar:
        """Return the avatar that a session edits, or the new one that it creates.

        Raises:
            LookupError: The avatar of the session was deleted.
        """
        if session.avatar_id is not None:
            if session.avatar_id not in self.avatars:
                raise LookupError(f"avatar {session.avatar_id} was deleted")
            avatar = self.avatars[session.avatar_id]
        else:
            avatars = self.get_avatars(session.user_id) if session.type == "create_or_edit_existing" else []
            usable = [avatar for avatar in avatars if avatar.status in {"processing", "ready"}]
            avatar = usable[-1] if usable else self.new_avatar(session.user_id)
        self.attach(avatar, session)
        avatar.version += 1
        if avatar.customization is None:
            avatar.customization = default_customization()
        return avatar

    def attach(self, avatar: FakeAvatar, session: FakeSession) -> None:
        """Record that an avatar was created or edited in a session."""
        avatar.session_id, session.avatar_id = session.id, avatar.id

    def publish(self, avatar: FakeAvatar, name: str, content: bytes, content_type: str) -> str:
        """Return a temporary URL for a file of an avatar."""
        key = self.new_key()
        path = f"{avatar.id}/{name}"
        self.files[key] = TemporaryFile(
            path=path,
            content=content,
            content_type=content_type,
            expires_at=self.clock() + self.url_ttl,
            avatar_id=avatar.id,
        )
        return f"{self.url}/files/{quote(path)}?signature={key}"

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
        if self.avatars.get(avatar.id) is avatar:
            await self._send("avatar.ready", avatar, session_id, status=avatar.status)

    async def make_export(self, avatar: FakeAvatar, export: FakeExport) -> None:
        """Make the GLB of an avatar and send export.ready, once for each export."""
        ready = await self._work("export")
        if self.avatars.get(avatar.id) is not avatar or avatar.export is not export:
            return
        export.status = "ready" if ready else "failed"
        url = self.export_url(avatar, export)
        session_id = avatar.session_id if self.session_id_everywhere else None
        await self._send("export.ready", avatar, session_id, status=export.status, export_url=url)

    def export_url(self, avatar: FakeAvatar, export: FakeExport) -> str | None:
        """Return a new temporary URL of an export; None if it is not ready."""
        if export.status != "ready":
            return None
        return self.publish(avatar, "avatar.glb", self.glb, "model/gltf-binary")

    async def make_render(self, avatar: FakeAvatar, render_id: str, image_format: str) -> None:
        """Make an image of an avatar and send render.ready."""
        ready = await self._work("render")
        if self.avatars.get(avatar.id) is not avatar:
            return
        url = None
        if ready:
            image = read_sample_image(image_format)
            url = self.publish(avatar, f"{render_id}.{image_format}", image, CONTENT_TYPES[image_format])
        fields = {"id": render_id, "status": "ready" if ready else "failed", "render_url": url}
        session_id = avatar.session_id if self.session_id_everywhere else None
        await self._send("render.ready", avatar, session_id, **fields)

    async def _work(self, kind: str) -> bool:
        """Wait until the result is made; return whether that succeeds."""
        await self.process()
        if self.failures[kind] <= 0:
            return True
        self.failures[kind] -= 1
        return False

    async def _send(self, name: str, avatar: FakeAvatar, session_id: str | None, **fields: str | None) -> None:
        event: dict[str, Any] = {"event": name, "avatar_id": avatar.id, "user_id": avatar.user_id}
        if session_id is not None:
            event["session_id"] = session_id
        await self.webhooks.send(event | fields, id=f"msg_{self.new_id().replace('-', '')}")
