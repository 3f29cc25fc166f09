"""Leases: of many processes on many hosts that would do the same work, one does it; the others wait, and take over if it dies.

A lease is a sequence of records below leases/. Who creates its newest record holds it, and shows that it is alive by creating
the next number every few seconds. A number that a waiter has watched for LEASE_S of its own clock, and that did not change,
is of a dead holder: who creates the next number has taken over. No two clocks are ever compared.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kacas.disk.durable import PLAIN_DIRECTORY
from kacas.disk.ownership import user_name
from kacas.disk.records import BEGINNING, Mark, Record, RecordKind, Sequence, Sequences, behind_damage
from kacas.disk.volume import Volume
from kacas.errors import (
    DamagedRecordError,
    LeaseLostError,
    LeaseUnusableError,
    NewerFormatError,
    NoLinksError,
    NoSpaceError,
    StoreError,
)

LEASE_S = 30.0  # an NFS server may be away for so long
RENEW_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
DIRECTORY = "leases"
_OLD_S = 3600.0  # of what was not changed for so long nobody is alive
_MOST_CLEANED = 16  # old leases that who releases one removes along
_LATER_S = 0.3  # by then the temporary name of a record is dropped, on a network file system too
_GONE = (errno.ENOENT, errno.ESTALE)


class Seen(NamedTuple):
    """The newest record of a lease, as a waiter sees it. mark: what a successor follows. holder: in words; "" if it is free."""

    mark: Mark
    holder: str


_FREE = Seen(BEGINNING, "")


class Leases:
    """All leases of one store. Thread-safe; safe after fork, as a child holds none of its parent's."""

    def __init__(self, volume: Volume) -> None:
        # They need not survive a power cut of the file server: a holder whose record is gone knows that it has lost.
        self._volume = replace(volume, settings=replace(volume.settings, durability="relaxed"))

    @contextmanager
    def turn(
        self, name: str, is_done: Callable[[], bool], waiting: Callable[[str], None] | None = None
    ) -> Iterator[Lease | None]:
        """Wait until the lease is ours, and hold it for the block; None if somebody else has done the work: `is_done`.

        name: of letters, digits and -. is_done: asked whenever nobody works at it. waiting: called now and then with who
        holds the lease. On a file system that cannot create a file once and for all, everybody has a lease.
        Raises LeaseUnusableError if this user may not have leases there, or what is there is no lease; NoSpaceError.
        """
        lease = self._wait(name, is_done, waiting)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.release()

    def _wait(self, name: str, is_done: Callable[[], bool], waiting: Callable[[str], None] | None) -> Lease | None:
        watched: Mark | None = None
        since, pause_s = 0.0, _FIRST_PAUSE_S
        while True:
            now = time.monotonic()  # before the look: who slept in between has not watched
            seen = self._look(name)
            if watched != seen.mark:
                watched, since = seen.mark, now
            if not seen.holder or now - since > LEASE_S:
                if is_done():
                    return None
                lease = self._take(name, seen.mark)
                if lease is not None:
                    # Between the look and now somebody may have had the lease, done it all, and gone.
                    if not is_done():
                        return lease
                    lease.release()
                    return None
            elif waiting is not None:
                waiting(seen.holder)
            time.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def _sequence(self, name: str) -> Sequence:
        # Found anew each time: a lease that ended is gone, directory and all.
        return Sequences(self._volume).sequence(f"{DIRECTORY}/{name}", RecordKind.LEASE)

    def _look(self, name: str) -> Seen:
        sequence = self._sequence(name)
        try:
            record = sequence.newest()
        except DamagedRecordError as exc:
            return Seen(behind_damage(exc.number), f"somebody whose record cannot be read: {exc}")
        except NewerFormatError as exc:
            # Of a newer kacas, which may be alive, and die, like any other.
            return Seen(behind_damage(sequence.highest()), f"somebody whose record cannot be read: {exc}")
        except StoreError as exc:
            if _is_gone(exc):
                return _FREE
            raise self._unusable(exc) from exc
        return _FREE if record is None else Seen(record.mark, _holder(record))

    def _take(self, name: str, after: Mark) -> Lease | None:
        """Create the number that follows; None if somebody else did."""
        sequence = self._sequence(name)
        begun = time.monotonic()
        try:
            record = sequence.create(after, _body("held"))
        except NoLinksError:
            return Lease(self._volume, sequence, None, begun)
        except StoreError as exc:
            # Without a cause: what we had just made is not there, or has a name that we did not give it.
            if exc.__cause__ is None or _is_gone(exc):
                return None  # another lease ended, and its directory went, just now
            if isinstance(exc, NoSpaceError):
                raise
            raise self._unusable(exc) from exc
        if record is None:
            _remove_directory(sequence.directory)  # who ended it could not, while our temporary was in it
            return None
        return Lease(self._volume, sequence, record, begun)

    def _unusable(self, exc: StoreError) -> LeaseUnusableError:
        place = self._volume.path / DIRECTORY
        why = "permission denied" if isinstance(exc, PermissionError) else str(exc)
        return LeaseUnusableError(f"{place} cannot be used by {user_name()}: {why}", path=str(place))


