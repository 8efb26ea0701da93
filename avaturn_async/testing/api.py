"""The calls that FakeAvaturn answers: the API, photo uploads and temporary URLs.

Behaviour that is not published is marked as an assumption.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode
from functools import partial
from typing import Any, cast

from attrs import frozen

from avaturn_async.testing import validators
from avaturn_async.testing.catalogue import ASSETS
from avaturn_async.testing.messages import FormFile, HTTPError, RecordedRequest, Reply, as_json, media_type
from avaturn_async.testing.state import FakeAvatar, FakeExport, FakeSession, FakeState
from avaturn_async.testing.validators import fields, problem


def _asset(color: str | None = None) -> validators.Check:
    """Return a check for an asset; ``color`` is the pattern of its color, if its slot has one."""
    colors = {} if color is None else {"color": validators.nullable(validators.text(color))}
    return fields({"id": validators.uuid}, colors)


_SLOTS = {
    "clothing": _asset(),
    "hair_and_headwear": _asset("^#[0-9a-fA-F]{6}$"),
    "eyewear": _asset("^#[0-9a-fA-F]{8}$"),
    "footwear": _asset(),
}
CUSTOMIZATION = fields(
    required={},
    optional={
        "assets": fields({}, _SLOTS),
        "body": validators.text(),
        "age": validators.text(),
        "metadata": validators.mapping(validators.text()),
        "bone_scale": fields({}, dict.fromkeys(("head", "arms", "chest"), validators.number)),
        "skin_tone_correction": validators.number,
    },
)
_CONFIGS = {
    "create_or_edit_existing": fields({}, {}),
    "create": fields({}, {}),
    "edit_existing": fields({"avatar_id": validators.uuid}, {}),
}
_NEW_SESSION = fields({"user_id": validators.text()}, {"config": validators.tagged("type", _CONFIGS)})
_NEW_AVATAR = fields({"user_id": validators.text()}, {})
_LIST = fields({}, {"include_not_ready": validators.boolean})
_RENDER = fields(
    {"avatar_id": validators.uuid, "scene": validators.text("^[a-zA-Z0-9_/]+$")},
    {"format": validators.one_of("jpg", "png", "webp")},
)
_EXPORT = fields({"avatar_id": validators.uuid}, {})
_PHOTOS = ("image-frontal", "image-side-1", "image-side-2")
_CHOICES = {"body-type": ("male", "female"), "telephoto": ("true", "false")}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")  # int() refuses thousands of digits


@frozen(kw_only=True)
class Api:
    """Answers the ten calls, for which the token was checked before, and URLs with a credential of their own."""

    state: FakeState

    def create_user(self, _: RecordedRequest) -> Reply:
        """POST /api/v1/users/new."""
        # 32 characters of base32, as in Avaturn.
        user_id = b32encode(self.state.rng.randbytes(20)).decode()
        self.state.users.add(user_id)
        return as_json({"id": user_id})

    def delete_user(self, _: RecordedRequest, user_id: str) -> Reply:
        """DELETE /api/v1/users/{user_id}."""
        self.state.users.remove(self._get_user_id(user_id))
        for avatar in self.state.get_avatars(user_id):
            self.state.delete_avatar(avatar)
        self.state.sessions = {s.id: s for s in self.state.sessions.values() if s.user_id != user_id}
        return Reply()

    def new_session(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/sessions/new."""
        body = validators.check_body(request, _NEW_SESSION)
        user_id = self._get_user_id(body["user_id"])
        config = body.get("config", {"type": "create_or_edit_existing"})
        avatar_id = None
        if config["type"] == "edit_existing":
            avatar_id = config["avatar_id"].lower()
            if self._get_avatar(avatar_id).user_id != user_id:
                raise HTTPError(404, "Avatar not found")
        session = FakeSession(
            id=self.state.new_id(),
            user_id=user_id,
            type=config["type"],
            key=self.state.new_key(),
            avatar_id=avatar_id,
        )
        self.state.sessions[session.id] = session
        url = f"{self.state.url}/session/{session.id}?token={session.key}"
        return as_json({"url": url, "id": session.id, "custom_upload_url": None})

    def list_user_avatars(self, request: RecordedRequest, user_id: str) -> Reply:
        """GET /api/v1/users/{user_id}/avatars."""
        validators.check_query(request, _LIST)
        with_not_ready = validators.BOOLEANS[request.query.get("include_not_ready", "false").lower()]
        avatars = self.state.get_avatars(self._get_user_id(user_id))
        shown = [a for a in avatars if with_not_ready or a.status == "ready"]
        return as_json([{"id": a.id, "status": a.status} for a in shown])

    def new_avatar(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/avatars/new."""
        avatar = self.state.new_avatar(self._get_user_id(validators.check_body(request, _NEW_AVATAR)["user_id"]))
        avatar.upload_key = self.state.new_key()
        url = f"{self.state.url}/upload/{avatar.id}?signature={avatar.upload_key}"
        return as_json({"avatar_id": avatar.id, "upload_url": url})

    def get_customization(self, _: RecordedRequest, avatar_id: str) -> Reply:
        """GET /api/v1/avatars/{id}/customization."""
        return as_json(_get_customization(self._get_avatar(avatar_id, "id")))

    def set_customization(self, request: RecordedRequest, avatar_id: str) -> Reply:
        """PUT /api/v1/avatars/{id}/customization. An assumption: it replaces the whole customization."""
        customization = validators.check_body(request, CUSTOMIZATION)
        avatar = self._get_avatar(avatar_id, "id")
        check_assets(customization)
        self.state.customize(avatar, customization)
        return Reply(status=202)

    def delete_user_avatar(self, _: RecordedRequest, user_id: str, avatar_id: str) -> Reply:
        """DELETE /api/v1/users/{user_id}/avatars/{avatar_id}."""
        avatar = self._get_avatar(avatar_id)
        if avatar.user_id != self._get_user_id(user_id):
            raise HTTPError(404, "Avatar not found")
        self.state.delete_avatar(avatar)
        return Reply()

    def render_user_avatar(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/renders/new. Every call starts another render; every valid scene exists."""
        validators.check_query(request, _RENDER)
        avatar = self._get_ready_avatar(request.query["avatar_id"])
        render_id = self.state.new_id()
        image_format = request.query.get("format", "jpg")
        return as_json(
            {"id": render_id, "status": "pending", "render_url": None},
            then=partial(self.state.make_render, avatar, render_id, image_format),
        )

    def create_export(self, request: RecordedRequest) -> Reply:
        """POST /api/v1/exports/new. An assumption: a failed export stays failed until the avatar changes."""
        validators.check_query(request, _EXPORT)
        avatar = self._get_ready_avatar(request.query["avatar_id"])
        export = avatar.export
        if export is not None and export.version == avatar.version:
            return as_json({"status": export.status, "url": self.state.export_url(avatar, export)})
        export = avatar.export = FakeExport(version=avatar.version)
        return as_json({"status": "pending", "url": None}, then=partial(self.state.make_export, avatar, export))

    def upload(self, request: RecordedRequest, avatar_id: str) -> Reply:
        """Answer POST /upload/{avatar_id}. Known of the real response: it is JSON with a ``status``."""
        avatar = self.state.avatars.get(avatar_id.lower())
        if avatar is None or avatar.upload_key is None or request.query.get("signature") != avatar.upload_key:
            raise HTTPError(403, "The upload URL is not valid")
        if avatar.status != "pending":
            raise HTTPError(409, "The photos were uploaded before")
        check_form(request)
        avatar.status = "processing"
        return as_json({"status": "processing"}, then=partial(self.state.process_avatar, avatar))

    def download(self, request: RecordedRequest, path: str) -> Reply:
        """Answer GET and HEAD of a temporary URL: with 403 when it has expired, as object storage does.

        ``If-Range`` must name the version of the file; otherwise the whole file is sent.
        """
        file = self.state.files.get(request.query.get("signature", ""))
        if file is None or file.path != path:
            raise HTTPError(404, "No such file")
        if self.state.clock() >= file.expires_at:
            raise HTTPError(403, "The URL has expired")
        etag = f'"{hashlib.sha256(file.content).hexdigest()[:32]}"'
        headers = {"Content-Type": file.content_type, "ETag": etag, "Accept-Ranges": "bytes"}
        # An assumption: a page of another origin, which embeds a session, can load the avatar.
        headers["Access-Control-Allow-Origin"] = "*"
        range_ = _RANGE.fullmatch(request.headers.get("Range", ""))
        same = request.headers.get("If-Range", etag) == etag
        if range_ is None or not same or not any(range_.groups()):
            return Reply(body=file.content, headers=headers)
        size = len(file.content)
        first, last = range_.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start >= end:
            return Reply(status=416, body=b"", headers={**headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return Reply(status=206, body=file.content[start:end], headers=headers)

    def _get_user_id(self, user_id: str) -> str:
        """Return a user id; refuse an unknown one (404 is an assumption)."""
        if user_id not in self.state.users:
            raise HTTPError(404, "User not found")
        return user_id

    def _get_avatar(self, avatar_id: str, parameter: str = "avatar_id") -> FakeAvatar:
        """Return the avatar that a parameter of the path names; refuse an unknown one (404 is an assumption)."""
        validators.refuse(validators.uuid(avatar_id, ("path", parameter)))
        avatar = self.state.avatars.get(avatar_id.lower())
        if avatar is None:
            raise HTTPError(404, "Avatar not found")
        return avatar

    def _get_ready_avatar(self, avatar_id: str) -> FakeAvatar:
        """Return an avatar that can be exported and rendered; refuse another one (409 is an assumption)."""
        avatar = self._get_avatar(avatar_id)
        if avatar.status != "ready":
            raise HTTPError(409, f"Avatar is {avatar.status}")
        _get_customization(avatar)
        return avatar


def _get_customization(avatar: FakeAvatar) -> dict[str, Any]:
    """Return the customization of an avatar."""
    # An assumption: Avaturn's documentation calls this state undefined; 409 is the strictest response.
    if avatar.customization is None:
        raise HTTPError(409, "Avatar was made by direct upload and has no customization yet: set one first")
    return avatar.customization


def check_assets(customization: dict[str, Any]) -> None:
    """Refuse assets in a wrong slot (409) or withdrawn ones (410); other keys are ignored."""
    assets = customization.get("assets", {})
    known = {str(a.id): a for a in ASSETS}
    worn = {slot: str(assets[slot]["id"]).lower() for slot in _SLOTS if slot in assets}
    gone = [asset_id for asset_id in worn.values() if asset_id not in known or known[asset_id].gone]
    for slot, asset_id in worn.items():
        if asset_id in known and known[asset_id].slot != slot:
            raise HTTPError(409, {"message": "Asset does not belong to slot", "asset": asset_id, "slot": slot})
    if gone:
        raise HTTPError(410, {"message": "Assets are gone", "assets": gone})


def check_form(request: RecordedRequest) -> dict[str, str | FormFile]:
    """Return the fields of the photo form; refuse an invalid one."""
    if media_type(request.headers.get("Content-Type", "")) != "multipart/form-data":
        raise HTTPError(422, [problem(("body",), "Input should be a multipart form", "missing")])
    form = cast("dict[str, str | FormFile]", request.parsed)
    needed = (*_PHOTOS, "body-type")
    problems = [problem(("body", n), "Field required", "missing") for n in needed if n not in form]
    for name, value in form.items():
        if name in _PHOTOS and not (isinstance(value, FormFile) and value.content):
            problems.append(problem(("body", name), "Value should be a file", "value_error"))
        if name in _CHOICES and value not in _CHOICES[name]:
            problems.append(problem(("body", name), f"Input should be one of {_CHOICES[name]}", "enum"))
    if problems:
        raise HTTPError(422, problems)
    return form
