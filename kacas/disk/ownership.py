"""Users, groups and modes, in words: whose a place is, who may do what there, and whom to ask."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from kacas.errors import InvalidSettingError


def user_name(uid: int | None = None) -> str:
    """Of the uid, or of the user of this process."""
    number = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _has_name(uid: int) -> bool:
    return user_name(uid) != f"uid {uid}"


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"


def is_member(gid: int) -> bool:
    """Whether this process acts for the group."""
    return gid == os.getegid() or gid in os.getgroups()


def is_writable(directory: Path) -> bool:
    """Whether this process may make names in it, going by modes and the like."""
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def joined_group(name: str) -> int:
    """The gid of a group (or of its number) that this user is in. Raises InvalidSettingError."""
    try:
        gid = int(name) if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError) as exc:
        raise InvalidSettingError(
            f"there is no group {name!r} on this host; `getent group` lists them, an administrator makes one with: "
            f"groupadd {name}"
        ) from exc
    if is_member(gid) or os.geteuid() == 0:
        return gid
    raise InvalidSettingError(f"you ({user_name()}) are no member of the group {name!r}; {_how_to_join(gid)}")


def _how_to_join(gid: int) -> str:
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        # Commands take names, and one of them has none.
        return (
            f"this host has no name for {'you' if group_name(gid) != f'gid {gid}' else 'it'}: whoever keeps the accounts makes "
            f"the user {os.geteuid()} a member of the group {gid}"
        )
    if user in group.gr_mem:
        return f"{user} became one after this session began: log in anew, or begin a shell with: newgrp {group.gr_name}"
    return f"an administrator makes you one with: usermod -aG {group.gr_name} {user}"


def whose(path: Path) -> str:
    """Owner, group and mode of what is at the path, in words. Raises OSError."""
    status = os.lstat(path)
    return f"{user_name(status.st_uid)}'s, of the group {group_name(status.st_gid)}, {stat.filemode(status.st_mode)}"


def why_refused(path: Path, *, writing: bool) -> str:
    """Why the system refused the path, or a new name there, and what to do: a part of a sentence, and one more."""
    place = _refusing(path, writing)
    try:
        status = os.lstat(place)
    except OSError:
        return "it cannot even be looked at; ask whoever owns it"
    owner, group, user = user_name(status.st_uid), group_name(status.st_gid), user_name()
    whom = owner if _has_name(status.st_uid) else f"an administrator ({owner} has no name on this host)"
    verb, bit = ("write", stat.S_IWGRP) if writing else ("read", stat.S_IRGRP | stat.S_IXGRP)
    if status.st_uid == os.geteuid() or os.geteuid() == 0:
        advice = "`kacas doctor` tells which modes are wrong"
    elif is_member(status.st_gid):
        advice = f"ask {whom} to let the group {verb} it: `kacas doctor` tells more"
    elif status.st_mode & bit:
        advice = f"only members of the group {group} can {verb} it, and you are none: ask {whom} to have you made one"
    else:
        advice = f"only {owner} can {verb} it: ask {whom}, or use another store. `kacas doctor` tells more"
    return f"{place} is {whose(place)}, and you are {user}; {advice}"


def _refusing(path: Path, writing: bool) -> Path:
    """The outermost directory above the path that keeps this user out, else what was to be read or written in."""
    there = Path(path.anchor or ".")
    for place in reversed(path.parents):
        if not os.access(place, os.F_OK):
            return there
        if not os.access(place, os.X_OK):
            return place
        there = place
    return path if not writing and os.path.lexists(path) else there


def closed_to_group(path: Path, gid: int) -> list[Path]:
    """Directories above the path that members of the group cannot enter, going by their modes."""
    found = []
    for place in reversed(path.parents):
        status = os.stat(place)
        if not status.st_mode & (stat.S_IXGRP if status.st_gid == gid else stat.S_IXOTH):
            found.append(place)
    return found
