"""Directories restored: what is kept, what is refused, and what is damaged."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

import kacas
from kacas.disk.place import StagedPlace
from kacas.model.entry import Kind
from kacas.model.tree import EntryType, TreeEntry, encode_tree
from kacas.model.uri import DirectoryUri
from tests.formats.trees import SMALL, Tree, make, read


def test_restoring_keeps_what_is_right_and_refuses_what_is_not(
    store: kacas.Store, source: Path, tmp_path: Path
) -> None:
    uri, out = store.store_dir(source), tmp_path / "out"
    store.load_dir(uri, out)
    kept = (out / "notes.txt").stat()
    (out / "raw" / "a.bin").unlink()
    (out / "run.sh").chmod(0o644)
    (out / "mine.txt").write_text("mine")
    store.load_dir(uri, out)
    assert (out / "notes.txt").stat().st_ino == kept.st_ino
    assert (out / "notes.txt").stat().st_mtime_ns == kept.st_mtime_ns
    assert read(out) == SMALL | {b"mine.txt": b"mine"}
    (out / "notes.txt").write_bytes(b"TEST-content\n")
    with pytest.raises(kacas.DestinationError, match=r"notes\.txt is there with other content"):
        store.load_dir(uri, out)
    assert (out / "notes.txt").read_bytes() == b"TEST-content\n"
    store.load_dir(uri, out, overwrite=True)
    assert read(out) == SMALL | {b"mine.txt": b"mine"}
    (out / "empty").unlink()
    (out / "empty").mkdir()
    for overwrite in (False, True):
        with pytest.raises(kacas.DestinationError, match="it is a directory"):
            store.load_dir(uri, out, overwrite=overwrite)
    assert not [name for _, _, names in os.walk(out) for name in names if ".tmp." in name]


def test_nothing_is_written_through_a_link_in_the_destination(store: kacas.Store, source: Path, tmp_path: Path) -> None:
    uri, out, victim = store.store_dir(source), tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    out.mkdir()
    (out / "raw").symlink_to(victim)
    with pytest.raises(kacas.DestinationError, match="is in the way"):
        store.load_dir(uri, out, overwrite=True)
    assert list(victim.iterdir()) == []
    (out / "raw").unlink()
    (victim / "file").write_bytes(b"precious")
    (out / "notes.txt").unlink(missing_ok=True)
    (out / "notes.txt").symlink_to(victim / "file")
    with pytest.raises(kacas.DestinationError, match="other content"):
        store.load_dir(uri, out)
    store.load_dir(uri, out, overwrite=True)
    assert (victim / "file").read_bytes() == b"precious"
    assert read(out) == SMALL


def forged(store: kacas.Store, *entries: TreeEntry) -> str:
    """A document that nobody made from a real directory."""
    uri = store.repository.put_small(encode_tree(entries), Kind.DIRECTORY, "forged")
    return str(DirectoryUri(uri.sha1))


def test_a_document_that_lies_about_sizes_restores_all_but_the_lie(store: kacas.Store, tmp_path: Path) -> None:
    truth = [hashlib.sha1(data).digest() for data in (b"small", b"other")]
    for data in (b"small", b"other"):
        store.store_bytes(data)
    uri = forged(
        store,
        TreeEntry(b"bad", EntryType.FILE, truth[0], 6),
        TreeEntry(b"good", EntryType.FILE, truth[1], 5),
        TreeEntry(b"honest", EntryType.FILE, truth[0], 5),
        TreeEntry(b"short", EntryType.FILE, truth[1], 4),
    )
    with pytest.raises(kacas.DamagedContentError, match=r"2 files .*bad.*says 6 bytes"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {b"good": b"other", b"honest": b"small"}


def test_a_document_that_declares_more_than_the_disk_holds_is_refused_before_anything_is_written(
    store: kacas.Store, tmp_path: Path
) -> None:
    store.store_bytes(b"small")
    below = TreeEntry(b"file", EntryType.FILE, hashlib.sha1(b"small").digest(), 1 << 60)
    with pytest.raises(kacas.DestinationError, match="1,152,921,504,606,846,976 bytes"):
        store.load_dir(forged(store, below), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # A few documents that name one another twice each are 2^60 files, of no byte each.
    empty = store.store_bytes(b"")
    uri = forged(store, below._replace(size=0, sha1=bytes.fromhex(empty[7:47])))
    for _ in range(60):
        sub = TreeEntry(b"", EntryType.DIRECTORY, bytes.fromhex(uri[10:50]), 5)
        uri = forged(store, sub._replace(name=b"a"), sub._replace(name=b"b"))
    assert store.describe(uri).files == 1 << 60
    (tmp_path / "there").mkdir()
    for place in ("out", "there"):
        with pytest.raises(kacas.DestinationError, match=r"has no room: the directory needs [\d,]+ names"):
            store.load_dir(uri, tmp_path / place)
    assert not (tmp_path / "out").exists()
    assert read(tmp_path / "there") == {}


def test_a_directory_that_misses_a_part_restores_the_rest_and_names_it(store: kacas.Store, tmp_path: Path) -> None:
    store.store_bytes(b"there")
    there = hashlib.sha1(b"there").digest()
    uri = forged(
        store,
        TreeEntry(b"gone", EntryType.FILE, bytes(20), 4),
        TreeEntry(b"there", EntryType.FILE, there, 5),
    )
    with pytest.raises(kacas.DamagedContentError, match=r"out/gone.*not in the store"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {b"there": b"there"}
    uri = forged(store, TreeEntry(b"sub", EntryType.DIRECTORY, there, 5))
    with pytest.raises(kacas.WrongKindError, match="/sub is not a directory"):
        store.load_dir(uri, tmp_path / "again")


def test_a_full_disk_at_the_destination_is_told_and_leaves_no_part(
    store: kacas.Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, real = store.store_dir(source), os.write
    count = 0

    def full(fd: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr("kacas.formats.tree_restore.os.write", full)
        with pytest.raises(kacas.DestinationError, match="No space left"):
            store.load_dir(uri, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == (source / path.relative_to(tmp_path / "out")).read_bytes()
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == SMALL


def test_a_file_system_without_unnamed_files_serves_as_well(
    store: kacas.Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store.store_dir(source)
    monkeypatch.setattr("kacas.disk.destination.os.O_TMPFILE", 0x7F000000)  # flags that no file system takes
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == SMALL


def test_damage_in_one_file_is_named_and_the_others_are_restored(store: kacas.Store, tmp_path: Path) -> None:
    tree: Tree = {f"{number:03}".encode(): random.Random(number).randbytes(5000) for number in range(40)}
    make(tmp_path / "source", tree)
    uri = store.store_dir(tmp_path / "source")
    (pack,) = store.repository.volume.packs.glob("*.pack")
    data = bytearray(pack.read_bytes())
    at = data.index(tree[b"017"])  # type: ignore[arg-type]
    data[at + 100] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    with pytest.raises(kacas.DamagedContentError, match=r"1 file .*out/017"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {name: data for name, data in tree.items() if name != b"017"}


def test_files_get_the_mode_that_the_umask_allows(store: kacas.Store, source: Path, tmp_path: Path) -> None:
    uri = store.store_dir(source)
    mask = os.umask(0o027)
    try:
        store.load_dir(uri, tmp_path / "out")
    finally:
        os.umask(mask)
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("notes.txt", "run.sh", "raw")}
    assert modes == {"notes.txt": 0o640, "run.sh": 0o750, "raw": 0o750}


def test_no_descriptor_is_left_open(store: kacas.Store, source: Path, tmp_path: Path) -> None:
    uri, before = store.store_dir(source), len(os.listdir("/proc/self/fd"))
    store.load_dir(uri, tmp_path / "out")
    (tmp_path / "out" / "raw" / "a.bin").write_bytes(b"other")
    with pytest.raises(kacas.DestinationError):
        store.load_dir(uri, tmp_path / "out")
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the pack


def killed_restore(store: kacas.Store, uri: str, out: Path, *, at_write: int) -> None:
    """Restore in a process that is killed in the middle of writing a file."""
    code = (
        "import os, signal, sys, kacas\n"
        "real, left = os.write, [int(sys.argv[4])]\n"
        "def write(fd, data):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: real(fd, data[:999]); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(fd, data)\n"
        "os.write = write\n"
        "kacas.Store.open(sys.argv[1], create=False).load_dir(sys.argv[2], sys.argv[3])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, store.path, uri, out, str(at_write)], check=False)
    assert ended.returncode == -9


def random_files(count: int, seed: int) -> Tree:
    rng = random.Random(seed)
    return {f"{number:03}".encode(): rng.randbytes(20_000) for number in range(count)}


@pytest.mark.parametrize("files", [300])
def test_a_restore_that_is_killed_leaves_only_whole_files_and_can_be_resumed(
    store: kacas.Store, tmp_path: Path, files: int
) -> None:
    tree = random_files(files, seed=1)
    make(tmp_path / "source", tree)
    uri, out = store.store_dir(tmp_path / "source"), tmp_path / "out"
    killed_restore(store, uri, out, at_write=100)
    restored = read(out)
    assert 0 < len(restored) < files
    assert restored.items() <= tree.items()
    store.load_dir(uri, out)
    assert read(out) == tree


def test_small_new_directories_appear_when_they_are_complete(store: kacas.Store, tmp_path: Path) -> None:
    tree: Tree = {f"sub-{number}".encode(): random_files(30, seed=number) for number in range(40)}
    make(tmp_path / "source", tree)
    uri, out = store.store_dir(tmp_path / "source"), tmp_path / "out"
    killed_restore(store, uri, out, at_write=700)
    restored = read(out)
    unnamed = [name for name in restored if name.startswith(b".kacas.tmp.")]
    named = {name: restored[name] for name in restored if name not in unnamed}
    assert unnamed
    assert 0 < len(named) < len(tree)
    assert named.items() <= tree.items()
    store.load_dir(uri, out)
    assert read(out) == tree, "and what was left behind is gone"


def test_a_tree_may_hold_what_looks_like_our_own_leftover(store: kacas.Store, tmp_path: Path) -> None:
    tree: Tree = {b".kacas.tmp.0123456789abcdef": {b"a": b"1"}, b".kacas.tmp.file": b"2", b"sub": {b"b": b"3"}}
    make(tmp_path / "source", tree)
    uri = store.store_dir(tmp_path / "source")
    for _ in range(2):
        store.load_dir(uri, tmp_path / "out")
        assert read(tmp_path / "out") == tree


def test_a_failed_restore_leaves_nothing_unnamed(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree: Tree = {f"sub-{number}".encode(): random_files(30, seed=number) for number in range(40)}
    make(tmp_path / "source", tree)
    uri, real, count = store.store_dir(tmp_path / "source"), os.write, 0

    def full(fd: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > 500:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr("kacas.formats.tree_restore.os.write", full)
        with pytest.raises(kacas.DestinationError, match=r"out/sub-\d+/\d+ cannot be written: No space left"):
            store.load_dir(uri, tmp_path / "out")
    restored = read(tmp_path / "out")
    assert 0 < len(restored) < len(tree)
    assert restored.items() <= tree.items()
    store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == tree


def test_a_new_directory_gets_its_name_with_its_last_file(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its files are in one group with those of a directory that needs several."""
    tree: Tree = {b"a": {b"%03d" % number: b"%d" % number for number in range(901)}, b"b": random_files(300, seed=1)}
    make(tmp_path / "source", tree)
    uri, real, seen = store.store_dir(tmp_path / "source"), StagedPlace.complete, []

    def complete(self: StagedPlace) -> None:
        seen.append((os.path.basename(self.path), len(os.listdir(self.fd))))
        real(self)

    monkeypatch.setattr(StagedPlace, "complete", complete)
    store.load_dir(uri, tmp_path / "out")
    assert seen == [(b"a", 901)]
    assert read(tmp_path / "out") == tree


