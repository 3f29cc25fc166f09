"""Directories: stored, listed, read by path, compared, restored, and what may go wrong with each."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kacas
from tests.formats.trees import SMALL, Tree, make, read


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
        "kacas.formats.tree_store._read", lambda fd, path, before, files: reads.append(path) or os.read(fd, 99)
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


def test_the_warning_points_at_the_line_that_stored(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KACAS_DIR", str(tmp_path / "default"))
    os.mkfifo(source / "pipe")
    for keep in (kacas.store_dir, kacas.link_dir, kacas.Store.open(tmp_path / "another").store_dir):
        with pytest.warns(kacas.SkippedWarning, match=r"^1 in .* was skipped: ") as said:
            keep(source)
        assert [one.filename for one in said] == [__file__]


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
    from kacas.formats.known_files import KnownFiles

    real, changes = tree_store._read, iter(["new", "newer"])

    def changing(fd: int, path: bytes, before: os.stat_result, files: KnownFiles) -> bytes:
        if path.endswith(b"notes.txt") and (text := next(changes, None)):
            (source / "notes.txt").write_text(text)
        return real(fd, path, before, files)

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


def test_files_larger_and_smaller_than_a_group_come_back_among_directories(store: kacas.Store, tmp_path: Path) -> None:
    chance = random.Random(5)
    tree: Tree = {b"%04d" % number: chance.randbytes(chance.choice([0, 10, 5000, 20_000])) for number in range(1200)}
    tree |= {b"%04d in between" % number: {b"%d" % i: chance.randbytes(300) for i in range(9)} for number in (3, 600)}
    tree |= {b"0004 large": chance.randbytes(3 << 20), b"0601 whole chunk": chance.randbytes(262_144)}
    make(tmp_path / "source", tree)
    os.link(tmp_path / "source" / "0002", tmp_path / "source" / "1201")
    uri = store.store_dir(tmp_path / "source")
    store.load_dir(uri, tmp_path / "again")
    assert read(tmp_path / "again") == tree | {b"1201": tree[b"0002"]}


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


def test_nothing_is_said_when_nothing_is_skipped(store: kacas.Store, source: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.store_dir(source)
