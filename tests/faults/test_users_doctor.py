"""Doctor among several real users: it says whose what is wrong is, and mends only what is one's own."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest

import kacas
from kacas.cli.main import commands
from kacas.cli.running import run
from kacas.settings import Settings
from kacas.upkeep.doctor.finding import Report
from kacas.upkeep.doctor.run import examine
from tests.faults.lab import Lab, doctor, everything_in, ids, init, loaded, mode_of, put


def test_doctor_finds_a_file_that_others_cannot_read_and_its_owner_mends_it(lab: Lab) -> None:
    init(lab)
    uri = put(lab.ben, lab.store, "ben's")
    (pack,) = (lab.store / "packs").glob("*.pack")
    pack.chmod(0o600)
    report = doctor(lab.ada, lab.store, fix=True)
    assert ids(report) == {"file-mode", "pack-closed"}
    (finding,) = (one for one in report.remaining if one.id == "file-mode")
    assert (finding.by, finding.commands) == (lab.ben.name, (f"kacas --store {lab.store} doctor --fix",))
    assert mode_of(pack) == 0o600
    assert not report.healthy

    def load() -> str:
        with kacas.Store.open(lab.store) as opened, pytest.raises(kacas.DamagedPackError) as caught:
            opened.load_text(uri)
        return str(caught.value)

    assert f"{lab.ben.name}'s" in lab.ada.act(load)
    mended = doctor(lab.ben, lab.store, fix=True)
    assert [one.id for one in mended.findings if one.fixed] == ["file-mode"]
    assert mended.healthy, mended.remaining
    assert mode_of(pack) == 0o440
    assert loaded(lab.ada, lab.store, uri) == "ben's"


def test_doctor_finds_a_directory_without_set_gid_and_what_was_made_in_it(lab: Lab) -> None:
    init(lab)
    (lab.store / "packs").chmod(0o770)
    uri = put(lab.ben, lab.store, "ben's")
    report = doctor(lab.dan, lab.store)
    assert {"directory-mode", "file-group"} <= ids(report)
    owners = {one.id: (one.by, one.commands) for one in report.remaining}
    command = f"kacas --store {lab.store} doctor --fix"
    assert owners["directory-mode"] == (lab.ada.name, (command,))
    assert owners["file-group"] == (lab.ben.name, (command,))
    for owner in (lab.ada, lab.ben):
        doctor(owner, lab.store, fix=True)
    assert doctor(lab.dan, lab.store).healthy
    assert loaded(lab.dan, lab.store, uri) == "ben's"


def test_a_private_store_is_handed_over_to_a_group_as_the_documentation_says(lab: Lab) -> None:
    lab.ada.act(lambda: kacas.Store.open(lab.store).close())
    uri = put(lab.ada, lab.store, "once ada's alone")

    def hand_over() -> Report:
        settings = lab.store / "kacas.toml"
        settings.chmod(0o644)
        settings.write_text(settings.read_text().replace('sharing = "private"', 'sharing = "group"'))
        os.chown(lab.store, -1, lab.gid)
        lab.store.chmod(0o2770)
        return examine(lab.store, Settings.from_environment(), fix=True)

    report = lab.ada.act(hand_over)
    assert report.healthy, report.remaining
    assert {mode_of(path) for path in everything_in(lab.store) if path.is_file()} == {0o440}
    assert loaded(lab.ben, lab.store, uri) == "once ada's alone"
    assert loaded(lab.ada, lab.store, put(lab.ben, lab.store, "now ben's too")) == "now ben's too"
    assert doctor(lab.dan, lab.store).healthy


def test_root_mends_for_all_and_follows_no_link(lab: Lab) -> None:
    init(lab)
    put(lab.ben, lab.store, "ben's")
    (pack,) = (lab.store / "packs").glob("*.pack")
    pack.chmod(0o600)
    secret, folder = lab.place / "secret", lab.place / "folder"
    folder.mkdir()
    for path in (secret, folder / "inner"):
        path.write_text("not of the store")
        path.chmod(0o600)
    lab.ben.act(lambda: (lab.store / "packs" / "link").symlink_to(secret))
    lab.ben.act(lambda: (lab.store / "refs" / "link").symlink_to(folder))
    os.link(secret, lab.store / "packs" / "twin")
    settings = Settings.from_environment({"HOME": str(lab.place), "KACAS_CACHE_DIR": str(lab.place / "cache")})
    report = examine(lab.store, settings, fix=True)
    assert mode_of(pack) == 0o440
    assert mode_of(secret) == mode_of(folder / "inner") == 0o600
    assert {path.stat().st_gid for path in (secret, folder / "inner")} == {0}
    assert ids(report) == {"file-group"}, "a file with another name elsewhere is reported, not touched"


def test_init_and_doctor_speak_to_the_members(lab: Lab) -> None:
    """The commands themselves, as the founder runs them."""

    def command(*arguments: str) -> tuple[int, str]:
        with tempfile.TemporaryFile(dir=lab.ada.home) as said:
            for descriptor in (1, 2):
                os.dup2(said.fileno(), descriptor)
            sys.stdout, sys.stderr = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
            code = run(commands, list(arguments))
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            said.seek(0)
            return code, said.read().decode()

    def play() -> None:
        code, said = command("init", str(lab.store), "--shared", "--group", lab.group)
        assert code == 0, said
        assert f"shared by the group {lab.group}" in said
        assert "members can delete files" in said
        assert command("init", str(lab.store), "--shared", "--group", lab.group)[0] == 0
        code, said = command("init", str(lab.store), "--shared", "--group", lab.group, "--sticky")
        assert (code, "chosen when it was made" in said) == (2, True)
        code, said = command("--store", str(lab.store), "doctor")
        assert code == 0, said
        (lab.store / "segments").chmod(0o700)
        code, said = command("--store", str(lab.store), "doctor")
        assert code == 11, said
        assert f"{lab.store / 'segments'}" in said
        assert f"    kacas --store {lab.store} doctor --fix" in said
        code, said = command("--store", str(lab.store), "doctor", "--fix")
        assert (code, "mended: 1 directory was of mode" in said) == (0, True), said

    lab.ada.act(play)
