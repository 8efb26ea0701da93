"""Requests and replies: plain values that take raw bytes only, and show none of them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from avaturn_async.webhooks import WebhookReply, WebhookRequest


def made(**changes: Any) -> WebhookRequest:
    fields: dict[str, Any] = {"method": "POST", "headers": (), "body": b"", **changes}
    return WebhookRequest(**fields)


@pytest.mark.parametrize(
    "body", ["text", {"event": "x"}, None, [1], memoryview(b"x")], ids=lambda body: type(body).__name__
)
def test_a_body_that_is_not_the_raw_bytes_is_refused_with_the_remedy(body: Any) -> None:
    with pytest.raises(TypeError, match="raw bytes of the request"):
        made(body=body)


@pytest.mark.parametrize(
    "headers",
    [
        ((b"X", 5),),
        ((None, "y"),),
        ((b"X",),),
        ((b"X", b"y", b"z"),),
        {"X-Signature": ["hush"]},
        ("ab",),
        (b"ab",),
    ],
    ids=repr,
)
def test_headers_of_another_shape_are_a_type_error(headers: Any) -> None:
    with pytest.raises(TypeError, match="pairs of bytes"):
        made(headers=headers)


@pytest.mark.parametrize(
    "headers",
    [((b"X-A", b"caf\xe9"),), [("X-A", "caf\xe9")], {"X-A": "caf\xe9"}, {"X-A": "caf\udce9"}],
    ids=["bytes", "str", "mapping", "surrogate"],
)
def test_headers_of_bytes_text_or_mapping_are_equal(headers: Any) -> None:
    assert made(headers=headers).headers == ((b"X-A", b"caf\xe9"),)


def test_a_query_is_text_and_what_was_given_instead_is_not_shown() -> None:
    with pytest.raises(TypeError, match="raw query string") as caught:
        made(query=b"key=hush")
    assert "hush" not in str(caught.value)


def test_values_gives_all_of_a_header_whatever_the_case_of_its_name() -> None:
    request = made(headers=iter([(b"X-A", b"1"), (b"y", b"2"), (b"x-a", b"3")]), body=bytearray(b"x"))
    assert request.values(b"x-A") == [b"1", b"3"]
    assert request.values(b"z") == []
    assert request.body == b"x"
    assert type(request.body) is bytes


def test_a_request_shows_neither_headers_nor_body_nor_query() -> None:
    request = made(headers=((b"X", b"hush"),), body=b"hush", query="key=hush", peer="192.0.2.7")
    assert repr(request) == "WebhookRequest(method='POST', peer='192.0.2.7')"


def test_requests_and_replies_are_frozen_values() -> None:
    assert made(body=b"x") == made(body=b"x")
    assert WebhookReply(status=200) == WebhookReply(status=200, headers=(), body=b"")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        WebhookReply(status=200).status = 500  # type: ignore[misc]
