"""No log line, exception or repr of the webhook side shows a secret, a signature or a body."""

from __future__ import annotations

import base64
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from avaturn_async import AvaturnConnectionError, StoreError
from avaturn_async.webhooks import (
    AllOf,
    AnyOf,
    BasicAuth,
    Event,
    HmacSha256,
    MemoryStore,
    SessionRouter,
    SharedSecret,
    StandardWebhooks,
    Unverified,
    Verifier,
    WebhookReceiver,
    WebhookRequest,
    parse_event,
)

NOW = 1_700_000_000
KEY = "hush/Key-0123456789abcdef"
IN_BODY = "hush-in-the-body"
AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
BODIES = [
    b'{"event": "avatar.ready", "avatar_id": "%s", "user_id": "%s"}' % (AVATAR.encode(), IN_BODY.encode()),
    b'{"event": "export.ready", "avatar_id": "%s", "hush-in-the-body": 1}' % IN_BODY.encode(),
    b'{"event": "other.event", "text": "%s"}' % IN_BODY.encode(),
    b'{"event": 1, "hush-in-the-body": 1}',
    b'{"event": "x", "a": "%s", "a": 1}' % IN_BODY.encode(),
    b'{"event": "x", "a": "\\ud800%s"}' % IN_BODY.encode(),
    b'{"event": "x", "a": "%s' % IN_BODY.encode(),
    b'\xff{"event": "%s"}' % IN_BODY.encode(),
]
SCHEMES: dict[str, Verifier] = {
    "hex": HmacSha256(KEY, header="X-Signature", prefix="sha256="),
    "base64": HmacSha256([KEY, "hush-the-older"], header="X-Signature", encoding="base64"),
    "timed": HmacSha256(
        KEY,
        header="X-Signature",
        template="{timestamp}.{body}",
        timestamp_header="X-Timestamp",
        clock=lambda: NOW,
    ),
    "standard": StandardWebhooks(KEY.encode(), clock=lambda: NOW),
    "header": SharedSecret(KEY, header="X-Secret"),
    "query": SharedSecret(KEY, query="key"),
    "basic": BasicAuth("hush-user", KEY),
    "all": AllOf(SharedSecret(KEY, header="X-Secret"), HmacSha256(KEY, header="X-Signature")),
    "any": AnyOf(HmacSha256(KEY, header="X-Signature"), SharedSecret(KEY, query="key")),
}


class LeakyVerifier(SharedSecret):
    def verify(self, request: WebhookRequest) -> None:
        raise RuntimeError(request.body, request.headers, request.query)


class UnavailableStore(MemoryStore):
    async def append(self, entry: Any) -> int:
        raise StoreError("unavailable") from ValueError(entry.body)


class BrokenStore(MemoryStore):
    async def append(self, entry: Any) -> int:
        raise RuntimeError(entry.body)


class Confirm:
    """Confirms no event, or raises an error."""

    def __init__(self, error: Exception | None = None, *, shows_event: bool = False) -> None:
        self.error = error
        self.shows_event = shows_event

    async def check(self, event: Event) -> Event | None:
        if self.shows_event:
            raise RuntimeError(event, event.raw)
        if self.error is not None:
            raise self.error
        return None


def vary_headers(headers: dict[str, str]) -> Iterator[tuple[tuple[bytes, bytes], ...]]:
    """Yield the headers, and invalid ones that still hold parts of the secrets."""
    pairs = tuple((k.encode(), v.encode()) for k, v in headers.items())
    yield pairs
    yield pairs + pairs
    for n, (name, value) in enumerate(pairs):
        for wrong in (b"", value[:-1], value + b"x", b"\xff" + value, value * 30):
            yield (*pairs[:n], (name, wrong), *pairs[n + 1 :])
        yield (*pairs[:n], *pairs[n + 1 :])
    yield (*pairs, (b"Content-Type", b"text/plain"))
    yield (*pairs, (b"Content-Encoding", KEY.encode()))
    yield (*pairs, (b"Content-Length", b"9" * 400))


def build_requests(scheme: Verifier) -> Iterator[WebhookRequest]:
    for body in BODIES:
        for headers in vary_headers(scheme.sign(body, timestamp=NOW, id="hush-id")):
            for query in (f"key={KEY}", f"key={KEY}&key={KEY}", f"key={KEY}x", f"{KEY}=1", ""):
                yield WebhookRequest(method="POST", headers=headers, body=body, query=query, peer="192.0.2.7")
    yield WebhookRequest(method=f"PO{KEY}", headers=(), body=BODIES[0])


