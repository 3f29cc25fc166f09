"""Doctor finds what is wrong, says whose it is and what to do, and mends only what is surely so."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import kacas
from kacas.disk.durable import HOST, Temporary, writer_of
from kacas.disk.volume import open_volume
from kacas.settings import Settings
from kacas.upkeep.doctor.finding import Finding, Report, Severity
from kacas.upkeep.doctor.probes import Probes
from kacas.upkeep.doctor.run import examine
from kacas.upkeep.doctor.walk import open_same
from tests.disk.foreign_mount import foreign_mount

DAY_S = 24 * 3600


def doctor(path: Path, *, fix: bool = False, **changes: object) -> Report:
    return examine(path, replace(Settings.from_environment(), **changes), fix=fix)  # type: ignore[arg-type]


def finding(report: Report, wanted: str) -> Finding:
    (found,) = (one for one in report.findings if one.id == wanted)
    return found


def filled(store: kacas.Store, count: int = 3) -> list[Path]:
    for number in range(count):
        store.store_text(f"text {number}")
    return sorted((store.path / "packs").iterdir())


def gone_process() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def leave(directory: Path, writer: str, days: float, size: int = 100) -> Path:
    path = directory / f".{'ab' * 16}.pack.tmp.{writer}.0123abcd"
    path.write_bytes(bytes(size))
    path.chmod(0o444)
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))
    return path


def test_a_store_that_was_just_made_is_healthy_and_all_was_tried(store: kacas.Store) -> None:
    filled(store)
    before = sorted(store.path.rglob("*"))
    report = doctor(store.path)
    assert (report.findings, report.healthy, report.packs) == ([], True, 3)
    assert [probe.id for probe in report.probes if not probe.works] == []
    assert {probe.id for probe in report.probes} == {
        "exclusive", "link", "rename", "modes", "owner", "sync", "clock", "visible",
    }  # fmt: skip
    assert sorted(store.path.rglob("*")) == before, "nothing is left of what was tried"


def test_where_there_is_no_store_doctor_says_so(tmp_path: Path) -> None:
    with pytest.raises(kacas.StoreNotFoundError):
        doctor(tmp_path / "nothing")


@pytest.mark.parametrize(
    "mode, severity, mended",
    [(0o644, "warning", 0o444), (0o200, "problem", 0o444), (0o666, "warning", 0o444)],
)
def test_in_a_private_store_a_pack_that_can_be_edited_or_not_be_read_is_mended(
    store: kacas.Store, mode: int, severity: str, mended: int
) -> None:
    pack = filled(store)[0]
    pack.chmod(mode)
    found = finding(doctor(store.path), "file-mode")
    assert (found.severity, found.by, found.fixed) == (severity, "you", False)
    assert found.commands == (f"kacas --store {store.path} doctor --fix",)
    assert stat.S_IMODE(pack.stat().st_mode) == mode, "nothing is changed unasked"
    report = doctor(store.path, fix=True)
    assert finding(report, "file-mode").fixed
    assert report.healthy
    assert stat.S_IMODE(pack.stat().st_mode) == mended
    assert doctor(store.path).findings == []


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o2770])
def test_who_else_comes_to_a_private_store_is_up_to_its_owner(store: kacas.Store, mode: int) -> None:
    filled(store)
    store.path.chmod(mode)
    assert doctor(store.path, fix=True).findings == []
    assert stat.S_IMODE(store.path.stat().st_mode) == mode


def test_a_directory_in_which_everybody_can_delete_is_closed(store: kacas.Store) -> None:
    (store.path / "packs").chmod(0o777)
    assert finding(doctor(store.path), "directory-mode").severity is Severity.PROBLEM
    assert doctor(store.path, fix=True).healthy
    assert stat.S_IMODE((store.path / "packs").stat().st_mode) == 0o775


def test_the_command_that_is_printed_mends_what_was_counted_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kacas.Store.open(tmp_path / "a store") as store:
        ill, well = filled(store, 6)[:5], filled(store, 6)[5]
        outside = tmp_path / "outside"
        outside.touch(0o600)
    for pack in ill:
        pack.chmod(0o200)
    well.chmod(0o400)
    (store.path / "packs" / "link").symlink_to(outside)
    twin, temporary = tmp_path / "twin", leave(store.path / "packs", "another-host.1234567", 0)
    twin.touch(0o600)
    temporary.chmod(0o600)
    os.link(twin, store.path / "packs" / "twin")
    counted = [one for one in doctor(store.path).findings if one.commands]
    assert [one.what.split(" of ")[0] for one in counted] == ["5 files"]
    (command,) = counted[0].commands
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(command, shell=True, check=False)
    assert [stat.S_IMODE(pack.stat().st_mode) for pack in ill] == [0o444] * 5
    assert stat.S_IMODE(well.stat().st_mode) == 0o400
    assert [stat.S_IMODE(path.stat().st_mode) for path in (outside, twin, temporary)] == [0o600] * 3


@pytest.mark.parametrize("name", [".ab.pack.tmp.host.12.0123abcd", ".x.tmp.y.tmp.a-b.1.00000000"])
def test_a_temporary_says_who_writes_it(name: str) -> None:
    found = writer_of(name)
    assert found is not None
    assert found[1] > 0
    for other in (name[1:], name.replace("tmp", "pack"), "kacas.toml", "a.pack"):
        assert writer_of(other) is None


def test_a_temporary_of_ours_is_known_as_such(tmp_path: Path) -> None:
    temporary = Temporary(tmp_path, "a.pack", mode=0o444, sync=False)
    assert writer_of(temporary.path.name) == (HOST, os.getpid())
    temporary.discard()


def test_what_a_process_that_is_gone_left_behind_is_removed_after_a_day(store: kacas.Store) -> None:
    gone = gone_process()
    packs = store.path / "packs"
    stale = leave(packs, f"{HOST}.{gone}", 1.1)
    report = doctor(store.path)
    assert finding(report, "stale-temporary").by == "you"
    assert stale.exists()
    assert finding(doctor(store.path, fix=True), "stale-temporary").fixed
    assert not stale.exists()
    assert doctor(store.path).findings == []


@pytest.mark.parametrize(
    "writer, days, shown",
    [
        (lambda: f"{HOST}.{gone_process()}", 0.9, None),
        (lambda: f"{HOST}.{os.getpid()}", 30, "old-temporary"),
        (lambda: "another-host.1234567", 0.9, None),
        (lambda: "another-host.1234567", 6, "old-temporary"),
    ],
)
def test_what_somebody_may_still_write_is_left(
    store: kacas.Store, writer: Callable[[], str], days: float, shown: str | None
) -> None:
    path = leave(store.path / "packs", writer(), days)
    report = doctor(store.path, fix=True)
    assert path.exists()
    assert report.healthy
    assert [one.id for one in report.findings] == ([shown] if shown else [])


def test_what_another_host_left_behind_is_removed_after_a_week(store: kacas.Store) -> None:
    path = leave(store.path / "packs", "another-host.1234567", 7.1)
    assert not doctor(store.path).healthy
    assert doctor(store.path, fix=True).healthy
    assert not path.exists()


def test_what_a_killed_doctor_left_behind_is_removed_with_what_is_in_it(store: kacas.Store) -> None:
    place = store.path / f".doctor.tmp.{HOST}.{gone_process()}.0123abcd"
    place.mkdir()
    (place / "one").touch()
    then = time.time() - 2 * DAY_S
    os.utime(place, (then, then))
    assert doctor(store.path, fix=True).healthy
    assert not place.exists()


def test_leases_that_nobody_renewed_for_a_day_are_told_and_removed(store: kacas.Store) -> None:
    then = time.time() - 2 * DAY_S
    for name, age in (("old", then), ("young", time.time() - 3600)):
        place = store.path / "leases" / name
        store.repository.volume.make_directory(place)
        for number in (9, 10):
            (place / str(number)).touch(0o444)
            (place / str(number)).chmod(0o444)
        os.utime(place, (age, age))
    report = doctor(store.path)
    assert finding(report, "stale-lease").severity is Severity.NOTE
    assert report.healthy
    assert finding(doctor(store.path, fix=True), "stale-lease").fixed
    assert [place.name for place in (store.path / "leases").iterdir()] == ["young"]
    assert doctor(store.path).findings == []


def test_damaged_foreign_and_newer_packs_are_named(store: kacas.Store, tmp_path: Path) -> None:
    packs = filled(store, 4)
    for pack in packs:
        pack.chmod(0o644)
    with kacas.Store.open(tmp_path / "other") as other:
        (foreign,) = filled(other, 1)
    (store.path / "packs" / foreign.name).write_bytes(foreign.read_bytes())
    packs[0].write_bytes(packs[0].read_bytes()[:-1])
    data = bytearray(packs[1].read_bytes())
    data[-1] ^= 1
    packs[1].write_bytes(data)
    packs[2].write_bytes(b"")
    report = doctor(store.path, fix=True)
    found = finding(report, "pack-damaged")
    assert found.severity is Severity.PROBLEM
    assert found.what.startswith("4 packs (")
    assert "kacas verify" in found.do
    assert not report.healthy


def test_damage_that_a_load_met_is_told(store: kacas.Store) -> None:
    uri = store.store_text("to be damaged")
    (pack,) = (store.path / "packs").iterdir()
    data = pack.read_bytes()
    pack.chmod(0o644)
    at = data.index(b"to be damaged")
    pack.write_bytes(data[:at] + b"X" + data[at + 1 :])
    pack.chmod(0o444)
    with pytest.raises(kacas.DamagedError):
        store.load_text(uri)
    assert finding(doctor(store.path), "damage-known").what.startswith("1 damaged payload")


def test_a_cache_over_its_budget_and_what_is_in_it_are_told(store: kacas.Store) -> None:
    store.load_file(store.store_bytes(bytes(100_000)))
    assert doctor(store.path).findings == []
    report = doctor(store.path, cache_size=1000)
    assert finding(report, "cache-over-budget").severity is Severity.NOTE
    assert report.healthy


def test_what_opening_the_store_warns_of_is_a_finding(store: kacas.Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = doctor(store.path, cache_directory=tmp_path / "file" / "cache")
    assert "cannot be used" in finding(report, "warned").what
    assert report.worst is Severity.WARNING


def test_a_file_system_on_which_nothing_can_be_made_is_told(tmp_path: Path, store: kacas.Store) -> None:
    volume = open_volume(store.path, create=False)
    place = tmp_path / "foreign"
    place.mkdir()
    mounted = foreign_mount(place, "pretend")
    try:
        mounted.__enter__()
    except OSError as exc:
        pytest.skip(f"file systems cannot be mounted here: {exc}")
    try:
        probes = Probes(replace(volume, path=place))
    finally:
        mounted.__exit__(None, None, None)
    assert probes.results == []
    assert [one.id for one in probes.findings] == ["not-tried"]


def test_a_link_in_the_store_leads_doctor_nowhere(store: kacas.Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch(0o600)
    (store.path / "packs" / "link").symlink_to(outside)
    assert doctor(store.path, fix=True).healthy
    (store.path / "refs").symlink_to(outside)
    assert not doctor(store.path, fix=True).healthy
    assert stat.S_IMODE((outside / "file").stat().st_mode) == 0o600


@pytest.mark.parametrize("place", ["packs", "segments", "refs", "feeds", "leases"])
@pytest.mark.parametrize("what", ["place-link", "place-no-directory"])
def test_a_place_of_the_store_that_is_a_link_or_no_directory_is_a_problem(
    store: kacas.Store, tmp_path: Path, place: str, what: str
) -> None:
    path = store.path / place
    if place == "packs":
        path.rename(tmp_path / place)
    else:
        (tmp_path / place).mkdir()
    if what == "place-link":
        path.symlink_to(tmp_path / place)
    else:
        path.touch(0o444)
    (found,) = doctor(store.path, fix=True).findings
    assert (found.id, found.severity, found.fixed) == (what, Severity.PROBLEM, False)
    assert str(path) in found.what


def test_that_there_are_no_packs_is_a_problem_and_what_is_there_is_looked_at(store: kacas.Store) -> None:
    (store.path / "packs").rmdir()
    (store.path / "refs").touch(0o444)
    assert [one.id for one in doctor(store.path).findings] == ["place-gone", "place-no-directory"]


def test_what_is_no_lease_is_told(store: kacas.Store) -> None:
    (store.path / "leases" / "name" / "1").mkdir(parents=True)
    (store.path / "leases" / "name" / "2").touch(0o444)
    (store.path / "leases" / "other").symlink_to("name")
    (found,) = doctor(store.path, fix=True).findings
    assert (found.id, found.severity) == ("strange-lease", Severity.WARNING)
    assert found.what.startswith("2 of what is in leases/ is no lease: ")
    assert str(store.path / "leases" / "name" / "1") in found.what


def test_what_was_exchanged_since_it_was_seen_is_not_opened(tmp_path: Path) -> None:
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    seen = os.lstat(place)
    os.close(open_same(place, seen, os.O_RDONLY))
    place.rename(tmp_path / "moved")
    place.symlink_to(other)
    with pytest.raises(OSError, match=r"symbolic|exchanged|directory"):
        open_same(place, seen, os.O_RDONLY)
    place.unlink()
    other.rename(place)
    with pytest.raises(FileNotFoundError, match="exchanged"):
        open_same(place, seen, os.O_RDONLY)


def test_a_store_that_is_reached_through_a_link_is_examined(store: kacas.Store, tmp_path: Path) -> None:
    filled(store)[0].chmod(0o644)
    (tmp_path / "link").symlink_to(store.path)
    assert doctor(tmp_path / "link", fix=True).findings[0].fixed
    assert doctor(store.path).findings == []
