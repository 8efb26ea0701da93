"""Faults that were found by using the first build: each test is named after what must happen."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import subprocess
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest
from support.routing import Api, avatar_ready, has_waiters, publish, session_id
from support.virtual_time import virtual

from avaturn_async import AvaturnClient, RouterClosedError, StoreError
from avaturn_async.webhooks import ConfirmByApi, HmacSha256, WebhookReceiver, WebhookRequest
from avaturn_async.webhooks.events import AvatarReady, Event, event_body
from avaturn_async.webhooks.router import FailedEvent, RoutedSession, SessionRouter
from avaturn_async.webhooks.stores.memory import MemoryStore
from avaturn_async.webhooks.stores.sqlite import SQLiteStore

SIGNATURE = HmacSha256("hush-0123456789abcdef", header="X-Signature")


def now() -> float:
    return asyncio.get_running_loop().time()


def make_request(event: Event) -> WebhookRequest:
    body = event_body(event)
    return WebhookRequest(method="POST", headers=tuple(SIGNATURE.sign(body).items()), body=body)


@virtual
async def test_equal_bodies_are_duplicates_within_the_dedup_window_only() -> None:  # A1
    async with SessionRouter(MemoryStore(clock=now), dedup_window=30) as router:
        receiver = WebhookReceiver(router, verifier=SIGNATURE)
        for seconds in (0, 29, 2, 29):
            await asyncio.sleep(seconds)
            assert (await receiver.receive(make_request(avatar_ready(1, 1)))).status == 200
        assert receiver.outcomes["stored"] == 2
        assert receiver.outcomes["duplicate"] == 2


@virtual
async def test_failed_event_is_reported_listed_and_retried() -> None:  # A4
    calls: list[int] = []
    reported: list[FailedEvent] = []
    async with SessionRouter(MemoryStore(clock=now), handler_attempts=2) as router:
        router.on_failed(_collect(reported))

        @router.on(AvatarReady, name="mail")
        async def handler(event: AvatarReady, _: RoutedSession | None) -> None:
            calls.append(event.position)
            if len(calls) <= 2:
                raise ValueError("no mail server")

        await publish(router, avatar_ready(1))
        await asyncio.sleep(10)
        assert calls == [1, 1]
        assert await router.failed_events() == reported
        (failed,) = reported
        assert (failed.handler, failed.attempts, failed.reason) == ("mail", 2, "ValueError: no mail server")
        await router.retry(failed)
        await asyncio.sleep(1)
        assert calls == [1, 1, 1]
        assert await router.failed_events() == []


def _collect(found: list[FailedEvent]) -> Any:
    async def on_failed(failed: FailedEvent) -> None:
        found.append(failed)

    return on_failed


@virtual
async def test_attempts_of_dead_processes_count_and_the_claim_past_the_last_fails_without_a_call() -> None:  # A5
    store = MemoryStore(clock=now)
    called: list[int] = []
    reported: list[FailedEvent] = []
    await store.start()
    await store.create_group("mail:AvatarReady")
    async with SessionRouter(store) as other:
        await publish(other, avatar_ready(1))
    await store.start()
    for attempt in (1, 2):
        (claimed,) = await store.claim("mail:AvatarReady", limit=1)
        assert claimed.attempt == attempt
        await asyncio.sleep(31)  # the process died
    async with SessionRouter(store, handler_attempts=2) as router:
        router.on_failed(_collect(reported))

        @router.on(AvatarReady, name="mail")
        async def handler(event: AvatarReady, _: RoutedSession | None) -> None:
            called.append(event.position)

        await asyncio.sleep(1)
        assert called == []
        assert [failed.attempts for failed in reported] == [2]
        assert await router.failed_events() == reported


@virtual
async def test_unconfirmed_event_reaches_only_on_unrouted_and_binds_nothing() -> None:  # A6
    handled: list[Event] = []
    unrouted: list[Event] = []
    async with SessionRouter(MemoryStore(clock=now)) as router:

        @router.on(AvatarReady)
        async def handler(event: AvatarReady, _: RoutedSession | None) -> None:
            handled.append(event)

        @router.on_unrouted
        async def rest(event: Event) -> None:
            unrouted.append(event)

        session = await router.open_session(Api().client, "user")
        event = avatar_ready(1, 1)
        await router.publish(event, key="k", body=event_body(event), confirmed=False)
        await asyncio.sleep(10)
        assert handled == []
        assert unrouted == [event]
        with pytest.raises(TimeoutError):
            await session.wait_for(AvatarReady, timeout=1)
        assert await router.bus.find_owner(event.avatar_id) is None


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has eager tasks")
def test_handlers_run_with_eager_tasks() -> None:  # B2
    @virtual
    async def run() -> None:
        asyncio.get_running_loop().set_task_factory(cast("Any", asyncio).eager_task_factory)
        called = 0
        async with SessionRouter(MemoryStore(clock=now)) as router:

            @router.on(AvatarReady)
            async def handler(_: AvatarReady, __: RoutedSession | None) -> None:
                nonlocal called
                called += 1

            for n in range(3):
                await publish(router, avatar_ready(n))
                await asyncio.sleep(1)
                assert called == n + 1

    run()


@virtual
async def test_begin_close_ends_waiters_and_iterators() -> None:  # B3
    async with SessionRouter(MemoryStore(clock=now)) as router:
        session = await router.open_session(Api().client, "user")
        waits = [
            asyncio.ensure_future(session.wait_for(AvatarReady, timeout=600)),
            asyncio.ensure_future(anext(session.events())),
        ]
        await asyncio.sleep(1)
        before = now()
        router.begin_close()
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(result) for result in results] == [RouterClosedError, RouterClosedError]
        assert now() - before < 0.3


def test_begin_close_after_the_loop_of_a_waiter_was_closed_does_not_raise() -> None:  # B4
    router, loop = SessionRouter(), asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # for the waiter, which is destroyed
    waiter = loop.create_task(router.wait_for(AvatarReady, avatar_id=avatar_ready(1).avatar_id, timeout=60))
    while not has_waiters(router):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    router.begin_close()
    assert router.closing
    assert not waiter.done()


def test_router_starts_anew_after_its_loop_ended_without_close() -> None:  # B4
    router = SessionRouter()
    called: list[int] = []

    @router.on(AvatarReady)
    async def handler(event: AvatarReady, _: RoutedSession | None) -> None:
        called.append(event.position)

    async def use(number: int) -> None:
        await router.start()
        await publish(router, avatar_ready(number))
        while len(called) < number:
            await asyncio.sleep(0)
        event = await router.wait_for(AvatarReady, avatar_id=avatar_ready(number).avatar_id, timeout=1)
        assert event.avatar_id == avatar_ready(number).avatar_id

    for number in (1, 2):
        asyncio.run(use(number))
    asyncio.run(router.close())
    assert called == [1, 2]


async def test_two_running_loops_are_a_clear_error() -> None:  # B4
    async with SessionRouter() as router:
        error = await asyncio.to_thread(_catch, lambda: asyncio.run(router.start()))
        assert isinstance(error, StoreError)
        assert "another running event loop" in str(error)
        await publish(router, avatar_ready(1))  # the first loop goes on


def _catch(call: Any) -> BaseException | None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - returned to the other thread
        return error
    return None


tenant: ContextVar[str] = ContextVar("tenant", default="none yet")


@virtual
async def test_handlers_run_in_the_context_of_start() -> None:  # C6
    seen: list[str] = []
    tenant.set("start")
    async with SessionRouter(MemoryStore(clock=now)) as router:

        @router.on(AvatarReady)
        async def handler(_: AvatarReady, __: RoutedSession | None) -> None:
            seen.append(tenant.get())

        await asyncio.sleep(1)
        tenant.set("request")
        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
    assert seen == ["start"]


class Panic(BaseException):
    """What pyo3 raises for a Rust panic."""


@virtual
async def test_reason_of_a_failure_has_one_line_without_control_characters() -> None:
    reported: list[FailedEvent] = []
    async with SessionRouter(MemoryStore(clock=now), handler_attempts=1) as router:
        router.on_failed(_collect(reported))

        @router.on(AvatarReady)
        async def handler(_: AvatarReady, __: RoutedSession | None) -> None:
            raise ValueError("bad\r\nERROR forged\x1b[2J\x00\u202e" + "x" * 500)

        await publish(router, avatar_ready(1))
        await asyncio.sleep(1)
        assert await router.failed_events() == reported
    [failed] = reported
    assert failed.reason.startswith("ValueError: bad ERROR forged\N{REPLACEMENT CHARACTER}[2J")
    assert failed.reason.isprintable()
    assert len(failed.reason) == 199  # a line break of two characters became a space


RAISED = [Panic("overflow"), asyncio.CancelledError("overflow"), GeneratorExit("overflow")]


@pytest.mark.parametrize("error", RAISED)
@virtual
async def test_base_exception_of_a_handler_is_counted_and_reported(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:  # C7
    reported: list[FailedEvent] = []
    async with SessionRouter(MemoryStore(clock=now), handler_attempts=2) as router:
        router.on_failed(_collect(reported))

        @router.on(AvatarReady)
        async def handler(_: AvatarReady, __: RoutedSession | None) -> None:
            raise error

        await publish(router, avatar_ready(1))
        await asyncio.sleep(10)
    assert [(failed.attempts, failed.reason) for failed in reported] == [(2, f"{type(error).__name__}: overflow")]
    assert [record.levelno for record in caplog.records if "attempt" in record.message] == [
        logging.WARNING,
        logging.ERROR,
    ]


@pytest.mark.parametrize("error", RAISED)
@virtual
async def test_base_exception_of_the_handler_of_failed_events_is_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:  # C7
    called: list[int] = []
    async with SessionRouter(MemoryStore(clock=now), handler_attempts=1) as router:

        @router.on_failed
        async def on_failed(failed: FailedEvent) -> None:
            called.append(failed.event.position)
            raise error

        @router.on(AvatarReady)
        async def handler(_: AvatarReady, __: RoutedSession | None) -> None:
            raise ValueError

        for n in (1, 2):
            await publish(router, avatar_ready(n))
            await asyncio.sleep(10)
    assert called == [1, 2]
    assert caplog.text.count("the handler of failed events failed at position") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_handler_goes_through(error: type[BaseException]) -> None:  # C7
    async def use() -> None:
        async with SessionRouter() as router:

            @router.on(AvatarReady)
            async def handler(_: AvatarReady, __: RoutedSession | None) -> None:
                raise error

            await publish(router, avatar_ready(1))
            await asyncio.sleep(10)

    with pytest.raises(error):
        asyncio.run(use())


def test_callable_client_is_called_when_it_is_needed() -> None:  # F7
    api = Api()
    calls = 0

    def get_client() -> AvaturnClient:
        nonlocal calls
        calls += 1
        return api.client

    router = SessionRouter()
    confirm = ConfirmByApi(get_client, router)
    assert calls == 0

    @virtual
    async def use() -> None:
        await router.open_session(api.client, "user")
        api.avatars["user"] = {1: "ready"}
        confirmed = await confirm.check(avatar_ready(1, 1))
        assert confirmed is not None
        assert confirmed.session_id == session_id(1)

    use()
    assert calls == 1


@pytest.mark.parametrize("public", [SessionRouter, WebhookReceiver, ConfirmByApi, MemoryStore, AvaturnClient])
def test_signature_has_only_public_documented_options(public: type) -> None:  # F8
    documentation = inspect.getdoc(public) or ""
    for name in inspect.signature(public).parameters:
        assert not name.startswith("_")
        assert f"{name}: " in documentation


def test_handler_of_the_main_module_is_warned_of_with_its_name(  # F6
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def send_mail(event: AvatarReady, session: RoutedSession | None) -> None: ...

    send_mail.__module__ = "__main__"
    send_mail.__qualname__ = "send_mail"
    SessionRouter().on(AvatarReady)(send_mail)
    SessionRouter(SQLiteStore(tmp_path / "events.db")).on(AvatarReady, name="mail")(send_mail)
    assert "__main__" not in caplog.text
    SessionRouter(SQLiteStore(tmp_path / "events.db")).on(AvatarReady)(send_mail)
    assert "handler __main__.send_mail: its name in the shared store" in caplog.text


PROGRAM = """
import asyncio, logging
from avaturn_async.webhooks import AvatarReady, {store}, SessionRouter, parse_event

