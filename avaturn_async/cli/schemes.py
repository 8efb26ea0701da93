"""Secrets, and the verification scheme that the options of a command describe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from yarl import URL

from avaturn_async.cli.output import UsageError, get_reason
from avaturn_async.webhooks import BasicAuth, HmacSha256, SharedSecret, StandardWebhooks, Verifier

DEFAULT_PARAMETER = "key"
_VARIABLE = "AVATURN_WEBHOOK_SECRET"
_SECRET_OPTIONS = ["secret_env", "secret_file"]
# The options that each scheme takes beside those, and the one that it needs.
_TAKEN = {
    "hmac": ["header", "encoding", "prefix", "template", "timestamp_header", "tolerance"],
    "standard": ["tolerance"],
    "header": ["header"],
    "query": ["parameter"],
    "basic": ["user"],
}
_NEEDED = {"hmac": "header", "header": "header", "basic": "user"}


def add_scheme_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options that describe a verification scheme and its secrets."""
    group = parser.add_argument_group(
        "verification",
        "hmac: HMAC-SHA256 in --header. standard: Standard Webhooks. header: the secret itself in --header. "
        "query: the secret itself in the URL's query. basic: the secret is the password of --user.",
    )
    add = group.add_argument
    add("--scheme", choices=sorted(_TAKEN), required=required, help="how a webhook is verified")
    add("--header", metavar="NAME", help="the header with the signature, or with the secret")
    add("--parameter", metavar="NAME", help=f"the parameter with the secret ({DEFAULT_PARAMETER})")
    add("--user", metavar="NAME", help="the user of Basic authentication")
    add("--encoding", choices=("hex", "base64"), help="encoding of an HMAC signature (hex)")
    add("--prefix", metavar="TEXT", help="text before an HMAC signature, such as sha256=")
    add("--template", metavar="TEXT", help="what HMAC signs ({body}), such as {timestamp}.{body}")
    add("--timestamp-header", metavar="NAME", help="the header with the timestamp that HMAC signs")
    add("--tolerance", type=float, metavar="SECONDS", help="largest age of a signed timestamp (300)")
    add("--secret-env", metavar="NAME", help=f"the environment variable with the secret ({_VARIABLE})")
    add(
        "--secret-file",
        metavar="FILE",
        action="append",
        # A file can be a pipe, which is read only once.
        type=_read_secret,
        help="a file with the secret instead; again for each secret during a rotation",
    )
    add("--secret", type=_refuse_secret, help=argparse.SUPPRESS)


def _read_secret(name: str) -> str:
    try:
        return Path(name).read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read the secret in {name}: {get_reason(error)}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"the secret in {name} is not UTF-8") from None


def _refuse_secret(_: str) -> NoReturn:
    raise argparse.ArgumentTypeError(
        f"a secret on the command line is visible in the list of processes: put it into {_VARIABLE} "
        "or into a file, --secret-file"
    )


def get_secrets(options: argparse.Namespace, *, required: bool = False) -> list[str]:
    """Return the secrets, of which the first one signs.

    Raises:
        UsageError: There is no secret, although it is ``required`` or ``--secret-env`` is given; or a secret is not
            UTF-8.
    """
    if options.secret_file:
        return list(options.secret_file)
    name = options.secret_env or _VARIABLE
    secret = os.environ.get(name, "")
    if not secret and (required or options.secret_env):
        raise UsageError(f"{name} is not set: put the secret there, or name a file with --secret-file")
    # Python decodes bytes of the environment that are not UTF-8 as lone surrogates.
    if any("\ud800" <= c <= "\udfff" for c in secret):
        raise UsageError(f"{name} is not UTF-8")
    return [secret] if secret else []


def make_verifier(options: argparse.Namespace) -> Verifier:
    """Return the verifier of ``--scheme``.

    Raises:
        UsageError: An option does not belong to the scheme, is missing or invalid, or there is no secret.
    """
    scheme: str = options.scheme
    _refuse_options(options, taken=[*_TAKEN[scheme], *_SECRET_OPTIONS], where=f"for --scheme {scheme}")
    given = {name: value for name in _TAKEN[scheme] if (value := getattr(options, name)) is not None}
    if scheme in _NEEDED and _NEEDED[scheme] not in given:
        raise UsageError(f"--scheme {scheme} needs --{_NEEDED[scheme]}")
    secrets = get_secrets(options, required=True)
    try:
        match scheme:
            case "hmac":
                return HmacSha256(secrets, **given)
            case "standard":
                return StandardWebhooks(secrets, **given)
            case "header":
                return SharedSecret(secrets, header=given["header"])
            case "query":
                return SharedSecret(secrets, query=given.get("parameter", DEFAULT_PARAMETER))
            case _:
                return BasicAuth(given["user"], secrets)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _refuse_options(options: argparse.Namespace, *, taken: list[str], where: str) -> None:
    for name in dict.fromkeys([name for names in _TAKEN.values() for name in names] + _SECRET_OPTIONS):
        if name not in taken and getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} has no meaning {where}")


def make_signer(options: argparse.Namespace) -> Verifier | None:
    """Return the verifier that signs webhooks; None without ``--scheme``.

    Raises:
        UsageError: As for ``make_verifier``; or an option describes a scheme, but ``--scheme`` is missing.
    """
    if options.scheme is not None:
        return make_verifier(options)
    # An option of a scheme would suggest that webhooks are signed.
    _refuse_options(options, taken=[], where="without --scheme")
    return None


def add_query_secret(options: argparse.Namespace, url: URL) -> URL:
    """Return the URL that webhooks are posted to: with the secret, if the scheme is ``query``."""
    if options.scheme != "query":
        return url
    return url.extend_query({options.parameter or DEFAULT_PARAMETER: get_secrets(options)[0]})
