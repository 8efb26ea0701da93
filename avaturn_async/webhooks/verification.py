"""Whether a webhook is authentic: the schemes and their combinations, each with a ``sign()``.

Avaturn publishes no scheme of its own, which is why there are several and none is the default. All compare
raw bytes in constant time, and all tell the log what was wrong and the sender nothing.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from avaturn_async.errors import WebhookRejected
from avaturn_async.webhooks._schemes import BasicAuth, HmacSha256, SharedSecret, StandardWebhooks
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


@runtime_checkable
class Verifier(Protocol):
    """What decides whether a webhook is authentic."""

    def verify(self, request: WebhookRequest) -> str | None:
        """Accept a webhook.

        Returns:
            The id of the delivery, if one was signed.

        Raises:
            WebhookRejected: It is not authentic; the message is for the log.
        """
        ...

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """The headers that make a body authentic, signed with the first secret."""
        ...


class Unverified:
    """Accepts everything: only together with a ``confirm=`` that believes the API and not the POST."""

    believes_anybody = True

    def verify(self, request: WebhookRequest) -> None:
        """Accept a webhook."""

    def sign(
        self,
        body: bytes,  # noqa: ARG002 - there is nothing to sign
        *,
        timestamp: float | None = None,  # noqa: ARG002 - the same
        id: str | None = None,  # noqa: A002, ARG002 - the same
    ) -> dict[str, str]:
        """Nothing."""
        return {}


class _Several:
    def __init__(self, *verifiers: Verifier) -> None:
        if not verifiers:
            raise ValueError(f"{type(self).__name__}() needs at least one verifier")
        for verifier in verifiers:
            check_verifier(verifier)
        self._verifiers = verifiers


class AllOf(_Several):
    """Accepts what every one of its verifiers accepts, such as a secret in the URL and a signature."""

    @property
    def believes_anybody(self) -> bool:
        """Whether something without any secret could be accepted."""
        return all(believes_anybody(verifier) for verifier in self._verifiers)

    def verify(self, request: WebhookRequest) -> str | None:
        """Accept a webhook that all accept, and give the first id that was signed."""
        ids = [verifier.verify(request) for verifier in self._verifiers]
        return next((id_ for id_ in ids if id_ is not None), None)

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """The headers of all of them."""
        signed: dict[str, str] = {}
        for verifier in self._verifiers:
            signed |= verifier.sign(body, timestamp=timestamp, id=id)
        return signed


class AnyOf(_Several):
    """Accepts what one of its verifiers accepts, for a change from one scheme to another."""

    @property
    def believes_anybody(self) -> bool:
        """Whether something without any secret could be accepted."""
        return any(believes_anybody(verifier) for verifier in self._verifiers)

    def verify(self, request: WebhookRequest) -> str | None:
        """Accept a webhook that one accepts, and give the id that was signed."""
        reasons: list[str] = []
        for verifier in self._verifiers:
            try:
                return verifier.verify(request)
            except WebhookRejected as rejected:
                reasons.append(str(rejected))
        raise WebhookRejected("; ".join(reasons))

    def sign(
        self,
        body: bytes,
        *,
        timestamp: float | None = None,
        id: str | None = None,  # noqa: A002 - the name in the standard
    ) -> dict[str, str]:
        """The headers of the first of them."""
        return self._verifiers[0].sign(body, timestamp=timestamp, id=id)


def check_verifier(verifier: Any) -> None:
    """Raise TypeError for what is no verifier, also for the class of one."""
    if isinstance(verifier, type):
        raise TypeError(f"a verifier is an object, not a class: call {verifier.__name__}(...)")
    if not isinstance(verifier, Verifier):
        # What it is and not its value: somebody may have passed the secret itself.
        raise TypeError(f"a verifier must have verify() and sign(), not be a {type(verifier).__name__}")


def believes_anybody(verifier: Verifier) -> bool:
    """Whether something without any secret could be accepted, so that ``confirm=`` is needed."""
    return bool(getattr(verifier, "believes_anybody", False))
