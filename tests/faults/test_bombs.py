"""Huge declared sizes in packs with right checksums: refused before memory or disk is taken, by a typed error."""

from __future__ import annotations

import io
import os
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import kacas
from kacas.model.codec import MAX_CHUNK_SIZE, Codec
from kacas.model.digest import PayloadKind, chunk_digest, payload_digest
from kacas.model.manifest import Child, Manifest, Node
from kacas.model.pack_format import PayloadHeader
from kacas.upkeep.verify import verify
from tests.faults import contents
from tests.faults.children import limit_memory, peak_memory, run
from tests.faults.contents import MIB
from tests.faults.examination import open_store
from tests.faults.forging import Forgery

# Enough for all buffers and threads of an honest load, far less than any bomb declares.
MEMORY = 700 * MIB  # address space: threads' stacks and arenas count, used or not
RESIDENT = 160 * MIB
DISK = 64 * MIB
HUGE = 1 << 61
ZEROS = bytes(MAX_CHUNK_SIZE)


@pytest.fixture
def forgery(tmp_path: Path) -> Iterator[Forgery]:
    with open_store(tmp_path / "store", tmp_path / "maker", create=True) as store:
        contents.text("honest").put(store)
        yield Forgery(store)


def poor(forgery: Forgery, use: Callable[[kacas.Store], Any], timeout_s: float = 20) -> Any:
    """use(store) in a process that can take little memory and write small files only."""
    path, cache = forgery.store.path, forgery.store.path.parent / "cache"

    def limited() -> Any:
        np.arange(10).sum()
        limit_memory(MEMORY)
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))
        before = peak_memory()
        with open_store(path, cache) as store:
            value = use(store)
            honest = contents.text("honest")
            honest.check(store, f"sha1://{honest.sha1}")
        taken = peak_memory() - before
        assert taken < RESIDENT, f"{taken} bytes of memory were taken"
        return value

    return run(limited, timeout_s).get()


LOADS: dict[str, Callable[[kacas.Store, str], Any]] = {
    "load_bytes": lambda store, uri: store.load_bytes(uri),
    "load_npy": lambda store, uri: store.load_npy(uri),
    "load_text": lambda store, uri: store.load_text(uri),
    "load_json": lambda store, uri: store.load_json(uri),
    "load_pkl": lambda store, uri: store.load_pkl(uri),
    "load_file": lambda store, uri: store.load_file(uri),
    "a destination": lambda store, uri: store.load_file(uri, dest=store.path.parent / "out"),
    "open_file": lambda store, uri: store.open_file(uri).read(),
}


def check_refused(forgery: Forgery, uri: str, *errors: type[kacas.KacasError]) -> None:
    """Every way of loading raises one of these, and verify ends."""

    def load_all(store: kacas.Store) -> None:
        for name, load in LOADS.items():
            try:
                load(store, uri)
            except errors:
                continue
            except BaseException as exc:
                exc.add_note(f"by {name}")
                raise
            raise AssertionError(f"{name} did not refuse")
        assert not (store.path.parent / "out").exists()

    poor(forgery, load_all)


def check_damaged(forgery: Forgery, uri: str) -> None:
    check_refused(forgery, uri, kacas.DamagedError)
    assert poor(forgery, lambda store: [problem.pack for problem in verify(store).problems])


def compress(raw: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=19, **options).compress(raw)


def frame_declaring(size: int, window_log: int = 10) -> bytes:
    """A zstd frame with content size and window in its header, and one empty block."""
    single_segment_off = 0b11 << 6
    window = (window_log - 10) << 3
    return b"\x28\xb5\x2f\xfd" + bytes([single_segment_off, window]) + struct.pack("<Q", size) + b"\x01\x00\x00"


@pytest.mark.parametrize("raw_size", [1000, MAX_CHUNK_SIZE])
@pytest.mark.parametrize(
    "frame",
    [
        frame_declaring(HUGE),
        frame_declaring(MAX_CHUNK_SIZE, window_log=31),
        frame_declaring(1000, window_log=31),
        compress(ZEROS * 8),
        compress(ZEROS * 8, write_content_size=False),
        compress(bytes(1000)) * 3,
        compress(b"") + compress(ZEROS * 8),
        b"",
        b"\x28\xb5\x2f\xfd",
    ],
    ids=["huge", "window", "small window", "128 MiB", "unsaid 128 MiB", "three frames", "second frame", "no", "cut"],
)
def test_a_zstd_frame_that_lies_about_its_size_is_refused(forgery: Forgery, frame: bytes, raw_size: int) -> None:
    digest = chunk_digest(b"something else")
    forgery.add(PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, len(frame), raw_size, digest), frame)
    uri = forgery.claim(digest, raw_size)
    forgery.publish()
    check_damaged(forgery, uri)


