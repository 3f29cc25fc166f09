"""kacas push and kacas sync."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.remote import Remote
from tests.cli.conftest import PROGRAM, Runner
from tests.remote.proved import proved


@pytest.fixture
def lab(kacas: Runner, tmp_path: Path) -> Remote:
    """A remote in a directory, the default one."""
    (tmp_path / "bucket").mkdir()
    assert kacas("remote", "add", "lab", f"file://{tmp_path}/bucket").code == 0
    return Remote("lab", DirectoryBlobs(tmp_path / "bucket"))


def test_a_uri_is_pushed_and_the_summary_says_what_was_sent(kacas: Runner, notes_uri: str, lab: Remote) -> None:
    answer = kacas("push", notes_uri)
    assert (answer.code, answer.err) == (0, b"")
    assert answer.lines[:2] == ["contents       1 content, 13 B", "there already  0 contents, 0 B"]
    assert answer.lines[2].endswith("in 1 chunk; 0 chunks there already")
    assert answer.lines[3].startswith("took           0.")
    assert proved(lab, notes_uri) == b"test-content\n"
    again = kacas("push", "--to", "lab", notes_uri)
    assert again.lines[1:3] == ["there already  1 content, 13 B", "sent           0 B in no chunk"]


def test_a_pattern_names_what_is_kept_under_such_labels(kacas: Runner, lab: Remote, tmp_path: Path) -> None:
    uris = {}
    for name in ("run7-a.dat", "run7-b.dat", "other.dat"):
        (tmp_path / name).write_bytes(name.encode())
        uris[name] = kacas("store", tmp_path / name).text.strip()
    summary = kacas("push", "--json", "run7-*.dat").objects[-1]
    assert (summary["event"], summary["contents"]) == ("summary", 2)
    assert proved(lab, uris["run7-b.dat"]) == b"run7-b.dat"
    refused = kacas("push", "run8-*.dat")
    assert refused.code == 2
    assert "nothing that you keep has a label like 'run8-*.dat'" in refused.error


def test_an_empty_variable_does_not_push_what_has_no_label(kacas: Runner, lab: Remote) -> None:
    assert kacas("store", "-", stdin=b"only for me").code == 0
    refused = kacas("push", "")
    assert (refused.code, "is a variable not set?" in refused.error) == (2, True)
    assert list(lab.blobs.list("")) == []


def test_sync_sends_all_that_is_kept_and_lacking(kacas: Runner, lab: Remote, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.txt").write_bytes(b"in a directory")
    kacas("store", tmp_path / "run")
    (tmp_path / "one").write_bytes(b"one")
    one = kacas("store", tmp_path / "one").text.strip()
    (tmp_path / "two").write_bytes(b"two")
    two = kacas("store", tmp_path / "two").text.strip()
    kacas("forget", two)
    assert kacas("sync", "--dry-run", "--json").objects[-1]["chunks_sent"] == 3
    assert kacas("sync").code == 0
    assert proved(lab, one) == b"one"
    with pytest.raises(KeyError):
        proved(lab, two)
    assert kacas("sync", "--json").objects[-1]["sent_size"] == 0


def test_thousands_of_uris_come_from_standard_input(kacas: Runner, lab: Remote, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for number in range(1500):
        (tmp_path / "run" / f"{number}.dat").write_bytes(b"content %d" % number)
    directory = kacas("store", tmp_path / "run").text.strip()
    uris = [one["uri"] for one in kacas("ls", "--json", directory).objects]
    answer = kacas("push", "--stdin", "--json", stdin="\n".join(uris).encode())
    assert answer.objects[-1]["contents"] == 1500
    assert answer.objects[-1]["packs"] == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--pending", "--dry-run"], ["--pending", "sha1://" + "ab" * 20], ["--limit", "fast", "x"]]
)
def test_what_cannot_be_meant_is_refused(kacas: Runner, lab: Remote, arguments: list[str]) -> None:
    assert kacas("push", *arguments).code == 2


def test_without_a_remote_it_says_how_to_have_one(kacas: Runner, notes_uri: str) -> None:
    answer = kacas("push", notes_uri)
    assert answer.code == 2
    assert "kacas remote add NAME URL" in answer.error
    assert "there is no remote 'lab'" in kacas("push", "--to", "lab", notes_uri).error


def test_what_is_not_in_the_store_has_the_exit_code_3(kacas: Runner, lab: Remote, notes_uri: str) -> None:
    assert kacas("push", "sha1://" + "ab" * 20).code == 3


def test_a_limit_is_kept(kacas: Runner, lab: Remote, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(3 << 20))
    uri = kacas("store", tmp_path / "noise").text.strip()
    summary = kacas("push", "--limit", "2M", "--json", uri).objects[-1]
    assert summary["seconds"] >= 0.9
    assert summary["packs"] >= 2


def test_what_is_pending_goes_on(kacas: Runner, lab: Remote, notes_uri: str, tmp_path: Path) -> None:
    assert kacas("push", "--pending").err == b"kacas: nothing is pending\n"
    bucket = tmp_path / "bucket"
    bucket.rename(tmp_path / "away")
    bucket.write_bytes(b"no directory")
    failed = kacas("push", notes_uri)
    assert failed.code == 14
    assert "kacas push --pending" in failed.error
    bucket.unlink()
    (tmp_path / "away").rename(bucket)
    assert kacas("push", "--pending").code == 0
    assert proved(lab, notes_uri) == b"test-content\n"
    assert kacas("push", "--pending").err == b"kacas: nothing is pending\n"


def test_ctrl_c_leaves_all_clean_and_says_how_to_go_on(kacas: Runner, lab: Remote, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(20 << 20))
    uri = kacas("store", tmp_path / "noise").text.strip()
    command = [*PROGRAM, "push", "--limit", "1M", uri]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(lab.blobs.list("packs/")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"to go on: kacas push --pending" in err
    assert list(lab.blobs.list("leases/")) == []
    assert list(lab.blobs.list("recipes/")) == []
    arrived = sum(one.size for one in lab.blobs.list("packs/"))
    summary = kacas("push", "--pending", "--json").objects[-1]
    assert summary["sent_size"] < (20 << 20) + 200_000 - arrived + 100_000
    assert proved(lab, uri) == (tmp_path / "noise").read_bytes()


def test_progress_is_for_people_only(kacas: Runner, lab: Remote, notes_uri: str) -> None:
    answer = kacas("push", "--json", notes_uri)
    assert answer.objects[0]["event"] == "expect"
    assert answer.objects[-1]["event"] == "summary"
    assert answer.err == b""
