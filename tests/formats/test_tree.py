"""Directories: stored, listed, read by path, compared, restored, and what may go wrong with each."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import stat
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kacas
from kacas.model.entry import Kind
from kacas.model.tree import EntryType, TreeEntry, encode_tree
from kacas.model.uri import DirectoryUri

Tree = dict[bytes, object]  # name -> bytes (a file), (bytes,) (executable), str (a link), dict (a directory)


def make(place: Path | bytes, tree: Tree) -> None:
    place = os.fsencode(place)
    os.makedirs(place, exist_ok=True)
    for name, what in tree.items():
        path = os.path.join(place, name)
        if isinstance(what, dict):
            make(path, what)
        elif isinstance(what, str):
            os.symlink(what, path)
        else:
            data = what[0] if isinstance(what, tuple) else what
            assert isinstance(data, bytes)
            with open(path, "wb") as file:
                file.write(data)
            if isinstance(what, tuple):
                os.chmod(path, 0o755)


def read(place: Path | bytes) -> Tree:
    found: Tree = {}
    for entry in os.scandir(os.fsencode(place)):
        if entry.is_symlink():
            found[entry.name] = os.readlink(entry.path).decode()
        elif entry.is_dir():
            found[entry.name] = read(entry.path)
        else:
            data = Path(os.fsdecode(entry.path)).read_bytes()
            found[entry.name] = (data,) if entry.stat().st_mode & 0o100 else data
    return found


SMALL: Tree = {
    b"notes.txt": b"test-content\n",
    b"run.sh": (b"#!/bin/sh\n",),
    b"empty": b"",
    b"nothing here": {},
    b"raw": {b"a.bin": bytes(1000), b"deep": {b"b.txt": b"b", b"up": "../a.bin"}},
    b"latest": "raw/a.bin",
    b"dangling": "/no/such/file",
    b"\xff\xfe": b"not UTF-8",
    "naïve ☃".encode(): b"Unicode",
    b"large.bin": random.Random(1).randbytes(700_000),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make(tmp_path / "source", SMALL)
    return tmp_path / "source"


def test_a_directory_comes_back_as_it_was(store: kacas.Store, source: Path, tmp_path: Path) -> None:
    uri = store.store_dir(source)
    assert uri.startswith("sha1dir://")
    assert uri.endswith("?label=source")
    assert store.load_dir(uri, tmp_path / "out") == tmp_path / "out"
    assert read(tmp_path / "out") == SMALL
    assert store.exists(uri)
    assert store.describe(uri).uri == uri
    assert [item.uri for item in store.history()] == [uri]


def test_the_identity_is_that_of_the_document_and_every_part_is_a_stored_file(store: kacas.Store, source: Path) -> None:
    uri = store.store_dir(source)
    sha1 = uri[10:50]
    document = store.load_bytes(f"sha1://{sha1}")
    assert hashlib.sha1(document).hexdigest() == sha1
    assert store.store_json(store.load_json(f"sha1://{sha1}")) == f"sha1://{sha1}"
    for item in store.list_dir(uri):
        if item.type == "file":
            assert store.exists(item.uri or "")
    assert store.load_text("sha1://" + hashlib.sha1(b"test-content\n").hexdigest()) == "test-content\n"


def test_the_identity_does_not_depend_on_place_time_or_order(store: kacas.Store, tmp_path: Path) -> None:
    make(tmp_path / "a", SMALL)
    make(tmp_path / "b", dict(reversed(SMALL.items())))
    os.utime(tmp_path / "b" / "notes.txt", (1, 1))
    os.chmod(tmp_path / "b" / "notes.txt", 0o600)
    assert store.store_dir(tmp_path / "a")[:50] == store.store_dir(tmp_path / "b")[:50]


def test_everything_is_read_by_its_path(store: kacas.Store, source: Path, tmp_path: Path) -> None:
    uri = store.store_dir(source)
    base = uri.partition("?")[0]
    assert store.load_text(f"{base}/notes.txt") == "test-content\n"
    assert store.load_bytes(f"{base}/raw/a.bin?label=x", 10, 20) == bytes(10)
    assert store.open_file(f"{base}/large.bin").read() == SMALL[b"large.bin"]
    assert store.load_bytes(f"{base}/%FF%FE") == b"not UTF-8"
    assert store.load_bytes(f"sha1dir://{uri[10:50]}.source/raw/deep/b.txt") == b"b"  # as the first kachery wrote it
    assert store.load_file(f"{base}/run.sh").name == "run.sh"
    assert store.describe(f"{base}/notes.txt").size == 13
    assert [item.name for item in store.list_dir(f"{base}/raw/")] == ["a.bin", "deep"]
    assert [item.name for item in store.list_dir(uri, "raw/deep")] == ["b.txt", "up"]
    store.load_dir(f"{base}/raw/deep", tmp_path / "deep")
    assert read(tmp_path / "deep") == {b"b.txt": b"b", b"up": "../a.bin"}
    for item in store.list_dir(uri):
        assert item.uri is None or store.exists(item.uri)


@pytest.mark.parametrize(
    "path, error, said",
    [
        ("/note.txt", kacas.NotFoundError, "did you mean 'notes.txt'"),
        ("/nope/x", kacas.NotFoundError, "has no 'nope'"),
        ("/notes.txt/x", kacas.NotFoundError, "is a file"),
        ("/latest", kacas.WrongKindError, "symbolic link to 'raw/a.bin'"),
        ("/raw", kacas.WrongKindError, "is a directory"),
        ("", kacas.WrongKindError, "is a directory"),
        ("/raw/../notes.txt", kacas.InvalidUriError, "not a name"),
        ("//notes.txt", kacas.InvalidUriError, "not a name"),
        ("/raw%2Fa.bin", kacas.InvalidUriError, "not a name"),
    ],
)
def test_a_path_that_names_no_file_is_told_what_it_is(
    store: kacas.Store, source: Path, path: str, error: type[Exception], said: str
) -> None:
    base = store.store_dir(source).partition("?")[0]
    with pytest.raises(error, match=said):
        store.load_bytes(base + path)
    if error is kacas.NotFoundError:
        assert not store.exists(base + path)
        assert store.find(base + path) is None


def test_a_file_is_not_a_directory_nor_missing_content_one(store: kacas.Store, tmp_path: Path) -> None:
    uri = store.store_text("just text")
    with pytest.raises(kacas.WrongKindError, match="is not a directory"):
        store.list_dir("sha1dir://" + uri[7:47])
    with pytest.raises(kacas.NotFoundError):
        store.load_dir("sha1dir://" + "0" * 40, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for path, said in ((tmp_path / "no", "not there"), (Path(__file__), "not a directory")):
        with pytest.raises(kacas.UnreadableSourceError, match=said):
            store.store_dir(path)


def test_unchanged_subdirectories_and_files_are_shared(store: kacas.Store, source: Path) -> None:
    first = store.store_dir(source)
    before = store.stats()
    (source / "raw" / "deep" / "b.txt").write_bytes(b"changed")
    second = store.store_dir(source)
    assert second != first
    after = store.stats()
    assert after.chunks - before.chunks == 4  # the file and the three documents above it
    assert [(found.change, found.path) for found in store.diff(first, second)] == [("content", "raw/deep/b.txt")]


def test_diff_tells_every_kind_of_change(store: kacas.Store, source: Path) -> None:
    first = store.store_dir(source)
    (source / "empty").unlink()
    (source / "run.sh").chmod(0o644)
    (source / "latest").unlink()
    (source / "latest").symlink_to("raw")
    shutil.rmtree(source / "raw" / "deep")
    (source / "raw" / "deep").write_bytes(b"a file now")
    (source / "new").mkdir()
    found = {(one.change, one.path): (one.before, one.after) for one in store.diff(first, store.store_dir(source))}
    assert found == {
        ("removed", "empty"): ("file", None),
        ("mode", "run.sh"): ("file", "file"),
        ("content", "latest"): ("link", "link"),
        ("type", "raw/deep"): ("directory", "file"),
        ("added", "new"): (None, "directory"),
    }
    assert list(store.diff(first, first)) == []


def test_excluded_names_and_paths_are_left_out(store: kacas.Store, source: Path) -> None:
    uri = store.store_dir(source, exclude=["*.bin", "raw/deep/", "[er]*y"])
    assert {item.name for item in store.list_dir(uri)} == {
        os.fsdecode(name) for name in SMALL if name not in (b"large.bin", b"empty")
    }
    assert store.list_dir(uri, "raw") == []
    with pytest.raises(kacas.InvalidSettingError):
        store.store_dir(source, exclude="*.bin")


def test_hard_links_are_read_once(store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "source", {b"a": b"content", b"sub": {}})
    for name in ("b", "sub/c"):
        os.link(tmp_path / "source" / "a", tmp_path / "source" / name)
    reads = []
    monkeypatch.setattr(
        "kacas.formats.tree_store._read", lambda fd, path, before: reads.append(path) or os.read(fd, 99)
    )
    uri = store.store_dir(tmp_path / "source")
    assert len(reads) == 1
    assert [item.name for item in store.list_dir(uri)] == ["a", "b", "sub"]


def test_sockets_and_pipes_are_skipped_and_named(store: kacas.Store, source: Path) -> None:
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(source / "socket"))
        with pytest.warns(kacas.SkippedWarning, match=r"2 in .*pipe \(a pipe\).*socket \(a socket\)"):
            uri = store.store_dir(source)
    assert not {"pipe", "socket"} & {item.name for item in store.list_dir(uri)}


def test_a_store_in_the_directory_is_not_stored(tmp_path: Path) -> None:
    store = kacas.Store.open(tmp_path / "home" / "store")
    make(tmp_path / "home", {b"a": b"a"})
    with pytest.warns(kacas.SkippedWarning, match="kacas' own"):
        uri = store.store_dir(tmp_path / "home")
    assert [item.name for item in store.list_dir(uri)] == ["a"]


def fail_to_open(monkeypatch: pytest.MonkeyPatch, name: bytes, error: OSError) -> None:
    """As for another user: root may read everything."""
    real = os.open

    def refusing(path: object, *arguments: int, **keywords: int) -> int:
        if isinstance(path, bytes) and path.endswith(name):
            raise error
        return real(path, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr("kacas.formats.tree_store.os.open", refusing)


def test_what_cannot_be_read_is_named_and_the_rest_stored_only_if_asked(
    store: kacas.Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open(monkeypatch, b"a.bin", PermissionError(13, "Permission denied"))
    with pytest.raises(kacas.UnreadableSourceError, match=r"raw/a\.bin: Permission denied.*--partial"):
        store.store_dir(source)
    assert list(store.history()) == []
    assert store.stats().packs == 0
    with pytest.warns(kacas.SkippedWarning, match=r"raw/a\.bin"):
        uri = store.store_dir(source, partial=True)
    assert [item.name for item in store.list_dir(uri, "raw")] == ["deep"]


def test_a_file_that_changes_is_tried_again_then_named(store: kacas.Store, source: Path) -> None:
    from kacas.formats import tree_store

    real, changes = tree_store._read, iter(["new", "newer"])

    def changing(fd: int, path: bytes, before: os.stat_result) -> bytes:
        if path.endswith(b"notes.txt") and (text := next(changes, None)):
            (source / "notes.txt").write_text(text)
        return real(fd, path, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_store, "_read", changing)
        uri = store.store_dir(source)
    assert store.load_text(uri.partition("?")[0] + "/notes.txt") == "newer"
    changes = iter(["1", "12", "123", "1234", "12345"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_store, "_read", changing)
        with pytest.raises(kacas.UnreadableSourceError, match=r"notes\.txt changed while it was stored"):
            store.store_dir(source)


def test_a_file_that_vanishes_is_named(store: kacas.Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_open(monkeypatch, b"notes.txt", FileNotFoundError(2, "No such file or directory"))
    with pytest.raises(kacas.UnreadableSourceError, match=r"notes\.txt: No such file"):
        store.store_dir(source)


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
        TreeEntry(b"bad", EntryType.FILE, truth[0], 1 << 60),
        TreeEntry(b"good", EntryType.FILE, truth[1], 5),
        TreeEntry(b"short", EntryType.FILE, truth[0], 4),
    )
    with pytest.raises(kacas.DamagedContentError, match=r"2 files .*bad.*says 1152921504606846976 bytes"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {b"good": b"other"}


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
    with pytest.raises(kacas.DamagedContentError, match=r"1 files .*out/017"):
        store.load_dir(uri, tmp_path / "out")
    assert read(tmp_path / "out") == {name: data for name, data in tree.items() if name != b"017"}


def test_a_deep_tree_and_a_wide_one(store: kacas.Store, tmp_path: Path) -> None:
    deep: Tree = {b"end": b"x"}
    for _ in range(700):
        deep = {b"d": deep}
    place = os.fsencode(tmp_path / "deep")
    os.makedirs(place + b"/d" * 700)
    Path(os.fsdecode(place + b"/d" * 700 + b"/end")).write_bytes(b"x")
    uri = store.store_dir(tmp_path / "deep")
    assert store.load_bytes(uri.partition("?")[0] + "/d" * 700 + "/end") == b"x"
    store.load_dir(uri, tmp_path / "out")
    assert Path(str(tmp_path / "out") + "/d" * 700 + "/end").read_bytes() == b"x"
    make(tmp_path / "wide", {f"{number}".encode(): b"%d" % (number % 7) for number in range(3000)})
    uri = store.store_dir(tmp_path / "wide")
    store.load_dir(uri, tmp_path / "wide again")
    assert read(tmp_path / "wide again") == read(tmp_path / "wide")


names = st.binary(min_size=1, max_size=8).filter(lambda name: name not in (b".", b"..") and not {47, 0} & set(name))
files = st.binary(max_size=200) | st.builds(lambda data: (data,), st.binary(max_size=20))
trees = st.recursive(
    st.dictionaries(names, files | st.sampled_from(["a", "../x", "/etc/passwd"]), max_size=5),
    lambda below: st.dictionaries(names, files | below, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_random_trees_come_back_byte_for_byte(
    store: kacas.Store, tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("tree")
    make(place / "source", tree)
    uri = store.store_dir(place / "source")
    store.load_dir(uri, place / "out")
    assert read(place / "out") == read(place / "source") == tree
    assert store.store_dir(place / "out", label="source") == uri


def test_forgetting_a_directory_ends_my_claim_on_it(store: kacas.Store, source: Path) -> None:
    uri = store.store_dir(source)
    assert store.forget(uri).dropped == 1
    assert [item.forgotten for item in store.history()] == [True]
    assert store.store_dir(source) == uri
    assert len(store.describe(uri).claims) == 1


def test_storing_a_directory_again_publishes_nothing(store: kacas.Store, source: Path) -> None:
    uri = store.store_dir(source)
    before = store.stats()
    assert store.store_dir(source) == uri
    assert store.stats() == before


def test_directories_are_stored_inside_batches_and_by_threads(store: kacas.Store, tmp_path: Path) -> None:
    for number in range(4):
        make(tmp_path / str(number), {b"a": b"%d" % number, b"same": b"same" * 100})
    with store.batch():
        uris = [store.store_dir(tmp_path / str(number)) for number in range(2)]
        store.store_text("beside")
    threads = [threading.Thread(target=lambda n=n: uris.append(store.store_dir(tmp_path / str(n)))) for n in (2, 3)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.load_bytes(uri.partition("?")[0] + "/a") for uri in uris) == [b"0", b"1", b"2", b"3"]


def test_files_get_the_mode_that_the_umask_allows(store: kacas.Store, source: Path, tmp_path: Path) -> None:
    uri = store.store_dir(source)
    mask = os.umask(0o027)
    try:
        store.load_dir(uri, tmp_path / "out")
    finally:
        os.umask(mask)
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("notes.txt", "run.sh", "raw")}
    assert modes == {"notes.txt": 0o640, "run.sh": 0o750, "raw": 0o750}


def test_nothing_is_said_when_nothing_is_skipped(store: kacas.Store, source: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.store_dir(source)
