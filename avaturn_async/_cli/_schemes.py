"""The verification scheme that a command's options describe."""

from __future__ import annotations

import argparse
from typing import Any

from avaturn_async._cli._failures import Misuse
from avaturn_async._secret_options import add_secret_options, no_secret, secrets_of
from avaturn_async.webhooks import BasicAuth, HmacSha256, SharedSecret, StandardWebhooks, Verifier

_NEEDED = {"hmac": {"header"}, "header": {"header"}, "basic": {"user"}}
_ALLOWED = {
    "hmac": {"header", "encoding", "prefix", "template", "timestamp_header", "tolerance"},
    "standard": {"tolerance"},
    "header": {"header"},
    "query": {"parameter"},
    "basic": {"user"},
}
_EVERY = ("header", "encoding", "prefix", "template", "timestamp_header", "tolerance", "parameter", "user")
PARAMETER = "key"
"""The parameter of the query in which the scheme ``query`` has its secret, unless it is given."""


def add_scheme_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Options that describe a verification scheme."""
    group = parser.add_argument_group(
        "verification",
        "hmac: HMAC-SHA256 in --header. standard: Standard Webhooks. header: the secret itself in --header. "
        "query: the secret itself in the URL's query. basic: the secret is the password of --user.",
    )
    add = group.add_argument
    add("--scheme", choices=sorted(_ALLOWED), required=required, help="how a webhook proves itself")
    add("--header", metavar="NAME", help="the header with the signature, or with the secret")
    add("--parameter", metavar="NAME", help=f"the parameter with the secret ({PARAMETER})")
    add("--user", metavar="NAME", help="the user of Basic authentication")
    add("--encoding", choices=("hex", "base64"), help="of an HMAC signature (hex)")
    add("--prefix", metavar="TEXT", help="what stands before an HMAC signature, such as sha256=")
    add("--template", metavar="TEXT", help="what HMAC signs ({body}), such as {timestamp}.{body}")
    add("--timestamp-header", metavar="NAME", help="the header with the timestamp that HMAC signs")
    add("--tolerance", type=float, metavar="SECONDS", help="how far a signed timestamp may be off (300)")
    add_secret_options(add)


def verifier_of(options: argparse.Namespace) -> Verifier:
    """The verifier that the options describe.

    Raises:
        Misuse: They describe none, or there is no secret.
    """
    scheme: str = options.scheme
    given = _given(options)
    try:
        secrets = secrets_of(options)
        if not secrets:
            raise no_secret()
        match scheme:
            case "hmac":
                return HmacSha256(secrets, **given)
            case "standard":
                return StandardWebhooks(secrets, **given)
            case "header":
                return SharedSecret(secrets, **given)
            case "query":
                return SharedSecret(secrets, query=given.get("parameter", PARAMETER))
            case _:
                return BasicAuth(given["user"], secrets)
    except ValueError as error:
        raise Misuse(str(error)) from None


def _given(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in _EVERY if getattr(options, name) is not None}
    for name in given.keys() - _ALLOWED[options.scheme]:
        raise Misuse(f"{_flag(name)} has no meaning for --scheme {options.scheme}")
    for name in _NEEDED.get(options.scheme, set()) - given.keys():
        raise Misuse(f"--scheme {options.scheme} needs {_flag(name)}")
    return given


def check_unsigned(options: argparse.Namespace) -> None:
    """Without ``--scheme`` nothing is signed, so nothing may look as if it were.

    Raises:
        Misuse: There is an option of a scheme.
    """
    for name in (*_EVERY, "secret_env", "secret_file"):
        if getattr(options, name) is not None:
            raise Misuse(f"{_flag(name)} has no meaning without --scheme")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
