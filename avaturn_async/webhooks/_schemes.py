"""The schemes by which a webhook proves itself; ``verification`` is where they are imported from."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets as randomness
import time
from string import Formatter
from typing import Literal
from urllib.parse import unquote_to_bytes

from avaturn_async.errors import WebhookRejected
from avaturn_async.webhooks._secrets import (
    Clock,
    Secrets,
    any_equal,
    as_header,
    as_secrets,
    checked_tolerance,
    hmac_sha256,
    single,
    timestamp_of,
)
from avaturn_async.webhooks.request import WebhookRequest

_MOST_SIGNATURES = 20
_LONGEST_ID = 256


class HmacSha256:
    """A signature in a header, over the body and perhaps a timestamp.

    ::

        HmacSha256(secret, header="X-Hub-Signature-256", prefix="sha256=")  # as GitHub does
        HmacSha256(  # as Slack does
            secret,
            header="X-Slack-Signature",
            prefix="v0=",
            template="v0:{timestamp}:{body}",
            timestamp_header="X-Slack-Request-Timestamp",
        )

    Args:
        secrets: One, or several while they are rotated.
        header: The header with the signature.
        encoding: ``hex`` (either case) or ``base64``.
        prefix: What stands before the signature in the header.
        template: What is signed, with ``{body}`` and ``{timestamp}`` in it.
        timestamp_header: The header with the timestamp, in seconds since the epoch.
        tolerance: Seconds that the timestamp may be off, in either direction.
        clock: The time.

    Raises:
        ValueError: An argument makes no sense.
    """

    def __init__(
        self,
        secrets: Secrets,
        *,
        header: str,
        encoding: Literal["hex", "base64"] = "hex",
        prefix: str = "",
        template: str = "{body}",
        timestamp_header: str | None = None,
        tolerance: float = 300,
        clock: Clock = time.time,
    ) -> None:
        # With the secret in them already; each signature begins with a copy.
        self._begun = tuple(hmac.new(secret, digestmod="sha256") for secret in as_secrets(secrets))
        self._names = (header, timestamp_header)
        self._header = as_header(header)
        if encoding not in ("hex", "base64"):
            raise ValueError(f"encoding must be hex or base64, not {encoding!r}")
        self._hex = encoding == "hex"
        self._prefix = prefix.encode()
        self._template = _parsed(template, timed=timestamp_header is not None)
        self._timestamp_header = None if timestamp_header is None else as_header(timestamp_header)
        self._tolerance = checked_tolerance(tolerance)
        self._clock = clock

    def verify(self, request: WebhookRequest) -> None:
        """Accept a webhook whose signature is right; raise WebhookRejected otherwise."""
        given = single(request, self._header)
        timestamp = b""
        if self._timestamp_header is not None:
            value = single(request, self._timestamp_header)
            timestamp = timestamp_of(value, now=self._clock(), tolerance=self._tolerance)
        if not given.startswith(self._prefix):
            raise WebhookRejected("signature without its prefix")
        given = given[len(self._prefix) :]
        if self._hex:
            given = given.lower()
        found = False
        for begun in self._begun:
            # How long a signature is, is no secret: there is no need to hide it behind a hash of both.
            found |= hmac.compare_digest(given, self._signature(begun, request.body, timestamp))
        if not found:
            raise WebhookRejected("signature does not match")

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002, ARG002 - the name in the standard; nothing signs it here
    ) -> dict[str, str]:
        """The headers that make a body authentic."""
        header, timestamp_header = self._names
        seconds = str(int(self._clock() if timestamp is None else timestamp))
        signature = self._prefix + self._signature(self._begun[0], body, seconds.encode())
        signed = {header: signature.decode()}
        if timestamp_header is not None:
            signed[timestamp_header] = seconds
        return signed

    def _signature(self, begun: hmac.HMAC, body: bytes, timestamp: bytes) -> bytes:
        mac = begun.copy()
        for text, name in self._template:
            if text:
                mac.update(text)
            if name:
                mac.update(body if name == "body" else timestamp)
        return mac.hexdigest().encode() if self._hex else base64.b64encode(mac.digest())


def _parsed(template: str, *, timed: bool) -> tuple[tuple[bytes, str], ...]:
    """The template as pairs of what stands there and what follows."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        parsed = []
    parts = tuple((text.encode(), name or "") for text, name, _, _ in parsed)
    # With a format or a conversion it would be a name that we do not know.
    names = sorted(f"{name}{spec}{how or ''}" for _, name, spec, how in parsed if name is not None)
    if names != (["body", "timestamp"] if timed else ["body"]):
        raise ValueError(
            "template must hold {body} once, and {timestamp} once just when there is a timestamp_header: "
            "a timestamp that is not signed protects from nothing"
        )
    return parts


