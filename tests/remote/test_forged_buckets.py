"""Forged buckets: whoever can write to one, and is not trusted, makes no reader fail for good, grow, or give wrong bytes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kacas.model.digest import chunk_digest
from kacas.model.pack_format import FOOTER_SIZE
from kacas_remote.layout import REMOVED, pack_key
from kacas_remote.removed import remove_entries
from kacas_remote.tables import Tables
from tests.remote.buckets import Bucket, entry_of, pack_of, put_pack
from tests.remote.filled import CountedBlobs


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.mark.parametrize("garbage", [b"x", b"y" * 17, b"", bytes((16 << 20) + 16)])
def test_a_damaged_record_of_removals_removes_nothing_and_stops_nobody(
    bucket: Bucket, tmp_path: Path, garbage: bytes
) -> None:
    gone, kept = entry_of(b"gone"), entry_of(b"kept")
    put_pack(bucket, [b"gone", b"kept"], [gone, kept])
    remove_entries(bucket.blobs, gone.sha1, [gone.entry_id])
    bucket.blobs.put(f"{REMOVED}{kept.sha1.hex()}.{'0' * 32}", garbage)
    tables = Tables(bucket, tmp_path)
    for _ in range(2):
        tables.refresh()
        assert set(tables.entries([gone.sha1, kept.sha1])) == {kept.sha1}


def test_a_table_that_is_refused_leaves_no_rows_and_is_not_read_for_every_miss(bucket: Bucket, tmp_path: Path) -> None:
    put_pack(bucket, [b"good"])
    pack_id, data = pack_of([bytes([number]) * 9 for number in range(200)])
    bucket.blobs.put(pack_key(pack_id), data[: -FOOTER_SIZE - 1] + b"\xff" + data[-FOOTER_SIZE:])
    blobs = bucket.blobs = CountedBlobs(bucket.blobs)
    tables = Tables(bucket, tmp_path)
    for _ in range(5):
        assert set(tables.refresh().refused) == {pack_id}
    assert sum(key == pack_key(pack_id) for _, key, _, _ in blobs.requests) == 2  # head and tail, once
    assert tables.locate([chunk_digest(b"good")])
    tables.close()
    (path,) = tmp_path.rglob("rows.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (1,)


def test_two_buckets_with_one_id_do_not_share_what_is_known_of_them(tmp_path: Path) -> None:
    one, copy = Bucket(), Bucket()
    put_pack(one, [b"only in one"])
    put_pack(copy, [b"in the copy"])
    Tables(one, tmp_path).refresh()
    tables = Tables(copy, tmp_path)
    assert tables.locate([chunk_digest(b"only in one")]) == {}
    tables.refresh()
    assert len(Tables(one, tmp_path).packs()) == len(tables.packs()) == 1
    assert tables.locate([chunk_digest(b"only in one")]) == {}
