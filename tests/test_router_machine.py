"""Whatever happens in whatever order, the router does what a plain model of it says."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from routing import (
    Api,
    avatar_id,
    avatar_ready,
    export_ready,
    render_id,
    render_ready,
    session_id,
)
from virtual_time import VirtualLoop

from avaturn_async import AvaturnTimeoutError, EditExisting, RouterClosedError, UnknownSessionError
from avaturn_async.webhooks.events import AvatarReady, Event, ExportReady, RenderReady, event_body
from avaturn_async.webhooks.router import SessionRouter
from avaturn_async.webhooks.stores.memory import MemoryStore

TTL = 30.0
FAR = 99


@define(eq=False)
class Entry:
    """An event in the model."""

    event: Event
    key: str
    position: int
    expires: float
    subjects: list[UUID]
    rank: int = FAR


@define
class Model:
    """What the router should know, without regard for how long it takes to find out."""

    now: float = 0.0
    count: int = 0
    entries: list[Entry] = field(factory=list[Entry])
    topics: dict[UUID, list[Entry]] = field(factory=dict[UUID, list[Entry]])
    bindings: dict[UUID, tuple[UUID, float]] = field(factory=dict[UUID, tuple[UUID, float]])
    sessions: dict[UUID, float] = field(factory=dict[UUID, float])

    def is_kept(self, key: str) -> bool:
        return any(entry.key == key and entry.expires > self.now for entry in self.entries)

    def is_open(self, session: UUID) -> bool:
        return self.sessions.get(session, 0) > self.now

    def publish(self, event: Event, key: str) -> None:
        subjects = [event.id] if isinstance(event, RenderReady) else []
        assert event.avatar_id is not None
        subjects.append(event.avatar_id)
        self.count += 1
        entry = Entry(event, key, self.count, self.now + TTL, subjects)
        self.entries.append(entry)
        for subject in subjects:
            self.topics.setdefault(subject, []).append(entry)
        if event.session_id is not None:
            self._lead(entry, event.session_id, -1)
            if isinstance(event, AvatarReady):
                self.bind(event.avatar_id, event.session_id)
            return
        for rank, subject in enumerate(subjects):
            session, until = self.bindings.get(subject, (subject, 0.0))
            if until > self.now:
                self._lead(entry, session, rank)
                self.bindings[subject] = (session, self.now + TTL)
                return

    def bind(self, subject: UUID, session: UUID) -> None:
        self.bindings[subject] = (session, self.now + TTL)
        self._renew(session)
        for entry in self.topics.get(subject, []):
            rank = entry.subjects.index(subject)
            if rank < entry.rank and entry.expires > self.now:
                # A late appearance has a number as well.
                self.count += entry not in self.topics.get(session, [])
                self._lead(entry, session, rank)

    def open(self, session: UUID, edits: UUID | None) -> None:
        self.sessions[session] = self.now + TTL
        if edits is not None:
            self.bind(edits, session)

    def found(self, topic: UUID, since: int = 0) -> list[Entry]:
        return [entry for entry in self.topics.get(topic, [])[since:] if entry.expires > self.now]

    def _lead(self, entry: Entry, session: UUID, rank: int) -> None:
        entry.rank = rank
        self._renew(session)
        if entry not in self.topics.setdefault(session, []):
            self.topics[session].append(entry)

    def _renew(self, session: UUID) -> None:
        if self.is_open(session):
            self.sessions[session] = self.now + TTL


@define(eq=False)
class Waiter:
    """Somebody who waits, in the model and in the router."""

    task: asyncio.Task[Any]
    topic: UUID
    event_type: type[Event]
    after: int
    deadline: float
    gets: int | type[BaseException] | None = None
    """The position of the event that it should get, or the error."""


@define(eq=False)
class Iteration:
    """Somebody who iterates."""

    events: Any
    topic: UUID
    after: int
    since: int = 0
    """How much of the topic it has gone through."""


# So few that they meet.
NUMBERS = st.integers(1, 2)
TOPICS = st.one_of(
    st.builds(lambda n: {"session_id": session_id(n)}, NUMBERS),
    st.builds(lambda n: {"avatar_id": avatar_id(n)}, NUMBERS),
    st.builds(lambda n: {"render_id": render_id(n)}, NUMBERS),
)
MAYBE = st.none() | NUMBERS
EVENTS = st.one_of(
    st.builds(avatar_ready, NUMBERS, MAYBE),
    st.builds(export_ready, NUMBERS, MAYBE),
    st.builds(render_ready, NUMBERS, NUMBERS, MAYBE),
)
TYPES = st.sampled_from([AvatarReady, ExportReady, RenderReady])
# Never the same as a sum of the times that pass, so that nothing depends on who is first in a tick.
TIMEOUTS = st.sampled_from([0, 3.5, 20.5, 100.5])


class RouterMachine(RuleBasedStateMachine):
    """Acts on a router and on a model of it, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self.api = Api()
        self.store = MemoryStore(ttl=TTL, clock=self.loop.time)
        self.router = SessionRouter(self.store)
        self.model = Model()
        self.waiters: list[Waiter] = []
        self.iterations: list[Iteration] = []
        self.given: dict[int, Event] = {}
        self.keys = 0
        self.runner.run(self.router.start())

    # What can happen

    @initialize(edits=MAYBE)
    def somebody_has_opened_a_session(self, edits: int | None) -> None:
        self.somebody_opens_a_session(edits)

    @rule(edits=MAYBE)
    def somebody_opens_a_session(self, edits: int | None) -> None:
        if self.api.opened == 2:
            return
        edited = None if edits is None else avatar_id(edits)
        config = None if edited is None else EditExisting(avatar_id=edited)
        session = self.runner.run(self.router.open_session(self.api.client, "user", config))
        self.model.open(session.id, edited)
        self._settle()

    @rule(event=EVENTS)
    def an_event_comes(self, event: Event) -> None:
        assert self.runner.run(self._publish(event, self._new_key()))
        self._settle()

    @rule(event=EVENTS, data=st.data())
    def a_duplicate_comes(self, event: Event, data: st.DataObject) -> None:
        if not self.model.entries:
            return
        key = data.draw(st.sampled_from([entry.key for entry in self.model.entries]))
        kept = self.model.is_kept(key)
        assert self.runner.run(self.router.seen(key)) == kept
        assert self.runner.run(self._publish(event, key)) != kept
        self._settle()

    @rule(avatar=NUMBERS, session=NUMBERS)
    def somebody_asks_for_an_export(self, avatar: int, session: int) -> None:
        asked = self.router.create_export(self.api.client, avatar_id(avatar), session=session_id(session))
        if self._is_allowed(session, asked):
            self.model.bind(avatar_id(avatar), session_id(session))
        self._settle()

    @rule(avatar=NUMBERS, session=NUMBERS)
    def somebody_asks_for_a_render(self, avatar: int, session: int) -> None:
        self.api.render %= 2
        asked = self.router.render_user_avatar(
            self.api.client, avatar_id(avatar), session=session_id(session)
        )
        if self._is_allowed(session, asked):
            self.model.bind(render_id(self.api.render), session_id(session))
        self._settle()

    @rule(topic=TOPICS, event_type=TYPES, timeout=TIMEOUTS, data=st.data())
    def somebody_waits(
        self, topic: dict[str, UUID], event_type: type[Event], timeout: float, data: st.DataObject
    ) -> None:
        after = data.draw(st.sampled_from([None, *self.given.values()]))
        options: dict[str, Any] = {**topic, "timeout": timeout, "after": after}
        task = self.loop.create_task(self.router.wait_for(event_type, **options))
        position = 0 if after is None else after.position
        [subject] = topic.values()
        self.waiters.append(Waiter(task, subject, event_type, position, self.loop.time() + timeout))
        self._settle()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def a_waiter_is_cancelled(self, data: st.DataObject) -> None:
        self._cancel(data.draw(st.sampled_from(self.waiters)))
        self._settle()

    @precondition(lambda self: self.waiters)
    @rule(event=EVENTS, data=st.data())
    def an_event_comes_and_a_waiter_is_cancelled_in_one_tick(self, event: Event, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiters))

        async def both() -> bool:
            stored = await self._publish(event, self._new_key())
            self._cancel(waiter)
            return stored

        assert self.runner.run(both())
        self._settle()

    @rule(seconds=st.sampled_from([1, 6, 13]))
    def time_passes(self, seconds: int) -> None:
        self.runner.run(asyncio.sleep(seconds))
        self._settle()

    @rule(topic=TOPICS, data=st.data())
    def somebody_begins_to_iterate(self, topic: dict[str, UUID], data: st.DataObject) -> None:
        after = data.draw(st.sampled_from([None, *self.given.values()]))
        options: dict[str, Any] = {**topic, "after": after}
        position = 0 if after is None else after.position
        [subject] = topic.values()
        self.iterations.append(Iteration(self.router.events(**options), subject, position))

    @precondition(lambda self: self.iterations)
    @rule(data=st.data())
    def an_iteration_goes_on(self, data: st.DataObject) -> None:
        self._compare(data.draw(st.sampled_from(self.iterations)))

    @rule(topic=TOPICS)
    def somebody_comes_late_and_reads_it_all(self, topic: dict[str, UUID]) -> None:
        options: dict[str, Any] = {**topic}
        [subject] = topic.values()
        self._compare(Iteration(self.router.events(**options), subject, 0))

    @rule(session=NUMBERS)
    def somebody_looks_for_a_session(self, session: int) -> None:
        self._is_allowed(session, self.router.session(session_id(session)))

    @rule(now=st.sampled_from([False, False, False, True]))
    def the_router_is_closed_and_started_again(self, now: bool) -> None:  # noqa: FBT001 - drawn
        if not now:
            return
        for waiter in self.waiters:
            waiter.gets = RouterClosedError
        self.runner.run(self.router.close())
        self._settle()
        for iteration in self.iterations:
            try:
                self.runner.run(anext(iteration.events))
            except RouterClosedError:
                continue
            raise AssertionError("an iteration outlived the router")
        self.runner.run(self.router.start())

    # What must hold

    @invariant()
    def exactly_those_who_wait_are_known(self) -> None:
        known = {
            UUID(topic.partition(":")[2]): len(hints) for topic, hints in self.router._inbox._hints.items()
        }
        topics = [waiter.topic for waiter in self.waiters]
        assert known == {topic: topics.count(topic) for topic in topics}

    def teardown(self) -> None:
        for waiter in list(self.waiters):
            self._cancel(waiter)
        self._settle()
        # After the time to live nothing is left, neither of events nor of anything else.
        self.runner.run(asyncio.sleep(TTL + 30))
        assert set(self.runner.run(self.store.sizes()).values()) == {0}
        for places in (self.store._sessions, self.store._subjects):
            assert not places
            assert not places.ends
        assert not self.store._log.by_key
        assert not self.router._inbox._hints
        self.runner.run(self.router.close())
        assert not asyncio.all_tasks(self.loop)
        self.runner.close()

    # How it is done

    def _new_key(self) -> str:
        self.keys += 1
        return f"key {self.keys}"

    async def _publish(self, event: Event, key: str) -> bool:
        self.model.now = self.loop.time()
        kept = self.model.is_kept(key)
        stored = await self.router.publish(event, key=key, body=event_body(event))
        if not kept:
            self.model.publish(event, key)
        return stored

    def _is_allowed(self, session: int, asked: Any) -> bool:
        self.model.now = self.loop.time()
        try:
            self.runner.run(asked)
        except UnknownSessionError:
            assert not self.model.is_open(session_id(session))
            return False
        assert self.model.is_open(session_id(session))
        return True

    def _cancel(self, waiter: Waiter) -> None:
        waiter.gets = asyncio.CancelledError
        waiter.task.cancel()

    def _settle(self) -> None:
        """Let everything happen that can happen now, and see that every waiter got what the model says."""
        self.model.now = self.loop.time()
        for _ in range(5):
            self.runner.run(asyncio.sleep(0))
        for waiter in list(self.waiters):
            self._expect(waiter)
            if waiter.gets is None:
                assert not waiter.task.done()
                continue
            self.waiters.remove(waiter)
            assert waiter.task.done()
            if waiter.task.cancelled():
                assert waiter.gets is asyncio.CancelledError
            elif error := waiter.task.exception():
                assert waiter.gets is type(error), error
            else:
                assert waiter.gets == waiter.task.result().position
                self._given(waiter.task.result())

    def _expect(self, waiter: Waiter) -> None:
        """What a waiter should get, if it was not cancelled and the router not closed."""
        if waiter.gets is not None:
            return
        for entry in self.model.found(waiter.topic):
            if isinstance(entry.event, waiter.event_type) and entry.position > waiter.after:
                waiter.gets = entry.position
                return
        if waiter.deadline <= self.model.now:
            waiter.gets = AvaturnTimeoutError

    def _compare(self, iteration: Iteration) -> None:
        """Go on with an iteration as far as possible now."""
        self.model.now = self.loop.time()
        expected = self.model.found(iteration.topic, iteration.since)
        iteration.since = len(self.model.topics.get(iteration.topic, []))
        got: list[Event] = []
        while True:
            step = self.loop.create_task(iteration.events.__anext__())
            self.runner.run(asyncio.sleep(0))
            if not step.done():
                step.cancel()
                self.runner.run(asyncio.wait((step,)))
                break
            got.append(step.result())
            self._given(step.result())
        expected = [entry for entry in expected if entry.position > iteration.after]
        assert [(event.position, event) for event in got] == [(e.position, e.event) for e in expected]

    def _given(self, event: Event) -> None:
        self.given[event.position] = event


RouterMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestRouter = RouterMachine.TestCase
