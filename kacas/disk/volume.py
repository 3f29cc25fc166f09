"""A store's directory: creating, opening and listing it, and the host-local place that belongs to it."""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kacas.disk.cache_directory import cache_directory
from kacas.disk.durable import PLAIN_DIRECTORY, make_directory, publish_bytes, translate
from kacas.disk.file_systems import file_system, is_network
from kacas.disk.fresh import is_listed
from kacas.disk.ownership import group_name, is_member, is_writable, joined_group, whose
from kacas.errors import InvalidSettingError, NewerFormatError, StoreError, StoreNotFoundError
from kacas.model.content_cuts import CONTENT_CUTTER, ContentCutter
from kacas.settings import STORE_FORMAT, StoreSettings

_PACK_NAME = re.compile(r"([0-9a-f]{32})\.pack", re.ASCII)
SEGMENT_NAME = re.compile(r"([0-9a-f]{32})\.seg", re.ASCII)
_SETTINGS_NAME = "kacas.toml"
_MAX_SETTINGS_SIZE = 64 * 1024
_LOOKS, _PAUSE_S = 20, 0.01
PLACES = ("packs", "segments", "refs", "feeds", "leases", "groups")
"""What a store keeps things in. Made with a shared one, by its owner: in a sticky store, who makes a directory can delete in it."""


@dataclass(frozen=True)
class Sharing:
    """Who has a new store in common. group: its name, of which whoever makes the store is a member.

    sticky: members delete only what they made themselves. world_readable: others read, too.
    """

    group: str
    sticky: bool = False
    world_readable: bool = False

    def is_of(self, settings: StoreSettings) -> bool:
        """Whether the settings say so; they do not name the group, which the store's directory belongs to."""
        return (settings.sharing, settings.sticky, settings.world_readable) == (
            "group",
            self.sticky,
            self.world_readable,
        )


