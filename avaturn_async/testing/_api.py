"""The ten calls of the API, as FakeAvaturn answers them.

What the vendor did not publish is an assumption of ours, and marked as such where it is made.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from attrs import frozen

from avaturn_async.testing import _checks as checks
from avaturn_async.testing._catalogue import ASSETS
from avaturn_async.testing._requests import RecordedRequest, Refused, Reply, as_json
from avaturn_async.testing._tasks import Tasks
from avaturn_async.testing._world import FakeAvatar, FakeExport, World


def _slot(color: str | None = None) -> checks.Check:
    """An asset, with a color of this pattern in the slots that have one."""
    colors = {} if color is None else {"color": checks.nullable(checks.text(color))}
    return checks.fields(required={"id": checks.uuid}, optional=colors)


_SLOTS = {
    "clothing": _slot(),
    "hair_and_headwear": _slot("^#[0-9a-fA-F]{6}$"),
    "eyewear": _slot("^#[0-9a-fA-F]{8}$"),
    "footwear": _slot(),
}
CUSTOMIZATION = checks.fields(
    required={},
    optional={
        "assets": checks.fields(required={}, optional=_SLOTS),
        "body": checks.text(),
        "age": checks.text(),
        "metadata": checks.mapping(checks.text()),
        "bone_scale": checks.fields(
            required={}, optional={"head": checks.number, "arms": checks.number, "chest": checks.number}
        ),
        "skin_tone_correction": checks.number,
    },
)
_SESSION = checks.fields(
    required={"user_id": checks.text()},
    optional={
        "config": checks.tagged(
            "type",
            {
                "create_or_edit_existing": checks.fields(required={}, optional={}),
                "create": checks.fields(required={}, optional={}),
                "edit_existing": checks.fields(required={"avatar_id": checks.uuid}, optional={}),
            },
        )
    },
)
_NEW_AVATAR = checks.fields(required={"user_id": checks.text()}, optional={})
_FORMAT = checks.one_of("jpg", "png", "webp")


@frozen(kw_only=True)
class Api:
    """Answers the ten calls. The token was looked at before."""

    world: World
    tasks: Tasks

    def create_user(self, _: RecordedRequest) -> Reply:
        """POST /api/v1/users/new."""
        return as_json({"id": self.world.new_user()})

    def delete_user(self, _: RecordedRequest, user_id: str) -> Reply:
        """DELETE /api/v1/users/{user_id}."""
        self.world.delete_user(self._user(user_id))
        return Reply()

    def new_session(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/sessions/new."""
        body = checks.check_body(request, _SESSION)
        user_id = self._user(body["user_id"])
        config = body.get("config", {"type": "create_or_edit_existing"})
        if config["type"] == "edit_existing" and self._avatar(config["avatar_id"]).user_id != user_id:
            raise Refused(404, "Avatar not found")
        session = self.world.new_session(user_id, config)
        url = self.world.session_url(session)
        return as_json({"url": url, "id": str(session.id), "custom_upload_url": None})

    def list_user_avatars(self, request: RecordedRequest, user_id: str) -> Reply:
        """GET /api/v1/users/{user_id}/avatars."""
        checks.check_query(request, required={}, optional={"include_not_ready": checks.truth})
        all_of_them = checks.is_true(request.query.get("include_not_ready"))
        avatars = self.world.avatars_of(self._user(user_id))
        return as_json(
            [{"id": str(a.id), "status": a.status} for a in avatars if all_of_them or a.status == "ready"]
        )

    def new_avatar(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/avatars/new."""
        avatar = self.world.new_avatar(self._user(checks.check_body(request, _NEW_AVATAR)["user_id"]))
        avatar.upload_key = self.world.new_key()
        url = f"{self.world.url}/upload/{avatar.id}?signature={avatar.upload_key}"
        return as_json({"avatar_id": str(avatar.id), "upload_url": url})

    def get_customization(self, _: RecordedRequest, avatar_id: str) -> Reply:
        """GET /api/v1/avatars/{id}/customization."""
        return as_json(_customization(self._avatar(avatar_id)))

    def set_customization(self, request: RecordedRequest, avatar_id: str) -> Reply:
        """PUT /api/v1/avatars/{id}/customization. That it replaces the whole is an assumption."""
        customization = checks.check_body(request, CUSTOMIZATION)
        avatar = self._avatar(avatar_id)
        check_assets(customization)
        self.world.customize(avatar, customization)
        return Reply(status=202)

    def delete_user_avatar(self, _: RecordedRequest, user_id: str, avatar_id: str) -> Reply:
        """DELETE /api/v1/users/{user_id}/avatars/{avatar_id}."""
        avatar = self._avatar(avatar_id)
        if avatar.user_id != self._user(user_id):
            raise Refused(404, "Avatar not found")
        self.world.delete_avatar(avatar)
        return Reply()

    def render_user_avatar(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/renders/new. Every call starts another render; any scene is taken as known."""
        checks.check_query(
            request,
            required={"avatar_id": checks.uuid, "scene": checks.text("^[a-zA-Z0-9_/]+$")},
            optional={"format": _FORMAT},
        )
        avatar = self._finished_avatar(request.query["avatar_id"])
        render_id = self.world.new_id()
        scene, image_format = request.query["scene"], request.query.get("format", "jpg")
        return as_json(
            {"id": str(render_id), "status": "pending", "render_url": None},
            then=partial(self.tasks.render, avatar, render_id, scene, image_format),
        )

    def create_export(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/exports/new. That a failed export stays failed until a change is an assumption."""
        checks.check_query(request, required={"avatar_id": checks.uuid}, optional={})
        avatar = self._finished_avatar(request.query["avatar_id"])
        export = self.world.exports.get(avatar.id)
        if export is not None and export.version == avatar.version:
            return as_json({"status": export.status, "url": self.tasks.export_url(avatar, export)})
        export = self.world.exports[avatar.id] = FakeExport(version=avatar.version)
        return as_json({"status": "pending", "url": None}, then=partial(self.tasks.export, avatar, export))

    def _user(self, user_id: str) -> str:
        """404 for a user that there is not: an assumption."""
        if user_id not in self.world.users:
            raise Refused(404, "User not found")
        return user_id

    def _avatar(self, avatar_id: str) -> FakeAvatar:
        """404 for an avatar that there is not: an assumption."""
        checks.check_value(checks.uuid, avatar_id, ("path", "avatar_id"))
        avatar = self.world.find_avatar(avatar_id)
        if avatar is None:
            raise Refused(404, "Avatar not found")
        return avatar

    def _finished_avatar(self, avatar_id: str) -> FakeAvatar:
        """409 for an avatar that cannot be exported or rendered yet: an assumption."""
        avatar = self._avatar(avatar_id)
        if avatar.status != "ready":
            raise Refused(409, f"Avatar is {avatar.status}")
        _customization(avatar)
        return avatar


def _customization(avatar: FakeAvatar) -> dict[str, Any]:
    """409 where the vendor says that the state is undefined: the strictest answer that a caller may get."""
    if avatar.customization is None:
        raise Refused(409, "Avatar was made by direct upload and has no customization yet: set one first")
    return avatar.customization


def check_customization(value: Any) -> None:
    """Refuse what set_customization would refuse: a wrong shape (422), or as ``check_assets``."""
    checks.check_value(CUSTOMIZATION, value, ())
    check_assets(value)


def check_assets(customization: dict[str, Any]) -> None:
    """Refuse assets that are in a wrong slot (409) or gone (410); keys that are no slot are left alone."""
    assets = customization.get("assets", {})
    known = {str(a.id): a for a in ASSETS}
    worn = {slot: str(assets[slot]["id"]).lower() for slot in _SLOTS if slot in assets}
    gone = [asset_id for asset_id in worn.values() if asset_id not in known or known[asset_id].gone]
    for slot, asset_id in worn.items():
        if asset_id in known and known[asset_id].slot != slot:
            raise Refused(409, {"message": "Asset does not belong to slot", "asset": asset_id, "slot": slot})
    if gone:
        raise Refused(410, {"message": "Assets are gone", "assets": gone})
