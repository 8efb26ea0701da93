"""Which function answers which request."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from attrs import frozen

from avaturn_async.testing._api import Api
from avaturn_async.testing._files import Files
from avaturn_async.testing._page import Page
from avaturn_async.testing._requests import RecordedRequest, Refused, Reply

Answer = Callable[..., Reply]


@frozen
class Route:
    """A method and a path, and what answers them."""

    method: str
    path: re.Pattern[str]
    answer: Answer
    wants_token: bool


def make_routes(api: Api, files: Files, page: Page) -> tuple[Route, ...]:
    """All routes. Only those under /api want the token; anywhere else it is a leak."""
    return (
        _route("POST", "/api/v1/users/new", api.create_user),
        _route("DELETE", "/api/v1/users/{user_id}", api.delete_user),
        _route("GET", "/api/v1/users/{user_id}/avatars", api.list_user_avatars),
        _route("DELETE", "/api/v1/users/{user_id}/avatars/{avatar_id}", api.delete_user_avatar),
        _route("POST", "/api/v1/sessions/new", api.new_session),
        _route("POST", "/api/v1/avatars/new", api.new_avatar),
        _route("GET", "/api/v1/avatars/{avatar_id}/customization", api.get_customization),
        _route("PUT", "/api/v1/avatars/{avatar_id}/customization", api.set_customization),
        _route("POST", "/api/v1/renders/new", api.render_user_avatar),
        _route("POST", "/api/v1/exports/new", api.create_export),
        _route("POST", "/upload/{avatar_id}", files.upload),
        _route("GET", "/files/{_avatar_id}/{_name}", files.download),
        _route("HEAD", "/files/{_avatar_id}/{_name}", files.download),
        _route("GET", "/session/{session_id}", page.show),
        _route("GET", "/session/{session_id}/state", page.state),
        _route("POST", "/session/{session_id}/photos", page.photos),
        _route("POST", "/session/{session_id}/edit", page.edit),
        _route("POST", "/session/{session_id}/finish", page.finish),
        _route("GET", "/page/{name}", page.part),
    )


def _route(method: str, path: str, answer: Answer) -> Route:
    pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path))
    return Route(method, pattern, answer, path.startswith("/api/"))


def find_route(routes: tuple[Route, ...], request: RecordedRequest) -> tuple[Route, dict[str, str]]:
    """The route of a request and what its path says; refused as FastAPI does when there is none."""
    # The raw path, so that a quoted slash stays within its segment.
    raw_path = request.raw_path.partition("?")[0]
    found = [(r, match) for r in routes if (match := r.path.fullmatch(raw_path))]
    for route, match in found:
        if route.method == request.method:
            parameters = match.groupdict().items()
            return route, {name: unquote(text) for name, text in parameters if not name.startswith("_")}
    raise Refused(*((405, "Method Not Allowed") if found else (404, "Not Found")))
