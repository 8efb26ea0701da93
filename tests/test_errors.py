"""The error tree: one root, the drawn branches, and a trip through pickle."""

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
    "UnknownSessionError": ("AvaturnError", "KeyError"),
    "ClientClosedError": ("AvaturnError", "RuntimeError"),
    "RouterClosedError": ("AvaturnError",),
    "StoreError": ("AvaturnError",),
    "StoreFullError": ("StoreError",),
    "WebhookError": ("AvaturnError",),
    "WebhookRejected": ("WebhookError",),
    "WebhookPayloadError": ("WebhookError",),
}


def test_the_tree_is_as_drawn_and_exported_whole() -> None:
    bases = {name: tuple(b.__name__ for b in getattr(errors, name).__bases__) for name in errors.__all__}
    assert bases == {"AvaturnError": ("Exception",), **TREE}
    assert set(errors.__all__) <= set(avaturn_async.__all__)
    for name in errors.__all__:
        assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_pickles_and_copies(name: str) -> None:
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


def test_an_unknown_session_reads_as_a_sentence_not_as_a_key() -> None:
    assert str(errors.UnknownSessionError("nobody opened it")) == "nobody opened it"


def test_a_decode_error_without_places_is_its_message() -> None:
    assert str(errors.AvaturnDecodeError("odd")) == "odd"


@pytest.mark.parametrize(
    "error",
    [
        errors.RequestValidationError(422, "PUT", "/x", "", ("body.a: one\ntwo", "body.b: three\u2028four")),
        errors.AvaturnDecodeError("odd", ("expected str at $.metadata.one\r\ntwo",)),
    ],
)
def test_what_the_server_says_of_a_place_stays_on_one_line(error: errors.AvaturnError) -> None:
    assert "one two" in str(error)
    assert str(error).splitlines() == [str(error)]


def test_a_status_error_puts_everything_it_knows_on_one_line() -> None:
    full = errors.RateLimitError(429, "GET", "/x", "slow\r\ndown", (), "r1", 2.0)
    assert str(full) == "GET /x: 429: slow down (retry after 2 s) (request r1)"
    assert str(errors.NotFoundError(404, "GET", "/x")) == "GET /x: 404"