@dataclass(frozen=True)
class Volume:
    """An existing store directory. network: its file system is shared with other hosts."""

    path: Path
    settings: StoreSettings
    network: bool

    @property
    def packs(self) -> Path:
        return self.path / "packs"

    @property
    def segments(self) -> Path:
        """Sorted merges of tables, made from packs/ and not always there."""
        return self.path / "segments"

    @property
    def store_id(self) -> bytes:
        return bytes.fromhex(self.settings.store_id)

    @property
    def durable(self) -> bool:
        return self.settings.durability == "full"

    @property
    def shared(self) -> bool:
        """Whether a group of users has it in common: modes inside say so."""
        return self.settings.sharing == "group"

    def sharing_words(self) -> str:
        """Who can do what here, in a few words."""
        if not self.shared:
            return "private"
        sticky = ", sticky" if self.settings.sticky else ""
        readable = ", readable by all" if self.settings.world_readable else ""
        return f"shared by the group {group_name(os.stat(self.path).st_gid)}{sticky}{readable}"

    @property
    def directory_mode(self) -> int:
        """Of every directory in the store. Set-gid: what is made there belongs to the group of the store, whoever makes it."""
        if not self.shared:
            return 0o755  # the store's own directory is 0700 when it is made
        sticky = stat.S_ISVTX if self.settings.sticky else 0
        return stat.S_ISGID | sticky | (0o775 if self.settings.world_readable else 0o770)

    @property
    def record_mode(self) -> int:
        """Of every file that is published in the store: nobody can edit it."""
        return 0o440 if self.shared and not self.settings.world_readable else 0o444

    @property
    def pack_mode(self) -> int:
        return self.record_mode

    @property
    def is_writable(self) -> bool:
        """Whether this user may publish packs here, going by modes and the like."""
        return is_writable(self.packs)

    def make_directory(self, path: Path) -> None:
        """A directory in the store, parents too, unless it is there: with the store's mode, each name durable.

        Raises StoreError.
        """
        mode = self.directory_mode
        for looks_left in reversed(range(_LOOKS if self.shared else 1)):
            try:
                make_directory(path, mode, sync=self.durable, parents_mode=mode)
                return
            except OSError as exc:
                # Another member may have made one above just now, and sets its mode next.
                if not isinstance(exc, PermissionError) or not looks_left or not is_member(os.stat(self.path).st_gid):
                    raise translate(exc, path, "creating") from exc
                time.sleep(_PAUSE_S)

    def file_cutter(self) -> ContentCutter:
        """What cuts files in this store. Raises NewerFormatError if this kacas does not know how."""
        if self.settings.cutter != CONTENT_CUTTER:
            raise NewerFormatError(
                f"the store at {self.path} cuts files by {self.settings.cutter[:80]!r}, which this kacas does not know: "
                f"it reads the store, but does not write to it. Upgrade kacas (it knows {CONTENT_CUTTER!r})",
                needed=STORE_FORMAT + 1,
            )
        return ContentCutter()

    def pack_path(self, pack_id: bytes) -> Path:
        return self.packs / f"{pack_id.hex()}.pack"

    def segment_path(self, segment_id: bytes) -> Path:
        return self.segments / f"{segment_id.hex()}.seg"

    def list_packs(self) -> set[bytes]:
        """Ids of the packs that are there now. By path, which is fresh on NFS where a kept descriptor is not."""
        return self.pack_ids_of(self.list_names())

    @staticmethod
    def pack_ids_of(names: Iterable[str]) -> set[bytes]:
        """The ids in those of the names that are packs' names."""
        found = (_PACK_NAME.fullmatch(name) for name in names)
        return {bytes.fromhex(match[1]) for match in found if match}

    def list_pack_names(self) -> set[str]:
        """The names that end as packs' names do; temporaries come and go and are left out."""
        return {name for name in self.list_names() if name.endswith(".pack")}

    def list_orphans(self) -> list[str]:
        """What is neither a pack nor a segment in packs/ and segments/, each with its directory: temporaries of writers that
        died (or still work), and strays."""
        try:
            beside = os.listdir(self.segments)
        except OSError:
            beside = []  # mostly there is none
        found = [f"packs/{name}" for name in self.list_names() if not _PACK_NAME.fullmatch(name)]
        return sorted(found + [f"segments/{name}" for name in beside if not SEGMENT_NAME.fullmatch(name)])

    def list_names(self) -> list[str]:
        """Everything in packs/, as one listing shows it."""
        try:
            return os.listdir(self.packs)
        except FileNotFoundError as exc:
            raise StoreError(f"{self.packs} is gone; restore the store or open another", path=str(self.path)) from exc
        except OSError as exc:
            raise translate(exc, self.packs, "listing") from exc

    def pack_size(self, pack_id: bytes) -> int:
        """Bytes of the pack file; 0 if it is gone."""
        return _size(self.pack_path(pack_id))

    def segment_size(self, segment_id: bytes) -> int:
        """Bytes of the segment file; 0 if it is gone."""
        return _size(self.segment_path(segment_id))

    def cache_directory(self, parent: Path, *, chosen: bool = True) -> Path:
        """The host-local directory of this very store below `parent`. chosen: the user named it. Raises StoreError."""
        return cache_directory(parent, self.packs, self.settings.store_id, chosen=chosen)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def open_volume(path: Path, *, create: bool, durability: str | None = None, sharing: Sharing | None = None) -> Volume:
    """Open the store at `path`, creating it if asked and nothing is there. sharing: of a new store; None is private.

    Raises StoreNotFoundError, StoreError (not a store), AccessDeniedError, NewerFormatError, InvalidSettingError (also if
    the store that is there was made with another durability or sharing than is asked for).
    """
    path = Path(path).absolute()
    settings_path = path / _SETTINGS_NAME
    text = _read_settings(settings_path)
    if text is None and is_network(path) and is_listed(settings_path):
        text = _read_settings(settings_path)
    if text is None:
        if not create:
            raise StoreNotFoundError(
                f"there is no kacas store at {path}; make one with: kacas init {path}", path=str(path)
            )
        text = _create(path, durability or "full", sharing)
    try:
        settings = StoreSettings.parse(text, str(settings_path))
    except InvalidSettingError as exc:
        raise StoreError(str(exc), path=str(path)) from exc
    if durability is not None and durability != settings.durability:
        raise InvalidSettingError(
            f"the store at {path} has durability {settings.durability!r}, chosen when it was made; it cannot be {durability!r}"
        )
    volume = Volume(path, settings, is_network(path))
    if sharing is not None:
        _check_sharing(volume, sharing)
    return volume


