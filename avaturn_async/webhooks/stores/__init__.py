"""Where events, sessions and bindings are kept: the protocol that every store keeps.

A store knows nothing of Avaturn. It keeps *events* (opaque bodies) that can be read under *topics*, and it
brings each to the *session* that it belongs to. A topic is ``session:<uuid>``, or a *subject*:
``avatar:<uuid>`` or ``render:<uuid>``. Subjects can be bound to a session, and so can other names that no
event has. All of it lives for the store's time to live and is then gone.

The whole contract, in rules that the contract suite in ``avaturn_async.testing.stores`` checks:

1.  ``append`` is atomic, and what it gives a position for is kept until its time to live is over, as far as
    the engine's promise reaches. A key that was appended before, and has not expired, is a duplicate: 0,
    and nothing changes, also when the store is full. Bounds reached: ``StoreFullError``; engine out of
    reach: ``StoreError``; both leave nothing behind that a repetition would not mend.
2.  The session of an event is the one that it names itself; else the binding of the first of its subjects
    that has one; else none yet. Then, if it has a session, the event binds the subjects in ``binds`` to it.
3.  ``bind`` makes the newest binding of a subject. Events of that subject that have no session yet get
    this one, and appear under its topic then. So do events that got their session only through a subject
    that stands behind this one in ``subjects``, but these stay where they were as well, and ``session_id``
    stays the first. Either way they count as routed through this subject from then on.
4.  ``read`` gives the events under a topic in the order in which they appeared there. ``cursor`` of the last
    one, passed as ``after``, goes on behind it; an event that is bound late has a cursor behind those that
    appeared before. ``position`` rises with arrival from 1, and is one per event.
5.  An event that is appended, bound late or released makes the store call each listener, in the event loop,
    with the topics under which something appeared (none of them, if there are none to tell);
    ``None`` means "look at everything" (after a lost connection). A hint may come late or twice, but never
    not at all, and never before what it hints at can be read.
6.  A group handles each event once at a time: ``claim`` gives events, from the oldest kept, that are not
    finished in that group and that nobody holds, and they are held then. A holder that neither holds on nor
    finishes for ``takeover`` seconds has died: what it held can be claimed by others. From then on its
    ``hold`` and ``release`` leave alone what another process holds; its ``finish`` still counts.
7.  Everything past its time to live is as good as gone, dropped or not. Sessions and bindings live as long
    as events: an event that is brought to a session, and a bind to it, renew the time of the session's
    record and of the bindings that it was found through or makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

__all__ = ["Arrival", "EventStore", "SessionRecord", "StoredEvent"]


@frozen(kw_only=True)
class Arrival:
    """An event on its way into a store."""

    key: str
    """What makes it a duplicate: the id of a signed delivery, or a hash of the raw body."""
    body: bytes = field(repr=False)
    """What is kept and given back."""
    session_id: str | None = None
    """The session that the event itself names, as canonical lower-case text."""
    subjects: tuple[str, ...] = ()
    """What it is about, most telling first: ``("render:<uuid>", "avatar:<uuid>")``."""
    binds: tuple[str, ...] = ()
    """Those of the subjects that it binds to its session, if it has one."""


@frozen(kw_only=True)
class StoredEvent:
    """An event as a store gives it back."""

    position: int
    """Rises with arrival; one per event in a store."""
    cursor: int
    """Where it appeared under the topic it was read from; for ``read(after=...)``."""
    body: bytes = field(repr=False)
    """As it was appended."""
    session_id: str | None
    """The session that it was brought to first, if any."""


@frozen(kw_only=True)
class SessionRecord:
    """Who opened a session."""

    id: str
    """The session, as canonical lower-case text."""
    user_id: str
    """The Avaturn user that it was opened for."""
    context: str = field(repr=False)
    """JSON text of what the opener wants to find again."""


Wake = Callable[[Iterable[str] | None], None]


class EventStore(Protocol):
    """What a SessionRouter needs of a store; the module's docstring has the rules."""

    @property
    def takeover(self) -> float:
        """Seconds after which a claim that was not renewed has lapsed."""
        ...

    async def start(self) -> None:
        """Get ready; called before anything else, again after a close, and twice without harm."""
        ...

    async def close(self) -> None:
        """Let go of everything that is open; twice without harm."""
        ...

    def listen(self, wake: Wake) -> Callable[[], None]:
        """Call ``wake`` whenever something appears; the returned function ends that."""
        ...

    async def append(self, arrival: Arrival) -> int:
        """Keep an event; its position, or 0 if its key was there."""
        ...

    async def seen(self, key: str) -> bool:
        """Whether an event with this key is kept."""
        ...

    async def read(self, topic: str, *, after: int = 0) -> Sequence[StoredEvent]:
        """The events under a topic that appeared behind a cursor; if not all at once, the oldest of them.

        Nothing means that there are none.
        """
        ...

    async def bind(self, subject: str, session_id: str) -> None:
        """Bring the events of a subject to a session from now on, and those that have none yet."""
        ...

    async def bound(self, subject: str) -> str | None:
        """The session that a subject is bound to."""
        ...

    async def save_session(self, record: SessionRecord, *, binds: Sequence[str] = ()) -> None:
        """Remember who opened a session, and bind subjects to it."""
        ...

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """Who opened a session."""
        ...

    async def join(self, group: str) -> None:
        """Make a group of handlers, if it is not there yet; it begins with the oldest event kept."""
        ...

    async def claim(self, group: str, *, limit: int) -> Sequence[StoredEvent]:
        """At most ``limit`` events that this group has to handle, held by the caller from now on."""
        ...

    async def hold(self, group: str, positions: Sequence[int]) -> None:
        """Go on holding claimed events; those that are gone or finished are passed over."""
        ...

    async def finish(self, group: str, positions: Sequence[int]) -> None:
        """The group is through with these events."""
        ...

    async def release(self, group: str, positions: Sequence[int]) -> None:
        """Hand claimed events back, for others to claim at once."""
        ...

    async def expire(self, *, limit: int = 1000) -> int:
        """Drop at most ``limit`` things past their time; how many there were. A store may do it by itself."""
        ...

    async def sizes(self) -> Mapping[str, int]:
        """How much is kept: ``events``, ``bytes`` (of bodies), ``sessions``, ``bindings``."""
        ...
