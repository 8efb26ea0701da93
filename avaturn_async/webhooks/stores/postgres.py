"""PostgresStore: the event log in PostgreSQL, for processes on several machines.

The tables stand in a schema of their own (:meth:`PostgresStore.ddl`):

================  =====================================================================================
``version``       the product and the version of the schema
``totals``        one row: the last position, and how much ``entries`` holds, also expired
``entries``       the entries; their topics as JSON
``topics``        which positions a topic has
``keys``          until when an entry with a key is a duplicate
``groups``        the consumer groups, their names as JSON, and the part of the log that a new group received so far
``deliveries``    for each group, the events that it did not acknowledge yet
================  =====================================================================================

An appending transaction locks the row of ``totals`` until its commit can be seen, so that positions become readable in
order: a sequence alone does not give that. A position is the time in microseconds, unless the last one was higher: so
positions rise also after a failover to a replica that had not received the last ones. Topics, keys and groups are found
by their SHA-256: an index row has at most 2,704 bytes, and ``text`` cannot contain NUL. Time is the server's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import re
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from attrs import define, field

from avaturn_async._validation import validate_positive
from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores.base import Claimed, Entry, Failed, NewEntry, StoreBase

try:
    import asyncpg  # pyright: ignore[reportMissingTypeStubs]
except ImportError as _error:
    raise ImportError('PostgresStore needs asyncpg: pip install "avaturn_async[postgres]"') from _error

__all__ = ["PostgresStore"]

_log = logging.getLogger("avaturn_async.webhooks")
T = TypeVar("T")
_driver: Any = asyncpg  # its own types are partial
_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    ValueError,
    RuntimeError,
)

DEADLINE = 2.0
"""Seconds that one operation may take, the wait for a connection included: a webhook is answered within 2.5 s."""
CLOSE_TIMEOUT = 1.0
"""Seconds that ``close()`` gives to statements under way."""
MAX_BATCH = 200
"""Entries that one transaction appends, at most."""
MAX_BATCH_BYTES = 4_000_000
"""Bytes of their bodies, at most, unless one entry alone has more."""
GROUP_PAGE = 10_000
"""Entries of the log that a new group receives in one transaction."""
POOL_SIZE = 3
"""Connections of a store made from a URL, besides the one for notifications: PostgreSQL allows 100 in all."""
SILENCE = 5.0
"""Seconds between tests of the notification connection."""
MAX_PAUSE = 1.0
"""Seconds between attempts to receive notifications again, at most."""
MAX_PAYLOAD = 7_900
"""Bytes of a notification: NOTIFY allows fewer than 8,000."""
MAX_BIGINT = 2**63 - 1
"""The largest number that PostgreSQL compares with: a larger bound is never reached."""
MIN_VERSION = 130_000
"""Of the server, as in its setting ``server_version_num``."""
_VERSION = ("avaturn_async", 1)  # the row of the table version

_TABLES = """
CREATE TABLE avaturn.version (product text NOT NULL, version integer NOT NULL);
INSERT INTO avaturn.version VALUES ('avaturn_async', 1);
CREATE TABLE avaturn.totals (
  last bigint NOT NULL, events bigint NOT NULL, bytes bigint NOT NULL, records bigint NOT NULL);
INSERT INTO avaturn.totals VALUES (0, 0, 0, 0);
CREATE TABLE avaturn.entries (
  position bigint PRIMARY KEY, topics text NOT NULL, body bytea NOT NULL, at double precision NOT NULL,
  expires_at double precision NOT NULL, dispatch boolean NOT NULL);
CREATE INDEX ON avaturn.entries (expires_at);
CREATE TABLE avaturn.topics (
  name bytea NOT NULL, position bigint NOT NULL, expires_at double precision NOT NULL, PRIMARY KEY (name, position));
CREATE INDEX ON avaturn.topics (expires_at);
CREATE TABLE avaturn.keys (name bytea PRIMARY KEY, expires_at double precision NOT NULL);
CREATE INDEX ON avaturn.keys (expires_at);
CREATE TABLE avaturn.groups (
  name bytea PRIMARY KEY, label text NOT NULL, received bigint NOT NULL, created_at bigint NOT NULL);
CREATE TABLE avaturn.deliveries (
  name bytea NOT NULL, position bigint NOT NULL, attempts integer NOT NULL DEFAULT 0, owner text,
  leased_until double precision NOT NULL DEFAULT 0, reason text, PRIMARY KEY (name, position));
CREATE INDEX ON avaturn.deliveries (position);

-- It does not change within a statement, so that indexes can be used.
CREATE FUNCTION avaturn.statement_time() RETURNS double precision LANGUAGE sql STABLE AS $$
  SELECT extract(epoch FROM statement_timestamp())::double precision $$;

-- Without statistics, PostgreSQL takes large tables for small ones, and then must be told to read indexes in order.

