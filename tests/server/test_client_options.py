"""Event loops, ClientSessions of the caller, proxies, credentials of the environment, and what a call logs."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import os
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses
from support.scripted_server import Connection, Step, file, response, serve, stall_body, stall_head, unused_port
from support.transfer_rig import JPEG, glb
from yarl import URL

from avaturn_async import (
    AvaturnClient,
    AvaturnConnectionError,
    AvaturnError,
    AvaturnTimeoutError,
    ClientClosedError,
    RetryPolicy,
    User,
)

TOKEN = "tok-a1b2c3d4e5f6"
USER = response(200, {"id": "u"}, Connection="close")


async def respond(connection: Connection) -> None:
    """Respond with a GLB to a GET, and as Create User to a POST."""
    if connection.request.method == "GET":
        await file(glb())(connection)
    else:
        connection.writer.write(USER)


def test_client_works_in_a_new_loop_after_the_old_one_ended(tmp_path: Path) -> None:
    """As with ``asyncio.run`` twice, in Celery and in cron jobs."""
    port = unused_port()
    client = AvaturnClient(TOKEN, base_url=f"http://127.0.0.1:{port}")

    async def call() -> None:
        async with serve(respond, port=port) as server:
            assert await client.create_user() == User(id="u")
            await client.download(f"{server.url}/a.glb", tmp_path)

    for _ in range(3):
        asyncio.run(call())
    asyncio.run(client.close())
    gc.collect()  # reports a ClientSession that is not closed
    with pytest.raises(ClientClosedError):
        asyncio.run(client.create_user())


def test_client_works_in_two_open_loops_by_turns(tmp_path: Path) -> None:
    port = unused_port()
    client = AvaturnClient(TOKEN, base_url=f"http://127.0.0.1:{port}")

    async def call() -> None:
        async with serve(respond, port=port) as server:
            assert await client.create_user() == User(id="u")
            await client.download(f"{server.url}/a.glb", tmp_path)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        for runner in (first, second, first):
            runner.run(call())
        first.run(client.close())


def test_forked_child_is_refused_and_leaves_the_connection_of_its_parent_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork shares the epoll of an open loop: a socket that the child closes would be silent in the parent."""
    with asyncio.Runner() as parent:
        port = unused_port()
        server = serve(respond, port=port)
        parent.run(server.__aenter__())
        client = AvaturnClient(TOKEN, base_url=f"http://127.0.0.1:{port}")
        uses: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
            client.create_user,
            lambda: client.download(f"http://127.0.0.1:{port}/a.glb", tmp_path),
            client.close,
        )
        for use in uses[:2]:
            parent.run(use())
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            for use in uses:
                with pytest.raises(AvaturnError, match="used before a fork: make one client in each process"):
                    asyncio.run(use())
        for use in uses:
            parent.run(use())
        parent.run(server.__aexit__(None, None, None))


