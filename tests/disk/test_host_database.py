"""A database that is begun anew, but not for ever, or done without: never waited for long, and asked again when it was full."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from pathlib import Path

import pytest

from kacas.disk.host_database import HostDatabase, UnavailableError

SCHEMA = "CREATE TABLE rows (row BLOB)"


def put(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO rows VALUES (zeroblob(100000))")


def put_while_full(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count = 1")  # for this connection; it counts as a full disk
    put(connection)


def rows(connection: sqlite3.Connection) -> int:
    return len(connection.execute("SELECT 1 FROM rows").fetchall())


def test_a_dispensable_one_that_is_full_is_done_without_this_time_and_keeps_what_it_has(tmp_path: Path) -> None:
    database = HostDatabase(tmp_path / "place", 1, SCHEMA, dispensable="all is read")
    database.write(put)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            with pytest.raises(UnavailableError):
                database.write(put_while_full)
    database.write(put)
    assert database.read(rows) == 2
    database.close()


def test_for_another_one_that_is_full_memory_stands_in(tmp_path: Path) -> None:
    database = HostDatabase(tmp_path / "place", 1, SCHEMA)
    full = [True]

    def work(connection: sqlite3.Connection) -> int:
        put_while_full(connection) if full.pop() else put(connection)
        return rows(connection)

    full[:] = [False, True]
    with pytest.warns(RuntimeWarning, match="one in memory stands in"):
        assert database.write(work) == 1
    database.close()


def test_only_the_dispensable_waits_for_others_no_longer_than_it_saves(tmp_path: Path) -> None:
    for dispensable, least_ms, most_ms in (("all is read", 1, 500), ("", 10_000, 60_000)):
        database = HostDatabase(tmp_path / f"place{least_ms}", 1, SCHEMA, dispensable=dispensable)
        (waits_ms,) = database.read(lambda connection: connection.execute("PRAGMA busy_timeout").fetchone())
        assert least_ms <= waits_ms <= most_ms
        database.close()


def test_the_dispensable_does_not_wait_for_a_thread_that_is_at_another(tmp_path: Path) -> None:
    """That one may wait half a minute for a process."""
    other = HostDatabase(tmp_path / "other", 1, SCHEMA)
    database = HostDatabase(tmp_path / "place", 1, SCHEMA, dispensable="all is read")
    begun, done = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection) -> None:
        begun.set()
        done.wait(60)

    threads = [threading.Thread(target=other.write, args=(work,)), threading.Thread(target=database.write, args=(put,))]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    threads[1].join(20)
    waits = threads[1].is_alive()
    done.set()
    for thread in threads:
        thread.join()
    assert not waits
    assert database.read(rows) == 1
    database.close()
    other.close()


def damage(database: HostDatabase, place: Path) -> None:
    """Before it is opened the next time, as after a fork."""
    database.close()
    (place / "rows.sqlite").write_bytes(b"no database" * 1000)


def test_it_is_begun_anew_however_often_it_is_found_damaged_now_and_then(tmp_path: Path) -> None:
    place = tmp_path / "place"
    database = HostDatabase(place, 1, SCHEMA, forgiven_s=0)
    other = HostDatabase(place, 1, SCHEMA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            database.write(put)
            database.write(put)
            assert other.read(rows) == 2
            other.close()
            damage(database, place)
    database.close()


def test_it_is_given_up_when_it_is_found_damaged_again_and_again(tmp_path: Path) -> None:
    place = tmp_path / "place"
    database = HostDatabase(place, 1, SCHEMA)
    for _ in range(4):
        database.write(put)
        damage(database, place)
    with pytest.warns(RuntimeWarning, match="one in memory stands in"):
        database.write(put)
    database.write(put)
    assert database.read(rows) == 2
    database.close()