@pytest.mark.parametrize("where", ["header and table", "table", "header"])
@pytest.mark.parametrize("field", ["raw_size", "payload_size", "both", "parameters"])
def test_a_payload_that_declares_4_gib_is_refused(forgery: Forgery, where: str, field: str) -> None:
    most = (1 << 32) - 1
    raw = b"a small payload"
    digest = chunk_digest(raw)
    honest = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(raw), len(raw), digest)
    lying = PayloadHeader(
        PayloadKind.CHUNK,
        Codec.RAW,
        most if field in ("payload_size", "both") else len(raw),
        most if field in ("raw_size", "both") else len(raw),
        digest,
        bytes(65535) if field == "parameters" else b"",
    )
    forgery.headers.append((forgery.size, honest if where == "table" else lying))
    forgery.parts += [(honest if where == "table" else lying).encode(raw), raw]
    forgery.records = [(offset, honest if where == "header" else lying) for offset, _ in forgery.headers]
    uri = forgery.claim(digest, len(raw) if where == "header" or field not in ("raw_size", "both") else most)
    forgery.publish()
    if field == "parameters" and where == "table":
        # The payload is there and good; that the table is wrong about its parameters is verify's to say.
        def load(store: kacas.Store) -> bool:
            try:
                return store.load_bytes(uri) == raw
            except kacas.DamagedError:
                return True

        assert poor(forgery, load)
        assert poor(forgery, lambda store: verify(store).problems)
    else:
        check_damaged(forgery, uri)


def self_similar(forgery: Forgery, head: bytes = b"") -> str:
    """2**61 bytes of zeros in a pack of a few kilobytes: each node names one child 256 times."""
    payload = compress(ZEROS)
    digest = chunk_digest(ZEROS)
    forgery.add(PayloadHeader(PayloadKind.CHUNK, Codec.ZSTD, len(payload), len(ZEROS), digest), payload)
    size = len(ZEROS)
    for level in range(1, 5):
        node = Node(level, 256 * size, (Child(digest, size),) * 256)
        digest, size = forgery.add_raw(node.encode(), PayloadKind.NODE), node.size
    children = (Child(digest, size),) * 31
    manifest = Manifest(len(head) + 31 * size, 4, head, {}, children)
    root = forgery.add_raw(manifest.encode(), PayloadKind.MANIFEST)
    uri = forgery.claim(root, manifest.size)
    forgery.publish()
    return uri