def get_all_text(error: BaseException | None) -> str:
    """Return an exception with its causes, their arguments and attributes."""
    if error is None:
        return ""
    own = f"{error} {error!r} {error.args} {vars(error)} {getattr(error, 'object', '')!r} {getattr(error, 'doc', '')}"
    return own + get_all_text(error.__cause__) + get_all_text(error.__context__)


def get_secrets(scheme: Verifier) -> set[str]:
    """Return the secret in each of its forms, each signature, and the text of the bodies."""
    signed = {v for body in BODIES for v in scheme.sign(body, timestamp=NOW, id="hush-id").values()}
    return {"hush", KEY[5:], base64.b64encode(KEY.encode()).decode()} | {
        part for value in signed for part in (value, value[-20:]) if value != str(NOW)
    }


@pytest.mark.parametrize("name", SCHEMES)
async def test_no_log_line_and_no_repr_shows_a_secret(name: str, caplog: pytest.LogCaptureFixture) -> None:
    scheme, clock = SCHEMES[name], itertools.count(step=2)  # so late that each line is logged
    seen: list[str] = []
    setups: list[tuple[MemoryStore | None, Confirm | None]] = [
        (None, None),
        (UnavailableStore(), None),
        (BrokenStore(), None),
        (None, Confirm()),
        (None, Confirm(AvaturnConnectionError("no response"))),
        (None, Confirm(shows_event=True)),
    ]
    for store, confirm in setups:
        router = SessionRouter(store)
        receiver = WebhookReceiver(router, verifier=scheme, confirm=confirm, clock=lambda: next(clock))
        for request in build_requests(scheme):
            reply = await receiver.receive(request)
            seen += [repr(request) if request.method == "POST" else "", repr(reply)]
        seen += [repr(each) for each in (receiver, scheme, receiver.asgi, dict(receiver.outcomes), router)]
        await router.close()
    formatter = logging.Formatter()
    lines = [formatter.format(record) for record in caplog.records]
    assert len({record.getMessage().split(":")[0] for record in caplog.records}) >= 8
    for secret in get_secrets(scheme):
        assert not [text for text in (*lines, *seen) if secret in text]


@pytest.mark.parametrize("name", SCHEMES)
def test_no_exception_shows_a_secret(name: str) -> None:
    scheme, shown = SCHEMES[name], ""
    for request in build_requests(scheme):
        calls: tuple[Callable[[], object], ...] = (
            lambda: scheme.verify(request),  # noqa: B023 - called at once
            lambda: parse_event(request.body),  # noqa: B023 - the same
        )
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - whatever it is
                shown += get_all_text(error)
    assert "header" in shown or "secret" in shown
    for secret in get_secrets(scheme):
        assert secret not in shown


async def test_error_of_a_verifier_that_shows_the_request_is_logged_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=LeakyVerifier(KEY, query="key"))
    for request in build_requests(SCHEMES["query"]):
        await made.receive(request)
    assert "webhook internal_error, 503: RuntimeError" in caplog.text
    assert "hush" not in caplog.text


INVALID_USE: list[Callable[[], object]] = [
    lambda: HmacSha256(KEY + " ", header="X"),
    lambda: HmacSha256([KEY, ""], header="X"),
    lambda: HmacSha256([KEY, 5], header="X"),  # type: ignore[list-item]
    lambda: HmacSha256(KEY, header="X", template="{body}{id}"),
    lambda: HmacSha256(KEY, header="X", tolerance=-1),
    lambda: StandardWebhooks(KEY + "!"),
    lambda: StandardWebhooks("whsec_" + KEY + "!"),
    lambda: SharedSecret(KEY),
    lambda: SharedSecret(KEY + "\x00", header="X"),
    lambda: BasicAuth("hush:user", KEY),
    lambda: AllOf(KEY),  # type: ignore[arg-type]
    lambda: WebhookReceiver(SessionRouter(), verifier=KEY),  # type: ignore[arg-type]
    lambda: WebhookReceiver(SessionRouter(), verifier=AnyOf(SCHEMES["hex"], Unverified())),
    lambda: WebhookRequest(method="POST", headers=((KEY, 5),), body=b""),
    lambda: WebhookRequest(method="POST", headers={KEY: 5}, body=b""),
    lambda: WebhookRequest(method="POST", headers=(), body=KEY),
    lambda: WebhookRequest(method="POST", headers=(), body=b"", query=KEY.encode()),
]


@pytest.mark.parametrize("wrong", INVALID_USE)
def test_error_of_invalid_use_does_not_show_the_argument(wrong: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        wrong()
    shown = get_all_text(caught.value)
    assert "hush" not in shown
    assert KEY[5:] not in shown
