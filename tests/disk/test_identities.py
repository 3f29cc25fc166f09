"""The identity cache: it answers for the very state it was told of, says nothing rather than something altered."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas.disk import identities as module
from kacas.disk.identities import FileState, Identities, Identity, sync_file_system, sync_source
from tests.faults import children

NOW = 1_800_000_000_000_000_000
SECOND = 1_000_000_000
TMPFS = Path("/dev/shm")


@pytest.fixture
def identities(tmp_path: Path) -> Iterator[Identities]:
    opened = Identities(tmp_path)
    yield opened
    opened.close()


def state(i: int, **fields: int) -> FileState:
    return FileState(64768, 1000 + i, 10 * i, NOW - 60 * SECOND - i, NOW - 50 * SECOND - i)._replace(**fields)


def identity(i: int) -> Identity:
    chance = random.Random(i)
    return Identity(chance.randbytes(20), chance.randbytes(32), 10 * i)


def known(count: int, first: int = 0) -> dict[FileState, Identity]:
    return {state(i): identity(i) for i in range(first, first + count)}


def test_what_was_remembered_is_told_and_the_rest_left_out(identities: Identities) -> None:
    identities.put_many(known(3000), NOW)
    assert identities.get_many([state(i) for i in range(2990, 3010)]) == known(10, 2990)
    assert identities.get_many(known(3000)) == known(3000)
    assert identities.get_many([]) == {}


def test_it_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        opened = Identities(tmp_path)
        opened.put_many(known(1, first=5), NOW)
        opened.close()
        again = Identities(tmp_path)
        assert again.get_many([state(5)]) == known(1, first=5)
        again.close()


@pytest.mark.parametrize("field", FileState._fields)
def test_a_file_in_any_other_state_is_not_known(identities: Identities, field: str) -> None:
    identities.put_many(known(1, first=5), NOW)
    other = state(5)._replace(**{field: getattr(state(5), field) + 1})
    assert identities.get_many([other]) == {}


def test_a_file_has_one_identity_the_last(identities: Identities) -> None:
    identities.put_many(known(1, first=5), NOW)
    identities.put_many({state(5): identity(6)._replace(size=50)}, NOW)
    assert identities.get_many([state(5)]) == {state(5): identity(6)._replace(size=50)}
    changed = state(5, mtime_ns=NOW - 40 * SECOND)
    identities.put_many({changed: identity(5)}, NOW)
    assert identities.get_many([state(5), changed]) in ({}, {changed: identity(5)})
    assert identities.get_many([state(5)]) == {}


numbers = st.integers(0, 2**63 - 1)
times = st.integers(-(2**70), 2**70) | st.integers(NOW - 3 * SECOND, NOW + SECOND)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), numbers, times, times, st.binary(min_size=52, max_size=52))
def test_any_state_is_remembered_if_it_can_be_trusted(
    identities: Identities, device: int, inode: int, size: int, mtime_ns: int, ctime_ns: int, hashes: bytes
) -> None:
    it = FileState(device, inode, size, mtime_ns, ctime_ns)
    what = Identity(hashes[:20], hashes[20:], size)
    identities.put_many({it: what}, NOW)
    trusted = min(mtime_ns, ctime_ns) >= 0 and max(mtime_ns, ctime_ns) <= NOW - 2 * SECOND
    assert identities.get_many([it]) == ({it: what} if trusted else {})


@pytest.mark.parametrize(
    "doubtful",
    [
        state(1, mtime_ns=NOW - 2 * SECOND + 1),
        state(1, ctime_ns=NOW - 2 * SECOND + 1),
        state(1, mtime_ns=NOW + 3600 * SECOND),
        state(1, ctime_ns=NOW + 3600 * SECOND),
        state(1, mtime_ns=-1),
        state(1, size=11),
    ],
)
def test_what_cannot_be_trusted_is_not_remembered_and_what_was_is_forgotten(
    identities: Identities, doubtful: FileState
) -> None:
    identities.put_many({doubtful: identity(1)._replace(size=doubtful.size)}, NOW + 7200 * SECOND)
    identities.put_many({doubtful: identity(1)}, NOW)
    assert identities.get_many([doubtful]) == {}


def test_nothing_is_remembered_of_a_file_that_could_not_be_synced(identities: Identities) -> None:
    identities.put_many(known(1), None)
    assert identities.get_many(known(1)) == {}


def test_the_oldest_are_dropped_but_not_those_that_are_asked_for(tmp_path: Path) -> None:
    identities = Identities(tmp_path, most=100)
    identities.put_many(known(50), NOW)
    for first in range(50, 1000, 20):
        identities.put_many(known(20, first), NOW)
        assert identities.get_many(known(5)) == known(5)
    (count,) = (
        sqlite3.connect(tmp_path / "identities" / "files.sqlite").execute("SELECT count(*) FROM files").fetchone()
    )
    assert count <= 100
    assert len(identities.get_many(known(1010))) == count
    assert identities.get_many(known(20, 990)) == known(20, 990)
    identities.close()


# --- the sync ---------------------------------------------------------------------------------


def test_a_dirty_mapped_page_changes_without_the_times_until_the_file_was_synced(tmp_path: Path) -> None:
    """What the cache counts on, of the kernel and the file system that it runs on here."""
    (tmp_path / "file").write_bytes(bytes(8192))
    with open(tmp_path / "file", "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:

        def times_change_when_written_to() -> bool:
            before = FileState.of(os.fstat(file.fileno()))
            time.sleep(0.02)  # longer than a tick of the kernel's clock
            mapped[0] = (mapped[0] + 1) % 256
            return FileState.of(os.fstat(file.fileno())) != before

        times_change_when_written_to()
        assert not times_change_when_written_to(), "else no sync would be needed"
        time.sleep(2)
        with open(tmp_path / "file", "rb") as source:
            if sync_source(source.fileno()) is None:
                pytest.skip("the file system does not tell of writes through mappings")
        assert times_change_when_written_to()
        assert not times_change_when_written_to()
        with open(tmp_path / "file", "rb") as source:
            assert sync_file_system(source.fileno()) is not None
        assert times_change_when_written_to()


def test_a_source_is_synced_and_its_position_is_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", b"content", None):
        with open(tmp_path / "file", "wb") as file:
            file.write(content) if content is not None else file.truncate(1 << 20)
        synced: list[int] = []
        with open(tmp_path / "file", "rb", buffering=0) as source:
            source.seek(3)
            assert sync_source(source.fileno()) is None, "it was written just now"
            monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: NOW * 2))
            monkeypatch.setattr(os, "fsync", synced.append)
            assert sync_source(source.fileno()) == NOW * 2
            assert synced == [source.fileno()]
            assert source.tell() == 3
        monkeypatch.undo()


def test_a_source_that_cannot_be_synced_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: NOW * 2))
    with open("/proc/self/status", "rb") as source:
        assert sync_source(source.fileno()) is None
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as source:

        def fail(fd: int) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(os, "fsync", fail)
        assert sync_source(source.fileno()) is None


def test_files_in_memory_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tmpfs a write through a mapping never sets the times, synced or not."""
    if not os.access(TMPFS, os.W_OK):
        pytest.skip("no tmpfs here")
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: NOW * 2))
    path = TMPFS / f"kacas-test-{os.getpid()}"
    try:
        path.write_bytes(b"content")
        with open(path, "rb") as source:
            assert sync_source(source.fileno()) is None
            assert sync_file_system(source.fileno()) is None
    finally:
        path.unlink()


