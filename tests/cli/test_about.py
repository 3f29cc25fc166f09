"""kacas config, version, completion."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Runner


def test_config_shows_every_setting_with_its_source(
    kacas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config" / "kacas").mkdir(parents=True)
    (tmp_path / "config" / "kacas" / "kacas.toml").write_text("threads = 3\n")
    found = kacas("config", "--json").object
    assert found["settings"]["directory"] == {"value": str(tmp_path / "store"), "source": "environment"}
    assert found["settings"]["threads"] == {"value": 3, "source": "file"}
    assert found["settings"]["cache_size"] == {"value": 64 << 30, "source": "default"}
    assert found["store"] is None
    text = kacas("config").text
    assert "64.0 GiB" in text
    assert f"there is no store at {tmp_path / 'store'} yet" in text


def test_config_shows_the_settings_of_the_store(kacas: Runner, tmp_path: Path) -> None:
    kacas("init", tmp_path / "lab", "--durability", "relaxed")
    answer = kacas("--store", tmp_path / "lab", "config", "--json")
    assert answer.object["settings"]["directory"] == {"value": str(tmp_path / "lab"), "source": "--store"}
    assert answer.object["store"]["durability"] == "relaxed"
    assert len(answer.object["store"]["store_id"]) == 32
    assert "durability      relaxed" in kacas("--store", tmp_path / "lab", "config").lines


def test_config_makes_nothing(kacas: Runner, tmp_path: Path) -> None:
    kacas("config")
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "cache").exists()


def test_a_bad_setting_gives_2_and_names_itself(kacas: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_THREADS", "many")
    answer = kacas("config")
    assert answer.code == 2
    assert "KACAS_THREADS 'many'" in answer.error


def test_version_is_that_of_the_package(kacas: Runner) -> None:
    assert kacas("version").text.startswith(f"kacas {version('kacas')} (store format 1, Python 3.")
    assert kacas("--version").text == kacas("version").text
    found = kacas("version", "--json").object
    assert found["kacas"] == version("kacas")
    assert found["libraries"]["numpy"] == version("numpy")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_the_shell_takes(kacas: Runner, shell: str) -> None:
    answer = kacas("completion", shell)
    assert answer.code == 0
    assert "_KACAS_COMPLETE" in answer.text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=answer.out, check=True, timeout=60)


def test_completion_knows_no_other_shell(kacas: Runner) -> None:
    assert kacas("completion", "tcsh").code == 2


@pytest.mark.parametrize(
    "words, expected",
    [("kacas st", {"store", "stats"}), ("kacas index ", {"rebuild", "merge"}), ("kacas completion z", {"zsh"})],
)
def test_the_shell_gets_the_words_that_fit(words: str, expected: set[str]) -> None:
    assert completed(words) == expected


def completed(words: str) -> set[str]:
    """What the shell is offered for the last of the words."""
    known = dict(os.environ) | {
        "_KACAS_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(PROGRAM, env=known, capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return {line.partition(",")[2] for line in done.stdout.decode().split()}


@pytest.mark.parametrize(
    "words, expected",
    [
        ("kacas push --to l", {"lab", "later"}),
        ("kacas pull --from other", {"other"}),
        ("kacas store --push-to la", {"lab", "later"}),
        ("kacas remote usage ", {"lab", "later", "other"}),
        ("kacas group show our", {"ours"}),
        ("kacas remote add new s3://bucket --private ", {"ours"}),
        ("kacas trust remove a", {"ana"}),
    ],
)
def test_the_shell_gets_the_names_of_remotes_groups_and_publishers(
    kacas: Runner, tmp_path: Path, words: str, expected: set[str]
) -> None:
    for name in ("lab", "later", "other"):
        kacas("remote", "add", name, f"file://{tmp_path}", "--no-probe")
    kacas("identity", "create")
    kacas("group", "create", "ours", "--at", str(tmp_path / "ours.group"))
    kacas("trust", "add", "ana", "ed25519:" + "3b" * 32)
    assert completed(words) == expected


def test_what_cannot_be_read_completes_nothing_and_says_nothing(
    kacas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kacas("remote", "add", "lab", f"file://{tmp_path}", "--no-probe")
    monkeypatch.setenv("KACAS_REMOTE", "nowhere")
    assert completed("kacas push --to l") == set()


def test_config_shows_which_remote_is_the_default_and_who_says_so(
    kacas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lab", "other"):
        kacas("remote", "add", name, f"file://{tmp_path}", "--no-probe")

    def shown() -> object:
        return kacas("config", "--json").object["settings"]["remote"]

    assert shown() == {"value": "lab", "source": "file"}
    monkeypatch.setenv("KACAS_REMOTE", "other")
    assert shown() == {"value": "other", "source": "environment"}
    monkeypatch.setenv("KACAS_REMOTE", "")
    assert shown() == {"value": "None", "source": "environment"}
