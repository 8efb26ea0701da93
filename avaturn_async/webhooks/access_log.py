"""A logging filter that removes query strings from access logs, since a secret may stand in a query."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import cast

__all__ = ["AccessLogFilter"]

# A request target can hold every character but a space (RFC 9112 3.2), quotes included. So its query ends where the
# protocol follows, or the field ends.
_QUERY_IN_FIELD = re.compile(r"\?.*?(?= (?:HTTP/)?[0-9.]+\Z|\Z)", re.DOTALL)
_QUERY_IN_LINE = re.compile(r"\?[^ ]*( HTTP/)?")
# In a formatted line, a URL without a protocol, such as a Referer, is quoted.
_QUERY_IN_QUOTES = re.compile(r"\?[^\s\"]*")


class AccessLogFilter(logging.Filter):
    """Replaces each query string in access log records by ``?…``.

    Add an instance with ``addFilter`` to the server's logger: ``aiohttp.access``, ``uvicorn.access``,
    ``hypercorn.access``, or ``gunicorn.access`` for gunicorn's aiohttp worker.

    A proxy in front, such as nginx, writes its own access log, which this filter does not see.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the queries from a record. Always return True."""
        # aiohttp formats the message before logging, so that args is empty and msg holds the query; each field is also
        # an attribute of the record. uvicorn's formatter unpacks args, so their number must stay.
        if isinstance(record.msg, str):
            record.msg = _QUERY_IN_LINE.sub(_clean_url, record.msg)
        if isinstance(record.args, dict):  # hypercorn: each field is an item, and absent ones are "-"
            record.args.update(_clean_fields(record.args))
        elif isinstance(record.args, Mapping):
            record.args = _clean_fields(record.args)
        elif record.args is not None:
            record.args = tuple(map(_clean, record.args))
        vars(record).update(_clean_fields({k: v for k, v in vars(record).items() if k not in ("msg", "args")}))
        return True


def _clean_url(found: re.Match[str]) -> str:
    return f"?…{found[1]}" if found[1] else _QUERY_IN_QUOTES.sub("?…", found[0])


def _clean(field: object) -> object:
    if isinstance(field, Mapping):
        return _clean_fields(cast("Mapping[str, object]", field))
    return _QUERY_IN_FIELD.sub("?…", field) if isinstance(field, str) else field


def _clean_fields(fields: Mapping[str, object]) -> dict[str, object]:
    # "q" is the query itself, in hypercorn and gunicorn.
    return {name: "…" if name == "q" and value else _clean(value) for name, value in fields.items()}
