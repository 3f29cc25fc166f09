"""What the file system of a store can do: tried with small files in a directory of their own, beside the packs."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kacas.disk.durable import HOST, PLAIN_DIRECTORY, rename_no_replace, sync_directory
from kacas.disk.file_systems import recognise
from kacas.disk.ownership import user_name
from kacas.disk.volume import Volume
from kacas.upkeep.doctor.finding import Finding, Probe, Severity

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOCK_OFF_S = 60.0
_SEEN_WITHIN_S = 5.0
_DEFAULT_DIRECTORY_CACHE_S = 60  # acdirmax of nfs(5)


class Probes:
    """Tries everything, once made. server_now_s: the time by the file system's clock; this host's if nothing can be tried."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.results: list[Probe] = []
        self.findings: list[Finding] = []
        self.server_now_s = time.time()
        try:
            with _place(volume) as place:
                for probe in (
                    self._exclusive, self._link, self._rename, self._modes, self._owner, self._inherited, self._sync,
                    self._clock, self._visible,
                ):  # fmt: skip
                    self._try(probe, place)
        except OSError as exc:
            self.findings.append(_full(volume, exc) if exc.errno in _FULL else _not_tried(volume, exc))
        self.findings = list(dict.fromkeys(self.findings))

    def _try(self, probe: Callable[[Path], None], place: Path) -> None:
        try:
            probe(place)
        except OSError as exc:
            self._says(probe.__name__.strip("_"), None, f"could not be tried: {os.strerror(exc.errno or 0)}")
            if exc.errno in _FULL:
                self.findings.append(_full(self._volume, exc))

    def _says(self, name: str, works: bool | None, detail: str, finding: Finding | None = None) -> None:
        self.results.append(Probe(name, works, detail))
        if not works and finding is not None:
            self.findings.append(finding)

    def _exclusive(self, place: Path) -> None:
        _touch(place / "exclusive")
        works = False
        try:
            _touch(place / "exclusive")
        except FileExistsError:
            works = True
        self._says(
            "exclusive", works, "O_EXCL makes a file once",
            Finding(
                "no-exclusive", Severity.PROBLEM, "O_EXCL makes a file that is there already",
                "two writers may write into one file", "keep the store on another file system", "an administrator",
            ),
        )  # fmt: skip

    def _link(self, place: Path) -> None:
        _touch(place / "one")
        _touch(place / "two")
        try:
            os.link(place / "one", place / "three")
            works = os.path.samestat(os.stat(place / "one"), os.stat(place / "three"))
        except OSError:
            works = False
        try:
            os.link(place / "one", place / "two")
            works = False
        except FileExistsError:
            pass
        except OSError:
            works = False
        self._says(
            "link", works, "link() gives a second name, and never replaces one",
            Finding(
                "no-link", Severity.WARNING, "link() does not work",
                "packs can be stored all the same; mutables, feeds and leases cannot", "keep the store elsewhere for them",
                "an administrator",
            ),
        )  # fmt: skip

    def _rename(self, place: Path) -> None:
        _touch(place / "from")
        _touch(place / "to")
        try:
            rename_no_replace(place / "from", place / "to")
            self._says("rename", False, "renaming without replacing replaced a file")
        except FileExistsError:
            self._says("rename", True, "renames without replacing")
        except OSError as exc:
            self._says(
                "rename", None, f"does not rename without replacing ({os.strerror(exc.errno or 0)}); link() is used"
            )

    def _modes(self, place: Path) -> None:
        with _new(place / "mode") as file:
            os.fchmod(file.fileno(), self._volume.record_mode)
        kept = stat.S_IMODE(os.stat(place / "mode").st_mode)
        self._says(
            "modes", kept == self._volume.record_mode, f"a file of mode {self._volume.record_mode:04o} has {kept:04o}",
            Finding(
                "modes-not-kept", Severity.PROBLEM if self._volume.shared else Severity.WARNING,
                f"a file that gets mode {self._volume.record_mode:04o} has {kept:04o}",
                "who can read and edit is up to how the file system is mounted", "ask how it is mounted (umask, noperm, uid)",
                "an administrator",
            ),
        )  # fmt: skip

    def _owner(self, place: Path) -> None:
        _touch(place / "owner")
        owner = os.stat(place / "owner").st_uid
        self._says(
            "owner", owner == os.geteuid(), "a file belongs to whoever makes it",
            Finding(
                "owner-changed", Severity.WARNING, f"a file made by uid {os.geteuid()} belongs to uid {owner}",
                "the server maps users (root_squash, all_squash, one uid for all): modes cannot tell members apart",
                "use the store as a user who is not mapped", "an administrator",
            ),
        )  # fmt: skip

    def _inherited(self, place: Path) -> None:
        if not self._volume.shared:
            return
        gid = os.stat(self._volume.path).st_gid
        os.mkdir(place / "directory")
        _touch(place / "directory" / "file")
        directory, file = os.stat(place / "directory"), os.stat(place / "directory" / "file")
        works = directory.st_gid == file.st_gid == gid and bool(directory.st_mode & stat.S_ISGID)
        self._says(
            "inherited", works, "what is made in a set-gid directory belongs to its group",
            Finding(
                "group-not-inherited", Severity.PROBLEM, "what is made in a set-gid directory gets its maker's group",
                "other members cannot read what is stored", "mount it with grpid, or keep the store elsewhere",
                "an administrator",
            ),
        )  # fmt: skip

    def _sync(self, place: Path) -> None:
        begun = time.monotonic()
        try:
            with _new(place / "sync") as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
            sync_directory(place)
        except OSError as exc:
            if exc.errno in _FULL:
                raise
            self._says(
                "sync", False, os.strerror(exc.errno or 0),
                Finding(
                    "no-sync", Severity.PROBLEM, f"fsync fails: {os.strerror(exc.errno or 0)}",
                    "a power cut may lose what was stored", "keep the store on another file system", "an administrator",
                ),
            )  # fmt: skip
            return
        self._says("sync", True, f"a file and its directory in {(time.monotonic() - begun) * 1000:.1f} ms")

    def _clock(self, place: Path) -> None:
        before = time.time()
        _touch(place / "clock")
        server, after = os.stat(place / "clock").st_mtime, time.time()
        self.server_now_s = server
        off_s = server - after if server > after else min(0.0, server - before)
        same = abs(off_s) < _CLOCK_OFF_S
        self._says(
            "clock", same, f"the file system's is {abs(off_s):.1f} s {'ahead' if off_s > 0 else 'behind'}",
            Finding(
                "clock-off", Severity.WARNING, f"this host's clock and the file system's differ by {abs(off_s):,.0f} s",
                "nothing is lost by it; times in the log are wrong, and unchanged files are read again",
                "set the clock: chrony or ntpd", "an administrator",
            ),
        )  # fmt: skip

    def _visible(self, place: Path) -> None:
        begun = time.monotonic()
        os.listdir(place)
        _touch(place / "visible")
        while "visible" not in os.listdir(place) and time.monotonic() - begun < _SEEN_WITHIN_S:
            time.sleep(0.01)
        seen = "visible" in os.listdir(place)
        detail = f"a listing shows what this host made after {(time.monotonic() - begun) * 1000:.1f} ms"
        if self._volume.network:
            detail += f"; attributes of directories are kept for up to {_kept_s(self._volume.path)} s (mount options)"
        self._says(
            "visible", seen, detail,
            Finding(
                "not-visible", Severity.PROBLEM, f"a listing does not show a file made {_SEEN_WITHIN_S:.0f} s before",
                "what was just stored is not found", "keep the store on another file system", "an administrator",
            ),
        )  # fmt: skip


