"""The host-local place that belongs to one store and one user: index, materialised files, what is known of files."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from pathlib import Path

from kacas.disk.durable import make_directory
from kacas.disk.file_systems import is_network, recognise
from kacas.errors import StoreError

_STAND_INS = (Path("/var/tmp"), Path("/tmp"))  # of a node without disks, the first may be on the network, too


def stand_ins() -> list[Path]:
    """Where this user's caches are if the cache directory cannot serve, the first choice first."""
    return [parent / f"kacas-{os.getuid()}" for parent in _STAND_INS]


def cache_directory(parent: Path, packs: Path, store_id: str, *, chosen: bool) -> Path:
    """The directory below `parent` of the store with these packs: 0700, named after store id and packs directory.

    A copied store has the same id but another directory, and so never shares an index with its original. Where `parent`
    cannot serve, a private directory on another local disk does: without a word if it is only the default that is on a
    network file system, as a home often is; else with a warning. Raises StoreError.
    """
    identity = hashlib.blake2b(_identity(packs).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    name = f"{store_id}-{identity}"
    reasons: list[OSError] = []
    for place in (parent, *stand_ins()):
        try:
            if place != parent:
                _private_directory(place)
            if place.resolve().is_relative_to(packs.parent.resolve()):
                raise OSError(errno.EINVAL, "it is inside the store, which others may share", str(place))
            found = _private_directory(place / name)
        except OSError as exc:
            reasons.append(exc)
            continue
        if reasons and (chosen or not isinstance(reasons[0], _OnNetworkError)):
            warnings.warn(
                f"the cache directory {parent} cannot be used ({_why(reasons[0])}); using {place}. "
                "Set KACAS_CACHE_DIR to a private directory on a local disk",
                RuntimeWarning,
                stacklevel=4,
            )
        return found
    raise StoreError(
        f"the cache directory {parent} cannot be used ({_why(reasons[0])}), and {stand_ins()[0]} cannot either "
        f"({_why(reasons[1])}); set KACAS_CACHE_DIR to a private directory on a local disk",
        path=str(parent),
    ) from reasons[0]


def _identity(packs: Path) -> str:
    """What tells this directory from every other one of this host, now and after a restart."""
    status, where = os.stat(packs), recognise(packs)
    # The kernel numbers network mounts as they come: after each mount, the index would begin anew.
    device = where.source if where.shared and where.source else status.st_dev
    return f"{device}:{status.st_ino}"


class _OnNetworkError(OSError):
    """A directory that is to be private to the host is on a file system that other hosts may share."""


def _why(exc: OSError) -> str:
    return exc.strerror or str(exc)


def _private_directory(path: Path) -> Path:
    """Make it if need be; raises OSError if it is on a network file system, somebody else's, or open to others."""
    if is_network(path):
        raise _OnNetworkError(errno.ENOTSUP, "it is on a network file system", str(path))
    make_directory(path, 0o700, sync=False, parents_mode=0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(errno.EACCES, "it belongs to somebody else, or is open to others", str(path))
    if not os.access(path, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, "it is not writable", str(path))
    return path
