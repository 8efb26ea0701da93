"""The error tree: its shape, pickling, and texts without control characters."""

from __future__ import annotations

import copy

import pytest
from conftest import pickled

import avaturn_async
from avaturn_async import errors

TREE = {
    "AvaturnConnectionError": ("AvaturnError",),
    "AvaturnTimeoutError": ("AvaturnConnectionError", "TimeoutError"),
    "AvaturnStatusError": ("AvaturnError",),
    "BadRequestError": ("AvaturnStatusError",),
    "AuthenticationError": ("AvaturnStatusError",),
    "PermissionDeniedError": ("AvaturnStatusError",),
    "NotFoundError": ("AvaturnStatusError",),
    "ConflictError": ("AvaturnStatusError",),
    "GoneError": ("AvaturnStatusError",),
    "RequestValidationError": ("AvaturnStatusError",),
    "RateLimitError": ("AvaturnStatusError",),
    "ServerError": ("AvaturnStatusError",),
    "AvaturnDecodeError": ("AvaturnError",),
    "TaskFailedError": ("AvaturnError",),
    "TransferError": ("AvaturnError",),
    "BrowserExportError": ("AvaturnError",),
    "UnknownSessionError": ("AvaturnError", "KeyError"),
    "ClientClosedError": ("AvaturnError", "RuntimeError"),
    "RouterClosedError": ("AvaturnError",),
    "StoreError": ("AvaturnError",),
    "StoreFullError": ("StoreError",),
    "WebhookError": ("AvaturnError",),
    "WebhookRejected": ("WebhookError",),
    "WebhookPayloadError": ("WebhookError",),
}


def test_error_tree_is_as_documented_and_exported() -> None:
    bases = {name: tuple(b.__name__ for b in getattr(errors, name).__bases__) for name in errors.__all__}
    assert bases == {"AvaturnError": ("Exception",), **TREE}
    assert set(errors.__all__) <= set(avaturn_async.__all__)
    for name in errors.__all__:
        assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("name", errors.__all__)
def test_error_can_be_pickled_and_copied(name: str) -> None:
    cls = getattr(errors, name)
    if issubclass(cls, errors.AvaturnStatusError):
        error = cls(429, "GET", "/x", "body", ("a: b",), "req", 2.5)
    elif cls is errors.AvaturnDecodeError:
        error = cls("GET /x: odd", ("expected str at $.id",))
    else:
        error = cls("a sentence")
    error.add_note("a note")
    for twin in (pickled(error), copy.copy(error)):
        assert type(twin) is cls
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def test_unknown_session_error_shows_its_message() -> None:
    assert str(errors.UnknownSessionError("unknown session")) == "unknown session"


def test_decode_error_without_problems_shows_its_message() -> None:
    assert str(errors.AvaturnDecodeError("odd")) == "odd"


@pytest.mark.parametrize(
    "error",
    [
        errors.RequestValidationError(422, "PUT", "/x", "", ("body.a: one\ntwo", "body.b: three\u2028four")),
        errors.AvaturnDecodeError("odd", ("expected str at $.metadata.one\r\ntwo",)),
    ],
)
def test_problems_stay_on_one_line(error: errors.AvaturnError) -> None:
    assert "one two" in str(error)
    assert str(error).splitlines() == [str(error)]


def test_status_error_shows_all_fields_on_one_line() -> None:
    full = errors.RateLimitError(429, "GET", "/x", "slow\r\ndown", (), "r1", 2.0)
    assert str(full) == "GET /x: 429: slow down (retry after 2 s) (request r1)"
    assert str(errors.NotFoundError(404, "GET", "/x")) == "GET /x: 404"


HOSTILE = "a\x1b[31mb\x00c\x9bd\ud800e\u2028f\x85g\u202eh\nj"
CLEAN = "a\ufffd[31mb\ufffdc\ufffdd\ufffde f g\ufffdh j"


def test_control_characters_of_the_server_are_replaced_in_all_texts() -> None:
    """ESC moves the cursor of a terminal; a line break forges a line of the log."""
    status = errors.RequestValidationError(422, "GET", "/x", HOSTILE, (HOSTILE,), HOSTILE, None)
    assert (status.body, status.problems, status.request_id) == (CLEAN, (CLEAN,), CLEAN)
    assert str(status) == f"GET /x: 422: {CLEAN} (request {CLEAN})"
    decode = errors.AvaturnDecodeError(HOSTILE, (HOSTILE,))
    assert (str(decode), decode.problems) == (f"{CLEAN}: {CLEAN}", (CLEAN,))


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"AvaturnStatusError"}))
def test_control_characters_are_replaced_in_each_error(name: str) -> None:
    cls = getattr(errors, name)
    if not issubclass(cls, errors.AvaturnStatusError):
        assert str(cls(HOSTILE)) == CLEAN


def test_help_of_a_rate_limit_error_names_its_delay() -> None:
    assert "``retry_after`` is the seconds to wait" in str(errors.RateLimitError.__doc__)
