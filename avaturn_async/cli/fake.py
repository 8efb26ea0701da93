"""``fake``: run FakeAvaturn alone, for front-end work and demos."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from avaturn_async.cli.options import add_address_options, address_errors, integer, seconds, web_url
from avaturn_async.cli.output import UsageError, say
from avaturn_async.cli.schemes import add_query_secret, add_scheme_options, get_secrets, make_signer
from avaturn_async.testing import FakeAvaturn, Fault, WebhookFault

_USAGE = """\
FakeAvaturn listens at {url}
  export AVATURN_BASE_URL={url} AVATURN_API_TOKEN={token}
The URL of a session is a page to click through. Ctrl+C ends it."""
_FAULTS = """\
A FAULT is KIND[=VALUE][:TIMES[:WHERE]]: the next request or, with TIMES (a number or "all"), more of them. KINDs for
requests, where WHERE is a path such as /upload/*: answer=STATUS, bad_gateway, rate_limited[=SECONDS],
rate_limit=CALLS/SECONDS, reset[=BYTES], cut=BYTES, stall[=BYTES], slow=SECONDS. KINDs for webhooks, where WHERE is an
event such as export.ready: drop, duplicate[=COPIES], reorder, late=SECONDS. KINDs for results: failed_avatar,
failed_export, failed_render. Examples: bad_gateway:2, slow=3:all:/files/*, drop:1:export.ready."""


def _reset(at: int | None = None) -> Fault:
    return Fault.reset(at=at)


_number = integer(0, 2**31 - 1)
_KINDS: dict[str, tuple[Callable[..., Fault | WebhookFault | str], list[Callable[[str], float]]]] = {
    "answer": (Fault.answer, [integer(200, 599)]),
    "bad_gateway": (Fault.bad_gateway, []),
    "rate_limited": (Fault.rate_limited, [_number]),
    "rate_limit": (Fault.rate_limit, [_number, seconds]),
    "reset": (_reset, [_number]),
    "cut": (Fault.cut, [_number]),
    "stall": (Fault.stall, [_number]),
    "slow": (Fault.slow, [seconds]),
    "drop": (WebhookFault.drop, []),
    "duplicate": (WebhookFault.duplicate, [_number]),
    "reorder": (WebhookFault.reorder, []),
    "late": (WebhookFault.late, [seconds]),
    "failed_avatar": (lambda: "avatar", []),
    "failed_export": (lambda: "export", []),
    "failed_render": (lambda: "render", []),
}
"""Each KIND with what makes it, a fault or the kind of task that fails, and the types of its values."""
_KINDS_WITH_DEFAULT = {"rate_limited", "reset", "stall", "duplicate"}


def add_fake_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``fake``."""
    add_address_options(parser, port=8081)
    add = parser.add_argument
    add("--token", help="the only API token that is accepted (by default any)")
    add("--webhook-url", type=web_url, metavar="URL", help="where webhooks are posted")
    add(
        "--processing-delay",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="how long an avatar, an export or a render takes (%(default)s)",
    )
    add("--seed", type=int, help="make ids and URLs the same in every run")
    faults = parser.add_argument_group("faults", _FAULTS)
    faults.add_argument(
        "--fault", type=_parse_fault, action="append", default=[], metavar="FAULT", help="again for each fault"
    )
    add_scheme_options(parser, required=False)
    add("--signature-header", dest="header", metavar="NAME", help="the same as --scheme hmac --header NAME")


async def fake(options: argparse.Namespace) -> None:
    """Run FakeAvaturn, until interrupted."""
    if options.scheme is None and (options.header or get_secrets(options)):
        options.scheme, options.header = "hmac", options.header or "X-Webhook-Signature"
    signer = make_signer(options)
    webhook_url = None if options.webhook_url is None else str(add_query_secret(options, options.webhook_url))
    fake = FakeAvaturn(
        webhook_url,
        signer,
        token=options.token,
        processing_delay=options.processing_delay,
        seed=options.seed,
        host=options.host,
        port=options.port,
    )
    for fault, times, where in options.fault:
        try:
            match fault:
                case Fault():
                    fake.fail(fault, times=times, path=where or "*")
                case WebhookFault():
                    fake.fail_webhooks(fault, times=times, event=where)
                case _:
                    fake.fail_tasks(fault, times=times)
        except ValueError as error:
            raise UsageError(f"--fault: {error}") from None
    async with AsyncExitStack() as stack:
        with address_errors(options):
            await stack.enter_async_context(fake)
        say(_USAGE.format(url=fake.url, token=options.token or "anything"))
        await asyncio.Event().wait()


def _parse_fault(text: str) -> tuple[Fault | WebhookFault | str, int | None, str | None]:
    """Return a fault, how often it happens (None: always), and the path or event that it applies to."""
    spec, _, rest = text.partition(":")
    times, _, where = rest.partition(":")
    kind, _, value = spec.partition("=")
    values = value.split("/") if value else []
    if kind not in _KINDS:
        raise argparse.ArgumentTypeError(f"not a fault: {spec}; give one of {', '.join(_KINDS)}")
    make, types = _KINDS[kind]
    if len(values) != len(types) and (values or kind not in _KINDS_WITH_DEFAULT):
        raise argparse.ArgumentTypeError(f"{spec}: {kind} takes {('no value', 'one value', 'two values')[len(types)]}")
    if not times:
        times = "all" if kind == "rate_limit" else "1"
    try:
        fault = make(*(parse(value) for parse, value in zip(types, values, strict=False)))
        count = None if times == "all" else _number(times)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    if where and isinstance(fault, str):
        raise argparse.ArgumentTypeError(f"{text}: {kind} has no path or event")
    return fault, count, where or None
