"""Merging: everything of the sources is in the merged pack, nothing else is touched, and no trouble reaches the put."""

from __future__ import annotations

import fcntl
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kacas.disk import merger as merger_module
from kacas.disk.lookup import Lookup
from kacas.disk.merger import Merger
from kacas.disk.pack_writer import PackWriter
from kacas.disk.volume import Volume, open_volume
from kacas.errors import DamagedPackError
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, checksum, chunk_digest
from kacas.model.entry import Action, Entry
from kacas.model.merging import MergeRule, sources_of, tier_of
from kacas.model.pack_format import FOOTER_SIZE, HEADER_SIZE, PAYLOAD_HEADER_SIZE, PayloadHeader


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True, durability="relaxed")


Open = Callable[[], tuple[Lookup, Merger]]


@pytest.fixture
def open_host(volume: Volume, tmp_path: Path) -> Iterator[Open]:
    """Each one with a cache of its own, as on another host; three packs are merged into one."""
    opened: list[Lookup] = []

    def open_one() -> tuple[Lookup, Merger]:
        cache = tmp_path / f"cache {len(opened)}"
        cache.mkdir()
        opened.append(Lookup(volume, cache))
        opened[-1].rule = MergeRule(fan_in=3)
        return opened[-1], Merger(volume, opened[-1])

    yield open_one
    for lookup in opened:
        lookup.close()


def raw(i: int) -> bytes:
    return random.Random(i).randbytes(200)


def digest(i: int) -> bytes:
    return chunk_digest(raw(i))


def entry(i: int, **fields: object) -> Entry:
    return Entry(os.urandom(16), b"%020d" % i, digest(i), 200, 1000 + i, 0, b"me", b"", **fields)  # type: ignore[arg-type]


def write(volume: Volume, payloads: list[int], entries: list[Entry]) -> bytes:
    writer = PackWriter(volume)
    header = [PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 200, 200, digest(i)) for i in payloads]
    writer.append([(h, raw(i)) for h, i in zip(header, payloads, strict=True)])
    writer.finish([e.encode() for e in entries])
    return writer.pack_id


def write_singles(volume: Volume, numbers: range) -> list[bytes]:
    return [write(volume, [i], [entry(i)]) for i in numbers]


def change(volume: Volume, pack_id: bytes, at: int, data: bytes) -> None:
    path = volume.pack_path(pack_id)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        file.write(data)


def merged(volume: Volume, *before: bytes) -> bytes:
    """The one pack that is new."""
    (pack_id,) = volume.list_packs() - set(before)
    return pack_id


def merge(lookup: Lookup, merger: Merger) -> None:
    lookup.refresh()
    merger.merge_if_due()


def test_nothing_is_merged_before_enough_has_piled_up(volume: Volume, open_host: Open) -> None:
    write_singles(volume, range(2))
    merge(*open_host())
    assert len(volume.list_packs()) == 2


def test_everything_of_the_sources_is_copied_byte_for_byte_and_they_stay(volume: Volume, open_host: Open) -> None:
    lookup, merger = open_host()
    cancel = entry(9, action=Action.FORGET, cancels=(b"c" * 16,))
    packs = [
        write(volume, [1, 2], [entry(1)]),
        write(volume, [2, 3], [entry(2), cancel]),
        write(volume, [], [entry(3)]),
    ]
    before = {pack_id: volume.pack_path(pack_id).read_bytes() for pack_id in packs}
    merge(lookup, merger)
    made = merged(volume, *packs)
    table = lookup.tables.read(made)
    assert table is not None
    assert sources_of(table) == set(packs)
    assert tier_of(made) == 1
    assert [bytes(d) for d in table.records["digest"].tolist()] == sorted(digest(i) for i in (1, 2, 3)), "each once"
    data = volume.pack_path(made).read_bytes()
    for record in table.records:
        start = int(record["offset"])
        payload = data[start : start + PAYLOAD_HEADER_SIZE + int(record["payload_size"])]
        assert any(payload in source for source in before.values())
    kept = [bytes(encoded) for e, encoded in table.encoded_entries() if e.action != Action.MERGED]
    assert len(kept) == 4
    assert all(any(encoded in source for source in before.values()) for encoded in kept)
    assert {pack_id: volume.pack_path(pack_id).read_bytes() for pack_id in packs} == before
    assert volume.pack_path(made).stat().st_mode & 0o777 == 0o444
    assert volume.list_orphans() == []


