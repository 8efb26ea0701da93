"""``fake``: run FakeAvaturn alone, for front-end work and demos."""

from __future__ import annotations

import argparse
import asyncio

from avaturn_async.cli.options import add_address_options, integer, seconds, web_url
from avaturn_async.cli.output import UsageError, say
from avaturn_async.cli.schemes import add_query_secret, add_scheme_options, get_secrets, make_signer
from avaturn_async.cli.server import address_errors
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
_number = integer(0, 2**31 - 1)


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
    with address_errors(options):
        async with fake:
            say(_USAGE.format(url=fake.url, token=options.token or "anything"))
            await asyncio.Event().wait()


def _parse_fault(text: str) -> tuple[Fault | WebhookFault | str, int | None, str | None]:
    """Return a fault, how often it happens (None: always), and the path or event that it applies to."""
    spec, _, rest = text.partition(":")
    times, _, where = rest.partition(":")
    try:
        fault = _make_fault(spec)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not times:
        times = "all" if spec.startswith("rate_limit=") else "1"
    if times == "all" and not isinstance(fault, Fault):
        raise argparse.ArgumentTypeError(f"{spec} needs a number of times")
    if where and isinstance(fault, str):
        raise argparse.ArgumentTypeError(f"{spec} has no path or event")
    return fault, None if times == "all" else _number(times), where or None


def _make_fault(spec: str) -> Fault | WebhookFault | str:
    """Return a fault of a response or a webhook, or the kind of task that fails."""
    kind, _, value = spec.partition("=")
    match kind, value.split("/") if value else []:
        case "answer", [status]:
            return Fault.answer(integer(200, 599)(status))
        case "bad_gateway", []:
            return Fault.bad_gateway()
        case "rate_limited", []:
            return Fault.rate_limited()
        case "rate_limited", [retry_after]:
            return Fault.rate_limited(_number(retry_after))
        case "rate_limit", [calls, per]:
            return Fault.rate_limit(_number(calls), seconds(per))
        case "reset", []:
            return Fault.reset()
        case "reset", [at]:
            return Fault.reset(at=_number(at))
        case "cut", [at]:
            return Fault.cut(_number(at))
        case "stall", []:
            return Fault.stall()
        case "stall", [at]:
            return Fault.stall(_number(at))
        case "slow", [delay]:
            return Fault.slow(seconds(delay))
        case "drop", []:
            return WebhookFault.drop()
        case "duplicate", []:
            return WebhookFault.duplicate()
        case "duplicate", [copies]:
            return WebhookFault.duplicate(_number(copies))
        case "reorder", []:
            return WebhookFault.reorder()
        case "late", [delay]:
            return WebhookFault.late(seconds(delay))
        case "failed_avatar" | "failed_export" | "failed_render", []:
            return kind.removeprefix("failed_")
        case _:
            raise argparse.ArgumentTypeError(f"not a fault: {spec}")
