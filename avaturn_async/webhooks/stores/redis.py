"""RedisStore: the event log in Redis or Valkey, for processes on several machines.

All commands that wait in a process go to the server as one call of one script (``_SCRIPT``), so that concurrent appends
share a round trip and a notification. Keys begin with the prefix, share one hash slot and have a time to live:

===============================  ======================================================================
``:last``                        the highest position that was given out
``:entry:<position>``            hash: ``body``, ``topics``, ``at`` (microseconds), ``expires`` (ms), and for each group
                                 ``attempts:<group>``, ``owner:<group>`` of the lease, ``reason:<group>`` of the failure
``:topic:<topic>``               sorted set: positions of the topic's entries
``:events``, ``:records``        sorted sets: positions of dispatched and other entries, by expiry (ms)
``:key:<key>``                   exists while an entry with this key is a duplicate
``:groups``                      sorted set: consumer groups, by the time at which an unused one vanishes (ms)
``:pending:<group>``             sorted set: positions that the group did not acknowledge or give up, by the
                                 end of their lease (ms); 0: they can be claimed
``:failed:<group>``              sorted set: positions that the group gave up
``:notify``                      pub/sub channel: topics of new entries; empty when a group can claim again
===============================  ======================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote_to_bytes
from uuid import uuid4

from attrs import define, field

from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores.base import Claimed, Entry, Failed, NewEntry, StoreBase

try:
    from redis.asyncio import Redis
    from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
except ModuleNotFoundError as _error:
    raise ImportError('RedisStore needs redis-py: pip install "avaturn_async[redis]"') from _error

__all__ = ["RedisStore"]

_log = logging.getLogger("avaturn_async.webhooks")
T = TypeVar("T")

DEADLINE = 2.0
"""Seconds that one command may take, the wait for a connection included: a webhook is answered within 2.5 s."""
CLOSE_TIMEOUT = 0.5
"""Seconds that ``close()`` gives to the commands that wait."""
MAX_BATCH = 50
"""Commands in one call of the script, at most: Redis serves no other client meanwhile."""
SILENCE = 1.0
"""Seconds without a message after which the notification connection is tested with PING."""
MAX_PAUSE = 1.0
"""Seconds between attempts to subscribe again, at most."""
_MIN_VERSION = (6, 2)
_MAX_REASON = 200

# ARGV: prefix, TTL (ms), lease (ms), identity of the store, highest position that it knows; then the commands, each
# as its name, the number of its arguments, and the arguments. A command is called with the first argument, and a table
# of those that follow.
_SCRIPT = """
local root, ttl, lease, owner, floor = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local last, events, records, groups = root .. ':last', root .. ':events', root .. ':records', root .. ':groups'
local micros, now
local must_notify, changed_topics = false, {}
local commands = {}

local function text(number) return string.format('%.0f', number) end
local function name(kind, id) return root .. ':' .. kind .. ':' .. id end

-- An error names the command, such as one that the user may not run.
local function call(command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) == 'table' and reply.err then error(reply.err .. ' (' .. command .. ')', 0) end
  return reply
end

local function add(key, score, member, expires)
  call('ZADD', key, score, member)
  -- PEXPIREAT with GT needs Redis 7. What has expired can be purged for one more TTL; a second one saves commands.
  if call('PTTL', key) < expires + ttl - now then call('PEXPIREAT', key, text(expires + 2 * ttl)) end
end

-- Return a live entry as a list (position, topics, body, at, further fields), and when it expires.
local function load(position, ...)
  local row = call('HMGET', name('entry', position), 'expires', 'topics', 'body', 'at', ...)
  local expires = tonumber(row[1] or 0)
  row[1] = position
  if expires > now then return row, expires end
end

local function forget(group, position)
  call('ZREM', name('pending', group), position)
  call('ZREM', name('failed', group), position)
  call('HDEL', name('entry', position), 'attempts:' .. group, 'owner:' .. group, 'reason:' .. group)
end

local function is_owned(group, position) return call('HGET', name('entry', position), 'owner:' .. group) == owner end

