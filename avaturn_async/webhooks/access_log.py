"""A logging filter that removes query strings from access logs, since a secret may stand in a query."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

__all__ = ["AccessLogFilter"]

_QUERY = re.compile(r"\?[^\s\"']*")


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
        if isinstance(record.args, Mapping):  # hypercorn: each field is an item
            record.msg, record.args = record.getMessage(), ()
        record.msg = _remove_query(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(_remove_query(arg) for arg in record.args)
        for name, value in list(vars(record).items()):
            if name not in ("msg", "args"):
                setattr(record, name, _remove_query(value))
        return True


def _remove_query(value: object) -> object:
    return _QUERY.sub("?…", value) if isinstance(value, str) else value
