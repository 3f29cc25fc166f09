"""kacas doctor: in words for people, as JSON for programs, and exit codes that tell how it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Runner


def test_a_healthy_store_is_said_to_be_so(kacas: Runner, notes_uri: str) -> None:
    answer = kacas("doctor")
    assert (answer.code, answer.err) == (0, b"")
    assert answer.lines[-1] == "nothing found: healthy"
    assert any(line.split() == ["packs", "1"] for line in answer.lines)
    assert any(line.startswith("link ") and " yes " in line for line in answer.lines)


def test_warnings_and_problems_have_exit_codes_of_their_own(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    (pack,) = (tmp_path / "store" / "packs").iterdir()
    pack.chmod(0o644)
    answer = kacas("doctor")
    assert answer.code == 10
    assert "warning: 1 file of " in answer.text
    assert f"    kacas --store {tmp_path / 'store'} doctor --fix" in answer.lines
    assert answer.lines[-1] == "1 warning: NOT HEALTHY"
    (tmp_path / "store" / "packs").chmod(0o777)
    answer = kacas("doctor")
    assert answer.code == 11
    assert answer.lines[-1] == "1 problem, 1 warning: NOT HEALTHY"
    answer = kacas("doctor", "--fix")
    assert answer.code == 0
    assert answer.lines[-1] == "nothing found; mended 2 findings: healthy"
    assert kacas("doctor").lines[-1] == "nothing found: healthy"


def test_programs_get_one_object_with_the_version_of_its_schema(kacas: Runner, notes_uri: str, tmp_path: Path) -> None:
    (pack,) = (tmp_path / "store" / "packs").iterdir()
    pack.chmod(0o644)
    answer = kacas("doctor", "--json")
    assert answer.code == 10
    told = answer.object
    assert set(told) == {
        "schema", "healthy", "store", "file_system", "network", "sharing", "packs", "facts", "probes", "findings",
    }  # fmt: skip
    assert (told["schema"], told["healthy"], told["store"]) == (1, False, str(tmp_path / "store"))
    (finding,) = told["findings"]
    assert set(finding) == {"id", "severity", "what", "why", "do", "by", "commands", "fixed"}
    assert (finding["id"], finding["severity"], finding["by"]) == ("file-mode", "warning", "you")
    assert {"id", "works", "detail"} == set(told["probes"][0])


def test_without_a_store_doctor_says_how_one_is_made(kacas: Runner) -> None:
    answer = kacas("doctor")
    assert answer.code == 9
    assert "kacas init" in answer.error


@pytest.mark.parametrize(
    "options, named",
    [
        (["--shared"], "--group NAME"),
        (["--group", "lab"], "--shared"),
        (["--sticky"], "--shared"),
        (["--world-readable"], "--shared"),
        (["--shared", "--group", "no-such-group-here"], "no group 'no-such-group-here'"),
    ],
)
def test_init_refuses_a_sharing_that_makes_no_sense(
    kacas: Runner, tmp_path: Path, options: list[str], named: str
) -> None:
    answer = kacas("init", tmp_path / "shared", *options)
    assert answer.code == 2
    assert named in answer.error
    assert not (tmp_path / "shared").exists()
