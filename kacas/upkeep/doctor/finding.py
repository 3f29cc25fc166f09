"""What doctor found: each with what to do, and who can do it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA = 1
"""Of the JSON: rises when something is renamed, removed or means something else."""


class Severity(StrEnum):
    NOTE = "note"  # worth knowing; nothing need be done
    WARNING = "warning"  # works, and will hurt one day
    PROBLEM = "problem"  # does not work for somebody now


@dataclass(frozen=True)
class Finding:
    """id: of the kind of finding, for programs. what: is so. why: it matters. do: what helps. by: who can do it.

    commands: for a shell, to be run by that user. fixed: it was so, and was mended just now.
    """

    id: str
    severity: Severity
    what: str
    why: str
    do: str = ""
    by: str = ""
    commands: tuple[str, ...] = ()
    fixed: bool = False


@dataclass(frozen=True)
class Probe:
    """Something that was tried where the store lies. works: None if it could not be tried."""

    id: str
    works: bool | None
    detail: str


@dataclass
class Report:
    """file_system: of the store, as the kernel names it. network: other hosts may share it. sharing: in words.

    facts: what was counted, in words. counts of packs whose footers were looked at.
    """

    store: str
    file_system: str = ""
    network: bool = False
    sharing: str = ""
    packs: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def remaining(self) -> list[Finding]:
        """What is still so."""
        return [finding for finding in self.findings if not finding.fixed]

    @property
    def worst(self) -> Severity | None:
        """Of what is still so; None if nothing is."""
        found = {finding.severity for finding in self.remaining}
        return next((one for one in (Severity.PROBLEM, Severity.WARNING, Severity.NOTE) if one in found), None)

    @property
    def healthy(self) -> bool:
        """Nothing is left that somebody should do something about."""
        return self.worst not in (Severity.PROBLEM, Severity.WARNING)
