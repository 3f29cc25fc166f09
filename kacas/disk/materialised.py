"""Files written out for programs that want a path: atomically to a destination, or into the host-local cache.

files/<sha1>/<label>        read-only; the label keeps the extension that readers look at
files/<sha1>/.<label>.json  its stat when it was handed out last, and the boot it belongs to
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from kacas.disk.durable import Temporary, make_directory, translate
from kacas.errors import NoSpaceError

_KEEP_S = 25 * 3600  # a path that was handed out stays good for a day at least, though a clock was an hour off
_MAX_NAME_SIZE = 200  # bytes; file systems allow 255, the temporary's suffix needs some
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]+")

Windows = Iterable[memoryview]
"""Content in parts, in order, each verified; a part may be overwritten when the next is taken."""


def safe_name(label: str) -> str:
    """A file name from a label: its last path component, without what a file system or a shell chokes on."""
    text = label.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = _trimmed(_UNSAFE.sub("_", re.split(r"[/\\]", text.rstrip("/\\"))[-1]))
    if len(name.encode()) > _MAX_NAME_SIZE:
        stem, dot, suffix = name.rpartition(".")
        tail = dot + suffix if stem and len(suffix.encode()) <= 16 else ""
        front = (stem if tail else name).encode()[: _MAX_NAME_SIZE - len(tail.encode())]
        name = _trimmed(front.decode("utf-8", "ignore") + tail)
    return name or "file"


def _trimmed(name: str) -> str:
    return re.sub(r"^[\s.]+|\s+$", "", name)


def write_out(target: Path, size: int, windows: Windows, *, mode: int, sync: bool) -> None:
    """Write content to `target` under a temporary name, then rename: the target is the old file or the whole new one.

    size: bytes of the windows together. Raises StoreError for the target's file system.
    """
    _check_room(target, size)
    temporary = Temporary(target.parent, target.name, mode=mode, sync=sync)
    try:
        for part in windows:
            temporary.append([part])
        temporary.replace()
    except BaseException:
        temporary.discard()
        raise


def _check_room(target: Path, size: int) -> None:
    """A declared size is not believed until there is room for it: the disk is not filled to find out."""
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as exc:
        raise translate(exc, target, "writing") from exc
    if size > free:
        raise NoSpaceError(
            f"writing {target} takes {size} bytes, {free} are free there; free space, choose another place, "
            "or read it in parts with open_file",
            path=str(target),
        )


class MaterialisedFiles:
    """The files/ directory of one store's host-local cache."""

    def __init__(self, cache: Path, budget: int) -> None:
        """budget: bytes; beyond it, files not handed out for a day are dropped, the oldest first."""
        self._directory = cache / "files"
        self._budget = budget

    def get(self, sha1: bytes, label: str, size: int, windows: Windows) -> Path:
        """The path of a whole, verified copy; written now if there is none, or if it was touched since."""
        name = safe_name(label)
        place = self._directory / sha1.hex()
        path, record = place / name, place / f".{name}.json"
        if self._untouched(path, record, size):
            os.utime(record)  # handed out: its day begins anew
            return path
        try:
            make_directory(self._directory, 0o700, sync=False)
            self._make_room(size)
            make_directory(place, 0o700, sync=False)
            write_out(path, size, windows, mode=0o444, sync=False)
            record.write_text(json.dumps(_stat_of(path)), "utf-8")
        except OSError as exc:
            if exc.errno is None:
                raise  # already one of ours
            raise translate(exc, path, "materialising") from exc
        return path

    @staticmethod
    def _untouched(path: Path, record: Path, size: int) -> bool:
        try:
            remembered = json.loads(record.read_bytes())
            return bool(remembered == _stat_of(path)) and remembered["size"] == size
        except (OSError, ValueError, TypeError, KeyError):
            return False

    def used_size(self) -> int:
        """Bytes of all of them."""
        return sum(used for _, used, _ in self._uses()) if self._directory.is_dir() else 0

    def _uses(self) -> list[tuple[float, int, Path]]:
        return [use for place in self._directory.iterdir() if place.is_dir() for use in [_use_of(place)] if use]

    def _make_room(self, size: int) -> None:
        """Drop what was not handed out for a day, oldest first, until the budget holds `size` more."""
        now = time.time()
        found = self._uses()
        total = size + sum(used for _, used, _ in found)
        for newest, used, place in sorted(found):
            if total <= self._budget:
                return
            if newest > now:  # by a clock that was set back since: its day begins now
                for handed_out in (place, *place.glob(".*.json")):
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(handed_out)
            elif now - newest > _KEEP_S:
                shutil.rmtree(place, ignore_errors=True)
                total -= used


def _use_of(place: Path) -> tuple[float, int, Path] | None:
    """When the directory was last handed out, the bytes it takes, and itself; None if it is going away."""
    try:
        # Without a record it was made a moment ago by a process that writes into it next.
        handed_out, used = place.stat().st_mtime, 0
        records = []
        with os.scandir(place) as found:
            for entry in found:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # a temporary that has its final name now
                if entry.name.startswith(".") and entry.name.endswith(".json"):
                    records.append(status.st_mtime)
                else:
                    used += status.st_size
        return max(records, default=handed_out), used, place
    except OSError:
        return None  # another process drops it at the same time


def _stat_of(path: Path) -> dict[str, object]:
    status = os.stat(path, follow_symlinks=False)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    # Not synced: after a crash of the machine the file may be hollow, so another boot is another file.
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "boot": boot,
    }
