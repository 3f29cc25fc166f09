"""A lab on this machine: real users in a real group, one user who may only read, one from elsewhere.

They are made with useradd, and act in forked children that took on their rights for good.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kacas
from kacas.settings import Settings
from kacas.upkeep.doctor.finding import Report
from kacas.upkeep.doctor.run import examine
from tests.faults import children

_TRIES = 20  # another process may hold the lock of /etc/passwd


class NoLabError(Exception):
    """Users cannot be made here; says why."""


@dataclass(frozen=True)
class User:
    """home: where settings, caches and things of one's own are. umask: of all that the user runs."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: Path
    umask: int

    def act(self, function: Callable[[], Any]) -> Any:
        """What the function returns when this user runs it, in a process of its own; fails as it fails."""

        def play() -> Any:
            self.become()
            return function()

        return children.run(play).get()

    def start(self, function: Callable[[], Any]) -> children.Child:
        """As `act`, without waiting for the end."""

        def play() -> Any:
            self.become()
            return function()

        return children.fork(play)

    def become(self) -> None:
        """Give up root's rights for good."""
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(self.uid)
        os.umask(self.umask)
        os.environ["HOME"] = str(self.home)
        os.environ["KACAS_CACHE_DIR"] = str(self.home / "cache")
        os.environ["XDG_CONFIG_HOME"] = str(self.home / "config")
        os.environ["KACAS_OWNER"] = self.name
        os.chdir(self.home)


@dataclass(frozen=True)
class Lab:
    """ada founds it (umask 022), ben is a member (umask 077), cleo is none, dan is one, too. place: all may enter it."""

    group: str
    gid: int
    place: Path
    ada: User
    ben: User
    cleo: User
    dan: User

    @property
    def store(self) -> Path:
        return self.place / "store"


@contextmanager
def people() -> Iterator[tuple[str, list[str]]]:
    """Make the group and the users, ada, ben, cleo and dan; remove them at the end: (group, their names).

    Raises NoLabError.
    """
    if os.geteuid() != 0:
        raise NoLabError("only root can make users and act for them")
    group = f"kacaslab{os.getpid()}"
    made: list[str] = []
    _run("groupadd", group)
    try:
        for first in ("ada", "ben", "cleo", "dan"):
            joining = [] if first == "cleo" else ["--groups", group]
            _run("useradd", "--no-create-home", "--user-group", *joining, f"{first}{os.getpid()}")
            made.append(f"{first}{os.getpid()}")
        yield group, made
    finally:
        for name in made:
            _run("userdel", name)
        _run("groupdel", group)


def lab_in(place: Path, group: str, names: list[str]) -> Lab:
    """Their lab in an empty place, which is ada's."""
    gid = grp.getgrnam(group).gr_gid

    def user(name: str, umask: int) -> User:
        entry = pwd.getpwnam(name)
        home = place / name
        home.mkdir(mode=0o700)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return User(name, entry.pw_uid, entry.pw_gid, groups, home, umask)

    users = [user(name, umask) for name, umask in zip(names, (0o022, 0o077, 0o022, 0o027), strict=True)]
    os.chown(place, users[0].uid, users[0].gid)
    return Lab(group, gid, place, *users)


def _run(*command: str) -> None:
    done = None
    for _ in range(_TRIES):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as exc:
            raise NoLabError(f"there is no {command[0]} here (Debian: apt-get install passwd)") from exc
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise NoLabError(f"{' '.join(command)}: {done.stderr.strip() if done else ''}")


def init(lab: Lab, *, sticky: bool = False, world_readable: bool = False) -> None:
    lab.ada.act(
        lambda: kacas.Store.create(lab.store, group=lab.group, sticky=sticky, world_readable=world_readable).close()
    )


def put(user: User, store: Path, text: str) -> str:
    def store_it() -> str:
        with kacas.Store.open(store, create=False) as opened:
            return opened.store_text(text)

    return str(user.act(store_it))


def loaded(user: User, store: Path, uri: str) -> str:
    def load() -> str:
        with kacas.Store.open(store, create=False) as opened:
            return opened.load_text(uri)

    return str(user.act(load))


def refused(user: User, store: Path) -> str:
    """The words with which the user is kept from storing."""

    def store_it() -> str:
        with kacas.Store.open(store, create=False) as opened, pytest.raises(kacas.ReadOnlyStoreError) as caught:
            opened.store_text("may this be stored?")
        return str(caught.value)

    return str(user.act(store_it))


def doctor(user: User, store: Path, *, fix: bool = False) -> Report:
    found = user.act(lambda: examine(store, Settings.from_environment(), fix=fix))
    assert isinstance(found, Report)
    return found


def ids(report: Report) -> set[str]:
    return {finding.id for finding in report.remaining}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything_in(store: Path) -> Iterator[Path]:
    yield store
    yield from store.rglob("*")