-- A new group receives the log in pages: a page takes less than DEADLINE. Returns whether there are more.
CREATE FUNCTION avaturn.create_group(new_name bytea, new_label text, page_size integer) RETURNS boolean
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE this avaturn.groups; page_end bigint;
BEGIN
  SELECT * INTO this FROM avaturn.groups WHERE name = new_name FOR UPDATE;
  IF NOT FOUND THEN
    PERFORM FROM avaturn.totals FOR UPDATE;
    INSERT INTO avaturn.groups SELECT new_name, new_label, 0, last FROM avaturn.totals ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT this FROM avaturn.groups WHERE name = new_name FOR UPDATE;
  END IF;
  IF this.received >= this.created_at THEN RETURN false; END IF;
  SELECT max(position) INTO page_end FROM (SELECT position FROM avaturn.entries
    WHERE position > this.received AND position <= this.created_at ORDER BY position LIMIT page_size) page;
  INSERT INTO avaturn.deliveries (name, position) SELECT new_name, position FROM avaturn.entries
    WHERE position > this.received AND position <= page_end AND dispatch AND expires_at > avaturn.statement_time()
    ON CONFLICT DO NOTHING;
  UPDATE avaturn.groups SET received = coalesce(page_end, this.created_at) WHERE name = new_name;
  RETURN page_end IS NOT NULL;
END $$;

-- OFFSET 0 makes PostgreSQL look the entries up by their positions. To plan again takes longer than to read.
CREATE FUNCTION avaturn.read(of_names bytea[], after bigint[], max_count bigint)
RETURNS TABLE (number bigint, names text, content bytea, stored_at double precision)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY SELECT e.* FROM (
    SELECT DISTINCT t.position FROM unnest(of_names, after) AS q (name, after) CROSS JOIN LATERAL (
      SELECT t.position FROM avaturn.topics t
      WHERE t.name = q.name AND t.position > q.after AND t.expires_at > avaturn.statement_time()
      ORDER BY t.position LIMIT max_count) t
    ORDER BY t.position LIMIT max_count
  ) p CROSS JOIN LATERAL (
    SELECT position, topics, body, at FROM avaturn.entries e WHERE e.position = p.position OFFSET 0) e
  ORDER BY e.position;
END $$;

CREATE FUNCTION avaturn.claim(of_name bytea, max_count integer, new_owner text, lease double precision)
RETURNS TABLE (number bigint, names text, content bytea, stored_at double precision, attempt integer)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN QUERY WITH chosen AS (
    SELECT d.position FROM avaturn.deliveries d JOIN avaturn.entries e ON e.position = d.position
    WHERE d.name = of_name AND d.reason IS NULL AND d.leased_until <= avaturn.statement_time()
      AND e.expires_at > avaturn.statement_time()
    ORDER BY d.position LIMIT max_count FOR UPDATE OF d SKIP LOCKED
  ), leased AS (
    UPDATE avaturn.deliveries d
    SET attempts = d.attempts + 1, owner = new_owner, leased_until = avaturn.statement_time() + lease
    FROM chosen c WHERE d.name = of_name AND d.position = c.position RETURNING d.position, d.attempts
  ) SELECT e.position, e.topics, e.body, e.at, l.attempts
    FROM leased l JOIN avaturn.entries e ON e.position = l.position ORDER BY e.position;
END $$;

-- The topics of an entry expire with it. Topics that expire before the last deleted entry belong to deleted entries.
CREATE FUNCTION avaturn.purge(max_count integer) RETURNS integer
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE moment double precision; horizon double precision; gone bigint[]; gone_events bigint; gone_bytes bigint;
BEGIN
  PERFORM FROM avaturn.totals FOR UPDATE;
  moment := extract(epoch FROM clock_timestamp());
  DELETE FROM avaturn.keys WHERE name IN (
    SELECT name FROM avaturn.keys WHERE expires_at <= moment ORDER BY expires_at LIMIT max_count);
  SELECT array_agg(position), max(expires_at) INTO gone, horizon FROM (
    SELECT position, expires_at FROM avaturn.entries WHERE expires_at <= moment ORDER BY expires_at LIMIT max_count) e;
  IF gone IS NULL THEN RETURN 0; END IF;
  DELETE FROM avaturn.topics WHERE expires_at <= horizon;
  DELETE FROM avaturn.deliveries WHERE position = ANY (gone);
  WITH deleted AS (DELETE FROM avaturn.entries WHERE position = ANY (gone) RETURNING dispatch, body)
  SELECT count(*), coalesce(sum(length(body)), 0) INTO gone_events, gone_bytes FROM deleted WHERE dispatch;
  UPDATE avaturn.totals SET events = events - gone_events, bytes = bytes - gone_bytes,
    records = records - (cardinality(gone) - gone_events);
  RETURN cardinality(gone);
END $$;

-- The results are positions, 0: a duplicate, -1: full. Topic number i belongs to the entry number topic_entries[i].
CREATE FUNCTION avaturn.append(
  new_keys bytea[], unique_for double precision[], lives double precision[], dispatched boolean[], sizes integer[],
  bodies bytea[], entry_topics text[], topic_names bytea[], topic_entries integer[],
  max_events bigint, max_bytes bigint, channel text, payloads text[]) RETURNS bigint[]
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE moment double precision; total avaturn.totals; new_bytes bigint; results bigint[] := '{}'; taken bytea[];
  number bigint;
