"""Lookup: other writers' packs are seen, packs that went are not, and only the tables prove an absence."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kacas.disk.index import Index
from kacas.disk.index_places import place_in
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import PackWriter
from kacas.disk.volume import Volume, open_volume
from kacas.errors import DamagedPackError, KacasError, NewerFormatError
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, checksum, chunk_digest
from kacas.model.entry import Action, Entry
from kacas.model.merging import merged_entry, merged_pack_id
from kacas.model.pack_format import FOOTER_SIZE, HEADER_SIZE, PayloadHeader


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True, durability="relaxed")


Open = Callable[[], Lookup]


@pytest.fixture
def open_lookup(volume: Volume, tmp_path: Path) -> Iterator[Open]:
    """Each one with a cache of its own, as on another host."""
    opened: list[Lookup] = []

    def open_one() -> Lookup:
        cache = tmp_path / f"cache {len(opened)}"
        cache.mkdir()
        opened.append(Lookup(volume, cache))
        return opened[-1]

    yield open_one
    for lookup in opened:
        lookup.close()


def raw(i: int) -> bytes:
    return random.Random(i).randbytes(200)


def digest(i: int) -> bytes:
    return chunk_digest(raw(i))


def entry(i: int, owner: bytes = b"me", **fields: object) -> Entry:
    return Entry(os.urandom(16), b"%020d" % i, digest(i), 200, 1000 + i, 0, owner, b"label", **fields)  # type: ignore[arg-type]


def write(volume: Volume, payloads: list[int], entries: list[Entry] | None = None) -> bytes:
    """A pack as any process may publish it. Returns its id."""
    writer = PackWriter(volume)
    header = [PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 200, 200, digest(i)) for i in payloads]
    writer.append([(h, raw(i)) for h, i in zip(header, payloads, strict=True)])
    writer.finish([e.encode() for e in entries or []])
    return writer.pack_id


def change(volume: Volume, pack_id: bytes, at: int, data: bytes) -> None:
    path = volume.pack_path(pack_id)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(data)


def test_packs_of_others_are_seen_after_a_refresh(volume: Volume, open_lookup: Open) -> None:
    one, other = open_lookup(), open_lookup()
    e = entry(1)
    pack_id = write(volume, [1, 2], [e])
    assert one.locate([digest(1)]) == {}
    assert one.refresh() == 2
    assert one.refresh() == 0
    assert [location.pack_id for location in one.locate([digest(1)])[digest(1)]] == [pack_id]
    assert one.entries(e.sha1) == [(e, pack_id)]
    assert other.locate([digest(1)]) == {}
    assert other.proved_entries(e.sha1) == [(e, pack_id)]
    assert other.entries(e.sha1) == [(e, pack_id)], "what was proved is hinted from then on"


def test_a_lookup_opened_later_knows_every_pack(volume: Volume, open_lookup: Open) -> None:
    ids = [write(volume, [i], [entry(i)]) for i in range(5)]
    lookup = open_lookup()
    found = lookup.locate([digest(i) for i in range(6)])
    assert {key: [location.pack_id for location in places] for key, places in found.items()} == {
        digest(i): [ids[i]] for i in range(5)
    }


def test_a_pack_that_went_is_left_out(volume: Volume, open_lookup: Open) -> None:
    lookup = open_lookup()
    gone, e = write(volume, [1, 2], [entry(1)]), entry(2)
    kept = write(volume, [2, 3], [e])
    lookup.refresh()
    volume.pack_path(gone).unlink()
    lookup.refresh()
    assert lookup.locate([digest(1)]) == {}
    assert [location.pack_id for location in lookup.locate([digest(2)])[digest(2)]] == [kept]
    assert lookup.entries(entry(1).sha1) == []
    assert lookup.proved_entries(entry(1).sha1) == []
    assert lookup.proved_entries(e.sha1) == [(e, kept)]
    assert list(lookup.log(b"me")) == [e]


def test_what_a_pack_that_went_held_is_not_taken_for_part_of_a_later_one(volume: Volume, open_lookup: Open) -> None:
    lookup = open_lookup()
    gone = write(volume, [1], [entry(1)])
    lookup.refresh()
    volume.pack_path(gone).unlink()
    lookup.refresh()
    write(volume, [2], [entry(2)])
    lookup.refresh()
    assert lookup.locate([digest(1)]) == {}
    assert lookup.entries(entry(1).sha1) == []


def test_only_what_was_seen_in_a_pack_just_now_is_confirmed(volume: Volume, open_lookup: Open) -> None:
    lookup = open_lookup()
    pack_id = write(volume, [1, 2, 3])
    lookup.refresh()
    places = lookup.locate([digest(1), digest(2), digest(3)])
    assert lookup.confirmed([digest(1), digest(9)]) == {digest(1): places[digest(1)][0]}
    lookup.mark_damaged(digest(2), places[digest(2)][0])
    change(volume, pack_id, places[digest(3)][0].offset, b"XXXX")
    assert lookup.confirmed([digest(1), digest(2), digest(3)]).keys() == {digest(1)}


def test_a_good_copy_comes_before_a_damaged_one(volume: Volume, open_lookup: Open) -> None:
    lookup = open_lookup()
    ids = [write(volume, [1]) for _ in range(3)]
    lookup.refresh()
    for location in lookup.locate([digest(1)])[digest(1)]:
        if location.pack_id != ids[1]:
            lookup.mark_damaged(digest(1), location)
    places = lookup.locate([digest(1)])[digest(1)]
    assert places[0].pack_id == ids[1]
    assert [location.damaged for location in places] == [False, True, True]
    assert lookup.confirmed([digest(1)])[digest(1)].pack_id == ids[1]


def test_an_absence_is_not_proved_while_a_pack_cannot_be_read(volume: Volume, open_lookup: Open) -> None:
    lookup = open_lookup()
    e = entry(1)
    pack_id = write(volume, [1], [e])
    damaged = write(volume, [2], [entry(2)])
    change(volume, damaged, -FOOTER_SIZE, b"?")
    assert lookup.proved_entries(e.sha1) == [(e, pack_id)], "what is found is found"
    with pytest.raises(DamagedPackError, match="cannot be told") as caught:
        lookup.proved_entries(entry(3).sha1)
    assert caught.value.pack == damaged.hex()
    assert f"{damaged.hex()}.pack" in str(caught.value)
    change(volume, damaged, -FOOTER_SIZE, b"K")
    assert lookup.proved_entries(entry(3).sha1) == []
    assert len(lookup.proved_entries(entry(2).sha1)) == 1
    change(volume, damaged, -FOOTER_SIZE, b"?")
    volume.pack_path(damaged).unlink()
    assert lookup.proved_entries(entry(3).sha1) == []


def test_a_newer_pack_is_named_as_the_reason(volume: Volume, open_lookup: Open) -> None:
    pack_id = write(volume, [1])
    data = bytearray(volume.pack_path(pack_id).read_bytes())
    data[8] = 2
    data[-16:] = checksum(16, data[:HEADER_SIZE], data[-FOOTER_SIZE:-16])
    change(volume, pack_id, 0, data)
    with pytest.raises(NewerFormatError, match="cannot be told") as caught:
        open_lookup().proved_entries(bytes(20))
    assert (caught.value.needed, caught.value.pack) == (2, pack_id.hex())


def test_entries_that_are_damaged_though_the_table_is_whole_make_the_pack_unreadable(
    volume: Volume, open_lookup: Open
) -> None:
    writer = PackWriter(volume)
    writer.finish([entry(1).encode(), b"not an entry"])
    lookup = open_lookup()
    with pytest.raises(KacasError, match=writer.pack_id.hex()):
        lookup.proved_entries(entry(5).sha1)


def test_a_merged_pack_whose_entries_are_damaged_covers_nothing(volume: Volume, open_lookup: Open) -> None:
    source = write(volume, [1], [entry(1)])
    writer = PackWriter(volume, pack_id=merged_pack_id(1, os.urandom(14)))
    writer.finish([merged_entry(os.urandom(16), 1, [source]).encode(), b"not an entry"])
    lookup = open_lookup()
    assert len(lookup.proved_entries(entry(1).sha1)) == 1
    assert [location.pack_id for location in lookup.locate([digest(1)])[digest(1)]] == [source]


def test_an_identity_inside_a_list_of_cancelled_ids_is_no_entry(volume: Volume, open_lookup: Open) -> None:
    wanted = entry(7)
    cancel = entry(1, action=Action.FORGET, cancels=(wanted.sha1[:16], wanted.sha1[16:] + bytes(12)))
    write(volume, [], [cancel])
    assert wanted.sha1 in cancel.encode()
    assert open_lookup().proved_entries(wanted.sha1) == []


def log_of(lookup: Lookup, owner: bytes = b"me") -> list[Entry]:
    return list(lookup.log(owner))


def test_the_log_is_of_one_owner_and_newest_first_however_the_packs_came(volume: Volume, open_lookup: Open) -> None:
    entries = [entry(i, b"me" if i % 3 else b"you") for i in range(12)]
    for e in random.Random(1).sample(entries, 12):
        write(volume, [], [e, entry(100, action=Action.FORGET)])
    lookup = open_lookup()
    assert log_of(lookup) == [e for e in reversed(entries) if e.owner == b"me"]
    assert log_of(lookup, b"you") == [e for e in reversed(entries) if e.owner == b"you"]
    assert log_of(lookup, b"nobody") == []


def test_a_rebuilt_index_says_the_same_as_before(volume: Volume, open_lookup: Open) -> None:
    entries = [entry(i) for i in range(4)]
    for i in range(4):
        write(volume, [i, i + 1], [entries[i]])
    lookup = open_lookup()
    wanted = [digest(i) for i in range(6)]
    before = {key: sorted(places) for key, places in lookup.locate(wanted).items()}
    assert lookup.rebuild() == 8
    assert {key: sorted(places) for key, places in lookup.locate(wanted).items()} == before
    assert log_of(lookup) == entries[::-1]


@pytest.mark.parametrize("damage", [b"", b"garbage", bytes(100_000)], ids=["emptied", "overwritten", "zeros"])
def test_a_destroyed_index_is_made_anew_from_the_tables(volume: Volume, tmp_path: Path, damage: bytes) -> None:
    e = entry(1)
    pack_id = write(volume, [1], [e])
    cache = tmp_path / "cache"
    cache.mkdir()
    Lookup(volume, cache).close()
    (data,) = place_in(cache).glob("*/data.mdb")
    with open(data, "r+b") as file:  # in place: the same inode
        file.truncate(0)
        file.write(damage)
    lookup = Lookup(volume, cache)
    assert [location.pack_id for location in lookup.locate([digest(1)])[digest(1)]] == [pack_id]
    assert lookup.entries(e.sha1) == [(e, pack_id)]
    lookup.close()


def test_without_an_index_the_tables_answer(volume: Volume, tmp_path: Path) -> None:
    entries = [entry(i) for i in range(3)]
    pack_id = write(volume, [1], entries)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "index").write_text("a file where the index should be")
    with pytest.warns(RuntimeWarning, match="the index cannot be used"):
        lookup = Lookup(volume, cache)
    assert lookup.locate([digest(1)]) == {}
    assert lookup.proved_entries(entries[1].sha1) == [(entries[1], pack_id)]
    assert [location.pack_id for location in lookup.tables.locations(digest(1))] == [pack_id]
    assert log_of(lookup) == entries[::-1]
    lookup.close()


def test_the_tables_locate_in_a_pack_whose_own_table_is_damaged(volume: Volume, open_lookup: Open) -> None:
    lookup = open_lookup()
    pack_id = write(volume, [1, 2], [entry(1)])
    lookup.refresh()
    expected = lookup.locate([digest(1), digest(2)])
    lookup.packs.forget(pack_id)
    change(volume, pack_id, -FOOTER_SIZE - 30, b"????")
    for i in (1, 2):
        assert list(lookup.tables.locations(digest(i))) == expected[digest(i)]
    assert list(lookup.tables.locations(digest(3))) == []


def test_a_pack_that_is_good_again_is_no_suspect_from_the_first_look(volume: Volume, tmp_path: Path) -> None:
    """Its table could not be read for a while, as when its mode was wrong."""
    pack_id = write(volume, [1], [entry(1)])
    path = volume.pack_path(pack_id)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1])
    cache = tmp_path / "cache"
    cache.mkdir()

    def suspects() -> set[bytes]:
        lookup = Lookup(volume, cache)
        index = Index(place_in(cache))
        try:
            return index.suspects()
        finally:
            index.close()
            lookup.close()

    assert suspects() == {pack_id}
    path.write_bytes(data)
    assert suspects() == set()
