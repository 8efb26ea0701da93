"""``avaturn fake`` and ``python -m avaturn_async.testing``: FakeAvaturn as a process, with faults and signed webhooks."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.commands import SECRET, Commands, serving_process

from avaturn_async import AvaturnClient, AvaturnError, Customization, RetryPolicy
from avaturn_async.webhooks import (
    BasicAuth,
    HmacSha256,
    SharedSecret,
    StandardWebhooks,
    Verifier,
    WebhookRequest,
)

TOKEN = {"Authorization": "Bearer any"}
WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    monkeypatch.delenv("AVATURN_WEBHOOK_SECRET", raising=False)
    with Commands() as commands:
        yield commands


class Receiver:
    """Receives webhooks."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: asyncio.Queue[WebhookRequest] = asyncio.Queue()

    async def handle(self, request: web.BaseRequest) -> web.Response:
        headers, body, query = request.raw_headers, await request.read(), request.raw_path.partition("?")[2]
        self.requests.put_nowait(WebhookRequest(method=request.method, headers=headers, body=body, query=query))
        return web.Response()

    async def get(self) -> WebhookRequest:
        async with asyncio.timeout(30):
            return await self.requests.get()

    async def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads((await self.get()).body)
        return event


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


def make_client(url: str, token: str = "any") -> AvaturnClient:
    return AvaturnClient(token, base_url=url, retry=RetryPolicy(attempts=1))


async def upload(client: AvaturnClient) -> str:
    """Make an avatar of photos; return its id."""
    new = await client.new_avatar((await client.create_user()).id)
    form = aiohttp.FormData({"body-type": "male"})
    for name in ("image-frontal", "image-side-1", "image-side-2"):
        form.add_field(name, b"photo", filename="x.jpg", content_type="image/jpeg")
    async with aiohttp.ClientSession() as http, http.post(new.upload_url, data=form) as response:
        assert response.status == 200
    return str(new.avatar_id)


SIGNED = {
    "hmac": (HmacSha256(SECRET, header="X-Sig", prefix="v1="), ["--header", "X-Sig", "--prefix", "v1="]),
    "standard": (StandardWebhooks(WHSEC), []),
    "header": (SharedSecret(SECRET, header="X-Key"), ["--header", "X-Key"]),
    "query": (SharedSecret(SECRET, query="k"), ["--parameter", "k"]),
    "basic": (BasicAuth("avaturn", SECRET), ["--user", "avaturn"]),
}


