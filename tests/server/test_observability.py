"""Loggers, trace configs, OpenTelemetry spans and counters."""

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
from attrs import frozen

import avaturn_async
from avaturn_async import (
    AvaturnClient,
    PollPolicy,
    RetryPolicy,
    export_avatar,
    wait_for_avatar,
)
from avaturn_async.testing import FakeAvaturn, Fault
from avaturn_async.webhooks import HmacSha256, SessionRouter, WebhookReceiver, WebhookRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
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


def test_loggers_are_the_documented_ones() -> None:
    sources = (path.read_text() for path in PACKAGE.rglob("*.py"))
    assert {name for source in sources for name in re.findall(r"getLogger\(\"?(.*?)\"?\)", source)} == LOGGERS


def test_import_configures_no_logging() -> None:
    for name in ("avaturn_async", *LOGGERS):
        logger = logging.getLogger(name)
        assert not logger.handlers
        assert logger.propagate


async def test_transport_logs_each_attempt_and_not_the_token(
    fake: FakeAvaturn, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fail(Fault.bad_gateway(), path="/api/v1/users/*/avatars")
    async with make_client(fake) as client:
        user = await client.create_user()
        await client.list_user_avatars(user.id)
    logged = [(r.levelname, r.getMessage().rpartition(" in ")[0]) for r in caplog.records if r.name in LOGGERS]
    path = f"/api/v1/users/{user.id}/avatars"
    assert logged == [
        ("DEBUG", message) for message in ("POST /api/v1/users/new: 200", f"GET {path}: 502", f"GET {path}: 200")
    ]
    assert TOKEN not in caplog.text


async def test_waiting_logs_each_failed_poll(fake: FakeAvaturn, caplog: pytest.LogCaptureFixture) -> None:
    async with make_client(fake) as client:
        user = await client.create_user()
        avatar_id = await fake.finish_session((await client.new_session(user.id)).id)
        fake.fail(Fault.answer(500), path="*/avatars")
        await wait_for_avatar(client, user.id, avatar_id, timeout=60, poll=PollPolicy(first=0))
    [record] = [record for record in caplog.records if record.name == "avaturn_async.waiting"]
    assert record.levelname == "DEBUG"
    assert record.getMessage().startswith(f"poll failed, will retry: GET /api/v1/users/{user.id}/avatars: 500")


async def test_refused_webhook_is_a_warning_without_its_query_and_body(caplog: pytest.LogCaptureFixture) -> None:
    app = web.Application()
    WebhookReceiver(SessionRouter(), verifier=HmacSha256("secret", header="X-Sig")).add_to(app, "/hook")
    async with TestClient(TestServer(app)) as http, http.post("/hook?q=hush", data=b"a body") as response:
        assert response.status == 401
    [record] = [record for record in caplog.records if record.name in LOGGERS]
    assert (record.name, record.levelname) == ("avaturn_async.webhooks", "WARNING")
    message = record.getMessage()
    assert message.startswith("webhook unauthorized, 401: header x-sig missing (from 127.0.0.1, 6 bytes")
    assert "hush" not in message
    assert "a body" not in message


async def test_trace_configs_see_calls_and_transfers(fake: FakeAvaturn, tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    tracing = aiohttp.TraceConfig()

    async def on_start(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append((params.method, params.url.path.split("/")[1]))

    tracing.on_request_start.append(on_start)
    async with make_client(fake, trace_configs=[tracing]) as client:
        avatar_id = await new_avatar(fake, client)
        seen.clear()
        await export_avatar(client, avatar_id, tmp_path, timeout=60, poll=PollPolicy(first=0))
    assert seen[0] == ("POST", "api")
    assert seen[-1] == ("GET", "files")


@frozen
class Tracing:
    provider: TracerProvider
    exporter: InMemorySpanExporter


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    """Trace each ClientSession of the process, without the query of any URL."""
    reason = "OpenTelemetry is not installed: it comes with the extra dev"
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.aiohttp_client", reason=reason)
    trace = pytest.importorskip("opentelemetry.sdk.trace", reason=reason)
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    exporter = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider, url_filter=lambda url: str(url.with_query(None)))
    yield Tracing(provider, exporter)
    instrumentor.uninstrument()
    provider.shutdown()


async def test_each_attempt_is_a_span_below_that_of_the_caller(fake: FakeAvaturn, tracing: Tracing) -> None:
    async with make_client(fake) as client:
        user = await client.create_user()
        tracing.exporter.clear()
        fake.fail(Fault.reset(), path="/api/v1/users/*")
        fake.fail(Fault.bad_gateway(), path="/api/v1/users/*")
        with tracing.provider.get_tracer("app").start_as_current_span("the app's work") as work:
            await client.list_user_avatars(user.id)
    *attempts, outer = tracing.exporter.get_finished_spans()
    assert outer.name == "the app's work"
    expected = ((None, "ERROR"), (502, "ERROR"), (200, "UNSET"))
    for span, (status, code) in zip(attempts, expected, strict=True):
        assert span.name == "GET"
        assert span.parent is not None
        assert span.parent.span_id == work.get_span_context().span_id
        assert span.attributes is not None
        assert span.attributes["http.method"] == "GET"
        assert span.attributes.get("http.status_code") == status
        assert span.attributes["http.url"] == f"{fake.url}/api/v1/users/{user.id}/avatars"
        assert span.status.status_code.name == code
        assert TOKEN not in span.to_json()


async def test_transfer_has_a_span_and_a_filter_removes_its_credentials(
    fake: FakeAvaturn, tracing: Tracing, tmp_path: Path
) -> None:
    async with make_client(fake) as client:
        avatar_id = await new_avatar(fake, client)
        await export_avatar(client, avatar_id, tmp_path, timeout=60, poll=PollPolicy(first=0))
        url = (await client.create_export(avatar_id)).url
    assert url is not None
    *_, download, _ = tracing.exporter.get_finished_spans()
    assert download.attributes is not None
    assert download.attributes["http.url"] == url.partition("?")[0]
    assert url.partition("?")[2] not in download.to_json()


def test_outcomes_are_a_live_view_that_cannot_be_written() -> None:
    receiver = WebhookReceiver(SessionRouter(), verifier=HmacSha256("secret", header="X-Sig"))
    outcomes = receiver.outcomes
    receiver.check_headers(WebhookRequest(method="GET", headers=(), body=b""))
    assert outcomes["method_not_allowed"] == 1
    with pytest.raises(TypeError):
        outcomes["stored"] = 2  # type: ignore[index]
