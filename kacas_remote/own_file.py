"""A file of the user's own, mostly 0600, that is replaced as a whole: who reads it sees the old or the new one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from kacas.disk.durable import Temporary, make_directory
from kacas.errors import InvalidSettingError, StoreError


def change_file(path: Path, edit: Callable[[], str], mode: int = 0o600) -> None:
    """Replace the file by the text that `edit` makes of what is there; of several who do so at once each sees what the one before
    made. Raises what `edit` raises, and InvalidSettingError if the file cannot be written.

    Where the lock does not hold, as on some NFS, the worst is that one change is to be repeated.
    """
    try:
        make_directory(path.parent, 0o700, sync=True)
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            text = edit()
            written = Temporary(path.parent, path.name, mode=mode, sync=True)
            try:
                written.append([text.encode()])
                written.replace()
            except BaseException:
                written.discard()
                raise
        finally:
            os.close(fd)
    except (OSError, StoreError) as exc:
        cause = exc.__cause__ if isinstance(exc, StoreError) else exc
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else exc
        raise InvalidSettingError(f"{path} cannot be written: {why}; mend that, then try again") from exc