class Lease:
    """Held by this process until it is released, or lost. Thread-safe."""

    def __init__(self, volume: Volume, sequence: Sequence, record: Record | None, begun: float) -> None:
        """record: the newest, which we created, beginning at `begun` of our monotonic clock; None if there can be none."""
        self._volume = volume
        self._sequence = sequence
        self._record = record
        self._renewed = begun
        self._lost = self._released = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._ended = threading.Event()
        if record is not None:
            # A lease that nobody has any more, as after Ctrl-C at a bad moment, is not renewed for ever.
            watcher = threading.Thread(
                target=_renew_often, args=(weakref.ref(self), self._ended), name="kacas-lease", daemon=True
            )
            watcher.start()

    def check(self) -> None:
        """Raises LeaseLostError if somebody else may have taken over: what we do then is done twice, or must not be done."""
        if os.getpid() != self._pid:
            raise LeaseLostError("a lease belongs to the process that took it, not to its forked child")
        if self._record is not None and not self._lost and time.monotonic() - self._renewed > LEASE_S:
            self.renew()  # this process slept
        if self._lost:
            raise LeaseLostError(
                f"the lease {self._sequence.name} went to another process, as this one was silent for {LEASE_S:.0f} s"
            )

    def confirm(self) -> None:
        """As `check`, by a look into the store: nobody takes over for LEASE_S from now, as others saw a new number."""
        if os.getpid() == self._pid:
            self.renew()
        self.check()

    def renew(self) -> None:
        """Create the next number, if nobody else did."""
        if os.getpid() != self._pid:
            return  # a thread of the parent may have held the lock
        with self._lock:
            if self._record is None or self._released or self._lost:
                return
            begun = time.monotonic()
            try:
                record = self._next(self._record)
            except (StoreError, DamagedRecordError, NewerFormatError):
                # A full disk, a server that is away: it may be back before the others give us up.
                self._lost = begun - self._renewed > LEASE_S
                return
            if record is None:
                self._lost = True
                return
            self._record, self._renewed = record, begun

    def _next(self, mine: Record) -> Record | None:
        """The next record, which we created; None if `mine` is not the newest any more."""
        if not self._is_newest(mine):
            return None
        record = self._sequence.create(mine.mark, _body("held"))
        if record is None:
            return None
        numbers = self._sequence.numbers()
        if mine.number not in numbers:
            self._remove([record.number])
            return None
        self._remove([number for number in numbers if number < mine.number])
        return record

    def release(self) -> None:
        """Let others have it; never raises for what they do meanwhile. What is left of leases whose holders died goes along."""
        if os.getpid() != self._pid:
            return
        self._ended.set()
        with self._lock:
            record = self._record
            if record is None or self._released:
                return
            self._released = True
            try:
                if not self._lost and self._is_newest(record):
                    self._clean(record)
                    self._end(record)
            except (StoreError, DamagedRecordError, NewerFormatError):
                pass  # the others wait for LEASE_S, as if we had died

    def _is_newest(self, record: Record) -> bool:
        """By its digest: if we slept, the lease may have ended, and another of the name begun, with the same numbers."""
        newest = self._sequence.newest()
        return newest is not None and newest.digest == record.digest

    def _end(self, record: Record) -> None:
        """Remove the records, the newest at last, and their directory; where we have no right to, say that it is free."""
        self._remove([number for number in self._sequence.numbers() if number <= record.number])
        # Temporaries stay: whoever is about to give one its name must not find it gone, and its inode another's record.
        if _remove_directory(self._sequence.directory):
            return
        if self._is_newest(record):
            self._sequence.create(record.mark, _body("free"))
        elif self._volume.network:
            later = threading.Timer(_LATER_S, _remove_directory, [self._sequence.directory])
            later.daemon = True
            later.start()

    def _clean(self, record: Record) -> None:
        """Remove leases in which nothing has happened for an hour, by the clock of the file server."""
        try:
            before = os.stat(self._path(record)).st_mtime - _OLD_S
            above = self._sequence.directory.parent
            names = os.listdir(above)
            for name in random.sample(names, min(len(names), _MOST_CLEANED)):
                if os.stat(above / name, follow_symlinks=False).st_mtime < before:
                    remove_old(above / name)
        except OSError:
            pass  # others clean, too

    def _remove(self, numbers: list[int]) -> None:
        _remove_from(self._sequence.directory, [str(number) for number in numbers])

    def _path(self, record: Record) -> Path:
        return self._sequence.directory / str(record.number)


