"""What an operator sees: loggers, trace configs, spans and counters."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import avaturn_async
from avaturn_async import AvaturnClient, AvaturnConnectionError, RetryPolicy, ServerError, export_avatar
from avaturn_async.testing import FakeAvaturn, Fault
from avaturn_async.webhooks import HmacSha256, SessionRouter, WebhookReceiver

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PACKAGE = Path(avaturn_async.__file__).parent
LOGGERS = {"avaturn_async.transport", "avaturn_async.waiting", "avaturn_async.webhooks"}
TOKEN = "t0ken-that-nobody-may-see"


@pytest.fixture
async def fake() -> AsyncIterator[FakeAvaturn]:
    async with FakeAvaturn() as server:
        yield server


def make_client(fake: FakeAvaturn, **options: Any) -> AvaturnClient:
    return AvaturnClient(TOKEN, base_url=fake.url, retry=RetryPolicy(base=0), **options)


async def new_avatar(fake: FakeAvaturn, client: AvaturnClient) -> str:
    user = await client.create_user()
    return str(await fake.finish_session((await client.new_session(user.id)).id))


# loggers


def test_the_loggers_are_those_that_are_documented() -> None:
    sources = (path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {name for source in sources for name in re.findall(r"getLogger\(\"?(.*?)\"?\)", source)} == LOGGERS


def test_importing_the_package_sets_up_no_logging() -> None:
    for name in ("avaturn_async", *LOGGERS):
        logger = logging.getLogger(name)
        assert not logger.handlers
        assert logger.propagate


async def test_the_transport_tells_of_each_attempt_that_is_made_again(
    fake: FakeAvaturn, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(fake) as client:
        user = await client.create_user()
        assert not [record for record in caplog.records if record.name in LOGGERS]
        fake.fail(Fault.bad_gateway(), path="/api/v1/users/*")
        await client.list_user_avatars(user.id)
    [record] = [record for record in caplog.records if record.name in LOGGERS]
    assert (record.name, record.levelname) == ("avaturn_async.transport", "DEBUG")
    assert record.getMessage().startswith("attempt 1 failed, the next in 0.00 s: GET /api/v1/users/")
    assert TOKEN not in caplog.text


async def test_waiting_tells_of_each_time_that_it_asked_in_vain(
    fake: FakeAvaturn, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(fake) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        fake.fail(Fault.answer(500), path="*/avatars")
        poll = avaturn_async.PollPolicy(first=0)
        await avaturn_async.wait_for_avatar(client, user.id, avatar_id, timeout=60, poll=poll)
    [record] = [record for record in caplog.records if record.name in LOGGERS]
    assert (record.name, record.levelname) == ("avaturn_async.waiting", "DEBUG")
    assert record.getMessage().startswith(f"asked in vain: GET /api/v1/users/{user.id}/avatars: 500")


async def test_a_webhook_that_is_refused_is_a_warning_of_the_webhooks_logger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = web.Application()
    WebhookReceiver(SessionRouter(), verifier=HmacSha256("secret", header="X-Sig")).add_to(app, "/hook")
    async with TestClient(TestServer(app)) as http, http.post("/hook?q=hush", data=b"a body") as response:
        assert response.status == 401
    [record] = [record for record in caplog.records if record.name in LOGGERS]
    assert (record.name, record.levelname) == ("avaturn_async.webhooks", "WARNING")
    message = record.getMessage()
    assert message.startswith("webhook not_authentic, 401: header x-sig missing (from 127.0.0.1, 6 bytes")
    assert "hush" not in message
    assert "a body" not in message


# trace configs


async def test_trace_configs_see_calls_and_transfers(fake: FakeAvaturn, tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    tracing = aiohttp.TraceConfig()

    async def on_start(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append((params.method, params.url.path.split("/")[1]))

    tracing.on_request_start.append(on_start)
    async with make_client(fake, trace_configs=[tracing]) as client:
        avatar_id = await new_avatar(fake, client)
        seen.clear()
        await export_avatar(client, avatar_id, tmp_path, timeout=60, poll=avaturn_async.PollPolicy(first=0))
    assert seen[0] == ("POST", "api")
    assert seen[-1] == ("GET", "files")


# OpenTelemetry


class Tracing:
    """A tracer and what it exported."""

    def __init__(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self.provider = provider
        self._exporter = exporter

    def spans(self) -> list[ReadableSpan]:
        """What was exported since the last time."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    reason = "OpenTelemetry is not installed: it comes with the extra dev"
    pytest.importorskip("opentelemetry.instrumentation.aiohttp_client", reason=reason)
    trace = pytest.importorskip("opentelemetry.sdk.trace", reason=reason)
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    memory = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    yield Tracing(provider, exporter)
    provider.shutdown()