def _check_sharing(volume: Volume, asked: Sharing) -> None:
    gid = os.stat(volume.path).st_gid
    if not asked.is_of(volume.settings) or joined_group(asked.group) != gid:
        raise InvalidSettingError(
            f"the store at {volume.path} is {volume.sharing_words()}, chosen when it was made; it cannot be shared otherwise. "
            "docs/how-to.md says how a store is handed over to a group"
        )


def _read_settings(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_SETTINGS_SIZE).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise translate(exc, path, "reading") from exc


def _create(path: Path, durability: str, sharing: Sharing | None) -> str:
    if durability not in ("full", "relaxed"):
        raise InvalidSettingError(f"durability is 'full' or 'relaxed', not {durability!r}")
    gid = joined_group(sharing.group) if sharing else None
    try:
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file; a store is a directory", path=str(path))
        names = os.listdir(path) if path.exists() else []
        strangers = [name for name in names if name not in (*PLACES, _SETTINGS_NAME) and ".tmp." not in name]
        if strangers:
            raise StoreError(
                f"{path} is not a kacas store and holds {strangers[0]!r}; choose an empty place", path=str(path)
            )
        if (path / "packs").is_dir() and any(_PACK_NAME.fullmatch(name) for name in os.listdir(path / "packs")):
            if (text := _read_settings(path / _SETTINGS_NAME)) is not None:
                return text  # another process made the store meanwhile
            raise StoreError(
                f"{path} has packs but no {_SETTINGS_NAME}; restore that file from a backup", path=str(path)
            )
        sync = durability == "full"
        make_directory(path, 0o700, sync=sync)
        settings = StoreSettings(
            store_id=secrets.token_hex(16),
            durability=durability,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            file_system=file_system(path),
        )
        if sharing is not None:
            settings = replace(settings, sharing="group", sticky=sharing.sticky, world_readable=sharing.world_readable)
        volume = Volume(path, settings, is_network(path))
        if gid is not None:
            _hand_over(path, gid, volume.directory_mode)
        for name in PLACES if volume.shared else ("packs",):
            volume.make_directory(path / name)
        settings = replace(settings, hard_links=_has_links(path))
        try:
            publish_bytes(path, _SETTINGS_NAME, settings.render().encode(), mode=volume.record_mode, sync=sync)
        except FileExistsError:
            pass  # another process made the store meanwhile: its settings hold
    except OSError as exc:
        if isinstance(exc, StoreError):
            raise
        raise translate(exc, path, "creating the store at") from exc
    text = _read_settings(path / _SETTINGS_NAME)
    if text is None:
        raise StoreError(f"the store at {path} vanished while it was made; try again", path=str(path))
    return text


def _hand_over(path: Path, gid: int, mode: int) -> None:
    """Give the directory to the group, and set its mode; a link could lead to another's. Raises StoreError where that is
    refused, or not kept."""
    if path.is_symlink():
        raise StoreError(
            f"{path} is a symbolic link, which is not followed when a store is given to a group; name the directory that it "
            f"leads to: {path.resolve()}",
            path=str(path),
        )
    try:
        fd = os.open(path, PLAIN_DIRECTORY)
        try:
            status = os.fstat(fd)
            if status.st_gid != gid:
                os.fchown(fd, -1, gid)
            if stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(fd, mode)
            status = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        server = (
            " (a file server may have a list of groups of its own, in which you are missing)"
            if is_network(path)
            else ""
        )
        raise StoreError(
            f"{path} cannot be given to the group {group_name(gid)} with mode {mode:04o}: {exc.strerror}{server}; it is "
            f"{whose(path)}. Its owner, or an administrator, runs: chgrp {gid} {path} && chmod {mode:04o} {path}",
            path=str(path),
        ) from exc
    if status.st_gid != gid or stat.S_IMODE(status.st_mode) != mode:
        raise StoreError(
            f"the file system of {path} does not keep groups and modes ({whose(path)} after chmod {mode:04o}): a store that "
            "a group shares needs them; choose another place, or ask the administrator how it is mounted",
            path=str(path),
        )


def _has_links(path: Path) -> bool:
    probe = path / f".probe.tmp.{secrets.token_hex(4)}"
    twin = probe.with_name(probe.name + ".link")
    try:
        probe.touch()
        os.link(probe, twin)
        return True
    except OSError:
        return False
    finally:
        twin.unlink(missing_ok=True)
        probe.unlink(missing_ok=True)
