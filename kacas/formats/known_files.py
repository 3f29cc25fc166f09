"""What a walk over a tree knows of files that have not changed, and what it learns of the others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from kacas.disk.file_systems import is_network_file
from kacas.disk.fresh import ask_server, fresh_status
from kacas.disk.identities import FileState, Identities, Identity, has_settled, sync_file_system, sync_source

_SINGLY = 16  # files of one file system that are synced one by one; then all of it is, in one call
_SYNC_ALONE = 64 << 20  # bytes; larger files always are: a write call that is at work on one is waited for
_TOGETHER = 32_768  # identities that are kept back: the later they are written, the more of it falls into the last sync


class KnownFiles:
    """The identity cache for one walk. rehash: nothing is taken from it."""

    def __init__(self, identities: Identities, *, rehash: bool) -> None:
        self._identities = identities
        self._blind = rehash or identities.is_empty()
        self._remote: dict[int, bool] = {}
        self._counts: dict[int, int] = {}
        self._synced: dict[int, int | None] = {}
        self._learned: dict[int | None, dict[FileState, tuple[bytes, bytes, int]]] = {}

    def look_up(self, directory: bytes, device: int, entries: Iterable[os.DirEntry[bytes]]) -> dict[bytes, Identity]:
        """The identities of those regular files of a directory, on this device, that have not changed, by name."""
        if self._blind:
            return {}
        states: dict[bytes, FileState] = {}
        remote = self._is_remote(device, Path(os.fsdecode(directory)))
        for entry in entries:
            try:
                if entry.is_file(follow_symlinks=False):
                    if remote:
                        ask_server(entry.path)  # else what is known of a changed file is a minute old
                    states[entry.name] = FileState.of(entry.stat(follow_symlinks=False))
            except OSError:
                continue  # it is met again when it is opened
        known = self._identities.get_many(states.values())
        return {name: known[state] for name, state in states.items() if state in known}

    def sync(self, fd: int, status: os.stat_result) -> tuple[os.stat_result, int | None]:
        """To be called before the first byte of a file is read. Returns its state now, and what goes to `remember`.

        status: of the file, just opened.
        """
        device = status.st_dev
        if device in self._synced and status.st_size <= _SYNC_ALONE:
            return status, self._synced[device]
        if not has_settled(FileState.of(status), time.time_ns()):
            return status, None  # too young to be remembered: no disk need be waited for
        count = self._counts[device] = self._counts.get(device, 0) + 1
        if count <= _SINGLY or status.st_size > _SYNC_ALONE:
            synced_ns = sync_source(fd)
        else:
            synced_ns = self._synced[device] = sync_file_system(fd)
        return os.fstat(fd), synced_ns  # writing back what was mapped may have set its times

    def status_after(self, fd: int, before: os.stat_result) -> os.stat_result:
        """The file's status when its last byte has been read. before: its status before the first."""
        return fresh_status(fd) if self._is_remote(before.st_dev, fd) else os.fstat(fd)

    def _is_remote(self, device: int, place: Path | int) -> bool:
        if device not in self._remote:
            self._remote[device] = is_network_file(place)
        return self._remote[device]

    def remember(self, status: os.stat_result, identity: tuple[bytes, bytes, int], synced_ns: int | None) -> None:
        """status: of the file, the same after the sync and after the last byte. identity: SHA-1, root, size."""
        learned = self._learned.get(synced_ns)
        if learned is None:
            learned = self._learned[synced_ns] = {}
        learned[FileState.of(status)] = identity
        if len(learned) >= _TOGETHER or len(self._learned) > 2 * _SINGLY:
            self.flush()

    def flush(self) -> None:
        """Hand what was learned to the cache: facts about files, whatever becomes of the batch."""
        for synced_ns, learned in self._learned.items():
            self._identities.put_many(learned, synced_ns)
        self._learned = {}
