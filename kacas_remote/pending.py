"""Pending pushes: what is to be pushed is written down before anything is sent, and struck out when all of it is there.

$XDG_STATE_HOME/kacas/pending/<id>.json, one for each push, 0600; locked as long as its process lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kacas.disk.durable import make_directory, publish_bytes, sync_directory
from kacas.errors import InvalidSettingError, KacasError, StoreError
from kacas.settings import state_directory
from kacas_remote.errors import PushError

_FORMAT = 1
_MOST = 1 << 30  # bytes of one file; some ten million URIs
_NAME_SIZE = 16


@dataclass(frozen=True)
class PendingPush:
    """store: its path. remote: name. plain: as it was asked for. private: the group for which the remote was to seal it, "" for
    none: another remote may have the name by the time when it is sent."""

    store: str
    remote: str
    uris: tuple[str, ...]
    plain: bool | None = None
    private: str = ""

    def belongs_with(self, other: PendingPush) -> bool:
        """Whether it is the same work on other URIs."""
        return replace(self, uris=other.uris) == other


class Note:
    """A pending push that this process has in hand."""

    def __init__(self, path: Path, fd: int, push: PendingPush) -> None:
        self._path = path
        self._fd = fd
        self.push = push

    def strike_out(self, left: Sequence[str] = ()) -> None:
        """All is there, but for `left`, which stays pending, once: not here what another note has that nobody is busy with."""
        with contextlib.ExitStack() as held:  # so that the others stay meanwhile
            others = held.enter_context(taken()) if left else []
            there = {uri for note in others if note.push.belongs_with(self.push) for uri in note.push.uris}
            left = [uri for uri in left if uri not in there]
            if left and len(left) < len(self.push.uris):
                _write(replace(self.push, uris=tuple(left)))
            if len(left) < len(self.push.uris):
                self._path.unlink(missing_ok=True)

    def stays(self, why: KacasError) -> PushError:
        """The error for what could not even be begun."""
        return PushError(
            f"{self.push.uris[0]} and all else that is noted with it is still to be pushed to {self.push.remote} from "
            f"{self.push.store}: {why}; mend that, or, to forget it, delete {self._path}",
            uris=self.push.uris,
        )

    def release(self) -> None:
        """Let others take it, if it is still there."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_down(push: PendingPush) -> Note:
    """Durably; it is in hand until it is released. Raises InvalidSettingError if that cannot be written."""
    while True:
        note = _hold(_write(push), wait=True)
        if note is not None:
            return note


@contextmanager
def written_down(push: PendingPush) -> Iterator[Note]:
    """`write_down`, for a block."""
    note = write_down(push)
    try:
        yield note
    finally:
        note.release()


@contextmanager
def taken() -> Iterator[list[Note]]:
    """Every pending push that no process is busy with, held for the block, the oldest first."""
    notes: list[Note] = []
    try:
        notes += [note for path in _paths() if (note := _hold(path, wait=False)) is not None]
        yield notes
    finally:
        for note in notes:
            note.release()


def pending() -> list[PendingPush]:
    """Everything that was not struck out, also what is being sent just now."""
    found = []
    for path in _paths():
        with contextlib.suppress(FileNotFoundError):
            found.append(_read(path))
    return found


def _directory() -> Path:
    return state_directory() / "pending"


def _paths() -> list[Path]:
    aged: list[tuple[int, Path]] = []
    for path in _directory().glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            aged.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(aged)]


def _write(push: PendingPush) -> Path:
    directory, name = _directory(), f"{secrets.token_hex(_NAME_SIZE)}.json"
    try:
        make_directory(directory, 0o700, sync=True)
        publish_bytes(directory, name, json.dumps({"format": _FORMAT} | asdict(push)).encode(), mode=0o600, sync=True)
        sync_directory(directory)
    except (OSError, StoreError) as exc:
        raise InvalidSettingError(
            f"{directory} cannot be written ({exc}), so what is to be pushed cannot be noted; mend that, or set XDG_STATE_HOME"
        ) from exc
    return directory / name


def _hold(path: Path, *, wait: bool) -> Note | None:
    """None if another process has it in hand, or has struck it out."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.stat(path).st_ino != os.fstat(fd).st_ino:
            raise FileNotFoundError(path)
        return Note(path, fd, _read(path))
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise


def _read(path: Path) -> PendingPush:
    try:
        if path.stat().st_size > _MOST:
            raise ValueError("it is too large")
        told = json.loads(path.read_bytes())
        if told["format"] != _FORMAT:
            raise ValueError("it has another format")
        uris = tuple(str(uri) for uri in told["uris"])
        plain = None if told["plain"] is None else bool(told["plain"])
        return PendingPush(str(told["store"]), str(told["remote"]), uris, plain, str(told.get("private", "")))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InvalidSettingError(f"{path} cannot be read ({exc}); move it away to go on without it") from exc