def _full(volume: Volume, exc: OSError) -> Finding:
    return Finding(
        "no-space", Severity.PROBLEM, f"{user_name()} can make no file in {volume.path}: {os.strerror(exc.errno or 0)}",
        "nothing can be stored", "free space or ask for more; `quota -s` shows what you may take",
    )  # fmt: skip


def _not_tried(volume: Volume, exc: OSError) -> Finding:
    return Finding(
        "not-tried", Severity.NOTE, f"nothing can be tried in {volume.path}: {os.strerror(exc.errno or 0)}",
        "what the file system can do is tried with small files",
        "let somebody run doctor who can write there: the store can be read from here",
    )  # fmt: skip


@contextmanager
def _place(volume: Volume) -> Iterator[Path]:
    """A directory for the time; its name is that of a temporary, for whoever finds it.

    Of nobody else, and reached by its descriptor: members could put links where a file is tried, and root may be who tries.
    """
    place = volume.path / f".doctor.tmp.{HOST}.{os.getpid()}.{secrets.token_hex(4)}"
    os.mkdir(place, 0o700)
    try:
        fd = os.open(place, PLAIN_DIRECTORY)
        try:
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o700 | volume.directory_mode & stat.S_ISGID)
            by_descriptor = Path(f"/proc/self/fd/{fd}")
            yield by_descriptor if by_descriptor.is_dir() else place
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _new(path: Path) -> BinaryIO:
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _touch(path: Path) -> None:
    _new(path).close()


def _kept_s(path: Path) -> str:
    mounted = recognise(path)
    if mounted.option("noac") is not None:
        return "0"
    return mounted.option("acdirmax") or mounted.option("actimeo") or str(_DEFAULT_DIRECTORY_CACHE_S)


def options_of(volume: Volume) -> Iterator[Finding]:
    """Mount options that hurt."""
    mounted = recognise(volume.path)
    if mounted.name.startswith("nfs") and (mounted.option("soft") is not None or mounted.option("softerr") is not None):
        yield Finding(
            "soft-mount", Severity.WARNING, f"{volume.path} is mounted soft",
            "when the server does not answer in time, storing fails with an I/O error; what was acknowledged stays",
            "mount it hard", "an administrator",
        )  # fmt: skip
    if mounted.option("ro") is not None:
        yield Finding(
            "read-only-mount",
            Severity.NOTE,
            f"{volume.path} is mounted read-only",
            "nothing can be stored from this host",
        )
