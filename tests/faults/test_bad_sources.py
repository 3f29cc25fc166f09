"""Files that change, shrink, vanish or cannot be read while they are stored; two contents with one SHA-1."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.digest import new_sha1
from tests.faults import contents
from tests.faults.children import Child, become_nobody, fork, run
from tests.faults.contents import MIB
from tests.faults.examination import check_verified, names

LARGE = 40 * MIB
PATTERN = contents.random_bytes("pattern", MIB).data


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "recording.bin"
    path.write_bytes(PATTERN * (LARGE // MIB))
    return path


@pytest.fixture
def writer() -> Callable[[Callable[[], None]], Child]:
    """writer(change): a process that changes a file again and again until the test ends."""
    children: list[Child] = []

    def start(change: Callable[[], None]) -> Child:
        def repeat() -> None:
            while True:
                change()

        children.append(fork(repeat))
        return children[-1]

    # They never end by themselves: the fixture of this directory ends them.
    return start


def check_identity(store: kacas.Store, uri: str) -> bytes:
    """The URI stands for exactly the bytes that are kept, whatever they are."""
    data = store.load_bytes(uri)
    assert hashlib.sha1(data, usedforsecurity=False).hexdigest() == uri[7:47]
    return data


def store_while_it_changes(store: kacas.Store, path: Path) -> str | None:
    """The URI, or None if the change was noticed; nothing is published then."""
    before = names(store.path)
    try:
        return store.store_file(path)
    except kacas.SourceChangedError as exc:
        assert exc.path == str(path)
        assert "changed while it was stored" in str(exc)
        assert names(store.path) == before
        return None


@pytest.mark.parametrize("how", ["append", "overwrite", "shrink", "shrink and grow", "swap bytes"])
def test_a_file_that_another_process_changes_is_refused_or_has_the_identity_of_what_is_kept(
    store: kacas.Store,
    large_file: Path,
    writer: Callable[[Callable[[], None]], Child],
    how: str,
) -> None:
    fd = os.open(large_file, os.O_RDWR)
    generator = np.random.default_rng(contents.SEED)

    def change() -> None:
        if how == "append":
            os.pwrite(fd, PATTERN[:1000], os.fstat(fd).st_size)
        elif how == "overwrite":
            os.pwrite(fd, generator.bytes(10), int(generator.integers(LARGE - 10)))
        elif how == "swap bytes":
            os.pwrite(fd, PATTERN[5000:10_000], int(generator.integers(40)) * MIB)
        else:
            os.ftruncate(fd, int(generator.integers(LARGE)))
            if how == "shrink and grow":
                os.ftruncate(fd, LARGE)

    writer(change)
    outcomes = [store_while_it_changes(store, large_file) for _ in range(4)]
    print(how, [uri is not None for uri in outcomes])
    # It is changed all the time: that was noticed, not passed over by chance.
    assert None in outcomes
    for uri in outcomes:
        if uri is not None:
            check_identity(store, uri)
    assert check_verified(store).orphans == []
    os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 5 * MIB])
@pytest.mark.parametrize("how", ["grows", "shrinks", "is rewritten"])
def test_a_change_in_the_middle_of_reading_is_noticed(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, how: str
) -> None:
    """The change comes for certain: with the first read. A wrapper around the real read."""
    path = tmp_path / "file"
    path.write_bytes((PATTERN * 6)[:size])
    # Some file systems tell times in steps of a few milliseconds.
    os.utime(path, ns=(10**18, 10**18))
    readv = os.readv
    changed = False

    def change_and_read(fd: int, buffers: list[memoryview]) -> int:
        nonlocal changed
        if not changed:
            changed = True
            with open(path, "r+b") as file:
                if how == "grows":
                    file.seek(0, os.SEEK_END)
                    file.write(b"more")
                elif how == "shrinks":
                    file.truncate(size // 2)
                else:
                    file.write(b"other"[:size])
        return readv(fd, buffers)

    if size == 0 and how != "grows":
        pytest.skip("an empty file can only grow")
    before = names(store.path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", change_and_read)
        with pytest.raises(kacas.SourceChangedError, match="file changed"):
            store.store_file(path)
    assert changed
    assert names(store.path) == before
    uri = store.store_file(path)
    assert check_identity(store, uri) == path.read_bytes()


def test_a_file_replaced_by_rename_is_the_old_one_or_the_new_one(store: kacas.Store, tmp_path: Path) -> None:
    path, stop = tmp_path / "replaced", threading.Event()
    versions = [PATTERN[:300_000], PATTERN[300_000:900_000]]
    path.write_bytes(versions[0])

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            fresh = tmp_path / "fresh"
            fresh.write_bytes(versions[number % 2])
            fresh.replace(path)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        found = {check_identity(store, store.store_file(path)) for _ in range(30)}
    except kacas.SourceChangedError:
        # The file that is read loses its name: its time of change is another.
        found = set()
    finally:
        stop.set()
        thread.join()
    assert found <= set(versions)


def test_an_array_that_another_thread_changes_has_the_identity_of_what_is_kept(store: kacas.Store) -> None:
    array = np.zeros(8 * MIB, np.int16)
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            array[:] = number

    thread = threading.Thread(target=change)
    thread.start()
    try:
        uris = [store.store_npy(array) for _ in range(4)]
    finally:
        stop.set()
        thread.join()
    for uri in uris:
        check_identity(store, uri)
        assert store.load_npy(uri).shape == array.shape
    check_verified(store)


def test_what_is_not_a_regular_file_is_refused_by_name(store: kacas.Store, tmp_path: Path) -> None:
    before = names(store.path)
    fifo, gone, end = tmp_path / "fifo", tmp_path / "gone", tmp_path / "socket"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(end))
    for path, why in (
        (tmp_path, "directory"),
        (fifo, "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (gone, "No such file"),
        (gone / "below", "No such file"),
        (loop, "symbolic link"),
        (end, "cannot be read"),
    ):
        with pytest.raises(kacas.UnreadableSourceError, match=why) as caught:
            store.store_file(path)
        assert caught.value.path == str(path)
    listener.close()
    assert names(store.path) == before


def test_a_file_that_may_not_be_read_is_refused_by_name(store: kacas.Store) -> None:
    place = Path("/var/tmp") / f"kacas-test-{os.getpid()}-{time.monotonic_ns()}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    secret = place / "secret"
    secret.write_bytes(b"secret")
    secret.chmod(0)

    def put() -> None:
        if os.geteuid() == 0:
            become_nobody(place)
        os.environ["KACAS_CACHE_DIR"] = str(place / "cache")
        with kacas.Store.open(place / "store") as own, pytest.raises(kacas.UnreadableSourceError, match="denied"):
            own.store_file(secret)

    try:
        run(put).get()
    finally:
        shutil.rmtree(place)


def test_a_file_whose_reads_fail_is_refused_by_name(
    store: kacas.Store, large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readv, reads = os.readv, 0

    def fail_third(fd: int, buffers: list[memoryview]) -> int:
        nonlocal reads
        reads += 1
        if reads == 3:
            raise OSError(5, os.strerror(5))
        return readv(fd, buffers)

    before = names(store.path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", fail_third)
        with pytest.raises(kacas.UnreadableSourceError, match="Input/output error"):
            store.store_file(large_file)
    assert names(store.path) == before
    assert check_identity(store, store.store_file(large_file)) == large_file.read_bytes()


def test_a_stream_that_breaks_leaves_nothing(store: kacas.Store) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 6 * MIB:
                raise ConnectionResetError("the pipe broke")
            return super().read(size)

    before = names(store.path)
    with pytest.raises(kacas.UnreadableSourceError, match="the pipe broke"):
        store.store_stream(Broken(PATTERN * 8))
    assert names(store.path) == before
    contents.text("next").check(store, contents.text("next").put(store))


# --- two contents with one SHA-1 ---------------------------------------------------------------------


class OneHash:
    """A hash that finds everything equal; a wrapper around the real one, for its shape."""

    def __init__(self) -> None:
        self._real = new_sha1()

    def update(self, data: bytes) -> None:
        self._real.update(data)

    def digest(self) -> bytes:
        return b"\x11" * 20

    def hexdigest(self) -> str:
        return self.digest().hex()


COLLIDING = f"sha1://{'11' * 20}"


@pytest.mark.parametrize("first, second", [(10, 20), (10, 10), (700_000, 700_000), (9 * MIB, 9 * MIB), (10, 700_000)])
def test_a_second_content_with_the_same_sha1_is_refused_and_the_first_still_loads(
    store: kacas.Store, monkeypatch: pytest.MonkeyPatch, first: int, second: int
) -> None:
    one, other = contents.random_bytes("one", first).data, contents.random_bytes("other", second).data
    monkeypatch.setattr("kacas.ingest.new_sha1", OneHash)
    assert store.store_bytes(one, label="first").startswith(COLLIDING)
    before = names(store.path)
    for _ in range(2):
        with pytest.raises(kacas.CollisionError, match="11111111") as caught:
            store.store_bytes(other, label="second")
        assert caught.value.sha1 == "11" * 20
        assert names(store.path) == before, "something of the second content was published"
        assert store.load_bytes(COLLIDING) == one
    assert [item.label for item in store.history()] == ["first"]
    assert {claim.label for claim in store.describe(COLLIDING).claims} == {"first"}
    # The first may be stored as often as one likes.
    store.store_bytes(one, label="first again")
    assert store.load_bytes(COLLIDING) == one


def in_a_batch(store: kacas.Store, *contents_of_it: bytes) -> None:
    with store.batch():
        for data in contents_of_it:
            store.store_bytes(data)


def test_a_collision_inside_a_batch_is_refused_and_the_batch_publishes_nothing(
    store: kacas.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(store.path)
    with monkeypatch.context() as patch:
        patch.setattr("kacas.ingest.new_sha1", OneHash)
        with pytest.raises(kacas.CollisionError):
            in_a_batch(store, b"one", b"other")
    assert names(store.path) == before
    assert not store.exists(COLLIDING)
    assert list(store.history()) == []


@pytest.mark.parametrize("size", [100, 700_000])
def test_a_collision_that_is_caught_inside_a_batch_spares_the_rest(
    store: kacas.Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    one, other = contents.random_bytes("one", size).data, contents.random_bytes("other", size).data
    honest = contents.text("honest")
    with store.batch():
        uri = honest.put(store)
        with monkeypatch.context() as patch:
            patch.setattr("kacas.ingest.new_sha1", OneHash)
            store.store_bytes(one, label="first")
            with pytest.raises(kacas.CollisionError):
                store.store_bytes(other, label="second")
    honest.check(store, uri)
    assert store.load_bytes(COLLIDING) == one
    assert sorted(item.label for item in store.history()) == ["first", "honest"]