def test_damage_in_a_small_new_directory_leaves_no_part_of_a_file(store: kacas.Store, tmp_path: Path) -> None:
    files: Tree = {b"%02d" % number: random.Random(number).randbytes(5000) for number in range(9)}
    make(tmp_path / "source", {b"sub": files})
    uri = store.store_dir(tmp_path / "source")
    (pack,) = store.repository.volume.packs.glob("*.pack")
    data = bytearray(pack.read_bytes())
    data[data.index(files[b"04"]) + 100] ^= 1  # type: ignore[arg-type]
    pack.chmod(0o644)
    pack.write_bytes(data)
    with pytest.raises(kacas.DamagedContentError, match=r"1 file .*out/sub/04"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {b"sub": {name: data for name, data in files.items() if name != b"04"}}


def test_a_link_put_in_the_place_of_a_file_that_is_kept_leads_nowhere(
    store: kacas.Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, out, victim, real = store.store_dir(source), tmp_path / "out", tmp_path / "victim", hashlib.file_digest
    store.load_dir(uri, out)
    (out / "run.sh").chmod(0o644)
    victim.touch(0o600)

    def replaced(file: BinaryIO, name: str) -> object:
        digest = real(file, name)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(out / "run.sh")):
            (out / "run.sh").unlink()
            (out / "run.sh").symlink_to(victim)
        return digest

    monkeypatch.setattr("kacas.formats.tree_restore.hashlib.file_digest", replaced)
    store.load_dir(uri, out)
    assert (out / "run.sh").is_symlink()
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
