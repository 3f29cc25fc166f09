"""Linked files that are gone, changed or at several places: named, never believed; copies and other places serve."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kacas import (
    AdoptedFileError,
    CollisionError,
    DamagedPackError,
    Store,
)
from kacas.disk.pack_writer import PackWriter
from kacas.disk.volume import open_volume
from kacas.model.codec import Codec
from kacas.model.cuts import CHUNK_TARGET, PeriodicCutter
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.entry import Entry, Kind
from kacas.model.pack_format import PayloadHeader
from kacas.model.source import BufferSource
from kacas.model.uri import parse_uri
from tests.faults.children import end_all, fork
from tests.formats.conftest import LARGE, SMALL, flip, gone, grown

MIB = 1 << 20
SIZES = [1, CHUNK_TARGET - 1, CHUNK_TARGET, CHUNK_TARGET + 1, 5 * MIB + 3]


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, CHUNK_TARGET - 1, CHUNK_TARGET, 2 * MIB + 7, len(LARGE) - 1])
def test_a_linked_file_with_any_byte_changed_is_never_returned_as_data(store: Store, large: Path, at: int) -> None:
    uri = store.link_file(large)
    flip(large, at)
    with pytest.raises(AdoptedFileError) as caught:
        store.load_bytes(uri)
    assert (caught.value.path, caught.value.state, caught.value.exit_code) == (str(large), "changed", 5)
    assert str(large) in str(caught.value)
    assert isinstance(caught.value, OSError)
    with pytest.raises(AdoptedFileError):
        store.load_bytes(uri, at, at + 1)
    with pytest.raises(AdoptedFileError):
        store.load_file(uri)
    begin, stop = max(0, at - MIB), min(at + MIB, len(LARGE))
    assert store.load_bytes(uri, 0, begin) + store.load_bytes(uri, stop) == LARGE[:begin] + LARGE[stop:]
    flip(large, at)
    assert store.load_bytes(uri) == LARGE, "put back as it was"


def directory_gone(path: Path) -> None:
    shutil.rmtree(path.parent)


def directory_is_a_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.touch()


def shrunk(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def now_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def now_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def now_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def leads_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "fault, state",
    [
        (gone, "missing"), (directory_gone, "missing"), (directory_is_a_file, "missing"), (grown, "changed"),
        (shrunk, "changed"), (emptied, "changed"), (now_a_directory, "changed"), (now_a_pipe, "changed"),
        (now_a_device, "changed"), (leads_to_itself, "unreadable"),
    ],
)  # fmt: skip
def test_what_became_of_the_file_is_said_and_it_is_named(
    store: Store, tmp_path: Path, data: bytes, fault: Callable[[Path], None], state: str
) -> None:
    path = tmp_path / "somewhere" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(data)
    uri = store.link_file(path)
    fault(path)
    for read in (store.load_bytes, store.load_file, lambda uri: store.open_file(uri).read()):
        with pytest.raises(AdoptedFileError) as caught:
            read(uri)
        assert (caught.value.path, caught.value.state) == (str(path), state)
        assert "link the file again where it is now" in str(caught.value)
        if fault in (now_a_directory, now_a_pipe, now_a_device):
            assert "it is not a regular file now" in str(caught.value)
    assert store.exists(uri), "that it is kept is known without the file"
    (tmp_path / "copy").write_bytes(data)
    store.store_file(tmp_path / "copy")
    assert store.load_bytes(uri) == data


def test_a_file_that_may_not_be_read_is_named(store: Store, small: Path) -> None:
    uri = store.link_file(small)
    small.chmod(0)
    if os.access(small, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(AdoptedFileError, match="cannot be read: Permission denied") as caught:
        store.load_bytes(uri)
    assert caught.value.state == "unreadable"


def test_a_file_that_changes_while_it_is_read_gives_its_bytes_or_its_name(store: Store, large: Path) -> None:
    uri = store.link_file(large)

    def change() -> None:
        fd = os.open(large, os.O_RDWR)
        while True:
            for at in range(0, len(LARGE), 99_991):
                os.pwrite(fd, bytes([LARGE[at] ^ 1]), at)
            os.pwrite(fd, LARGE, 0)

    fork(change)
    try:
        good = bad = 0
        for step in range(400):
            start = step * 7919 % len(LARGE)
            try:
                assert store.load_bytes(uri, start, start + 300_000) == LARGE[start : start + 300_000]
                good += 1
            except AdoptedFileError as exc:
                assert exc.path == str(large)
                bad += 1
    finally:
        end_all()
    assert bad, "the file did change"


# --- several places, copies --------------------------------------------------------------------


def test_a_moved_file_is_read_where_it_was_linked_again(store: Store, large: Path, tmp_path: Path) -> None:
    uri = store.link_file(large)
    moved = large.rename(tmp_path / "moved.bin")
    with pytest.raises(AdoptedFileError):
        store.load_bytes(uri)
    again = store.link_file(moved)
    assert parse_uri(again).sha1 == parse_uri(uri).sha1
    assert store.load_bytes(uri) == LARGE
    assert set(store.describe(uri).adopted) == {str(large), str(moved)}


@pytest.mark.parametrize("first", [True, False])
def test_of_a_file_at_two_places_the_other_is_read(store: Store, large: Path, tmp_path: Path, first: bool) -> None:
    other = tmp_path / "other.bin"
    shutil.copy(large, other)
    uri = store.link_file(large)
    store.link_file(other)
    touched, good = (large, other) if first else (other, large)
    flip(touched, 5)
    assert store.load_bytes(uri) == LARGE
    touched.unlink()
    assert store.load_bytes(uri) == LARGE
    flip(good, MIB)
    with pytest.raises(AdoptedFileError):
        store.load_bytes(uri)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_stored_copy_needs_the_file_no_more(store: Store, tmp_path: Path, data: bytes, batched: bool) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(data)
    if batched:
        with store.batch():
            uri = store.link_file(path)
            assert store.store_file(path) == uri
    else:
        uri = store.link_file(path)
        assert store.store_file(path) == uri
    path.unlink()
    assert store.load_bytes(uri) == data


@pytest.mark.parametrize("before", [True, False])
def test_a_small_put_in_a_batch_stores_what_was_only_linked(store: Store, small: Path, before: bool) -> None:
    if before:
        store.link_file(small)
    with store.batch():
        uri = store.link_file(small)
        store.repository.put_small(SMALL, Kind.FILE, small.name)
    small.unlink()
    assert store.load_bytes(uri) == SMALL


def test_nothing_is_deduplicated_against_a_linked_file(store: Store, large: Path) -> None:
    store.link_file(large)
    uri = store.store_bytes(LARGE[: 8 * CHUNK_TARGET] + b"and more")
    large.unlink()
    assert store.load_bytes(uri) == LARGE[: 8 * CHUNK_TARGET] + b"and more"


def test_a_file_that_is_stored_already_is_read_from_the_packs(store: Store, large: Path) -> None:
    uri = store.store_file(large)
    store.link_file(large)
    flip(large, 0)
    assert store.load_bytes(uri) == LARGE


def test_a_layout_in_packs_serves_when_the_linked_one_cannot(store: Store, large: Path) -> None:
    source = BufferSource(LARGE)
    uri = store.repository.put(source, Kind.FILE, "other cuts", cutter=PeriodicCutter(100_000)).uri
    store.link_file(large)
    assert store.describe(uri).adopted == (str(large),)
    large.unlink()
    assert store.load_bytes(uri) == LARGE


def test_a_linked_file_serves_every_layout_of_its_content(store: Store, large: Path) -> None:
    other = large.with_name("other.bin")
    shutil.copy(large, other)
    source, cutter = BufferSource(LARGE), PeriodicCutter(100_000)
    uri = store.repository.put(source, Kind.FILE, "x", cutter=cutter, adopted_path=os.fsencode(other)).uri
    root = store.describe(uri).root
    store.link_file(large)
    other.unlink()
    assert store.load_bytes(uri) == LARGE
    assert store.load_bytes(f"{uri}&root={root}") == LARGE


def test_what_is_damaged_in_a_pack_is_read_from_the_file(store: Store, large: Path) -> None:
    uri = store.store_file(large)
    store.link_file(large)
    pack = max((store.path / "packs").iterdir(), key=lambda path: path.stat().st_size)
    pack.chmod(0o644)
    flip(pack, 2 * MIB)
    assert store.load_bytes(uri) == LARGE
    large.unlink()
    with pytest.raises(DamagedPackError):
        store.load_bytes(uri)


def test_linking_other_bytes_with_a_known_sha1_is_a_collision(store: Store, large: Path) -> None:
    raw = LARGE[:-1] + b"?"
    writer = PackWriter(open_volume(store.path, create=False))
    writer.append([(PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), chunk_digest(raw)), raw)])
    sha1 = hashlib.sha1(LARGE).digest()
    writer.finish([Entry(os.urandom(16), sha1, chunk_digest(raw), len(raw), 0, 0, b"forger", b"").encode()])
    store.repository.lookup.refresh()
    with pytest.raises(CollisionError):
        store.link_file(large)