@pytest.fixture
def instrumented(tracing: Tracing) -> Iterator[Tracing]:
    """Every ClientSession of the process is traced, without the query of any URL."""
    instrumentation = importlib.import_module("opentelemetry.instrumentation.aiohttp_client")
    instrumentor = instrumentation.AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=tracing.provider, url_filter=without_query)
    yield tracing
    instrumentor.uninstrument()


def without_query(url: Any) -> str:
    return str(url.with_query(None))


def values_of(span: ReadableSpan) -> str:
    """Everything that a span tells."""
    return str(span.to_json())


async def test_each_attempt_is_a_span_below_the_callers(fake: FakeAvaturn, instrumented: Tracing) -> None:
    async with make_client(fake) as client:
        user = await client.create_user()
        instrumented.spans()
        fake.fail(Fault.bad_gateway(), path="/api/v1/users/*")
        with instrumented.provider.get_tracer("app").start_as_current_span("the app's work") as work:
            await client.list_user_avatars(user.id)
    failed, good, outer = instrumented.spans()
    assert outer.name == "the app's work"
    for span, status, code in ((failed, 502, "ERROR"), (good, 200, "UNSET")):
        assert span.name == "GET"
        assert span.parent is not None
        assert span.parent.span_id == work.get_span_context().span_id
        assert span.attributes is not None
        assert span.attributes["http.method"] == "GET"
        assert span.attributes["http.status_code"] == status
        assert span.attributes["http.url"] == f"{fake.url}/api/v1/users/{user.id}/avatars"
        assert span.status.status_code.name == code
        assert TOKEN not in values_of(span)


async def test_a_connection_that_breaks_ends_its_span_as_an_error(
    fake: FakeAvaturn, instrumented: Tracing
) -> None:
    async with make_client(fake) as client:
        fake.fail(Fault.reset())
        with pytest.raises(AvaturnConnectionError):
            await client.create_user()
        await fake.close()
        with pytest.raises(AvaturnConnectionError):
            await client.create_user()
    spans = instrumented.spans()
    assert len(spans) == 4  # reset once, since a POST may have arrived; refused three times
    for span in spans:
        assert span.status.status_code.name == "ERROR"
        assert TOKEN not in values_of(span)


async def test_transfers_have_spans_too_and_a_filter_keeps_their_credentials_out(
    fake: FakeAvaturn, instrumented: Tracing, tmp_path: Path
) -> None:
    async with make_client(fake) as client:
        avatar_id = await new_avatar(fake, client)
        instrumented.spans()
        poll = avaturn_async.PollPolicy(first=0)
        await export_avatar(client, avatar_id, tmp_path, timeout=60, poll=poll)
        url = (await client.create_export(avatar_id)).url
    assert url is not None
    *_, download, _ = instrumented.spans()
    assert download.attributes is not None
    assert download.attributes["http.url"] == url.partition("?")[0]
    assert url.partition("?")[2] not in values_of(download)


async def test_one_client_alone_can_be_traced(fake: FakeAvaturn, tracing: Tracing) -> None:
    instrumentation = importlib.import_module("opentelemetry.instrumentation.aiohttp_client")
    config = instrumentation.create_trace_config(tracer_provider=tracing.provider, url_filter=without_query)
    async with make_client(fake) as other, make_client(fake, trace_configs=[config]) as client:
        await other.create_user()
        await client.create_user()
        fake.fail(Fault.answer(500))
        with pytest.raises(ServerError):
            await client.create_user()
    assert [span.status.status_code.name for span in tracing.spans()] == ["UNSET", "ERROR"]


# counters


def test_outcomes_are_a_live_view_that_nobody_can_write_to() -> None:
    receiver = WebhookReceiver(SessionRouter(), verifier=HmacSha256("secret", header="X-Sig"))
    outcomes = receiver.outcomes
    receiver.end("stored")
    assert outcomes["stored"] == 1
    with pytest.raises(TypeError):
        outcomes["stored"] = 2  # type: ignore[index]
