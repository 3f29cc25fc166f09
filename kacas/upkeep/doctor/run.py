"""Examining a store and this host's part in it; mending what this user may mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kacas.disk.file_systems import recognise
from kacas.disk.ownership import user_name
from kacas.disk.volume import Volume, open_volume
from kacas.errors import AccessDeniedError
from kacas.settings import Settings
from kacas.upkeep.doctor.finding import Finding, Report, Severity
from kacas.upkeep.doctor.host import look_at_host
from kacas.upkeep.doctor.leftovers import Leftovers
from kacas.upkeep.doctor.modes import Modes, closed_above, closed_inside
from kacas.upkeep.doctor.packs import look_at_packs
from kacas.upkeep.doctor.places import Places
from kacas.upkeep.doctor.probes import Probes, options_of
from kacas.upkeep.doctor.walk import walk

__all__ = ["examine"]


def examine(
    path: Path, settings: Settings, *, fix: bool = False, say: Callable[[str], None] = lambda step: None
) -> Report:
    """Look at the store at `path`. fix: mend what this user may. say: is told what is looked at.

    Raises StoreNotFoundError, StoreError, NewerFormatError if there is no store that could be looked at.
    """
    report = Report(str(path))
    try:
        volume = open_volume(path.resolve(), create=False)  # the directories that members must be let through are those
    except AccessDeniedError as exc:
        report.findings.append(
            Finding("closed", Severity.PROBLEM, str(exc), f"{user_name()} can neither read nor store", "ask its owner")
        )
        return report
    _examine(volume, settings, report, fix=fix, say=say)
    order = list(Severity)
    report.findings.sort(key=lambda finding: (-order.index(finding.severity), finding.id))
    return report


def _examine(volume: Volume, settings: Settings, report: Report, *, fix: bool, say: Callable[[str], None]) -> None:
    mounted = recognise(volume.path)
    report.file_system, report.network = mounted.name, mounted.shared
    report.sharing = volume.sharing_words()
    say("what the file system can do")
    report.findings += closed_above(volume)
    report.findings += options_of(volume)
    probes = Probes(volume)
    report.probes = probes.results
    modes, leftovers, places = Modes(volume, fix=fix), Leftovers(probes.server_now_s, fix=fix), Places(volume)
    closed: list[Path] = []
    for found in walk(volume.path, say, closed):
        modes.look(found)
        leftovers.look(found)
        places.look(found)
    report.findings += places.findings()
    report.findings += modes.findings()
    report.findings += closed_inside(closed)
    report.findings += leftovers.findings()
    if places.has_packs and volume.packs not in closed:
        report.packs, unwell = look_at_packs(volume, say)
        report.findings += unwell
        say("index and cache")
        report.findings += look_at_host(volume, settings, report.facts)
    report.findings += probes.findings
