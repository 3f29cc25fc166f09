"""kacas import-kachery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Runner
from tests.interop.kachery import PRIVATE, PUBLIC, Kachery, sha1_of

NOTES_URI = "sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230"


@pytest.fixture
def kachery(tmp_path: Path, notes: Path) -> Kachery:
    """The file of the documentation, stored; another, linked; a mutable; a key pair."""
    made = Kachery(tmp_path / "kachery-cloud")
    made.keep(notes.read_bytes())
    linked = tmp_path / "recording.dat"
    linked.write_bytes(bytes(1_000_000))
    made.link(linked)
    made.mutable("@a/key", "value")
    made.keys()
    return made


def test_an_import_says_what_came_in_and_the_uris_work(kacas: Runner, kachery: Kachery, tmp_path: Path) -> None:
    answer = kacas("import-kachery", kachery.path)
    assert answer.code == 0
    assert answer.err == f"kacas: made a new store at {tmp_path / 'store'}\n".encode()
    assert answer.lines == [
        "copied        1 content, 13 B",
        "linked        1 content, 976.6 KiB",
        "here already  0 contents",
        "mutables      1 set, 0 here already",
        "left out      nothing",
        "key pair      not asked for; --keys imports it",
    ]
    assert kacas("cat", NOTES_URI).text == "test-content\n"
    assert kacas("mutable", "get", "@a/key").text == "value\n"
    again = kacas("import-kachery", kachery.path)
    assert (again.code, again.err) == (0, b"")
    assert "here already  2 contents, 976.6 KiB" in again.lines
    assert kacas("verify").code == 0


@pytest.mark.parametrize("option, copied, linked", [("--copy", 2, 0), ("--link", 0, 2)])
def test_all_can_be_copied_or_all_linked(
    kacas: Runner, kachery: Kachery, option: str, copied: int, linked: int
) -> None:
    told = kacas("import-kachery", option, "--json", kachery.path).object
    assert (told["copied"], told["linked"]) == (copied, linked)
    assert kacas("cat", NOTES_URI).text == "test-content\n"


def test_the_report_for_programs_has_a_schema_and_every_name(kacas: Runner, kachery: Kachery) -> None:
    damaged = kachery.place("ab" * 20)
    damaged.write_bytes(b"other bytes")
    (kachery.path / "config.yaml").write_text("{}")
    kachery.place("ab" * 20).with_name("ab" * 20 + ".aB3dE6gH9j").write_bytes(b"half")
    answer = kacas("import-kachery", "--json", "--keys", kachery.path)
    assert answer.code == 8
    assert answer.object == {
        "schema": 1, "complete": False, "directory": str(kachery.path),
        "copied": 1, "copied_size": 13, "linked": 1, "linked_size": 1_000_000, "here": 0, "here_size": 0,
        "mutables": 1, "mutables_here": 0, "temporaries": 1, "others": ["config.yaml"], "key_pair": "imported",
        "counts": {"damaged": 1},
        "left_out": [
            {
                "kind": "damaged", "path": str(damaged), "sha1": "ab" * 20,
                "message": f"the bytes have the SHA-1 {sha1_of(b'other bytes')}, not that of its name",
            }
        ],
    }  # fmt: skip
    assert answer.err.decode().splitlines()[-1] == "kacas: error: 1 item was left out; all else is imported"


def test_what_was_left_out_is_named_line_by_line(kacas: Runner, kachery: Kachery) -> None:
    for number in range(25):
        kachery.place(f"{number:040x}").write_bytes(b"other bytes")
    kachery.place("ab" * 20).with_name("ab" * 20 + ".aB3dE6gH9j").write_bytes(b"half")
    (kachery.path / "config.yaml").write_text("{}")
    answer = kacas("import-kachery", kachery.path)
    assert answer.code == 8
    assert all(line.startswith(f"damaged: {kachery.place('0' * 40).parent}/00") for line in answer.lines[:20])
    assert answer.lines[20] == "and 5 more; --json names them"
    assert [line.split(maxsplit=2) for line in answer.lines[-4:]] == [
        ["left", "out", "25 damaged"],
        ["key", "pair", "not asked for; --keys imports it"],
        ["not", "contents", "1 file that kachery-cloud did not finish"],
        ["not", "looked", "at  config.yaml"],
    ]
    assert b"25 items were left out" in answer.err


@pytest.mark.parametrize("what", ["missing", "none of kachery-cloud's", "two modes", "empty"])
def test_what_cannot_be_imported_is_refused_before_a_store_is_made(
    kacas: Runner, kachery: Kachery, tmp_path: Path, what: str
) -> None:
    (tmp_path / "other").mkdir()
    arguments, code = {
        "missing": ([tmp_path / "nowhere"], 8), "none of kachery-cloud's": ([tmp_path / "other"], 8),
        "two modes": ([kachery.path, "--copy", "--link"], 2), "empty": ([""], 2),
    }[what]  # fmt: skip
    answer = kacas("import-kachery", *arguments)
    assert (answer.code, answer.out) == (code, b"")
    assert answer.error
    assert not (tmp_path / "store").exists()


def test_the_private_key_is_never_printed(program: Runner, kachery: Kachery, tmp_path: Path) -> None:
    answers = [program("import-kachery", "--keys", *more, kachery.path) for more in ([], ["--json"], ["--debug"])]
    (tmp_path / "config" / "kacas" / "identity.toml").write_text(f'format = 1\nprivate_key = "{PRIVATE}"')
    answers += [program("import-kachery", "--keys", *more, kachery.path) for more in ([], ["--json"], ["--debug"])]
    assert [answer.code for answer in answers] == [0, 0, 0, 8, 8, 8]
    inside = (kachery.path / "private.pem").read_text().split("\n")[1]
    for answer in answers:
        assert PRIVATE.encode() not in answer.out + answer.err
        assert inside.encode() not in answer.out + answer.err


def test_the_identity_is_beside_the_settings_and_is_no_setting(kacas: Runner, kachery: Kachery, tmp_path: Path) -> None:
    assert kacas("import-kachery", "--keys", kachery.path).code == 0
    identity = tmp_path / "config" / "kacas" / "identity.toml"
    assert f'public_key = "{PUBLIC}"' in identity.read_text()
    assert kacas("config").code == 0
    assert json.dumps(kacas("config", "--json").object)
