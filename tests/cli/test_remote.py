"""`kacas remote`: naming buckets, and what is said of them."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kacas_remote.configuration import Probed, change_remotes
from tests.cli.conftest import PROGRAM, Runner


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


def test_what_was_added_is_listed_shown_and_removed(kacas: Runner, bucket: str) -> None:
    answer = kacas("remote", "add", "lab", bucket, "--trusted")
    assert answer.code == 0
    assert b"added remote lab, the default" in answer.err
    assert "conditional put  yes" in answer.lines
    (found,) = kacas("remote", "list", "--json").objects
    assert (found["name"], found["url"], found["default"], found["trusted"]) == ("lab", bucket, True, True)
    assert kacas("remote", "list").lines[1].split(maxsplit=2) == ["lab", bucket, "default, trusted"]
    shown = kacas("remote", "show", "--json", "lab").object
    assert shown["probed"]["writable"] is True
    assert shown["missing"] == []
    assert kacas("remote", "remove", "lab").code == 0
    assert kacas("remote", "list").out == b""
    assert Path(bucket.removeprefix("file://")).is_dir()


def test_the_order_is_that_in_which_they_were_added_and_the_first_is_the_default(kacas: Runner, bucket: str) -> None:
    kacas("remote", "add", "web", "https://data.example.org/kacas", "--no-probe")
    for name in ("c", "a", "b"):
        kacas("remote", "add", name, bucket, "--no-probe")
    found = kacas("remote", "list", "--json").objects
    assert [one["name"] for one in found] == ["web", "c", "a", "b"]
    assert [one["name"] for one in found if one["default"]] == ["c"]
    assert kacas("remote", "list").lines[1].endswith("read-only")


def test_the_default_is_chosen_and_stores_push_to_it_if_said(
    kacas: Runner, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lab", "other"):
        kacas("remote", "add", name, bucket, "--no-probe")
    assert kacas("remote", "default").lines == ["lab"]
    kacas("remote", "default", "other", "--push")
    assert kacas("remote", "default").lines == ["other (push)"]
    kacas("remote", "default", "--no-push")
    assert kacas("remote", "default").lines == ["other"]
    kacas("remote", "default", "--none")
    assert kacas("remote", "default").lines == ["none"]
    assert kacas("remote", "default", "--push").code == 2
    monkeypatch.setenv("KACAS_REMOTE", "lab")
    assert kacas("remote", "default").lines == ["lab (push)"]
    assert b"KACAS_REMOTE" in kacas("remote", "default", "other").err


def test_nothing_can_be_pushed_by_default_to_what_can_only_be_read(kacas: Runner, bucket: str) -> None:
    kacas("remote", "add", "web", "https://data.example.org/kacas", "--no-probe")
    kacas("remote", "add", "kept", bucket, "--no-probe", "--read-only")
    for name in ("web", "kept"):
        answer = kacas("remote", "default", name, "--push")
        assert (answer.code, "can only be read" in answer.error) == (2, True)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["add", "lab", "file:///not/there"], "file:///not/there"),
        (["add", "Lab", "file:///x"], "no name for a remote"),
        (["add", "lab", "s3://key:hunter2@bucket"], "credentials"),
        (["add", "lab", "ftp://hunter2"], "s3://"),
        (["add", "lab", "https://h/?sig=hunter2"], "credentials"),
        (["show", "none"], "kacas remote add"),
        (["probe", "none"], "kacas remote add"),
        (["remove", "none"], "kacas remote add"),
        (["default", "none"], "kacas remote add"),
    ],
)
def test_what_cannot_be_done_is_one_line_without_secrets_and_changes_nothing(
    kacas: Runner, arguments: list[str], words: str
) -> None:
    answer = kacas("remote", *arguments)
    assert answer.code in (2, 9)
    assert words in answer.error
    assert "hunter2" not in answer.error
    assert kacas("remote", "list").out == b""


@pytest.mark.parametrize("url", ["s3://bucket/../lab", "gs://bucket/a//b", "az://container/./x", "memory://x/.."])
def test_a_prefix_that_no_blob_can_have_is_refused_before_it_is_in_the_list(kacas: Runner, url: str) -> None:
    answer = kacas("remote", "add", "lab", url, "--no-probe")
    assert answer.code == 2
    assert b"the prefix in " in answer.err
    assert kacas("remote", "list").out == b""


@pytest.mark.parametrize("url", ["s3://bucket/a b", "s3://bucket/a%20b", "gs://bucket/a%2Fb", "az://container/%c3%bc"])
def test_a_prefix_with_blanks_is_refused_and_nobody_is_told_to_escape_them_in_a_bucket(kacas: Runner, url: str) -> None:
    answer = kacas("remote", "add", "lab", url, "--no-probe")
    assert answer.code == 2
    assert "take " in answer.error
    assert "write them" not in answer.error
    assert kacas("remote", "list").out == b""


def test_a_directory_with_a_blank_is_written_with_percent_20(kacas: Runner, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    assert "%20" in kacas("remote", "add", "lab", f"file://{tmp_path}/a b").error
    assert kacas("remote", "add", "lab", f"file://{tmp_path}/a%20b").code == 0


def test_a_name_is_given_once(kacas: Runner, bucket: str) -> None:
    kacas("remote", "add", "lab", bucket)
    answer = kacas("remote", "add", "lab", bucket)
    assert (answer.code, "kacas remote remove lab" in answer.error) == (2, True)


def test_probing_again_is_kept_in_mind(kacas: Runner, bucket: str) -> None:
    kacas("remote", "add", "lab", bucket, "--no-probe")
    assert kacas("remote", "show", "--json", "lab").object["probed"] is None
    seen = kacas("remote", "probe", "--json", "lab").object["probed"]
    assert seen["conditional_put"] is True
    assert kacas("remote", "show", "--json", "lab").object["probed"] == seen


def test_the_list_is_the_users_alone(kacas: Runner, bucket: str) -> None:
    kacas("remote", "add", "lab", bucket, "--no-probe")
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "kacas" / "remotes.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_the_packages_for_remotes_it_is_said_what_to_install(tmp_path: Path, bucket: str) -> None:
    """The store works all the same."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("obstore", "httpx", "tenacity", "nacl"):
        (blocked / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name={name!r})")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PYTHONPATH": str(blocked)}
        return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, env=env, check=False)

    assert run("remote", "add", "lab", "s3://bucket", "--no-probe").returncode == 0
    answer = run("remote", "probe", "lab")
    assert (answer.returncode, "pip install 'kacas[remote]'" in answer.stderr) == (6, True)
    (tmp_path / "a.txt").write_text("a")
    uri = run("store", str(tmp_path / "a.txt")).stdout.strip()
    answer = run("cat", uri)
    assert (answer.returncode, answer.stdout) == (0, "a")
    assert "remote lab is left out" in answer.stderr


@pytest.mark.parametrize("clock_s, said", [(-481, "481 s behind ours"), (3, "3 s ahead of ours")])
def test_a_clock_that_is_off_is_said_with_its_direction(kacas: Runner, bucket: str, clock_s: int, said: str) -> None:
    kacas("remote", "add", "lab", bucket, "--no-probe")
    change_remotes(lambda found: [replace(one, probed=Probed(clock_s=clock_s)) for one in found])
    assert [line.split(maxsplit=1) for line in kacas("remote", "show", "lab").lines if line.startswith("clock")] == [
        ["clock", said]
    ]


def test_a_directory_that_is_not_there_is_not_made_and_the_message_says_what_to_do(
    kacas: Runner, tmp_path: Path
) -> None:
    answer = kacas("remote", "add", "lab", f"file://{tmp_path}/bucket")
    assert answer.code != 0
    assert b"there is no directory" in answer.err
    assert b"make the directory" in answer.err
    assert not (tmp_path / "bucket").exists()
