"""Are modes, groups and owners as the store's sharing wants them? Whoever owns what is not can mend it."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kacas.disk.ownership import closed_to_group, group_name, user_name
from kacas.disk.volume import Volume
from kacas.upkeep.doctor.finding import Finding, Severity
from kacas.upkeep.doctor.walk import Found, open_same

_NAMED = 3  # examples


@dataclass(frozen=True)
class _Ill:
    """A way to be wrong. gid: the group it should have, or None. mode: that it should have, or None.

    twin: it has other names as well, so it may be no file of the store, but one that a member put in root's way.
    """

    id: str
    severity: Severity
    what: str
    why: str
    gid: int | None
    mode: int | None
    twin: bool = False


@dataclass
class _Ward:
    """All that is ill in one way and belongs to one user. mended: of these, by us."""

    directories: bool
    paths: list[Path] = field(default_factory=list)
    count: int = 0
    mended: int = 0


class Modes:
    """Shown every name of the store, it mends what it may, if it is to, and then tells what it found."""

    def __init__(self, volume: Volume, *, fix: bool) -> None:
        self._volume = volume
        self._fix = fix
        self._gid = os.stat(volume.path).st_gid
        self._wards: dict[tuple[_Ill, int], _Ward] = {}

    def look(self, found: Found) -> None:
        """Judge one name; temporaries are their writers' business, links are not ours."""
        if found.writer is not None or stat.S_ISLNK(found.status.st_mode):
            return
        illness = self._judge(found)
        if illness is None:
            return
        if not found.is_directory and found.status.st_nlink > 1:
            illness = replace(illness, twin=True)
        ward = self._wards.setdefault((illness, found.status.st_uid), _Ward(found.is_directory))
        if self._fix and _mend(found, illness):
            ward.mended += 1
            return
        ward.count += 1
        if len(ward.paths) < _NAMED:
            ward.paths.append(found.path)

    def _judge(self, found: Found) -> _Ill | None:
        mode = stat.S_IMODE(found.status.st_mode)
        if not self._volume.shared:
            return _judge_private(mode, found)
        wanted = self._volume.directory_mode if found.is_directory else self._volume.record_mode
        gid = None if found.status.st_gid == self._gid else self._gid
        if gid is None and mode == wanted:
            return None
        noun = "directory" if found.is_directory else "file"
        shared = self._volume.directory_mode & 0o070 if found.is_directory else 0o040
        severity, why = Severity.WARNING, "all in a shared store has one mode, so that it can be relied on"
        if gid is not None:
            severity, why = Severity.PROBLEM, "members of the store's group have no right to it"
        elif mode & shared != shared:
            severity = Severity.PROBLEM
            why = "other members cannot add here" if found.is_directory else "other members cannot read it"
        elif found.is_directory and not mode & stat.S_ISGID:
            severity, why = Severity.PROBLEM, "what is made here gets its maker's group, not the store's"
        elif not found.is_directory and mode & 0o222:
            severity, why = Severity.PROBLEM, "it can be edited, and nothing in a store is ever changed"
        elif found.is_directory and mode & stat.S_IWOTH:
            severity, why = Severity.PROBLEM, "everybody on the host can delete and add here"
        elif found.is_directory and self._volume.settings.sticky and not mode & stat.S_ISVTX:
            why = "members can delete here what others stored"
        what = (
            f"not of the group {group_name(self._gid)}" if gid is not None else f"of mode {mode:04o}, not {wanted:04o}"
        )
        return _Ill(f"{noun}-{'group' if gid is not None else 'mode'}", severity, what, why, gid, wanted)

    def findings(self) -> Iterator[Finding]:
        """What was wrong: one for each way, and each user whose it is.

        What they are told to run is doctor: chmod follows links, and members may put one in root's way meanwhile.
        """
        command = f"kacas --store {shlex.quote(str(self._volume.path))} doctor --fix"
        for (illness, uid), ward in self._wards.items():
            noun, nouns = ("directory", "directories") if ward.directories else ("file", "files")
            if ward.mended:
                counted = f"{ward.mended:,} {noun if ward.mended == 1 else nouns}"
                yield Finding(
                    illness.id, illness.severity, f"{counted} {'was' if ward.mended == 1 else 'were'} {illness.what}",
                    illness.why, fixed=True,
                )  # fmt: skip
            if ward.count:
                owner = user_name(uid)
                mine = os.geteuid() in (0, uid)
                counted = f"{ward.count:,} {noun if ward.count == 1 else nouns} of {owner}"
                named = ", ".join(map(str, ward.paths)) + (", ..." if ward.count > len(ward.paths) else "")
                if illness.twin:
                    yield Finding(
                        illness.id, illness.severity,
                        f"{counted} with other names elsewhere {'is' if ward.count == 1 else 'are'} {illness.what}: {named}",
                        illness.why, "look what it is: doctor leaves it alone, as it may be no file of the store", owner,
                    )  # fmt: skip
                    continue
                yield Finding(
                    illness.id, illness.severity, f"{counted} {'is' if ward.count == 1 else 'are'} {illness.what}: {named}",
                    illness.why, "run what follows" if mine else f"{owner}, or root, runs what follows",
                    "you" if mine else owner, (command,),
                )  # fmt: skip


