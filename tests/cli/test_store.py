"""kacas init, kacas store."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kacas import Store
from kacas.disk.identities import FileState, Identities, Identity
from kacas.model.uri import parse_uri
from tests.cli.conftest import PROGRAM, Runner, packs

NOTES_URI = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230?label=notes.txt"


def test_store_prints_just_the_uri(kacas: Runner, notes: Path) -> None:
    kacas("init")
    answer = kacas("store", notes)
    assert (answer.code, answer.text, answer.err) == (0, NOTES_URI + "\n", b"")


def test_the_first_store_says_that_it_made_the_store(kacas: Runner, notes: Path, tmp_path: Path) -> None:
    answer = kacas("store", notes)
    assert answer.text == NOTES_URI + "\n"
    assert answer.err == f"kacas: made a new store at {tmp_path / 'store'}\n".encode()


def test_a_codec_is_for_the_arrays_that_are_named(kacas: Runner, notes: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(100_000))
    uri, _ = kacas("store", tmp_path / "a.npy", notes, "--codec", "bits-lz4").text.split()
    assert "4 (Blosc 4)" in kacas("info", uri).text
    wrong = kacas("store", notes, "--codec", "gzip")
    assert wrong.code == 2
    assert b"the codec 'gzip' is unknown; there are fast, auto, small, raw" in wrong.err


def test_several_paths_give_their_uris_in_order_and_go_in_one_pack(kacas: Runner, tmp_path: Path) -> None:
    paths = []
    for number in (3, 1, 2):
        paths.append(tmp_path / f"{number}.txt")
        paths[-1].write_text(f"number {number}")
    answer = kacas("store", *paths, paths[0])
    expected = [
        f"sha1://{hashlib.sha1(path.read_bytes()).hexdigest()}?label={path.name}" for path in (*paths, paths[0])
    ]
    assert answer.lines == expected
    assert len(packs(tmp_path / "store")) == 1


def test_one_bad_path_among_several_prints_and_stores_nothing(kacas: Runner, notes: Path, tmp_path: Path) -> None:
    answer = kacas("store", notes, tmp_path / "missing.txt")
    assert answer.code == 8
    assert "missing.txt cannot be read: No such file" in answer.error
    assert answer.out == b""
    assert not (tmp_path / "store").exists()


def test_a_path_that_fails_while_it_is_read_discards_the_batch(kacas: Runner, notes: Path, tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    kacas("init")
    answer = kacas("store", notes, "/proc/self/mem")  # opens, but its first page cannot be read
    assert answer.code == 8
    assert "/proc/self/mem cannot be read" in answer.error
    assert answer.out == b""
    assert packs(tmp_path / "store") == []
    assert os.listdir(tmp_path / "store" / "packs") == []


def test_json_has_uri_size_and_path(kacas: Runner, notes: Path) -> None:
    answer = kacas("store", "--json", notes, "-", stdin=b"from a pipe")
    assert answer.objects == [
        {"uri": NOTES_URI, "size": 13, "path": str(notes)},
        {"uri": f"sha1://{hashlib.sha1(b'from a pipe').hexdigest()}", "size": 11, "path": "-"},
    ]


@pytest.mark.parametrize("size", [0, 1, 300_000, 9_000_000])
def test_standard_input_is_stored_whole(kacas: Runner, size: int) -> None:
    data = os.urandom(size)
    answer = kacas("store", "-", "--label", "piped.bin", stdin=data)
    assert answer.text == f"sha1://{hashlib.sha1(data).hexdigest()}?label=piped.bin\n"
    assert kacas("cat", answer.text.strip()).out == data


def test_standard_input_that_cannot_be_read_is_an_unreadable_source(program: Runner, tmp_path: Path) -> None:
    write_only = os.open(tmp_path / "write-only", os.O_WRONLY | os.O_CREAT)
    done = subprocess.run([*PROGRAM, "store", "-"], stdin=write_only, capture_output=True, timeout=60, check=False)
    os.close(write_only)
    assert done.returncode == 8
    assert b"standard input cannot be read: Bad file descriptor" in done.stderr


def test_closed_standard_input_is_refused_and_not_taken_for_empty(tmp_path: Path) -> None:
    command = f"exec {' '.join(PROGRAM)} store - <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input is closed" in done.stderr


@pytest.mark.parametrize("label", ["a b.txt", "Größe ×2.npy", "数据.bin", "a/b\\c", "line\nbreak", "?&=%#", "\x1b[2J"])
def test_any_label_comes_back(kacas: Runner, notes: Path, label: str) -> None:
    uri = kacas("store", notes, "--label", label).text.strip()
    assert uri.isascii()
    assert uri.isprintable()
    assert kacas("log", "--json").object["label"] == label
    assert kacas("info", "--json", uri).object["claims"][0]["label"] == label
    assert b"\x1b" not in kacas("log").out + kacas("info", uri).out  # a label never speaks to the terminal


def test_a_label_that_is_too_long_is_refused(kacas: Runner, notes: Path) -> None:
    answer = kacas("store", notes, "--label", "x" * 1025)
    assert answer.code == 2
    assert "1025 bytes" in answer.err.decode()


def test_a_file_name_that_is_not_utf8_keeps_its_bytes(program: Runner, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe data.bin")
    path = tmp_path / name
    try:
        path.write_bytes(b"odd name")
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    program("init")
    answer = program("store", "--json", path)
    assert answer.object["uri"].endswith("?label=%FF%FE%20data.bin")
    assert answer.object["path"] == str(path)
    loaded = program("load", answer.object["uri"])
    assert Path(os.fsdecode(loaded.out[:-1])).read_bytes() == b"odd name"
    shown = program("log")
    assert shown.code == 0
    assert r"\xff\xfe data.bin" in shown.text


def test_label_with_several_paths_is_a_usage_error(kacas: Runner, notes: Path) -> None:
    answer = kacas("store", notes, notes, "--label", "x")
    assert answer.code == 2
    assert "--label is for one PATH" in answer.error


def test_standard_input_cannot_be_stored_twice(kacas: Runner) -> None:
    assert kacas("store", "-", "-").code == 2


def test_an_empty_path_is_not_the_current_directory(kacas: Runner) -> None:
    for arguments in (["store", ""], ["init", ""], ["--store", "", "stats"], ["stats", "--store", ""]):
        answer = kacas(*arguments)
        assert answer.code == 2
        assert "the path is empty" in answer.error


def test_a_pipe_is_refused_with_a_way_out(kacas: Runner, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    answer = kacas("store", tmp_path / "pipe")
    assert answer.code == 8
    assert "kacas store - < " in answer.error


def test_an_unreadable_file_is_named(kacas: Runner, notes: Path) -> None:
    notes.chmod(0)
    if os.access(notes, os.R_OK):
        pytest.skip("root may read everything")
    kacas("init")
    answer = kacas("store", notes)
    assert answer.code == 8
    assert "notes.txt cannot be read: Permission denied" in answer.err.decode()


def test_init_makes_the_default_store(kacas: Runner, tmp_path: Path) -> None:
    answer = kacas("init")
    assert (answer.code, answer.err) == (0, b"")
    assert answer.text == f"made a store at {tmp_path / 'store'} (durability full)\n"
    assert (tmp_path / "store" / "kacas.toml").exists()


def test_init_elsewhere_says_how_to_use_it(kacas: Runner, tmp_path: Path) -> None:
    answer = kacas("init", tmp_path / "other", "--durability", "relaxed")
    assert "(durability relaxed)" in answer.text
    assert f"export KACAS_DIR={tmp_path / 'other'}" in answer.err.decode()
    assert kacas("--store", tmp_path / "other", "stats", "--json").object["durability"] == "relaxed"


def test_init_leaves_a_store_that_is_there_as_it_is(kacas: Runner) -> None:
    first = kacas("init", "--json").object
    second = kacas("init", "--json").object
    assert (first["created"], second["created"]) == (True, False)
    assert first["store_id"] == second["store_id"]
    assert kacas("init", "--durability", "full").code == 0


def test_the_durability_of_a_store_cannot_be_changed(kacas: Runner) -> None:
    kacas("init")
    answer = kacas("init", "--durability", "relaxed")
    assert answer.code == 2
    assert "durability 'full'" in answer.error


def test_init_refuses_a_directory_that_holds_other_things(kacas: Runner, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    answer = kacas("init", tmp_path / "photos")
    assert answer.code == 9
    assert "cat.jpg" in answer.error


def test_init_takes_path_or_store_but_not_both(kacas: Runner, tmp_path: Path) -> None:
    assert kacas("--store", tmp_path / "a", "init", tmp_path / "b").code == 2
    assert kacas("--store", tmp_path / "a", "init").code == 0
    assert (tmp_path / "a" / "kacas.toml").exists()


def test_store_works_where_kacas_store_is_understood_behind_the_command(
    kacas: Runner, notes: Path, tmp_path: Path
) -> None:
    assert kacas("store", notes, "--store", tmp_path / "elsewhere").code == 0
    assert packs(tmp_path / "elsewhere")
    assert not (tmp_path / "store").exists()


def test_rehash_reads_what_is_known_to_be_unchanged(kacas: Runner, tmp_path: Path) -> None:
    """The cache is made to say something false, as only a broken clock could."""
    for name in ("right", "wrong"):
        (tmp_path / name).write_text(name)
    right, wrong = (hashlib.sha1(name.encode()).hexdigest() for name in ("right", "wrong"))
    kacas("store", tmp_path / "wrong")
    with Store.open(tmp_path / "store") as store:
        entry, _ = store.repository.resolve(parse_uri(f"sha1://{wrong}"))
        identities = Identities(store.repository.cache)
    state = FileState.of((tmp_path / "right").stat())
    identities.put_many({state: Identity(entry.sha1, entry.root, entry.size)}, time.time_ns() + 10**10)
    identities.close()
    assert kacas("store", tmp_path / "right").text == f"sha1://{wrong}?label=right\n"
    assert kacas("store", "--rehash", tmp_path / "right").text == f"sha1://{right}?label=right\n"
    assert kacas("store", tmp_path / "right").text == f"sha1://{right}?label=right\n"


def test_chunks_keep_the_array_of_an_npy_file_as_tiles(kacas: Runner, tmp_path: Path, notes: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(300_000, dtype=np.int32).reshape(600, 500))
    uri = kacas("store", tmp_path / "a.npy", "--chunks", "100,*").text.strip()
    assert kacas("store", tmp_path / "a.npy").text.strip() == uri
    assert kacas("info", uri, "--json").object["tiles"] == [100, 500]
    assert "100 × 500" in kacas("info", uri).text
    for lengths, path in (
        ("100", tmp_path / "a.npy"),
        ("100,x", tmp_path / "a.npy"),
        ("1,2", notes),
        ("1,2", tmp_path),
    ):
        refused = kacas("store", path, "--chunks", lengths)
        assert (refused.code, refused.text) == (2, "")
        assert b"chunks" in refused.err