-- Return the keys of a group, which is created unless it exists.
local function use(group)
  local pending, failed = name('pending', group), name('failed', group)
  -- A full server refuses ZADD and HSET, but not behind another write of the same script. It never refuses this one.
  call('ZREMRANGEBYSCORE', groups, '-inf', now)
  local vanishes = tonumber(call('ZSCORE', groups, group) or 0)
  if vanishes == 0 then
    call('DEL', failed)
    call('ZUNIONSTORE', pending, 1, events, 'WEIGHTS', 0)
    call('PEXPIRE', pending, call('PTTL', events))
  end
  if vanishes < now + 2 * ttl then
    call('ZADD', groups, text(now + 3 * ttl), group)
    call('PEXPIRE', groups, text(3 * ttl))
  end
  return pending, failed
end

function commands.append(key, arguments)
  local unique_for, life, kind, topics, body = unpack(arguments)
  if key ~= '' and call('EXISTS', name('key', key)) == 1 then return 0 end
  local number = math.max(tonumber(call('GET', last) or 0) + 1, micros, floor + 1)
  local position, entry, expires = text(number), name('entry', text(number)), now + life
  -- A full server and a replica refuse this first write; then nothing has changed.
  call('SET', last, position, 'PX', text(2 * math.max(ttl, life)))
  -- A foreign value at one of these keys is an error, and leaves no more than positions that have no entry.
  for topic in string.gmatch(topics, '%S+') do add(name('topic', topic), position, position, expires) end
  if kind == 'events' then
    for _, group in ipairs(call('ZRANGEBYSCORE', groups, '(' .. now, '+inf')) do
      add(name('pending', group), 0, position, expires)
    end
  end
  add(root .. ':' .. kind, text(expires), position, expires)
  call('HSET', entry, 'topics', topics, 'body', body, 'at', text(micros), 'expires', text(expires))
  call('PEXPIREAT', entry, text(expires + ttl))
  if key ~= '' then call('SET', name('key', key), position, 'PX', unique_for) end
  for topic in string.gmatch(topics, '%S+') do table.insert(changed_topics, topic) end
  must_notify = true
  return position
end

function commands.contains(key) return call('EXISTS', name('key', key)) end

function commands.read(limit, topics)
  local rows, found = {}, {}
  limit = math.max(tonumber(limit), 0)
  for i = 1, #topics, 2 do
    local key, after, count, page = name('topic', topics[i]), topics[i + 1], 0, nil
    repeat
      page = call('ZRANGEBYSCORE', key, '(' .. after, '+inf', 'LIMIT', 0, limit)
      for _, position in ipairs(page) do
        if rows[position] == nil then
          rows[position] = load(position) or false
          if rows[position] then table.insert(found, rows[position]) end
        end
        if rows[position] then count = count + 1 end
        after = position
      end
    until #page < limit or count >= limit
  end
  table.sort(found, function(a, b) return tonumber(a[1]) < tonumber(b[1]) end)
  while #found > limit do table.remove(found) end
  return found
end

function commands.create_group(group) use(group) end

function commands.groups() return call('ZRANGEBYSCORE', groups, '(' .. now, '+inf') end

