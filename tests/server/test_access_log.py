"""AccessLogFilter on the access logs of real servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from logging.handlers import QueueHandler
from queue import SimpleQueue

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestServer

from avaturn_async.webhooks import AccessLogFilter, SessionRouter, SharedSecret, WebhookReceiver

SECRET = "hush-0123456789abcdef"


@pytest.fixture(params=["aiohttp.access", "uvicorn.access"])
def logger(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    found = logging.getLogger(request.param)
    level, filter_ = found.level, AccessLogFilter()
    found.setLevel(logging.INFO)
    found.addFilter(filter_)
    yield found
    found.removeFilter(filter_)
    found.setLevel(level)


async def post(logger: logging.Logger) -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SharedSecret(SECRET, query="key"))
    async with aiohttp.ClientSession() as http:
        if logger.name == "aiohttp.access":
            app = web.Application()
            made.add_to(app, "/hook")
            async with (
                TestServer(app) as aiohttp_server,
                http.post(aiohttp_server.make_url(f"/hook?key={SECRET}"), json={"event": "x"}) as response,
            ):
                assert response.status == 200
            return
        server = uvicorn.Server(uvicorn.Config(made.asgi, port=0, log_config=None))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with http.post(f"http://127.0.0.1:{port}/hook?key={SECRET}", json={"event": "x"}) as response:
            assert response.status == 200
        server.should_exit = True
        await running


def test_fields_in_a_mapping_are_formatted_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    # As hypercorn logs: the format has names, and the fields are one mapping.
    access = logging.getLogger("hypercorn.access")
    access.setLevel(logging.INFO)
    access.addFilter(added := AccessLogFilter())
    access.info('"%(R)s" %(s)s', {"R": f"POST /hook?key={SECRET} 2", "s": "200", "q": f"key={SECRET}"})
    access.removeFilter(added)
    [record] = caplog.records
    assert record.getMessage() == '"POST /hook?… 2" 200'
    assert SECRET not in str(vars(record))


def test_record_without_arguments_loses_its_query() -> None:
    # As a QueueHandler passes records on: the message is formatted, and the arguments are None.
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 1, f"POST /hook?key={SECRET} 200", None, None)
    record = QueueHandler(SimpleQueue()).prepare(record)
    assert record.args is None
    assert AccessLogFilter().filter(record)
    assert record.getMessage() == "POST /hook?… 200"
    assert SECRET not in str(vars(record))


async def test_the_secret_in_the_query_is_not_logged(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    await post(logger)
    [record] = [record for record in caplog.records if record.name == logger.name]
    assert "POST /hook?… HTTP/1.1" in record.getMessage()
    assert SECRET not in str(vars(record))
    assert "200" in record.getMessage()