BEGIN
  SELECT * INTO STRICT total FROM avaturn.totals FOR UPDATE;
  moment := extract(epoch FROM clock_timestamp());
  new_bytes := (SELECT sum(size) FROM unnest(sizes) AS size);
  WHILE total.events + cardinality(sizes) > max_events OR total.bytes + new_bytes > max_bytes LOOP
    EXIT WHEN avaturn.purge(1000) = 0;
    SELECT * INTO STRICT total FROM avaturn.totals;
  END LOOP;
  taken := ARRAY(SELECT name FROM avaturn.keys WHERE name = ANY (new_keys) AND expires_at > moment);
  FOR i IN 1 .. cardinality(sizes) LOOP
    IF new_keys[i] = ANY (taken) THEN
      number := 0;
    ELSIF dispatched[i] AND (total.events >= max_events OR total.bytes + sizes[i] > max_bytes) THEN
      number := -1;
    ELSE
      total.last := greatest(total.last + 1, (moment * 1000000)::bigint);
      number := total.last;
      taken := taken || new_keys[i];
      IF dispatched[i] THEN
        total.events := total.events + 1;
        total.bytes := total.bytes + sizes[i];
      ELSE
        total.records := total.records + 1;
      END IF;
    END IF;
    results := results || number;
  END LOOP;
  UPDATE avaturn.totals SET last = total.last, events = total.events, bytes = total.bytes, records = total.records;
  INSERT INTO avaturn.entries SELECT p, t, b, moment, moment + l, d
    FROM unnest(results, entry_topics, bodies, lives, dispatched) AS new (p, t, b, l, d) WHERE p > 0;
  INSERT INTO avaturn.topics SELECT n, results[i], moment + lives[i]
    FROM unnest(topic_names, topic_entries) AS new (n, i) WHERE results[i] > 0;
  INSERT INTO avaturn.keys SELECT k, moment + u FROM unnest(results, new_keys, unique_for) AS new (p, k, u)
    WHERE p > 0 AND k IS NOT NULL ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at;
  INSERT INTO avaturn.deliveries (name, position) SELECT g.name, p
    FROM unnest(results, dispatched) AS new (p, d), avaturn.groups g WHERE p > 0 AND d;
  PERFORM pg_notify(channel, payload) FROM unnest(payloads) AS payload;
  RETURN results;
END $$;
"""

_APPEND = "SELECT avaturn.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"

_CREATE_GROUP = "SELECT avaturn.create_group($1, $2, $3)"

_READ = "SELECT * FROM avaturn.read($1, $2, $3)"

_CLAIM = "SELECT * FROM avaturn.claim($1, $2, $3, $4)"

_RENEW = """
UPDATE avaturn.deliveries
SET leased_until = avaturn.statement_time() + $4::double precision, attempts = attempts + $5::integer
WHERE name = $1 AND position = ANY ($2) AND owner = $3 AND reason IS NULL"""

_NACK = """
WITH returned AS (
  UPDATE avaturn.deliveries SET leased_until = 0, owner = NULL
  WHERE name = $1 AND position = ANY ($2) AND owner = $3 AND reason IS NULL RETURNING 1)
SELECT pg_notify($4, '[]') FROM returned LIMIT 1"""

_RETRY = """
WITH returned AS (
  UPDATE avaturn.deliveries SET reason = NULL, attempts = 0
  WHERE name = $1 AND position = ANY ($2) AND reason IS NOT NULL RETURNING 1)
SELECT pg_notify($3, '[]') FROM returned LIMIT 1"""

_FAIL = """
INSERT INTO avaturn.deliveries (name, position, reason) SELECT $1, position, $3 FROM avaturn.entries
WHERE position = $2 AND dispatch AND expires_at > avaturn.statement_time()
ON CONFLICT (name, position) DO UPDATE SET reason = excluded.reason, owner = NULL, leased_until = 0"""

_FAILED = """
SELECT e.*, d.attempts, d.reason FROM avaturn.deliveries d CROSS JOIN LATERAL (
  SELECT position, topics, body, at FROM avaturn.entries e
  WHERE e.position = d.position AND e.expires_at > avaturn.statement_time() OFFSET 0) e
WHERE d.name = $1 AND d.reason IS NOT NULL ORDER BY d.position LIMIT $2"""

_MISSING_RIGHTS = """
SELECT privilege || ' on ' || relname FROM pg_class, unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS privilege
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
  AND relname IN ('totals', 'entries', 'topics', 'keys', 'groups', 'deliveries')
  AND NOT has_table_privilege(pg_class.oid, privilege)
UNION ALL SELECT 'EXECUTE on ' || proname FROM pg_proc
WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
  AND NOT has_function_privilege(pg_proc.oid, 'EXECUTE')
