"""Forged buckets: whoever can write to one, and is not trusted, makes no reader fail for good, grow, or give wrong bytes."""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.layouts import best_first
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, checksum, chunk_digest, new_sha1
from kacas.model.entry import Kind
from kacas.model.manifest import Child
from kacas.model.pack_format import FOOTER_SIZE, Footer, PackHeader, PayloadHeader, encode_table
from kacas.model.uri import Uri, parse_any_uri, parse_uri
from kacas_remote import chunk_source
from kacas_remote.blob_ranges import BlobRanges, Place
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.chunk_source import RecipeSource, _Node
from kacas_remote.errors import UntrustedError
from kacas_remote.layout import REMOVED, pack_key, plain_key, recipe_key
from kacas_remote.recipe import ChunkPlace, Head, LyingRecipeError, PagePlace, encode_recipe
from kacas_remote.remote import new_remote
from kacas_remote.removed import remove_entries
from kacas_remote.signing import new_private_key, public_key, sign, statement
from kacas_remote.table_source import TableSource
from kacas_remote.tables import Tables
from kacas_remote.trust import add_publisher, trust_file
from tests.remote.buckets import Bucket, entry_of, pack_of, put_pack
from tests.remote.counting import CountingBlobs
from tests.remote.filled import put_content, put_packs, put_recipe, upstream_on
from tests.remote.recipes import SHA1, chunk, encoded, tree_of
from tests.upstreams import fetched_packs

Node = Callable[..., kacas.Store]


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.mark.parametrize("garbage", [b"x", b"y" * 17, b"", bytes((16 << 20) + 16)])
def test_a_damaged_record_of_removals_removes_nothing_and_stops_nobody(
    bucket: Bucket, tmp_path: Path, garbage: bytes
) -> None:
    gone, kept = entry_of(b"gone"), entry_of(b"kept")
    put_pack(bucket, [b"gone", b"kept"], [gone, kept])
    remove_entries(bucket.blobs, {gone.sha1: [gone.entry_id]})
    bucket.blobs.put(f"{REMOVED}{kept.sha1.hex()}.{'0' * 32}", garbage)
    tables = Tables(bucket, tmp_path)
    for _ in range(2):
        tables.refresh()
        assert set(tables.entries([gone.sha1, kept.sha1])) == {kept.sha1}


def test_a_table_that_is_refused_leaves_no_rows_and_is_not_read_for_every_miss(bucket: Bucket, tmp_path: Path) -> None:
    put_pack(bucket, [b"good"])
    pack_id, data = pack_of([bytes([number]) * 9 for number in range(200)])
    bucket.blobs.put(pack_key(pack_id), data[: -FOOTER_SIZE - 1] + b"\xff" + data[-FOOTER_SIZE:])
    blobs = bucket.blobs = CountingBlobs(bucket.blobs)
    tables = Tables(bucket, tmp_path)
    for _ in range(5):
        assert set(tables.refresh().refused) == {pack_id}
    assert sum(one.ranges for one in blobs.asked if one.key == pack_key(pack_id)) == 2  # head and tail, once
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


@pytest.fixture
def lab(tmp_path: Path) -> kacas.Store:
    return kacas.Store.open(tmp_path / "lab")


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


@pytest.fixture
def node(tmp_path: Path, blobs: CountingBlobs) -> Node:
    """Opens a cold store that has the bucket, which nobody vouches for, as its remote."""

    def opened(name: str = "node", *, trusted: bool = False) -> kacas.Store:
        return kacas.Store.open(tmp_path / name, behind=[upstream_on(blobs, tmp_path / "cache", trusted=trusted)])

    return opened


def forge_entry(blobs: CountingBlobs, sha1: bytes, lie: bytes, *, there: bool = True) -> None:
    """A pack whose table says that this SHA-1 is `lie`, later than anybody else."""
    entry = entry_of(lie, time_ns=1 << 62)._replace(sha1=sha1)
    pack_id, data = pack_of([lie] if there else [], [entry], store_id=new_remote("lab", blobs).remote_id)
    blobs.put(pack_key(pack_id), data)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("size", [100, 20 << 20])
def test_a_later_lie_of_a_table_hides_nothing(
    lab: kacas.Store, blobs: CountingBlobs, node: Node, size: int, there: bool
) -> None:
    data = os.urandom(size)
    uri = lab.store_bytes(data)
    put_content(lab, uri, blobs)
    for number in range(2):
        forge_entry(blobs, parse_uri(uri).sha1, b"lie %d" % number, there=there)
    for number, read in enumerate((lambda store: store.load_bytes(uri), lambda store: store.load_bytes(uri, 0, 50))):
        with node(f"node-{number}") as store:
            store.repository.behind.upstreams[0].tables.refresh()
            assert read(store) == data[: 50 if number else None]
            assert read(store) == data[: 50 if number else None]