class StandardWebhooks:
    """The scheme of https://www.standardwebhooks.com: webhook-id, webhook-timestamp and webhook-signature.

    Args:
        secrets: One, or several while they are rotated: base64 as text, with or without ``whsec_``, or raw
            bytes.
        tolerance: Seconds that the timestamp may be off, in either direction.
        clock: The time.

    Raises:
        ValueError: A secret is not base64.
    """

    def __init__(self, secrets: Secrets, *, tolerance: float = 300, clock: Clock = time.time) -> None:
        each = (secrets,) if isinstance(secrets, str | bytes) else tuple(secrets)
        pairs = zip(each, as_secrets(each), strict=True)
        self._secrets = tuple(_key(secret, raw=isinstance(given, bytes)) for given, secret in pairs)
        self._tolerance = checked_tolerance(tolerance)
        self._clock = clock

    def verify(self, request: WebhookRequest) -> str:
        """Accept a webhook whose signature is right and give its id; raise WebhookRejected otherwise."""
        id_ = single(request, b"webhook-id")
        if not 0 < len(id_) <= _LONGEST_ID:
            raise WebhookRejected("webhook-id is empty or too long")
        value = single(request, b"webhook-timestamp")
        timestamp = timestamp_of(value, now=self._clock(), tolerance=self._tolerance)
        given = single(request, b"webhook-signature").split(b" ")
        if len(given) > _MOST_SIGNATURES:
            raise WebhookRejected("too many signatures")
        expected = [self._signature(secret, id_, timestamp, request.body) for secret in self._secrets]
        found = [any_equal(signature, expected) for signature in given]
        if not any(found):
            raise WebhookRejected("signature does not match")
        return id_.decode("latin-1")

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """The headers that make a body authentic."""
        id_ = f"msg_{randomness.token_hex(16)}" if id is None else id
        seconds = str(int(self._clock() if timestamp is None else timestamp))
        signature = self._signature(self._secrets[0], id_.encode("latin-1"), seconds.encode(), body)
        return {"webhook-id": id_, "webhook-timestamp": seconds, "webhook-signature": signature.decode()}

    @staticmethod
    def _signature(secret: bytes, id_: bytes, timestamp: bytes, body: bytes) -> bytes:
        return b"v1," + base64.b64encode(hmac_sha256(secret, b".".join((id_, timestamp, body))))


def _key(secret: bytes, *, raw: bool) -> bytes:
    if raw and not secret.startswith(b"whsec_"):
        return secret
    try:
        decoded = base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded:
        raise ValueError("a secret given as text must be whsec_ and base64; give raw ones as bytes")
    return decoded


class SharedSecret:
    """A secret in a header, or in the query of the registered URL.

    A secret in the query shows in access logs: keep the query out of them.

    Args:
        secret: One, or several while they are rotated.
        header: The header that holds it, or
        query: the parameter that holds it; one of the two.

    Raises:
        ValueError: An argument makes no sense.
    """

    def __init__(self, secret: Secrets, *, header: str | None = None, query: str | None = None) -> None:
        self._secrets = as_secrets(secret)
        if (header is None) == (query is None):
            raise ValueError("say where the secret is: header= or query=, one of the two")
        if header is not None and not all(s.isascii() and s.decode().isprintable() for s in self._secrets):
            raise ValueError("a secret in a header must be printable ASCII")
        if query is not None and not query:
            raise ValueError("query must be the name of a parameter")
        self._name = header
        self._header = None if header is None else as_header(header)
        self._query = (query or "").encode()

    def verify(self, request: WebhookRequest) -> None:
        """Accept a webhook that knows the secret; raise WebhookRejected otherwise."""
        if self._header is not None:
            matches = any_equal(single(request, self._header), self._secrets)
        else:
            given = self._in_query(request.query)
            # A plus is a space to forms and a plus to RFC 3986: whoever registered the URL meant one of them.
            plus, space = unquote_to_bytes(given), unquote_to_bytes(given.replace(b"+", b" "))
            matches = any_equal(plus, self._secrets) | any_equal(space, self._secrets)
        if not matches:
            raise WebhookRejected("secret does not match")

    def _in_query(self, query: str) -> bytes:
        # A query that is no text comes with surrogates in it, which must be neither an error nor a match.
        pairs = [part.partition(b"=") for part in query.encode(errors="surrogatepass").split(b"&")]
        found = [value for name, _, value in pairs if unquote_to_bytes(name) == self._query]
        if len(found) != 1:
            raise WebhookRejected(f"secret {'twice' if found else 'missing'} in the query")
        return found[0]

    def sign(
        self,
        body: bytes,  # noqa: ARG002 - a secret is the same for every body
        *,
        timestamp: float | None = None,  # noqa: ARG002 - the same
        id: str | None = None,  # noqa: A002, ARG002 - the same
    ) -> dict[str, str]:
        """The header that holds the secret; none if it stands in the query of the URL."""
        return {} if self._name is None else {self._name: self._secrets[0].decode()}


class BasicAuth:
    """HTTP Basic authentication, as a registered URL ``https://user:password@host/path`` gives it.

    Args:
        user: Without a colon.
        password: One, or several while they are rotated.

    Raises:
        ValueError: An argument makes no sense.
    """

    def __init__(self, user: str, password: Secrets) -> None:
        if not user or ":" in user:
            raise ValueError("user must not be empty or hold a colon")
        self._expected = tuple(user.encode() + b":" + secret for secret in as_secrets(password))

    def verify(self, request: WebhookRequest) -> None:
        """Accept a webhook that knows the password; raise WebhookRejected otherwise."""
        scheme, _, encoded = single(request, b"authorization").partition(b" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            given = b""
        if scheme.lower() != b"basic" or not any_equal(given, self._expected):
            raise WebhookRejected("user or password does not match")

    def sign(
        self,
        body: bytes,  # noqa: ARG002 - a password is the same for every body
        *,
        timestamp: float | None = None,  # noqa: ARG002 - the same
        id: str | None = None,  # noqa: A002, ARG002 - the same
    ) -> dict[str, str]:
        """The header that holds user and password."""
        return {"Authorization": "Basic " + base64.b64encode(self._expected[0]).decode()}