async def return_nothing() -> None: ...


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"retry": 3}, "retry must be a RetryPolicy, not int"),
        ({"http": "https://x.example"}, "http must be a ClientSession"),
        ({"http": aiohttp.ClientSession}, "http must be a ClientSession"),
        ({"http": return_nothing}, "http must be a ClientSession, or a plain function"),
        ({"proxy": "localhost:3128"}, "proxy must be a URL such as http://host:3128"),
        ({"proxy": "user:hush@localhost"}, "proxy must be a URL"),
        ({"ssl": "certificate.pem"}, "ssl must be an SSLContext"),
    ],
)
def test_wrong_option_is_refused_at_construction(option: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        AvaturnClient(TOKEN, **option)
    assert "hush" not in str(caught.value)


async def test_function_given_as_http_must_return_a_session() -> None:
    get_session: Any = lambda: None  # noqa: E731
    with pytest.raises(TypeError, match="the function given as http= must be a ClientSession, not NoneType"):
        await AvaturnClient(TOKEN, http=get_session).create_user()


def test_session_of_another_loop_is_an_error_with_a_remedy() -> None:
    async def make_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    with asyncio.Runner() as first:
        http = first.run(make_session())
        with pytest.raises(RuntimeError) as caught:
            asyncio.run(AvaturnClient(TOKEN, base_url="http://127.0.0.1:1", http=http).create_user())
        first.run(http.close())
    assert any("made in another event loop? Give a function" in note for note in caught.value.__notes__)


async def test_runtime_error_of_a_trace_is_raised_without_the_remedy_for_a_session_of_the_caller() -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("of the trace")

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(fail)
    async with AvaturnClient(TOKEN, base_url="http://127.0.0.1:1", trace_configs=[trace]) as client:
        with pytest.raises(RuntimeError, match="of the trace") as caught:
            await client.create_user()
    assert not hasattr(caught.value, "__notes__")


def test_client_in_two_running_loops_is_an_error_that_says_so() -> None:
    client = AvaturnClient(TOKEN)
    used, done = threading.Event(), threading.Event()

    async def use() -> None:
        async with client:
            used.set()
            await asyncio.to_thread(done.wait, 10)

    thread = threading.Thread(target=lambda: asyncio.run(use()))
    thread.start()
    try:
        assert used.wait(10)
        with pytest.raises(AvaturnError, match="two running event loops"):
            asyncio.run(client.create_user())
    finally:
        done.set()
        thread.join()


LARGE = JPEG + bytes(30_000_000)
SEND: list[Callable[[AvaturnClient, str], Awaitable[object]]] = [
    lambda client, url: client.upload_photos(
        f"{url}/up", frontal=LARGE, side_1=JPEG, side_2=JPEG, body_type="male", timeout=100
    ),
    lambda client, _: client.request("POST", "/x", json="x" * len(LARGE), timeout=100),
]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("send", SEND)
async def test_close_ends_a_request_whose_body_the_server_does_not_read(
    send: Callable[[AvaturnClient, str], Awaitable[object]],
) -> None:
    async with serve(stall_head, read_bodies=False) as server:
        client = AvaturnClient(TOKEN, base_url=server.url)
        sending = asyncio.ensure_future(send(client, server.url))
        while not (server.requests or sending.done()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # until the buffers of the system are full
        async with asyncio.timeout(10):
            await client.close()
            with pytest.raises(AvaturnConnectionError) as caught:
                await sending
    assert not isinstance(caught.value, AvaturnTimeoutError)


@pytest.mark.parametrize("step", [stall_head, stall_body])
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c, *_: c.create_user(), AvaturnConnectionError),
        (lambda c, *_: c.list_user_avatars("u"), ClientClosedError),
        (lambda c, *to: c.download(*to), ClientClosedError),
    ],
)
async def test_close_ends_a_call_or_transfer_that_waits_for_its_response(
    step: Step, call: Callable[[AvaturnClient, str, Path], Awaitable[object]], kind: type[AvaturnError], tmp_path: Path
) -> None:
    # Its pauses are so long that none of them is made.
    retry = RetryPolicy(base=1000, cap=1000, budget=10_000)
    async with serve(step) as server:
        client = AvaturnClient(TOKEN, base_url=server.url, timeout=1000, retry=retry)
        waiting = asyncio.ensure_future(call(client, f"{server.url}/a", tmp_path))
        while not server.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the client reads the head
        async with asyncio.timeout(10):
            await client.close()
            with pytest.raises(kind) as caught:
                await waiting
    assert type(caught.value) is kind


async def test_http_may_be_a_function_that_is_called_once_inside_the_loop() -> None:
    made: list[aiohttp.ClientSession] = []

    def get_session() -> aiohttp.ClientSession:
        made.append(aiohttp.ClientSession())
        return made[-1]

    async with serve(USER) as server:
        client = AvaturnClient(TOKEN, base_url=server.url, http=get_session)
        assert made == []
        await client.create_user()
        await client.create_user()
        await client.close()
    [session] = made
    assert not session.closed
    await session.close()