ORDER BY 1"""

_STATS = """
SELECT t.events - e.events, (t.bytes - e.bytes)::bigint, t.records - e.records FROM avaturn.totals t, (
  SELECT count(*) FILTER (WHERE dispatch) AS events, coalesce(sum(length(body)) FILTER (WHERE dispatch), 0) AS bytes,
    count(*) FILTER (WHERE NOT dispatch) AS records
  FROM avaturn.entries WHERE expires_at <= avaturn.statement_time()) e"""


@define(eq=False)
class _Append:
    """An entry that waits for its transaction."""

    entry: NewEntry
    life: float
    """Seconds that it lives."""
    unique_for: float
    """Seconds that its key is taken."""
    reply: asyncio.Future[int]
    """Receives the result for the caller."""


@define(eq=False)
class _Run:
    """All state of one running loop, from ``start()`` to ``close()``."""

    loop: asyncio.AbstractEventLoop
    pool: Any
    """The asyncpg pool; None until it is open."""
    owner: str = field(factory=lambda: uuid4().hex)
    """Identity in leases: new for each start."""
    groups: set[str] = field(factory=set[str])
    """Groups that exist; forgotten when the connection is lost, since a failover can lose a new group."""
    needs_transaction: bool = False
    """Whether a statement needs an explicit transaction.

    Either another isolation level is the default; or asyncpg's lookup of array types, which first turns JIT off in the
    session, must stay on one connection of PgBouncer: with JIT it can take 2 seconds.
    """
    waiting: deque[_Append] = field(factory=deque[_Append])
    """Appends for the next transactions."""
    is_writing: bool = False
    """Whether a task appends what waits."""
    tasks: set[asyncio.Task[Any]] = field(factory=set[asyncio.Task[Any]])
    """All tasks of the store, so that ``close()`` ends them."""
    watcher: asyncio.Task[None] | None = None
    """The task that keeps the notification connection."""
    notifications: Any = None
    """The connection that receives notifications; None while disconnected."""
    lost: asyncio.Event = field(factory=asyncio.Event)
    """Set when that connection ends."""


class PostgresStore(StoreBase):
    """Store the log in PostgreSQL (13 or later): appended means committed.

    ``start()`` creates the schema unless it exists. A role that may not create it needs ``USAGE`` on the schema and
    ``SELECT, INSERT, UPDATE, DELETE`` on its tables, and ``EXECUTE`` on its functions, which PostgreSQL grants to all
    roles by default; :meth:`ddl` has the statements that create the schema.

    Through PgBouncer in transaction mode, notifications need a direct connection: pass ``listen_dsn``. A pool of the
    caller needs ``statement_cache_size=0`` in that case.

    Expiry uses the server's clock. Processes that share a schema should share all options.

    Args:
        pool: An ``asyncpg.Pool`` of the caller, never closed by the store. Without ``listen_dsn``, the store keeps
            one of its connections for notifications.
        schema: Schema of the tables, which holds nothing else; also the name of the notification channel.
        ttl: Seconds that an event lives; records of the router live twice as long.
        max_events: Maximum number of live events.
        max_bytes: Maximum size of their bodies in bytes.
        lease: Seconds until a lease ends that is not renewed.
        listen_dsn: DSN of a direct connection for notifications, when ``pool`` goes through PgBouncer.
        create: Whether ``start()`` creates the schema unless it exists; without it, a missing schema is a StoreError.

    Raises:
        TypeError: ``pool`` is not an ``asyncpg.Pool``.
        ValueError: A number is not above zero and finite, ``schema`` is not a name, or a DSN is not a URL.
    """

    def __init__(
        self,
        pool: Any,
        *,
        schema: str = "avaturn",
        ttl: float = 259_200.0,
        max_events: int = 1_000_000,
        max_bytes: int = 1_073_741_824,
        lease: float = 30.0,
        listen_dsn: str | None = None,
        create: bool = True,
    ) -> None:
        if pool is not None and not isinstance(pool, asyncpg.Pool):
            raise TypeError(f"pool must be an asyncpg.Pool, not {type(pool).__module__}.{type(pool).__qualname__}")
        super().__init__(ttl=ttl, lease=lease)
        validate_positive(max_events=max_events, max_bytes=max_bytes)
        if listen_dsn is not None:
            _validate_dsn(listen_dsn, "listen_dsn")
        self._schema = _validate_schema(schema)
        self._pool = pool
        self._dsn: str | None = None
        self._listen_dsn = listen_dsn
        self._create = create
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._run: _Run | None = None

    @classmethod
    def from_url(
        cls,
        dsn: str,
        *,
        schema: str = "avaturn",
        ttl: float = 259_200.0,
        max_events: int = 1_000_000,
        max_bytes: int = 1_073_741_824,
        lease: float = 30.0,
        listen_dsn: str | None = None,
        create: bool = True,
    ) -> PostgresStore:
        """Return a store with its own pool, which ``start()`` opens and ``close()`` closes.

        Args:
            dsn: ``postgresql://user:password@host:5432/database``; percent-encode the password, and ``@`` elsewhere.
            schema: As in the constructor.
            ttl: As in the constructor.
            max_events: As in the constructor.
            max_bytes: As in the constructor.
            lease: As in the constructor.
            listen_dsn: As in the constructor.
            create: As in the constructor.

        Raises:
            ValueError: As in the constructor.
        """
        _validate_dsn(dsn, "dsn")
        store = cls(
            None,
            schema=schema,
            ttl=ttl,
            max_events=max_events,
            max_bytes=max_bytes,
            lease=lease,
            listen_dsn=listen_dsn,
            create=create,
        )
        store._dsn = dsn
        return store

    @staticmethod
    def ddl(schema: str = "avaturn") -> str:
        """Return the statements that create the schema, as one script for ``psql`` or ``connection.execute()``."""
        return f'CREATE SCHEMA IF NOT EXISTS "{_validate_schema(schema)}";\n{_qualify(_TABLES, schema)}'

    def __repr__(self) -> str:
        return f"PostgresStore(schema={self._schema!r})"

    async def start(self) -> None:
        """Connect, create the schema unless it exists, check the server's settings, and listen for notifications."""
        if self._enter_loop():
            # The earlier loop ended without close(), or is the parent's: its connections cannot be used or closed.
            self._run = None
        if self._run is not None:
            return
        run = _Run(asyncio.get_running_loop(), self._pool)
        try:
            await self._within(run, self._open(run))
        except BaseException:
            await self._finish(self._end(run, 0.0))
            raise
        if self._run is not None:  # another task was faster
            await self._finish(self._end(run, 0.0))
            return
        # close() may have unbound the store meanwhile.
        self._loop, self._run = run.loop, run
        run.watcher = self._begin(run, self._watch(run))

    async def close(self) -> None:
        """Disconnect; leases of this store end by themselves."""
        if self._is_in_new_loop():
            return
        run, self._run, self._loop = self._run, None, None
        if run is not None:
            await self._finish(self._end(run, CLOSE_TIMEOUT))

    async def append(self, entry: NewEntry) -> int:
        """Append an entry; return its position, or 0 for a duplicate."""
        run = self._running()
        self._check_entry(entry)
        life = entry.ttl if entry.ttl is not None else self.ttl_seconds * (1 if entry.dispatch else 2)
        unique_for = life if entry.unique_for is None else entry.unique_for
        if not (math.isfinite(life) and math.isfinite(unique_for)):
            raise ValueError("ttl and unique_for of an entry must be finite")
        reply: asyncio.Future[int] = run.loop.create_future()
        run.waiting.append(_Append(entry, life, unique_for, reply))
        if not run.is_writing:
            run.is_writing = True
            self._begin(run, self._write(run))
        try:
            async with asyncio.timeout(DEADLINE):
                position = await reply
        except TimeoutError:
            raise StoreError(f"PostgreSQL: no response within {DEADLINE:g} s") from None
        if position < 0:
            raise StoreFullError(f"the store is full (max_events={self._max_events}, max_bytes={self._max_bytes})")
        return position

    async def contains(self, key: str) -> bool:
        """Return whether an entry with this key would be a duplicate now."""
        statement = "SELECT FROM avaturn.keys WHERE name = $1 AND expires_at > avaturn.statement_time()"
        return bool(await self._fetch(statement, _digest(key)))

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        """Return the live entries of ``topics`` behind their positions, oldest first."""
        rows = await self._fetch(_READ, [_digest(topic) for topic in topics], list(topics.values()), limit)
        return list(map(_decode, rows))

    async def create_group(self, group: str) -> None:
        """Create a consumer group unless it exists."""
        run = self._running()
        while group not in run.groups:
            await self._within(run, self._create_group(run, group))

    async def groups(self) -> Sequence[str]:
        """Return the names of the consumer groups in order."""
        return sorted(json.loads(row[0]) for row in await self._fetch("SELECT label FROM avaturn.groups"))

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        """Lease at most ``limit`` entries, oldest first, and count an attempt for each."""
        await self.create_group(group)
        run, name = self._running(), _digest(group)
        task = self._begin(run, self._execute(run, _CLAIM, name, limit, run.owner, float(self.lease_seconds)))
        try:
            rows = await self._wait(asyncio.shield(task))
        except BaseException:
            # Cancelled or late: the statement can still succeed.
            self._begin(run, self._return_claim(run, task, name))
            raise
        return [Claimed(_decode(row), row[4]) for row in rows]

    async def renew(self, group: str, positions: Sequence[int], *, count: bool = False) -> None:
        """Extend leases of this store; with ``count``, count another attempt."""
        owner = self._running().owner
        await self._fetch(_RENEW, _digest(group), list(positions), owner, float(self.lease_seconds), int(count))

    async def ack(self, group: str, positions: Sequence[int]) -> None:
        """Mark entries as handled by the group."""
        await self.create_group(group)
        statement = "DELETE FROM avaturn.deliveries WHERE name = $1 AND position = ANY ($2)"
        await self._fetch(statement, _digest(group), list(positions))

    async def nack(self, group: str, positions: Sequence[int]) -> None:
        """Return leased entries of this store to the group."""
        await self._fetch(_NACK, _digest(group), list(positions), self._running().owner, self._schema)

    async def fail(self, group: str, position: int, reason: str) -> None:
        """Mark an entry as failed in the group."""
        await self.create_group(group)
        await self._fetch(_FAIL, _digest(group), position, json.dumps(reason))

    async def failed(self, group: str, *, limit: int = 100) -> Sequence[Failed]:
        """Return failed live entries of the group, oldest first."""
        rows = await self._fetch(_FAILED, _digest(group), limit)
        return [Failed(_decode(row), row[4], json.loads(row[5])) for row in rows]

    async def retry(self, group: str, positions: Sequence[int]) -> None:
        """Return failed entries to the group with no attempts counted."""
        await self._fetch(_RETRY, _digest(group), list(positions), self._schema)

    async def purge_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` expired entries, and return how many."""
        return int((await self._fetch("SELECT avaturn.purge($1)", limit))[0][0])

    async def stats(self) -> Mapping[str, int]:
        """Return ``events``, ``bytes`` of their bodies, and ``records``; expired entries are not counted."""
        (counts,) = await self._fetch(_STATS)
        return dict(zip(("events", "bytes", "records"), counts, strict=True))

    # Statements

    def _running(self) -> _Run:
        if self._is_in_new_loop() or self._run is None:
            raise StoreError("the store is not started, or closed: call start() first")
        return self._run

    async def _fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        run = self._running()
        return await self._within(run, self._execute(run, statement, *arguments))

    async def _execute(self, run: _Run, statement: str, *arguments: Any) -> Sequence[Any]:
        """Run a statement in a READ COMMITTED transaction of its own."""
        statement = _qualify(statement, self._schema)
        connection = await run.pool.acquire()
        try:
            if not run.needs_transaction:
                return await connection.fetch(statement, *arguments)  # type: ignore[no-any-return]
            async with connection.transaction(isolation="read_committed"):
                return await connection.fetch(statement, *arguments)  # type: ignore[no-any-return]
        except asyncpg.ReadOnlySQLTransactionError:
            # After a failover, new connections can lead to the new primary.
            await run.pool.expire_connections()
            raise
        finally:
            # A silent server must not keep the connection in the pool.
            await run.pool.release(connection, timeout=DEADLINE)

    async def _create_group(self, run: _Run, group: str) -> None:
        """Create a group, or go on with that."""
        ((has_more,),) = await self._execute(run, _CREATE_GROUP, _digest(group), json.dumps(group), GROUP_PAGE)
        if not has_more:
            run.groups.add(group)

    async def _write(self, run: _Run) -> None:
        """Append what waits, in one transaction after the other, so that the next one has more to do."""
        try:
            while batch := _take_batch(run.waiting):
                failure = "the store is closed"
                try:
                    rows = await self._within(run, self._execute(run, _APPEND, *self._get_arguments(batch)))
                    for item, position in zip(batch, rows[0][0], strict=True):
                        if not item.reply.done():
                            item.reply.set_result(position)
                except StoreError as error:
                    failure = str(error)
                finally:
                    for item in batch:
                        if not item.reply.done():
                            item.reply.set_exception(StoreError(failure))
        finally:
            run.is_writing = False

    def _get_arguments(self, batch: Sequence[_Append]) -> Sequence[Any]:
        """Return the arguments of the function ``append``."""
        entries = [item.entry for item in batch]
        all_topics = [json.dumps(entry.topics, separators=(",", ":")) for entry in entries]
        names = [(topic, number) for number, entry in enumerate(entries, 1) for topic in dict.fromkeys(entry.topics)]
        return (
            [None if entry.key is None else _digest(entry.key) for entry in entries],
            [item.unique_for for item in batch],
            [item.life for item in batch],
            [bool(entry.dispatch) for entry in entries],
            [len(entry.body) for entry in entries],
            [entry.body for entry in entries],
            all_topics,
            [_digest(topic) for topic, _ in names],
            [number for _, number in names],
            int(min(self._max_events, MAX_BIGINT)),
            int(min(self._max_bytes, MAX_BIGINT)),
            self._schema,
            _split_payload(topics[1:-1] for topics in all_topics),
        )

    async def _return_claim(self, run: _Run, task: asyncio.Task[Sequence[Any]], name: bytes) -> None:
        positions = [row[0] for row in await self._wait(task)]
        await self._within(run, self._execute(run, _NACK, name, positions, run.owner, self._schema))

    # The server

    async def _open(self, run: _Run) -> None:
        """Connect, check the server, and create the schema unless it exists."""
        if self._dsn is not None:
            run.pool = await _driver.create_pool(
                self._dsn,
                # asyncpg would report each failure to keep more, with its traceback.
                min_size=0,
                max_size=POOL_SIZE,
                timeout=DEADLINE,
                # The statements leave no state in the session, so that RESET ALL would be a needless round trip.
                reset=_keep_session,
                statement_cache_size=100 if self._listen_dsn is None else 0,
            )
        async with run.pool.acquire(timeout=DEADLINE) as connection, connection.transaction(isolation="read_committed"):
            version, in_recovery, read_only, isolation, synchronous_commit, fsync = await connection.fetchrow(
                "SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(), "
                "current_setting('transaction_read_only'), current_setting('default_transaction_isolation'), "
                "current_setting('synchronous_commit'), current_setting('fsync')"
            )
            if version < MIN_VERSION:
                raise StoreError(f"PostgresStore needs PostgreSQL 13 or later; this one is {version // 10_000}")
            if in_recovery:
                raise StoreError("PostgreSQL is in recovery (a standby): PostgresStore needs the primary")
            if read_only == "on":
                raise StoreError("PostgreSQL has default_transaction_read_only = on: set it to off for this role")
            for name, value in (("synchronous_commit", synchronous_commit), ("fsync", fsync)):
                if value == "off":
                    _log.warning("PostgreSQL has %s = off: a crash of the server loses acknowledged events", name)
            run.needs_transaction = isolation != "read committed" or self._listen_dsn is not None
            if not await self._has_schema(connection):
                if not self._create:
                    raise StoreError(f"the database has no schema {self._schema!r} of avaturn_async")
                # Twenty workers can start at once.
                await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", self._schema)
                if not await self._has_schema(connection):
                    # CREATE SCHEMA IF NOT EXISTS needs the right to create schemas, also when the schema exists.
                    exists = await connection.fetchval("SELECT true FROM pg_namespace WHERE nspname = $1", self._schema)
                    await connection.execute(_qualify(_TABLES, self._schema) if exists else self.ddl(self._schema))
            await self._check_rights(connection)
        await self._subscribe(run)

    async def _check_rights(self, connection: Any) -> None:
        missing = [row[0] for row in await connection.fetch(_MISSING_RIGHTS, self._schema)]
        if missing:
            raise StoreError(f"the role lacks rights in the schema {self._schema!r}: {', '.join(missing)}")

    async def _has_schema(self, connection: Any) -> bool:
        """Return whether the schema is of this release; False when it does not exist, or is empty."""
        statement = (
            "SELECT relname FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)"
        )
        names = {row[0] for row in await connection.fetch(statement, self._schema)}
        if not names:
            return False
        found = None
        if names >= {"version", "totals", "entries", "deliveries"}:
            found = await connection.fetchrow(_qualify("SELECT product, version FROM avaturn.version", self._schema))
        if found is None or found[0] != _VERSION[0]:
            raise StoreError(f"the schema {self._schema!r} holds something else: give PostgresStore its own schema")
        if found[1] != _VERSION[1]:
            needed = f"this release of avaturn_async needs {_VERSION[1]}"
            raise StoreError(f"the schema {self._schema!r} has version {found[1]}, and {needed}")
        return True

    # Notifications

    async def _subscribe(self, run: _Run) -> None:
        """Open the connection that receives notifications, and see that one goes through it."""
        arrived, lost = asyncio.Event(), asyncio.Event()

        def receive(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            if payload == run.owner:
                arrived.set()
            elif payload.startswith(("[", "null")):  # else the test of another process
                self._notify(json.loads(payload))

        def end(_connection: Any) -> None:
            lost.set()

        dsn = self._listen_dsn or self._dsn
        if dsn is not None:
            connection = await _driver.connect(dsn, timeout=DEADLINE, statement_cache_size=0)
        elif run.pool.get_max_size() < 2:  # noqa: PLR2004 - one for notifications, one for statements
            raise StoreError("the pool needs at least two connections, or pass listen_dsn")
        else:
            connection = await run.pool.acquire(timeout=DEADLINE)
        run.notifications, run.lost = connection, lost
        connection.add_termination_listener(end)
        await connection.add_listener(self._schema, receive)
        await self._execute(run, "SELECT pg_notify($1, $2)", self._schema, run.owner)
        try:
            async with asyncio.timeout(DEADLINE / 2):
                await arrived.wait()
        except TimeoutError:
            raise StoreError(
                "PostgreSQL: no notification arrived. PgBouncer in transaction mode does not pass notifications on: "
                "give PostgresStore the DSN of a direct connection as listen_dsn"
            ) from None
        # Notifications before the subscription are lost.
        self._notify(None)

    def _unsubscribe(self, run: _Run) -> None:
        connection, run.notifications = run.notifications, None
        if connection is not None:
            # A pool of the caller takes a lost connection back by itself.
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()

    async def _watch(self, run: _Run) -> None:
        """Test the notification connection now and then, and replace it after each loss."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    await run.lost.wait()
            with contextlib.suppress(StoreError):
                # A primary that was demoted keeps its connections.
                in_recovery = "SELECT pg_is_in_recovery()"
                if not run.lost.is_set() and not await self._within(run, run.notifications.fetchval(in_recovery)):
                    continue
            _log.warning("no notifications from PostgreSQL for now: the connection was lost")
            self._unsubscribe(run)
            run.groups.clear()
            self._notify(None)
            pause = 0.05
            while run.notifications is None:
                try:
                    await self._within(run, self._subscribe(run))
                except StoreError as error:
                    _log.debug("still without notifications: %s", error)
                    self._unsubscribe(run)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, MAX_PAUSE)
            _log.info("notifications from PostgreSQL are back")

    # Tasks

    def _begin(self, run: _Run, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = run.loop.create_task(work)
        run.tasks.add(task)
        task.add_done_callback(run.tasks.discard)
        # asyncio reports errors that no caller retrieved.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _within(self, run: _Run, work: Coroutine[Any, Any, T]) -> T:
        """Await work at most DEADLINE, whatever it waits for: asyncpg's own cancellation waits for the server."""
        task = self._begin(run, work)
        try:
            return await self._wait(task)
        finally:
            task.cancel()

    async def _wait(self, task: asyncio.Future[T]) -> T:
        await asyncio.wait((task,), timeout=DEADLINE)
        if not task.done():
            task.cancel()
            raise StoreError(f"PostgreSQL: no response within {DEADLINE:g} s")
        if task.cancelled():
            raise StoreError("the store is closed")
        try:
            return task.result()
        except _ERRORS as error:
            raise StoreError(f"PostgreSQL: {_describe(error)}") from None

    async def _end(self, run: _Run, timeout: float) -> None:
        """End everything; statements under way have ``timeout`` seconds."""
        for item in run.waiting:
            if not item.reply.done():
                item.reply.set_exception(StoreError("the store is closed"))
        run.waiting.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while statements := run.tasks - {run.watcher}:
                    await asyncio.wait(statements)
        for task in run.tasks:
            task.cancel()
        if run.tasks:
            await asyncio.wait(run.tasks, timeout=0.2)
        self._unsubscribe(run)
        if self._dsn is not None and run.pool is not None:
            try:
                async with asyncio.timeout(0.2):
                    await run.pool.close()
            except _ERRORS:
                run.pool.terminate()
        # A terminated connection closes its socket in the next turn of the loop.
        await asyncio.sleep(0)


def _take_batch(waiting: deque[_Append]) -> list[_Append]:
    batch: list[_Append] = []
    size = 0
    while waiting and len(batch) < MAX_BATCH:
        size += len(waiting[0].entry.body)
        if batch and size > MAX_BATCH_BYTES:
            break
        item = waiting.popleft()
        if not item.reply.done():  # its caller was cancelled, or did not wait longer
            batch.append(item)
    return batch


def _split_payload(topics: Iterable[str]) -> list[str]:
    """Return the topics of some entries, each ``"a","b"``, as few JSON arrays; JSON null if that is not possible."""
    payloads: list[str] = []
    current = ""
    for each in filter(None, topics):
        joined = f"{current},{each}" if current else each
        if current and len(joined) > MAX_PAYLOAD:
            payloads.append(f"[{current}]")
            joined = each
        current = joined
    payloads.append(f"[{current}]")
    return payloads if max(map(len, payloads)) <= MAX_PAYLOAD + 2 else ["null"]


def _qualify(statement: str, schema: str) -> str:
    return statement.replace("avaturn.", f'"{schema}".')


def _validate_schema(schema: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
        raise ValueError("schema must be 1 to 63 letters, digits and underscores, and not begin with a digit")
    return schema


def _validate_dsn(dsn: str, name: str) -> None:
    try:
        parts = urlsplit(dsn)
        # It can name several hosts.
        ports = [urlsplit(f"//{host}").port for host in parts.netloc.rpartition("@")[2].split(",")]
        valid = parts.scheme in {"postgres", "postgresql"} and 0 not in ports
        # A password that is not percent-encoded can end the host too early. asyncpg quotes what it cannot parse.
        valid = valid and "@" not in parts.path + parts.query + parts.fragment
        if parts.query:
            parse_qs(parts.query, strict_parsing=True)
    except (ValueError, AttributeError):
        valid = False
    if not valid:
        # The text of the original error can contain a part of the password.
        raise ValueError(
            f"{name} is not a URL of PostgreSQL, such as postgresql://user:password@host:5432/database "
            "(percent-encode the password, and @ everywhere else)"
        ) from None


async def _keep_session(_connection: Any) -> None:
    pass


def _describe(error: BaseException) -> str:
    """Return the error for the caller, without DETAIL, which can contain data."""
    if isinstance(error, TimeoutError):
        # asyncpg's own, whose timer can end before that of the caller.
        return f"no response within {DEADLINE:g} s"
    if isinstance(error, asyncpg.DataError):
        # Its text contains an argument of the statement.
        return type(error).__name__
    state = getattr(error, "sqlstate", None)
    text = str(error) if isinstance(error, OSError) else str(*error.args[:1])
    reason = " ".join(text.split())[:200]
    return f"{type(error).__name__}{f' ({state})' if state else ''}: {reason}"


def _decode(row: Any) -> Entry:
    return Entry(position=row[0], topics=tuple(json.loads(row[1])), body=row[2], at=row[3])


def _digest(text: str) -> bytes:
    """Return what an index holds for a topic, key or group."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
