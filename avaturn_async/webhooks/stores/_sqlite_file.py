"""The file of a SQLiteStore: its tables and their version, and how it is opened.

What is relied on: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TypeVar

from avaturn_async.errors import StoreError, StoreFullError

T = TypeVar("T")

PATIENCE = 1.5
"""Seconds to wait for others who have the file locked; a webhook is to be answered within 2.5."""

# SQLite waits longer and longer between its looks at a lock. With a short patience of its own, and us
# asking again, a process finds its turn among others who write without pause.
_BUSY_TIMEOUT = 0.02
_BREATH = 0.005

_APPLICATION_ID = 0x41567472  # "AVtr"

# A step, once released, is never changed: a later release appends its own. PRAGMA user_version says how many
# of them a file has been through.
#
# counters.number   the last position or cursor given out: one row of numbers for both
# *.mark            what key, topic or subject is found by, in an index a fifth as large: see mark_of()
# events.rank       the place in its subjects of the one that led to its session: -1 if it named that itself
# appearances.rank  the place of the topic among the subjects of the event; behind all of them for a session
# appearances       (cursor = position) is the arrival, another cursor a late binding
# claims.holder     NULL when it was handed back
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE counters (number INTEGER NOT NULL, events INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        "INSERT INTO counters VALUES (0, 0, 0)",
        """CREATE TABLE events (
            position INTEGER PRIMARY KEY, expires REAL NOT NULL, mark INTEGER NOT NULL, key TEXT NOT NULL,
            session_id TEXT, rank INTEGER NOT NULL, body BLOB NOT NULL)""",
        "CREATE INDEX events_key ON events (mark)",
        "CREATE INDEX events_expires ON events (expires)",
        """CREATE TABLE appearances (
            cursor INTEGER NOT NULL, rank INTEGER NOT NULL, mark INTEGER NOT NULL, topic TEXT NOT NULL,
            position INTEGER NOT NULL, PRIMARY KEY (cursor, rank)) WITHOUT ROWID""",
        "CREATE INDEX appearances_topic ON appearances (mark, cursor)",
        "CREATE INDEX appearances_late ON appearances (position) WHERE cursor <> position",
        """CREATE TABLE sessions (
            id TEXT PRIMARY KEY, expires REAL NOT NULL, user_id TEXT NOT NULL, context TEXT NOT NULL)""",
        "CREATE INDEX sessions_expires ON sessions (expires)",
        """CREATE TABLE bindings (
            expires REAL NOT NULL, mark INTEGER NOT NULL, subject TEXT NOT NULL, session_id TEXT NOT NULL)""",
        "CREATE INDEX bindings_subject ON bindings (mark)",
        "CREATE INDEX bindings_expires ON bindings (expires)",
        "CREATE TABLE groups (name TEXT PRIMARY KEY, behind INTEGER NOT NULL)",
        """CREATE TABLE claims (
            position INTEGER NOT NULL, name TEXT NOT NULL, holder TEXT, until REAL NOT NULL,
            PRIMARY KEY (position, name)) WITHOUT ROWID""",
        "CREATE INDEX claims_until ON claims (name, until)",
        "CREATE TABLE processes (token BLOB PRIMARY KEY, port INTEGER NOT NULL, until REAL NOT NULL)",
    ),
)


def open_file(path: Path, *, migrations: Sequence[Sequence[str]] = _MIGRATIONS) -> sqlite3.Connection:
    """Open the file, made or brought up to date if need be; the connection commits each statement.

    Raises:
        StoreError: The file is something else, or newer than this release, or it cannot be opened.
    """
    made = not path.exists()
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None)
    except sqlite3.Error as error:
        raise as_told(error, path) from error
    try:
        if made:
            # The bodies hold URLs that are credentials. (SQLite gives its side files the same mode.)
            path.chmod(0o600)
        patiently(lambda: _prepare(connection, path, migrations), time.monotonic() + PATIENCE)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise as_told(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Generator[None, None, None]:
    """All of what is done inside, or nothing; ``kind`` as SQLite's BEGIN takes it."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite ends it by itself after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """See that no newer release has taken the file over since it was opened.

    Raises:
        StoreError: One has.
    """
    _version(connection, path, len(_MIGRATIONS))


def patiently(step: Callable[[], T], deadline: float) -> T:
    """Do a step that may find the file locked, again and again until ``time.monotonic()`` says so."""
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_BREATH)


def is_locked(error: Exception) -> bool:
    """Whether somebody else has the file locked."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def as_told(error: Exception, path: Path) -> Exception:
    """What the caller is told. SQLite names tables and columns in its errors, but no values."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)  # several may wait for the same one
    if isinstance(error, UnicodeError):
        return StoreError("a text with lone surrogates cannot be kept")
    if not isinstance(error, (sqlite3.Error, OSError)):
        return error
    if _code(error) == sqlite3.SQLITE_FULL:
        return StoreFullError(f"no room for {path}: {error}")
    if is_locked(error):
        problem = f"was locked by another process for {PATIENCE:g} s"
    elif _code(error) == sqlite3.SQLITE_NOTADB:
        problem = "is no SQLite database: give the store a file of its own"
    else:
        problem = f"cannot be used: {error}"
    return StoreError(f"{path} {problem}")


def _code(error: Exception) -> int:
    # Errors that the module raises by itself have no code; the upper bytes of a code tell details.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _prepare(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]) -> None:
    # Nothing is written, nor locked, before it is certain that the file is ours.
    with transaction(connection, "DEFERRED"):
        version = _version(connection, path, len(migrations))
    if version < len(migrations):
        with transaction(connection):
            # Another process may have been faster.
            version = _version(connection, path, len(migrations))
            for statement in chain.from_iterable(migrations[version:]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path}: SQLite cannot share a file in this place (journal mode {mode}, not wal)")
    # What a statement would need to take itself back; in a file it is as many writes again.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # on macOS fsync alone does not reach the disk
    # 16 MB: a page that is written again and again is brought into the file once for that.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA journal_size_limit = 67108864")


def _version(connection: sqlite3.Connection, path: Path, known: int) -> int:
    """How many steps the file has been through: none if it is empty."""
    application, version, objects = connection.execute(
        """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
        FROM pragma_application_id, pragma_user_version"""
    ).fetchone()
    if (application, version, objects) == (0, 0, 0):
        return 0
    if application != _APPLICATION_ID:
        raise StoreError(f"{path} is a database of something else: give the store a file of its own")
    if version > known:
        raise StoreError(
            f"{path} was written by a newer release of avaturn_async "
            f"(its version is {version}, this release knows {known}): update this process"
        )
    return int(version)
