"""Verification schemes for webhooks, their combinations, and ``sign()`` for each.

Avaturn does not publish a scheme of its own, so there is no default. All schemes compare raw bytes in constant
time. The reason for a rejection is logged and never sent: the sender receives a plain 401.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import re
import time
from collections.abc import Callable, Sequence
from secrets import token_hex
from string import Formatter
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

from avaturn_async._validation import get_kind, validate_seconds, validate_type
from avaturn_async.errors import WebhookRejected
from avaturn_async.webhooks.request import WebhookRequest

__all__ = [
    "AllOf",
    "AnyOf",
    "BasicAuth",
    "HmacSha256",
    "SharedSecret",
    "StandardWebhooks",
    "Unverified",
    "Verifier",
]

Clock = Callable[[], float]
Secret = str | bytes
Secrets = Secret | Sequence[Secret]

_MAX_SIGNATURES = 20
_MAX_PARAMETERS = 100
_MAX_ID_LENGTH = 256
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Twelve digits reach the year 33,658.
_TIMESTAMP = re.compile(rb"[0-9]{1,12}")


def parse_secrets(given: Secrets) -> tuple[bytes, ...]:
    """Return the secrets as bytes. The first one signs.

    Raises:
        ValueError: The sequence is empty, or a secret is empty, blank or padded.
        TypeError: A secret is neither str nor bytes.
    """
    each = _list_secrets(given)
    if not each:
        raise ValueError("at least one secret is needed")
    return tuple(map(_parse_secret, each))


def _list_secrets(given: Any) -> tuple[Any, ...]:
    # _parse_secret() refuses None and numbers.
    return tuple(given) if hasattr(given, "__iter__") and not isinstance(given, str | bytes) else (given,)


def _parse_secret(given: Secret) -> bytes:
    if not isinstance(given, str | bytes):
        remedy = ": is the environment variable set?" if given is None else ""
        raise TypeError(f"a secret must be str or bytes, not {type(given).__name__}{remedy}")
    if not given.strip():
        raise ValueError("a secret must not be empty or blank: is the environment variable set?")
    # Random bytes may begin or end with a byte that is white space in ASCII.
    if given != given.strip() and (isinstance(given, str) or given.isascii()):
        raise ValueError("a secret must not begin or end with white space: strip the line end of the file")
    return given.encode() if isinstance(given, str) else given


def parse_header_name(name: str) -> bytes:
    """Return the name of a header in lower case.

    Raises:
        ValueError: ``name`` is not a header name (RFC 9110 5.1).
        TypeError: ``name`` is not a str.
    """
    validate_type("the name of a header", name, str)
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"not the name of a header: {name[:60]!r}")
    return name.lower().encode()


def get_single_header(request: WebhookRequest, name: bytes) -> bytes:
    """Return the value of a header; raise WebhookRejected unless it occurs exactly once."""
    values = request.values(name)
    if len(values) != 1:
        what = "twice" if values else "missing"
        raise WebhookRejected(f"header {name.decode()} {what}")
    return values[0].strip(b" \t")


def validate_timestamp(value: bytes, *, now: float, tolerance: float) -> bytes:
    """Return a timestamp as sent; raise WebhookRejected if it is not within the tolerance."""
    if not _TIMESTAMP.fullmatch(value):
        raise WebhookRejected("timestamp is not a number of seconds")
    age = now - int(value)
    if abs(age) > tolerance:
        raise WebhookRejected("timestamp too old" if age > 0 else "timestamp in the future")
    return value


def any_equal(given: bytes, expected: Sequence[bytes]) -> bool:
    """Return whether ``given`` equals one of ``expected``, in constant time."""
    digest = hashlib.sha256(given).digest()
    found = False
    for candidate in expected:
        found |= hmac.compare_digest(digest, hashlib.sha256(candidate).digest())
    return found


@runtime_checkable
class Verifier(Protocol):
    """Decides whether a webhook is authentic.

    A verifier that needs only the head of a request may also have ``verify_headers(request)``, which raises
    WebhookRejected. The receiver calls it before the body is read.

    A rejection is an exception, never a result: a result that is neither a str nor None, such as False or a coroutine,
    is an error of the verifier, and the receiver stores nothing.
    """

    def verify(self, request: WebhookRequest) -> str | None:
        """Return the signed delivery id of an authentic request.

        Returns:
            The id of the delivery if the signature covers one, else None.

        Raises:
            WebhookRejected: The request is not authentic; the message is for the log.
        """
        ...

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """Return the headers that make ``body`` authentic, signed with the first secret."""
        ...


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
        secrets: One secret, or several during a rotation.
        header: The header with the signature.
        encoding: ``hex`` (upper or lower case) or ``base64``.
        prefix: Text before the signature in the header.
        template: The signed text, with ``{body}`` and ``{timestamp}`` in it.
        timestamp_header: The header with the timestamp, in seconds since the epoch.
        tolerance: Seconds that the timestamp may be off, in either direction.
        clock: Returns seconds since the epoch.

    Raises:
        ValueError: An argument is invalid.
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
        # A copy of an HMAC that holds the key costs less than a new one.
        self._keyed = tuple(hmac.new(secret, digestmod="sha256") for secret in parse_secrets(secrets))
        # As given, for sign().
        self._names = (header, timestamp_header)
        self._header = parse_header_name(header)
        if encoding not in ("hex", "base64"):
            raise ValueError(f"encoding must be hex or base64, not {encoding!r}")
        self._hex = encoding == "hex"
        self._prefix = prefix.encode()
        self._template = _parse_template(template, timed=timestamp_header is not None)
        self._timestamp_header = None if timestamp_header is None else parse_header_name(timestamp_header)
        self._tolerance = validate_seconds("tolerance", tolerance)
        self._clock = clock

    def verify(self, request: WebhookRequest) -> None:
        """Accept a request with a valid signature; raise WebhookRejected otherwise."""
        given = get_single_header(request, self._header)
        timestamp = b""
        if self._timestamp_header is not None:
            value = get_single_header(request, self._timestamp_header)
            timestamp = validate_timestamp(value, now=self._clock(), tolerance=self._tolerance)
        if not given.startswith(self._prefix):
            raise WebhookRejected("signature without its prefix")
        given = given[len(self._prefix) :]
        if self._hex:
            given = given.lower()
        found = False
        for keyed in self._keyed:
            # The length of a signature is not secret, so compare_digest may reveal it.
            found |= hmac.compare_digest(given, self._make_signature(keyed, request.body, timestamp))
        if not found:
            raise WebhookRejected("signature does not match")

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002, ARG002 - the name in the standard; nothing signs it here
    ) -> dict[str, str]:
        """Return the headers that make ``body`` authentic."""
        header, timestamp_header = self._names
        seconds = str(int(self._clock() if timestamp is None else timestamp))
        signature = self._prefix + self._make_signature(self._keyed[0], body, seconds.encode())
        signed = {header: signature.decode()}
        if timestamp_header is not None:
            signed[timestamp_header] = seconds
        return signed

    def _make_signature(self, keyed: hmac.HMAC, body: bytes, timestamp: bytes) -> bytes:
        mac = keyed.copy()
        for text, name in self._template:
            if text:
                mac.update(text)
            if name:
                mac.update(body if name == "body" else timestamp)
        return mac.hexdigest().encode() if self._hex else base64.b64encode(mac.digest())


def _parse_template(template: str, *, timed: bool) -> tuple[tuple[bytes, str], ...]:
    """Return the template as pairs of literal text and the name of the placeholder after it."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        parsed = []
    parts = tuple((text.encode(), name or "") for text, name, _, _ in parsed)
    # A format or a conversion makes an unknown name, which is refused below.
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
        secrets: One secret, or several during a rotation: base64 as str, with or without ``whsec_``, or raw bytes.
            Bytes that begin with ``whsec_`` are base64 too.
        tolerance: Seconds that the timestamp may be off, in either direction.
        clock: Returns seconds since the epoch.

    Raises:
        ValueError: A secret is not base64.
    """

    def __init__(self, secrets: Secrets, *, tolerance: float = 300, clock: Clock = time.time) -> None:
        each = _list_secrets(secrets)
        pairs = zip(each, parse_secrets(each), strict=True)
        self._secrets = tuple(_decode_secret(secret, raw=isinstance(given, bytes)) for given, secret in pairs)
        self._tolerance = validate_seconds("tolerance", tolerance)
        self._clock = clock

    def verify(self, request: WebhookRequest) -> str:
        """Return the delivery id of a request with a valid signature; raise WebhookRejected otherwise."""
        id_ = get_single_header(request, b"webhook-id")
        if not 0 < len(id_) <= _MAX_ID_LENGTH:
            raise WebhookRejected("webhook-id is empty or too long")
        value = get_single_header(request, b"webhook-timestamp")
        timestamp = validate_timestamp(value, now=self._clock(), tolerance=self._tolerance)
        given = get_single_header(request, b"webhook-signature").split(b" ")
        if len(given) > _MAX_SIGNATURES:
            raise WebhookRejected("too many signatures")
        expected = [self._make_signature(secret, id_, timestamp, request.body) for secret in self._secrets]
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
        """Return the headers that make ``body`` authentic."""
        id_ = f"msg_{token_hex(16)}" if id is None else id
        seconds = str(int(self._clock() if timestamp is None else timestamp))
        signature = self._make_signature(self._secrets[0], id_.encode("latin-1"), seconds.encode(), body)
        return {"webhook-id": id_, "webhook-timestamp": seconds, "webhook-signature": signature.decode()}

    @staticmethod
    def _make_signature(secret: bytes, id_: bytes, timestamp: bytes, body: bytes) -> bytes:
        return b"v1," + base64.b64encode(hmac.digest(secret, b".".join((id_, timestamp, body)), "sha256"))


def _decode_secret(secret: bytes, *, raw: bool) -> bytes:
    if raw and not secret.startswith(b"whsec_"):
        return secret
    try:
        decoded = base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded:
        raise ValueError("a secret given as str must be base64, with or without whsec_: give a raw secret as bytes")
    return decoded


class SharedSecret:
    """A secret in a header, or in the query of the registered URL.

    Access logs show the query: configure them to omit it.

    Args:
        secret: One secret, or several during a rotation.
        header: The header that holds the secret. Give either ``header`` or ``query``.
        query: The query parameter that holds the secret.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(self, secret: Secrets, *, header: str | None = None, query: str | None = None) -> None:
        self._secrets = parse_secrets(secret)
        if (header is None) == (query is None):
            raise ValueError("say where the secret is: header= or query=, one of the two")
        if header is not None and not all(s.isascii() and s.decode().isprintable() for s in self._secrets):
            raise ValueError("a secret in a header must be printable ASCII")
        if query is not None and not query:
            raise ValueError("query must be the name of a parameter")
        self._name = header
        self._header = None if header is None else parse_header_name(header)
        self._query = (query or "").encode()

    def verify(self, request: WebhookRequest) -> None:
        """Accept a request that holds the secret; raise WebhookRejected otherwise."""
        if self._header is not None:
            matches = any_equal(get_single_header(request, self._header), self._secrets)
        else:
            given = self._find_in_query(request.query)
            # A plus is a space in HTML forms and a plus in RFC 3986.
            plus, space = unquote_to_bytes(given), unquote_to_bytes(given.replace(b"+", b" "))
            matches = any_equal(plus, self._secrets) | any_equal(space, self._secrets)
        if not matches:
            raise WebhookRejected("secret does not match")

    def verify_headers(self, request: WebhookRequest) -> None:
        """Verify the request by its head; this scheme does not use the body."""
        self.verify(request)

    def _find_in_query(self, query: str) -> bytes:
        # A query that is not UTF-8 holds surrogates (see asgi.py), which must not raise.
        if query.count("&") > _MAX_PARAMETERS:
            raise WebhookRejected("too many parameters in the query")  # each one costs time
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
        """Return the header with the secret; an empty dict if the secret is in the query of the URL."""
        return {} if self._name is None else {self._name: self._secrets[0].decode()}


