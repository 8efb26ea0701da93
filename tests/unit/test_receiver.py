"""The receiver without HTTP: the order of the checks, the replies, the counters, and what the log says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import Mock

import aiohttp.test_utils
import attrs
import pytest
from attrs import define, field
from support.virtual_time import virtual

from avaturn_async import (
    AvaturnClient,
    AvaturnConnectionError,
    RouterClosedError,
    ScanStatus,
    StoreError,
    StoreFullError,
)
from avaturn_async.webhooks import (
    AllOf,
    AnyOf,
    AvatarReady,
    ConfirmByApi,
    Event,
    HmacSha256,
    MemoryStore,
    SessionRouter,
    SharedSecret,
    StandardWebhooks,
    UnknownEvent,
    UnknownSessionError,
    Unverified,
    WebhookReceiver,
    WebhookReply,
    WebhookRequest,
    parse_event,
)
from avaturn_async.webhooks.replies import REPLIES

AVATAR = "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"
BODY = b'{"event": "avatar.ready", "avatar_id": "%s"}' % AVATAR.encode()
SECRET = "hush-0123456789abcdef"
SIGNATURE = HmacSha256(SECRET, header="X-Signature")


def request(body: bytes = BODY, *, method: str = "POST", signed: bool = True, **headers: str) -> WebhookRequest:
    made = SIGNATURE.sign(body) if signed else {}
    pairs = {**made, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return WebhookRequest(
        method=method,
        headers=tuple((k.encode(), v.encode()) for k, v in pairs.items()),
        body=body,
        peer="192.0.2.7",
    )


def receiver(router: SessionRouter | None = None, **options: Any) -> WebhookReceiver:
    return WebhookReceiver(router or SessionRouter(), **{"verifier": SIGNATURE, **options})


class Closing(SessionRouter):
    """A router that is closing just when the test says so."""

    is_closing = False

    @property
    def closing(self) -> bool:
        return self.is_closing


@define
class Confirm:
    """A confirmation that answers what the test says."""

    answer: Any
    asked: list[Event] = field(factory=list[Event])

    async def check(self, event: Event) -> Event | None:
        self.asked.append(event)
        if isinstance(self.answer, Exception):
            raise self.answer
        result: Event | None = event if self.answer == "same" else self.answer
        return result


async def test_a_good_one_is_stored_and_the_same_again_is_a_duplicate() -> None:
    made = receiver()
    assert await made.receive(request()) == WebhookReply(status=200)
    assert await made.receive(request()) == WebhookReply(status=200)
    assert {k: v for k, v in made.outcomes.items() if v} == {"stored": 1, "duplicate": 1}
    event = await made.router.wait_for(AvatarReady, avatar_id=AVATAR, timeout=0)
    assert event.raw["event"] == "avatar.ready"
    await made.router.close()


async def test_each_check_comes_before_the_next_more_costly_one() -> None:
    """A request that is wrong in every way is told the first; mended step by step, the next."""
    router = Closing()
    made = receiver(router, max_body=100)
    wrong = {
        "method": "GET",
        "signed": False,
        "Content_Length": "101",
        "Content_Encoding": "gzip",
        "Content_Type": "text/plain",
    }
    body = b"["
    seen: list[int] = []
    for mend in (
        "",
        "method",
        "Content_Length",
        "Content_Encoding",
        "closing",
        "signed",
        "Content_Type",
        "body",
    ):
        wrong.pop(mend, None)
        if mend == "body":
            body = BODY
        router.is_closing = mend in {"", "method", "Content_Length", "Content_Encoding"}
        options: Any = wrong
        seen.append((await made.receive(request(body, **options))).status)
    assert seen == [405, 413, 415, 503, 401, 415, 400, 200]
    await made.router.close()


@pytest.mark.parametrize("outcome", REPLIES)
def test_every_reply_is_empty_and_says_no_more_than_it_must(outcome: str) -> None:
    reply = REPLIES[outcome]
    assert reply.body == b""
    headers = dict(reply.headers)
    assert (reply.status == 405) == (headers.get("Allow") == "POST")
    assert (reply.status == 503) == ("Retry-After" in headers)
    assert set(headers) <= {"Allow", "Retry-After", "Connection"}


async def test_a_body_that_is_too_large_is_refused_also_when_nothing_declares_it() -> None:
    made = receiver(max_body=len(BODY) - 1)
    assert (await made.receive(request())).status == 413
    assert (await made.receive(request(Content_Encoding="gzip"))).status == 413


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreFullError("full"), "store_full"),
        (StoreError("away"), "store_unavailable"),
        (RouterClosedError("closed"), "shutting_down"),
        (ValueError(SECRET), "internal_error"),
    ],
)
async def test_a_store_that_cannot_take_it_has_the_sender_come_again(
    error: Exception, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryStore):
        async def append(self, _: Any) -> int:
            raise error

    made = receiver(SessionRouter(Broken()))
    reply = await made.receive(request())
    assert (reply.status, dict(reply.headers)) == (503, {"Retry-After": "5"})
    assert made.outcomes[outcome] == 1
    assert SECRET not in caplog.text


async def test_a_full_store_is_a_503_and_takes_it_when_there_is_room() -> None:
    clock = [0.0]
    router = SessionRouter(MemoryStore(max_events=1, ttl=10, clock=lambda: clock[0]))
    made = receiver(router)
    assert (await made.receive(request())).status == 200
    other = b'{"event": "x"}'
    assert (await made.receive(request(other))).status == 503
    clock[0] = 10.1
    assert (await made.receive(request(other))).status == 200
    await router.close()


async def test_request_of_a_web_framework_is_refused() -> None:
    framework: Any = aiohttp.test_utils.make_mocked_request("POST", "/")
    with pytest.raises(TypeError, match=r"must be a WebhookRequest, not Request: for aiohttp there is handle\(\)"):
        await WebhookReceiver(SessionRouter(), verifier=SIGNATURE).receive(framework)


class Panic(BaseException):
    """What pyo3 raises for a Rust panic."""


@pytest.mark.parametrize(
    "error",
    [Panic, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit],
    ids=lambda error: error.__name__,
)
@pytest.mark.parametrize("name", ["verify", "verify_headers", "check"])
async def test_base_exception_is_a_503_unless_it_ends_the_program(name: str, error: type[BaseException]) -> None:
    broken = Mock(side_effect=error)
    verifier: Any = Mock(HmacSha256, verify=Mock(return_value="id"))
    if name != "check":
        setattr(verifier, name, broken)
    confirm = Mock(check=broken) if name == "check" else None
    made = WebhookReceiver(SessionRouter(), verifier=verifier, confirm=confirm)
    if error in {KeyboardInterrupt, SystemExit}:
        with pytest.raises(error):
            await made.receive(request())
    else:
        assert (await made.receive(request())).status == 503
        assert made.outcomes["internal_error"] == 1
    await made.router.close()


class Waiting:
    """A confirmation that does not return."""

    async def check(self, _: Event) -> None:
        await asyncio.get_running_loop().create_future()


@virtual
async def test_cancelled_request_gets_no_reply() -> None:
    made = receiver(confirm=Waiting())
    task = asyncio.create_task(made.receive(request()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(made.outcomes.values())
    await made.router.close()


@pytest.mark.parametrize("where", ["no loop", "another task"])
def test_request_that_is_dropped_gets_no_reply(where: str) -> None:
    made = receiver(confirm=Waiting())
    loop = asyncio.new_event_loop()
    work = made.receive(request())
    task = loop.create_task(work)

    async def drop() -> None:
        work.close()

    loop.run_until_complete(asyncio.sleep(0.001))
    assert not task.done()
    if where == "no loop":
        work.close()
    else:
        asyncio.run(drop())
    loop.run_until_complete(made.router.close())
    loop.close()
    assert not any(made.outcomes.values())


async def test_a_verifier_that_is_broken_is_a_503_and_not_a_500(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(HmacSha256):
        def verify(self, request: WebhookRequest) -> None:
            raise ZeroDivisionError(request)

    made = WebhookReceiver(SessionRouter(), verifier=Broken(SECRET, header="X"))
    assert (await made.receive(request())).status == 503
    assert made.outcomes["internal_error"] == 1
    # The log names the place, and nothing of the request.
    assert f"internal_error, 503: ZeroDivisionError in {__file__}, line" in caplog.text
    assert "WebhookRequest" not in caplog.text


async def test_a_confirmed_event_is_stored_as_the_api_has_it() -> None:
    believed = AvatarReady(avatar_id=parse_event(BODY).avatar_id or 0, status=ScanStatus.FAILED)  # type: ignore[arg-type]
    confirm = Confirm(believed)
    made = receiver(confirm=confirm)
    assert (await made.receive(request())).status == 200
    assert (await made.router.wait_for(AvatarReady, avatar_id=AVATAR, timeout=0)).status == "failed"
    # A duplicate is not asked about again.
    assert (await made.receive(request())).status == 200
    assert len(confirm.asked) == 1
    assert made.outcomes["duplicate"] == 1
    await made.router.close()


@pytest.mark.parametrize(
    ("answer", "status", "outcome"),
    [
        ("same", 200, "stored"),
        (None, 200, "not_confirmed"),
        (AvaturnConnectionError("away"), 503, "confirmation_unavailable"),
    ],
)
async def test_what_the_confirmation_says_decides(answer: Any, status: int, outcome: str) -> None:
    store = MemoryStore()
    made = receiver(SessionRouter(store), confirm=Confirm(answer))
    assert (await made.receive(request())).status == status
    assert made.outcomes[outcome] == 1
    assert (await store.stats())["events"] == (1 if outcome == "stored" else 0)
    await made.router.close()


async def test_unsigned_event_with_other_fields_is_a_duplicate() -> None:
    """Whoever knows two ids must not have the handlers called, and the API requested, as often as he likes."""
    confirm = Confirm("same")
    made = WebhookReceiver(SessionRouter(), verifier=Unverified(), confirm=confirm)
    session, render = "5e551011-0000-4000-8000-000000000001", "4e4de400-0000-4000-8000-000000000001"
    known: list[dict[str, Any]] = [
        {"event": "avatar.ready", "avatar_id": AVATAR, "session_id": session},
        {"event": "avatar.ready", "avatar_id": AVATAR},
        {"event": "export.ready", "avatar_id": AVATAR, "user_id": "u", "status": "ready"},
        {"event": "render.ready", "avatar_id": AVATAR, "user_id": "u", "status": "ready", "id": render},
    ]
    for event in known:
        for changes in ({}, {"x": 1}, {"user_id": "v"}, {"status": "failed"}, {"x": "y" * 999}):
            body = json.dumps({**event, **changes}).encode()
            assert (await made.receive(WebhookRequest(method="POST", headers=(), body=body))).status == 200
    assert made.outcomes["stored"] == len(confirm.asked) == len(known)
    assert made.outcomes["duplicate"] == 4 * len(known)
    await made.router.close()


NOT_ASKED_ABOUT = [b'{"event": "user.gone"}', b'{"event": "avatar.ready", "avatar_id": 5}']


@pytest.mark.parametrize("posted", NOT_ASKED_ABOUT)
async def test_nothing_is_asked_about_an_unknown_event_and_a_secret_is_enough_for_it(posted: bytes) -> None:
    store, confirm = MemoryStore(), Confirm(None)
    made = receiver(SessionRouter(store), confirm=confirm)
    assert (await made.receive(request(posted))).status == 200
    assert (confirm.asked, (await store.stats())["events"]) == ([], 1)
    await made.router.close()


@pytest.mark.parametrize("posted", NOT_ASKED_ABOUT)
@pytest.mark.parametrize("verifier", [Unverified(), AnyOf(SIGNATURE, Unverified())])
async def test_an_unknown_event_that_anybody_could_have_sent_reaches_nobody(
    posted: bytes, verifier: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store, confirm = MemoryStore(), Confirm("same")
    made = receiver(SessionRouter(store), verifier=verifier, confirm=confirm)
    for signed in (True, False):
        assert (await made.receive(request(posted, signed=signed))).status == 200
    assert (confirm.asked, (await store.stats())["events"]) == ([], 0)
    assert made.outcomes["not_confirmed"] == 2
    assert "webhook not_confirmed, 200: the API does not confirm" in caplog.text
    await made.router.close()


async def test_a_type_of_the_future_is_no_drift(caplog: pytest.LogCaptureFixture) -> None:
    assert (await receiver().receive(request(b'{"event": "user.gone"}'))).status == 200
    assert "WARNING" not in caplog.text


async def test_what_a_confirmation_makes_of_an_event_is_what_drifts(caplog: pytest.LogCaptureFixture) -> None:
    other = UnknownEvent(event="avatar.ready", problems=("missing $.avatar_id",), raw={"event": "avatar.ready"})
    made = WebhookReceiver(SessionRouter(), verifier=SIGNATURE, confirm=Confirm(other))
    assert (await made.receive(request(BODY))).status == 200
    assert "missing $.avatar_id" in caplog.text


async def test_drift_is_kept_and_logged_without_what_was_posted(caplog: pytest.LogCaptureFixture) -> None:
    made = receiver()
    drifted = b'{"event": "export.ready", "avatar_id": "%s", "status": "hush"}' % AVATAR.encode()
    assert (await made.receive(request(drifted))).status == 200
    event = await made.router.wait_for(UnknownEvent, avatar_id=AVATAR, timeout=0)
    assert event.problems == ("missing $.user_id",)
    assert "webhook of another shape than documented, 200: missing $.user_id" in caplog.text
    assert "hush" not in caplog.text
    caplog.clear()
    assert (await made.receive(request(drifted))).status == 200
    assert (made.outcomes["duplicate"], "WARNING" in caplog.text) == (1, False)
    await made.router.close()


async def test_a_delivery_id_that_was_signed_makes_the_duplicate() -> None:
    class WithId(SharedSecret):
        def verify(self, request: WebhookRequest) -> str:  # type: ignore[override]
            super().verify(request)
            return request.values(b"x-id")[0].decode()

    verifier = WithId(SECRET, header="X-Secret")
    made = WebhookReceiver(SessionRouter(), verifier=verifier)
    for body, id_ in ((BODY, "1"), (BODY + b" ", "1"), (BODY, "2")):
        await made.receive(request(body, X_Secret=SECRET, X_Id=id_))
    assert (made.outcomes["stored"], made.outcomes["duplicate"]) == (2, 1)
    await made.router.close()


async def test_too_many_in_flight_are_told_to_come_again() -> None:
    gate = asyncio.Event()

    class Slow(MemoryStore):
        async def append(self, arrival: Any) -> int:
            await gate.wait()
            return await super().append(arrival)

    made = receiver(SessionRouter(Slow()), max_in_flight=2)
    running = [asyncio.create_task(made.receive(request(BODY + b" " * n))) for n in range(2)]
    await asyncio.sleep(0)
    assert (await made.receive(request())).status == 503
    assert made.outcomes["busy"] == 1
    gate.set()
    assert [(await r).status for r in running] == [200, 200]
    assert (await made.receive(request(BODY + b"   "))).status == 200
    await made.router.close()


async def test_a_flood_logs_a_line_a_second_for_each_reason_and_says_how_many_it_kept_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    made = receiver(clock=lambda: clock[0])
    for tick in range(1000):
        clock[0] = tick / 400
        await made.receive(request(signed=False))
        await made.receive(request(method="GET"))
    lines = [r.getMessage() for r in caplog.records if r.name == "avaturn_async.webhooks"]
    unauthorized = [line for line in lines if "unauthorized" in line]
    taken = f"webhook unauthorized, 401: header x-signature missing (from 192.0.2.7, {len(BODY)} bytes)"
    more = "webhook unauthorized, 401: 399 more within the second"
    assert unauthorized == [taken, more, taken, more, taken]
    assert len(lines) == 10


def test_error_in_the_peer_function_costs_no_webhook() -> None:
    def fail(_: Any) -> str:
        raise KeyError("X-Forwarded-For")

    assert receiver(peer=fail).get_peer(object(), "192.0.2.7") == "192.0.2.7"


async def test_control_characters_of_a_peer_do_not_forge_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    made = receiver()
    await made.receive(attrs.evolve(request(signed=False), peer="192.0.2.7\nforged\x1b"))
    [record] = caplog.records
    assert "(from 192.0.2.7 forged\ufffd," in record.getMessage()
    assert "\n" not in str(vars(record)["peer"])


async def test_suppressed_lines_are_counted_when_the_second_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = receiver(clock=lambda: 0.0)
    monkeypatch.setattr("avaturn_async.webhooks.replies._LOG_INTERVAL", 0.001)
    for _ in range(6):
        await made.receive(request(signed=False))
    while len(caplog.records) < 2:
        await asyncio.sleep(0)
    assert caplog.records[-1].getMessage() == "webhook unauthorized, 401: 5 more within the second"
    assert len(caplog.records) == 2


async def test_log_records_have_extra_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "avaturn_async.webhooks")
    made = receiver()
    await made.receive(request(Content_Type="text/plain"))
    body = BODY.replace(b"}", b', "session_id": "%s"}' % AVATAR.encode())
    await made.receive(request(body))
    refused, taken = (vars(record) for record in caplog.records)
    assert {name: refused[name] for name in ("outcome", "status", "reason", "peer", "event", "session_id")} == {
        "outcome": "unsupported_media_type",
        "status": 415,
        "reason": "content type text/plain",
        "peer": "192.0.2.7",
        "event": None,
        "session_id": None,
    }
    assert (taken["levelname"], taken["outcome"], taken["status"]) == ("DEBUG", "stored", 200)
    assert (taken["event"], taken["session_id"]) == ("avatar.ready", AVATAR)
    assert f"routed to session:{AVATAR}" in caplog.text
    await made.router.close()


@define
class Publisher:
    """A router that records what the receiver publishes."""

    closing: bool = False
    dedup_window: float = 30.0
    published: list[dict[str, Any]] = field(factory=list[dict[str, Any]])

    async def contains(self, key: str) -> bool:
        return any(p["key"] == key for p in self.published)

    async def publish(self, _: Event, **options: Any) -> bool:
        self.published.append(options)
        return True


async def test_only_a_body_without_delivery_id_has_a_dedup_window() -> None:
    verifier = StandardWebhooks(b"0123456789abcdef")
    for scheme, prefix, unique_for in ((verifier, "id:msg_1", None), (SIGNATURE, "sha256:", 30.0)):
        router: Any = Publisher()
        signed = scheme.sign(BODY, id="msg_1")
        made = WebhookReceiver(router, verifier=scheme)
        assert (await made.receive(WebhookRequest(method="POST", headers=signed, body=BODY))).status == 200
        [published] = router.published
        assert published["key"].startswith(prefix)
        assert (published["unique_for"], published["confirmed"]) == (unique_for, True)


@pytest.mark.parametrize("verifier", [SIGNATURE, Unverified()])
async def test_an_event_of_an_unknown_session_is_published_unconfirmed_unless_unsigned(
    verifier: Any, caplog: pytest.LogCaptureFixture
) -> None:
    router: Any = Publisher()
    body = BODY.replace(b"}", b', "session_id": "%s"}' % AVATAR.encode())
    made = WebhookReceiver(router, verifier=verifier, confirm=Confirm(UnknownSessionError("not opened here")))
    assert (await made.receive(request(body))).status == 200
    assert made.outcomes["unknown_session"] == 1
    assert [p["confirmed"] for p in router.published] == ([False] if verifier is SIGNATURE else [])
    assert "webhook unknown_session, 200: not opened here (" in caplog.text


async def test_a_secret_is_checked_by_the_head_alone() -> None:
    made = WebhookReceiver(SessionRouter(), verifier=AllOf(SharedSecret(SECRET, query="key"), SIGNATURE))
    head = {"method": "POST", "headers": (), "body": b""}
    refused = made.check_headers(WebhookRequest(**head, query="key=wrong"))  # type: ignore[arg-type]
    assert refused == WebhookReply(status=401)
    assert made.check_headers(WebhookRequest(**head, query=f"key={SECRET}")) is None  # type: ignore[arg-type]


async def test_bodies_being_read_take_no_place_in_flight_and_the_oldest_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.receiver._MAX_READERS", 3)
    made = receiver(max_in_flight=1)
    never = asyncio.Event()

    async def held_back() -> bytes:
        await never.wait()
        return b""

    head = WebhookRequest(method="POST", headers=(), body=b"")
    reading = [asyncio.create_task(made.read_body(head, held_back)) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await made.receive(request())).status == 200
    assert [await reading[n] for n in range(2)] == [REPLIES["read_timeout"]] * 2
    assert [task.done() for task in reading] == [True, True, False, False, False]
    never.set()
    assert await asyncio.gather(*reading[2:]) == [b""] * 3
    await made.router.close()


@virtual
async def test_chunk_of_a_body_that_was_given_up_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.receiver._MAX_READERS", 1)
    made, head = receiver(), WebhookRequest(method="POST", headers=(), body=b"")
    newer: list[asyncio.Task[bytes | WebhookReply]] = []
    chunks = [b"1"]

    async def begin_another() -> bytes:
        if not chunks:
            await asyncio.Event().wait()
        newer.append(asyncio.create_task(made.read_body(head, end_later)))
        await asyncio.sleep(0)  # meanwhile the newer one takes the place
        return chunks.pop()

    async def end_later() -> bytes:
        await asyncio.sleep(1)
        return b""

    assert await made.read_body(head, begin_another) == REPLIES["read_timeout"]
    assert await newer[0] == b""


@virtual
async def test_body_whose_time_is_over_when_it_is_given_up_has_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.receiver._MAX_READERS", 1)
    made, head = receiver(read_timeout=5), WebhookRequest(method="POST", headers=(), body=b"")

    async def hang() -> bytes:
        await asyncio.Event().wait()
        return b""

    async def end() -> bytes:
        return b""

    async def read_newer() -> bytes | WebhookReply:
        await asyncio.sleep(5)
        assert not older.done()
        return await made.read_body(head, end)

    # Both wake at the same time, and the newer one first.
    newer = asyncio.create_task(read_newer())
    await asyncio.sleep(0)
    older = asyncio.create_task(made.read_body(head, hang))
    assert await newer == b""
    assert await older == REPLIES["read_timeout"]


@virtual
async def test_oldest_body_is_not_given_up_for_its_own_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avaturn_async.webhooks.receiver._MAX_PARTIAL_BYTES", 40)
    made, head = receiver(max_body=10), WebhookRequest(method="POST", headers=(), body=b"")

    def arriving(at: float) -> Callable[[], Awaitable[bytes]]:
        chunks = [b"", b"0123456789"]

        async def next_chunk() -> bytes:
            await asyncio.sleep(at if len(chunks) == 2 else 5)
            return chunks.pop()

        return next_chunk

    # The bytes of the first body come last, and exceed the bound of 40.
    bodies = [made.read_body(head, arriving(at)) for at in (2, 1, 1, 1, 1)]
    assert await asyncio.gather(*bodies) == [b"0123456789"] * 5


async def test_length_that_is_no_number_is_not_the_length_of_the_body() -> None:
    made = receiver(max_body=1_000)
    assert await made.receive(request(content_length="much")) == WebhookReply(status=200)
    await made.router.close()


@define
class Custom:
    """A verifier whose methods return what the test says."""

    result: Any = None
    head: Any = None

    def verify(self, _: WebhookRequest) -> Any:
        return self.result

    def verify_headers(self, _: WebhookRequest) -> Any:
        return self.head

    def sign(self, *_: Any, **__: Any) -> dict[str, str]:
        return {}


@pytest.mark.parametrize("wrap", [lambda custom: custom, AllOf, AnyOf, lambda custom: AllOf(SIGNATURE, AnyOf(custom))])
@pytest.mark.parametrize("name", ["result", "head"])
async def test_verifier_whose_result_is_no_delivery_id_accepts_nothing(
    wrap: Callable[[Custom], Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    pending = asyncio.get_running_loop().create_future()
    results: tuple[Any, ...] = (False, True, 0, b"id", {}, pending)
    for result in results:
        made = receiver(verifier=wrap(Custom(**{name: result})))
        assert (await made.receive(request())).status == 503
        assert {k: v for k, v in made.outcomes.items() if v} == {"internal_error": 1}
        assert "internal_error, 503: TypeError in" in caplog.text
        assert await made.router.bus.read_all([f"avatar:{AVATAR}"]) == []
        await made.router.close()
        caplog.clear()
    made = receiver(verifier=wrap(Custom(result="id", head="id")))
    assert (await made.receive(request())).status == 200
    await made.router.close()


@pytest.mark.parametrize("wrap", [lambda custom: receiver(verifier=custom), AllOf, AnyOf])
@pytest.mark.parametrize("name", ["verify", "verify_headers"])
def test_verifier_with_an_async_function_is_refused(wrap: Callable[[Any], object], name: str) -> None:
    async def verify(self: Custom, request: WebhookRequest) -> None:
        raise AssertionError(self, request)

    custom = type("Mine", (Custom,), {name: verify})()
    with pytest.raises(TypeError, match=rf"^Mine\.{name}\(\) must not be async: it is called without await$"):
        wrap(custom)


@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"verifier": Unverified()}, ValueError, "ConfirmByApi"),
        ({"verifier": AnyOf(Unverified(), SIGNATURE)}, ValueError, "ConfirmByApi"),
        ({"verifier": "hush"}, TypeError, "verifier must have .* not be a str"),
        ({"verifier": Unverified}, TypeError, "call Unverified"),
        ({"verifier": Unverified, "confirm": object()}, TypeError, "call Unverified"),
        ({"verifier": None}, TypeError, "verifier must have"),
        ({}, TypeError, "verifier"),
        ({"router": SIGNATURE, "verifier": SIGNATURE}, TypeError, "SessionRouter, not HmacSha256"),
        ({"verifier": SIGNATURE, "max_body": 0}, ValueError, "max_body must be a number above zero, not 0"),
        ({"verifier": SIGNATURE, "read_timeout": -1}, ValueError, "read_timeout must be a number above zero"),
        (
            {"verifier": SIGNATURE, "max_in_flight": "9"},
            ValueError,
            "max_in_flight must be a number above zero, not '9'",
        ),
        (
            {"verifier": SIGNATURE, "confirm": ConfirmByApi},
            TypeError,
            r"confirm must be ConfirmByApi\(client, router\)",
        ),
        ({"verifier": SIGNATURE, "confirm": AvaturnClient("t")}, TypeError, "confirm must be ConfirmByApi"),
    ],
)
def test_misuse_fails_at_construction(options: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint) as caught:
        WebhookReceiver(**{"router": SessionRouter(), **options})
    assert "hush" not in str(caught.value)


def test_unverified_is_taken_together_with_a_confirmation() -> None:
    WebhookReceiver(SessionRouter(), verifier=Unverified(), confirm=Confirm(None))
