"""Verify: it reads every byte, names what is wrong with pack and URI, and calls nothing wrong that is not."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from kacas import DamagedError, Store
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, checksum, chunk_digest
from kacas.model.entry import Entry
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    PAYLOAD_HEADER_SIZE,
    Footer,
    PackHeader,
    PayloadHeader,
    encode_table,
)
from kacas.model.uri import parse_uri
from kacas.upkeep.verify import VerifyReport, verify


def packs(store: Store) -> set[Path]:
    return set((store.path / "packs").glob("*.pack"))


def stored(store: Store, data: bytes, label: str) -> tuple[str, Path]:
    """Store bytes; the URI and the pack that was published for it."""
    before = packs(store)
    uri = store.store_bytes(data, label=label)
    (pack,) = packs(store) - before
    return uri, pack


def chunks_of(store: Store, uri: str) -> set[str]:
    _, content = store.repository.resolve(parse_uri(uri))
    return {chunk.digest.hex() for chunk in content.chunks()}


def overwrite(pack: Path, at: int, data: bytes) -> None:
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(at)
        file.write(data)


def flip(pack: Path, at: int) -> None:
    overwrite(pack, at, bytes([pack.read_bytes()[at] ^ 0x20]))


def uris_of(report: VerifyReport) -> set[str]:
    return {uri for problem in report.problems for uri in problem.uris}


def packs_of(report: VerifyReport) -> set[str]:
    return {problem.pack for problem in report.problems if problem.pack}


def entry_of(raw: bytes, sha1: bytes, label: bytes = b"planted") -> Entry:
    return Entry(os.urandom(16), sha1, chunk_digest(raw), len(raw), time.time_ns(), 0, b"me", label)


def plant(
    store: Store, raw: bytes, entries: list[Entry], *, junk: bytes = b"", record: PayloadHeader | None = None
) -> Path:
    """Write a pack by hand: with bytes that belong to nothing, or a table that says something else."""
    pack_id = os.urandom(16)
    header = PackHeader(pack_id, bytes.fromhex(store.store_id)).encode()
    payload = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), chunk_digest(raw))
    body = header + payload.encode(raw) + raw + junk
    table = encode_table([(record or payload).record(HEADER_SIZE)], [entry.encode() for entry in entries])
    footer = Footer(
        pack_id, len(body), len(table), 1, len(entries), len(body) + len(table) + FOOTER_SIZE, chunk_digest(table)
    )
    pack = store.path / "packs" / f"{pack_id.hex()}.pack"
    pack.write_bytes(body + table + footer.encode(header))
    return pack


# --- nothing wrong ----------------------------------------------------------------------------


def test_an_empty_store_is_clean(store: Store) -> None:
    assert verify(store) == VerifyReport()
    assert verify(store).clean


def test_a_store_with_everything_in_it_is_clean_and_counted(store: Store) -> None:
    store.store_text("text", label="a.txt")
    store.store_text("text", label="b.txt")
    store.store_npy(np.arange(2_000_000))
    store.store_bytes(os.urandom(3 << 20))
    store.store_bytes(b"")
    store.forget(store.store_json({"a": 1}))
    with store.batch():
        for i in range(200):
            store.store_json(i)
    report = verify(store)
    stats = store.stats()
    assert report.clean
    assert report.problems == report.orphans == []
    assert (report.packs, report.chunks, report.contents) == (stats.packs, stats.chunks, stats.contents)
    contents = sum(item.size for item in {item.uri.split("?")[0]: item for item in store.history()}.values())
    assert report.checked_size == stats.pack_size + contents
    quick = verify(store, quick=True)
    assert quick.clean
    assert (quick.packs, quick.contents, quick.checked_size) == (stats.packs, stats.contents, stats.pack_size)


def test_content_with_many_nodes_is_clean(tmp_path: Path) -> None:
    with Store.open(tmp_path / "deep", durability="relaxed") as deep:
        array = np.zeros((600, 70_000), np.int32)
        array[:, 0] = np.arange(600)
        uri = deep.store_npy(array)
        assert deep.describe(uri).chunks >= 600
        assert verify(deep).clean


def test_the_progress_rises_to_its_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    with Store.open(tmp_path / "store", progress=lambda *step: seen.append(step)) as store:
        for i in range(3):
            store.store_text(f"content {i}")
        seen.clear()
        verify(store)
    for stage in ("checking packs", "checking contents"):
        steps = [(done, total) for name, done, total in seen if name == stage]
        assert len(steps) == 3
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("data", [os.urandom(5000), b"compressible " * 500], ids=["raw", "zstd"])
def test_a_flipped_payload_is_named_with_its_pack_and_the_uri_it_touches(
    store: Store, data: bytes, quick: bool
) -> None:
    good, _ = stored(store, b"untouched", "good.bin")
    bad, pack = stored(store, data, "bad.bin")
    flip(pack, HEADER_SIZE + PAYLOAD_HEADER_SIZE + 20)
    report = verify(store, quick=quick)
    assert not report.clean
    assert {problem.kind for problem in report.problems} == {"damaged"}
    assert packs_of(report) == {pack.stem}
    assert chunk_digest(data).hex() in {problem.digest for problem in report.problems}
    assert any(pack.name in problem.message for problem in report.problems)
    if not quick:
        assert uris_of(report) == {bad}
        assert any(f"{bad} cannot be loaded" in problem.message for problem in report.problems)
    assert store.load_bytes(good) == b"untouched"


def test_a_flipped_byte_anywhere_in_a_pack_is_found(store: Store) -> None:
    _, pack = stored(store, b"some content that is stored raw", "a.bin")
    data = pack.read_bytes()
    for at in range(len(data)):
        flip(pack, at)
        report = verify(store)
        assert packs_of(report) == {pack.stem}, f"byte {at}"
        overwrite(pack, at, data[at : at + 1])
    assert verify(store).clean


def test_a_pack_cut_at_any_length_is_found(store: Store) -> None:
    _, pack = stored(store, b"some content that is stored raw", "a.bin")
    pack.chmod(0o644)
    for size in range(pack.stat().st_size - 1, -1, -11):
        os.truncate(pack, size)
        assert packs_of(verify(store)) == {pack.stem}, f"{size} bytes"


def test_a_pack_that_was_replaced_by_a_damaged_one_is_found_by_a_store_that_has_it_open(store: Store) -> None:
    uri, pack = stored(store, b"some content that is stored raw", "a.bin")
    assert store.load_bytes(uri)
    copy = pack.with_name("copy")
    copy.write_bytes(pack.read_bytes())
    flip(copy, HEADER_SIZE + PAYLOAD_HEADER_SIZE)
    copy.rename(pack)
    assert packs_of(verify(store)) == {pack.stem}


def test_a_flipped_chunk_of_many_touches_every_uri_that_needs_it_and_no_other(store: Store) -> None:
    shared, own = os.urandom(3 << 20), os.urandom(256 << 10)
    first, pack = stored(store, shared + b"first", "first.bin")
    second, _ = stored(store, shared + b"second", "second.bin")
    stored(store, own + b"third", "third.bin")
    flip(pack, pack.read_bytes().index(shared[:100]))
    report = verify(store)
    assert uris_of(report) == {first, second}
    assert packs_of(report) == {pack.stem}


def test_storing_again_what_was_found_damaged_heals_it(store: Store) -> None:
    data = os.urandom(5000)
    uri, pack = stored(store, data, "a.bin")
    flip(pack, HEADER_SIZE + PAYLOAD_HEADER_SIZE + 20)
    assert uris_of(verify(store)) == {uri}
    assert store.store_bytes(data, label="a.bin") == uri
    assert store.load_bytes(uri) == data
    report = verify(store)
    assert packs_of(report) == {pack.stem}, "the damage is still there to be told"
    assert uris_of(report) == set(), "but no URI suffers from it"


@pytest.mark.parametrize("quick", [False, True])
def test_a_missing_pack_is_told_by_the_uris_that_need_it(store: Store, quick: bool) -> None:
    shared = os.urandom(3 << 20)
    first, pack = stored(store, shared + b"first", "first.bin")
    second, _ = stored(store, shared + b"second", "second.bin")
    both = chunks_of(store, first) & chunks_of(store, second)
    assert both
    good, _ = stored(store, b"good", "good.bin")
    pack.unlink()
    report = verify(store, quick=quick)
    assert {problem.kind for problem in report.problems} == {"missing"}
    assert uris_of(report) == {second}
    (digest,) = {problem.digest for problem in report.problems}
    assert digest in both
    assert store.load_bytes(good) == b"good"


def test_a_foreign_and_a_newer_pack_are_called_that(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other") as other:
        _, foreign = stored(other, b"theirs", "theirs.bin")
        foreign.rename(store.path / "packs" / foreign.name)
    _, newer = stored(store, b"from the future", "future.bin")
    data = bytearray(newer.read_bytes())
    data[8] = 2
    data[-16:] = checksum(16, data[:HEADER_SIZE], data[-FOOTER_SIZE:-16])
    overwrite(newer, 0, data)
    kinds = {problem.pack: problem.kind for problem in verify(store).problems if problem.pack}
    assert kinds == {foreign.stem: "foreign", newer.stem: "newer"}


def test_a_pack_under_a_wrong_name_is_called_foreign(store: Store) -> None:
    _, pack = stored(store, b"content", "a.bin")
    pack.rename(pack.with_name("0" * 32 + ".pack"))
    assert {(problem.kind, problem.pack) for problem in verify(store).problems} == {("foreign", "0" * 32)}


def test_good_bytes_under_a_wrong_identity_are_found_by_a_full_look(store: Store) -> None:
    wrong = hashlib.sha1(b"what the URI promises").digest()
    plant(store, b"what is there", [entry_of(b"what is there", wrong)])
    assert verify(store, quick=True).clean, "to see it, the content must be hashed"
    report = verify(store)
    assert uris_of(report) == {f"sha1://{wrong.hex()}?label=planted"}
    assert hashlib.sha1(b"what is there").hexdigest() in report.problems[0].message


def test_an_entry_that_gives_another_size_is_found(store: Store) -> None:
    raw = b"what is there"
    entry = entry_of(raw, hashlib.sha1(raw).digest())
    plant(store, raw, [entry._replace(size=5)])
    assert uris_of(verify(store)) == {f"sha1://{hashlib.sha1(raw).hexdigest()}?label=planted"}


def test_bytes_that_belong_to_no_payload_are_found(store: Store) -> None:
    raw = b"what is there"
    pack = plant(store, raw, [entry_of(raw, hashlib.sha1(raw).digest())], junk=b"smuggled")
    (problem,) = verify(store).problems
    assert (problem.kind, problem.pack) == ("damaged", pack.stem)
    assert "belong to no payload" in problem.message


@pytest.mark.parametrize(
    "record",
    [
        PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 13, 14, chunk_digest(b"what is there")),
        PayloadHeader(PayloadKind.NODE, Codec.RAW, 13, 13, chunk_digest(b"what is there")),
        PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, 13, 13, chunk_digest(b"what is there")),
        PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 13, 13, chunk_digest(b"something else")),
    ],
    ids=["raw size", "kind", "codec", "digest"],
)
def test_a_table_that_says_something_else_than_the_payload_is_found(store: Store, record: PayloadHeader) -> None:
    pack = plant(store, b"what is there", [], record=record)
    assert packs_of(verify(store)) == {pack.stem}


@pytest.mark.parametrize("sizes", [(2**32 - 1, 13), (13, 2**32 - 1)], ids=["payload", "raw"])
@pytest.mark.parametrize("look", ["verify", "load"])
def test_a_table_that_declares_gigabytes_is_refused_before_memory_is_taken(
    store: Store, sizes: tuple[int, int], look: str
) -> None:
    raw = b"what is there"
    record = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, *sizes, chunk_digest(raw))
    pack = plant(store, raw, [entry_of(raw, hashlib.sha1(raw).digest())], record=record)
    tracemalloc.start()
    try:
        if look == "verify":
            assert packs_of(verify(store)) == {pack.stem}
        else:
            with pytest.raises(DamagedError):
                store.load_bytes(f"sha1://{hashlib.sha1(raw).hexdigest()}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


# --- orphans ----------------------------------------------------------------------------------


def test_leftovers_of_writers_are_listed_and_no_problem(store: Store) -> None:
    uri, pack = stored(store, b"content", "a.bin")
    left = [f".{'ab' * 16}.pack.tmp.host.123.deadbeef", "notes.txt"]
    for name in left:
        (pack.parent / name).write_bytes(b"half a pack")
    report = verify(store)
    assert report.clean
    assert report.orphans == sorted(f"packs/{name}" for name in left)
    assert all((pack.parent / name).exists() for name in left), "verify removes nothing"
    assert store.load_bytes(uri) == b"content"


def test_verify_changes_nothing_in_the_store(store: Store) -> None:
    _, pack = stored(store, os.urandom(5000), "a.bin")
    stored(store, b"other", "b.bin")
    flip(pack, HEADER_SIZE + PAYLOAD_HEADER_SIZE + 20)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    verify(store)
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


def test_leftovers_of_makers_of_segments_are_listed_too(store: Store) -> None:
    store.store_text("a text")
    (store.path / "segments").mkdir(exist_ok=True)
    name = ".00.seg.tmp.host.1.00"
    (store.path / "segments" / name).write_bytes(b"begun")
    report = verify(store)
    assert report.clean
    assert report.orphans == [f"segments/{name}"]
