"""A quick look at every pack: header and footer. `kacas verify` reads the rest."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kacas.disk.ownership import user_name
from kacas.disk.pack_reader import PackReader
from kacas.disk.volume import Volume
from kacas.errors import DamagedPackError, NewerFormatError
from kacas.upkeep.doctor.finding import Finding, Severity

_SAY_EACH = 200
_NAMED = 3


@dataclass
class _Group:
    severity: Severity
    why: str
    do: str
    names: list[str] = field(default_factory=list)
    reason: str = ""
    count: int = 0

    def add(self, name: str, reason: str) -> None:
        self.count += 1
        if len(self.names) < _NAMED:
            self.names.append(name)
            self.reason = self.reason or reason


def look_at_packs(volume: Volume, say: Callable[[str], None]) -> tuple[int, list[Finding]]:
    """How many there are, and what is wrong with them."""
    groups = {
        "pack-closed": _Group(
            Severity.PROBLEM, "what it holds cannot be loaded by this user", "mend its mode, see above"
        ),
        "pack-damaged": _Group(
            Severity.PROBLEM, "what it holds may be lost",
            "kacas verify tells what it touches; restore it from a backup, or store the contents again",
        ),
        "pack-newer": _Group(Severity.WARNING, "what it holds cannot be read by this kacas", "upgrade kacas"),
    }  # fmt: skip
    packs = sorted(volume.list_packs())
    for number, pack_id in enumerate(packs):
        if number % _SAY_EACH == 0:
            say(f"packs: {number:,} of {len(packs):,}")
        name = volume.pack_path(pack_id).name
        try:
            PackReader(volume.pack_path(pack_id), pack_id, volume.store_id).read_footer()
        except FileNotFoundError:
            continue  # gone since it was listed
        except NewerFormatError as exc:
            groups["pack-newer"].add(name, str(exc))
        except DamagedPackError as exc:
            cause = exc.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.EACCES:
                groups["pack-closed"].add(name, f"not readable by {user_name()}")
            else:
                groups["pack-damaged"].add(name, str(exc))
    return len(packs), list(_findings(groups))


def _findings(groups: dict[str, _Group]) -> Iterator[Finding]:
    for name, group in groups.items():
        if group.count:
            named = ", ".join(group.names) + (", ..." if group.count > len(group.names) else "")
            counted = f"{group.count:,} pack{'' if group.count == 1 else 's'}"
            yield Finding(
                name, group.severity, f"{counted} ({named}): {group.reason}", group.why, group.do,
            )  # fmt: skip
