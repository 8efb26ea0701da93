"""Photos up and files down: the URLs of FakeAvaturn that carry their own credential and want no token."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import cast

from attrs import frozen

from avaturn_async.testing._checks import problem
from avaturn_async.testing._requests import FormFile, RecordedRequest, Refused, Reply, as_json, media_type
from avaturn_async.testing._tasks import Tasks
from avaturn_async.testing._world import TemporaryFile, World

_PHOTOS = ("image-frontal", "image-side-1", "image-side-2")
_CHOICES = {"body-type": ("male", "female"), "telephoto": ("true", "false")}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")  # int() refuses thousands of digits


@frozen(kw_only=True)
class Files:
    """Takes the photo form and serves temporary URLs."""

    world: World
    tasks: Tasks

    def upload(self, request: RecordedRequest, avatar_id: str) -> Reply:
        """POST to an upload URL. An answer of JSON with a ``status`` is all that is known of it."""
        avatar = self.world.find_avatar(avatar_id)
        if avatar is None or avatar.upload_key is None or request.query.get("signature") != avatar.upload_key:
            raise Refused(403, "The upload URL is not valid")
        if avatar.status != "pending":
            raise Refused(409, "The photos were uploaded before")
        avatar.photos = check_form(request)
        avatar.status = "processing"
        return as_json({"status": "processing"}, then=partial(self.tasks.process_avatar, avatar))

    def download(self, request: RecordedRequest) -> Reply:
        """GET or HEAD of a temporary URL: 403 once it has expired, as stores of objects answer."""
        file = self.world.files.get(request.query.get("signature", ""))
        if file is None or file.path != request.path:
            raise Refused(404, "No such file")
        if self.world.clock() >= file.expires_at:
            raise Refused(403, "The URL has expired")
        return _serve(file, request)


def check_form(request: RecordedRequest) -> dict[str, str | FormFile]:
    """The fields of the photo form; refused if they do not fit."""
    if media_type(request.headers.get("Content-Type", "")) != "multipart/form-data":
        raise Refused(422, [problem(("body",), "Input should be a multipart form", "missing")])
    form = cast("dict[str, str | FormFile]", request.parsed)
    needed = (*_PHOTOS, "body-type")
    problems = [problem(("body", n), "Field required", "missing") for n in needed if n not in form]
    for name, value in form.items():
        if name in _PHOTOS and not (isinstance(value, FormFile) and value.content):
            problems.append(problem(("body", name), "Value should be a file", "value_error"))
        if name in _CHOICES and value not in _CHOICES[name]:
            problems.append(problem(("body", name), f"Input should be one of {_CHOICES[name]}", "enum"))
    if problems:
        raise Refused(422, problems)
    return form


def _serve(file: TemporaryFile, request: RecordedRequest) -> Reply:
    """The file, or the range of it that was asked for and is still of the same version."""
    etag = f'"{hashlib.sha256(file.content).hexdigest()[:32]}"'
    headers = {"Content-Type": file.content_type, "ETag": etag, "Accept-Ranges": "bytes"}
    # An assumption: a page of another origin, which embeds a session, may load the avatar into its scene.
    headers["Access-Control-Allow-Origin"] = "*"
    wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
    same = request.headers.get("If-Range", etag) == etag
    if wanted is None or not same or not any(wanted.groups()):
        return Reply(body=file.content, headers=headers)
    size = len(file.content)
    first, last = wanted.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        return Reply(status=416, body=b"", headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Reply(status=206, body=file.content[start:end], headers=headers)
