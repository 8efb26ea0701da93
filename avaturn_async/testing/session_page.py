"""The page of a session URL, for a person or for the vendor's web SDK.

The page itself is in the folder ``page``. This file answers its requests: photos, opening an avatar, and Next.
"""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, define

from avaturn_async.testing import validators
from avaturn_async.testing.api import CUSTOMIZATION, check_assets, check_form
from avaturn_async.testing.catalogue import ASSETS, BODIES, default_customization
from avaturn_async.testing.messages import HTTPError, RecordedRequest, Reply, as_json
from avaturn_async.testing.state import FakeAvatar, FakeSession, FakeState

if TYPE_CHECKING:
    from avaturn_async.testing.server import FakeAvaturn

_FOLDER = Path(__file__).parent / "page"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_EDIT = validators.fields({"avatar_id": validators.uuid}, {})
_FINISH = validators.fields({"avatar_id": validators.uuid, "customization": CUSTOMIZATION}, {})


@define(kw_only=True)
class Page:
    """Answers a session URL and the requests of its page."""

    state: FakeState
    fake: FakeAvaturn
    """Its ``export_url_type`` and ``face_animations`` are those of the exported avatar."""

    def show(self, request: RecordedRequest, session_id: str) -> Reply:
        """GET /session/{session_id}."""
        self._get_session(request, session_id)
        return self.part(request, "index.html")

    def part(self, _: RecordedRequest, name: str) -> Reply:
        """GET /page/{name}: a file of the page."""
        if name not in {path.name for path in _FOLDER.iterdir()}:
            raise HTTPError(404, "Not Found")
        kind = _TYPES[name.rpartition(".")[2]]
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-store"}
        return Reply(body=(_FOLDER / name).read_bytes(), headers=headers)

    def describe(self, request: RecordedRequest, session_id: str) -> Reply:
        """GET /session/{session_id}/state: the rules of the session's type, its avatars and the catalogue."""
        session = self._get_session(request, session_id)
        avatars = [a for a in self._get_avatars(session) if a.status in {"processing", "ready"}]
        return as_json(
            {
                "type": session.type,
                "can_create": session.type != "edit_existing",
                "avatars": [_describe(avatar) for avatar in avatars],
                "assets": [{"id": str(a.id), "alias": a.alias, "slot": a.slot} for a in ASSETS if not a.gone],
                "bodies": [asdict(body) for body in BODIES],
            }
        )

    def photos(self, request: RecordedRequest, session_id: str) -> Reply:
        """POST /session/{session_id}/photos: create an avatar from the same form as an upload URL."""
        session = self._get_session(request, session_id)
        if session.type == "edit_existing":
            raise HTTPError(409, "This session edits an existing avatar")
        form = check_form(request)
        avatar = self.state.new_avatar(session.user_id)
        avatar.status = "processing"
        body = next(body.id for body in BODIES if body.gender == form["body-type"])
        avatar.customization = default_customization() | {"body": body}
        self.state.attach(avatar, session)
        job = partial(self._make, avatar, session)
        return as_json({"avatar_id": avatar.id}, then=job)

    def edit(self, request: RecordedRequest, session_id: str) -> Reply:
        """POST /session/{session_id}/edit: return the status and the customization of an avatar."""
        body = validators.check_body(request, _EDIT)
        avatar = self._get_avatar(self._get_session(request, session_id), body["avatar_id"])
        if avatar.customization is None:
            avatar.customization = default_customization()
        return as_json(_describe(avatar) | {"untouched": avatar.version == 0})

    def finish(self, request: RecordedRequest, session_id: str) -> Reply:
        """POST /session/{session_id}/finish, the button Next: customize the avatar, export it, send avatar.ready."""
        body = validators.check_body(request, _FINISH)
        session = self._get_session(request, session_id)
        avatar = self._get_avatar(session, body["avatar_id"])
        if avatar.status != "ready":
            raise HTTPError(409, f"Avatar is {avatar.status}")
        customization = body["customization"]
        check_assets(customization)
        self.state.customize(avatar, customization)
        self.state.attach(avatar, session)
        body_id = customization.get("body", BODIES[0].id)
        if self.fake.export_url_type == "dataURL":
            url = "data:model/gltf-binary;base64," + b64encode(self.state.glb).decode()
        else:
            url = self.state.publish(avatar, "avatar.glb", self.state.glb, "model/gltf-binary")
        result = {
            "url": url,
            "urlType": self.fake.export_url_type,
            "avatarId": avatar.id,
            "sessionId": session.id,
            "bodyId": body_id,
            "gender": next((b.gender for b in BODIES if b.id == body_id), BODIES[0].gender),
            "avatarSupportsFaceAnimations": self.fake.face_animations,
        }
        return as_json(result, then=partial(self.state.announce, avatar, session.id))

    async def _make(self, avatar: FakeAvatar, session: FakeSession) -> None:
        """Make an avatar of photos. A ready one is announced by Next, a failed one at once."""
        await self.state.make_avatar(avatar)
        if avatar.status == "failed":
            await self.state.announce(avatar, session.id)

    def _get_session(self, request: RecordedRequest, session_id: str) -> FakeSession:
        session = self.state.sessions.get(session_id.lower())
        if session is None or request.query.get("token") != session.key:
            raise HTTPError(403, "The session URL is not valid")
        return session

    def _get_avatars(self, session: FakeSession) -> list[FakeAvatar]:
        """Return the avatars that a session can edit."""
        avatars = self.state.get_avatars(session.user_id)
        if session.type == "create_or_edit_existing":
            return avatars
        return [avatar for avatar in avatars if avatar.id == session.avatar_id]

    def _get_avatar(self, session: FakeSession, avatar_id: str) -> FakeAvatar:
        for avatar in self._get_avatars(session):
            if avatar.id == avatar_id.lower():
                return avatar
        raise HTTPError(404, "Avatar not found in this session")


def _describe(avatar: FakeAvatar) -> dict[str, Any]:
    customization = avatar.customization or default_customization()
    return {"id": avatar.id, "status": avatar.status, "customization": customization}
