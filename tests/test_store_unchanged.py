"""Unchanged files are not read again: never a wrong identity, never a URI whose content is not there."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas import DamagedError, Store, UnreadableSourceError
from kacas.disk import identities
from kacas.disk.identities import FileState, Identities, Identity, sync_source
from kacas.formats.file import FileSource
from kacas.model.uri import parse_uri
from kacas.upkeep.verify import verify
from tests.faults import children

KIB = 1024
HOUR_NS = 3600 * 10**9


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache's clock is an hour ahead: what was written just now has settled."""
    monkeypatch.setattr(identities, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + HOUR_NS))
    (tmp_path / "probe").write_bytes(b"")
    with open(tmp_path / "probe", "rb") as probe:
        if sync_source(probe.fileno()) is None:
            pytest.skip("the file system of the tests does not tell of writes through mappings")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads from files that are stored."""
    sizes: list[int] = []
    readinto = FileSource.readinto

    def counted(source: FileSource, buffer: memoryview) -> int:
        sizes.append(readinto(source, buffer))
        return sizes[-1]

    monkeypatch.setattr(FileSource, "readinto", counted)
    return sizes


@contextmanager
def not_reading(reads: list[int]) -> Iterator[None]:
    before = len(reads)
    yield
    assert len(reads) == before, "the file was read"


@contextmanager
def reading(reads: list[int]) -> Iterator[None]:
    before = len(reads)
    yield
    assert sum(reads[before:]), "the file was not read"


def sha1_of(uri: str) -> str:
    return parse_uri(uri).sha1.hex()


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def packs(store: Store) -> set[Path]:
    return set((store.path / "packs").glob("*.pack"))


@pytest.mark.parametrize("size", [0, 1, 100 * KIB, 256 * KIB, 256 * KIB + 1, 3000 * KIB])
def test_an_unchanged_file_is_not_read_again(store: Store, tmp_path: Path, reads: list[int], size: int) -> None:
    data = noise(size)
    (tmp_path / "file").write_bytes(data)
    uri = store.store_file(tmp_path / "file")
    before = packs(store)
    with not_reading(reads):
        assert store.store_file(tmp_path / "file") == uri
        with Store.open(store.path) as again:
            assert again.store_file(tmp_path / "file") == uri
    assert packs(store) == before
    assert store.load_bytes(uri) == data


def test_hard_links_and_other_names_are_the_same_file(store: Store, tmp_path: Path, reads: list[int]) -> None:
    (tmp_path / "file").write_bytes(noise(1000))
    os.link(tmp_path / "file", tmp_path / "twin")
    (tmp_path / "link").symlink_to("twin")
    uri = store.store_file(tmp_path / "file")
    with not_reading(reads):
        assert sha1_of(store.store_file(tmp_path / "twin")) == sha1_of(uri)
        assert store.store_file(tmp_path / "link", label="file") == uri
    assert {claim.label for claim in store.describe(uri).claims} == {"file", "twin"}


def test_an_unchanged_file_is_claimed_again_after_it_was_forgotten(
    store: Store, tmp_path: Path, reads: list[int]
) -> None:
    (tmp_path / "file").write_bytes(noise(600 * KIB))
    uri = store.store_file(tmp_path / "file")
    store.forget(uri)
    assert store.describe(uri).claims == ()
    with not_reading(reads):
        assert store.store_file(tmp_path / "file") == uri
    assert len(store.describe(uri).claims) == 1


def test_a_batch_stores_unchanged_files_and_others(store: Store, tmp_path: Path, reads: list[int]) -> None:
    files = [tmp_path / f"file {i}" for i in range(10)]
    for i, path in enumerate(files):
        path.write_bytes(noise(1 + 100 * KIB * i, i))
    uris = [store.store_file(path) for path in files[:5]]
    with not_reading(reads), store.batch():
        assert [store.store_file(path) for path in files[:5]] == uris
    with store.batch():
        uris = [store.store_file(path) for path in files]
    for uri, path in zip(uris, files, strict=True):
        assert store.load_bytes(uri) == path.read_bytes()


@pytest.mark.parametrize("size", [1000, 600 * KIB])
def test_a_batch_that_failed_leaves_nothing_that_is_taken_for_stored(store: Store, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(noise(size))
    with pytest.raises(UnreadableSourceError), store.batch():
        [store.store_file(tmp_path / name) for name in ("file", "missing")]
    uri = store.store_file(tmp_path / "file")
    assert store.load_bytes(uri) == noise(size)


def test_a_store_that_does_not_have_the_content_reads_the_file(store: Store, tmp_path: Path, reads: list[int]) -> None:
    (tmp_path / "file").write_bytes(noise(600 * KIB))
    store.store_file(tmp_path / "file")
    with Store.open(tmp_path / "other") as other:
        source = FileSource(tmp_path / "file")
        source.close()
        known = store._identities.get_many([source.state])
        assert len(known) == 1
        other._identities.put_many(known, time.time_ns() + HOUR_NS)
        with reading(reads):
            uri = other.store_file(tmp_path / "file")
        assert other.load_bytes(uri) == noise(600 * KIB)


def test_without_an_index_files_are_read_and_the_answers_are_right(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(noise(600 * KIB))
    uri = store.store_file(tmp_path / "file")
    store.repository.lookup._index = None
    assert store.store_file(tmp_path / "file") == uri
    assert store.load_bytes(uri) == noise(600 * KIB)


def test_a_new_index_is_looked_through_and_the_file_is_not_read(store: Store, tmp_path: Path, reads: list[int]) -> None:
    (tmp_path / "file").write_bytes(noise(3000 * KIB))
    uri = store.store_file(tmp_path / "file")
    store.rebuild_index()
    with not_reading(reads):
        assert store.store_file(tmp_path / "file") == uri


# --- rehash -----------------------------------------------------------------------------------


def plant(store: Store, path: Path, wrong: str) -> None:
    """Make the cache say that the file has another content."""
    entry, _ = store.repository.resolve(parse_uri(wrong))
    state = FileState.of(path.stat())
    store._identities.put_many({state: Identity(entry.sha1, entry.root, entry.size)}, time.time_ns() + HOUR_NS)


def test_rehash_reads_the_file_and_corrects_what_is_remembered(store: Store, tmp_path: Path, reads: list[int]) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "wrong").write_bytes(b"CONTENT")
    wrong = store.store_file(tmp_path / "wrong")
    plant(store, tmp_path / "file", wrong)
    assert sha1_of(store.store_file(tmp_path / "file")) == sha1_of(wrong), "else this test tests nothing"
    with reading(reads):
        right = store.store_file(tmp_path / "file", rehash=True)
    assert store.load_bytes(right) == b"content"
    with not_reading(reads):
        assert store.store_file(tmp_path / "file") == right


# --- change -----------------------------------------------------------------------------------


def test_a_write_through_a_dirty_mapped_page_is_never_missed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the sync, the page stays dirty, later writes to it do not change the times, and this fails."""
    monkeypatch.undo()
    monkeypatch.setenv("KACAS_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[0] = 1
        time.sleep(2.1)
        mapped[1] = 1
        for step in range(2, 10):
            assert sha1_of(store.store_file(path)) == hashlib.sha1(mapped).hexdigest()
            mapped[step] = step
            assert sha1_of(store.store_file(path)) == hashlib.sha1(mapped).hexdigest()


CHANGES: dict[str, Callable[[Path, int], object]] = {
    "overwrite": lambda path, number: path.write_bytes(noise(5000, number)),
    "append": lambda path, number: path.write_bytes(path.read_bytes() + b"x" * number),
    "truncate": lambda path, number: os.truncate(path, number),
    "replace": lambda path, number: (path.with_name("new").write_bytes(noise(5000, number)), path.with_name("new").rename(path)),
    "old times": lambda path, number: os.utime(path, ns=(number, number)),
}  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["map", "store", "store", "rehash", *CHANGES]), st.integers(0, 5000)), max_size=20
    )
)
def test_whatever_is_done_to_a_file_its_uri_is_that_of_its_bytes(
    store: Store, tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path / "changing"
    path.write_bytes(bytes(5001))
    for name, number in steps:
        if name == "map":
            with open(path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if size:
                    with mmap.mmap(file.fileno(), size) as mapped:
                        mapped[number % size] ^= 1
        elif name in CHANGES:
            CHANGES[name](path, number)
            time.sleep(0.01)  # instead of the two seconds that the cache waits for: a few ticks of the kernel's clock
        uri = store.store_file(path, rehash=name == "rehash")
        assert sha1_of(uri) == hashlib.sha1(path.read_bytes()).hexdigest()


# --- damage and loss --------------------------------------------------------------------------


def flip(pack: Path, raw: bytes) -> None:
    """Change a byte of the chunk that begins with `raw`, which is stored as it is."""
    at = pack.read_bytes().index(raw[:100]) + 50
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("found_by", ["load", "verify", "another process"])
@pytest.mark.parametrize("size", [1000, 600 * KIB])
def test_storing_an_unchanged_file_again_heals_damage_that_was_found(
    store: Store, tmp_path: Path, size: int, found_by: str
) -> None:
    data = noise(size)
    (tmp_path / "file").write_bytes(data)
    uri = store.store_file(tmp_path / "file")
    assert store.store_file(tmp_path / "file") == uri
    (pack,) = packs(store)
    flip(pack, data)

    def find() -> None:
        with Store.open(store.path) as opened, pytest.raises(DamagedError):
            opened.load_bytes(uri)

    if found_by == "load":
        with pytest.raises(DamagedError):
            store.load_bytes(uri)
    elif found_by == "verify":
        assert not verify(store).clean
    else:
        children.run(find).get()
    assert store.store_file(tmp_path / "file") == uri
    assert store.load_bytes(uri) == data
    assert store.store_file(tmp_path / "file") == uri
    assert store.load_bytes(uri) == data


def test_files_that_the_damage_does_not_touch_are_not_read_again(
    store: Store, tmp_path: Path, reads: list[int]
) -> None:
    for name, seed in (("bad", 1), ("good", 2)):
        (tmp_path / name).write_bytes(noise(600 * KIB, seed))
    with store.batch():
        bad, good = (store.store_file(tmp_path / name) for name in ("bad", "good"))
    (pack,) = packs(store)
    flip(pack, noise(600 * KIB, 1))
    with pytest.raises(DamagedError):
        store.load_bytes(bad)
    with not_reading(reads):
        assert store.store_file(tmp_path / "good") == good
    with reading(reads):
        assert store.store_file(tmp_path / "bad") == bad
    assert store.load_bytes(bad) == noise(600 * KIB, 1)


@pytest.mark.parametrize("when", ["soon", "after a load", "opened anew", "without the index"])
def test_a_lost_pack_is_noticed_and_the_file_stored_again(store: Store, tmp_path: Path, when: str) -> None:
    """The lost pack holds a chunk of the content only; entry and root are in another."""
    shared = noise(2048 * KIB)  # cut by its content: all but the last chunk are the same
    (tmp_path / "first").write_bytes(shared + b"first")
    store.store_file(tmp_path / "first")
    (lost,) = packs(store)
    (tmp_path / "file").write_bytes(shared + b"second")
    uri = store.store_file(tmp_path / "file")
    lost.unlink()
    path = store.path
    if when == "after a load":
        store.repository.lookup.packs.forget(bytes.fromhex(lost.stem))  # else it would be read though it has no name
        with pytest.raises(DamagedError):
            store.load_bytes(uri)
    if when in ("opened anew", "without the index"):
        store.close()
        if when == "without the index":
            for data in (tmp_path / "cache").rglob("current"):
                data.unlink()
    elif when == "soon":
        time.sleep(0.5)
    with Store.open(path) if store.closed else store as opened:
        assert opened.store_file(tmp_path / "file") == uri
        assert opened.load_bytes(uri) == shared + b"second"


def test_a_damaged_table_is_noticed_and_the_file_stored_again(store: Store, tmp_path: Path) -> None:
    data = noise(600 * KIB)
    (tmp_path / "file").write_bytes(data)
    uri = store.store_file(tmp_path / "file")
    store.close()
    (pack,) = packs(store)
    pack.chmod(0o644)
    with open(pack, "r+b") as file:
        file.seek(-200, os.SEEK_END)
        file.write(b"damage")
    with Store.open(store.path) as opened:
        assert not verify(opened, quick=True).clean
        assert opened.store_file(tmp_path / "file") == uri
        pack.unlink()
    with Store.open(store.path) as opened:
        assert opened.load_bytes(uri) == data


# --- others -----------------------------------------------------------------------------------


def test_parent_and_child_store_unchanged_files_with_one_store(store: Store, tmp_path: Path, reads: list[int]) -> None:
    (tmp_path / "file").write_bytes(noise(600 * KIB))
    uri = store.store_file(tmp_path / "file")

    def child() -> tuple[str, int]:
        before = len(reads)
        return store.store_file(tmp_path / "file"), len(reads) - before

    assert children.run(child).get() == (uri, 0)
    with not_reading(reads):
        assert store.store_file(tmp_path / "file") == uri


def test_a_cache_that_cannot_be_used_costs_nothing_but_speed(store: Store, tmp_path: Path) -> None:
    (store.repository.cache / "identities").write_bytes(b"in the way")
    (tmp_path / "file").write_bytes(b"content")
    with pytest.warns(RuntimeWarning, match="every file is read"):
        uri = store.store_file(tmp_path / "file")
    assert store.store_file(tmp_path / "file") == uri
    assert isinstance(store._identities, Identities)
    assert store.load_bytes(uri) == b"content"
