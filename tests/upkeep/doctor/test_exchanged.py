"""Members may exchange names for links while root runs doctor: what it tries and removes is where it looked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import kacas
from kacas.disk.volume import open_volume
from kacas.settings import Settings
from kacas.upkeep.doctor.leftovers import Leftovers
from kacas.upkeep.doctor.probes import Probes
from kacas.upkeep.doctor.run import examine
from kacas.upkeep.doctor.walk import walk
from tests.faults.children import fork

TEMPORARY = ".x.tmp.elsewhere.1.0123abcd"
MONTH_S = 30 * 24 * 3600


def aged(path: Path) -> None:
    then = time.time() - MONTH_S
    os.utime(path, (then, then))


def test_a_directory_that_is_exchanged_for_a_link_keeps_what_is_behind_the_link(
    store: kacas.Store, tmp_path: Path
) -> None:
    place, outside = store.path / "packs", tmp_path / "outside"
    lease = store.path / "leases" / "name"
    lease.mkdir(parents=True)
    (outside / "name").mkdir(parents=True)
    kept = [outside / TEMPORARY, outside / "name" / "1", outside / f"{TEMPORARY}0", outside / f"{TEMPORARY}0" / "file"]
    kept[2].mkdir()
    for path in (kept[0], kept[1], kept[3], place / TEMPORARY):
        path.touch()
        aged(path)
    (place / f"{TEMPORARY}0").mkdir()
    for path in (place / f"{TEMPORARY}0", lease):
        aged(path)
    leftovers = Leftovers(time.time(), fix=True)
    for found in walk(store.path, lambda step: None, []):
        above = found.path.parent
        if above not in (place, lease.parent):
            continue
        above.rename(tmp_path / "moved")
        above.symlink_to(outside)
        leftovers.look(found)
        above.unlink()
        (tmp_path / "moved").rename(above)
    assert all(path.exists() for path in kept)
    assert sorted((one.id, one.fixed) for one in leftovers.findings()) == [
        ("stale-lease", True),
        ("stale-temporary", True),
    ]
    assert os.listdir(place) == os.listdir(lease.parent) == []


def test_what_doctor_tries_is_out_of_the_reach_of_members(store: kacas.Store, tmp_path: Path) -> None:
    """Somebody puts links wherever doctor makes its directory, as fast as can be."""
    outside = tmp_path / "outside"
    outside.mkdir(0o755)
    for name in ("sync", "mode"):
        (outside / name).write_text("not of the store")
        (outside / name).chmod(0o640)

    def exchange() -> None:
        while True:
            for name in os.listdir(store.path):
                if name.startswith(".doctor.tmp."):
                    try:
                        (store.path / name).rename(tmp_path / name)
                        (store.path / name).symlink_to(outside)
                    except OSError:
                        continue

    volume = open_volume(store.path, create=False)
    child = fork(exchange)
    try:
        for _ in range(100):
            Probes(volume)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    for name in ("sync", "mode"):
        assert (outside / name).read_text() == "not of the store"
        assert (outside / name).stat().st_mode & 0o777 == 0o640
    assert outside.stat().st_mode & 0o777 == 0o755


def test_nobody_is_told_to_mend_a_file_that_has_other_names(store: kacas.Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o640)
    os.link(secret, store.path / "packs" / "twin")
    (finding,) = examine(store.path, Settings.from_environment(), fix=True).findings
    assert (finding.id, finding.commands, finding.fixed) == ("file-mode", (), False)
    assert "other names" in finding.what
    assert "--fix" not in finding.do
    assert secret.stat().st_mode & 0o777 == 0o640