def npy_head(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue()


REFUSALS = (kacas.SizeLimitError, kacas.NoSpaceError, kacas.WrongKindError)


def test_content_of_two_exbibytes_is_refused_whole_and_read_in_parts(forgery: Forgery) -> None:
    uri = self_similar(forgery)
    check_refused(forgery, uri, *REFUSALS)

    def parts(store: kacas.Store) -> None:
        size = 31 << 56
        assert store.exists(uri)
        assert store.load_bytes(uri, 0, 5000) == bytes(5000)
        assert store.load_bytes(uri, size - 10) == bytes(10)
        file = store.open_file(uri)
        assert file.seek(0, io.SEEK_END) == size
        file.seek(size // 2)
        assert file.read(100_000) == bytes(100_000)
        with pytest.raises(kacas.SizeLimitError):
            store.load_bytes(uri, 10)

    poor(forgery, parts)


def test_an_array_of_two_exbibytes_is_refused_whole_and_read_in_slices(forgery: Forgery) -> None:
    uri = self_similar(forgery, npy_head((31 << 26, 1 << 30)))
    check_refused(forgery, uri, *REFUSALS)

    def slices(store: kacas.Store) -> None:
        lazy = store.open_npy(uri)
        assert lazy.shape == (31 << 26, 1 << 30)
        assert not lazy[5, 100:200].any()
        assert not lazy[-1, -5:].any()
        for index in (np.s_[:], np.s_[::2], np.s_[:, 0], ...):
            with pytest.raises((MemoryError, kacas.SizeLimitError)):
                lazy[index]
        with pytest.raises(kacas.SizeLimitError):
            np.asarray(lazy)

    poor(forgery, slices)


@pytest.mark.parametrize("verb", ["describe", "find", "stats", "history"])
def test_content_of_two_exbibytes_is_described_in_time(forgery: Forgery, verb: str) -> None:
    uri = self_similar(forgery)

    def tell(store: kacas.Store) -> object:
        if verb == "stats":
            return store.stats().contents
        if verb == "history":
            return len(list(store.history()))
        description = getattr(store, verb)(uri)
        return description.size

    expected = {"stats": 2, "history": 1}.get(verb, 31 << 56)
    assert poor(forgery, tell, timeout_s=6) == expected


def test_a_quick_verify_ends_on_content_of_two_exbibytes(forgery: Forgery) -> None:
    self_similar(forgery)
    assert poor(forgery, lambda store: verify(store, quick=True).contents, timeout_s=6) == 2


@pytest.mark.parametrize(
    "lie",
    ["level too high", "level too low", "node of another size", "child too large", "size of the entry", "a cycle"],
)
def test_a_tree_that_contradicts_itself_is_refused(forgery: Forgery, lie: str) -> None:
    raw = contents.random_bytes("chunk", 1000).data
    chunk = Child(forgery.add_raw(raw), 1000)
    level, size = 1, 2000
    inner = Node(1, 2000, (chunk, chunk))
    if lie == "level too high":
        level = 8
    elif lie == "level too low":
        level = 0
    elif lie == "child too large":
        inner = Node(1, 2 * HUGE, (Child(chunk.digest, HUGE), Child(chunk.digest, HUGE)))
        size = 2 * HUGE
    node = Child(forgery.add_raw(inner.encode(), PayloadKind.NODE), size)
    if lie == "node of another size":
        node, size = Child(node.digest, HUGE), HUGE
    elif lie == "a cycle":
        # A node below itself cannot have a right digest; a chunk that poses as a node is the nearest.
        node = Child(forgery.add_raw(inner.encode()), size)
        node = Child(chunk_digest(inner.encode()), size)
    manifest = Manifest(size, level, b"", {}, (node,))
    root = forgery.add_raw(manifest.encode(), PayloadKind.MANIFEST)
    uri = forgery.claim(root, HUGE if lie == "size of the entry" else size)
    forgery.publish()
    check_refused(forgery, uri, kacas.DamagedError, kacas.SizeLimitError, kacas.NoSpaceError)
    assert poor(forgery, lambda store: verify(store).problems)


def test_a_file_never_poses_as_a_manifest(forgery: Forgery) -> None:
    """A chunk whose bytes are a manifest: loaded as bytes it is those bytes, nothing else."""
    manifest = Manifest(HUGE, 0, b"", {}, (Child(b"\x01" * 32, HUGE),)).encode()
    uri = forgery.claim(forgery.add_raw(manifest), len(manifest))
    # And an entry whose root is the manifest's digest in the chunks' context, said to be a manifest.
    forgery.publish()
    assert poor(forgery, lambda store: store.load_bytes(uri)) == manifest
    assert payload_digest(PayloadKind.MANIFEST, manifest) != chunk_digest(manifest)


@pytest.mark.parametrize(
    "fields",
    [
        {"table_size": 1 << 40},
        {"table_size": (1 << 64) - 1},
        {"table_offset": (1 << 64) - 200},
        {"chunk_count": (1 << 64) - 1},
        {"chunk_count": 1 << 40},
        {"entry_count": (1 << 64) - 1},
        {"entry_count": 1 << 40},
        {"file_size": 1 << 50},
        {"table_offset": 0},
    ],
    ids=str,
)
def test_a_footer_that_declares_too_much_is_refused(forgery: Forgery, fields: dict[str, int]) -> None:
    raw = b"behind a lying footer"
    uri = forgery.claim(forgery.add_raw(raw), len(raw))
    pack = forgery.publish(**fields)

    def load(store: kacas.Store) -> None:
        try:
            assert store.load_bytes(uri) == raw
        except kacas.DamagedPackError as exc:
            assert exc.pack == pack.stem
        assert [problem.pack for problem in verify(store).problems] == [pack.stem]

    poor(forgery, load)


def test_a_sparse_file_of_a_tebibyte_among_the_packs_is_refused(forgery: Forgery) -> None:
    sparse = forgery.store.path / "packs" / f"{'ab' * 16}.pack"
    sparse.touch()
    os.truncate(sparse, 1 << 40)
    assert poor(forgery, lambda store: [problem.pack for problem in verify(store).problems]) == [sparse.stem]


def header_text(text: str, version: int = 1, declared: int | None = None) -> bytes:
    body = text.encode("latin-1") + b"\n"
    size = len(body) if declared is None else declared
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + body


@pytest.mark.parametrize(
    "data",
    [
        npy_head((1 << 60,)) + bytes(100),
        npy_head((1 << 40, 1 << 40)) + bytes(100),
        npy_head((1 << 62, 4)),
        npy_head((0, 1 << 62, 1 << 62)) + b"x",
        npy_head((3,), "|V2147483647") + bytes(100),
        npy_head((1,), "<U500000000") + bytes(100),
        header_text("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}"),
        header_text("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"),
        header_text("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1," * 20_000 + ")}", version=2),
        header_text("(" * 60_000),
        header_text("[" * 100_000, version=3),
        header_text("-" * 65_000 + "1"),
        header_text("{'descr': '|u1'}", version=2, declared=(1 << 32) - 1),
        header_text("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(8),
        header_text("__import__('os').system('true')"),
        b"\x93NUMPY",
        b"",
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_an_npy_header_that_declares_too_much_is_refused(forgery: Forgery, data: bytes) -> None:
    uri = forgery.store.store_bytes(data)

    def load(store: kacas.Store) -> None:
        for open_or_load in (store.load_npy, store.open_npy):
            with pytest.raises(kacas.WrongKindError):
                open_or_load(uri)
        assert store.load_bytes(uri) == data
        assert store.describe(uri).size == len(data)

    poor(forgery, load)


@pytest.mark.parametrize(
    "data", [b"[" * 2_000_000, b'{"a":' * 500_000, b"1" * 5_000_000, b"\xff" * 100, b'"' + b"\\u0000" * 10]
)
def test_json_that_goes_too_deep_is_refused(forgery: Forgery, data: bytes) -> None:
    uri = forgery.store.store_bytes(data)

    def load(store: kacas.Store) -> None:
        with pytest.raises(kacas.WrongKindError):
            store.load_json(uri)

    poor(forgery, load)