def test_a_small_lie_makes_nobody_fetch_large_content_for_a_part(
    lab: kacas.Store, blobs: CountingBlobs, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    values, key = np.zeros(9 << 20), new_private_key()
    uri = lab.store_npy(values)
    put_content(lab, uri, blobs, sign=lambda *fields: sign(key, statement(*fields)))
    forge_entry(blobs, parse_uri(uri).sha1, b"lie")
    with node() as store:
        store.repository.behind.upstreams[0].tables.refresh()
        with pytest.raises(UntrustedError):
            store.load_bytes(uri, 0, 10)
        assert fetched_packs(store) == []
    add_publisher(trust_file(), "colleague", public_key(key))
    with node("trusting") as store:
        assert store.open_npy(uri)[5] == 0


def test_what_is_said_to_be_a_small_file_of_a_directory_is_not_fetched_as_a_large_one(
    lab: kacas.Store, blobs: CountingBlobs, node: Node, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"seven b")
    uri = lab.store_dir(tmp_path / "data")
    put_content(lab, f"sha1://{parse_any_uri(uri).sha1.hex()}", blobs)
    member = new_sha1()
    member.update(b"seven b")
    lie = lab.store_bytes(os.urandom(4 << 20))
    put_content(lab, lie, blobs, under=member.digest())
    blobs.clear()
    with node() as store:
        with pytest.raises(kacas.DamagedError, match=r"1 file of .* the directory says 7 bytes, the content has"):
            store.load_dir(uri, tmp_path / "restored")
        assert not (tmp_path / "restored" / "file").exists()
        assert blobs.moved < 1 << 20


def test_a_chunk_that_is_said_to_take_more_than_it_can_is_a_lie() -> None:
    chunks = [chunk(number) for number in range(3)]
    root, tree = tree_of(chunks)
    head = Head(SHA1, root, 3, 0)
    for size, is_lie in ((64 + 1024 + 1, False), (64 + 1024 + 2, True)):
        places = [ChunkPlace(b"p" * 16, 64, size)] * 3
        with pytest.raises(LyingRecipeError, match="take") if is_lie else nullcontext():
            encode_recipe(head, tree, lambda *_: places, [].append)  # noqa: B023


def test_tables_that_lie_about_sizes_take_bounded_memory(bucket: Bucket, tmp_path: Path) -> None:
    digests = [chunk_digest(bytes([number])) for number in range(20)]
    records = [
        PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 16 << 20, 16 << 20, digest).record(64 + number)
        for number, digest in enumerate(digests)
    ]
    pack_id, table = secrets.token_bytes(16), encode_table(records, [])
    header, at = PackHeader(pack_id, bucket.remote_id).encode(), 17 << 20
    footer = Footer(pack_id, at, len(table), len(records), 0, at + len(table) + FOOTER_SIZE, checksum(32, table))
    bucket.blobs.put(pack_key(pack_id), header + bytes(at - len(header)) + table + footer.encode(header))
    tables = Tables(bucket, tmp_path)
    assert not tables.refresh().refused
    blobs = CountingBlobs(bucket.blobs)
    found = TableSource(BlobRanges(blobs), tables).get_many(digests)
    assert 0 < len(found) < len(digests)
    assert blobs.moved <= 64 << 20


def test_closing_disturbs_nobody_who_reads(bucket: Bucket) -> None:
    keys = [f"packs/{number:032x}.pack" for number in range(6)]
    for key in keys:
        bucket.blobs.put(key, bytes(100))
    ranges = BlobRanges(bucket.blobs)
    with ThreadPoolExecutor(4) as pool:
        reading = [
            pool.submit(lambda: [ranges.read([Place(key, 0, 10) for key in keys]) for _ in range(200)])
            for _ in range(3)
        ]
        while not all(one.done() for one in reading):
            ranges.close()
        assert all(len(found) == 6 for one in reading for found in one.result())


def test_a_child_that_was_forked_while_a_thread_read_a_page_does_not_wait_for_it(
    lab: kacas.Store, blobs: CountingBlobs, tmp_path: Path
) -> None:
    uri = lab.store_bytes(b"x" * 100)
    put_content(lab, uri, blobs)
    source = next(upstream_on(blobs, tmp_path / "cache")._found(parse_uri(uri))).source
    assert isinstance(source, RecipeSource)
    child = Child(b"n" * 32, 1)
    source._nodes[child.digest] = _Node(child, 1, PagePlace(0, 1), (child,), 0)
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with source._lock:
            held.set()
            forked.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        source.expect(child.digest)
        os._exit(0)
    forked.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_a_chunk_that_many_pages_name_is_known_as_long_as_one_of_them_is(
    blobs: CountingBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_source, "_PAGES_KEPT", 1)
    again = chunk(99)
    root, tree = tree_of([again, chunk(1), chunk(2), again, chunk(3), chunk(4)])
    blobs.put(recipe_key(SHA1), encoded(Head(SHA1, root, 6, 0), tree))
    source = next(upstream_on(blobs, tmp_path)._found(Uri(SHA1))).source
    assert isinstance(source, RecipeSource)
    for child, _ in source.recipe.top.nodes():
        assert source._pages_of([child.digest])
        assert again.digest in source._places([again.digest])


def test_what_is_said_to_be_a_directory_and_is_none_can_be_described(
    lab: kacas.Store, blobs: CountingBlobs, node: Node
) -> None:
    uri = lab.store_bytes(b"no directory")
    entry, content = best_first(lab.repository.readable(parse_uri(uri)))
    entry = entry._replace(kind=Kind.DIRECTORY)
    put_recipe(entry, content, put_packs(lab, content, entry, blobs), blobs)
    with node() as store:
        assert store.describe(uri).size == len(b"no directory")
        assert store.load_bytes(uri) == b"no directory"
        assert store.describe(uri).size == len(b"no directory")


@pytest.mark.parametrize("recipe", [b"", b"garbage" * 100, b"KRECIPE\0\xff\xff" + bytes(200)])
def test_a_plain_object_is_read_whatever_its_recipe_is(
    lab: kacas.Store, blobs: CountingBlobs, node: Node, recipe: bytes
) -> None:
    uri = lab.store_bytes(b"plain and right")
    blobs.put(plain_key(parse_uri(uri).sha1), b"plain and right")
    blobs.put(recipe_key(parse_uri(uri).sha1), recipe)
    blobs.put("kacas-remote.json", b"garbage")
    with node() as store:
        assert store.exists(uri)
        assert store.load_bytes(uri, 0, 5) == b"plain"
    with node("whole") as store:
        assert store.load_bytes(uri) == b"plain and right"
