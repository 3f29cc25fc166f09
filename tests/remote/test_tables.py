"""Tables: what the packs of a bucket hold is known, whatever happens to the cache, and lies are named."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.model.digest import chunk_digest
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    decode_footer,
    decode_table,
)
from kacas_remote.blob_ranges import BlobRanges
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.layout import pack_key
from kacas_remote.pack_tables import read_table
from kacas_remote.removed import remove_entries
from kacas_remote.table_source import TableSource
from kacas_remote.tables import Tables
from tests.remote.buckets import Bucket, entry_of, pack_of, put_pack, sha1_of


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def tables(bucket: Bucket, tmp_path: Path) -> Tables:
    return Tables(bucket, tmp_path / "cache")


def test_chunks_and_entries_of_new_packs_are_found_and_those_of_gone_packs_are_not(
    bucket: Bucket, tables: Tables
) -> None:
    first = put_pack(bucket, [b"one", b"two"], [entry_of(b"one")])
    assert tables.locate([chunk_digest(b"one")]) == {}
    assert tables.refresh()[:2] == (1, 0)
    place = Location(first, HEADER_SIZE, 3, 3, 0, 0, 0)
    assert tables.locate([chunk_digest(b"one"), chunk_digest(b"absent")]) == {chunk_digest(b"one"): [place]}
    assert [entry.root for entry in tables.entries([sha1_of(b"one")])[sha1_of(b"one")]] == [chunk_digest(b"one")]
    second = put_pack(bucket, [b"two"], [])
    bucket.blobs.delete([pack_key(first)])
    assert tables.refresh()[:2] == (1, 1)
    assert tables.locate([chunk_digest(b"one")]) == {}
    assert tables.entries([sha1_of(b"one")]) == {}
    assert [where.pack_id for where in tables.locate([chunk_digest(b"two")])[chunk_digest(b"two")]] == [second]
    assert tables.refresh() == (0, 0, {})


def test_what_was_pushed_is_known_without_a_look(bucket: Bucket, tables: Tables) -> None:
    pack_id, data = pack_of([b"one"], [entry_of(b"one")])
    footer = decode_footer(data[-FOOTER_SIZE:], data[:HEADER_SIZE], len(data))
    tables.add(pack_id, decode_table(data[footer.table_offset : -FOOTER_SIZE], footer), len(data))
    assert tables.locate([chunk_digest(b"one")])
    assert tables.entries([sha1_of(b"one")])
    assert tables.packs() == {pack_id: len(data)}


def test_only_the_tables_that_are_named_are_read(bucket: Bucket, tables: Tables) -> None:
    first = put_pack(bucket, [b"one"])
    put_pack(bucket, [b"two"])
    assert tables.learn([first, b"gone" * 4]) == {}
    assert set(tables.locate([chunk_digest(b"one"), chunk_digest(b"two")])) == {chunk_digest(b"one")}


def test_entries_that_were_removed_do_not_count_and_those_pushed_again_do(bucket: Bucket, tables: Tables) -> None:
    old = entry_of(b"one")
    put_pack(bucket, [b"one"], [old])
    remove_entries(bucket.blobs, {old.sha1: [old.entry_id]})
    tables.refresh()
    assert tables.entries([old.sha1]) == {}
    again = entry_of(b"one")
    put_pack(bucket, [], [again])
    tables.refresh()
    assert tables.entries([old.sha1]) == {old.sha1: [again]}


def test_what_the_newest_entry_says_is_told_of_many_at_once(bucket: Bucket, tables: Tables) -> None:
    old, gone = entry_of(b"one"), entry_of(b"two")
    new = entry_of(b"one")._replace(root=bytes(32), time_ns=old.time_ns + 1)
    put_pack(bucket, [b"one", b"two"], [new, old, gone])
    remove_entries(bucket.blobs, {gone.sha1: [gone.entry_id]})
    tables.refresh()
    found = tables.layouts([old.sha1, gone.sha1, bytes(20)])
    assert {sha1: (one.root, one.size) for sha1, one in found.items()} == {old.sha1: (new.root, new.size)}


def test_a_place_that_was_foreseen_and_is_gone_is_looked_for_anew(bucket: Bucket, tables: Tables) -> None:
    first = put_pack(bucket, [b"one", b"two"])
    tables.refresh()
    source = TableSource(BlobRanges(bucket.blobs), tables)
    source.foresee([chunk_digest(b"one")])
    put_pack(bucket, [b"one"])
    bucket.blobs.delete([pack_key(first)])  # as a collector does it
    found = source.get_many([chunk_digest(b"one"), chunk_digest(b"two")])
    assert {digest: bytes(data[-3:]) for digest, data in found.items()} == {chunk_digest(b"one"): b"one"}


def test_what_is_foreseen_is_told_as_it_lies_and_not_given_once_it_was_rejected(bucket: Bucket, tables: Tables) -> None:
    packs = {put_pack(bucket, [b"two", b"one"]), put_pack(bucket, [b"two", b"one"])}
    tables.refresh()
    source = TableSource(BlobRanges(bucket.blobs), tables)
    one, two = chunk_digest(b"one"), chunk_digest(b"two")
    assert source.foresee([one, two, bytes(32)]) == [two, one]
    named = set()
    for _ in range(2):
        assert bytes(source.get_many([one])[one][-3:]) == b"one"
        source.foresee([one])
        source.reject(one, "it is bad")
        named |= {pack_id for pack_id in packs if pack_key(pack_id) in str(source.error(one))}
    assert named == packs
    assert source.get_many([one]) == {}
    assert source.foresee([one, two]) == [two]


def test_a_place_that_is_larger_than_its_chunk_can_be_is_not_taken(bucket: Bucket, tables: Tables) -> None:
    true, (liar, data) = put_pack(bucket, [b"one"]), pack_of([b"one"], stored=1 << 20)
    bucket.blobs.put(pack_key(liar), data)
    tables.refresh()
    one = chunk_digest(b"one")
    assert {place.pack_id for place in tables.locate([one])[one]} == {true, liar}
    source = TableSource(BlobRanges(bucket.blobs), tables)
    assert bytes(source.get_many([one])[one][-3:]) == b"one"
    bucket.blobs.delete([pack_key(true)])
    tables.refresh()
    assert source.get_many([one]) == {}


def test_a_table_that_is_damaged_or_of_another_remote_is_named_and_the_others_are_used(
    bucket: Bucket, tables: Tables
) -> None:
    put_pack(bucket, [b"good"])
    bad_ids = []
    for damage in range(4):
        pack_id, data = pack_of([b"bad"], [entry_of(b"bad")], store_id=b"x" * 16 if damage == 0 else b"R" * 16)
        if damage == 1:
            data = data[:-1]
        elif damage == 2:
            data = data[: -FOOTER_SIZE - 3] + b"\0\0\0" + data[-FOOTER_SIZE:]
        elif damage == 3:
            pack_id = bytes(16)
        bucket.blobs.put(pack_key(pack_id), data)
        bad_ids.append(pack_id)
    done = tables.refresh()
    assert done.new == 1
    assert set(done.refused) == set(bad_ids) == set(tables.refused)
    assert all("lab" not in why and pack_id.hex() in why for pack_id, why in done.refused.items())
    assert set(tables.locate([chunk_digest(b"good"), chunk_digest(b"bad")])) == {chunk_digest(b"good")}
    assert tables.entries([sha1_of(b"bad")]) == {}


class Refuted(Entry):
    """An entry whose checksum says that it is another."""

    def encode(self) -> bytes:
        encoded = bytearray(super().encode())
        encoded[-1] ^= 1
        return bytes(encoded)


def test_an_entry_that_its_own_checksum_refutes_names_nothing(bucket: Bucket, tables: Tables) -> None:
    good, bad = entry_of(b"good"), Refuted(*entry_of(b"bad"))
    put_pack(bucket, [b"good", b"bad"], [bad, good])
    assert not tables.refresh().refused
    assert tables.entries([good.sha1, bad.sha1]) == {good.sha1: [good]}
    assert tables.layouts([good.sha1, bad.sha1]).keys() == {good.sha1}


@pytest.mark.parametrize("size", [0, 1 << 31])
def test_a_table_with_an_entry_of_a_size_that_none_has_is_refused(bucket: Bucket, tables: Tables, size: int) -> None:
    class Sized(Entry):
        def encode(self) -> bytes:
            return size.to_bytes(4, "little") + super().encode()[4:]

    pack_id = put_pack(bucket, [b"one"], [Sized(*entry_of(b"one"))])
    assert f"declares {size} bytes" in tables.refresh().refused[pack_id]


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_flipped_byte_of_a_pack_is_believed(at: int, flip: int) -> None:
    bucket = Bucket()
    pack_id, data = pack_of([b"one", b"two"], [entry_of(b"one"), entry_of(b"two")])
    footer = decode_footer(data[-FOOTER_SIZE:], data[:HEADER_SIZE], len(data))
    wanted = [list(piece.records) for piece in read_(bucket, pack_id, data)]
    at %= len(data)
    broken = bytearray(data)
    broken[at] ^= flip
    covered = at < HEADER_SIZE or at >= footer.table_offset
    try:
        found = [list(piece.records) for piece in read_(bucket, pack_id, bytes(broken))]
    except PackFormatError:
        assert covered
    else:
        assert not covered
        assert found == wanted


def read_(bucket: Bucket, pack_id: bytes, data: bytes) -> list:  # type: ignore[type-arg]
    bucket.blobs.put(pack_key(pack_id), data)
    return list(read_table(bucket.blobs, bucket.remote_id, pack_id, len(data)))


def test_a_damaged_cache_is_begun_anew_and_answers_the_same(bucket: Bucket, tmp_path: Path) -> None:
    contents = [bytes([number]) * 10 for number in range(200)]
    put_pack(bucket, contents, [entry_of(data) for data in contents])
    digests = [chunk_digest(data) for data in contents]
    tables = Tables(bucket, tmp_path)
    tables.refresh()
    wanted = tables.locate(digests)
    assert len(wanted) == 200
    tables.close()
    (path,) = tmp_path.rglob("rows.sqlite")
    whole = path.read_bytes()
    for at in range(0, len(whole), 509):
        path.write_bytes(whole[:at] + bytes(byte ^ 0x55 for byte in whole[at : at + 64]) + whole[at + 64 :])
        found = tables.locate(digests)
        assert all(wanted[digest] == places for digest, places in found.items())
        tables.refresh()
        tables.close()
        tables = Tables(bucket, tmp_path)
        path = next(path for path in tmp_path.rglob("rows.sqlite") if path.parent.name == "tables")
    tables.refresh()
    tables.close()
    path.write_bytes(b"no database at all" * 1000)
    assert tables.locate(digests) == wanted


@pytest.mark.parametrize("at", range(0, 24, 3))
def test_a_flipped_bit_of_a_row_is_as_if_the_row_were_not_there(bucket: Bucket, tmp_path: Path, at: int) -> None:
    put_pack(bucket, [b"one", b"two"])
    tables = Tables(bucket, tmp_path)
    tables.refresh()
    tables.close()
    (path,) = tmp_path.rglob("rows.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        ((row,),) = connection.execute("SELECT row FROM chunks WHERE digest = ?", [chunk_digest(b"one")])
        broken = row[:at] + bytes([row[at] ^ 4]) + row[at + 1 :]
        connection.execute("UPDATE chunks SET row = ? WHERE digest = ?", [broken, chunk_digest(b"one")])
        connection.commit()
    assert set(tables.locate([chunk_digest(b"one"), chunk_digest(b"two")])) == {chunk_digest(b"two")}


def test_a_cache_that_cannot_be_made_is_done_without(bucket: Bucket, tmp_path: Path) -> None:
    put_pack(bucket, [b"one"])
    (tmp_path / "cache").write_text("a file")
    tables = Tables(bucket, tmp_path / "cache")
    with pytest.warns(RuntimeWarning, match="KACAS_CACHE_DIR"):
        tables.refresh()
    assert tables.locate([chunk_digest(b"one")])


def test_a_hundred_thousand_digests_are_asked_for_at_once(bucket: Bucket, tables: Tables) -> None:
    contents = [number.to_bytes(4, "big") for number in range(100_000)]
    pack_id = put_pack(bucket, contents, [entry_of(data) for data in contents[:1000]])
    tables.refresh()
    found = tables.locate([chunk_digest(data) for data in contents])
    size = PAYLOAD_HEADER_SIZE + 4
    assert len(found) == 100_000
    for number in (0, 77_777, 99_999):
        assert found[chunk_digest(contents[number])] == [Location(pack_id, HEADER_SIZE + number * size, 4, 4, 0, 0, 0)]
    assert len(tables.entries([sha1_of(data) for data in contents[:2000]])) == 1000


def test_a_large_table_is_read_in_little_memory(bucket: Bucket) -> None:
    pack_id, data = pack_of([number.to_bytes(4, "big") for number in range(400_000)])
    blobs = _Views(bucket.blobs)
    bucket.blobs.put(pack_key(pack_id), data)
    tracemalloc.start()
    count = sum(len(piece.records) for piece in read_table(blobs, bucket.remote_id, pack_id, len(data)))  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 400_000
    assert peak < 16 << 20 < 400_000 * 56
    assert len(blobs.asked) > 5


class _Views:
    """What a bucket gives, and what was asked for."""

    def __init__(self, blobs) -> None:  # type: ignore[no-untyped-def]
        self._blobs, self.asked = blobs, []

    def get_ranges(self, key, ranges):  # type: ignore[no-untyped-def]
        self.asked.append(ranges)
        return self._blobs.get_ranges(key, ranges)


def test_one_look_is_enough_for_a_pack_of_large_chunks(bucket: Bucket) -> None:
    pack_id, data = pack_of([bytes([number]) * (256 << 10) for number in range(64)])
    bucket.blobs.put(pack_key(pack_id), data)
    blobs = _Views(bucket.blobs)
    assert sum(len(piece.records) for piece in read_table(blobs, bucket.remote_id, pack_id, len(data))) == 64  # type: ignore[arg-type]
    assert len(blobs.asked) == 1


def _refresh(bucket: Bucket, cache: Path, contents: list[bytes], results) -> None:  # type: ignore[no-untyped-def]
    tables = Tables(bucket, cache)
    tables.refresh()
    results.put(len(tables.locate([chunk_digest(data) for data in contents])))


def test_many_processes_share_one_cache(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    bucket = Bucket(DirectoryBlobs(tmp_path / "bucket"))
    contents = [number.to_bytes(4, "big") for number in range(3000)]
    for start in range(0, 3000, 100):
        put_pack(bucket, contents[start : start + 100])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_refresh, args=(bucket, tmp_path / "cache", contents, results)) for _ in range(6)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120) for _ in workers] == [3000] * 6
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert not list((tmp_path / "cache").rglob("*.damaged.*"))
    assert len(Tables(bucket, tmp_path / "cache").packs()) == 30


def test_a_forked_child_asks_the_same_tables(bucket: Bucket, tables: Tables) -> None:
    put_pack(bucket, [b"one"])
    tables.refresh()
    pid = os.fork()
    if pid == 0:
        # SQLite must not be used across a fork: the child has nothing of it open.
        names = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if os.path.lexists(fd)]
        inherited = any("rows.sqlite" in name for name in names)
        os._exit(0 if tables.locate([chunk_digest(b"one")]) and not inherited else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert tables.locate([chunk_digest(b"one")])
