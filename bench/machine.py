"""What the figures were measured on, and how to make the machine give the same figure twice."""

from __future__ import annotations

import mmap
import os
import platform
from pathlib import Path

GIB = 1 << 30
PAGE_SIZE = 4096
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def describe(workdir: Path) -> dict[str, str]:
    """Processor, cores, memory, kernel, file system of `workdir` and Python; no name of the host."""
    return {
        "processor": _first_line_with(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory_size() / GIB:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "file system": _file_system(workdir),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def memory_size() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_memory() -> int:
    """Bytes that can be taken without swapping."""
    line = _first_line_with(Path("/proc/meminfo"), "MemAvailable")
    return int(line.split()[0]) * 1024 if line else memory_size() // 2


def touch_memory(size: int) -> None:
    """Take `size` bytes, touch every page and give them back to this machine's kernel.

    A virtual machine hands free memory back to its host, and taking it again costs 2.5 s per GiB
    instead of 0.06: without this one and the same copy takes 0.24 to 4.3 s.
    At most half of the available memory is touched.
    """
    size = min(size, available_memory() // 2) // PAGE_SIZE * PAGE_SIZE
    if size <= 0:
        return
    with mmap.mmap(-1, size) as pages:
        pages[::PAGE_SIZE] = bytes(size // PAGE_SIZE)


def settle() -> None:
    """Wait until the disk has what was written before, so that one run does not pay for another."""
    os.sync()


def sync_tree(directory: Path) -> None:
    """fsync every file and directory below `directory`: what a call that does not sync leaves to do."""
    for folder, _, names in os.walk(directory):
        for path in (*(os.path.join(folder, name) for name in names), folder):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def disk_size(directory: Path) -> int:
    """Bytes that the files below `directory` occupy, in allocated blocks."""
    return sum(
        os.lstat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(directory)
        for name in names
    )


def leave_page_cache(directory: Path) -> None:
    """Let the kernel forget cached pages that are not read again (deleting the files waits for the end)."""
    if not hasattr(os, "posix_fadvise"):
        return
    for folder, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def may_drop_page_cache() -> bool:
    """Whether this process may ask the kernel for that: root, mostly."""
    return os.access(_DROP_CACHES, os.W_OK)


def drop_page_cache() -> None:
    """Let the kernel forget every cached page, of every file on the machine, that is synced and not mapped."""
    _DROP_CACHES.write_text("1")


def delete_large_files(directory: Path, size: int) -> None:
    """Delete the files below `directory` of `size` bytes and more."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if os.lstat(path).st_size >= size:
                os.unlink(path)


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory that a process holds now; 0 if it is gone or the system does not tell."""
    line = _first_line_with(Path(f"/proc/{pid}/status"), "RssAnon")
    return int(line.split()[0]) * 1024 if line else 0


def _first_line_with(path: Path, name: str) -> str:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(name):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def _file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, e.g. ext4."""
    found, longest = "unknown", -1
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    resolved = directory.resolve()
    for mount in mounts:
        point, kind = mount.split()[1:3]
        if resolved.is_relative_to(point) and len(point) > longest:
            found, longest = kind, len(point)
    return found
