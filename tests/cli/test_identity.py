"""The identity on the command line: made once, shown without its private half, carried to another machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, Runner
from tests.interop.kachery import PRIVATE, PUBLIC, Kachery


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "kacas" / "identity.toml"


def test_it_is_made_once_and_never_overwritten(kacas: Runner, file: Path) -> None:
    assert "kacas identity create" in kacas("identity", "show").error
    made = kacas("identity", "create")
    assert made.code == 0
    assert b"keep a copy" in made.err
    before = file.read_bytes()
    again = kacas("identity", "create")
    assert again.code == 2
    assert "it is kept" in again.error
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o600
    assert kacas("identity", "show").lines == made.lines == kacas("trust", "key").lines


def test_the_private_key_is_never_shown(kacas: Runner, file: Path) -> None:
    said = kacas("identity", "create")
    private = file.read_text().split('private_key = "')[1][:64]
    shown, told = kacas("identity", "show"), kacas("identity", "show", "--json")
    for answer in (said, shown, told):
        assert private.encode() not in answer.out + answer.err
    public = shown.lines[0]
    assert told.object == {"public_key": public, "client_id": public[8:], "source": str(file)}


def test_what_was_exported_is_the_same_person_elsewhere(
    kacas: Runner, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        public = kacas("identity", "create").lines
        copy = tmp_path / "copy.toml"
        assert kacas("identity", "export", copy).code == 0
    finally:
        os.umask(before)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.read_bytes() == file.read_bytes()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert kacas("identity", "import", copy).lines == public
    assert kacas("identity", "show").lines == public
    again = kacas("identity", "import", copy)
    assert (again.code, again.lines) == (0, public)
    assert b"here already" in again.err


def test_nothing_is_overwritten_by_an_export(kacas: Runner, tmp_path: Path) -> None:
    kacas("identity", "create")
    (tmp_path / "there").write_text("mine")
    answer = kacas("identity", "export", tmp_path / "there")
    assert "not overwritten" in answer.error
    assert (tmp_path / "there").read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert kacas("identity", "export", tmp_path / "link").code == 8
    assert not (tmp_path / "elsewhere").exists()
    assert kacas("identity", "export", tmp_path / "no" / "directory").code == 8
    assert kacas("identity", "export").code == 2
    assert kacas("identity", "export", "a", "--pem", "b").code == 2


def test_it_goes_to_a_program_and_to_no_terminal(kacas: Runner, file: Path) -> None:
    kacas("identity", "create")
    assert kacas("identity", "export", "-").out == file.read_bytes()
    main, terminal = os.openpty()
    try:
        done = subprocess.run(
            [*PROGRAM, "identity", "export", "-"], stdout=terminal, stderr=subprocess.PIPE, timeout=60, check=False
        )
        assert done.returncode == 2
        assert b"not shown on a terminal" in done.stderr
        os.set_blocking(main, False)
        with pytest.raises(BlockingIOError):
            os.read(main, 1)
    finally:
        os.close(main)
        os.close(terminal)


def test_kachery_clouds_pair_is_imported_and_exported(kacas: Runner, tmp_path: Path) -> None:
    kachery = Kachery(tmp_path / "kachery")
    kachery.keys()
    assert kacas("identity", "import", kachery.path).lines == [f"ed25519:{PUBLIC}"]
    assert kacas("identity", "export", "--pem", tmp_path / "pem").code == 0
    for name in ("public.pem", "private.pem"):
        assert (tmp_path / "pem" / name).read_bytes().split() == (kachery.path / name).read_bytes().split()
        assert (tmp_path / "pem" / name).stat().st_mode & 0o777 == 0o600
    assert kacas("identity", "export", "--pem", tmp_path / "pem").code == 8


def test_another_identity_is_never_replaced_by_an_import(kacas: Runner, file: Path, tmp_path: Path) -> None:
    kacas("identity", "create")
    before = file.read_bytes()
    kachery = Kachery(tmp_path / "kachery")
    kachery.keys()
    answer = kacas("identity", "import", kachery.path)
    assert answer.code == 2
    assert "another identity" in answer.error
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["", "format = 2", f'format = 1\npublic_key = "{PUBLIC}"\nprivate_key = "{"1" * 64}"'])
def test_what_is_no_identity_is_not_imported_and_not_quoted(
    kacas: Runner, file: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "copy").write_text(text)
    answer = kacas("identity", "import", tmp_path / "copy")
    assert answer.code == 2
    assert str(tmp_path / "copy") in answer.error
    assert b"1" * 64 not in answer.err
    assert not file.exists()
    assert kacas("identity", "import", tmp_path / "nowhere").code == 2
    assert kacas("identity", "import", tmp_path).code == 2


def test_a_copy_that_others_can_read_is_imported_with_a_warning(kacas: Runner, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_text(f'format = 1\npublic_key = "{PUBLIC}"\nprivate_key = "{PRIVATE}"')
    copy.chmod(0o644)
    answer = kacas("identity", "import", copy)
    assert answer.lines == [f"ed25519:{PUBLIC}"]
    assert b"others can read" in answer.err


def test_on_a_cluster_it_is_in_the_environment(kacas: Runner, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KACAS_CLIENT_ID", PUBLIC)
    monkeypatch.setenv("KACAS_PRIVATE_KEY", PRIVATE)
    assert kacas("identity", "show", "--json").object == {
        "public_key": f"ed25519:{PUBLIC}", "client_id": PUBLIC, "source": "environment",
    }  # fmt: skip
    assert PRIVATE.encode() in kacas("identity", "export", "-").out
    assert "KACAS_CLIENT_ID and KACAS_PRIVATE_KEY" in kacas("identity", "create").error
    assert not file.exists()
    monkeypatch.setenv("KACAS_CLIENT_ID", "0" * 64)
    failed = kacas("--debug", "identity", "show")
    assert failed.code == 2
    assert PRIVATE.encode() not in failed.err


def test_an_imported_identity_that_the_environment_hides_is_said(
    kacas: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kacas("identity", "create")
    kacas("identity", "export", tmp_path / "copy")
    monkeypatch.setenv("KACAS_CLIENT_ID", PUBLIC)
    monkeypatch.setenv("KACAS_PRIVATE_KEY", PRIVATE)
    assert b"unset them" in kacas("identity", "import", tmp_path / "copy").err


def test_making_it_needs_no_store(tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, "identity", "create"], capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"ed25519:")
    assert not (tmp_path / "store").exists()
