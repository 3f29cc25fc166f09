"""kacas verify, kacas index rebuild and merge."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kacas import Store
from kacas.model.merging import MergeRule
from tests.cli.conftest import Runner, flip_byte, packs


@pytest.mark.parametrize("options", [[], ["--quick"]], ids=["whole", "quick"])
def test_verify_of_a_good_store_is_clean(kacas: Runner, notes_uri: str, options: list[str]) -> None:
    answer = kacas("verify", *options)
    assert (answer.code, answer.err) == (0, b"")
    assert answer.lines[-1].startswith("1 pack, 1 chunk, 1 content, ")
    assert answer.lines[-1].endswith(": clean")
    found = kacas("verify", "--json", *options).object
    assert (found["clean"], found["packs"], found["problems"], found["orphans"]) == (True, 1, [], [])


def test_verify_names_the_damaged_pack_and_the_uris_and_gives_5(kacas: Runner, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(100_000))
    uri = kacas("store", tmp_path / "data").text.strip()
    (pack,) = packs(tmp_path / "store")
    flip_byte(pack, 50_000)
    answer = kacas("verify")
    assert answer.code == 5
    assert "the store is not clean" in answer.error
    assert "in 1 pack;" in answer.error
    assert answer.lines[0] == f"pack {pack.stem}"
    assert f"  cannot be loaded: {uri}" in answer.lines
    assert answer.lines[-1].endswith(": NOT CLEAN")
    found = kacas("verify", "--json")
    assert found.code == 5
    assert found.object["clean"] is False
    assert {problem["pack"] for problem in found.object["problems"]} == {pack.stem}
    assert uri in {known for problem in found.object["problems"] for known in problem["uris"]}


def test_verify_notes_damage_in_a_pack_that_was_merged(kacas: Runner, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        store.repository.lookup.rule = MergeRule(fan_in=2)
        store.store_text("one")
        (pack,) = packs(tmp_path / "store")
        store.store_text("two")
    assert len(packs(tmp_path / "store")) == 3
    flip_byte(pack, 130)
    answer = kacas("verify")
    assert answer.code == 0
    assert f"note: pack {pack.stem} is damaged; all that it held is in a merged pack too" in answer.lines
    assert answer.lines[-1].endswith(": clean")
    found = kacas("verify", "--json").object
    assert (found["clean"], found["problems"]) == (True, [])
    assert [problem["pack"] for problem in found["redundant"]] == [pack.stem]


def test_storing_again_heals_what_verify_found(kacas: Runner, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(100_000))
    uri = kacas("store", tmp_path / "data").text.strip()
    (pack,) = packs(tmp_path / "store")
    flip_byte(pack, 50_000)
    kacas("verify")
    assert kacas("store", tmp_path / "data").text.strip() == uri
    assert kacas("cat", uri).out == (tmp_path / "data").read_bytes()


@pytest.mark.parametrize("size", [0, 10, 200])
def test_verify_finds_a_truncated_pack(kacas: Runner, notes_uri: str, tmp_path: Path, size: int) -> None:
    (pack,) = packs(tmp_path / "store")
    pack.chmod(0o644)
    os.truncate(pack, size)
    answer = kacas("verify")
    assert answer.code == 5
    assert f"pack {pack.stem}" in answer.lines


def test_leftovers_are_notes_and_no_problems(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    orphan = ".0123.pack.tmp.host.1.abcd"
    (tmp_path / "store" / "packs" / orphan).write_bytes(b"half a pack")
    answer = kacas("verify")
    assert answer.code == 0
    assert answer.lines[0].startswith(f"note: packs/{orphan}")
    assert kacas("verify", "--json").object["orphans"] == [f"packs/{orphan}"]


def test_index_rebuild_counts_records_and_loses_nothing(kacas: Runner, notes_uri: str) -> None:
    assert kacas("index", "rebuild").text == "the index is new, with 1 chunk record\n"
    assert kacas("index", "rebuild", "--json").object["records"] == 1
    assert kacas("cat", notes_uri).out == b"test-content\n"


WITHOUT_PCODEC = "import sys; sys.modules['pcodec'] = None; from kacas.cli.main import main; main()"


def test_verify_says_what_it_could_not_check(tmp_path: Path) -> None:
    scaled = (np.random.default_rng(1).integers(-500, 500, 100_000) * np.float32(0.195)).astype(np.float32)
    with Store.open(tmp_path / "store") as store:
        store.store_npy(scaled, codec="pcodec")
    command = [sys.executable, "-c", WITHOUT_PCODEC, "--store", tmp_path / "store", "verify"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 6
    assert "pip install pcodec, and verify again" in ended.stderr
    assert "not checked: 2 payloads" in ended.stdout
    assert ended.stdout.endswith("NOT WHOLLY CHECKED\n")


def test_index_merge_holds_the_tables_in_a_segment_and_loses_nothing(kacas: Runner, tmp_path: Path) -> None:
    assert kacas("init").code == 0
    assert kacas("index", "merge").text == "0 chunk records and 0 entries of 0 packs are in 0 segments of 0 B\n"
    (tmp_path / "data").write_bytes(os.urandom(3_000_000))
    uri = kacas("store", tmp_path / "data").text.strip()
    found = kacas("index", "merge", "--json").object
    assert (found["segments"], found["packs"], found["entries"]) == (1, 1, 1)
    assert kacas("stats", "--json").object["segments"] == found
    rebuilt = kacas("index", "rebuild", "--json").object
    assert rebuilt == {"records": 0, "segments": found}
    assert f"{found['chunks']} chunk records and 1 entry of 1 pack are in 1 segment" in kacas("index", "rebuild").text
    assert kacas("cat", uri).out == (tmp_path / "data").read_bytes()


def test_verify_notes_a_damaged_segment_and_is_clean(kacas: Runner, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(3_000_000))
    kacas("store", tmp_path / "data")
    kacas("index", "merge")
    (segment,) = (tmp_path / "store" / "segments").iterdir()
    flip_byte(segment, 100)
    with pytest.warns(RuntimeWarning, match="Move it out"):
        answer = kacas("verify")
    assert answer.code == 0
    assert any(line.startswith(f"note: segment {segment.name}: the checksum of a bucket") for line in answer.lines)
