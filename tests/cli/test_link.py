"""kacas link, and what the other commands say of linked files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Runner, packs

NOTES_URI = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230?label=notes.txt"


@pytest.fixture
def linked(kacas: Runner, notes: Path) -> Path:
    """The file of the documentation, linked."""
    assert kacas("link", notes).code == 0
    return notes


def test_link_prints_the_uri_that_store_would(kacas: Runner, notes: Path, tmp_path: Path) -> None:
    answer = kacas("link", notes)
    assert (answer.code, answer.text) == (0, NOTES_URI + "\n")
    assert answer.err == f"kacas: made a new store at {tmp_path / 'store'}\n".encode()
    assert kacas("cat", NOTES_URI).out == notes.read_bytes()
    assert kacas("find", NOTES_URI).code == 0
    assert "linked to" in kacas("info", NOTES_URI).text
    assert kacas("info", "--json", NOTES_URI).object["adopted"] == [str(notes)]


def test_several_are_linked_in_one_pack(kacas: Runner, notes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(bytes(1_000_000))
    answer = kacas("link", "--json", notes, other)
    assert [(row["size"], row["path"]) for row in answer.objects] == [(13, str(notes)), (1_000_000, str(other))]
    assert answer.objects[0]["uri"] == NOTES_URI
    assert len(packs(tmp_path / "store")) == 1
    assert kacas("link", notes, "--label", "another name").text.endswith("?label=another%20name\n")


@pytest.mark.parametrize("what", ["missing", "a pipe", "two labels"])
def test_what_cannot_be_linked_is_refused_before_any_work(
    kacas: Runner, notes: Path, tmp_path: Path, what: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    arguments = {
        "missing": [notes, tmp_path / "nowhere"], "a pipe": [notes, tmp_path / "pipe"],
        "two labels": [notes, notes, "--label", "x"],
    }[what]  # fmt: skip
    answer = kacas("link", *arguments)
    assert answer.code == (2 if what == "two labels" else 8)
    assert answer.out == b""
    assert answer.error
    assert not (tmp_path / "store").exists()


def test_a_linked_file_that_is_gone_is_one_line_with_its_path(kacas: Runner, linked: Path) -> None:
    linked.unlink()
    for command in (["cat"], ["load"], ["load", "-o", linked.with_name("copy")]):
        answer = kacas(*command, NOTES_URI)
        assert answer.code == 5
        assert f"{linked} is missing" in answer.error
        assert answer.out == b""


def test_verify_names_it(kacas: Runner, linked: Path) -> None:
    assert kacas("verify").code == 0
    linked.write_bytes(b"test-contenT\n")
    answer = kacas("verify")
    assert answer.code == 5
    assert f"adopted: {linked} changed" in answer.text
    assert f"cannot be loaded: {NOTES_URI}" in answer.text
    assert kacas("verify", "--no-linked").code == kacas("verify", "--quick").code == 0
    linked.unlink()
    assert kacas("verify", "--no-linked").code == 5
