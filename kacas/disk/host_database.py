"""A disposable SQLite database on this host: a cache that many processes share, begun anew when it is damaged.

It is a directory, so that it can be put aside in one step with its journal. Where it cannot be used at all, one in memory
stands in, with a warning: what asks gets right answers, more slowly. Or, for whom that would be no help, it says so.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kacas.disk.durable import make_directory

_BUSY_S = 30.0  # a writer's longest transaction is far shorter
_BUSY_OF_THE_DISPENSABLE_S = 0.25  # what is done without must not cost more than doing without
_MAX_RENEWALS = 3
_FORGIVEN_S = 3600.0  # a process may live for months, and others put the database aside now and then
# A flipped bit of the head may say "read-only", or another version than ours.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY)

_OF_THE_MOMENT = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)

T = TypeVar("T")


class UnavailableError(Exception):
    """The database cannot be used, now or at all, and is done without."""


class HostDatabase:
    """Thread-safe, safe across forks. Any number of processes may use one place."""

    def __init__(
        self,
        place: Path,
        version: int,
        schema: str,
        *,
        name: str = "rows.sqlite",
        dispensable: str = "",
        forgiven_s: float = _FORGIVEN_S,
    ) -> None:
        """schema: statements that make the tables. version: of the schema; a database of another one is begun anew.
        forgiven_s: who begins it anew more often than three times within so many seconds gives it up.

        dispensable: what doing without it means, for the warning. Then nothing in memory stands in: all that it is asked
        raises UnavailableError while others are busy with it, or if it cannot be used.
        """
        self._place = place
        self._name = name
        self._version = version
        self._schema = schema
        self._dispensable = dispensable
        self._connection: sqlite3.Connection | None = None
        self._forgiven_s = forgiven_s
        self._renewals: deque[float] = deque(maxlen=_MAX_RENEWALS)  # when, on the monotonic clock
        self._unusable = False
        self._lock = _lock_of_the_dispensable if dispensable else _lock
        with self._lock:
            _objects.add(self)

    def __del__(self) -> None:
        self._disconnect()

    def close(self) -> None:
        """Release what is open. It may be used again."""
        with self._lock:
            self._disconnect()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, in one state of the database. It is called again if the database had to be begun anew."""
        return self._attempt(work, "BEGIN")

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `read`, for work that changes it: all of it or nothing."""
        return self._attempt(work, "BEGIN IMMEDIATE")

    @staticmethod
    def birth(connection: sqlite3.Connection) -> bytes:
        """What tells this database from one that was begun before, or will be."""
        (found,) = connection.execute("SELECT id FROM birth").fetchone()
        return bytes(found)

    def _attempt(self, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        with self._lock:
            while True:
                if self._unusable and self._dispensable:
                    raise UnavailableError
                try:
                    connection = self._connected()
                    with connection:  # commits, or rolls back on an error
                        connection.execute(begin)
                        return work(connection)
                except (sqlite3.Error, UnicodeError, OSError) as exc:  # SQLite's words may quote a damaged byte
                    if self._unusable:
                        raise  # the one in memory fails
                    self._recover(exc)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if self._unusable:
            where: Path | str = ":memory:"
        else:
            make_directory(self._place, 0o700, sync=False, parents_mode=0o700)
            where = self._place / self._name
        busy_s = _BUSY_OF_THE_DISPENSABLE_S if self._dispensable else _BUSY_S
        connection = self._connection = sqlite3.connect(
            where, timeout=busy_s, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -16384")  # KiB
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA user_version").fetchone() == (0,):  # nobody else did meanwhile
                    for statement in (*self._schema.split(";"), "CREATE TABLE birth (id BLOB NOT NULL)"):
                        connection.execute(statement)
                    connection.execute("INSERT INTO birth VALUES (?)", (secrets.token_bytes(16),))
                    connection.execute(f"PRAGMA user_version = {self._version}")
        elif version != self._version:
            raise sqlite3.DatabaseError(f"it has version {version}")
        return connection

    def _recover(self, exc: sqlite3.Error | UnicodeError | OSError) -> None:
        """The connection is made anew, of a damaged database to a new one."""
        self._disconnect()
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if self._dispensable and code & 0xFF in _OF_THE_MOMENT:
            raise UnavailableError from exc  # this time
        if not isinstance(exc, OSError) and self._may_renew():
            if code == sqlite3.SQLITE_READONLY_DBMOVED:  # another process put it aside
                return
            if code & 0xFF in _DAMAGED:
                self._put_aside()
                return
        self._unusable = True
        warnings.warn(
            f"the cache in {self._place} cannot be used ({exc}); {self._dispensable or 'one in memory stands in'}. "
            "Set KACAS_CACHE_DIR to a local disk with room",
            RuntimeWarning,
            stacklevel=4,
        )

    def _may_renew(self) -> bool:
        now = time.monotonic()
        if len(self._renewals) == _MAX_RENEWALS and now - self._renewals[0] < self._forgiven_s:
            return False
        self._renewals.append(now)
        return True

    def _put_aside(self) -> None:
        aside = self._place.with_name(f"{self._place.name}.damaged.{os.getpid()}.{time.time_ns()}")
        try:
            os.rename(self._place, aside)
        except OSError:
            return  # another process did, or nothing can be done: it is tried again a few times
        shutil.rmtree(aside, ignore_errors=True)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # it was a cache


# SQLite must not be used across a fork, not even closed: so there is no connection while one happens. A lock for all
# keeps a thread from opening one meanwhile, and a child from inheriting a lock that nobody will release. What is dispensable
# has another one: it must not wait until whoever waits for the others' databases has them.
_lock = threading.RLock()
_lock_of_the_dispensable = threading.RLock()
_objects: weakref.WeakSet[HostDatabase] = weakref.WeakSet()


def _before_fork() -> None:
    _lock.acquire()
    _lock_of_the_dispensable.acquire()
    for database in _objects:
        database._disconnect()


def _after_fork() -> None:
    _lock_of_the_dispensable.release()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