def _renew_often(lease: weakref.ref[Lease], ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        held = lease()
        if held is None:
            return
        held.renew()
        del held


def _body(state: str) -> bytes:
    return json.dumps({"host": socket.gethostname()[:64], "pid": os.getpid(), "state": state}).encode()


def _holder(record: Record) -> str:
    """Who holds the lease, in words; "" if it is free."""
    try:
        told = json.loads(record.body)
        if told["state"] == "free":
            return ""
        return f"process {int(told['pid'])} on {str(told['host'])[:64]}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _is_gone(exc: StoreError) -> bool:
    return isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _GONE


def remove_old(directory: Path | str, parent_fd: int | None = None) -> bool:
    """Remove what is in a lease of which nobody is alive, in the order of the numbers, and then itself. Whether it is gone.

    parent_fd: the directory that it is in, if not all of its path is given. No link is followed.
    """
    return _remove_from(directory, None, parent_fd) and _remove_directory(directory, parent_fd)


def _remove_from(directory: Path | str, names: list[str] | None, parent_fd: int | None = None) -> bool:
    """Remove these names, or all. False if that is no directory: a member may have put a link to somebody's files there."""
    try:
        fd = os.open(directory, PLAIN_DIRECTORY, dir_fd=parent_fd)
    except OSError as exc:
        return exc.errno in _GONE
    try:
        names = os.listdir(fd) if names is None else names
        for name in sorted(names, key=lambda name: (len(name), name)):
            with contextlib.suppress(OSError):  # gone, or somebody else's in a directory from which only owners remove
                os.unlink(name, dir_fd=fd)
    except OSError as exc:
        return exc.errno in _GONE
    finally:
        os.close(fd)
    return True


def _remove_directory(directory: Path | str, parent_fd: int | None = None) -> bool:
    """Whether it is gone: it stays if somebody has begun a lease in it just now."""
    try:
        os.rmdir(directory, dir_fd=parent_fd)
    except OSError as exc:
        return exc.errno in _GONE
    return True