logging.basicConfig()
router = SessionRouter({store}({path}))
body = b'{{"event": "avatar.ready", "avatar_id": "0e0e9a3c-5d5a-4f43-9a55-2d9c3f0c8a11"}}'

@router.on(AvatarReady{name})
async def send_mail(event, session):
    print("mail")

async def main():
    async with router:
        await router.publish(parse_event(body), key="k", body=body)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("store", "name", "mails", "warned"),
    [("SQLiteStore", "", 2, True), ("SQLiteStore", ', name="mail"', 1, False), ("MemoryStore", "", 2, False)],
)
def test_handler_of_the_main_module_without_a_name_is_warned_of_when_the_store_is_shared(  # F6
    store: str, name: str, mails: int, tmp_path: Path, *, warned: bool
) -> None:
    path = repr(str(tmp_path / "events.db")) if store == "SQLiteStore" else ""
    (tmp_path / "app.py").write_text(PROGRAM.format(store=store, path=path, name=name))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = logged = ""
    # As with ``python app.py`` at first, and ``uvicorn app:app`` later.
    for command in (["app.py"], ["-c", "import app"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        printed += done.stdout
        logged += done.stderr
    assert printed.count("mail") == mails
    assert logged.count("give it a name=") == warned, logged
    assert ("handler __main__.send_mail" in logged) is warned
