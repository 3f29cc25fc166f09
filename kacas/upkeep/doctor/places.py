"""Are the places of a store directories of its own, that this user can use? And is there anything strange among leases?"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from kacas.disk.ownership import is_writable, user_name, whose
from kacas.disk.volume import PLACES, Volume
from kacas.upkeep.doctor.finding import Finding, Severity
from kacas.upkeep.doctor.walk import Found

_NAMED = 3
_LEASE, _RECORD = re.compile(r"leases/[^/]+"), re.compile(r"leases/[^/]+/[^/]+")
_WITHOUT = {
    "segments": "it makes no segments",
    "refs": "it can set no mutables",
    "feeds": "it can append to no feeds",
    "groups": "it can keep no record of an access group",
    "leases": "what it loads from an upstream is read through, and not kept",
}
"""What a user has to do without who cannot write to a place, but to packs."""


class Places:
    """Shown every name of the store, it then tells which are not what belongs there."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._found: dict[str, Found] = {}
        self._strange: list[Path] = []
        self._count = 0

    def look(self, found: Found) -> None:
        """Judge one name; temporaries are their writers' business."""
        if found.inside in PLACES:
            self._found[found.inside] = found
        elif found.writer is None and _is_strange(found):
            self._count += 1
            if len(self._strange) < _NAMED:
                self._strange.append(found.path)

    @property
    def has_packs(self) -> bool:
        """Whether there is a directory of packs."""
        return "packs" in self._found and self._found["packs"].path.is_dir()

    def findings(self) -> Iterator[Finding]:
        """What was wrong."""
        if "packs" not in self._found:
            yield Finding(
                "place-gone", Severity.PROBLEM, f"{self._volume.packs} is gone", "all content is in it",
                "restore it from a backup",
            )  # fmt: skip
        for name, found in self._found.items():
            if stat.S_ISLNK(found.status.st_mode):
                yield Finding(
                    "place-link", Severity.PROBLEM, f"{found.path} is a symbolic link, to {_target(found.path)}",
                    f"{name} belongs into the store: records behind a link are not read, and doctor looks at nothing there",
                    "move what it leads to into its place", user_name(found.status.st_uid),
                )  # fmt: skip
            elif not found.is_directory:
                yield Finding(
                    "place-no-directory", Severity.PROBLEM, f"{found.path} is no directory", f"{name} cannot be kept there",
                    "move it away, or restore the directory from a backup", user_name(found.status.st_uid),
                )  # fmt: skip
            elif name in _WITHOUT and not is_writable(found.path) and self._volume.is_writable:
                yield Finding(
                    "place-closed", Severity.WARNING,
                    f"{user_name()} can write to {self._volume.packs}, but not to {found.path} ({whose(found.path)})",
                    _WITHOUT[name], "let this user write there, as to packs/", user_name(found.status.st_uid),
                )  # fmt: skip
        if self._count:
            named = ", ".join(map(str, self._strange)) + (", ..." if self._count > len(self._strange) else "")
            yield Finding(
                "strange-lease", Severity.WARNING, f"{self._count:,} of what is in leases/ is no lease: {named}",
                "what it stands in the way of is waited for, or read through and not kept", "move it away",
            )  # fmt: skip


def _is_strange(found: Found) -> bool:
    """A lease is a directory of files."""
    if _LEASE.fullmatch(found.inside):
        return not found.is_directory
    return bool(_RECORD.fullmatch(found.inside)) and not stat.S_ISREG(found.status.st_mode)


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return "somewhere else by now"
