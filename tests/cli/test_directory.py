"""The command line on directories: store, load, ls, diff, and their refusals."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from kacas.errors import SkippedWarning
from tests.cli.conftest import Runner


@pytest.fixture
def run7(tmp_path: Path) -> Path:
    (tmp_path / "run7" / "raw").mkdir(parents=True)
    (tmp_path / "run7" / "notes.txt").write_text("test-content\n")
    (tmp_path / "run7" / "raw" / "a.bin").write_bytes(bytes(2000))
    (tmp_path / "run7" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run7" / "run.sh").chmod(0o755)
    (tmp_path / "run7" / "latest").symlink_to("raw/a.bin")
    return tmp_path / "run7"


def stored(kacas: Runner, path: Path, *options: str) -> str:
    answer = kacas("store", path, *options)
    assert answer.code == 0, answer.err
    (uri,) = answer.lines
    return uri


def test_a_directory_is_stored_listed_and_restored(kacas: Runner, run7: Path, tmp_path: Path) -> None:
    uri = stored(kacas, run7)
    assert uri.startswith("sha1dir://")
    assert uri.endswith("?label=run7")
    assert kacas("ls", uri).lines == [
        "            latest -> raw/a.bin", "      13 B  notes.txt", "            raw/", "      10 B  run.sh*",
    ]  # fmt: skip
    assert [item["name"] for item in kacas("ls", "--json", uri, "raw").objects] == ["a.bin"]
    answer = kacas("load", uri, "--dest", tmp_path / "out")
    assert answer.lines == [str(tmp_path / "out")]
    assert (tmp_path / "out" / "raw" / "a.bin").read_bytes() == bytes(2000)
    assert os.access(tmp_path / "out" / "run.sh", os.X_OK)
    base = uri.partition("?")[0]
    assert kacas("cat", base + "/notes.txt").out == b"test-content\n"
    assert kacas("load", base + "/run.sh").code == 0
    assert kacas("find", base + "/notes.txt", base + "/nothing").code == 3
    info = kacas("info", "--json", uri).object
    assert (info["kind"], info["files"], info["total_size"]) == ("directory", 3, 2023)
    assert "3 files, 2.0 KiB" in kacas("info", uri).text
    assert kacas("log", "--json").object["uri"] == uri
    assert kacas("forget", uri).code == 0


def test_json_tells_the_size_of_all_files(kacas: Runner, run7: Path) -> None:
    files, directory = kacas("store", "--json", run7 / "notes.txt", run7).objects
    assert (files["size"], directory["size"]) == (13, 2023)


def test_diff_prints_a_line_for_each_change(kacas: Runner, run7: Path) -> None:
    before = stored(kacas, run7)
    assert kacas("diff", before, before).lines == []
    (run7 / "notes.txt").write_text("other")
    (run7 / "run.sh").unlink()
    (run7 / "new").mkdir()
    (run7 / "raw" / "a.bin").chmod(0o755)
    after = stored(kacas, run7)
    assert kacas("diff", before, after).lines == ["+ new/", "M notes.txt", "- run.sh", "x raw/a.bin"]
    assert {found["change"] for found in kacas("diff", "--json", before, after).objects} == {
        "added", "content", "removed", "mode",
    }  # fmt: skip


def test_excluded_and_special_names_are_left_out(kacas: Runner, run7: Path) -> None:
    os.mkfifo(run7 / "pipe")
    with pytest.warns(SkippedWarning, match=r"pipe \(a pipe\)"):
        answer = kacas("store", run7, "--exclude", "*.bin", "--exclude", "latest")
    assert answer.code == 0
    assert [item["name"] for item in kacas("ls", "--json", answer.lines[0]).objects] == ["notes.txt", "raw", "run.sh"]


def test_a_directory_needs_a_destination_that_is_free(kacas: Runner, run7: Path, tmp_path: Path) -> None:
    uri = stored(kacas, run7)
    assert kacas("load", uri).code == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    answer = kacas("load", uri, "--dest", tmp_path / "out")
    assert (answer.code, "other content" in answer.error) == (8, True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert kacas("load", uri, "--dest", tmp_path / "out", "--overwrite").code == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "test-content\n"


@pytest.mark.parametrize(
    "command, code, said",
    [
        (["ls", "sha1dir://" + "0" * 40], 3, "is not in the store"),
        (["ls", "sha1://" + "0" * 39], 2, "not a kacas URI"),
        (["cat", "BASE"], 4, "is a directory"),
        (["cat", "BASE/latest"], 4, "symbolic link"),
        (["ls", "BASE/notes.txt"], 4, "is a file"),
        (["ls", "BASE", "rax"], 3, "did you mean 'raw'"),
        (["diff", "BASE", "BASE/notes.txt"], 4, "is a file"),
    ],
)
def test_refusals_are_one_line_with_a_code(kacas: Runner, run7: Path, command: list[str], code: int, said: str) -> None:
    base = stored(kacas, run7).partition("?")[0]
    answer = kacas(*(word.replace("BASE", base) for word in command))
    assert answer.code == code
    assert said in answer.error


def test_a_directory_is_linked(kacas: Runner, run7: Path, tmp_path: Path) -> None:
    (answer,) = kacas("link", "--json", run7, "--exclude", "*.sh").objects
    assert answer["size"] == 2013
    assert kacas("load", answer["uri"], "--dest", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "raw" / "a.bin").read_bytes() == bytes(2000)
    (run7 / "raw" / "a.bin").unlink()
    refused = kacas("cat", answer["uri"].partition("?")[0] + "/raw/a.bin")
    assert (refused.code, "a.bin" in refused.error) == (5, True)


def test_the_outline_of_an_hdf5_file_is_listed(kacas: Runner, run7: Path) -> None:
    with h5py.File(run7 / "x.nwb", "w") as file:
        file.create_dataset(
            "a/data", data=np.zeros((1000, 64), "i2"), chunks=(100, 64), compression="gzip", shuffle=True
        )
        file["a"].attrs["unit"] = "volt"
        file["link"] = h5py.SoftLink("/a/data")
    directory = stored(kacas, run7).partition("?")[0]
    single = stored(kacas, run7 / "x.nwb")
    for uri in (single, f"{directory}/x.nwb"):
        lines = [line.split("  ") for line in kacas("ls", uri).lines]
        assert [line[0] for line in lines] == ["path", "/", "/a", "/a/data", "/link -> /a/data"]
    text = kacas("ls", single).text
    assert "1000 × 64  int16  100 × 64  shuffle + gzip 4" in text
    (found,) = kacas("ls", "--json", single, "a/data").objects
    assert (found["shape"], found["dtype"], found["filters"]) == ([1000, 64], "int16", ["shuffle", "gzip 4"])
    assert kacas("ls", single, "b").code == 3
    (run7 / "raw/a%2 b.nwb").write_bytes((run7 / "x.nwb").read_bytes())
    labelled = stored(kacas, run7)
    assert "?label=" in labelled
    assert kacas("ls", labelled, "raw/a%2 b.nwb").text == text
    assert kacas("ls", labelled, "raw/b.nwb").code == 3
    assert kacas("ls", labelled, "notes.txt").code == 4
    assert kacas("ls", f"{directory}/notes.txt").code == 4
