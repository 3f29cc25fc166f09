"""Packs: what a writer takes, a reader gives back, with the table and without it."""

from __future__ import annotations

import gc
import os
import random
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas.disk.pack_reader import MAX_OPEN_PACKS, OpenPacks, PackReader
from kacas.disk.pack_writer import PackWriter, Payload
from kacas.disk.volume import Volume, open_volume
from kacas.errors import DamagedPackError, ForeignPackError, NewerFormatError, StoreError
from kacas.model.codec import Codec, Decoder
from kacas.model.digest import PayloadKind, chunk_digest, payload_digest
from kacas.model.encoder import Encoder
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    PAYLOAD_HEADER_SIZE,
    Footer,
    PayloadHeader,
    check_payload,
    decode_payload_header,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True, durability="relaxed")


def payload_of(raw: bytes, kind: PayloadKind = PayloadKind.CHUNK) -> Payload:
    codec, _, payload = Encoder().encode(memoryview(raw))
    return PayloadHeader(kind, codec, len(payload), len(raw), payload_digest(kind, raw)), payload


def entry(label: bytes = b"a.npy") -> Entry:
    return Entry(os.urandom(16), b"s" * 20, b"r" * 32, 5, 6, 0, b"owner", label)


def open_reader(volume: Volume, writer: PackWriter) -> PackReader:
    return PackReader(volume.pack_path(writer.pack_id), writer.pack_id, volume.store_id)


def raw_at(reader: PackReader, location: Location) -> bytes:
    """The payload at a location, checked and decoded as a careful reader does."""
    data = memoryview(bytearray(location.stop - location.offset))
    reader.read_into(data, location.offset)
    header = decode_payload_header(data)
    payload = data[PAYLOAD_HEADER_SIZE + len(header.parameters) :]
    check_payload(header, data, payload)
    raw = bytearray(header.raw_size)
    Decoder().decode_into(header.codec, header.parameters, payload, memoryview(raw))
    return bytes(raw)


sizes = st.integers(0, 2000) | st.integers(0, 2_500_000)
contents = st.builds(
    lambda size, seed, noise: random.Random(seed).randbytes(size) if noise else (b"%d " % seed * size)[:size],
    sizes, st.integers(0, 99), st.booleans(),
)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(contents, max_size=4), max_size=4), st.integers(0, 3))
def test_every_payload_comes_back_from_where_the_writer_said(
    volume: Volume, calls: list[list[bytes]], entry_count: int
) -> None:
    writer = PackWriter(volume)
    expected: list[tuple[Location, bytes]] = []
    for raws in calls:
        records = writer.append([payload_of(raw) for raw in raws])
        expected += zip(map(writer.location, records), raws, strict=True)
    entries = [entry() for _ in range(entry_count)]
    written = writer.finish([e.encode() for e in entries])
    reader = open_reader(volume, writer)
    table = reader.read_table()
    assert table.records.tolist() == written.records.tolist()
    assert list(table.entries()) == entries
    for location, raw in expected:
        assert raw_at(reader, location) == raw
        assert reader.confirms(location, payload_digest(PayloadKind.CHUNK, raw))
    # Without the table, too: the payload headers lead from one to the next.
    walked = list(reader.scan())
    assert [at for at, _ in walked] == [location.offset for location, _ in expected]
    assert [h.digest for _, h in walked] == [payload_digest(PayloadKind.CHUNK, raw) for _, raw in expected]
    assert reader.size == written.records["payload_size"].sum() + len(expected) * PAYLOAD_HEADER_SIZE + (
        HEADER_SIZE + FOOTER_SIZE + len(expected) * 56 + len(written.entries_data)
    )


@pytest.fixture
def pack(volume: Volume) -> tuple[PackWriter, list[Location]]:
    writer = PackWriter(volume)
    records = writer.append([payload_of(b"text " * 100), payload_of(b"short"), payload_of(random.randbytes(900))])
    writer.finish([entry().encode()])
    return writer, [writer.location(record) for record in records]


def test_a_buffer_may_be_reused_when_append_returns(volume: Volume) -> None:
    writer = PackWriter(volume)
    buffer = bytearray(random.Random(1).randbytes(3000))
    first = bytes(buffer)
    header, _ = payload_of(first)
    (record,) = writer.append([(header, memoryview(buffer))])
    buffer[:] = bytes(3000)
    writer.finish([])
    assert raw_at(open_reader(volume, writer), writer.location(record)) == first


