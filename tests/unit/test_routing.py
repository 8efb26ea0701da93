"""A session's events, computed by the router on MemoryStore, are those of a naive model of the rules in routing.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from attrs import define, evolve, field, frozen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.routing import (
    Api,
    avatar_id,
    avatar_ready,
    export_ready,
    publish,
    render_id,
    render_ready,
    session_id,
    unknown,
)
from support.virtual_time import virtual

from avaturn_async import EditExisting
from avaturn_async.webhooks.events import Event
from avaturn_async.webhooks.router import SessionRouter
from avaturn_async.webhooks.routing import SessionReader, find_owner, get_owner_topics
from avaturn_async.webhooks.stores.memory import MemoryStore

SESSIONS, AVATARS, RENDERS = (1, 2, 3), (1, 2), (1, 2)
TTL, DEDUP_WINDOW = 86_400.0, 30.0
MAX_STEPS = 24


@frozen
class Step:
    """One thing that happens: its kind, and the numbers that the kind needs."""

    kind: str
    session: int | None = None
    avatar: int | None = None
    render: int = 1
    seconds: float = 0.0


def _steps(pauses: Iterable[float]) -> st.SearchStrategy[list[Step]]:
    sessions, avatars, renders = st.sampled_from(SESSIONS), st.sampled_from(AVATARS), st.sampled_from(RENDERS)
    maybe_session = st.none() | sessions
    return st.lists(
        st.one_of(
            st.builds(Step, st.just("open"), st.none(), st.none() | avatars),
            st.builds(Step, st.sampled_from(["avatar", "export", "unknown"]), maybe_session, avatars),
            st.builds(Step, st.just("unknown"), maybe_session),
            st.builds(Step, st.just("render"), maybe_session, avatars, renders),
            st.builds(Step, st.just("link"), sessions, avatars),
            st.builds(Step, st.just("link render"), sessions, avatars, renders),
            st.builds(Step, st.just("repeat")),
            st.builds(Step, st.just("wait"), seconds=st.sampled_from(list(pauses))),
        ),
        min_size=4,
        max_size=MAX_STEPS,
    )


# Steps within one TTL: 24 * 3,500 seconds. Two of them are more than the hour in which a late link counts.
without_expiry = _steps([1.0, 29.0, 31.0, 1_800.0, 3_500.0])
# A link lives two TTLs, so that an event of its last hour is not covered by the rule of the hour. No sum of at most
# 20 of these pauses ends within that hour.
with_expiry = _steps([1.0, 3_500.0, 90_000.0])


@frozen
class Row:
    """An entry of the log, as the model sees it."""

    position: int
    at: float
    expires_at: float
    event: Event | None = None
    opens: int | None = None
    link: tuple[int, int, int | None] | None = None
    """Session, avatar and render."""


@define
class Model:
    """The log as a list, and the rules as loops over it."""

    log: list[Row] = field(factory=list[Row])
    positions: int = 0

    def append(self, now: float, lifetime: float, **fields: Any) -> None:
        self.positions += 1
        self.log.append(Row(self.positions, now, now + lifetime, **fields))

    def live(self, now: float) -> Model:
        return evolve(self, log=[row for row in self.log if row.expires_at > now])

    def knows(self, session: int | None) -> bool:
        return any(row.opens == session for row in self.log)

    def get_owners(self, row: Row) -> set[int]:
        """Return the sessions that an event belongs to."""
        event = row.event
        assert event is not None
        if event.session_id is not None:
            return {n for n in SESSIONS if session_id(n) == event.session_id}
        if event.avatar_id is None:
            return set()
        avatar = next(n for n in AVATARS if avatar_id(n) == event.avatar_id)
        render = next((n for n in RENDERS if render_id(n) == getattr(event, "id", None)), None)
        # A link that expired before the event came says nothing about it.
        links = [each for each in self.log if each.link is not None and each.expires_at > row.at]
        avatar_links = [each for each in links if each.link is not None and each.link[1:] == (avatar, None)]
        render_links = [each for each in links if each.link is not None and each.link[1:] == (avatar, render)]
        if render is None:
            return _decide(avatar_links, row)
        if any(each.position < row.position for each in render_links):
            return _decide(render_links, row)
        return _decide(render_links, row) | _decide(avatar_links, row)

    def get_events(self, session: int) -> list[int]:
        return [row.position for row in self.log if row.event is not None and session in self.get_owners(row)]


def _decide(links: list[Row], event: Row) -> set[int]:
    """The last link before the event decides, else the first one after it within an hour."""
    before = [each for each in links if each.position < event.position]
    after = [each for each in links if each.position > event.position][:1]
    deciding = before[-1:] or [each for each in after if each.at - event.at <= 3_600]
    return {each.link[0] for each in deciding if each.link is not None}


@define
class Rig:
    """Applies the same steps to a router and to the model."""

    store: MemoryStore = field(factory=lambda: MemoryStore(ttl=TTL, clock=now))
    router: SessionRouter = field(init=False)
    model: Model = field(factory=Model)
    api: Api = field(factory=Api)
    published: list[tuple[Event, str, Callable[[], None], float]] = field(
        factory=list[tuple[Event, str, Callable[[], None], float]]
    )

    def __attrs_post_init__(self) -> None:
        self.router = SessionRouter(self.store)

    async def apply(self, step: Step) -> None:
        known = self.model.live(now()).knows(step.session)
        session = None if step.session is None else session_id(step.session)
        match step.kind:
            case "wait":
                await asyncio.sleep(step.seconds)
            case "open" if self.api.opened < len(SESSIONS):
                config = None if step.avatar is None else EditExisting(avatar_id=avatar_id(step.avatar))
                await self.router.open_session(self.api.client, "user", config)
                opened = self.api.opened
                link = None if step.avatar is None else (opened, step.avatar, None)
                self.model.append(now(), 2 * TTL, opens=opened, link=link)
            case "link" if known and session is not None and step.avatar is not None:
                await self.router.create_export(self.api.client, avatar_id(step.avatar), session=session)
                self.model.append(now(), 2 * TTL, link=(step.session, step.avatar, None))
            case "link render" if known and session is not None and step.avatar is not None:
                self.api.render = step.render - 1
                await self.router.render_user_avatar(self.api.client, avatar_id(step.avatar), session=session)
                self.model.append(now(), 300.0)  # the request
                self.model.append(now(), 2 * TTL, link=(step.session, step.avatar, step.render))
            case "repeat" if self.published:
                event, key, append, at = self.published[-1]
                is_new = await publish_once(self.router, event, key)
                assert is_new == (now() - at >= DEDUP_WINDOW)
                if is_new:
                    append()
                    self.published.append((event, key, append, now()))
            case "avatar" | "export" | "render" | "unknown":
                await self.publish(step)
            case _:
                pass

    async def publish(self, step: Step) -> None:
        event = _build_event(step)
        key = f"key {len(self.published)}"
        links = step.kind == "avatar" and step.session is not None

        def append() -> None:
            link = (step.session, step.avatar, None) if links else None
            self.model.append(now(), 2 * TTL if links else TTL, event=event, link=link)

        assert await publish_once(self.router, event, key)
        append()
        self.published.append((event, key, append, now()))

    async def read(self, session: int) -> list[int]:
        """Return the positions that an iterator of the router gives, sorted; a repeated one stands twice."""
        found: list[int] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(1e-6):
                async for event in self.router.events(session_id=session_id(session)):
                    found.append(event.position)  # noqa: PERF401 - a comprehension loses its items at the timeout
        return sorted(found)


def _build_event(step: Step) -> Event:
    match step.kind, step.avatar:
        case "avatar", int(avatar):
            return avatar_ready(avatar, step.session)
        case "export", int(avatar):
            return export_ready(avatar, step.session)
        case "render", int(avatar):
            return render_ready(avatar, step.render, step.session)
        case _:
            fields: dict[str, Any] = {}
            if step.session is not None:
                fields["session_id"] = session_id(step.session)
            if step.avatar is not None:
                fields["avatar_id"] = avatar_id(step.avatar)
            return unknown("avatar.touched", **fields)


async def publish_once(router: SessionRouter, event: Event, key: str) -> bool:
    return await publish(router, event, key, unique_for=DEDUP_WINDOW)


def now() -> float:
    return asyncio.get_running_loop().time()


async def read_page(store: MemoryStore, reader: SessionReader, limit: int) -> list[int]:
    return [event.position for event in reader.feed(await store.read(reader.positions, limit=limit))]


OPEN, WAIT = Step("open", None, None), Step("wait", seconds=90_000.0)
# A link that comes 5,300 seconds after the event: it is too late to count.
LATE = [OPEN, Step("export", None, 1), *(Step("wait", seconds=n) for n in (3_500.0, 1_800.0)), Step("link", 1, 1)]
many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@example(LATE)
@given(without_expiry)
@virtual
async def test_sessions_events_are_those_of_the_model_and_a_longer_log_only_adds(steps: list[Step]) -> None:
    rig = Rig()
    before: dict[int, list[int]] = {n: [] for n in SESSIONS}
    for step in steps:
        await rig.apply(step)
        for n in SESSIONS:
            events = await rig.read(n)
            assert events == rig.model.get_events(n)
            assert set(events) >= set(before[n])
            before[n] = events


@many
@given(without_expiry, st.data())
def test_reader_sees_the_same_events_whenever_and_in_whatever_pages_it_reads(
    steps: list[Step], data: st.DataObject
) -> None:
    reads = data.draw(st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=len(steps), max_size=len(steps)))

    @virtual
    async def compare() -> None:
        rig = Rig()
        await rig.store.start()
        readers = {n: SessionReader(session_id(n)) for n in SESSIONS}
        found: dict[int, list[int]] = {n: [] for n in SESSIONS}
        for step, limits in zip(steps, reads, strict=True):
            await rig.apply(step)
            for limit in limits:
                for n, reader in readers.items():
                    found[n] += await read_page(rig.store, reader, limit)
        for n, reader in readers.items():
            for _ in range(10 * MAX_STEPS):
                found[n] += await read_page(rig.store, reader, 1)
            assert sorted(found[n]) == rig.model.get_events(n)

    compare()


@many
@given(without_expiry, st.integers(0, MAX_STEPS))
@virtual
async def test_after_returns_the_events_of_later_positions(steps: list[Step], after: int) -> None:
    rig = Rig()
    await rig.store.start()
    for step in steps:
        await rig.apply(step)
    for n in SESSIONS:
        reader = SessionReader(session_id(n), after=after)
        found = [position for _ in range(5) for position in await read_page(rig.store, reader, 1_000)]
        assert sorted(found) == [position for position in rig.model.get_events(n) if position > after]


@many
@example([OPEN, OPEN, Step("link", 1, 1), WAIT, OPEN, WAIT, Step("avatar", None, 1), Step("link", 3, 1)])
@given(with_expiry)
@virtual
async def test_expiry_hands_no_event_to_another_session(steps: list[Step]) -> None:
    rig = Rig()
    for step in steps:
        await rig.apply(step)
        live = rig.model.live(now())
        for n in SESSIONS:
            events = await rig.read(n)
            assert events == live.get_events(n)
            assert set(events) <= set(rig.model.get_events(n))


@many
@example(LATE)
@given(without_expiry)
@virtual
async def test_handlers_session_is_one_that_the_event_belongs_to(steps: list[Step]) -> None:
    rig = Rig()
    for step in steps:
        await rig.apply(step)
    for row in rig.model.log:
        event = row.event
        if event is None or event.session_id is not None or event.avatar_id is None:
            continue
        render = getattr(event, "id", None)
        entries = await rig.router.bus.read_all(get_owner_topics(event.avatar_id, render))
        found = find_owner(entries, avatar_id=event.avatar_id, render_id=render, position=row.position, at=row.at)
        expected = {str(session_id(n)) for n in rig.model.get_owners(row)}
        assert found in expected or (found is None and not expected)
