"""kacas pull: content of a remote is fetched before it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.cli.conftest import Runner


@pytest.fixture
def uris(tmp_path: Path, kacas: Runner) -> list[str]:
    """In a remote that the command knows as lab, and not in its store."""
    import kacas as library

    (tmp_path / "bucket").mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.txt").write_text("in the tree")
    with library.Store.open(tmp_path / "elsewhere") as store:
        found = [store.store_bytes(bytes([number]) * 1000) for number in range(20)]
        found.append(store.store_dir(tmp_path / "tree"))
        push(store, new_remote("lab", DirectoryBlobs(tmp_path / "bucket")), found)
    assert kacas("remote", "add", "lab", f"file://{tmp_path / 'bucket'}").code == 0
    assert kacas("init").code == 0
    return found


def test_pull_fetches_many_and_a_directory_and_is_done_the_second_time(kacas: Runner, uris: list[str]) -> None:
    first = kacas("pull", *uris)
    assert first.code == 0, first.err
    assert "0 contents" in first.text.splitlines()[1]
    assert "21 contents" in kacas("pull", *uris).text.splitlines()[1]


def test_dry_run_fetches_nothing_and_says_what_would_be(kacas: Runner, uris: list[str]) -> None:
    for _ in range(2):
        answer = kacas("pull", "--dry-run", *uris[:3])
        assert answer.code == 0, answer.err
        assert answer.text.splitlines()[2].split() == ["would", "be", "fetched", "2.9", "KiB"]


def test_what_cannot_be_had_is_named_and_all_else_is_here(kacas: Runner, uris: list[str]) -> None:
    absent = "sha1://" + "12" * 20
    answer = kacas("pull", "--json", absent, *uris[:3])
    assert answer.code == 3
    summary = json.loads(answer.text.splitlines()[-1])
    assert (summary["event"], summary["contents"], [*summary["failed"]]) == ("summary", 4, [absent])
    assert "3 contents" in kacas("pull", *uris[:3]).text.splitlines()[1]


def test_from_names_the_remote(kacas: Runner, uris: list[str]) -> None:
    assert kacas("pull", "--from", "nobody", uris[0]).code != 0
    assert kacas("pull", "--from", "lab", "--limit", "10M", uris[0]).code == 0


def test_progress_for_programs_has_a_total(kacas: Runner, uris: list[str]) -> None:
    lines = [json.loads(line) for line in kacas("pull", "--json", *uris).text.splitlines()]
    (expected,) = (line for line in lines if line["event"] == "expect")
    assert expected["total_size"] == 20 * 1000 + len("in the tree") == lines[-1]["raw_size"]


def test_small_contents_are_fetched_and_not_pushed(kacas: Runner, uris: list[str]) -> None:
    events = {line["event"] for line in kacas("pull", "--json", *uris).objects}
    assert events == {"expect", "begin", "fetching", "summary"}


def test_info_of_what_is_only_in_a_remote_says_where_and_leaves_out_what_is_not_known(
    kacas: Runner, uris: list[str]
) -> None:
    answer = kacas("info", uris[0])
    told = dict(line.split(maxsplit=1) for line in answer.text.splitlines())
    assert told["in"].startswith("remote lab (file://")
    assert not told.keys() & {"stored", "kept"}
    known = json.loads(kacas("info", "--json", uris[0]).text)
    assert (known["size"], known["stored_size"], known["ratio"]) == (1000, None, None)
    assert json.loads(kacas("find", "--json", uris[0]).text)["stored_size"] is None
    assert kacas("pull", uris[0]).code == 0
    assert "stored" in kacas("info", uris[0]).text
