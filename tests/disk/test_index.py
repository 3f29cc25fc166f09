"""The index: it finds what it was given, forgets what is gone, and says nothing rather than something altered."""

from __future__ import annotations

import json
import os
import random
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kacas
from kacas.disk.index import Index
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.index_places import place_in
from kacas.model.entry import Action, Entry
from kacas.model.location import Location
from kacas.model.pack_format import FOOTER_SIZE, Footer, PayloadHeader, Table, decode_table, encode_table


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index")
    yield opened
    opened.close()


def digest(i: int) -> bytes:
    return random.Random(i).randbytes(32)


def pack_id(i: int) -> bytes:
    return random.Random(f"pack {i}").randbytes(16)


def header(i: int) -> PayloadHeader:
    return PayloadHeader(i % 3, i % 2, 1000 + i, 2000 + i, digest(i), b"p" * (i % 5))


def table(payloads: range | list[int], entries: list[Entry] | None = None, first_offset: int = 64) -> Table:
    headers = [(first_offset + 10_000 * i, header(i)) for i in payloads]
    encoded = [e.encode() for e in entries or []]
    data = encode_table([h.record(at) for at, h in headers], encoded)
    end = 2**40
    return decode_table(
        data, Footer(b"p" * 16, end, len(data), len(headers), len(encoded), end + len(data) + FOOTER_SIZE, b"")
    )


def location(i: int, pack: int, first_offset: int = 64) -> Location:
    h = header(i)
    return Location(
        pack_id(pack), first_offset + 10_000 * i, h.payload_size, h.raw_size, len(h.parameters), h.kind, h.codec
    )


def entry(i: int, *, owner: bytes = b"me", time_ns: int | None = None, **fields: object) -> Entry:
    made = Entry(
        random.Random(f"entry {i}").randbytes(16), random.Random(f"sha1 {i}").randbytes(20), digest(i), 2000 + i,
        1000 + i if time_ns is None else time_ns, 1, owner, b"label %d" % i,
    )  # fmt: skip
    return made._replace(**fields)  # type: ignore[arg-type]


def test_what_was_added_is_located_and_the_rest_is_left_out(index: Index) -> None:
    index.add([(pack_id(1), table(range(100))), (pack_id(2), table(range(100, 150)))])
    assert index.pack_ids() == {pack_id(1), pack_id(2)}
    found = index.locate([digest(5), digest(120), digest(999)])
    assert found == {digest(5): [location(5, 1)], digest(120): [location(120, 2)]}
    assert index.locate([]) == {}


def test_offsets_beyond_32_bits_are_kept(index: Index) -> None:
    index.add([(pack_id(1), table([3], first_offset=3 << 32))])
    assert index.locate([digest(3)]) == {digest(3): [location(3, 1, 3 << 32)]}


def test_a_digest_in_several_packs_has_several_locations(index: Index) -> None:
    for pack in (1, 2, 3):
        index.add([(pack_id(pack), table([7, 100 + pack]))])
    assert sorted(index.locate([digest(7)])[digest(7)]) == sorted(location(7, pack) for pack in (1, 2, 3))


def test_a_digest_that_begins_like_another_is_not_that(index: Index) -> None:
    index.add([(pack_id(1), table([4]))])
    twin = digest(4)[:20] + bytes([digest(4)[20] ^ 1]) + digest(4)[21:]
    assert index.locate([twin]) == {}


def test_a_pack_that_is_there_already_is_skipped(index: Index) -> None:
    for _ in range(3):
        index.add([(pack_id(1), table([1, 2], [entry(1)]))])
    assert len(index.locate([digest(1)])[digest(1)]) == 1
    assert len(index.entries(entry(1).sha1)) == 1
    assert len(index.log(b"me")[0]) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 60), max_size=20, unique=True), max_size=6), st.randoms())
def test_sorted_and_unsorted_additions_give_the_same_answers(
    tmp_path: Path, packs: list[list[int]], shuffler: random.Random
) -> None:
    """The first transaction appends in order, later ones insert among what is there."""
    tables = [(pack_id(i), table(payloads)) for i, payloads in enumerate(packs)]
    expected: dict[bytes, list[Location]] = {}
    for pack, payloads in enumerate(packs):
        for i in payloads:
            expected.setdefault(digest(i), []).append(location(i, pack))
    shuffled = shuffler.sample(tables, len(tables))
    for order in ([tables], [[one] for one in tables], [shuffled[:2], shuffled[2:]]):
        index = Index(tmp_path / os.urandom(8).hex())
        for part in order:
            index.add(part)
        found = index.locate([digest(i) for i in range(61)])
        assert {key: sorted(many) for key, many in found.items()} == {k: sorted(m) for k, m in expected.items()}
        index.close()


