"""What every test shares."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
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

# AVATURN_TEST_EAGER=1: each loop of this process runs a new task at once (Python 3.12 and later).
if os.environ.get("AVATURN_TEST_EAGER") and hasattr(asyncio, "eager_task_factory"):
    _init_loop = asyncio.BaseEventLoop.__init__

    def _init_eager_loop(loop: asyncio.BaseEventLoop) -> None:
        _init_loop(loop)
        loop.set_task_factory(vars(asyncio)["eager_task_factory"])

    asyncio.BaseEventLoop.__init__ = _init_eager_loop  # type: ignore[method-assign,assignment]

# AVATURN_TEST_LOOP=uvloop: asyncio.run() and pytest-asyncio use the loops of that module.
if "AVATURN_TEST_LOOP" in os.environ:
    _make_loop = importlib.import_module(os.environ["AVATURN_TEST_LOOP"]).new_event_loop
    asyncio.new_event_loop = _make_loop
    vars(asyncio.events)["new_event_loop"] = _make_loop


def pytest_configure(config: pytest.Config) -> None:
    if "AVATURN_TEST_LOOP" in os.environ:
        # Raised as an error, this warning keeps close() of a loop of uvloop 0.23 from returning.
        config.addinivalue_line("filterwarnings", "ignore:unclosed resource:ResourceWarning")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="how often each test of crashes kills a process")
    parser.addoption(
        "--every-step", action="store_true", help="cancel calls to servers after each step, not each third"
    )


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often a test of crashes kills a process."""
    return int(request.config.getoption("--kills"))


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


# In debug mode asyncio logs each connection with its transport, and pytest keeps the records of a test: a connection
# that the test dropped would be collected in a later test, and warn there.
logging.getLogger("asyncio").setLevel(logging.INFO)
