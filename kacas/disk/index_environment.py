"""The LMDB environment of one index: where it lives, when it may be trusted, one per process, never across a fork.

    index/<pid namespace>/users        who has it open: index_places
    index/<pid namespace>/current      JSON: generation, boot id, uid, inode of the data file, index version
    index/<pid namespace>/<generation>/data.mdb, lock.mdb, turn (index_turn), user.<pid>

LMDB runs without sync (a crash of the machine voids the index: the boot id differs then) and without
WRITEMAP, under which a full disk or a truncated file is SIGBUS and a stray write reaches the file.
"""

from __future__ import annotations

import atexit
import errno
import gc
import json
import os
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import lmdb

from kacas.disk.gate import Gate
from kacas.disk.index_places import drop_unused, hold
from kacas.disk.index_turn import StuckError, Turn

INDEX_VERSION = 4
_MANY_OPEN = 64  # maps of a terabyte, of which a process can have 127
# One large fixed map; under `ulimit -v` the first that fits.
_MAP_SIZES = (1 << 40, 1 << 36, 1 << 32, 1 << 29, 1 << 26)
_MAX_READERS = 4096
_YOUNG_S = 60
_MAX_DEAD_USERS = 2  # since a process last closed it in order; then the index begins anew
_LOCKS_SIZE = 64 * (_MAX_READERS + 64)  # a cache line for each reader, and the head
# name → whether a key may have several values, of one size
_TABLES = {
    **dict.fromkeys(("entries", "log", "packs", "pack_numbers", "small", "whole", "held", "suspects"), False),
    **dict.fromkeys(("chunks", "covered", "damaged"), True),
}


class IndexUnusableError(Exception):
    """The index cannot answer or take what it is given. Never reaches a user: the tables are the truth."""


class Shared:
    """One LMDB environment of this process and how many Index objects use it."""

    def __init__(self, environment: lmdb.Environment, generation: Path, hold: int) -> None:
        """hold: the descriptor that keeps the directory from being dropped, closed with the environment.

        Raises StuckError, LMDB's errors.
        """
        self.environment = environment
        self.generation = generation
        self.users = 0
        self.closed = False
        self._hold = hold
        self._turn = Turn(generation)
        try:
            with self.writing() as txn:
                self.tables = _open_tables(environment, txn)
        except BaseException:
            self._turn.close()
            raise

    def close(self) -> None:
        """Nothing runs in it; of a forked child, only what it inherited is closed."""
        self.closed = True
        self.environment.close()
        self._turn.close()
        os.close(self._hold)

    @contextmanager
    def writing(self, table: Any = None) -> Iterator[lmdb.Transaction]:
        """A transaction that writes, when it is our turn. Raises StuckError, LMDB's errors."""
        environment = self.environment
        with self._turn.taken(lambda: environment.info()["last_txnid"]), environment.begin(table, write=True) as txn:
            yield txn


# LMDB crashes when an environment is closed under a running transaction, and a child that inherits one
# in mid-transaction can neither use nor close it. So closing and forking wait, with new operations held
# back, until none runs.
_gate = Gate()
_guard = threading.Lock()  # of _open
_open: dict[str, Shared] = {}
_abandoned: deque[tuple[Path, Shared]] = deque()
_shut: AbstractContextManager[None] | None = None  # while this process forks; with _guard held


def operation_lock() -> threading.Lock:
    """To be held by this thread for one operation, from before `opened` to its end."""
    return _gate.pass_lock()


def opened(shared: Shared) -> lmdb.Environment:
    """The environment. Raises IndexUnusableError if it was closed."""
    if shared.closed:
        raise IndexUnusableError("the index was closed")
    return shared.environment


def _close(shared: Shared) -> None:
    """With _guard held: waits for running operations, then closes."""
    with _gate.shut():
        shared.close()
    _unmark(shared.generation)


def _unmark(generation: Path) -> None:
    """This process is done with the generation and alive: so much for suspicions that deaths of others raised."""
    for mark in [generation / f"user.{os.getpid()}", *_dead_users(generation)]:
        try:
            mark.unlink(missing_ok=True)
        except OSError:
            continue  # the cache is read-only now, or going away