class BasicAuth:
    """HTTP Basic authentication, as a registered URL ``https://user:password@host/path`` gives it.

    Args:
        user: The user name. It must not contain a colon (RFC 7617 2).
        password: One password, or several during a rotation.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(self, user: str, password: Secrets) -> None:
        validate_type("user", user, str)
        if not user or ":" in user:
            raise ValueError("user must not be empty or hold a colon")
        self._expected = tuple(user.encode() + b":" + secret for secret in parse_secrets(password))

    def verify(self, request: WebhookRequest) -> None:
        """Accept a request that holds user and password; raise WebhookRejected otherwise."""
        scheme, _, encoded = get_single_header(request, b"authorization").partition(b" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            given = b""
        if scheme.lower() != b"basic" or not any_equal(given, self._expected):
            raise WebhookRejected("user or password does not match")

    def verify_headers(self, request: WebhookRequest) -> None:
        """Verify the request by its head; this scheme does not use the body."""
        self.verify(request)

    def sign(
        self,
        body: bytes,  # noqa: ARG002 - a password is the same for every body
        *,
        timestamp: float | None = None,  # noqa: ARG002 - the same
        id: str | None = None,  # noqa: A002, ARG002 - the same
    ) -> dict[str, str]:
        """Return the header with user and password."""
        return {"Authorization": "Basic " + base64.b64encode(self._expected[0]).decode()}


class Unverified:
    """Accepts each request. The receiver takes it only together with ``confirm=``."""

    accepts_unsigned = True

    def verify(self, request: WebhookRequest) -> None:
        """Accept each request."""

    def sign(
        self,
        body: bytes,  # noqa: ARG002 - there is nothing to sign
        *,
        timestamp: float | None = None,  # noqa: ARG002 - the same
        id: str | None = None,  # noqa: A002, ARG002 - the same
    ) -> dict[str, str]:
        """Return an empty dict."""
        return {}


class _Combination:
    def __init__(self, *verifiers: Verifier) -> None:
        if not verifiers:
            raise ValueError(f"{type(self).__name__}() needs at least one verifier")
        for verifier in verifiers:
            validate_verifier(verifier)
        self._verifiers = verifiers


class AllOf(_Combination):
    """Accepts a request that all its verifiers accept, such as a secret in the URL and a signature."""

    @property
    def accepts_unsigned(self) -> bool:
        """Whether a request without any secret can be accepted."""
        return all(accepts_unsigned(verifier) for verifier in self._verifiers)

    def verify(self, request: WebhookRequest) -> str | None:
        """Accept a request that all verifiers accept. Return the first signed delivery id."""
        ids = [verify(verifier, request) for verifier in self._verifiers]
        return next((id_ for id_ in ids if id_ is not None), None)

    def verify_headers(self, request: WebhookRequest) -> None:
        """Raise WebhookRejected if a verifier rejects the request by its head alone."""
        for verifier in self._verifiers:
            verify(verifier, request, by_head=True)

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """Return the headers of all verifiers."""
        signed: dict[str, str] = {}
        for verifier in self._verifiers:
            signed |= verifier.sign(body, timestamp=timestamp, id=id)
        return signed


class AnyOf(_Combination):
    """Accepts a request that one of its verifiers accepts, for a change from one scheme to another."""

    @property
    def accepts_unsigned(self) -> bool:
        """Whether a request without any secret can be accepted."""
        return any(accepts_unsigned(verifier) for verifier in self._verifiers)

    def verify(self, request: WebhookRequest) -> str | None:
        """Accept a request that one verifier accepts. Return its signed delivery id."""
        reasons: list[str] = []
        for verifier in self._verifiers:
            try:
                return verify(verifier, request)
            except WebhookRejected as rejected:
                reasons.append(str(rejected))
        raise WebhookRejected("; ".join(reasons))

    def verify_headers(self, request: WebhookRequest) -> None:
        """Raise WebhookRejected if all verifiers reject the request by its head alone."""
        reasons: list[str] = []
        for verifier in self._verifiers:
            try:
                verify(verifier, request, by_head=True)
            except WebhookRejected as rejected:
                reasons.append(str(rejected))
            else:
                return
        raise WebhookRejected("; ".join(reasons))

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """Return the headers of the first verifier."""
        return self._verifiers[0].sign(body, timestamp=timestamp, id=id)


def validate_verifier(verifier: Any) -> None:
    """Raise TypeError if ``verifier`` is a class, lacks verify() or sign(), or verifies in an async function."""
    if isinstance(verifier, type):
        raise TypeError(f"a verifier is an object, not a class: call {verifier.__name__}(...)")
    if not isinstance(verifier, Verifier):
        # The value is not shown: it may be the secret itself.
        raise TypeError(f"a verifier must have verify() and sign(), not be a {type(verifier).__name__}")
    for name in ("verify", "verify_headers"):
        if inspect.iscoroutinefunction(getattr(verifier, name, None)):
            raise TypeError(f"{type(verifier).__name__}.{name}() must not be async: it is called without await")


def accepts_unsigned(verifier: Verifier) -> bool:
    """Return whether a request without any secret can be accepted, so that ``confirm=`` is needed."""
    return bool(getattr(verifier, "accepts_unsigned", False))


def verify(verifier: Verifier, request: WebhookRequest, *, by_head: bool = False) -> str | None:
    """Return the signed delivery id of an authentic request, or None.

    Args:
        verifier: Decides whether the request is authentic.
        request: The request.
        by_head: Verify the head alone; a verifier that needs the body accepts it.

    Raises:
        WebhookRejected: The request is not authentic.
        TypeError: The result of the verifier is neither a str nor None.
    """
    check: Callable[[WebhookRequest], Any] | None
    check = getattr(verifier, "verify_headers", None) if by_head else verifier.verify
    result = None if check is None else check(request)
    if result is None or isinstance(result, str):
        return result
    # A False or a coroutine would otherwise count as a delivery id, and so as authentic.
    raise TypeError(f"a verifier must return a str or None, or raise WebhookRejected, not return {get_kind(result)}")