def _judge_private(mode: int, found: Found) -> _Ill | None:
    """Of a private store, the modes are its owner's to change: only what breaks it, or opens it to all, is wrong."""
    if found.is_directory:
        if mode & 0o700 != 0o700:
            why = "its own owner cannot work here"
            return _Ill("directory-mode", Severity.PROBLEM, f"of mode {mode:04o}", why, None, (mode | 0o700) & 0o7777)
        if mode & stat.S_IWOTH:
            why = "everybody on the host can delete and add here"
            return _Ill("directory-mode", Severity.PROBLEM, f"of mode {mode:04o}", why, None, mode & ~stat.S_IWOTH)
        return None
    if not mode & stat.S_IRUSR:
        return _Ill("file-mode", Severity.PROBLEM, f"of mode {mode:04o}", "its own owner cannot read it", None, 0o444)
    if mode & 0o222:
        why = "it can be edited, and nothing in a store is ever changed"
        return _Ill("file-mode", Severity.WARNING, f"of mode {mode:04o}", why, None, mode & ~0o222)
    return None


def _mend(found: Found, illness: _Ill) -> bool:
    """Whether it could be: only the owner and root may."""
    if illness.twin:
        return False
    try:
        fd = open_same(found.path, found.status, getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        return False  # it is reported, with who can
    itself = f"/proc/self/fd/{fd}"  # by the descriptor: the path may lead elsewhere by now
    try:
        if illness.gid is not None:
            os.chown(itself, -1, illness.gid)
        if illness.mode is not None:
            os.chmod(itself, illness.mode)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def closed_above(volume: Volume) -> Iterator[Finding]:
    """Members must be able to come to a shared store."""
    if not volume.shared:
        return
    gid = os.stat(volume.path).st_gid
    for place in closed_to_group(volume.path, gid):
        owner = user_name(os.stat(place).st_uid)
        yield Finding(
            "closed-above", Severity.WARNING, f"by its mode, members of {group_name(gid)} cannot enter {place}",
            "they cannot come to the store below it, unless an access control list lets them",
            "let them through", "you" if os.geteuid() in (0, os.stat(place).st_uid) else owner,
            (f"chmod o+x {shlex.quote(str(place))}",),
        )  # fmt: skip


def closed_inside(closed: list[Path]) -> Iterator[Finding]:
    """Directories that could not be looked into."""
    for place in closed[:_NAMED]:
        owner = user_name(os.stat(place).st_uid)
        yield Finding(
            "not-looked-into", Severity.PROBLEM, f"{place} cannot be listed by {user_name()}",
            "what is in it is out of reach", "its owner, or root, runs: kacas doctor --fix", owner,
        )  # fmt: skip
