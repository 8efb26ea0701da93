"""The page behind a session URL: what a person clicks through, or the vendor's web SDK drives.

The page itself is in the folder ``page``. What happens between the photos and Next is its own affair; here
is what reaches the state: photos that were taken, an avatar that was opened, and the end.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from avaturn_async.testing import _checks as checks
from avaturn_async.testing._api import CUSTOMIZATION, check_assets
from avaturn_async.testing._catalogue import ASSETS, BODIES, default_customization
from avaturn_async.testing._files import check_form
from avaturn_async.testing._requests import RecordedRequest, Refused, Reply, as_json
from avaturn_async.testing._tasks import Tasks
from avaturn_async.testing._world import FakeAvatar, FakeSession, World

_FOLDER = Path(__file__).parent / "page"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_EDIT = checks.fields(required={"avatar_id": checks.uuid}, optional={})
_FINISH = checks.fields(required={"avatar_id": checks.uuid, "customization": CUSTOMIZATION}, optional={})


@frozen(kw_only=True)
class Page:
    """Answers a session URL and what its page asks for."""

    world: World
    tasks: Tasks

    def show(self, request: RecordedRequest, session_id: str) -> Reply:
        """GET of a session URL."""
        self._session(request, session_id)
        return self.part(request, "index.html")

    def part(self, _: RecordedRequest, name: str) -> Reply:
        """GET of something that the page is made of."""
        if name not in {path.name for path in _FOLDER.iterdir()}:
            raise Refused(404, "Not Found")
        kind = _TYPES[name.rpartition(".")[2]]
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Cache-Control": "no-store"}
        return Reply(body=(_FOLDER / name).read_bytes(), headers=headers)

    def state(self, request: RecordedRequest, session_id: str) -> Reply:
        """What the page starts with: the rules of the session's type, and the catalogue."""
        session = self._session(request, session_id)
        avatars = [a for a in self._avatars(session) if a.status in {"processing", "ready"}]
        return as_json(
            {
                "type": session.config["type"],
                "can_create": session.config["type"] != "edit_existing",
                "avatars": [_shown(avatar) for avatar in avatars],
                "assets": [{"id": str(a.id), "alias": a.alias, "slot": a.slot} for a in ASSETS if not a.gone],
                "bodies": [asdict(body) for body in BODIES],
            }
        )

    def photos(self, request: RecordedRequest, session_id: str) -> Reply:
        """The photos of a new avatar, in the form that an upload URL takes too."""
        session = self._session(request, session_id)
        if session.config["type"] == "edit_existing":
            raise Refused(409, "This session is for one avatar that there is")
        form = check_form(request)
        avatar = self.world.new_avatar(session.user_id)
        avatar.photos, avatar.status = form, "processing"
        body = next(body.id for body in BODIES if body.gender == form["body-type"])
        avatar.customization = default_customization() | {"body": body}
        self.world.attach(avatar, session)
        job = partial(self._make, avatar, session)
        return as_json({"avatar_id": str(avatar.id)}, then=job)

    def edit(self, request: RecordedRequest, session_id: str) -> Reply:
        """Open an avatar in the editor; how far it is, and what it looks like."""
        body = checks.check_body(request, _EDIT)
        avatar = self._avatar(self._session(request, session_id), body["avatar_id"])
        if avatar.customization is None:
            avatar.customization = default_customization()
        return as_json(_shown(avatar) | {"untouched": avatar.version == 0})

    def finish(self, request: RecordedRequest, session_id: str) -> Reply:
        """Next: keep what was chosen, hand out the export, and send avatar.ready."""
        body = checks.check_body(request, _FINISH)
        session = self._session(request, session_id)
        avatar = self._avatar(session, body["avatar_id"])
        if avatar.status != "ready":
            raise Refused(409, f"Avatar is {avatar.status}")
        customization = body["customization"]
        check_assets(customization)
        self.world.customize(avatar, customization)
        self.world.attach(avatar, session)
        body_id = customization.get("body", BODIES[0].id)
        result = {
            "url": self.world.publish(avatar, "avatar.glb", self.tasks.glb_of(avatar), "model/gltf-binary"),
            "urlType": "httpURL",
            "avatarId": str(avatar.id),
            "sessionId": str(session.id),
            "bodyId": body_id,
            "gender": next((b.gender for b in BODIES if b.id == body_id), BODIES[0].gender),
            "avatarSupportsFaceAnimations": False,
        }
        return as_json(result, then=partial(self.tasks.announce, avatar, session.id))

    async def _make(self, avatar: FakeAvatar, session: FakeSession) -> None:
        """Make an avatar of photos. Next is what announces it, unless it never comes to that."""
        await self.tasks.make_avatar(avatar)
        if avatar.status == "failed":
            await self.tasks.announce(avatar, session.id)

    def _session(self, request: RecordedRequest, session_id: str) -> FakeSession:
        session = self.world.find_session(session_id)
        if session is None or request.query.get("token") != session.key:
            raise Refused(403, "The session URL is not valid")
        return session

    def _avatars(self, session: FakeSession) -> list[FakeAvatar]:
        """The avatars that a session may open: its own, those of the user, or just the one."""
        avatars = self.world.avatars_of(session.user_id)
        kind = session.config["type"]
        if kind == "create_or_edit_existing":
            return avatars
        one = str(session.avatar_id) if kind == "create" else session.config["avatar_id"].lower()
        return [avatar for avatar in avatars if str(avatar.id) == one]

    def _avatar(self, session: FakeSession, avatar_id: str) -> FakeAvatar:
        for avatar in self._avatars(session):
            if str(avatar.id) == avatar_id.lower():
                return avatar
        raise Refused(404, "Avatar not found in this session")


def _shown(avatar: FakeAvatar) -> dict[str, Any]:
    customization = avatar.customization or default_customization()
    return {"id": str(avatar.id), "status": avatar.status, "customization": customization}
