"""What a profile says of the machine and of the store's place."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kacas.disk.cache_directory import stand_ins
from kacas.disk.file_systems import file_system, is_network
from kacas.disk.memory import available_memory
from kacas.disk.volume import open_volume
from kacas.errors import StoreNotFoundError
from kacas.settings import Settings
from kacas.upkeep.profile.figures import Machine, Place

_LIBRARIES = ("blake3", "zstandard", "lmdb", "pyfastcdc", "numpy", "numcodecs", "pcodec")


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def this_machine() -> Machine:
    """Processor, memory, versions; no name of it, as reports are passed on."""
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return Machine(_processor(), cpus(), _memory(), system, platform.python_version(), version("kacas"), libraries)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return available_memory() or 0


def nearest(path: Path) -> Path:
    """The path, or the first directory above it that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def scratch_parent(store: Path) -> tuple[Path, str | None]:
    """Where to measure: in the store's directory, beside its packs, or where it would be made; and its durability, if it
    is there. Raises StoreError."""
    try:
        return store, open_volume(store, create=False).settings.durability
    except StoreNotFoundError:
        return nearest(store), None


def cache_parent(settings: Settings) -> tuple[Path, str]:
    """Where indexes live: the cache directory, or what stands in for it, as in `cache_directory`; and why."""
    directory = settings.cache_directory
    above = nearest(directory)
    if is_network(above):
        why = "is on a network file system"
    elif not os.access(above, os.W_OK | os.X_OK):
        why = "is not writable"
    else:
        return directory, ""
    other = stand_ins()[0]
    return other, f"the cache directory {directory} {why}: indexes are in {other}"


def other_places(cache: Path) -> list[Path]:
    """Directories on other local disks that an index could be in."""
    device = os.stat(nearest(cache)).st_dev
    found: dict[int, Path] = {}
    for path in (Path("/var/tmp"), Path("/tmp")):
        usable = path.is_dir() and os.access(path, os.W_OK | os.X_OK) and not is_network(path)
        if usable and file_system(path) not in ("tmpfs", "ramfs"):
            found.setdefault(os.stat(path).st_dev, path)
    found.pop(device, None)
    return list(found.values())


def place_of(store: Path, durability: str | None, scratch: Path, index: Path, settings: Settings) -> Place:
    """scratch, index: the directories that are measured in."""
    disk = os.statvfs(scratch)
    return Place(
        store=str(store),
        exists=durability is not None,
        durability=durability or "full",
        scratch=str(scratch),
        file_system=file_system(scratch),
        network=is_network(scratch),
        free_size=disk.f_bavail * disk.f_frsize,
        index=str(index.parent),
        index_file_system=file_system(index),
        threads=settings.threads,
        memory=settings.memory,
    )