def _dead_users(generation: Path) -> list[Path]:
    """Marks of processes that ended without closing: killed, perhaps by what they read in a damaged file."""
    dead = []
    for mark in generation.glob("user.*"):
        try:
            os.kill(int(mark.name[5:]), 0)
        except ProcessLookupError:
            dead.append(mark)
        except (OSError, ValueError, OverflowError):
            continue  # it lives, as somebody else's; or is no mark of ours
    return dead


@atexit.register
def _at_exit() -> None:
    for shared in _open.values():
        _unmark(shared.generation)


def _before_fork() -> None:
    global _shut
    _guard.acquire()
    _shut = _gate.shut()
    _shut.__enter__()


def _after_fork_in_parent() -> None:
    assert _shut is not None
    _shut.__exit__(None, None, None)
    _guard.release()


def _after_fork_in_child() -> None:
    # LMDB must not be used across a fork, and refuses a second open of the same file in one process:
    # the child closes what it inherited, which is idle, and opens its own when it needs one.
    global _gate
    for shared in _open.values():
        shared.close()
    _open.clear()
    _after_fork_in_parent()
    _gate = Gate()  # other threads' locks did not come along


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def acquire(place: Path) -> Shared:
    """The environment for the index directory `place`, opened or shared. Raises IndexUnusableError."""
    _release_abandoned()
    if len(_open) >= _MANY_OPEN:
        gc.collect()  # stores that nobody has any more may be held by cycles
        _release_abandoned()
    with _guard:
        shared = _open.get(str(place))
        if shared is None:
            try:
                shared = _open_shared(place)
            except (lmdb.Error, OSError) as exc:
                raise IndexUnusableError(f"the index in {place} cannot be opened: {exc}") from exc
            _open[str(place)] = shared
        shared.users += 1
        return shared


def _open_shared(place: Path) -> Shared:
    held = hold(place)
    try:
        drop_unused(place)
        return _open_current(place, held)
    except BaseException:
        os.close(held)
        raise


def release(place: Path, shared: Shared) -> None:
    """Give it back; the last user closes it."""
    with _guard:
        shared.users -= 1
        if shared.users == 0 and _open.get(str(place)) is shared:
            del _open[str(place)]
            _close(shared)


def abandon(place: Path, shared: Shared) -> None:
    """Let it be released when the next one is acquired: for finalizers, which may run while this thread holds a lock.

    Each maps a terabyte: 128 stores that are not closed leave no addresses for the next.
    """
    _abandoned.append((place, shared))


def _release_abandoned() -> None:
    while _abandoned:
        release(*_abandoned.popleft())


def renew(place: Path, broken: Shared) -> None:
    """Put an empty generation in place of a broken one. Processes that use the old one are not disturbed."""
    with _guard:
        if _open.get(str(place)) is broken:
            del _open[str(place)]
            _close(broken)
        try:
            held = hold(place)
        except OSError as exc:
            raise IndexUnusableError(f"the index in {place} cannot be renewed: {exc}") from exc
        try:
            if (sidecar := _read_sidecar(place)) is None or sidecar["generation"] == broken.generation.name:
                _begin_generation(place, replace=True)
            shutil.rmtree(broken.generation, ignore_errors=True)
        except OSError as exc:
            raise IndexUnusableError(f"the index in {place} cannot be renewed: {exc}") from exc
        finally:
            os.close(held)


def _open_current(place: Path, held: int) -> Shared:
    sidecar = _read_sidecar(place)
    if sidecar is None or not _trusted(place, sidecar):
        # Without a sidecar two processes may begin at once: the first wins. A bad one is replaced.
        _begin_generation(place, replace=(place / "current").exists())
        if sidecar is not None:
            shutil.rmtree(place / sidecar["generation"], ignore_errors=True)
    generation = _current(place)
    try:
        return _open_generation(generation, held)
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PanicError, StuckError):
        if _current(place) == generation:
            _begin_generation(place, replace=True)
        return _open_generation(_current(place), held)