async def test_session_without_the_attribute_auth_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp 4 has none."""
    monkeypatch.delattr(aiohttp.ClientSession, "auth")
    async with serve(USER) as server, aiohttp.ClientSession() as http:
        assert await AvaturnClient(TOKEN, base_url=server.url, http=http).create_user() == User(id="u")


async def fail_with_a_value_error(*_: object) -> None:
    raise ValueError("of the caller")


async def fail_after_the_response(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    (await handler(request)).release()
    raise ValueError("of the caller")


@pytest.mark.parametrize("trust_env", [True, False])
@pytest.mark.parametrize("source", ["trace of the client", "trace of the session", "middleware"])
async def test_value_error_of_the_caller_after_the_response_is_raised_and_nothing_is_sent_again(
    source: str, *, trust_env: bool
) -> None:
    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(fail_with_a_value_error)
    async with (
        serve(USER) as server,
        aiohttp.ClientSession(
            trust_env=trust_env,
            trace_configs=[trace] if source == "trace of the session" else [],
            middlewares=[fail_after_the_response] if source == "middleware" else [],
        ) as http,
    ):
        own: dict[str, Any] = {"trace_configs": [trace], "trust_env": trust_env}
        options = own if source == "trace of the client" else {"http": http}
        async with AvaturnClient(TOKEN, base_url=server.url, **options) as client:
            with pytest.raises(ValueError, match="of the caller"):
                await client.create_user()
        assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore:.*[aA]uth.*:DeprecationWarning")
async def test_function_given_as_http_must_return_a_session_without_credentials() -> None:
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("a", "b")) as http:
        with pytest.raises(ValueError, match="auth= of its own"):
            await AvaturnClient(TOKEN, http=lambda: http).create_user()


@pytest.mark.parametrize("own_session", [True, False])
async def test_token_replaces_credentials_in_netrc(
    *, own_session: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login jane password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with serve(USER) as server, aiohttp.ClientSession(trust_env=True) as http:
        options: dict[str, Any] = {"trust_env": True} if own_session else {"http": http}
        async with AvaturnClient(TOKEN, base_url=server.url, **options) as client:
            assert await client.create_user() == User(id="u")
        [request] = server.requests
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("how", ["proxy", "trust_env", "trust_env without a scheme", "http"])
async def test_calls_and_transfers_go_through_the_proxy(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serve(respond) as proxy, aiohttp.ClientSession() as http:
        options: dict[str, Any] = {"proxy": proxy.url}
        if how.startswith("trust_env"):
            monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://") if "without" in how else proxy.url)
            options = {"trust_env": True}
        elif how == "http":
            options |= {"http": http}
        # The host has no address here: only the proxy can resolve it.
        url = "http://files.invalid"
        async with AvaturnClient(TOKEN, base_url=url, allow_private_urls=True, **options) as client:
            assert await client.create_user() == User(id="u")
            await client.upload_photos(f"{url}/up", frontal=JPEG, side_1=JPEG, side_2=JPEG, body_type="male")
            path = await client.download(f"{url}/a.glb", tmp_path)
    assert path.read_bytes() == glb()
    assert [request.target for request in proxy.requests] == [f"{url}/api/v1/users/new", f"{url}/up", f"{url}/a.glb"]


async def test_no_proxy_of_the_environment_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with serve(respond) as server, AvaturnClient(TOKEN, base_url=server.url, trust_env=True) as client:
        await client.create_user()
        await client.download(f"{server.url}/a.glb", tmp_path)


@pytest.mark.parametrize("proxy", [":::", "http://user:hush@host:99999", "socks5://user:hush@host:1080"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
async def test_wrong_proxy_of_the_environment_is_an_error_that_names_the_variable(
    variable: str, proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, proxy)
    async with serve(respond) as server:
        client = AvaturnClient(TOKEN, base_url=server.url, trust_env=True)
        for use in (client.create_user(), client.download(f"{server.url}/a.glb", tmp_path)):
            with pytest.raises(ValueError, match=f"{variable} must be a URL such as http://host:3128") as caught:
                await use
            assert "hush" not in "".join(traceback.format_exception(caught.value))
        await client.close()
    assert server.connections == 0


@pytest.mark.parametrize("of_the_caller", [True, False])
async def test_wait_for_a_connection_is_not_part_of_the_timeout(*, of_the_caller: bool) -> None:
    """Ten calls of 0.1 s with two at once take 0.5 s, which is more than the timeout of each."""

    async def slow(connection: Connection) -> None:
        await asyncio.sleep(0.1)
        connection.writer.write(USER)

    connector = aiohttp.TCPConnector(limit=2)
    async with serve(slow) as server, aiohttp.ClientSession(connector=connector) as http:
        options: dict[str, Any] = {"http": http} if of_the_caller else {"max_concurrency": 2}
        options |= {"base_url": server.url, "timeout": 0.3, "retry": RetryPolicy(attempts=1)}
        async with AvaturnClient(TOKEN, **options) as client:
            await asyncio.gather(*(client.create_user() for _ in range(10)))


async def test_more_calls_than_the_connections_of_aiohttp_run_at_once() -> None:
    everything = asyncio.Event()

    async def wait_for_all(connection: Connection) -> None:
        if len(server.requests) == 101:
            everything.set()
        await everything.wait()
        connection.writer.write(USER)

    async with (
        serve(wait_for_all) as server,
        AvaturnClient(TOKEN, base_url=server.url, max_concurrency=101, timeout=10) as client,
    ):
        await asyncio.gather(*(client.create_user() for _ in range(101)))


async def test_each_call_logs_method_path_status_and_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="avaturn_async")
    retry = RetryPolicy(attempts=1)
    async with serve(USER, stall_head) as server, AvaturnClient(TOKEN, base_url=server.url, retry=retry) as client:
        await client.request("GET", "/api/v1/x", params={"key": "hush"})
        with pytest.raises(AvaturnTimeoutError):
            await client.create_user(timeout=0.01)
    first, second = [record.getMessage() for record in caplog.records if record.name == "avaturn_async.transport"]
    assert first.startswith("GET /api/v1/x: 200 in ")
    assert second.startswith("POST /api/v1/users/new: no response within 0.01 s")
    assert "hush" not in first


async def test_ssl_applies_to_calls_on_a_session_of_the_caller() -> None:
    url = "https://api.avaturn.me/api/v1/users/new"
    with aioresponses() as mocked:
        mocked.post(url, payload={"id": "u"})
        async with aiohttp.ClientSession() as http:
            await AvaturnClient(TOKEN, http=http, ssl=False).create_user()
        assert mocked.requests["POST", URL(url)][0].kwargs["ssl"] is False


async def test_compressed_response_is_read_by_a_session_that_does_not_decompress() -> None:
    compressed = response(200, raw=gzip.compress(b'{"id": "u"}'), Content_Encoding="gzip")
    async with serve(compressed) as server, aiohttp.ClientSession(auto_decompress=False) as http:
        assert await AvaturnClient(TOKEN, base_url=server.url, http=http).create_user() == User(id="u")