@pytest.mark.parametrize(("scheme", "signed"), SIGNED.items(), ids=SIGNED.keys())
async def test_webhooks_are_signed_with_the_scheme_of_the_options(
    scheme: str,
    signed: tuple[Verifier, list[str]],
    commands: Commands,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", WHSEC if scheme == "standard" else SECRET)
    verifier, argv = signed
    hook = ["--webhook-url", receiver.url + "?a=1", "--processing-delay", "0", "--scheme", scheme]
    async with commands.serve("fake", *hook, *argv) as server, make_client(server.url) as client:
        await upload(client)
        request = await receiver.get()
    verifier.verify(request)
    assert request.query.startswith("a=1")


@pytest.mark.parametrize(("argv", "header"), [([], "X-Webhook-Signature"), (["--signature-header", "X-Sig"], "X-Sig")])
async def test_secret_without_a_scheme_signs_with_hmac(
    argv: list[str], header: str, commands: Commands, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)
    hook = ["--webhook-url", receiver.url, "--processing-delay", "0"]
    async with commands.serve("fake", *hook, *argv) as server, make_client(server.url) as client:
        await upload(client)
        HmacSha256(SECRET, header=header).verify(await receiver.get())


async def test_webhooks_are_not_signed_without_a_secret(commands: Commands, receiver: Receiver) -> None:
    hook = ["--webhook-url", receiver.url, "--processing-delay", "0"]
    async with commands.serve("fake", *hook) as server, make_client(server.url) as client:
        await upload(client)
        names = {name.lower() for name, _ in (await receiver.get()).headers}
    assert not [name for name in names if b"sig" in name or b"auth" in name]


async def test_only_the_token_of_the_options_is_accepted_and_shown(commands: Commands) -> None:
    async with commands.serve("fake", "--token", "mine") as server:
        assert await server.line() == f"  export AVATURN_BASE_URL={server.url} AVATURN_API_TOKEN=mine"
        assert "session" in await server.line()
        async with make_client(server.url, "mine") as client:
            await client.create_user()
        async with make_client(server.url, "other") as client:
            with pytest.raises(AvaturnError, match="401"):
                await client.create_user()
    async with commands.serve("fake") as server:
        assert (await server.line()).endswith("AVATURN_API_TOKEN=anything")


async def test_seed_makes_the_ids_the_same_in_every_run(commands: Commands) -> None:
    ids: list[str] = []
    for seed in ("1", "1", "2"):
        async with commands.serve("fake", "--seed", seed) as server, make_client(server.url) as client:
            ids.append((await client.create_user()).id)
    assert ids[0] == ids[1] != ids[2]


async def test_processing_delay_is_the_time_that_an_avatar_takes(commands: Commands, receiver: Receiver) -> None:
    # Longer than the default: an upper limit would fail on a busy machine.
    argv = ["--webhook-url", receiver.url, "--processing-delay", "2.2"]
    async with commands.serve("fake", *argv) as server, make_client(server.url) as client:
        begin = time.monotonic()
        await upload(client)
        await receiver.event()
    assert time.monotonic() - begin >= 2.2


async def get_statuses(url: str, count: int, path: str = "/api/v1/users/new") -> list[int | str]:
    """Return the status of each of some requests, "broken" for a response that does not end as it should."""
    statuses: list[int | str] = []
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(url, headers=TOKEN, connector=connector) as http:
        for _ in range(count):
            try:
                async with http.post(path) as response:
                    await response.read()
                    statuses.append(response.status)
            except aiohttp.ClientError:
                statuses.append("broken")
    return statuses


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        (["bad_gateway:2"], [502, 502, 200]),
        (["bad_gateway", "answer=503:1"], [502, 503, 200]),
        (["answer=418:all"], [418, 418, 418]),
        (["bad_gateway:1:/api/*"], [502, 200, 200]),
        (["bad_gateway:all:/upload/*"], [200, 200, 200]),
        (["rate_limited:2"], [429, 429, 200]),
        (["rate_limit=2/3600"], [200, 200, 429, 429]),
        (["rate_limit=1/3600:1"], [200, 429, 200]),
        (["reset"], ["broken", 200, 200]),
        (["reset=1"], ["broken", 200, 200]),
        (["cut=3:2"], ["broken", "broken", 200]),
    ],
    ids=str,
)
async def test_fault_option_spoils_the_next_responses(
    faults: list[str], statuses: list[int | str], commands: Commands
) -> None:
    argv = [word for fault in faults for word in ("--fault", fault)]
    async with commands.serve("fake", *argv) as server:
        assert await get_statuses(server.url, len(statuses)) == statuses


async def test_slow_fault_delays_the_next_responses(commands: Commands) -> None:
    async with commands.serve("fake", "--fault", "slow=0.2:2") as server:
        begin = time.monotonic()
        assert await get_statuses(server.url, 2) == [200, 200]
    assert time.monotonic() - begin >= 0.4