def test_lasting_payloads_lie_where_the_writer_said_whenever_they_are_written(volume: Volume) -> None:
    raws = [bytes([number]) * size for number, size in enumerate([2 << 20, 700_000, 3 << 20, 5, 2 << 20, 2 << 20, 9])]
    writer = PackWriter(volume)
    records = []
    for number, raw in enumerate(raws):
        header = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), chunk_digest(raw))
        records += writer.append([(header, raw)], lasting=number != 3)
        if number == 4:
            writer.write_gathered()
    first = writer.location(records[0])
    assert writer.read(first.stop - len(raws[0]), len(raws[0])) == raws[0]
    writer.finish([])
    reader = open_reader(volume, writer)
    assert [raw_at(reader, writer.location(record)) for record in records] == raws


def test_a_discarded_pack_is_not_written_to(volume: Volume) -> None:
    writer = PackWriter(volume)
    raw = b"x" * (2 << 20)
    header = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), chunk_digest(raw))
    writer.append([(header, raw)], lasting=True)
    writer.discard()
    writer.write_gathered()
    assert os.listdir(volume.packs) == []


def test_after_a_write_that_failed_nothing_more_is_written_and_nothing_published(volume: Volume) -> None:
    """A part of it may have been written: what comes next would not be where its record says."""
    writer = PackWriter(volume)
    raw = random.randbytes(2 << 20)
    header = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), chunk_digest(raw))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, unlimited[1]))
    try:
        with pytest.raises(StoreError):
            writer.append([(header, raw)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    with pytest.raises(StoreError):
        writer.append([(header, raw)])
    with pytest.raises(StoreError):
        writer.finish([])
    assert os.listdir(volume.packs) == []


def test_nothing_is_seen_before_the_pack_is_finished(volume: Volume) -> None:
    writer = PackWriter(volume)
    writer.append([payload_of(b"content" * 300_000)])
    assert volume.list_packs() == set()
    assert len(volume.list_orphans()) == 1
    writer.finish([])
    assert volume.list_packs() == {writer.pack_id}
    assert volume.list_orphans() == []


def test_a_discarded_pack_leaves_nothing(volume: Volume) -> None:
    writer = PackWriter(volume)
    writer.append([payload_of(b"content" * 300_000)])
    writer.discard()
    writer.discard()
    assert os.listdir(volume.packs) == []


def test_what_was_appended_can_be_read_before_the_pack_is_finished(volume: Volume) -> None:
    writer = PackWriter(volume)
    for raw in (b"gathered", random.randbytes(2_000_000), b"gathered too"):
        header, payload = payload_of(raw)
        (record,) = writer.append([(header, payload)])
        location = writer.location(record)
        data = writer.read(location.offset, location.stop - location.offset)
        assert data == header.encode(payload) + bytes(payload)
    writer.discard()


def test_a_pack_cannot_be_written_by_accident_and_has_its_own_id(volume: Volume) -> None:
    writers = [PackWriter(volume) for _ in range(3)]
    for writer in writers:
        writer.finish([])
        assert volume.pack_path(writer.pack_id).stat().st_mode & 0o777 == 0o444
    assert len({writer.pack_id for writer in writers}) == 3


def test_a_pack_of_entries_alone_is_whole(volume: Volume) -> None:
    writer = PackWriter(volume)
    writer.finish([entry(b"one").encode(), entry(b"two").encode()])
    table = open_reader(volume, writer).read_table()
    assert len(table.records) == 0
    assert [e.label for e in table.entries()] == [b"one", b"two"]


def rewrite(volume: Volume, writer: PackWriter, change: bytes | int, at: int = 0) -> PackReader:
    """Put bytes into a published pack, or cut it at a length."""
    path = volume.pack_path(writer.pack_id)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        if isinstance(change, int):
            file.truncate(change)
        else:
            file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            file.write(change)
    return open_reader(volume, writer)


def test_a_flipped_bit_anywhere_outside_the_payloads_makes_the_table_unreadable(
    volume: Volume, pack: tuple[PackWriter, list[Location]]
) -> None:
    writer, locations = pack
    whole = volume.pack_path(writer.pack_id).read_bytes()
    for at in [*range(HEADER_SIZE), *range(locations[-1].stop, len(whole))]:
        reader = rewrite(volume, writer, bytes([whole[at] ^ 0x10]), at)
        with pytest.raises((DamagedPackError, NewerFormatError)) as caught:
            reader.read_table()
        assert caught.value.pack == writer.pack_id.hex()
        assert writer.pack_id.hex() in str(caught.value)
        rewrite(volume, writer, whole[at : at + 1], at)
    assert len(open_reader(volume, writer).read_table().records) == 3


def test_a_pack_cut_at_any_length_is_refused_and_what_is_whole_can_still_be_walked(
    volume: Volume, pack: tuple[PackWriter, list[Location]]
) -> None:
    writer, locations = pack
    size = volume.pack_path(writer.pack_id).stat().st_size
    for cut in sorted([*range(0, size, 97), *(size - back for back in (1, 60, 128, 129))], reverse=True):
        reader = rewrite(volume, writer, cut)
        with pytest.raises(DamagedPackError):
            reader.read_table()
        starts = [location.offset for location in locations if location.offset + PAYLOAD_HEADER_SIZE <= cut]
        assert [at for at, _ in reader.scan()] == starts


def test_reading_behind_the_end_names_the_pack(volume: Volume, pack: tuple[PackWriter, list[Location]]) -> None:
    reader = open_reader(volume, pack[0])
    with pytest.raises(DamagedPackError, match="it ends at byte") as caught:
        reader.read_into(memoryview(bytearray(10)), reader.size - 5)
    assert caught.value.pack == pack[0].pack_id.hex()


def test_a_pack_of_another_store_is_called_foreign(
    volume: Volume, tmp_path: Path, pack: tuple[PackWriter, list[Location]]
) -> None:
    other = open_volume(tmp_path / "other", create=True)
    (tmp_path / "store" / "packs" / f"{pack[0].pack_id.hex()}.pack").rename(other.pack_path(pack[0].pack_id))
    with pytest.raises(ForeignPackError, match=volume.store_id.hex()):
        open_reader(other, pack[0]).read_table()


def test_a_pack_under_another_name_is_called_foreign(volume: Volume, pack: tuple[PackWriter, list[Location]]) -> None:
    renamed = volume.pack_path(b"n" * 16)
    volume.pack_path(pack[0].pack_id).rename(renamed)
    with pytest.raises(ForeignPackError, match=pack[0].pack_id.hex()):
        PackReader(renamed, b"n" * 16, volume.store_id).read_table()


def test_a_pack_that_is_not_there_is_simply_missing(volume: Volume) -> None:
    with pytest.raises(FileNotFoundError):
        PackReader(volume.pack_path(b"m" * 16), b"m" * 16, volume.store_id)


def test_a_location_is_confirmed_only_by_the_header_of_that_digest_and_those_sizes(
    volume: Volume, pack: tuple[PackWriter, list[Location]]
) -> None:
    reader, (first, second, _) = open_reader(volume, pack[0]), pack[1]
    digest = payload_digest(PayloadKind.CHUNK, b"short")
    assert reader.confirms(second, digest)
    assert not reader.confirms(first, digest)
    for wrong in (
        second._replace(offset=second.offset + 1),
        second._replace(offset=reader.size),
        second._replace(raw_size=6),
        second._replace(payload_size=second.payload_size + 1),
    ):
        assert not reader.confirms(wrong, digest)


def test_the_table_must_be_where_the_footer_says(volume: Volume, pack: tuple[PackWriter, list[Location]]) -> None:
    """A footer with a right checksum and a wrong table: only somebody who forges one makes it."""
    path = volume.pack_path(pack[0].pack_id)
    data = path.read_bytes()
    footer = open_reader(volume, pack[0]).read_footer()
    forged = Footer(
        footer.pack_id, footer.table_offset - 56, footer.table_size + 56, footer.chunk_count, footer.entry_count,
        footer.file_size, footer.table_digest,
    )  # fmt: skip
    reader = rewrite(volume, pack[0], forged.encode(data[:HEADER_SIZE]), -FOOTER_SIZE)
    with pytest.raises(DamagedPackError, match="its table is damaged"):
        reader.read_table()


def test_at_most_64_packs_are_open_at_once(volume: Volume) -> None:
    writers = [PackWriter(volume) for _ in range(MAX_OPEN_PACKS + 10)]
    for writer in writers:
        writer.finish([])
    packs = OpenPacks(volume)
    gc.collect()  # of what other tests left
    before = len(os.listdir("/proc/self/fd"))
    for writer in writers:
        assert packs.get(writer.pack_id).read_footer().pack_id == writer.pack_id
    assert MAX_OPEN_PACKS == 64
    assert len(os.listdir("/proc/self/fd")) == before + MAX_OPEN_PACKS
    packs.close()
    assert len(os.listdir("/proc/self/fd")) == before