def test_what_points_to_a_pack_that_is_gone_is_not_found(index: Index) -> None:
    index.add([(pack_id(1), table([1, 2], [entry(1)])), (pack_id(2), table([2, 3], [entry(2)]))])
    index.remove([pack_id(1), pack_id(77)])
    assert index.pack_ids() == {pack_id(2)}
    assert index.locate([digest(1), digest(2)]) == {digest(2): [location(2, 2)]}
    assert index.entries(entry(1).sha1) == []
    assert index.entries(entry(2).sha1) == [(entry(2), pack_id(2))]


def test_what_points_to_a_pack_that_is_gone_never_points_to_a_later_one(index: Index) -> None:
    index.add([(pack_id(1), table([1], [entry(1)]))])
    index.remove([pack_id(1)])
    index.add([(pack_id(2), table([2], [entry(2)]))])
    assert index.locate([digest(1), digest(2)]) == {digest(2): [location(2, 2)]}
    assert index.entries(entry(1).sha1) == []
    assert index.entries(entry(2).sha1) == [(entry(2), pack_id(2))]


def test_history_has_nothing_of_a_pack_that_is_gone(index: Index) -> None:
    index.add([(pack_id(1), table([], [entry(1)])), (pack_id(2), table([], [entry(2)]))])
    index.remove([pack_id(1)])
    assert index.log(b"me") == ([entry(2)], None)


def test_a_pack_that_came_back_is_found_again(index: Index) -> None:
    one = (pack_id(1), table([1], [entry(1)]))
    index.add([one])
    index.remove([pack_id(1)])
    index.add([one])
    assert index.locate([digest(1)]) == {digest(1): [location(1, 1)]}
    assert index.entries(entry(1).sha1) == [(entry(1), pack_id(1))]


def test_a_damaged_location_is_marked_and_the_others_are_not(index: Index) -> None:
    index.add([(pack_id(1), table([1, 2])), (pack_id(2), table([1]))])
    index.mark_damaged(digest(1), location(1, 1))
    index.mark_damaged(digest(2), location(2, 2))  # not there: nothing to mark
    found = index.locate([digest(1), digest(2)])
    assert sorted(found[digest(1)]) == sorted([location(1, 1)._replace(damaged=True), location(1, 2)])
    assert found[digest(2)] == [location(2, 1)]
    index.mark_damaged(digest(1), location(1, 1))
    assert sorted(index.locate([digest(1)])[digest(1)]) == sorted(found[digest(1)])


def test_all_entries_of_an_identity_are_found_keep_and_forget(index: Index) -> None:
    keep, other = entry(1), entry(2, sha1=entry(1).sha1, owner=b"you")
    forget = entry(3, sha1=keep.sha1, action=Action.FORGET, root=bytes(32), cancels=(keep.entry_id,))
    index.add([(pack_id(1), table([], [keep, entry(4)])), (pack_id(2), table([], [other, forget]))])
    found = {e.entry_id: (e, pack) for e, pack in index.entries(keep.sha1)}
    assert found == {
        keep.entry_id: (keep, pack_id(1)),
        other.entry_id: (other, pack_id(2)),
        forget.entry_id: (forget, pack_id(2)),
    }
    assert index.entries(b"\xff" * 20) == []
    assert index.entries(bytes(20)) == []


def read_log(index: Index, owner: bytes, count: int) -> list[Entry]:
    pages: list[Entry] = []
    before: bytes | None = None
    for _ in range(1000):
        page, before = index.log(owner, before, count)
        assert len(page) <= count
        pages += page
        if before is None:
            return pages
    raise AssertionError("the log does not end")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.sampled_from([b"me", b"you"])), max_size=25), st.integers(1, 9))
def test_the_log_is_mine_newest_first_in_pages_of_any_size(
    tmp_path: Path, stored: list[tuple[int, bytes]], count: int
) -> None:
    index = Index(tmp_path / os.urandom(8).hex())
    entries = [entry(i, time_ns=time_ns, owner=owner) for i, (time_ns, owner) in enumerate(stored)]
    for i, e in enumerate(entries):
        forget = entry(1000 + i, owner=e.owner, action=Action.FORGET)
        index.add([(pack_id(i), table([], [e, forget]))])
    for owner in (b"me", b"you", b"nobody"):
        log = read_log(index, owner, count)
        assert sorted(log, key=lambda e: e.entry_id) == sorted(
            (e for e in entries if e.owner == owner), key=lambda e: e.entry_id
        )
        assert [e.time_ns for e in log] == sorted((e.time_ns for e in log), reverse=True)
    index.close()


def data_file(place: Path) -> Path:
    return place / json.loads((place / "current").read_text())["generation"]