function commands.claim(group, arguments)
  local limit, rows, pending = tonumber(arguments[1]), {}, use(group)
  for _, position in ipairs(call('ZRANGEBYSCORE', pending, 1, now)) do call('ZADD', pending, 0, position) end
  while #rows < limit do
    -- Positions have 16 digits until the year 2286, so that Redis orders those of one score by number.
    local page = call('ZRANGEBYSCORE', pending, 0, 0, 'LIMIT', 0, limit - #rows)
    if #page == 0 then break end
    for _, position in ipairs(page) do
      local row = load(position)
      if row then
        call('ZADD', pending, text(now + lease), position)
        call('HSET', name('entry', position), 'owner:' .. group, owner)
        row[5] = call('HINCRBY', name('entry', position), 'attempts:' .. group, 1)
        table.insert(rows, row)
      else
        forget(group, position)
      end
    end
  end
  return rows
end

function commands.renew(group, positions)
  local count, pending = table.remove(positions), use(group)
  for _, position in ipairs(positions) do
    if is_owned(group, position) then
      call('ZADD', pending, text(now + lease), position)
      call('HINCRBY', name('entry', position), 'attempts:' .. group, count)
    end
  end
end

function commands.ack(group, positions)
  use(group)
  for _, position in ipairs(positions) do forget(group, position) end
end

function commands.nack(group, positions)
  local pending = use(group)
  for _, position in ipairs(positions) do
    if is_owned(group, position) then
      call('HDEL', name('entry', position), 'owner:' .. group)
      call('ZADD', pending, 0, position)
      must_notify = true
    end
  end
end

function commands.fail(group, arguments)
  local position, reason = unpack(arguments)
  local pending, failed = use(group)
  local row, expires = load(position)
  if row and call('ZSCORE', events, position) then
    call('ZREM', pending, position)
    add(failed, 0, position, expires)
    call('HSET', name('entry', position), 'owner:' .. group, '', 'reason:' .. group, reason)
  end
end

function commands.failed(group, arguments)
  local limit, rows = tonumber(arguments[1]), {}
  for _, position in ipairs(call('ZRANGE', name('failed', group), 0, -1)) do
    if #rows >= limit then break end
    local row = load(position, 'attempts:' .. group, 'reason:' .. group)
    if row then table.insert(rows, row) end
  end
  return rows
end

function commands.retry(group, positions)
  local pending, failed = use(group)
  for _, position in ipairs(positions) do
    local row, expires = load(position)
    if row and call('ZSCORE', failed, position) then
      forget(group, position)
      add(pending, 0, position, expires)
      must_notify = true
    end
  end
end

function commands.purge(limit)
  local count = 0
  for _, kind in ipairs({events, records}) do
    for _, position in ipairs(call('ZRANGEBYSCORE', kind, '-inf', now, 'LIMIT', 0, limit - count)) do
      local topics = call('HGET', name('entry', position), 'topics') or ''
      for topic in string.gmatch(topics, '%S+') do call('ZREM', name('topic', topic), position) end
      for _, group in ipairs(call('ZRANGE', groups, 0, -1)) do forget(group, position) end
      call('DEL', name('entry', position))
      call('ZREM', kind, position)
      count = count + 1
    end
  end
  return count
end

function commands.stats()
  local positions, bytes = call('ZRANGEBYSCORE', events, '(' .. now, '+inf'), 0
  for _, position in ipairs(positions) do bytes = bytes + call('HSTRLEN', name('entry', position), 'body') end
  return {#positions, bytes, call('ZCOUNT', records, '(' .. now, '+inf')}
end

local function run()
  local replies, i, time = {}, 6, call('TIME')
  micros = time[1] * 1000000 + time[2]
  now = math.floor(micros / 1000)
  while i <= #ARGV do
    local following, stop = {}, i + 1 + ARGV[i + 1]
    for n = i + 3, stop do table.insert(following, ARGV[n]) end
    local is_done, reply = pcall(commands[ARGV[i]], ARGV[i + 2], following)
    table.insert(replies, is_done and (reply or 0) or {err = reply})
    i = stop + 1
  end
  if must_notify then call('PUBLISH', root .. ':notify', table.concat(changed_topics, ' ')) end
  return replies
end

local is_done, replies = pcall(run)
return is_done and replies or {err = replies}
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@define(eq=False)
class _Command:
    """A command of the script that waits to be sent, and the future of its caller."""

    words: tuple[Any, ...]
    """Its name and its arguments."""
    reply: asyncio.Future[Any]
    queued_at: float
    """By the clock of the loop."""


@define(eq=False)
class _Run:
    """All state of one running loop, from ``start()`` to ``close()``."""

    redis: Any
    """The client; redis-py's own types are partial."""
    loop: asyncio.AbstractEventLoop
    ready: asyncio.Future[None]
    """Done when the server was checked and notifications arrive, or with the error."""
    owner: str = field(factory=lambda: uuid4().hex)
    """Identity in leases: new for each start, so that a forked process has its own."""
    waiting: list[_Command] = field(factory=list[_Command])
    has_work: asyncio.Event = field(factory=asyncio.Event)
    closing: bool = False
    """Whether the tasks end as soon as no command waits."""
    must_reconnect: bool = False
    """Whether the notification connection has to be closed."""
    tasks: list[asyncio.Task[None]] = field(factory=list[asyncio.Task[None]])
    """The task that sends commands, then the one that receives notifications."""


class RedisStore(StoreBase):
    """Store the log in Redis (6.2 or later) or Valkey: appended means accepted by the primary.

    Redis decides what survives a crash: with ``appendonly yes`` and ``appendfsync always`` all appended entries,
    with ``everysec`` all but the last second, without AOF nothing. The bound is Redis's ``maxmemory``, with the
    policy ``noeviction``: a full server refuses new entries (StoreFullError). ``start()`` refuses other policies.

    Expiry uses the server's clock; what has expired leaves its memory in ``purge_expired()``. Processes that share a
    prefix should share ``ttl`` and ``lease``. The user needs the keys and the channels ``<prefix>:*``.

    Args:
        redis: A ``redis.asyncio.Redis`` of the caller, never closed by the store. Redis Cluster is not supported.
        ttl: Seconds that an event lives; records of the router live twice as long.
        prefix: Beginning of each key. A prefix without a hash tag ``{…}`` gets one.
        lease: Seconds until a lease ends that is not renewed.

    Raises:
        TypeError: ``redis`` is not a ``redis.asyncio.Redis``, for instance a synchronous client or a RedisCluster.
        ValueError: ``ttl`` or ``lease`` is not above zero and finite, or ``prefix`` is empty.
    """

    def __init__(self, redis: Redis, *, ttl: float = 259_200.0, prefix: str = "{avaturn}", lease: float = 30.0) -> None:
        super().__init__(ttl=ttl, lease=lease)
        client: object = redis
        if not isinstance(client, Redis):
            raise TypeError(
                f"redis must be a redis.asyncio.Redis, not {type(client).__module__}.{type(client).__qualname__}; "
                "synchronous clients and Redis Cluster are not supported"
            )
        if not prefix:
            raise ValueError("prefix must not be empty")
        self._client: Any = client
        # With a URL, each start has a client of its own: a client belongs to the event loop that used it.
        self._url: str | None = None
        self._root = prefix if re.search(r"\{[^}]+\}", prefix) else f"{prefix}:{{avaturn}}"
        # The highest position seen: a replica that lagged at a failover, with its clock behind, gives out higher ones.
        self._floor = 0
        self._run: _Run | None = None

    @classmethod
    def from_url(
        cls, url: str, *, ttl: float = 259_200.0, prefix: str = "{avaturn}", lease: float = 30.0
    ) -> RedisStore:
        """Return a store with its own client, which ``start()`` connects and ``close()`` closes.

        Args:
            url: ``redis://user:password@host:6379/0``, ``rediss://`` for TLS, or ``unix://``.
            ttl: As in the constructor.
            prefix: As in the constructor.
            lease: As in the constructor.

        Raises:
            ValueError: ``url`` is not a URL of Redis, or as in the constructor.
        """
        store = cls(_connect(url), ttl=ttl, prefix=prefix, lease=lease)
        store._url = url
        return store

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._root!r})"

    async def start(self) -> None:
        """Connect, check the server's settings and the user's rights, and subscribe to notifications."""
        if self._enter_loop() and self._run is not None:
            # The earlier loop ended without close(): its connections and tasks cannot be used or closed any more.
            self._run.closing = True
            if self._url is None:
                self._run.redis.connection_pool.reset()
            self._run = None
        # Another task may be connecting. If that task is cancelled, this one connects.
        async with self._start_lock:
            if self._run is not None:
                return
            loop = asyncio.get_running_loop()
            redis = self._client if self._url is None else _connect(self._url)
            run = _Run(redis, loop, loop.create_future())
            run.ready.add_done_callback(_retrieve)
            run.tasks.append(loop.create_task(self._serve(run)))
            try:
                await self._wait(run.ready)
            except BaseException:
                await self._finish(self._end(run, 0))
                raise
            # close() may have unbound the store meanwhile.
            self._loop, self._run = run.loop, run

    async def close(self) -> None:
        """Send the commands that wait, and disconnect; leases of this store end by themselves."""
        if self._is_in_new_loop():
            return
        async with self._start_lock:
            run, self._run, self._loop = self._run, None, None
        if run is not None:
            await self._finish(self._end(run, CLOSE_TIMEOUT))

    async def append(self, entry: NewEntry) -> int:
        """Append an entry; return its position, or 0 for a duplicate."""
        self._check_entry(entry)
        life = entry.ttl if entry.ttl is not None else self.ttl_seconds * (1 if entry.dispatch else 2)
        arguments = (
            "" if entry.key is None else _quote(entry.key),
            _milliseconds(life if entry.unique_for is None else entry.unique_for),
            _milliseconds(life),
            "events" if entry.dispatch else "records",
            " ".join(dict.fromkeys(_quote(topic) for topic in entry.topics)),
            entry.body,
        )
        try:
            position = int(await self._call("append", *arguments))
        except StoreFullError:
            # Expired entries do not take the place of new ones.
            if not await self.purge_expired():
                raise
            position = int(await self._call("append", *arguments))
        self._floor = max(self._floor, position)
        return position

    async def contains(self, key: str) -> bool:
        """Return whether an entry with this key would be a duplicate now."""
        return bool(await self._call("contains", _quote(key)))

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        """Return the live entries of ``topics`` behind their positions, oldest first."""
        words = [word for topic, after in topics.items() for word in (_quote(topic), after)]
        entries = [_entry(row) for row in await self._call("read", limit, *words)]
        if entries:
            self._floor = max(self._floor, entries[-1].position)
        return entries

    async def create_group(self, group: str) -> None:
        """Create a consumer group unless it exists."""
        await self._call("create_group", _quote(group))

    async def groups(self) -> Sequence[str]:
        """Return the names of the consumer groups in order."""
        return sorted(_unquote(_text(name)) for name in await self._call("groups"))

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        """Lease at most ``limit`` entries, oldest first, and count an attempt for each."""
        run = self._running()
        reply = self._send(run, "claim", _quote(group), limit)
        try:
            rows = await self._wait(reply)
        except BaseException:
            # The caller was cancelled or the deadline has passed, but the reply can still come: return its leases.
            if reply.done():
                # At once: a callback could be too late for a close() that follows.
                self._return_leases(run, group, reply)
            else:
                reply.add_done_callback(partial(self._return_leases, run, group))
            raise
        return [Claimed(_entry(row), int(row[4])) for row in rows]

    async def renew(self, group: str, positions: Sequence[int], *, count: bool = False) -> None:
        """Extend leases of this store; with ``count``, count another attempt."""
        await self._call("renew", _quote(group), *positions, int(count))

    async def ack(self, group: str, positions: Sequence[int]) -> None:
        """Mark entries as handled by the group."""
        await self._call("ack", _quote(group), *positions)

    async def nack(self, group: str, positions: Sequence[int]) -> None:
        """Return leased entries of this store to the group."""
        await self._call("nack", _quote(group), *positions)

    async def fail(self, group: str, position: int, reason: str) -> None:
        """Mark an entry as failed in the group."""
        await self._call("fail", _quote(group), position, reason.encode("utf-8", "surrogatepass"))

    async def failed(self, group: str, *, limit: int = 100) -> Sequence[Failed]:
        """Return failed live entries of the group, oldest first."""
        rows = await self._call("failed", _quote(group), limit)
        return [Failed(_entry(row), int(row[4] or 0), row[5].decode("utf-8", "surrogatepass")) for row in rows]

    async def retry(self, group: str, positions: Sequence[int]) -> None:
        """Return failed entries to the group with no attempts counted."""
        await self._call("retry", _quote(group), *positions)

    async def purge_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` expired entries, and return how many."""
        return int(await self._call("purge", limit))

    async def stats(self) -> Mapping[str, int]:
        """Return ``events``, ``bytes`` of their bodies, and ``records``; the server looks at each live event."""
        counts = await self._call("stats")
        return dict(zip(("events", "bytes", "records"), map(int, counts), strict=True))

    # Commands: callers put them into a list, and one task sends all that wait.

    def _running(self) -> _Run:
        if self._is_in_new_loop() or self._run is None:
            raise StoreError("the store is not started, or closed: call start() first")
        return self._run

    async def _call(self, *words: Any) -> Any:
        return await self._wait(self._send(self._running(), *words))

    def _send(self, run: _Run, *words: Any) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = run.loop.create_future()
        reply.add_done_callback(_retrieve)
        run.waiting.append(_Command(words, reply, run.loop.time()))
        run.has_work.set()
        return reply

    async def _wait(self, reply: asyncio.Future[T]) -> T:
        # The caller's cancellation reaches neither redis-py nor the callers whose commands go with this one.
        await asyncio.wait((reply,), timeout=DEADLINE)
        if not reply.done():
            raise StoreError(f"Redis: no response within {DEADLINE:g} s")
        return reply.result()

    def _return_leases(self, run: _Run, group: str, claim: asyncio.Future[Any]) -> None:
        if claim.exception() is None and claim.result():
            self._send(run, "nack", _quote(group), *(row[0] for row in claim.result()))

    async def _serve(self, run: _Run) -> None:
        """Check the server; then send the commands that wait, one batch after the other, until the store is closed."""
        try:
            await self._check_server(run)
            await self._check_rights(run)
        except Exception as error:  # noqa: BLE001 - start() raises it
            run.ready.set_exception(_translate(error))
            return
        # Not earlier: two tasks that connect at once bind the lock of redis-py's pool to this event loop.
        run.tasks.append(run.loop.create_task(self._follow(run)))
        while run.waiting or not run.closing:
            await run.has_work.wait()
            run.has_work.clear()
            while run.waiting:
                batch, run.waiting = run.waiting[:MAX_BATCH], run.waiting[MAX_BATCH:]
                # The callers of older commands have given up.
                batch = [command for command in batch if run.loop.time() < command.queued_at + DEADLINE]
                # A full server refuses appends only before the first write of the script.
                batch.sort(key=lambda command: command.words[0] != "append")
                replies: Sequence[Any] = [StoreError("the store is closed")] * len(batch)
                try:
                    replies = await self._execute(run, [command.words for command in batch])
                except Exception as error:  # noqa: BLE001 - each caller gets a response, whatever happens
                    replies = [error] * len(batch)
                finally:
                    for command, reply in zip(batch, replies, strict=True):
                        if isinstance(reply, Exception):
                            command.reply.set_exception(_translate(reply))
                        else:
                            command.reply.set_result(reply)
                if any(isinstance(reply, ReadOnlyError) for reply in replies):
                    # A failover moved the address, and these connections stayed with the old primary.
                    run.must_reconnect = True
                    with contextlib.suppress(RedisError, OSError):
                        await run.redis.connection_pool.disconnect(inuse_connections=False)
                # Claims that were cancelled meanwhile return their leases before close() ends.
                await asyncio.sleep(0)

    async def _execute(
        self, run: _Run, commands: Sequence[tuple[Any, ...]], *, root: str = "", ttl: float = 0
    ) -> Sequence[Any]:
        """Call the script once; return the reply to each command."""
        root, ttl = root or self._root, ttl or self.ttl_seconds
        words: list[Any] = [root, _milliseconds(ttl), _milliseconds(self.lease_seconds), run.owner, self._floor]
        for name, *arguments in commands:
            words += [name, len(arguments), *arguments]
        # Not redis-py's Script, which decodes the bodies with a client that decodes replies.
        evalsha = partial(run.redis.execute_command, "EVALSHA", _SHA, 1, f"{root}:last", *words, NEVER_DECODE=True)
        replies: Sequence[Any]
        async with asyncio.timeout(DEADLINE):
            try:
                replies = await evalsha()
            except NoScriptError:
                # The server was restarted, or its scripts were flushed.
                await run.redis.script_load(_SCRIPT)
                replies = await evalsha()
        return replies

    # Notifications.

    async def _follow(self, run: _Run) -> None:
        """Pass notifications to the listeners; subscribe again after each lost connection."""
        pause = 0.0
        while not run.closing:  # the cancellation by _end() can be lost in the client
            try:
                async with run.redis.pubsub() as pubsub:
                    async with asyncio.timeout(DEADLINE):
                        await pubsub.subscribe(f"{self._root}:notify")
                    run.must_reconnect, silent = False, 0
                    while not run.must_reconnect and silent < 3:  # noqa: PLR2004 - PING is a message, too
                        message = await pubsub.get_message(timeout=SILENCE)
                        silent = silent + 1 if message is None else 0
                        if message is None:  # pragma: no branch - Python 3.11 traces no line behind this timeout
                            await pubsub.ping()
                        elif message["type"] == "subscribe":
                            pause = 0.0
                            if not run.ready.done():
                                run.ready.set_result(None)
                            # Notifications before the subscription are lost.
                            self._notify(None)
                        elif message["type"] == "message":
                            self._notify([_unquote(topic) for topic in _text(message["data"]).split()])
            except Exception as error:  # noqa: BLE001 - waiters would sleep through their events
                if not run.ready.done():
                    run.ready.set_exception(_translate(error, "SUBSCRIBE: "))
                    return
                level = logging.WARNING if pause == 0 and not run.closing else logging.DEBUG
                _log.log(level, "no notifications from Redis for now: %s", _translate(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause + 0.05, MAX_PAUSE)

    # Start and close.

    async def _check_server(self, run: _Run) -> None:
        # Each user may run HELLO, also one who may not run INFO.
        hello = await self._ask(run, "HELLO")
        # RESP3 has maps, RESP2 lists.
        pairs: Any = hello.items() if hasattr(hello, "items") else zip(hello[::2], hello[1::2], strict=True)
        facts: dict[str, Any] = {_text(name): value for name, value in pairs}
        if _text(facts.get("mode", "")) == "cluster":
            raise StoreError("this server is a node of a Redis Cluster, which RedisStore does not support")
        version = re.match(r"(\d+)\.(\d+)", _text(facts.get("version", "")))
        if version and tuple(map(int, version.groups())) < _MIN_VERSION:
            raise StoreError(f"RedisStore needs Redis 6.2 or later, or Valkey; this one is {version[0]}")
        info = await self._ask(run, "INFO")
        policy = info.get("maxmemory_policy")
        if policy is None:
            _log.warning("Redis does not show its maxmemory-policy: make sure that it is noeviction")
        elif policy != "noeviction":
            raise StoreError(
                f"Redis has the maxmemory-policy {policy}, which drops events that were acknowledged: "
                "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in its configuration)"
            )
        if not info.get("aof_enabled"):
            _log.warning("Redis runs without AOF: a crash loses acknowledged events (remedy: appendonly yes)")

    async def _ask(self, run: _Run, command: str) -> Any:
        try:
            return await run.redis.execute_command(command)
        except ResponseError:
            return {}  # hosters can forbid it; nothing is known then

    async def _check_rights(self, run: _Run) -> None:
        """Run each command once, on keys that expire within seconds."""
        probe = partial(self._execute, run, root=f"{self._root}:probe-{run.owner}", ttl=1)
        g, append = "group", ("append", "key", 1000, 1000, "events", "topic", b"")
        replies = [*await probe([append, ("read", 1, "topic", 0), ("stats",), ("contains", "key"), ("claim", g, 1)])]
        if not any(isinstance(reply, Exception) for reply in replies):
            p = replies[0]
            replies += await probe([("renew", g, p, 1), ("nack", g, p), ("fail", g, p, "no"), ("failed", g, 1)])
            replies += await probe([("retry", g, p), ("ack", g, p), ("purge", 1)])
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(_translate(reply), StoreFullError):
                raise reply

    async def _end(self, run: _Run, timeout: float) -> None:
        """Send what waits if that takes no longer than ``timeout`` seconds, then end the tasks and disconnect."""
        run.closing = run.must_reconnect = True
        run.has_work.set()
        await asyncio.wait(run.tasks[:1], timeout=timeout)
        for task in run.tasks:
            task.cancel()
        await asyncio.wait(run.tasks, timeout=DEADLINE)
        for command in run.waiting:
            command.reply.set_exception(StoreError("the store is closed"))
        if self._url is not None:
            with contextlib.suppress(RedisError, OSError):
                await run.redis.aclose()


def _connect(url: str) -> Any:
    factory: Any = Redis  # its own types are partial
    try:
        return factory.from_url(
            url,
            socket_timeout=DEADLINE,
            socket_connect_timeout=DEADLINE,
            # redis-py 8 with RESP3 does not notice that the server closed an idle connection.
            protocol=2,
        )
    except ValueError:
        # The text of the original error can contain a part of the password.
        raise ValueError(
            "not a URL of Redis, such as redis://user:password@host:6379/0 (percent-encode the password)"
        ) from None


def _translate(error: Exception, label: str = "") -> StoreError:
    """Return the error for a caller."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)  # each caller receives its own
    reason = " ".join(str(error).split())
    # Redis 6.2 puts the code into the text of another error.
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in reason:
        return StoreFullError("Redis has reached its maxmemory; nothing that is stored was dropped")
    if isinstance(error, TimeoutError) and not reason:
        reason = f"no response within {DEADLINE:g} s"
    return StoreError(f"Redis: {label}{type(error).__name__}: {reason[:_MAX_REASON]}")


def _retrieve(future: asyncio.Future[Any]) -> None:
    future.exception()  # asyncio reports errors that no caller retrieved


def _entry(row: Sequence[Any]) -> Entry:
    topics = tuple(_unquote(topic) for topic in row[1].decode().split())
    return Entry(position=int(row[0]), topics=topics, body=row[2], at=int(row[3]) / 1_000_000)


def _quote(name: str) -> str:
    """Return ``name`` in ASCII without spaces, as the script and notifications separate topics by a space."""
    return quote(name.encode("utf-8", "surrogatepass"), safe=":/") or "%"


def _unquote(name: str) -> str:
    return "" if name == "%" else unquote_to_bytes(name).decode("utf-8", "surrogatepass")


def _text(data: bytes | str) -> str:
    return data.decode() if isinstance(data, bytes) else data


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
