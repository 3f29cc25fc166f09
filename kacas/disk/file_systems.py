"""Which file system holds a path, and whether other hosts share it: then no LMDB there, and their caches matter."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

# First words of what statfs(2) says: linux/magic.h, and coreutils' stat.c for what is not in the kernel.
_FUSE = 0x65735546
_SHARED = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb",
    0xFF534D42: "cifs",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x01021997: "9p",
    0x20030528: "orangefs",
    0xAAD7AAEA: "panfs",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
    0x013111A8: "ibrix",
    0xBEEFDEAD: "snfs",
    0x786F4256: "vboxsf",
}
# As mount names them, where the magic word is not known, or the kernel has none.
_SHARED_NAMES = frozenset(
    {*_SHARED.values(), "nfs4", "smb3", "smbfs", "fhgfs", "virtiofs", "wekafs", "glusterfs", "pvfs2"}
)
# What serves one host's own disks or files through FUSE. All else that comes through FUSE may be somebody else's disk.
_LOCAL_FUSE = frozenset(
    f"fuse.{name}"
    for name in (
        "ntfs", "ntfs-3g", "exfat", "ext2", "ext4", "fuse-ext2", "fuse2fs", "zfs", "zfs-fuse", "apfs", "lowntfs-3g",
        "fuse-overlayfs", "overlayfs", "unionfs", "squashfuse", "squashfuse_ll", "dwarfs", "erofsfuse", "lxcfs", "portal",
        "gvfsd-fuse", "snapfuse", "archivemount",
    )
) | {"fuseblk"}  # fmt: skip
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class FileSystem:
    """name: as the kernel does, "" where that is not known (macOS). shared: other hosts may see the same files.

    options: how it is mounted, as the kernel says. source: what is mounted, such as server:/path; "" if that is not known.
    """

    name: str
    shared: bool
    options: tuple[str, ...] = ()
    source: str = ""

    def option(self, name: str) -> str | None:
        """The value of a mount option; "" if it has none; None if it is not set."""
        for option in self.options:
            key, _, value = option.partition("=")
            if key == name:
                return value
        return None


def recognise(path: Path) -> FileSystem:
    """The file system of `path`, or of the first directory above it that is there.

    By its magic word, which holds wherever the path leads to; the table of mounts adds the name and the options.
    """
    found = next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
    magic = _magic(found)
    name, options, source = _mounted(found)
    if magic in _SHARED:
        alike = name in _SHARED_NAMES  # such as nfs4 for nfs
        return FileSystem(name, True, options, source) if alike else FileSystem(_SHARED[magic], True)
    if magic == _FUSE and not name.startswith(("fuse", "virtiofs")):
        return FileSystem("fuse", True)  # the table of mounts does not show it, as in some containers
    return FileSystem(name, _may_be_shared(name), options, source)


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`, as the kernel names it; "" where that is not known (macOS)."""
    return recognise(path).name


def is_network(path: Path) -> bool:
    """Whether other hosts may share the file system of `path`."""
    return recognise(path).shared


def is_network_file(place: Path | int) -> bool:
    """As `is_network`, of a path or an open file, by the magic word alone: quicker, and true of any FUSE."""
    magic = _magic(place)
    return magic in _SHARED or magic == _FUSE


def _may_be_shared(name: str) -> bool:
    return name in _SHARED_NAMES or (name.startswith("fuse") and name not in _LOCAL_FUSE and name != "fusectl")


def _magic(place: Path | int) -> int | None:
    """The first word of what statfs(2) says of a path or an open file; None where it says nothing, or not so (macOS)."""
    if sys.platform != "linux":
        return None
    status = (ctypes.c_long * 64)()
    if _libc.fstatfs(place, status) if isinstance(place, int) else _libc.statfs(os.fsencode(place), status):
        return None
    return int(status[0]) & 0xFFFFFFFF


_libc = ctypes.CDLL(None, use_errno=True)


def _mounted(path: Path) -> tuple[str, tuple[str, ...], str]:
    """Type, options and source of the mount that holds `path`, by the table of mounts; ("", (), "") where there is none."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return "", (), ""
    return mount_of(os.path.realpath(path), lines)


def mount_of(real: str, lines: list[str]) -> tuple[str, tuple[str, ...], str]:
    """Type, options and source of the mount that holds the path. real: without links. lines: of mountinfo, proc(5)."""
    best, kind, options, source = -1, "", "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 10 or "-" not in fields[6:-3]:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= best:  # of two at one place, the later hides the other
            behind = fields.index("-", 6)
            best, kind, source = len(point), fields[behind + 1], fields[behind + 2]
            options = f"{fields[5]},{fields[behind + 3]}"
    return kind, tuple(option for option in options.split(",") if option), source
