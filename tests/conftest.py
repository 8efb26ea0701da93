"""What every test shares."""

from __future__ import annotations

import inspect
import logging
import pickle
import signal
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import aiohttp
import aioresponses.core
import pytest
from hypothesis import settings

from avaturn_async import AvaturnError

# How long an example takes says more of the machine than of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts what runs in the background with Ctrl-C ignored, and the commands that tests start inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# aioresponses 0.7.9 does not know the argument that aiohttp 3.14 added; gone when a release of it does.
if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:

    class _Response(aiohttp.ClientResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("stream_writer", Mock(output_size=0))
            super().__init__(*args, **kwargs)

    vars(aioresponses.core)["ClientResponse"] = _Response


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every record is formatted, so that a log call with wrong arguments fails here."""
    with caplog.at_level(logging.DEBUG):
        yield
    for record in caplog.records:
        record.getMessage()


def pickled(error: AvaturnError) -> AvaturnError:
    """The error after a trip to another process."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(copy, AvaturnError)
    return copy
