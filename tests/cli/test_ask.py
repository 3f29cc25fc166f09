"""kacas info, find, forget, log, stats."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import kacas as library
from tests.cli.conftest import Runner

MISSING = "sha1://" + 40 * "0"


def test_info_shows_kind_size_and_who_keeps_it(kacas: Runner, notes_uri: str) -> None:
    text = kacas("info", notes_uri).text
    assert notes_uri in text
    assert "13 bytes" in text
    assert "alice since 20" in text
    assert "as notes.txt" in text


def test_info_json_is_exact(kacas: Runner, notes_uri: str) -> None:
    found = kacas("info", "--json", notes_uri).object
    described = library.describe(notes_uri)
    assert (found["uri"], found["kind"], found["size"], found["root"]) == (notes_uri, "file", 13, described.root)
    (claim,) = found["claims"]
    assert (claim["owner"], claim["label"]) == ("alice", "notes.txt")
    assert abs(claim["time_s"] - time.time()) < 60
    assert found["ratio"] == described.ratio


def test_info_of_an_array_has_its_shape_and_dtype(kacas: Runner) -> None:
    uri = library.store_npy(np.zeros((300, 20), np.int16))
    text = kacas("info", uri).text
    assert "300 × 20" in text
    assert "int16" in text
    assert kacas("info", uri, "--json").object["shape"] == [300, 20]
    uri = library.store_npy(np.arange(100_000), codec="delta-bytes-lz4")
    assert "4 (row delta 4)" in kacas("info", uri).text
    assert kacas("info", uri, "--json").object["codecs"] == {"row delta": 4}


def test_find_prints_what_is_here_and_gives_3_if_any_is_missing(kacas: Runner, notes_uri: str) -> None:
    assert kacas("find", notes_uri).lines == [notes_uri]
    answer = kacas("find", MISSING, notes_uri)
    assert (answer.code, answer.lines) == (3, [notes_uri])
    assert answer.err == f"kacas: not in the store: {MISSING}\n".encode()


def test_find_json_has_a_line_for_every_uri(kacas: Runner, notes_uri: str) -> None:
    answer = kacas("find", "--json", MISSING, notes_uri)
    assert answer.code == 3
    missing, found = answer.objects
    assert missing == {"uri": MISSING, "found": False}
    assert (found["uri"], found["found"], found["size"]) == (notes_uri, True, 13)


def test_find_checks_all_uris_before_it_asks(kacas: Runner, notes_uri: str) -> None:
    answer = kacas("find", notes_uri, "nonsense")
    assert (answer.code, answer.out) == (2, b"")


def test_forget_drops_my_claim_and_says_who_keeps_it(
    kacas: Runner, notes: Path, notes_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KACAS_OWNER", "bob")
    kacas("store", notes)
    assert kacas("forget", notes_uri).text == f"dropped 1 claim on {notes_uri}; kept by alice\n"
    assert kacas("forget", notes_uri).text == f"there was no claim of yours on {notes_uri}; kept by alice\n"
    monkeypatch.setenv("KACAS_OWNER", "alice")
    assert kacas("forget", "--json", notes_uri).object == {
        "uri": notes_uri, "dropped": 1, "kept_by": [], "member": False,
    }  # fmt: skip
    assert "nobody: it goes when the store is collected" in kacas("info", notes_uri).text
    assert kacas("cat", notes_uri).out == b"test-content\n"


def test_forget_is_all_or_none(kacas: Runner, notes_uri: str) -> None:
    assert kacas("forget", notes_uri, MISSING).code == 3
    assert kacas("log", "--json").object["forgotten"] is False
    assert kacas("forget", notes_uri, notes_uri).text.count("dropped 1 claim") == 1
    assert kacas("log", "--json").object["forgotten"] is True
    assert "notes.txt (forgotten)" in kacas("log").text


def test_log_lists_what_i_stored_newest_first(kacas: Runner, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).write_text(name * 1000)
        kacas("store", tmp_path / name)
    header, *rows = kacas("log").lines
    assert header.split() == ["time", "kind", "size", "uri", "label"]
    assert [row.split()[-1] for row in rows] == ["third", "second", "first"]
    assert rows[0].split()[2:4] == ["4.9", "KiB"]
    stamp = datetime.fromisoformat(rows[0].split()[0])
    assert abs(stamp.timestamp() - time.time()) < 60
    assert kacas("find", *[row.split()[4] for row in rows]).code == 0  # the short URIs are good ones


def test_log_takes_a_limit(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    kacas("store", tmp_path / "other")
    assert len(kacas("log", "-n", "1").lines) == 2
    assert [item["label"] for item in kacas("log", "-n", "1", "--json").objects] == ["other"]
    assert kacas("log", "-n", "0").out == b""
    assert kacas("log", "-n", "-1").code == 2


def test_log_of_an_empty_store_says_so_beside_the_result(kacas: Runner) -> None:
    kacas("init")
    answer = kacas("log")
    assert (answer.code, answer.out) == (0, b"")
    assert b"you stored nothing" in answer.err
    assert kacas("log", "--json").err == b""


def test_stats_count_the_store(kacas: Runner, notes_uri: str) -> None:
    found = kacas("stats", "--json").object
    assert (found["contents"], found["entries"], found["packs"], found["raw_size"]) == (1, 1, 1, 13)
    text = kacas("stats").text
    assert found["store_id"] in text
    assert "durability  full" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", MISSING],
        ["cat", MISSING],
        ["info", MISSING],
        ["find", MISSING],
        ["forget", MISSING],
        ["log"],
        ["stats"],
        ["verify"],
        ["index", "rebuild"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_asking_never_makes_a_store(kacas: Runner, tmp_path: Path, arguments: list[str]) -> None:
    answer = kacas(*arguments)
    assert (answer.code, answer.out) == (9, b"")
    assert f"there is no kacas store at {tmp_path / 'store'}" in answer.error
    assert "kacas init" in answer.error
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "cache").exists()