def test_a_value_with_any_flipped_bit_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table([1, 2])), (pack_id(2), table([2]))])
    good = index.locate([digest(1)])
    index.close()

    for bit in range(36 * 8):
        with lmdb.open(str(data_file(place)), max_dbs=8) as environment:
            chunks = environment.open_db(b"chunks", dupsort=True, dupfixed=True, create=False)
            with environment.begin(write=True) as txn:
                value = bytearray(txn.get(digest(1)[:16], db=chunks))
                value[bit // 8] ^= 1 << bit % 8
                txn.delete(digest(1)[:16], db=chunks)
                txn.put(digest(1)[:16], bytes(value), db=chunks)
        index = Index(place)
        assert index.locate([digest(1)]) == {}, f"bit {bit}"
        assert index.locate([digest(2)])[digest(2)], "the others are not disturbed"
        index.close()
        value[bit // 8] ^= 1 << bit % 8
        with lmdb.open(str(data_file(place)), max_dbs=8) as environment:
            chunks = environment.open_db(b"chunks", dupsort=True, dupfixed=True, create=False)
            with environment.begin(write=True) as txn:
                txn.delete(digest(1)[:16], db=chunks)
                txn.put(digest(1)[:16], bytes(value), db=chunks)
    index = Index(place)
    assert index.locate([digest(1)]) == good
    index.close()


def test_an_entry_with_a_flipped_byte_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table([], [entry(1), entry(2)]))])
    index.close()
    key = entry(1).sha1 + entry(1).entry_id + struct.pack(">I", 1)  # the first pack's number
    for at in range(len(entry(1).encode())):
        with lmdb.open(str(data_file(place)), max_dbs=8) as environment:
            entries = environment.open_db(b"entries", create=False)
            with environment.begin(write=True) as txn:
                good = txn.get(key, db=entries)
                txn.put(key, good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :], db=entries)
        index = Index(place)
        assert index.entries(entry(1).sha1) == []
        assert index.entries(entry(2).sha1) == [(entry(2), pack_id(1))]
        assert index.log(b"me") == ([entry(2)], None)
        index.close()
        with lmdb.open(str(data_file(place)), max_dbs=8) as environment:
            entries = environment.open_db(b"entries", create=False)
            with environment.begin(write=True) as txn:
                txn.put(key, good, db=entries)


def test_a_renewed_index_is_empty_and_the_old_one_closed(tmp_path: Path) -> None:
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table([1]))])
    index.renew()
    with pytest.raises(IndexUnusableError):
        index.locate([digest(1)])
    again = Index(place)
    assert again.pack_ids() == set()
    again.add([(pack_id(1), table([1]))])
    assert again.locate([digest(1)])
    again.close()
    assert len([path for path in place.iterdir() if path.is_dir()]) == 1


def test_several_index_objects_of_one_place_see_each_other(tmp_path: Path) -> None:
    one, other = Index(tmp_path / "index"), Index(tmp_path / "index")
    one.add([(pack_id(1), table([1]))])
    assert other.locate([digest(1)])
    one.close()
    other.add([(pack_id(2), table([2]))])
    assert other.pack_ids() == {pack_id(1), pack_id(2)}
    other.close()


@pytest.mark.parametrize("key, value", [("boot", "another"), ("uid", -5), ("inode", 1), ("version", 999)])
def test_an_index_of_another_boot_user_file_or_version_is_not_trusted(tmp_path: Path, key: str, value: object) -> None:
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table([1]))])
    index.close()
    sidecar = json.loads((place / "current").read_text())
    assert key in sidecar
    (place / "current").write_text(json.dumps(sidecar | {key: value}))
    index = Index(place)
    assert index.pack_ids() == set()
    index.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"generation": "../../x"}', b'{"generation": 5}', b"\xff"])
def test_a_damaged_sidecar_starts_the_index_anew(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "index"
    Index(place).close()
    (place / "current").write_bytes(content)
    index = Index(place)
    index.add([(pack_id(1), table([1]))])
    assert index.locate([digest(1)])
    index.close()
    index = Index(place)
    assert index.pack_ids() == {pack_id(1)}
    index.close()


def test_a_place_that_cannot_be_a_directory_is_an_index_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexUnusableError):
        Index(tmp_path / "file" / "index")


def test_the_index_of_a_pid_namespace_has_its_own_place(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    assert place.parent == tmp_path / "index"
    if Path("/proc/self/ns/pid").exists():
        assert place.name == str(os.stat("/proc/self/ns/pid").st_ino)


def test_a_large_table_takes_little_room(tmp_path: Path) -> None:
    """Sorted append packs the pages full."""
    index = Index(tmp_path / "index")
    records = np.zeros(100_000, table([1]).records.dtype)
    noise = random.Random(1).randbytes(3_200_000)
    records["digest"] = np.frombuffer(b"".join(sorted(noise[i : i + 32] for i in range(0, len(noise), 32))), "V32")
    index.add([(pack_id(1), Table(records, b"", 0))])
    assert len(index.locate([bytes(records["digest"][i]) for i in (0, 5, 99_999)])) == 3
    index.close()
    used = (data_file(tmp_path / "index") / "data.mdb").stat().st_blocks * 512
    assert used < 80 * 100_000


def test_stores_that_nobody_closed_do_not_use_up_the_addresses(tmp_path: Path) -> None:
    """Each index maps a terabyte, and a process can have 128 of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(200):
            store = kacas.Store.open(tmp_path / str(number), durability="relaxed")
            store.__dict__["cycle"] = store