def test_each_payload_is_copied_once_per_tier(volume: Volume, open_host: Open) -> None:
    lookup, merger = open_host()
    for i in range(27):
        write_singles(volume, range(i, i + 1))
        merge(lookup, merger)
        merge(lookup, merger)  # one merge for a put: that of the next tier waits for the next
        merge(lookup, merger)
    tiers = sorted(tier_of(pack_id) for pack_id in volume.list_packs())
    assert tiers == [0] * 27 + [1] * 9 + [2] * 3 + [3]
    copied = [
        len(table.records)
        for pack_id in volume.list_packs()
        if tier_of(pack_id) and (table := lookup.tables.read(pack_id))
    ]
    assert sum(copied) == 27 * 3
    assert len(lookup.locate([digest(i) for i in range(27)])) == 27
    (top,) = [pack_id for pack_id in volume.list_packs() if tier_of(pack_id) == 3]
    assert {places[0].pack_id for places in lookup.locate([digest(i) for i in range(27)]).values()} == {top}


def test_a_put_waits_for_one_merge_at_most(volume: Volume, open_host: Open) -> None:
    packs = write_singles(volume, range(20))
    lookup, merger = open_host()
    merger.merge_if_due()
    table = lookup.tables.read(merged(volume, *packs))
    assert table is not None
    assert len(sources_of(table)) == 3


def flipped_payload(volume: Volume, pack_id: bytes) -> None:
    change(volume, pack_id, HEADER_SIZE + PAYLOAD_HEADER_SIZE + 7, b"\xff\0\xff")


def flipped_header(volume: Volume, pack_id: bytes) -> None:
    change(volume, pack_id, HEADER_SIZE + 20, b"\xff\0\xff")


def flipped_check(volume: Volume, pack_id: bytes) -> None:
    change(volume, pack_id, HEADER_SIZE + 50, b"\xff\0\xff")


def flipped_footer(volume: Volume, pack_id: bytes) -> None:
    change(volume, pack_id, -FOOTER_SIZE, b"?")


def gone(volume: Volume, pack_id: bytes) -> None:
    volume.pack_path(pack_id).unlink()


def newer(volume: Volume, pack_id: bytes) -> None:
    data = bytearray(volume.pack_path(pack_id).read_bytes())
    data[8] = 2
    data[-16:] = checksum(16, data[:HEADER_SIZE], data[-FOOTER_SIZE:-16])
    change(volume, pack_id, 0, data)


@pytest.mark.parametrize("spoil", [flipped_payload, flipped_header, flipped_check, flipped_footer, gone, newer])
def test_a_source_that_is_not_good_is_left_out(
    volume: Volume, open_host: Open, spoil: Callable[[Volume, bytes], None]
) -> None:
    lookup, merger = open_host()
    packs = write_singles(volume, range(3))
    lookup.refresh()
    spoil(volume, packs[1])
    merger.merge_if_due()
    made = merged(volume, *packs)
    table = lookup.tables.read(made)
    assert table is not None
    assert sources_of(table) == {packs[0], packs[2]}
    assert len(table.records) == 2
    # And is not tried again and again.
    more = write_singles(volume, range(10, 12))
    merge(lookup, merger)
    assert volume.list_packs() - {*more, made} <= set(packs)


def test_what_is_covered_is_not_opened_for_a_new_index_nor_for_a_miss(volume: Volume, open_host: Open) -> None:
    merge(*open_host())
    packs = write_singles(volume, range(3))
    merge(*open_host())
    made = merged(volume, *packs)
    for pack_id in packs:
        flipped_footer(volume, pack_id)  # whoever read them would complain
    lookup, _ = open_host()
    assert lookup.proved_entries(b"?" * 20) == []
    assert lookup.tables.problems == {}
    for i in range(3):
        assert [location.pack_id for location in lookup.locate([digest(i)])[digest(i)]] == [made]
        assert [(e.sha1, pack) for e, pack in lookup.proved_entries(b"%020d" % i)] == [(b"%020d" % i, made)]
    assert len(list(lookup.log(b"me"))) == 3


def test_the_mark_is_found_by_nobody(volume: Volume, open_host: Open) -> None:
    write_singles(volume, range(3))
    lookup, merger = open_host()
    merge(lookup, merger)
    assert lookup.entries(bytes(20)) == lookup.proved_entries(bytes(20)) == []


@pytest.mark.parametrize("spoil", [flipped_footer, gone])
@pytest.mark.parametrize("opened_before", [True, False])
def test_without_the_merged_pack_its_sources_count_again(
    volume: Volume, open_host: Open, spoil: Callable[[Volume, bytes], None], opened_before: bool
) -> None:
    lookup, merger = open_host()
    packs = write_singles(volume, range(3))
    merge(lookup, merger)
    if not opened_before:
        lookup, _ = open_host()
    spoil(volume, merged(volume, *packs))
    lookup.packs.close()
    assert [e.sha1 for e, _ in lookup.proved_entries(b"%020d" % 1)] == [b"%020d" % 1]
    lookup.refresh()
    found = lookup.locate([digest(i) for i in range(3)])
    assert [found[digest(i)][0].pack_id for i in range(3)] == packs
    assert len(list(lookup.log(b"me"))) == 3
    if spoil is flipped_footer:
        with pytest.raises(DamagedPackError, match="cannot be told"):
            lookup.proved_entries(b"?" * 20)
    else:
        assert lookup.proved_entries(b"?" * 20) == []


