"""Sequences of records: the one primitive of mutables, feeds, leases and the records of access groups.

A sequence is a directory of small files `1`, `2`, `3`, ..., each created once by link() and never changed. Whoever creates
number n+1 has seen n, and says so: the record holds the digest of the one before it. Of many who create one number, one
wins, on local disks and on NFS. The newest is found by listing: see `directories`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kacas.disk.directories import Directories
from kacas.disk.durable import Temporary, translate
from kacas.disk.fresh import ask_server
from kacas.errors import DamagedRecordError, NewerFormatError, StoreError, WriteError
from kacas.model.digest import ID_SIZE, chunk_digest
from kacas.model.record import (
    BEGINNING,
    MAX_BODY_SIZE,
    MAX_NUMBER,
    MAX_RECORD_SIZE,
    NO_DIGEST,
    Mark,
    NewerRecordError,
    Record,
    RecordFormatError,
    RecordKind,
    decode_record,
    subject_of,
)

__all__ = ["BEGINNING", "MAX_BODY_SIZE", "NO_DIGEST", "Mark", "Record", "RecordKind", "Sequence", "Sequences"]

_GONE = (errno.ENOENT, errno.ESTALE)
_HOUR_NS = 3600 * 10**9
_MOST_PRUNED = 256  # at once: who sets a value does not pay for a year
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.25
# A name that is taken is seen by every listing within 50 ms or so (see Temporary); this is to end a riddle.
_PATIENCE_S, _ATTEMPTS_PER_LOOK = 120.0, 16
_PAUSES_S = (0.01, 0.05, 0.25)
_LISTINGS, _LISTING_PAUSE_S = 5, 0.1


class Sequences(Directories):
    """All sequences of one store. Thread-safe."""

    def sequence(self, name: str, kind: RecordKind) -> Sequence:
        """name: its directory below the store, with slashes; who asks has checked that every part is a plain name."""
        return Sequence(self, name, kind)


class Sequence:
    """One directory of numbered records. Cheap to make; thread-safe."""

    def __init__(self, sequences: Sequences, name: str, kind: RecordKind) -> None:
        self.name = name
        self.directory = sequences.volume.path / name
        self._sequences = sequences
        self._volume = sequences.volume
        self._kind = kind
        self._subject = subject_of(name)

    def numbers(self) -> list[int]:
        """Of the records that are there now, rising. [] if there is no such sequence."""
        return sorted(_numbers_in(self._sequences.names(self.name)))

    def highest(self) -> int:
        """The highest number; 0 if there is none."""
        return max(_numbers_in(self._sequences.names(self.name)), default=0)

    def highest_of_all(self, least: int = 0) -> int:
        """`highest` of a sequence that is never pruned. least: the highest that was seen before.

        Raises DamagedRecordError for one that is missing; at the end, only if it was seen.
        """
        numbers: list[int] = []
        for attempt in range(_LISTINGS):
            if attempt:
                time.sleep(_LISTING_PAUSE_S)  # see _is_confirmed
            numbers = _numbers_in(self._sequences.names(self.name))
            highest = max(numbers, default=0)
            if len(numbers) == max(highest, least):
                return highest
        missing = next(n for n, found in enumerate([*sorted(numbers), 0], start=1) if n != found)
        raise self.damaged(missing, "it is gone, and it was there")

    def is_there(self, number: int) -> bool:
        """Whether a record is still there that was there before."""
        path = self._path(number)
        try:
            ask_server(os.fsencode(path))
            os.lstat(path)
        except OSError as exc:
            if exc.errno in _GONE:
                return False
            raise translate(exc, path, "looking at") from exc
        return True

    def read(self, number: int) -> Record | None:
        """The record that a listing showed; None if it is gone (pruned meanwhile).

        Raises DamagedRecordError, NewerFormatError, StoreError.
        """
        data = self._read_bytes(number)
        return None if data is None else self._decode(number, data)

    def newest(self) -> Record | None:
        """The record with the highest number; None if there is none. Raises as `read`."""
        while number := self.highest():
            if (record := self.read(number)) is not None:
                return record
            # The newest is never pruned: either a newer one is there by now, or somebody empties the directory.
            if self.highest() == number:
                raise self.damaged(number, "a listing shows it, but it cannot be opened")
        return None

    def create(self, after: Mark, body: bytes) -> Record | None:
        """Create the record that follows `after`; None if somebody else has that number: look for the newest again.

        after: the mark of the newest record, or BEGINNING. When this returns a record, it is durable, and of all records
        with its number the one that counts. Raises StoreError, also if what became of it is not known.
        """
        if after.number >= MAX_NUMBER:
            raise self.damaged(after.number, "no number is left behind it")
        write_id, now_ns = secrets.token_bytes(ID_SIZE), time.time_ns()
        record = Record(self._kind, after.number + 1, now_ns, write_id, self._subject, after.digest, body)
        data = record.encode()
        record = replace(record, digest=decode_record(data).digest)
        if not self._publish_insistently(record, data):
            return None
        return record if self._was_never_used(after) or self._is_confirmed(record) else None

    def append(self, body: bytes) -> Record:
        """Create the next record, after whatever others create meanwhile. Raises as `create` and `read`."""
        for _ in self.attempts():
            newest = self.newest()
            record = self.create(newest.mark if newest else BEGINNING, body)
            if record is not None:
                return record
        raise AssertionError("attempts end by raising")

    def attempts(self) -> Iterator[int]:
        """For who must look again after others were faster: waits between attempts, a little longer each time.

        Raises WriteError if nothing can be created although nobody else creates anything.
        """
        pause_s, highest, since = _FIRST_PAUSE_S, -1, time.monotonic()
        for number in itertools.count():
            yield number
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            if number % _ATTEMPTS_PER_LOOK:
                continue
            now, newest = time.monotonic(), self.highest()
            if newest != highest:
                highest, since = newest, now
            elif now - since > _PATIENCE_S:
                raise WriteError(
                    f"nothing can be added to {self.directory}: number {newest + 1} is taken, but no listing shows it. "
                    "Look what is there, and mount the file system again",
                    path=str(self.directory),
                )

    def prune(self, keep: int, created: Record) -> int:
        """Remove records, the oldest first, that are more than an hour older than `created`. Returns how many.

        keep: so many of the newest stay whatever their age, at least one. created: a record that was just created here; its
        time of change on the file server is "now". What cannot be removed stays, without an error: nothing relies on its going,
        and what was created counts.
        """
        names = self._sequences.names(self.name)
        numbers = sorted(_numbers_in(names))
        temporaries = [name for name in names if name.startswith(".") and ".tmp." in name]
        pruned = 0
        with contextlib.suppress(OSError):
            before = os.stat(self._path(created.number)).st_mtime_ns - _HOUR_NS
            for number in self._without_gap(numbers[: -max(keep, 1)][:_MOST_PRUNED]):
                if not _remove_old(self._path(number), before):
                    break
                pruned += 1
            for name in temporaries:  # of writers that were killed
                _remove_old(self.directory / name, before)
        return pruned

    def _without_gap(self, numbers: list[int]) -> list[int]:
        """Those at the beginning that follow each other: who creates a record relies on it that as long as the one before is
        there, none behind that was removed. A listing that is not complete must not change it."""
        if numbers and numbers[0] > 1 and self.is_there(numbers[0] - 1):
            return []
        return [
            number
            for number, expected in zip(numbers, itertools.count(numbers[0] if numbers else 0))
            if number == expected
        ]

    def _path(self, number: int) -> Path:
        return self.directory / str(number)

    def _publish_insistently(self, record: Record, data: bytes) -> bool:
        """False if the number is taken."""
        for pause_s in (*_PAUSES_S, None):
            try:
                self._sequences.make(self.name)
                return self._publish(record, data)
            except WriteError as exc:
                error = exc.__cause__.errno if isinstance(exc.__cause__, OSError) else None
                # Who makes the same directory at once may have put another in the place of ours, while it was empty. And what an
                # NFS client knows may be outdated again and again where others are busy. If it is published after all, its
                # number is taken, by what we write.
                if pause_s is None or not (error == errno.ESTALE or (error == errno.ENOENT and record.number == 1)):
                    raise
                time.sleep(pause_s)
                if record.number == 1:
                    self._sequences.forget(self.name)
        raise AssertionError("the last attempt returns or raises")

    def _publish(self, record: Record, data: bytes) -> bool:
        """False if the number is taken."""
        volume = self._volume
        temporary = Temporary(
            self.directory, str(record.number), mode=volume.record_mode, sync=volume.durable, network=volume.network
        )
        try:
            temporary.append([data])
            if record.number == 1 and volume.durable:
                # Before the first record has its name: whoever sees it can rely on the names above it. And behind the first
                # file in the directory, which from now on makes way for no other.
                self._sequences.sync_above(self.name)
            temporary.publish()
            return True
        except FileExistsError:
            # A repeated request whose first reply was lost? Temporary knows the inode, but not all file systems keep them.
            if self._read_bytes(record.number) != data:
                return False
            if volume.durable:
                self._sequences.sync_above(f"{self.name}/{record.number}")
            return True
        except BaseException:
            temporary.discard()
            raise

    def _was_never_used(self, after: Mark) -> bool:
        """Whether the number behind `after`, which was free, was not that of a record that is pruned; False if that is not known.

        Pruning is in order, the oldest first: as long as the very record is there that ours follows, no later one has gone.
        """
        if self._kind in (RecordKind.FEED, RecordKind.GROUP):
            return True  # of which nothing is pruned
        if self._kind is not RecordKind.MUTABLE or after.digest == NO_DIGEST:
            return False  # who may not remove an old record of a lease removes later ones all the same
        try:
            data = self._read_bytes(after.number)
        except (StoreError, DamagedRecordError):
            return False
        return data is not None and chunk_digest(data) == after.digest

    def _is_confirmed(self, record: Record) -> bool:
        """Whether this number was free because nobody had used it, and not because the one who had was pruned.

        The latter happens to somebody who slept for an hour between looking and creating. Then what is behind the record does
        not follow it: who creates number n+1 puts the digest of n into it.
        """
        numbers: list[int] = []
        for _ in range(_LISTINGS):
            numbers = self.numbers()
            if not numbers or numbers[-1] <= record.number:
                return True
            if record.number + 1 in numbers:
                break
            # A listing made while others create may show n + 2 and not n + 1; the next one does, when all clients see it.
            time.sleep(_LISTING_PAUSE_S)
        if record.number not in numbers:
            raise WriteError(
                f"{self._path(record.number)} was created, and is gone: this process slept for an hour. "
                "Whether it counted is not known; look what the newest is",
                path=str(self._path(record.number)),
            )
        # Pruning begins with the oldest: a successor that is missing, while ours is there, was there long before.
        successor = self.read(record.number + 1) if record.number + 1 in numbers else None
        if successor is not None and successor.previous == record.digest:
            return True
        try:
            os.unlink(self._path(record.number))
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise translate(exc, self._path(record.number), "removing") from exc
        return False

    def _read_bytes(self, number: int) -> bytes | None:
        path = self._path(number)
        try:
            with open(path, "rb", buffering=0, opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise self.damaged(number, "it is not a file")
                if status.st_size > MAX_RECORD_SIZE:
                    raise self.damaged(number, "it is too long for a record")
                parts = []
                left = MAX_RECORD_SIZE + 1
                while left and (part := file.read(left)):
                    parts.append(part)
                    left -= len(part)
                return b"".join(parts)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if isinstance(exc, DamagedRecordError):
                raise
            if exc.errno == errno.ESTALE:
                return None
            if exc.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
                raise self.damaged(number, "it is not a file") from exc
            raise translate(exc, path, "reading") from exc

    def _decode(self, number: int, data: bytes) -> Record:
        try:
            record = decode_record(data)
        except NewerRecordError as exc:
            raise NewerFormatError(f"{self._path(number)}: {exc}; upgrade kacas", needed=exc.version) from exc
        except RecordFormatError as exc:
            raise self.damaged(number, str(exc)) from exc
        if (record.kind, record.number, record.subject) != (self._kind, number, self._subject):
            raise self.damaged(number, "it is a record of another place")
        return record

    def damaged(self, number: int, why: str) -> DamagedRecordError:
        """The error that names a record."""
        path = self._path(number)
        # Nobody has written so many: that file was put there, and as long as it is, nothing can follow.
        what_to_do = "restore that file from a backup" if number < MAX_NUMBER else "remove that file"
        return DamagedRecordError(
            f"record {path} is not what was written: {why}; {what_to_do}",
            path=str(path),
            number=number,
        )


def _open_at_once(path: str, flags: int) -> int:
    # Else a pipe would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _numbers_in(names: list[str]) -> list[int]:
    return [int(name) for name in names if name.isdecimal() and name.isascii() and name[0] != "0" and len(name) <= 18]


def behind_damage(number: int) -> Mark:
    """What follows a record that cannot be read: the chain begins anew."""
    return Mark(number, NO_DIGEST)


def _remove_old(path: Path, before: int) -> bool:
    """Remove a file that changed before that time (ns), if it is there. False if it is younger. Raises OSError."""
    try:
        if os.stat(path).st_mtime_ns >= before:
            return False
        os.unlink(path)
    except FileNotFoundError:
        pass  # somebody else did
    return True
