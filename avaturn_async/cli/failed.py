"""``failed``: lists the events that handlers gave up; ``retry``: returns them to their handlers."""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from avaturn_async import webhooks
from avaturn_async.cli.output import CommandError, UsageError, get_reason, printable, say
from avaturn_async.errors import StoreError
from avaturn_async.webhooks.event_bus import EventBus
from avaturn_async.webhooks.routing import Record, decode_entry
from avaturn_async.webhooks.stores.base import Entry, EventStore

MAX_LISTED = 10_000
"""Failed events of one handler that a command reads, at most."""


def add_failed_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``failed``."""
    add = parser.add_argument
    add("--prefix", default="{avaturn}", help="prefix of a RedisStore (%(default)s)")
    add("--schema", default="avaturn", help="schema of a PostgresStore (%(default)s)")
    add(
        "store", metavar="STORE", help="SQLite file, or a URL: sqlite:///FILE, redis://HOST, postgresql://HOST/DATABASE"
    )


def add_retry_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``retry``."""
    add_failed_options(parser)
    add = parser.add_argument
    add("--all", action="store_true", help="the failed events of all handlers")
    add("handler", nargs="?", metavar="HANDLER", help="the first column of avaturn failed")
    add("positions", nargs="*", type=int, metavar="POSITION", help="the second column; by default all of HANDLER")


async def list_failed(options: argparse.Namespace) -> None:
    """Print handler, position, attempts, type, session and reason of each failed event."""
    async with _open_log(options) as log:
        count = 0
        for group in await _get_groups(log.store):
            listed = await log.store.failed(group, limit=MAX_LISTED)
            for failed in listed:
                entry = failed.entry
                name, session = await _describe(log, entry)
                attempts = f"{failed.attempts} attempts"
                say(f"{group}  {entry.position}  {attempts}  {name}  {session}  {printable(failed.reason)}")
                count += 1
            if len(listed) == MAX_LISTED:
                say(f"{group}  there may be more than these {MAX_LISTED}")
        if not count:
            say("no failed events")


async def retry(options: argparse.Namespace) -> None:
    """Return failed events to their handlers, with all attempts; a running app handles them at once."""
    if options.all == (options.handler is not None):
        raise UsageError("name a HANDLER, as avaturn failed shows it, or give --all")
    async with _open_log(options) as log:
        groups = await _get_groups(log.store)
        if options.handler is not None:
            if options.handler not in groups:
                raise CommandError(f"no handler {options.handler!r} in this store, but {', '.join(groups)}")
            groups = [options.handler]
        count = 0
        for group in groups:
            returned: set[int] = set()
            # Several pages; an app that runs may give an event up again meanwhile.
            while (
                failed := {each.entry.position for each in await log.store.failed(group, limit=MAX_LISTED)} - returned
            ):
                if unknown := set(options.positions) - failed:
                    where = f" among the oldest {MAX_LISTED}" if len(failed) == MAX_LISTED else ""
                    raise CommandError(f"{group}: no failed event at position {min(unknown)}{where}")
                chosen = set(options.positions) or failed
                await log.store.retry(group, sorted(chosen))
                returned |= chosen
                if options.positions:
                    break
            count += len(returned)
        say(f"returned to their handlers: {count}")


async def _get_groups(store: EventStore) -> list[str]:
    groups = list(await store.groups())
    if not groups:
        raise CommandError("no handler has used this store: are its address, --prefix and --schema those of the app?")
    return groups


async def _describe(log: EventBus, entry: Entry) -> tuple[str, str]:
    """Return the type of an event, and its session as far as it is known."""
    event = decode_entry(entry)
    if event is None or isinstance(event, Record):
        return "unreadable", "-"
    session_id: object = event.session_id
    if session_id is None:
        render_id = getattr(event, "id", None)
        opened = await log.find_owner(event.avatar_id, render_id, position=entry.position, at=entry.at)
        session_id = "-" if opened is None else opened.session_id
    return printable(event.event), str(session_id)


@asynccontextmanager
async def _open_log(options: argparse.Namespace) -> AsyncGenerator[EventBus]:
    """Open the store. Nothing is created for a wrong address."""
    try:
        log = EventBus(_make_store(options))
        await log.open()
        try:
            yield log
        finally:
            await log.close()
    except (ImportError, ValueError, StoreError) as error:
        # These messages never contain the password of a URL.
        raise CommandError(str(error)) from None


def _make_store(options: argparse.Namespace) -> EventStore:
    url: str = options.store
    scheme, separator, rest = url.partition("://")
    if scheme in {"redis", "rediss", "unix"}:
        return webhooks.RedisStore.from_url(url, prefix=options.prefix)
    if scheme in {"postgres", "postgresql"}:
        return webhooks.PostgresStore.from_url(url, schema=options.schema, create=False)
    if separator and scheme != "sqlite":
        # Without the URL, which can contain a password.
        raise CommandError("STORE must be an SQLite file, or begin with sqlite:///, redis:// or postgresql://")
    path = Path(rest.removeprefix("/") if separator else url)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CommandError(f"cannot read {path}: {get_reason(error)}") from None
    if not size:
        raise CommandError(f"{path} is empty")
    return webhooks.SQLiteStore(path)