async def test_rate_limited_fault_has_its_retry_after(commands: Commands) -> None:
    async with (
        commands.serve("fake", "--fault", "rate_limited=7") as server,
        aiohttp.ClientSession(server.url, headers=TOKEN) as http,
        http.post("/api/v1/users/new") as response,
    ):
        assert (response.status, response.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(("fault", "received"), [("stall", b""), ("stall=5", b'{"id"')])
async def test_stall_fault_stops_the_response_for_good(fault: str, received: bytes, commands: Commands) -> None:
    async with commands.serve("fake", "--fault", fault) as server:
        port = int(server.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/v1/users/new HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n")
        if received:
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(received)) == received
        # The request after it is answered, while the first response still waits.
        assert await get_statuses(server.url, 1) == [200]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.readexactly(1)
        writer.close()


@pytest.mark.parametrize(
    ("fault", "received"),
    [
        ("drop", ([], [1])),
        ("drop:all", ([], [])),
        ("drop:1:export.ready", ([0], [1])),
        ("duplicate", ([0, 0], [1])),
        ("duplicate=3:1:avatar.ready", ([0, 0, 0], [1])),
        ("reorder", ([], [1, 0])),
        ("late=3600", ([], [1])),
    ],
)
async def test_fault_option_spoils_the_next_webhooks(
    fault: str, received: tuple[list[int], ...], commands: Commands, receiver: Receiver
) -> None:
    argv = ["--webhook-url", receiver.url, "--processing-delay", "0", "--fault", fault]
    ids: list[str] = []
    async with commands.serve("fake", *argv) as server, make_client(server.url) as client:
        for expected in received:
            ids.append(await upload(client))
            assert [(await receiver.event())["avatar_id"] for _ in expected] == [ids[index] for index in expected]
    assert receiver.requests.empty()


async def test_failed_fault_ends_the_next_results_as_failed(commands: Commands, receiver: Receiver) -> None:
    argv = ["--webhook-url", receiver.url, "--processing-delay", "0"]
    for kind in ("avatar", "export:1", "render:2"):
        argv += ["--fault", f"failed_{kind}"]
    async with commands.serve("fake", *argv) as server, make_client(server.url) as client:
        await upload(client)
        assert (await receiver.event())["status"] == "failed"
        avatar_id = await upload(client)
        assert (await receiver.event())["status"] == "ready"
        await client.set_customization(avatar_id, Customization(body="body_1"))
        await client.create_export(avatar_id)
        assert (await receiver.event())["status"] == "failed"
        statuses = []
        for _ in range(3):
            await client.render_user_avatar(avatar_id)
            statuses.append((await receiver.event())["status"])
        assert statuses == ["failed", "failed", "ready"]


WRONG_FAULTS = {
    "teapot": "not a fault: teapot; give one of ",
    "bad_gateway=1": "bad_gateway=1: bad_gateway takes no value",
    "answer": "answer: answer takes one value",
    "rate_limit=1": "rate_limit takes two values",
    "answer=99": "from 200 to 599",
    "slow=soon": "number of seconds",
    "bad_gateway:twice": "must be a number",
    "rate_limit=0/5": "calls must be at least 1",
    "late=inf": "number of seconds",
    "failed_avatar:1:/x": "failed_avatar has no path or event",
    "drop:1:avatar_ready": "event must be avatar.ready",
}


@pytest.mark.parametrize(("fault", "message"), WRONG_FAULTS.items())
async def test_invalid_fault_is_a_usage_error(fault: str, message: str, commands: Commands) -> None:
    ended = await commands.run("fake", "--port", "0", "--fault", fault)
    assert ended.code == 2
    assert message in " ".join(" ".join(ended.err).split())


def test_module_runs_the_command_until_ctrl_c() -> None:
    module = "avaturn_async.testing"
    with serving_process("--fault", "bad_gateway:2", module=module) as (process, url):
        assert asyncio.run(get_statuses(url, 3)) == [502, 502, 200]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


def test_command_runs_as_a_process_with_signed_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATURN_WEBHOOK_SECRET", SECRET)
    scheme = ["--scheme", "header", "--header", "X-Key"]
    with (
        serving_process("listen", *scheme) as (listening, hook),
        serving_process("fake", "--webhook-url", hook, "--processing-delay", "0", *scheme) as (faking, url),
    ):

        async def use() -> str:
            async with make_client(url) as client:
                return await upload(client)

        avatar_id = asyncio.run(use())
        assert listening.stdout is not None
        assert f"avatar_id={avatar_id}" in listening.stdout.readline()
        faking.send_signal(signal.SIGINT)
        out, err = faking.communicate(timeout=30)
    assert (faking.returncode, err) == (130, "")
    assert SECRET not in out
