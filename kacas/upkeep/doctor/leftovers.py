"""What processes that died left behind: temporaries and leases. Ages are by the file server's clock."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kacas.disk.durable import HOST
from kacas.disk.leases import remove_old
from kacas.disk.ownership import user_name
from kacas.upkeep.doctor.finding import Finding, Severity
from kacas.upkeep.doctor.walk import Found

_DAY_S = 24 * 3600
_LONG_S = 7 * _DAY_S  # of another host, whose processes cannot be asked for: a recording may pause over a weekend
_NAMED = 3
_LEASE = re.compile(r"leases/[^/]+")


@dataclass
class _Pile:
    paths: list[Path] = field(default_factory=list)
    count: int = 0

    def add(self, found: Found) -> None:
        self.count += 1
        if len(self.paths) < _NAMED:
            self.paths.append(found.path)

    def words(self, noun: str) -> str:
        named = ", ".join(map(str, self.paths)) + (", ..." if self.count > len(self.paths) else "")
        return f"{self.count:,} {noun}{'' if self.count == 1 else 's'} not touched for a day: {named}"


class Leftovers:
    """Shown every name of the store, it removes what is surely stale, if it is to, and then tells what it found."""

    def __init__(self, server_now_s: float, *, fix: bool) -> None:
        """server_now_s: the time by the clock of the store's file system."""
        self._now_s = server_now_s
        self._fix = fix
        self._removed = _Pile()
        self._stale: dict[int, _Pile] = {}
        self._doubtful = _Pile()
        self._leases, self._ended = _Pile(), _Pile()

    def look(self, found: Found) -> None:
        """Judge one name."""
        age_s = self._now_s - found.status.st_mtime
        if found.writer is not None:
            self._look_at_temporary(found, found.writer, age_s)
        elif found.is_directory and _LEASE.fullmatch(found.inside) and age_s > _DAY_S:
            # Whoever holds it renews it every few seconds, which changes the directory.
            pile = self._ended if self._fix and remove_old(found.path.name, found.parent_fd) else self._leases
            pile.add(found)

    def _look_at_temporary(self, found: Found, writer: tuple[str, int], age_s: float) -> None:
        if age_s < _DAY_S:
            return  # somebody's who is at work, as far as anybody can tell
        host, pid = writer
        here = host == HOST
        if (here and _is_alive(pid)) or (not here and age_s < _LONG_S):
            self._doubtful.add(found)
        elif self._fix and _removed(found):
            self._removed.add(found)
        else:
            self._stale.setdefault(found.status.st_uid, _Pile()).add(found)

    def findings(self) -> Iterator[Finding]:
        """What was left behind, and by whom."""
        why = "whoever wrote them is gone: they take space, and nothing is in them that a URI needs"
        if self._removed.count:
            yield Finding("stale-temporary", Severity.WARNING, self._removed.words("temporary file"), why, fixed=True)
        for uid, pile in self._stale.items():
            mine = os.geteuid() in (0, uid)
            owner = user_name(uid)
            yield Finding(
                "stale-temporary", Severity.WARNING, f"{pile.words('temporary file')}, of {owner}", why,
                "run: kacas doctor --fix" if mine else f"{owner} runs: kacas doctor --fix", "you" if mine else owner,
            )  # fmt: skip
        if self._doubtful.count:
            yield Finding(
                "old-temporary", Severity.NOTE, self._doubtful.words("temporary file"),
                "of a process that runs, or of another host, whose processes cannot be seen from here",
                "nothing: those of other hosts count as left behind after a week",
            )  # fmt: skip
        lease_why = "whoever held it is gone, or suspended; whoever needs it takes it over"
        if self._ended.count:
            yield Finding("stale-lease", Severity.NOTE, self._ended.words("lease"), lease_why, fixed=True)
        if self._leases.count:
            yield Finding(
                "stale-lease", Severity.NOTE, self._leases.words("lease"), lease_why, "kacas doctor --fix removes them"
            )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _removed(found: Found) -> bool:
    """By the open directory: the path may lead elsewhere by now."""
    try:
        if found.is_directory:
            shutil.rmtree(found.path.name, dir_fd=found.parent_fd)
        else:
            os.unlink(found.path.name, dir_fd=found.parent_fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # it is reported, with whose it is
    return True
