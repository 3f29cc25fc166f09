"""docs/independent_bucket_reader.py: restores what a bucket has, by recipe, by table and plain, without kacas."""

from __future__ import annotations

import ast
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.content import Content
from kacas.encoded import encoded_payloads
from kacas.model.cuts import PeriodicCutter
from kacas.model.digest import ID_SIZE, checksum
from kacas.model.entry import Entry, Kind
from kacas.model.manifest import Child
from kacas.model.pack_format import HEADER_SIZE, Footer, PackHeader, decode_payload_header, encode_table
from kacas.model.source import BufferSource
from kacas.model.uri import parse_uri
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.layout import pack_key, plain_key, recipe_key
from kacas_remote.recipe import ChunkPlace, Head, encode_recipe
from tests.docs.test_independent_reader import files_in, npy
from tests.remote.buckets import Bucket, entry_of, put_pack, sha1_of

READER = Path(__file__).resolve().parents[2] / "docs" / "independent_bucket_reader.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", READER, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    (tmp_path / "bucket").mkdir()
    return Bucket(DirectoryBlobs(tmp_path / "bucket"))


def opened(store: kacas.Store, uri: str) -> tuple[Entry, Content]:
    return store.repository.resolve(parse_uri(uri))


def push(bucket: Bucket, store: kacas.Store, uri: str) -> bytes:
    """Chunks in packs of three, the tree in the recipe. Returns the recipe."""
    entry, content = opened(store, uri)
    chunks = {child.digest: child for child in content.chunks()}
    places: dict[bytes, ChunkPlace] = {}
    digests = list(chunks)
    for at in range(0, len(digests), 3):
        pack_id = secrets.token_bytes(ID_SIZE)
        header = PackHeader(pack_id, bucket.remote_id).encode()
        parts, records = [header], []
        for digest, data in encoded_payloads(store.repository.lookup, digests[at : at + 3]).items():
            where = sum(map(len, parts))
            records.append(decode_payload_header(data).record(where))
            places[digest] = ChunkPlace(pack_id, where, len(data))
            parts.append(bytes(data))
        table, table_at = encode_table(records, []), sum(map(len, parts))
        footer = Footer(
            pack_id, table_at, len(table), len(records), 0, table_at + len(table) + 128, checksum(32, table)
        )
        assert len(header) == HEADER_SIZE
        bucket.blobs.put(pack_key(pack_id), b"".join([*parts, table, footer.encode(header)]))
    return _put(bucket, entry, content, lambda children, at: [places[child.digest] for child in children])


def push_plain(bucket: Bucket, store: kacas.Store, uri: str, data: bytes) -> bytes:
    entry, content = opened(store, uri)
    bucket.blobs.put(plain_key(entry.sha1), data)

    def locate(children: Sequence[Child], at: int) -> list[ChunkPlace]:
        found = []
        for child in children:
            found.append(ChunkPlace(None, at, child.size))
            at += child.size
        return found

    return _put(bucket, entry, content, locate)


def _put(bucket: Bucket, entry: Entry, content: Content, locate) -> bytes:  # type: ignore[no-untyped-def]
    pages: list[bytes] = []
    head = Head(entry.sha1, entry.root, entry.size, entry.kind, entry.label, entry.time_ns)
    recipe = encode_recipe(head, content.tree(), locate, pages.append) + b"".join(pages)
    bucket.blobs.put(recipe_key(entry.sha1), recipe)
    return recipe


def test_it_restores_what_a_bucket_has_by_recipe_by_table_and_plain(
    store: kacas.Store, bucket: Bucket, tmp_path: Path
) -> None:
    array = np.arange(9_200_000, dtype=np.int64)  # 281 chunks: two nodes
    nested = bytes(range(256)) * 300 + b"end"  # 4,801 chunks of 16 bytes: a node that is named often
    tiled = np.random.default_rng(0).integers(0, 99, (300, 40, 50), np.int32)
    push(bucket, store, store.store_npy(array))
    push(bucket, store, store.store_text("one chunk"))
    push_plain(bucket, store, store.store_bytes(npy(array[:3_000_000])), npy(array[:3_000_000]))
    entry = store.repository.put(BufferSource(nested), Kind.BYTES, "nested", cutter=PeriodicCutter(16))
    push_plain(bucket, store, entry.uri, nested)
    uri = store.store_npy(tiled, chunks=(70, 40, 7))
    push(bucket, store, uri)
    put_pack(bucket, [b"small"], [entry_of(b"small", label=b"s.txt")])
    bucket.blobs.put(plain_key(sha1_of(b"of kachery-cloud")), b"of kachery-cloud")
    done = run(tmp_path / "bucket", tmp_path / "restored")
    assert (done.returncode, done.stderr) == (0, "")
    originals = [
        npy(array), b"one chunk", npy(array[:3_000_000]), nested, npy(tiled), b"small", b"of kachery-cloud"
    ]  # fmt: skip
    assert files_in(tmp_path / "restored") == {sha1_of(data).hex(): data for data in originals}
    listed = run(tmp_path / "bucket", tmp_path / "unused", "--list").stdout
    assert f"{sha1_of(b'small').hex()} 5 s.txt" in listed


def test_damage_is_named_and_the_rest_restored(store: kacas.Store, bucket: Bucket, tmp_path: Path) -> None:
    recipe = push(bucket, store, store.store_npy(np.arange(2_000_000)))
    push(bucket, store, store.store_text("good"))
    wrong = bytearray(recipe)
    wrong[200] ^= 1
    bucket.blobs.put(recipe_key(recipe[20:40]), wrong)
    bucket.blobs.put(plain_key(sha1_of(b"x")), b"not x")
    done = run(tmp_path / "bucket", tmp_path / "restored")
    assert done.returncode == 1
    assert f"recipe {recipe[20:40].hex()}: " in done.stderr
    assert sha1_of(b"x").hex() in done.stderr
    assert files_in(tmp_path / "restored") == {sha1_of(b"good").hex(): b"good"}


def test_it_imports_nothing_of_kacas() -> None:
    tree = ast.parse(READER.read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"os", "sys", "pathlib", "struct", "blake3", "independent_reader"}
