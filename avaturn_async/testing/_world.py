"""What FakeAvaturn knows: users, sessions, avatars, renders, exports and temporary files."""

from __future__ import annotations

import asyncio
import random
from base64 import b32encode
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from attrs import define, field

from avaturn_async.testing._catalogue import default_customization


@define(kw_only=True)
class FakeAvatar:
    """An avatar."""

    id: UUID
    user_id: str
    status: str = "pending"
    """pending (waits for photos), processing, ready or failed."""
    customization: dict[str, Any] | None = None
    """None until it was opened in a session or customized: then much about it is undefined."""
    version: int = 0
    """Rises with every change, and an export is of one version."""
    session_id: UUID | None = None
    """The last session that made or edited it."""
    upload_key: str | None = field(default=None, repr=False)
    """The credential in its upload URL, if it is made by direct upload."""
    photos: Mapping[str, Any] | None = field(default=None, repr=False)
    """The form that was uploaded."""
    made: asyncio.Event | None = field(default=None, repr=False)
    """Set when it is made, or failed, if that goes on just now."""


@define(kw_only=True)
class FakeSession:
    """A session that was opened for a user."""

    id: UUID
    user_id: str
    config: dict[str, Any]
    key: str = field(repr=False)
    """The credential in its URL."""
    avatar_id: UUID | None = None
    """The avatar that was made or edited in it, once there is one."""


@define(kw_only=True)
class FakeExport:
    """An export of one version of an avatar."""

    version: int
    status: str = "pending"
    content: bytes = field(default=b"", repr=False)


@define(kw_only=True)
class TemporaryFile:
    """A file behind a temporary URL."""

    path: str
    content: bytes = field(repr=False)
    content_type: str
    expires_at: float
    """By the fake's clock."""
    avatar_id: UUID


@define(kw_only=True)
class World:
    """The state of one FakeAvaturn."""

    rng: random.Random
    clock: Callable[[], float]
    url_ttl: float
    url: str = ""
    users: set[str] = field(factory=set[str])
    sessions: dict[UUID, FakeSession] = field(factory=dict[UUID, FakeSession])
    avatars: dict[UUID, FakeAvatar] = field(factory=dict[UUID, FakeAvatar])
    exports: dict[UUID, FakeExport] = field(factory=dict[UUID, FakeExport])
    files: dict[str, TemporaryFile] = field(factory=dict[str, TemporaryFile])

    def new_id(self) -> UUID:
        """A random UUID."""
        return UUID(int=self.rng.getrandbits(128), version=4)

    def new_key(self) -> str:
        """A credential for a URL."""
        return self.rng.randbytes(24).hex()

    def new_user(self) -> str:
        """The id of a new user: 32 characters of base32, as Avaturn's."""
        user_id = b32encode(self.rng.randbytes(20)).decode()
        self.users.add(user_id)
        return user_id

    def delete_user(self, user_id: str) -> None:
        """Forget a user with everything that is theirs."""
        self.users.remove(user_id)
        for avatar in self.avatars_of(user_id):
            self.delete_avatar(avatar)
        self.sessions = {s.id: s for s in self.sessions.values() if s.user_id != user_id}

    def new_session(self, user_id: str, config: dict[str, Any]) -> FakeSession:
        """Open a session."""
        session = FakeSession(id=self.new_id(), user_id=user_id, config=config, key=self.new_key())
        self.sessions[session.id] = session
        return session

    def find_session(self, text: str) -> FakeSession | None:
        """The session with this id, if the text is one."""
        return next((s for s in self.sessions.values() if str(s.id) == text.lower()), None)

    def session_url(self, session: FakeSession) -> str:
        """The page of a session, with its credential."""
        return f"{self.url}/session/{session.id}?token={session.key}"

    def new_avatar(self, user_id: str) -> FakeAvatar:
        """Make an avatar that has no photos yet."""
        avatar = FakeAvatar(id=self.new_id(), user_id=user_id)
        self.avatars[avatar.id] = avatar
        return avatar

    def find_avatar(self, text: str) -> FakeAvatar | None:
        """The avatar with this id, if the text is one."""
        return next((a for a in self.avatars.values() if str(a.id) == text.lower()), None)

    def avatars_of(self, user_id: str) -> list[FakeAvatar]:
        """The avatars of a user, oldest first."""
        return [a for a in self.avatars.values() if a.user_id == user_id]

    def delete_avatar(self, avatar: FakeAvatar) -> None:
        """Forget an avatar with its exports, renders and their URLs."""
        del self.avatars[avatar.id]
        self.exports.pop(avatar.id, None)
        self.files = {key: f for key, f in self.files.items() if f.avatar_id != avatar.id}

    def customize(self, avatar: FakeAvatar, customization: dict[str, Any]) -> None:
        """Replace the customization of an avatar; exports of what it was are out of date."""
        avatar.customization = customization
        avatar.version += 1

    def enter(self, session: FakeSession) -> FakeAvatar:
        """The avatar of a session: the one that it edits, or a new one.

        Raises:
            LookupError: The avatar that it is about was deleted.
        """
        avatar = self._avatar_to_edit(session) or self.new_avatar(session.user_id)
        self.attach(avatar, session)
        avatar.version += 1
        if avatar.customization is None:
            avatar.customization = default_customization()
        return avatar

    def _avatar_to_edit(self, session: FakeSession) -> FakeAvatar | None:
        """The avatar that a session is about; None when it is to make a new one.

        Raises:
            LookupError: The avatar that it is about was deleted.
        """
        kind = session.config["type"]
        about = UUID(session.config["avatar_id"]) if kind == "edit_existing" else session.avatar_id
        if about is not None:
            if about not in self.avatars:
                raise LookupError(f"avatar {about} was deleted")
            return self.avatars[about]
        usable = [a for a in self.avatars_of(session.user_id) if a.status in {"processing", "ready"}]
        return usable[-1] if usable and kind == "create_or_edit_existing" else None

    def attach(self, avatar: FakeAvatar, session: FakeSession) -> None:
        """Remember that the avatar was made or edited in the session."""
        avatar.session_id, session.avatar_id = session.id, avatar.id

    def publish(self, avatar: FakeAvatar, name: str, content: bytes, content_type: str) -> str:
        """A temporary URL for a file that belongs to an avatar."""
        key = self.new_key()
        path = f"/files/{avatar.id}/{name}"
        self.files[key] = TemporaryFile(
            path=path,
            content=content,
            content_type=content_type,
            expires_at=self.clock() + self.url_ttl,
            avatar_id=avatar.id,
        )
        return f"{self.url}{quote(path)}?signature={key}"