def test_a_write_call_that_is_under_way_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets the times when it begins: what it writes later would not be told."""
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: NOW * 2))
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    size, marks = 256 << 20, (b"old", b"new")
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(marks[0] * (size // 3))
        for _ in range(20):
            data = marks[1] * (size // 3)
            started = threading.Event()

            def write(data: bytes = data, started: threading.Event = started) -> None:
                started.set()
                os.pwrite(file.fileno(), data, 0)

            writer = threading.Thread(target=write)
            before = FileState.of(os.fstat(file.fileno()))
            writer.start()
            while FileState.of(os.fstat(file.fileno())) == before and writer.is_alive():
                pass
            under_way = os.pread(file.fileno(), 3, len(data) - 3) == marks[0]
            assert sync_source(file.fileno()) is not None
            end = os.pread(file.fileno(), 3, len(data) - 3)
            writer.join()
            marks = (marks[1], marks[0])
            if under_way:
                assert end == marks[0]
                return
    pytest.skip("the write was too fast to be met")


# --- damage -----------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_never_a_wrong_identity(tmp_path: Path) -> None:
    whole = Identities(tmp_path)
    whole.put_many(known(60), NOW)
    whole.close()
    data = (tmp_path / "identities" / "files.sqlite").read_bytes()
    chance = random.Random(20261122)
    for position in [*range(100), *chance.sample(range(len(data)), 300)]:
        place = tmp_path / "copy" / "identities"
        place.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(place):
            (place / name).unlink()
        flipped = bytearray(data)
        flipped[position] ^= 1 << chance.randrange(8)
        (place / "files.sqlite").write_bytes(flipped)
        damaged = Identities(tmp_path / "copy")
        found = damaged.get_many(known(60))
        assert found.items() <= known(60).items()
        damaged.put_many(known(60), NOW)
        assert damaged.get_many(known(60)).items() <= known(60).items()
        damaged.close()


@pytest.mark.parametrize("content", [b"no database" * 1000, b"", b"SQLite format 3\0", None], ids=repr)
def test_a_cache_that_is_none_is_begun_anew(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "identities").mkdir()
    path = tmp_path / "identities" / "files.sqlite"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE files (something_else)")
        other.execute("PRAGMA user_version = 77")
        other.close()
    else:
        path.write_bytes(content)
    identities = Identities(tmp_path)
    assert identities.get_many(known(3)) == {}
    identities.put_many(known(3), NOW)
    assert identities.get_many(known(3)) == known(3)
    identities.close()
    assert os.listdir(tmp_path) == ["identities"]


def test_rows_of_another_kind_are_ignored(tmp_path: Path, identities: Identities) -> None:
    identities.put_many(known(5), NOW)
    other = sqlite3.connect(tmp_path / "identities" / "files.sqlite", isolation_level=None)
    for i, row in enumerate(["text", 5, b"short", "\x00" * 100]):
        other.execute("UPDATE files SET row = ? WHERE file = ?", (row, module._file_key(state(i))))
    other.execute("UPDATE files SET row = CAST(x'ff' AS TEXT) WHERE file = ?", (module._file_key(state(0)),))
    other.close()
    assert identities.get_many(known(5)) == {state(4): identity(4)}, "the others are not lost with them"


def test_a_place_that_cannot_be_used_is_done_without_and_said_once(tmp_path: Path) -> None:
    (tmp_path / "identities").write_bytes(b"in the way")
    identities = Identities(tmp_path)
    with pytest.warns(RuntimeWarning, match="every file is read") as caught:
        identities.put_many(known(3), NOW)
    assert len(caught) == 1
    assert identities.get_many(known(3)) == {}


def test_a_cache_that_vanishes_under_an_open_one_is_begun_anew(tmp_path: Path, identities: Identities) -> None:
    identities.put_many(known(3), NOW)
    os.rename(tmp_path / "identities", tmp_path / "gone")
    for _ in range(2):
        assert identities.get_many(known(3)).items() <= known(3).items()
        identities.put_many(known(3), NOW)
    assert identities.get_many(known(3)) == known(3)


# --- others -----------------------------------------------------------------------------------


def test_a_cache_that_another_process_holds_is_not_waited_for(tmp_path: Path, identities: Identities) -> None:
    identities.put_many(known(1), NOW)
    other = sqlite3.connect(tmp_path / "identities" / "files.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    identities.put_many(known(2), NOW)
    assert identities.get_many(known(2)) == known(1)
    other.execute("ROLLBACK")
    other.close()
    identities.put_many(known(2), NOW)
    assert identities.get_many(known(2)) == known(2)


def test_no_connection_crosses_a_fork(identities: Identities) -> None:
    """SQLite forbids even to close an inherited one."""
    identities.put_many(known(1), NOW)
    assert identities._database._connection is not None
    assert children.run(lambda: (identities._database._connection is None, identities.get_many(known(1)))).get() == (
        True,
        known(1),
    )
    assert identities.get_many(known(1)) == known(1)


def test_threads_and_forked_children_use_one_cache_at_once(tmp_path: Path, identities: Identities) -> None:
    identities.put_many(known(10), NOW)
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for at in range(first, first + 200, 10):
                identities.put_many(known(10, at), NOW)
                assert identities.get_many(known(10, at)).items() <= known(10, at).items()
                assert identities.get_many(known(10)) == known(10)
        except BaseException as exc:  # noqa: BLE001 - told to the test, whatever it is
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(1, 4)]
    for thread in threads:
        thread.start()
    started = [children.fork(lambda i=i: work(1000 * i) or failures) for i in range(4, 7)]  # type: ignore[misc,func-returns-value]
    for thread in threads:
        thread.join()
    assert [child.wait().get() for child in started] == [[], [], []]
    assert failures == []
    found = identities.get_many(state(i) for first in range(1, 7) for i in range(1000 * first, 1000 * first + 200))
    assert len(found) > 600, "what was busy for long may be missing, most is there"
    assert all(found[state] == identity(state.inode - 1000) for state in found)


@pytest.mark.parametrize("sync", [sync_source, sync_file_system])
def test_where_another_clock_sets_the_times_a_file_is_believed_after_an_hour(
    tmp_path: Path, identities: Identities, monkeypatch: pytest.MonkeyPatch, sync: Callable[[int], int | None]
) -> None:
    # The file server's clock may be behind ours: what it changed just now then looks as if it were old.
    (tmp_path / "file").write_bytes(b"x" * 10)
    kind = (ctypes.c_long * 64)()
    with open(tmp_path / "file", "rb") as file:
        assert ctypes.CDLL(None).fstatfs(file.fileno(), kind) == 0
        found = FileState.of(os.fstat(file.fileno()))
        for other_clock in (False, True):
            monkeypatch.setattr(module, "_OTHER_CLOCKS", frozenset([kind[0]] if other_clock else []))
            for age_s, known in ((3590, not other_clock), (3610, True)):
                monkeypatch.setattr(time, "time_ns", lambda age_s=age_s: found.ctime_ns + age_s * SECOND)
                identities.put_many({found: identity(1)}, sync(file.fileno()))
                assert (identities.get_many([found]) != {}) == known
