"""RedisStore: events, sessions and bindings in Redis or Valkey, for processes on many machines."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores import Arrival, SessionRecord, StoredEvent, Wake
from avaturn_async.webhooks.stores import _redis_scripts as scripts
from avaturn_async.webhooks.stores._redis_lua import SHARED_KEYS, Script

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from avaturn_async.webhooks.stores._redis_hints import Hints
    from avaturn_async.webhooks.stores._redis_link import Link

__all__ = ["RedisStore"]

_MOST_READ = 100
_MOST_READ_BYTES = 1_048_576


class RedisStore:
    """Keeps everything in Redis (6.2 or later) or Valkey: a 200 means "accepted by the primary".

    What an acknowledged event survives there is for Redis to say: with ``appendonly yes`` and ``appendfsync
    always`` a crash of the machine, with ``everysec`` all but its last second, without AOF nothing. It bounds
    itself by ``maxmemory``, and must not evict: with ``noeviction`` it refuses what it has no room for
    (``StoreFullError``), with any other policy it would drop events that were acknowledged, so that
    ``start()`` refuses it.

    All keys share one slot, and each has a time to live. Processes that share a prefix should share ``ttl``
    and ``takeover``. Time is the server's, so that clocks of machines need not agree.

    Args:
        redis: A client of the caller's; it is never closed. ``from_url`` makes one that is.
        ttl: Seconds that an event, a session or a binding is kept.
        prefix: What each key begins with. On a cluster the part in braces decides the slot; a prefix that
            has none gets one behind it.
        takeover: Seconds after which a claim of a handler that was not renewed has lapsed.
        clock: Gives seconds since the epoch, for tests that cannot wait; never ahead of the server's.

    Raises:
        ValueError: A number is not above zero, or the prefix is empty.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        ttl: float = 259_200.0,
        prefix: str = "{avaturn}",
        takeover: float = 30.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not all(0 < number < math.inf for number in (ttl, takeover)):
            raise ValueError("ttl and takeover must be above zero, and finite")
        if not prefix:
            raise ValueError("prefix must not be empty")
        self._connect: Callable[[], Redis] = lambda: redis
        self._owned = False
        self._takeover = takeover
        self._clock = clock
        self._root = prefix if re.search(r"\{[^}]+\}", prefix) else f"{prefix}:{{avaturn}}"
        self._keys = tuple(_bytes(f"{self._root}:{name}") for name in SHARED_KEYS)
        self._common = (_bytes(self._root), _milliseconds(ttl), _milliseconds(takeover))
        # What is held is held by this store, not by the process: two of them may live in one.
        self._consumer = uuid4().hex.encode()
        # A webhook is answered within 2.5 s also when Redis is away; this is what a command gets of that.
        self._deadline = 2.0
        self._silence = 1.0
        self._listeners: dict[object, Wake] = {}
        self._link: Link | None = None
        self._hints: Hints | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        ttl: float = 259_200.0,
        prefix: str = "{avaturn}",
        takeover: float = 30.0,
        clock: Callable[[], float] | None = None,
    ) -> RedisStore:
        """A store with a client of its own, which is connected by ``start()`` and closed by ``close()``.

        Args:
            url: ``redis://user:password@host:6379/0``, ``rediss://`` for TLS, or ``unix://``.
            ttl: As in the constructor.
            prefix: As in the constructor.
            takeover: As in the constructor.
            clock: As in the constructor.

        Raises:
            ValueError: The URL is none of Redis, or as in the constructor.
            ImportError: The extra ``redis`` is not installed.
        """
        connect, _, _ = _engine()
        store = cls(connect(url), ttl=ttl, prefix=prefix, takeover=takeover, clock=clock)
        # A client belongs to the event loop in which it was used: each start gets a new one.
        store._connect = partial(connect, url)
        store._owned = True
        return store

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._root!r})"

    @property
    def takeover(self) -> float:
        """Seconds after which a claim that was not renewed has lapsed."""
        return self._takeover

    async def start(self) -> None:
        """Connect, and look whether this Redis keeps what it accepts.

        Raises:
            StoreError: Redis is away, is older than 6.2, or has a ``maxmemory-policy`` that evicts.
        """
        if self._link is not None:
            return
        _, make_link, make_hints = _engine()
        link = make_link(self._connect(), deadline=self._deadline)
        hints = make_hints(link, _bytes(f"{self._root}:hints"), self._wake, silence=self._silence)
        try:
            await link.check()
            await hints.start()
        except BaseException:
            await self._hang_up(link)
            raise
        self._link, self._hints = link, hints

    async def close(self) -> None:
        """Hang up; what this store still holds of handlers' events lapses."""
        link, hints = self._link, self._hints
        if link is None or hints is None:
            return
        self._hints = None
        try:
            with suppress(StoreError):
                await self._run(scripts.LEAVE, self._consumer)
        finally:
            self._link = None
            await hints.close()
            await self._hang_up(link)

    def listen(self, wake: Wake) -> Callable[[], None]:
        """Call ``wake`` with the topics under which something appears; the returned function ends that."""
        ticket = object()
        self._listeners[ticket] = wake

        def stop() -> None:
            self._listeners.pop(ticket, None)

        return stop

    async def append(self, arrival: Arrival) -> int:
        """Keep an event.

        Returns:
            Its position; 0 if an event with its key is kept already.

        Raises:
            StoreFullError: Redis has reached its ``maxmemory``.
            StoreError: Redis is away or refused. The event may be kept all the same; then a repetition is a
                duplicate.
        """
        words = (
            _bytes(arrival.key),
            arrival.body,
            _bytes(arrival.session_id or ""),
            _number(len(arrival.subjects)),
            *map(_bytes, arrival.subjects),
            *map(_bytes, arrival.binds),
        )
        try:
            position = await self._run(scripts.APPEND, *words)
        except StoreFullError:
            # What is past its time takes no new event's place.
            if not await self.expire():
                raise
            position = await self._run(scripts.APPEND, *words)
        return int(position)

    async def seen(self, key: str) -> bool:
        """Whether an event with this key is kept."""
        return bool(await self._run(scripts.SEEN, _bytes(key)))

    async def read(self, topic: str, *, after: int = 0) -> Sequence[StoredEvent]:
        """The events under a topic that appeared behind a cursor: the oldest hundred, or MiB, of them."""
        most = _number(_MOST_READ), _number(_MOST_READ_BYTES)
        return _events(await self._run(scripts.READ, _bytes(topic), _number(after), *most))

    async def bind(self, subject: str, session_id: str) -> None:
        """Bring the events of a subject to a session from now on, and those that have none yet."""
        await self._run(scripts.BIND, _bytes(subject), _bytes(session_id))

    async def bound(self, subject: str) -> str | None:
        """The session that a subject is bound to."""
        return _text(await self._run(scripts.BOUND, _bytes(subject)))

    async def save_session(self, record: SessionRecord, *, binds: Sequence[str] = ()) -> None:
        """Remember who opened a session, and bind subjects to it."""
        words = (record.id, record.user_id, record.context, *binds)
        await self._run(scripts.SAVE_SESSION, *map(_bytes, words))

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """Who opened a session."""
        user_id, context = map(_text, await self._run(scripts.LOAD_SESSION, _bytes(session_id)))
        if user_id is None or context is None:
            return None
        return SessionRecord(id=session_id, user_id=user_id, context=context)

    async def join(self, group: str) -> None:
        """Make a group of handlers, if it is not there yet; it begins with the oldest event kept."""
        await self._run_group(scripts.JOIN, group)

    async def claim(self, group: str, *, limit: int) -> Sequence[StoredEvent]:
        """At most ``limit`` events that this group has to handle, held by this store from now on."""
        if limit < 1:
            return ()
        return _events(await self._run_group(scripts.CLAIM, group, limit))

    async def hold(self, group: str, positions: Sequence[int]) -> None:
        """Go on holding claimed events; those that are gone, finished or held elsewhere are passed over."""
        await self._run_group(scripts.HOLD, group, *positions)

    async def finish(self, group: str, positions: Sequence[int]) -> None:
        """The group is through with these events."""
        await self._run_group(scripts.FINISH, group, *positions)

    async def release(self, group: str, positions: Sequence[int]) -> None:
        """Hand claimed events back, for others to claim at once."""
        await self._run_group(scripts.RELEASE, group, *positions)

    async def expire(self, *, limit: int = 1000) -> int:
        """Drop at most ``limit`` things past their time; how many there were.

        Redis does it by itself when nobody asks any more. This also forgets consumers that are gone.
        """
        return int(await self._run(scripts.EXPIRE, _number(limit)))

    async def sizes(self) -> Mapping[str, int]:
        """How much is kept: ``events``, ``bytes`` (of bodies), ``sessions``, ``bindings``."""
        counts = await self._run(scripts.SIZES)
        return dict(zip(("events", "bytes", "sessions", "bindings"), map(int, counts), strict=True))

    async def _run_group(self, script: Script, group: str, *numbers: int) -> Any:
        return await self._run(script, _bytes(group), self._consumer, *map(_number, numbers))

    async def _run(self, script: Script, *words: bytes) -> Any:
        if self._link is None:
            raise StoreError("the store is not started, or closed")
        now = b"" if self._clock is None else _milliseconds(self._clock())
        return await self._link.run(script, self._keys, (*self._common, now, *words))

    async def _hang_up(self, link: Link) -> None:
        await link.close()
        if self._owned:
            await link.redis.aclose()

    def _wake(self, topics: Iterable[str] | None) -> None:
        for wake in tuple(self._listeners.values()):
            wake(topics)


def _engine() -> tuple[Callable[[str], Redis], type[Link], type[Hints]]:
    """What needs redis-py, which takes 50 ms to import and is an extra."""
    try:
        from avaturn_async.webhooks.stores._redis_hints import Hints  # noqa: PLC0415 - see above
        from avaturn_async.webhooks.stores._redis_link import Link, connect  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise ImportError('RedisStore needs redis-py: pip install "avaturn_async[redis]"') from error
    return connect, Link, Hints


def _events(rows: Iterable[Sequence[Any]]) -> tuple[StoredEvent, ...]:
    return tuple(
        StoredEvent(position=position, cursor=cursor, session_id=_text(session), body=body)
        for position, cursor, session, body in rows
    )


def _bytes(text: str) -> bytes:
    # A key or a context may hold anything that a str can.
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "surrogatepass")


def _number(number: int) -> bytes:
    return b"%d" % number


def _milliseconds(seconds: float) -> bytes:
    return _number(max(1, round(seconds * 1000)))