def _current(place: Path) -> Path:
    sidecar = _read_sidecar(place)
    if sidecar is None:
        raise OSError(errno.ENOENT, "the index was removed while it was opened", str(place))
    return place / str(sidecar["generation"])


def _open_generation(generation: Path, held: int) -> Shared:
    environment = _open_environment(generation)
    try:
        if _is_cut_short(environment, generation) or len(_dead_users(generation)) >= _MAX_DEAD_USERS:
            raise lmdb.CorruptedError("the data file is cut short, or processes died over it")
        (generation / f"user.{os.getpid()}").touch()
        return Shared(environment, generation, held)
    except BaseException:
        environment.close()
        raise


def _is_cut_short(environment: lmdb.Environment, generation: Path) -> bool:
    """Whether the file ends before its last page: reading behind the end of a mapped file is SIGBUS."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    return os.stat(generation / "data.mdb").st_size < needed


def generation_of(place: Path) -> str:
    """The name of the index's generation; "" if there is none."""
    sidecar = _read_sidecar(place)
    return sidecar["generation"] if sidecar else ""


def _read_sidecar(place: Path) -> dict[str, Any] | None:
    try:
        sidecar = json.loads((place / "current").read_bytes())
    except (OSError, ValueError):
        return None
    valid = isinstance(sidecar, dict) and isinstance(sidecar.get("generation"), str)
    return sidecar if valid and sidecar["generation"].isalnum() else None


def _trusted(place: Path, sidecar: dict[str, Any]) -> bool:
    return sidecar == _identity(place / sidecar["generation"])


def _identity(generation: Path) -> dict[str, Any]:
    try:
        inode = os.stat(generation / "data.mdb").st_ino
    except OSError:
        inode = -1
    return {
        "generation": generation.name,
        "version": INDEX_VERSION,
        "boot": _boot_id(),
        "uid": os.getuid(),
        "inode": inode,
    }


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"  # macOS: a crash of the machine is not noticed; every answer is proved all the same


def _begin_generation(place: Path, *, replace: bool) -> None:
    generation = place / secrets.token_hex(8)
    generation.mkdir(mode=0o700)
    _open_environment(generation).close()
    written = place / f".current.{generation.name}"
    written.write_text(json.dumps(_identity(generation)), "utf-8")
    if replace:
        os.replace(written, place / "current")
        _drop_old_generations(place, generation)
        return
    try:
        os.link(written, place / "current")
    except FileExistsError:
        shutil.rmtree(generation, ignore_errors=True)  # another process was first: both use its generation
    finally:
        written.unlink()


def _drop_old_generations(place: Path, current: Path) -> None:
    """What an open process still uses stays readable to it; a young one may be about to be opened."""
    for old in place.iterdir():
        try:
            if old != current and old.is_dir() and time.time() - old.stat().st_mtime > _YOUNG_S:
                shutil.rmtree(old, ignore_errors=True)
        except OSError:
            continue  # another process drops it at the same time


def _reserve_locks(path: Path) -> None:
    """LMDB maps its lock file, sparse as it makes it: on a full disk its first touch would be SIGBUS."""
    if path.exists() or not hasattr(os, "posix_fallocate"):
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _LOCKS_SIZE)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _open_tables(environment: lmdb.Environment, txn: lmdb.Transaction) -> dict[str, Any]:
    return {
        name: environment.open_db(name.encode(), txn, dupsort=several, dupfixed=several)
        for name, several in _TABLES.items()
    }


def _open_environment(generation: Path) -> lmdb.Environment:
    _reserve_locks(generation / "lock.mdb")
    failure: Exception | None = None
    for map_size in _MAP_SIZES:
        try:
            environment = lmdb.open(
                str(generation), map_size=map_size, max_dbs=len(_TABLES), max_readers=_MAX_READERS, sync=False,
                metasync=False, writemap=False, mode=0o600,
            )  # fmt: skip
        except lmdb.MemoryError as exc:
            failure = exc
            continue
        environment.reader_check()
        return environment
    raise IndexUnusableError(f"no address space for the index: {failure}; raise `ulimit -v`") from failure
