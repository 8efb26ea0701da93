"""SQLiteStore: the event log in a file, for the processes of one host.

One thread has one connection. It takes all calls that wait, runs those that only read in one transaction, and then
those that write in another one, so that concurrent appends share a commit. In between it looks for the commits of
other processes.

Tables:

==============  ==================================================================================================
``totals``      one row: number and bytes of the stored events, number of records, number of returned deliveries
``entries``     the entries; AUTOINCREMENT never reuses a position
``topics``      which positions a topic has
``keys``        until when an entry with a key is a duplicate
``groups``      consumer groups, and when each was last used
``deliveries``  for each group, the events that it did not acknowledge; ``leased_until`` is 0 if it can claim them
==============  ==================================================================================================

Topics, keys and groups are stored as JSON escapes them, since SQLite takes no text with lone surrogates.

Sources: https://www.sqlite.org/wal.html, https://www.sqlite.org/howtocorrupt.html, https://www.sqlite.org/pragma.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from attrs import define, field

from avaturn_async._validation import validate_positive
from avaturn_async.errors import StoreError, StoreFullError
from avaturn_async.webhooks.stores.base import Claimed, Entry, Failed, NewEntry, StoreBase

__all__ = ["SQLiteStore"]

T = TypeVar("T")

PATIENCE = 1.5
"""Seconds for which the thread tries again while another process has the file locked."""
DEADLINE = 2.2
"""Seconds that one call may take, also with a disk that hangs: a webhook is answered within 2.5 s."""
POLL_INTERVAL = 0.04
"""Seconds between looks for commits of other processes."""
MAX_BATCH = 500
"""Calls in one transaction, at most."""
MAX_TOPICS = 1000
"""Entries whose topics one notification names, at most; with more, listeners are called with None."""
PURGE_INTERVAL = 1.0
"""Seconds between two transactions that delete expired entries by the way."""
PURGE_PER_INTERVAL = 100
"""Expired entries that such a transaction deletes, at most: no caller waits for a long clean-up."""

_APPLICATION_ID = 0x41567472  # "AVtr"
_VERSION = 3  # 1 and 2 were never released

_TABLES = (
    "CREATE TABLE totals (events INTEGER, bytes INTEGER, records INTEGER, returned INTEGER)",
    "INSERT INTO totals VALUES (0, 0, 0, 0)",
    """CREATE TABLE entries (
        position INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, expires_at REAL NOT NULL,
        dispatch INTEGER NOT NULL, topics TEXT NOT NULL, body BLOB NOT NULL)""",
    "CREATE INDEX entries_expires_at ON entries (expires_at)",
    "CREATE TABLE topics (name TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (name, position)) WITHOUT ROWID",
    "CREATE TABLE keys (key TEXT PRIMARY KEY, unique_until REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX keys_unique_until ON keys (unique_until)",
    "CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, used_at REAL NOT NULL)",
    """CREATE TABLE deliveries (
        group_id INTEGER NOT NULL, position INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, owner TEXT,
        leased_until REAL NOT NULL DEFAULT 0, reason TEXT, PRIMARY KEY (group_id, position)) WITHOUT ROWID""",
    # Each index contains the position as well, so that claimable deliveries stand in their order.
    "CREATE INDEX deliveries_leased_until ON deliveries (group_id, leased_until) WHERE reason IS NULL",
    "CREATE INDEX deliveries_failed ON deliveries (group_id) WHERE reason IS NOT NULL",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)

# Owner of each connection in this process and its ancestors -> process id, device and inode of the file.
_open_files: dict[str, tuple[int, int, int]] = {}


@define(eq=False)
class _Job:
    """A call that waits for the thread, and the future of its caller."""

    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    writes: bool
    durable: bool
    """Whether its commit has to be on the disk, also after a power loss."""
    queued_at: float = field(factory=time.monotonic)
    result: Any = None
    error: BaseException | None = None


@define(eq=False)
class _Run:
    """All state of one running loop, from ``start()`` to ``close()``."""

    loop: asyncio.AbstractEventLoop
    ended: asyncio.Future[None]
    """Done when the thread has closed the file, and takes no more calls."""
    pid: int = field(factory=os.getpid)
    """A forked process must not use the connection of its parent."""
    owner: str = field(factory=lambda: uuid4().hex)
    """Identity in leases: new for each start."""
    jobs: SimpleQueue[_Job | None] = field(factory=SimpleQueue[_Job | None])
    """Calls that wait; None ends the thread."""
    taken: list[_Job | None] = field(factory=list[_Job | None])
    """Calls that the thread runs now."""
    returns: set[asyncio.Future[Any]] = field(factory=set[asyncio.Future[Any]])
    """Cancelled claims, and the calls that return their leases: ``close()`` waits for them."""
    claimable_at: dict[str, float] = field(factory=dict[str, float])
    """For groups that were claimed from: when a claim has anything to do, as far as the thread has seen."""
    log_path: Path = field(factory=Path)
    """The ``-wal``, which stands beside the file itself if the path of the store is a symlink; used by the thread."""
    files: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    """Device and inode of the file and of its log; used by the thread."""
    seen: int = 0
    """The highest position that listeners were notified of; used by the thread."""
    returned: int = 0
    """``totals.returned`` when listeners were last notified; used by the thread."""
    data_version: int = -1
    """SQLite's ``data_version`` at the last look, which other connections change; used by the thread."""
    purge_at: float = 0.0
    """When a transaction purges again, by ``time.monotonic()``; used by the thread."""


