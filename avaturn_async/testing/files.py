"""Photos up and files down: URLs of FakeAvaturn with a credential of their own, which need no token."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from typing import cast

from attrs import frozen

from avaturn_async.testing.jobs import Jobs
from avaturn_async.testing.messages import FormFile, HTTPError, RecordedRequest, Reply, as_json, media_type
from avaturn_async.testing.state import FakeState, TemporaryFile
from avaturn_async.testing.validators import problem

_PHOTOS = ("image-frontal", "image-side-1", "image-side-2")
_CHOICES = {"body-type": ("male", "female"), "telephoto": ("true", "false")}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")  # int() refuses thousands of digits


@frozen(kw_only=True)
class Files:
    """Takes the photo form and serves temporary URLs."""

    state: FakeState
    jobs: Jobs

    def upload(self, request: RecordedRequest, avatar_id: str) -> Reply:
        """Answer POST /upload/{avatar_id}. Known of the real response: it is JSON with a ``status``."""
        avatar = self.state.avatars.get(avatar_id.lower())
        if avatar is None or avatar.upload_key is None or request.query.get("signature") != avatar.upload_key:
            raise HTTPError(403, "The upload URL is not valid")
        if avatar.status != "pending":
            raise HTTPError(409, "The photos were uploaded before")
        check_form(request)
        avatar.status = "processing"
        return as_json({"status": "processing"}, then=partial(self.jobs.process_avatar, avatar))

    def download(self, request: RecordedRequest, path: str) -> Reply:
        """Answer GET and HEAD of a temporary URL: with 403 when it has expired, as object storage does."""
        file = self.state.files.get(request.query.get("signature", ""))
        if file is None or file.path != path:
            raise HTTPError(404, "No such file")
        if self.state.clock() >= file.expires_at:
            raise HTTPError(403, "The URL has expired")
        return _serve(file, request)


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


def _serve(file: TemporaryFile, request: RecordedRequest) -> Reply:
    """Return the file, or the requested range of it if ``If-Range`` names its version."""
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
