"""The page behind a session URL."""

from __future__ import annotations

from uuid import UUID

from attrs import frozen

from avaturn_async.testing._requests import RecordedRequest, Refused, Reply
from avaturn_async.testing._world import FakeSession, World


@frozen(kw_only=True)
class Page:
    """Shows what a person who opens the session URL sees."""

    world: World

    def show(self, request: RecordedRequest, session_id: str) -> Reply:
        """GET of a session URL."""
        self._session(request, session_id)
        html = b"<!doctype html><title>FakeAvaturn</title><p>A session of FakeAvaturn.</p>"
        return Reply(body=html, headers={"Content-Type": "text/html; charset=utf-8"})

    def _session(self, request: RecordedRequest, session_id: str) -> FakeSession:
        session = self.world.sessions.get(UUID(session_id))
        if session is None or request.query.get("token") != session.key:
            raise Refused(403, "The session URL is not valid")
        return session
