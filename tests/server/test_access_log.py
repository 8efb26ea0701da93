"""AccessLogFilter on the access logs of real servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from queue import SimpleQueue
from types import MappingProxyType
from typing import cast

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from avaturn_async.webhooks import AccessLogFilter, SessionRouter, SharedSecret, WebhookReceiver

EVENT = {"event": "x"}
SECRET = "hush-0123456789abcdef"
# All characters that a server accepts in the query of a request, but the one that ends it.
QUERY = f"key={SECRET}&{''.join(map(chr, range(0x21, 0x7F))).replace('#', '')}&the-end"


@pytest.fixture(params=["aiohttp.access", "uvicorn.access"])
def logger(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    found = logging.getLogger(request.param)
    level, filter_ = found.level, AccessLogFilter()
    found.setLevel(logging.INFO)
    found.addFilter(filter_)
    yield found
    found.removeFilter(filter_)
    found.setLevel(level)


async def post(logger: logging.Logger, query: str = f"key={SECRET}") -> None:
    made = WebhookReceiver(SessionRouter(), verifier=SharedSecret(SECRET, query="key"))
    async with aiohttp.ClientSession() as http:
        if logger.name == "aiohttp.access":
            app = web.Application()
            made.add_to(app, "/hook")
            async with (
                TestServer(app) as aiohttp_server,
                http.post(URL(f"{aiohttp_server.make_url('/hook')}?{query}", encoded=True), json=EVENT) as response,
            ):
                assert response.status == 200
            return
        server = uvicorn.Server(uvicorn.Config(made.asgi, port=0, log_config=None))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = URL(f"http://127.0.0.1:{port}/hook?{query}", encoded=True)
        async with http.post(url, json=EVENT) as response:
            assert response.status == 200
        server.should_exit = True
        await running


def filtered(msg: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("hypercorn.access", logging.INFO, "", 1, msg, args, None)
    vars(record).update(extra)
    assert AccessLogFilter().filter(record)
    return record


class Atoms(dict[str, str]):
    """As hypercorn and gunicorn have them: a field that is absent is a dash."""

    def __missing__(self, key: str) -> str:
        return "-"


@pytest.mark.parametrize("make", [Atoms, MappingProxyType])
@pytest.mark.parametrize("version", ["2", "1.1"])
def test_fields_in_a_mapping_lose_their_query(make: Callable[[dict[str, str]], object], version: str) -> None:
    # As hypercorn logs: the format has names, and the fields are one mapping.
    fields = {
        "R": f"POST /hook?{QUERY}\N{NO-BREAK SPACE}\N{NEXT LINE} b {version}",
        "s": "200",
        "q": QUERY,
        "Uq": f"/hook?{QUERY}",
    }
    absent = "%({x}i)s" if make is Atoms else ""
    record = filtered(f'"%(R)s" %(s)s %(q)s %(Uq)s {absent}', make(fields))
    assert record.getMessage() == f'"POST /hook?… {version}" 200 … /hook?… {absent and "-"}'
    assert SECRET not in str(vars(record))


def test_mapping_without_a_query_is_logged_as_it_is() -> None:
    assert filtered('"%(R)s" %(q)s.', {"R": "POST /hook 2", "q": ""}).getMessage() == '"POST /hook 2" .'


def test_only_the_query_is_removed_from_a_line() -> None:
    line = '"https://a.test/?%s" "POST /?it\'s-"me\N{NO-BREAK SPACE}x HTTP/1.1" 200 {"referer":"https://b.test/?%s","agent":"x (y)"}'
    record = filtered(line % ("key=1", "key=2"), request_header={"Referer": "https://a.test/?key=1", "Host": "a.test"})
    assert record.getMessage() == (
        '"https://a.test/?…" "POST /?… HTTP/1.1" 200 {"referer":"https://b.test/?…","agent":"x (y)"}'
    )
    assert vars(record)["request_header"] == {"Referer": "https://a.test/?…", "Host": "a.test"}


def test_message_that_is_not_text_is_left_alone() -> None:
    assert filtered(cast("str", 5)).getMessage() == "5"


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


async def test_no_character_of_a_query_ends_what_is_removed(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    await post(logger, QUERY)
    [record] = [record for record in caplog.records if record.name == logger.name]
    assert "POST /hook?… HTTP/1.1" in record.getMessage()
    assert "the-end" not in str(vars(record))
    assert "200" in record.getMessage()