class SQLiteStore(StoreBase):
    """Store the log in one SQLite file: appended means on the disk (WAL, ``synchronous=FULL``).

    The processes of one host can share the file, which must be on a local disk (not NFS). It is created for its owner
    only (0600). Space of expired entries is used again; the file does not shrink. At a bound ``append`` raises
    StoreFullError: a live entry is never dropped to make room. What consumer groups did is in the file, but on the
    disk only with the next append: after a power loss, an event can be handled again.

    Start the store after a fork, in each process: the locks of SQLite do not survive a fork. A store that was started
    before refuses all calls in the child.

    No other program may remove or replace the file or its ``-wal``, or open it and let it go while the process reads
    the file by other means than SQLite. The store notices that before its next acknowledgement and raises StoreError.

    Args:
        path: The file, which holds nothing else.
        ttl: Lifetime of an event in seconds.
        max_events: Maximum number of live events.
        max_bytes: Maximum size of their bodies in bytes; the file becomes larger.
        lease: Seconds until a lease of a consumer group ends that is not renewed.
        clock: Returns seconds above zero, the same in each process; called in a thread.

    Raises:
        ValueError: A number is not above zero, a duration is not finite, or ``path`` does not name a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ttl: float = 259_200.0,
        max_events: int = 1_000_000,
        max_bytes: int = 1_073_741_824,
        lease: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(ttl=ttl, lease=lease)
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be the path of a file, not {type(path).__name__}")
        if os.fspath(path) in {"", ":memory:"}:
            raise ValueError("path must name a file; MemoryStore keeps the log in memory")
        if "://" in os.fspath(path):
            raise ValueError("path must be the path of a file, not a URL")
        validate_positive(max_events=max_events, max_bytes=max_bytes)
        self._path = Path(path).absolute()
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._clock = clock
        self._run: _Run | None = None

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    async def start(self) -> None:
        """Open the file, and create it unless it exists."""
        self._check_process()
        if self._enter_loop() and self._run is not None:
            # The earlier loop ended without close(): its thread closes the file.
            self._run.jobs.put(None)
            self._run = None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE
        try:
            # Another task may be opening it. If that task is cancelled, this one opens it.
            async with asyncio.timeout_at(deadline), self._start_lock:
                if self._run is not None:
                    return
                run = _Run(loop, loop.create_future())
                opened = self._submit(run, self._check_version, writes=False)
                # In the context of this call, also the listeners. A daemon: a program that forgot close() ends.
                serve = partial(copy_context().run, self._serve, run)
                threading.Thread(target=serve, name="SQLiteStore", daemon=True).start()
                try:
                    await asyncio.shield(opened)
                except BaseException:
                    run.jobs.put(None)
                    # If the disk hangs, the thread closes the file by itself, later.
                    await asyncio.wait((run.ended,), timeout=max(deadline - loop.time(), 0))
                    raise
                # close() may have unbound the store meanwhile.
                self._loop, self._run = run.loop, run
        except TimeoutError:
            raise StoreError(f"{self._path}: no response of the disk within {DEADLINE:g} s") from None

    async def close(self) -> None:
        """Run the calls that wait, and close the file; with a disk that hangs, that goes on in the background."""
        self._check_process()
        if self._is_in_new_loop():
            return
        async with self._start_lock:
            run = self._run
            if run is None:
                self._loop = None  # a start failed
                return
            deadline = run.loop.time() + DEADLINE
            try:
                while run.returns and run.loop.time() < deadline:
                    await asyncio.wait(run.returns, timeout=deadline - run.loop.time())
            finally:
                self._run = self._loop = None
                run.jobs.put(None)
            # If the disk hangs, the thread closes the file by itself, later.
            await asyncio.wait([run.ended], timeout=max(deadline - run.loop.time(), 0))

    # Calls. What runs in the thread is in the function of the same name with an underscore.

    async def append(self, entry: NewEntry) -> int:
        """Append an entry; return its position, or 0 for a duplicate."""
        run = self._running()
        self._check_entry(entry)
        return await self._wait(self._submit(run, self._append, entry, durable=True))

    async def contains(self, key: str) -> bool:
        """Return whether an entry with this key would be a duplicate now."""
        return await self._read(self._contains, key)

    async def read(self, topics: Mapping[str, int], *, limit: int = 100) -> Sequence[Entry]:
        """Return the live entries of ``topics`` behind the position of each topic, oldest first."""
        return await self._read(self._read_topics, dict(topics), limit)

    async def create_group(self, group: str) -> None:
        """Create a consumer group unless it exists."""
        await self._write(self._use_group, group)

    async def groups(self) -> Sequence[str]:
        """Return the names of the consumer groups in order."""
        return await self._read(self._list_groups)

    async def claim(self, group: str, *, limit: int) -> Sequence[Claimed]:
        """Lease at most ``limit`` entries, oldest first, and count an attempt for each.

        An entry of another process can be claimed as soon as listeners are notified of it.
        """
        run = self._running()
        # Each process claims after each notification, mostly in vain: that must cost nothing.
        if limit < 1 or self._clock() < run.claimable_at.setdefault(group, 0):
            return []
        future = self._submit(run, self._claim, run.owner, group, limit)
        try:
            return await self._wait(future)
        except BaseException:
            # Cancelled or late: the result can still come, and its leases are returned then.
            self._return_leases(run, group, future)
            raise

    async def renew(self, group: str, positions: Sequence[int], *, count: bool = False) -> None:
        """Extend leases of this store; with ``count``, count another attempt."""
        await self._write(self._renew, self._running().owner, group, positions, int(count))

    async def ack(self, group: str, positions: Sequence[int]) -> None:
        """Mark entries as handled by the group."""
        await self._write(self._ack, group, positions)

    async def nack(self, group: str, positions: Sequence[int]) -> None:
        """Return leased entries of this store to the group, and notify listeners with no topics."""
        await self._write(self._nack, self._running().owner, group, positions)

    async def fail(self, group: str, position: int, reason: str) -> None:
        """Mark an entry as failed in the group."""
        await self._write(self._fail, group, position, reason)

    async def failed(self, group: str, *, limit: int = 100) -> Sequence[Failed]:
        """Return failed live entries of the group, oldest first."""
        return await self._read(self._list_failed, group, limit)

    async def retry(self, group: str, positions: Sequence[int]) -> None:
        """Return failed entries to the group with no attempts counted, and notify listeners with no topics."""
        await self._write(self._retry, group, positions)

    async def purge_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` expired entries and keys, and return how many."""
        return await self._write(self._purge, limit)

    async def stats(self) -> Mapping[str, int]:
        """Return ``events`` and ``bytes`` of live events, and ``records`` of the router."""
        return await self._read(self._stats)

    # In the event loop.

    def _check_process(self) -> None:
        if self._run is not None and self._run.pid != os.getpid():
            raise StoreError("the store was started before a fork: start the store after the fork, in each process")

    def _running(self) -> _Run:
        self._check_process()
        run = self._run
        if self._is_in_new_loop() or run is None:
            raise StoreError("the store is not started, or closed: call start() first")
        if run.ended.done():
            raise StoreError(f"the thread of the store on {self._path} has ended: close the store, and start it again")
        return run

    async def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._wait(self._submit(self._running(), work, *arguments, writes=False))

    async def _write(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._wait(self._submit(self._running(), work, *arguments))

    def _submit(
        self, run: _Run, work: Callable[..., T], *arguments: Any, writes: bool = True, durable: bool = False
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = run.loop.create_future()
        future.add_done_callback(_retrieve)
        run.jobs.put(_Job(lambda db: work(db, *arguments), future, writes, durable))
        return future

    async def _wait(self, future: asyncio.Future[T]) -> T:
        # Not wait_for(), which would cancel the future: the leases of a late claim must be returned.
        await asyncio.wait((future,), timeout=DEADLINE)
        if not future.done():
            raise StoreError(f"{self._path}: no response of the disk within {DEADLINE:g} s")
        return future.result()

    def _return_leases(self, run: _Run, group: str, claim: asyncio.Future[list[Claimed]]) -> None:
        def give_back(_: object) -> None:
            run.returns.discard(claim)
            if claim.exception() is None and claim.result() and not run.ended.done():
                positions = [claimed.entry.position for claimed in claim.result()]
                nack = self._submit(run, self._nack, run.owner, group, positions)
                run.returns.add(nack)
                nack.add_done_callback(run.returns.discard)

        run.returns.add(claim)
        claim.add_done_callback(give_back)

    def _deliver(self, jobs: Sequence[_Job | None], notifications: Sequence[Iterable[str] | None]) -> None:
        """Notify the listeners, then give the outcomes to the callers."""
        for topics in notifications:
            self._notify(topics)
        for job in jobs:
            if job is None or job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(self._translate(job.error))

    def _end(self, run: _Run, error: BaseException | None) -> None:
        """Resolve all calls that the thread has left."""
        problem = error or StoreError(f"the store on {self._path} was closed")
        left = run.taken
        while not run.jobs.empty():
            left.append(run.jobs.get())
        for job in left:
            if job is not None:
                job.error = problem
        self._deliver(left, ())
        run.ended.set_result(None)

    # In the thread.

    def _serve(self, run: _Run) -> None:
        """Run the thread. Each exception, also an unexpected one, becomes the outcome of the calls that wait."""
        error: BaseException | None = None
        db: sqlite3.Connection | None = None
        try:
            # Only in a local variable: a forked process has no such frame, and never closes its parent's connection.
            db = self._open(run)
            _try_until(time.monotonic() + PATIENCE, self._prepare, run, db)
            self._work(run, db)
        except BaseException as caught:  # noqa: BLE001 - the callers receive it
            error = caught
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()
        _open_files.pop(run.owner, None)
        self._call(run, self._end, run, error)

    def _call(self, run: _Run, callback: Callable[..., object], *arguments: object) -> None:
        # The loop may have ended, with no caller left.
        with contextlib.suppress(RuntimeError):
            run.loop.call_soon_threadsafe(callback, *arguments)

    def _open(self, run: _Run) -> sqlite3.Connection:
        path = os.path.realpath(self._path)
        run.log_path = Path(f"{path}-wal")
        with contextlib.suppress(FileExistsError):
            # Bodies contain URLs that are credentials. (SQLite gives its other files the mode of this one.)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        # From here on the file is only looked at through SQLite and stat(): closing another descriptor of a file
        # drops the POSIX locks of the whole process on it.
        found = self._path.stat()
        for pid, *file in list(_open_files.values()):
            if pid != os.getpid() and file == [found.st_dev, found.st_ino]:
                # SQLite believes that this process has the locks of its parent.
                raise StoreError(
                    f"{self._path} was open when this process was forked: start the store after the fork, and only then"
                )
        _open_files[run.owner] = (run.pid, found.st_dev, found.st_ino)
        # Without a busy handler: under load its growing pauses starve one process (p99 of 1.5 s with 20 of them).
        return sqlite3.connect(path, timeout=0, isolation_level=None)

    def _prepare(self, run: _Run, db: sqlite3.Connection) -> None:
        # Nothing is written before it is certain that the file is ours.
        version = self._check_version(db)
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self._path}: SQLite cannot share a file in this place (journal mode {mode}, not wal)")
        db.execute("PRAGMA fullfsync = ON")  # on macOS fsync alone does not reach the disk
        db.execute("PRAGMA temp_store = MEMORY")  # the journal of a statement is not written to a file
        # 16 MB: a page that changes often is copied to the file once for that.
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        db.execute("PRAGMA journal_size_limit = 67108864")
        if version == 0:
            with db:
                db.execute("BEGIN IMMEDIATE")
                # Another process may have been faster.
                if self._check_version(db) == 0:
                    for statement in _TABLES:
                        db.execute(statement)
        self._look(run, db)
        self._check_files(run)

    def _check_version(self, db: sqlite3.Connection) -> int:
        """Return the version of the tables, or 0 for an empty file."""
        application, version, objects = db.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
            "FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if (application, version, objects) == (0, 0, 0):
            return 0
        if application != _APPLICATION_ID:
            raise StoreError(f"{self._path} is the database of another program: give the store a file of its own")
        if version < _VERSION:
            raise StoreError(
                f"{self._path} was written by an older, unreleased avaturn_async (version {version}, this release "
                f"reads {_VERSION}): remove it, or give the store another file"
            )
        if version > _VERSION:
            raise StoreError(
                f"{self._path} was written by a newer release of avaturn_async (version {version}, this release "
                f"reads {_VERSION}): update this process"
            )
        return int(version)

    def _check_files(self, run: _Run) -> None:
        """Check that the file and its log are those of the first look."""
        try:
            files = [(found.st_dev, found.st_ino) for found in (self._path.stat(), run.log_path.stat())]
        except OSError:
            files = []
        run.files = run.files or files
        if not files or files != run.files:
            # What is written to an unlinked file is lost.
            raise StoreError(
                f"{self._path} or its -wal was removed or replaced: stop all processes that use it, then start them"
            )

    def _work(self, run: _Run, db: sqlite3.Connection) -> None:
        """Run calls until ``close()``, and look for commits of other processes in between."""
        look_at = 0.0
        while None not in run.taken:
            run.taken = []
            with contextlib.suppress(Empty):
                run.taken.append(run.jobs.get(timeout=max(look_at - time.monotonic(), 0)))
                while len(run.taken) < MAX_BATCH:
                    run.taken.append(run.jobs.get_nowait())
            for writes in (False, True):
                jobs = [job for job in run.taken if job is not None and job.writes is writes]
                if jobs:
                    self._run_batch(run, db, jobs, writes=writes)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + POLL_INTERVAL
                with contextlib.suppress(sqlite3.Error):
                    notifications = self._look(run, db)
                    if notifications:
                        self._call(run, self._deliver, (), notifications)

    def _run_batch(self, run: _Run, db: sqlite3.Connection, jobs: list[_Job], *, writes: bool) -> None:
        """Run calls in one transaction, and deliver the outcomes."""
        notifications: list[Iterable[str] | None] = []
        try:
            # Calls that queued while earlier ones waited for a lock have waited for it as well.
            _try_until(jobs[0].queued_at + PATIENCE, self._transact, run, db, jobs, writes)
        except Exception as error:  # noqa: BLE001 - the callers receive it
            for job in jobs:
                job.error = error
        if writes:
            run.data_version = -1  # the commits of this connection do not change it
            # What was committed must be acknowledged, whatever goes wrong here: the next look repeats this one.
            with contextlib.suppress(sqlite3.Error):
                notifications = self._look(run, db)
        self._call(run, self._deliver, jobs, notifications)

    def _transact(self, run: _Run, db: sqlite3.Connection, jobs: list[_Job], writes: bool) -> None:  # noqa: FBT001
        if writes:
            # Each commit that is synchronized takes those before it to the disk.
            db.execute(f"PRAGMA synchronous = {'FULL' if any(job.durable for job in jobs) else 'NORMAL'}")
        with db:
            db.execute(f"BEGIN {'IMMEDIATE' if writes else 'DEFERRED'}")
            if db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
                self._check_version(db)
            if writes and time.monotonic() >= run.purge_at:
                run.purge_at = time.monotonic() + PURGE_INTERVAL
                self._purge(db, PURGE_PER_INTERVAL)
            for job in jobs:
                job.error = None
                db.execute("SAVEPOINT job")
                try:
                    job.result = job.work(db)
                except Exception as error:
                    # After some errors, such as a full disk, SQLite itself has ended the transaction.
                    if _is_locked(error) or not db.in_transaction:
                        raise
                    job.error = error
                    db.execute("ROLLBACK TO job")
                db.execute("RELEASE job")
            # Before the commit, so that nothing is written to a log that was removed; and behind it.
            self._check_files(run)
        if writes:
            self._check_files(run)

    def _look(self, run: _Run, db: sqlite3.Connection) -> list[Iterable[str] | None]:
        """Return what listeners have to be called with: entries and returned deliveries of all processes."""
        notifications: list[Iterable[str] | None] = []
        with db:
            db.execute("BEGIN")
            (data_version,) = db.execute("PRAGMA data_version").fetchone()
            if data_version == run.data_version:
                return []
            last, returned = db.execute(
                "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'entries'), 0), returned FROM totals"
            ).fetchone()
            if last > run.seen:
                select = "SELECT topics FROM entries WHERE position > ? LIMIT ?"
                rows = db.execute(select, (run.seen, MAX_TOPICS + 1)).fetchall()
                topics = {topic for (each,) in rows for topic in json.loads(each)}
                notifications.append(topics if len(rows) <= MAX_TOPICS else None)
            if returned != run.returned:
                notifications.append(())
            for group in tuple(run.claimable_at):
                # A group that does not exist or has vanished is created by a claim; one that is idle is used by it.
                row = db.execute(
                    "SELECT used_at + ?, (SELECT min(leased_until) FROM deliveries WHERE group_id = id "
                    "AND reason IS NULL) FROM groups WHERE name = ?",
                    (self.ttl_seconds, _text(group)),
                ).fetchone()
                run.claimable_at[group] = 0 if row is None else min(at for at in row if at is not None)
        run.seen, run.returned, run.data_version = last, returned, data_version
        return notifications

    def _translate(self, error: BaseException) -> BaseException:
        """Return the error for a caller: SQLite and the system name tables and files in theirs, but no values."""
        if isinstance(error, StoreError):
            return type(error)(*error.args)  # each caller receives its own
        if not isinstance(error, (sqlite3.Error, OSError)):
            if isinstance(error, Exception):
                return error
            return StoreError(f"the thread of the store on {self._path} has ended: {type(error).__name__}")
        code = _code(error)
        if code == sqlite3.SQLITE_FULL:
            return StoreFullError(f"no room for {self._path}: {error}")
        if _is_locked(error):
            problem = f"was locked by another process for {PATIENCE:g} s"
        elif code == sqlite3.SQLITE_NOTADB:
            problem = "is not an SQLite database: give the store a file of its own"
        elif isinstance(error, OSError):
            problem = f"cannot be opened: {error.strerror}"
        else:
            problem = f"cannot be used: {error}"
        return StoreError(f"{self._path} {problem}")

    # In the thread, inside a transaction: the rules of the log as statements.

    def _append(self, db: sqlite3.Connection, entry: NewEntry) -> int:
        now = self._clock()
        # A duplicate and an event that is refused write nothing, not even what is rolled back.
        if entry.key is not None and self._contains(db, entry.key):
            return 0
        if entry.dispatch:
            self._count_event(db, len(entry.body))
        else:
            db.execute("UPDATE totals SET records = records + 1")
        default_ttl = self.ttl_seconds if entry.dispatch else 2 * self.ttl_seconds
        expires_at = now + (default_ttl if entry.ttl is None else entry.ttl)
        cursor = db.execute(
            "INSERT INTO entries (at, expires_at, dispatch, topics, body) VALUES (?, ?, ?, ?, ?)",
            (now, expires_at, entry.dispatch, json.dumps(entry.topics), entry.body),
        )
        position = cursor.lastrowid or 0
        db.executemany(
            "INSERT INTO topics (name, position) VALUES (?, ?)",
            [(_text(topic), position) for topic in dict.fromkeys(entry.topics)],
        )
        if entry.key is not None:
            unique_until = expires_at if entry.unique_for is None else now + entry.unique_for
            db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (_text(entry.key), unique_until))
        if entry.dispatch:
            db.execute(
                "INSERT INTO deliveries (group_id, position) SELECT id, ? FROM groups WHERE used_at > ?",
                (position, self._vanished_at(now)),
            )
        return position

    def _count_event(self, db: sqlite3.Connection, size: int) -> None:
        """Count an event of ``size`` bytes, within the bounds."""
        update = (
            "UPDATE totals SET events = events + 1, bytes = bytes + :size "
            "WHERE events < :max_events AND bytes + :size <= :max_bytes"
        )
        # As floats: a larger bound than SQLite has integers for is no error.
        values = {"size": size, "max_events": float(self._max_events), "max_bytes": float(self._max_bytes)}
        while db.execute(update, values).rowcount == 0:
            if not self._purge(db, PURGE_PER_INTERVAL):
                events, stored = db.execute("SELECT events, bytes FROM totals").fetchone()
                raise StoreFullError(
                    f"the SQLiteStore is full: {events} events, {stored} bytes "
                    f"(max_events={self._max_events}, max_bytes={self._max_bytes})"
                )

    def _contains(self, db: sqlite3.Connection, key: str) -> bool:
        select = "SELECT 1 FROM keys WHERE key = ? AND unique_until > ?"
        return db.execute(select, (_text(key), self._clock())).fetchone() is not None

    def _read_topics(self, db: sqlite3.Connection, topics: Mapping[str, int], limit: int) -> list[Entry]:
        now, found = self._clock(), dict[int, Entry]()
        for topic, after in topics.items():
            rows = db.execute(
                "SELECT entries.position, topics, body, at FROM topics JOIN entries USING (position) "
                "WHERE name = ? AND topics.position > ? AND expires_at > ? ORDER BY topics.position LIMIT ?",
                (_text(topic), after, now, max(limit, 0)),
            )
            for row in rows:
                found.setdefault(row[0], _entry(row))
        return [found[position] for position in sorted(found)[: max(limit, 0)]]

    def _vanished_at(self, now: float) -> float:
        """Return when a group was last used that vanishes now. Uses are stored to one TTL."""
        return now - 3 * self.ttl_seconds

    def _list_groups(self, db: sqlite3.Connection) -> list[str]:
        rows = db.execute("SELECT name FROM groups WHERE used_at > ?", (self._vanished_at(self._clock()),))
        return sorted(json.loads(f'"{name}"') for (name,) in rows)

    def _use_group(self, db: sqlite3.Connection, name: str) -> int:
        """Return the id of a group; create it unless it exists and was used of late."""
        now = self._clock()
        row = db.execute("SELECT id, used_at FROM groups WHERE name = ?", (_text(name),)).fetchone()
        if row is not None and row[1] > self._vanished_at(now):
            if row[1] <= now - self.ttl_seconds:
                db.execute("UPDATE groups SET used_at = ? WHERE id = ?", (now, row[0]))
            return int(row[0])
        db.execute("DELETE FROM deliveries WHERE group_id = (SELECT id FROM groups WHERE name = ?)", (_text(name),))
        cursor = db.execute("INSERT OR REPLACE INTO groups (name, used_at) VALUES (?, ?)", (_text(name), now))
        group_id = cursor.lastrowid or 0
        db.execute(
            "INSERT INTO deliveries (group_id, position) SELECT ?, position FROM entries "
            "WHERE dispatch = 1 AND expires_at > ?",
            (group_id, now),
        )
        return group_id

    def _claim(self, db: sqlite3.Connection, owner: str, group: str, limit: int) -> list[Claimed]:
        group_id, now = self._use_group(db, group), self._clock()
        db.execute(
            "UPDATE deliveries SET leased_until = 0 "
            "WHERE group_id = ? AND reason IS NULL AND leased_until > 0 AND leased_until <= ?",
            (group_id, now),
        )
        rows = db.execute(
            "SELECT entries.position, topics, body, at, attempts + 1 FROM deliveries JOIN entries USING (position) "
            "WHERE group_id = ? AND reason IS NULL AND leased_until = 0 AND expires_at > ? "
            "ORDER BY deliveries.position LIMIT ?",
            (group_id, now, limit),
        ).fetchall()
        db.executemany(
            "UPDATE deliveries SET attempts = attempts + 1, owner = ?, leased_until = ? "
            "WHERE group_id = ? AND position = ?",
            [(owner, now + self.lease_seconds, group_id, row[0]) for row in rows],
        )
        return [Claimed(_entry(row), row[4]) for row in rows]

    def _renew(self, db: sqlite3.Connection, owner: str, group: str, positions: Sequence[int], count: int) -> None:
        group_id, leased_until = self._use_group(db, group), self._clock() + self.lease_seconds
        db.executemany(
            "UPDATE deliveries SET leased_until = ?, attempts = attempts + ? "
            "WHERE group_id = ? AND position = ? AND owner = ?",
            [(leased_until, count, group_id, position, owner) for position in positions],
        )

    def _ack(self, db: sqlite3.Connection, group: str, positions: Sequence[int]) -> None:
        group_id = self._use_group(db, group)
        db.executemany(
            "DELETE FROM deliveries WHERE group_id = ? AND position = ?",
            [(group_id, position) for position in positions],
        )

    def _nack(self, db: sqlite3.Connection, owner: str, group: str, positions: Sequence[int]) -> None:
        group_id = self._use_group(db, group)
        cursor = db.executemany(
            "UPDATE deliveries SET owner = NULL, leased_until = 0 WHERE group_id = ? AND position = ? AND owner = ?",
            [(group_id, position, owner) for position in positions],
        )
        self._count_returned(cursor)

    def _fail(self, db: sqlite3.Connection, group: str, position: int, reason: str) -> None:
        db.execute(
            "INSERT INTO deliveries (group_id, position, reason) SELECT ?, position, ? FROM entries "
            "WHERE position = ? AND dispatch = 1 AND expires_at > ? "
            "ON CONFLICT DO UPDATE SET owner = NULL, leased_until = 0, reason = excluded.reason",
            (self._use_group(db, group), _text(reason), position, self._clock()),
        )

    def _list_failed(self, db: sqlite3.Connection, group: str, limit: int) -> list[Failed]:
        rows = db.execute(
            "SELECT entries.position, topics, body, at, attempts, reason FROM deliveries JOIN entries USING (position) "
            "WHERE group_id = (SELECT id FROM groups WHERE name = ?) AND reason IS NOT NULL AND expires_at > ? "
            "ORDER BY deliveries.position LIMIT ?",
            (_text(group), self._clock(), max(limit, 0)),
        )
        return [Failed(_entry(row), row[4], json.loads(f'"{row[5]}"')) for row in rows]

    def _retry(self, db: sqlite3.Connection, group: str, positions: Sequence[int]) -> None:
        group_id = self._use_group(db, group)
        cursor = db.executemany(
            "UPDATE deliveries SET attempts = 0, reason = NULL "
            "WHERE group_id = ? AND position = ? AND reason IS NOT NULL",
            [(group_id, position) for position in positions],
        )
        self._count_returned(cursor)

    def _count_returned(self, cursor: sqlite3.Cursor) -> None:
        """Let all processes notify their listeners if deliveries were returned."""
        if cursor.rowcount > 0:
            cursor.execute("UPDATE totals SET returned = returned + 1")

    def _purge(self, db: sqlite3.Connection, limit: int) -> int:
        now = self._clock()
        rows = db.execute(
            "SELECT position, topics, dispatch, length(body) FROM entries WHERE expires_at <= ? "
            "ORDER BY expires_at LIMIT ?",
            (now, limit),
        ).fetchall()
        for position, topics, _, _ in rows:
            db.executemany(
                "DELETE FROM topics WHERE name = ? AND position = ?",
                [(_text(topic), position) for topic in set(json.loads(topics))],
            )
            db.execute("DELETE FROM deliveries WHERE position = ? AND group_id IN (SELECT id FROM groups)", (position,))
            db.execute("DELETE FROM entries WHERE position = ?", (position,))
        if rows:
            sizes = [size for _, _, dispatch, size in rows if dispatch]
            db.execute(
                "UPDATE totals SET events = events - ?, bytes = bytes - ?, records = records - ?",
                (len(sizes), sum(sizes), len(rows) - len(sizes)),
            )
        keys = db.execute(
            "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE unique_until <= ? LIMIT ?)",
            (now, limit - len(rows)),
        ).rowcount
        return len(rows) + keys

    def _stats(self, db: sqlite3.Connection) -> Mapping[str, int]:
        # Few entries have expired and are not purged: counting those is cheaper than counting all live ones.
        events, size, records = db.execute(
            "SELECT events - count(*) FILTER (WHERE dispatch = 1), "
            "bytes - coalesce(sum(length(body)) FILTER (WHERE dispatch = 1), 0), "
            "records - count(*) FILTER (WHERE dispatch = 0) FROM totals LEFT JOIN entries ON expires_at <= ?",
            (self._clock(),),
        ).fetchone()
        return {"events": events, "bytes": size, "records": records}


def _try_until(deadline: float, work: Callable[..., object], *arguments: object) -> None:
    """Run ``work`` again while another process has the file locked."""
    while True:
        try:
            work(*arguments)
        except sqlite3.Error as error:
            if not _is_locked(error) or time.monotonic() >= deadline:
                raise
        else:
            return
        # Random, so that processes that wait for each other do not try at the same times.
        time.sleep(random.uniform(0.002, 0.008))  # noqa: S311 - not for secrets


def _code(error: BaseException) -> int:
    # Errors that the sqlite3 module raises by itself have no code; the upper bytes contain details.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_locked(error: BaseException) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def _retrieve(future: asyncio.Future[Any]) -> None:
    future.exception()  # asyncio reports errors that no caller retrieved


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(position=row[0], topics=tuple(json.loads(row[1])), body=row[2], at=row[3])


def _text(text: str) -> str:
    """Return ``text`` in ASCII; most names stay as they are."""
    return json.dumps(text)[1:-1]
