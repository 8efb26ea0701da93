"""What the verification schemes share: secrets, single headers, timestamps, comparison."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence

from avaturn_async.errors import WebhookRejected
from avaturn_async.webhooks.request import WebhookRequest

Secret = str | bytes
Secrets = Secret | Sequence[Secret]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Twelve digits last for 30,000 years; what is longer is no time.
_TIMESTAMP = re.compile(rb"[0-9]{1,12}")


def as_secrets(given: Secrets) -> tuple[bytes, ...]:
    """The secrets as bytes, the first of which signs.

    Raises:
        ValueError: There is none, or one is empty, blank or padded.
        TypeError: One is neither text nor bytes.
    """
    each = (given,) if isinstance(given, str | bytes) else tuple(given)
    if not each:
        raise ValueError("at least one secret is needed")
    return tuple(map(_as_secret, each))


def _as_secret(given: Secret) -> bytes:
    if not isinstance(given, str | bytes):
        raise TypeError(f"a secret must be str or bytes, not {type(given).__name__}")
    if not given.strip():
        raise ValueError("a secret must not be empty or blank: is the environment variable set?")
    # Bytes that are no text may begin or end with what would be a space in one.
    if given != given.strip() and (isinstance(given, str) or given.isascii()):
        raise ValueError("a secret must not begin or end with white space: strip the line end of the file")
    return given.encode() if isinstance(given, str) else given


def as_header(name: str) -> bytes:
    """The name of a header, in lower case.

    Raises:
        ValueError: It is none.
    """
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"not the name of a header: {name[:60]!r}")
    return name.lower().encode()


def single(request: WebhookRequest, name: bytes) -> bytes:
    """The value of a header that must occur once; its name in lower case."""
    values = request.headers.by_name.get(name, ())
    if len(values) != 1:
        what = "twice" if values else "missing"
        raise WebhookRejected(f"header {name.decode()} {what}")
    return values[0].strip(b" \t")


def timestamp_of(value: bytes, *, now: float, tolerance: float) -> bytes:
    """A timestamp that is near enough to now, as it was sent."""
    if not _TIMESTAMP.fullmatch(value):
        raise WebhookRejected("timestamp is not a number of seconds")
    age = now - int(value)
    if abs(age) > tolerance:
        raise WebhookRejected("timestamp too old" if age > 0 else "timestamp in the future")
    return value


def hmac_sha256(secret: bytes, content: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(secret, content, "sha256")


def any_equal(given: bytes, expected: Sequence[bytes]) -> bool:
    """Whether the given bytes are one of those expected, in a time that tells nothing of which or how far."""
    digest = hashlib.sha256(given).digest()
    found = False
    for candidate in expected:
        found |= hmac.compare_digest(digest, hashlib.sha256(candidate).digest())
    return found


def checked_tolerance(tolerance: float) -> float:
    """Seconds that a clock may be off, from 0 up."""
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be a number of seconds from 0 up, not {tolerance!r}")
    return tolerance


Clock = Callable[[], float]
