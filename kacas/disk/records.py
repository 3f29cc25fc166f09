"""Sequences of records: the one primitive of mutables, feeds and leases.

A sequence is a directory of small files `1`, `2`, `3`, ..., each created once by link() and never changed. Whoever creates
number n+1 has seen n, and says so: the record holds the digest of the one before it. Of many who create one number, one
wins, on local disks and on NFS.

Nothing is looked up that a listing of its directory did not show: an NFS client that once missed a name goes on missing
it for 30 to 70 seconds [measured], while a listing by path is fresh at once. So directories are listed from the top down.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kacas.disk.durable import (
    Temporary,
    change_again_later,
    list_directory,
    set_mode,
    sync_directory,
    temporary_name,
    translate,
)
from kacas.disk.volume import Volume
from kacas.errors import DamagedRecordError, NewerFormatError, StoreError, WriteError
from kacas.model.digest import ID_SIZE
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

_NAME = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_HOUR_NS = 3600 * 10**9
_MOST_PRUNED = 256  # at once: who sets a value does not pay for a year
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.25
# A name that is taken is seen by every listing within 50 ms or so (see Temporary); this is to end a riddle.
_PATIENCE_S = 120.0
_LISTINGS, _LISTING_PAUSE_S = 5, 0.1


class Sequences:
    """All sequences of one store, and the directories above them, found by listing. Thread-safe."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._seen: set[str] = set()  # directories that a listing showed: they stay

    def sequence(self, name: str, kind: RecordKind) -> Sequence:
        """name: its directory below the store, with slashes; who asks has checked that every part is a plain name."""
        return Sequence(self, name, kind)

    def names(self, directory: str) -> list[str]:
        """What is in a directory below the store, by a listing made now; [] if there is none."""
        if directory and directory not in self._seen:
            parent, _, name = directory.rpartition("/")
            if name not in self.names(parent):
                return []
            self._seen.add(directory)
        path = self.volume.path / directory
        try:
            return list_directory(path) if directory else os.listdir(path)
        except FileNotFoundError as exc:
            self._seen.discard(directory)
            if not directory:
                raise StoreError(f"{path} is gone; restore the store or open another", path=str(path)) from exc
            return []
        except NotADirectoryError as exc:
            what = "a file or a symbolic link, which is not followed"
            raise StoreError(f"{path} is {what}; a directory belongs there: move it away", path=str(path)) from exc
        except OSError as exc:
            raise translate(exc, path, "listing") from exc

    def make(self, directory: str) -> None:
        """Make a directory below the store, its parents too, where a listing does not show it. Raises StoreError."""
        if not directory or directory in self._seen:
            return
        parent, _, name = directory.rpartition("/")
        self.make(parent)
        path = self.volume.path / directory
        if name not in self.names(parent):
            self._make_exactly(path, parent)
        self._seen.add(directory)

    def _make_exactly(self, path: Path, parent: str) -> None:
        """It has its mode when it gets its name: other users may be waiting to write into it."""
        temporary = path.with_name(temporary_name(path.name))
        try:
            temporary.mkdir(0o700, exist_ok=True)  # its name is random: if it is there, a reply was lost
            mine = self._take_name(temporary, path, parent)
        except OSError as exc:
            raise translate(exc, path, "creating") from exc
        names = self.names(parent)
        twins = [name for name in names if name.casefold() == path.name.casefold()]
        if path.name not in names and (mine or twins):
            raise WriteError(
                f"{path} cannot be made: the file system calls it {twins[0] if twins else 'otherwise'!r}; choose another name",
                path=str(path),
            )
        if self.volume.network:
            change_again_later(path.parent)

    def _take_name(self, temporary: Path, path: Path, parent: str) -> bool:
        """Rename a new directory; False if the name is taken. One that is taken and empty is as good, and makes way."""
        try:
            set_mode(temporary, self.volume.directory_mode)  # mkdir's mode is masked by umask
            os.rename(temporary, path)
            return True
        except OSError as exc:
            with contextlib.suppress(FileNotFoundError):
                temporary.rmdir()
            # In a sticky directory, what another user has just made does not make way: EPERM. After a lost reply: ENOENT.
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY) or path.name in self.names(parent):
                return False
            raise

    def sync_above(self, directory: str) -> None:
        """Make the names of a directory and of all above it durable, whoever made them."""
        while directory:
            directory = directory.rpartition("/")[0]
            path = self.volume.path / directory
            try:
                sync_directory(path)
            except OSError as exc:
                raise translate(exc, path, "syncing") from exc


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
        return sorted(map(int, filter(_NAME.fullmatch, self._sequences.names(self.name))))

    def all_numbers(self, least: int = 0) -> list[int]:
        """`numbers` of a sequence that is never pruned. least: the highest that was seen before.

        Raises DamagedRecordError for one that is missing; at the end, only if it was seen.
        """
        numbers: list[int] = []
        for attempt in range(_LISTINGS):
            if attempt:
                time.sleep(_LISTING_PAUSE_S)  # see _is_confirmed
            numbers = self.numbers()
            if len(numbers) == max(numbers[-1] if numbers else 0, least):
                return numbers
        missing = next(n for n, found in enumerate([*numbers, 0], start=1) if n != found)
        raise self.damaged(missing, "it is gone, and it was there")

    def read(self, number: int) -> Record | None:
        """The record that a listing showed; None if it is gone (pruned meanwhile).

        Raises DamagedRecordError, NewerFormatError, StoreError.
        """
        data = self._read_bytes(number)
        return None if data is None else self._decode(number, data)

    def newest(self) -> Record | None:
        """The record with the highest number; None if there is none. Raises as `read`."""
        while numbers := self.numbers():
            if (record := self.read(numbers[-1])) is not None:
                return record
            # The newest is never pruned: either a newer one is there by now, or somebody empties the directory.
            if self.numbers()[-1:] == numbers[-1:]:
                raise self.damaged(numbers[-1], "a listing shows it, but it cannot be opened")
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
        self._sequences.make(self.name)
        if not self._publish(record, data):
            return None
        return record if self._is_confirmed(record) else None

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
        number = 0
        while True:
            yield number
            number += 1
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            now, newest = time.monotonic(), max(self.numbers(), default=0)
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
        numbers = sorted(map(int, filter(_NAME.fullmatch, names)))
        temporaries = [name for name in names if name.startswith(".") and ".tmp." in name]
        pruned = 0
        with contextlib.suppress(OSError):
            before = os.stat(self._path(created.number)).st_mtime_ns - _HOUR_NS
            for number in numbers[: -max(keep, 1)][:_MOST_PRUNED]:
                # In order: what is missing between others was never created, or by somebody who knew no better.
                if not _remove_old(self._path(number), before):
                    break
                pruned += 1
            for name in temporaries:  # of writers that were killed
                _remove_old(self.directory / name, before)
        return pruned

    def _path(self, number: int) -> Path:
        return self.directory / str(number)

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
        return DamagedRecordError(
            f"record {path} is not what was written: {why}; restore that file from a backup",
            path=str(path),
            number=number,
        )


def _open_at_once(path: str, flags: int) -> int:
    # Else a pipe would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


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