def test_a_location_is_found_in_the_sources_of_the_pack_that_should_have_it(volume: Volume, open_host: Open) -> None:
    lookup, merger = open_host()
    packs = write_singles(volume, range(3))
    merge(lookup, merger)
    made = merged(volume, *packs)
    write_singles(volume, range(5, 7))
    assert [location.pack_id for location in lookup.tables.locations(digest(1))] == [made, packs[1]]


def test_damage_in_what_is_covered_is_no_reason_to_doubt_a_miss(volume: Volume, open_host: Open) -> None:
    lookup, merger = open_host()
    packs = write_singles(volume, range(3))
    merge(lookup, merger)
    flipped_footer(volume, packs[0])
    lookup.packs.close()
    assert lookup.tables.read_whole(packs[0]) is None
    assert lookup.tables.problems.keys() == {packs[0]}
    for _ in range(2):
        lookup.refresh()
        assert lookup.tables.problems == {}
        assert lookup.proved_entries(b"?" * 20) == []
    assert [location.pack_id for location in lookup.locate([digest(0)])[digest(0)]] == [merged(volume, *packs)]


def test_two_hosts_that_merge_the_same_packs_do_no_harm(volume: Volume, open_host: Open) -> None:
    one, one_merger = open_host()
    other, other_merger = open_host()
    packs = write_singles(volume, range(3))
    for lookup in (one, other):
        lookup.refresh()
    one_merger.merge_if_due()
    other_merger.merge_if_due()
    assert len(volume.list_packs()) == 5, "neither knew of the other"
    for lookup in (one, other, open_host()[0]):
        lookup.refresh()
        for i in range(3):
            assert {location.pack_id for location in lookup.locate([digest(i)])[digest(i)]}.isdisjoint(packs)
            assert len(lookup.entries(b"%020d" % i)) == len(lookup.proved_entries(b"%020d" % i)) == 1
        assert len(list(lookup.log(b"me"))) == 3


def test_one_host_merges_once_whoever_tries(volume: Volume, open_host: Open) -> None:
    lookup, _ = open_host()
    packs = write_singles(volume, range(3))
    lookup.refresh()
    begun = threading.Barrier(8)

    def run() -> None:
        begun.wait()
        Merger(volume, lookup).merge_if_due()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    merged(volume, *packs)


def test_a_merge_of_another_process_is_not_waited_for(volume: Volume, open_host: Open, tmp_path: Path) -> None:
    lookup, merger = open_host()
    write_singles(volume, range(3))
    with open(tmp_path / "cache 0" / "merge.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merge(lookup, merger)
        assert len(volume.list_packs()) == 3
    merge(lookup, merger)
    assert len(volume.list_packs()) == 4


def test_no_merge_takes_the_last_space_of_a_disk(
    volume: Volume, open_host: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup, merger = open_host()
    write_singles(volume, range(3))
    with monkeypatch.context() as patch:
        patch.setattr(merger_module, "_LEFT_FREE", 1 << 62)
        merge(lookup, merger)
        assert len(volume.list_packs()) == 3
    merge(lookup, merger)
    assert len(volume.list_packs()) == 4


def test_a_merge_that_fails_is_said_once_and_tried_again_later(
    volume: Volume, open_host: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup, merger = open_host()
    write_singles(volume, range(3))
    lookup.refresh()

    def fail(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", fail)
        with pytest.warns(RuntimeWarning, match="small packs could not be merged.*No space left"):
            merger.merge_if_due()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            merger.merge_if_due()
    assert volume.list_orphans() == []
    assert len(volume.list_packs()) == 3
    merger.merge_if_due()
    assert len(volume.list_packs()) == 3, "not at every put"
    monkeypatch.setattr(merger_module.time, "monotonic", lambda: float(1 << 40))
    merger.merge_if_due()
    assert len(volume.list_packs()) == 4


def test_without_an_index_nothing_is_merged(volume: Volume, open_host: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup, merger = open_host()
    write_singles(volume, range(3))
    monkeypatch.setattr(lookup, "_index", None)
    merge(lookup, merger)
    assert len(volume.list_packs()) == 3


def test_ctrl_c_while_sources_are_read_leaves_nothing_over(
    volume: Volume, open_host: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup, merger = open_host()
    write_singles(volume, range(3))
    lookup.refresh()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lookup.tables, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            merger.merge_if_due()
    assert volume.list_orphans() == []
    merger.merge_if_due()
    assert len(volume.list_packs()) == 4
