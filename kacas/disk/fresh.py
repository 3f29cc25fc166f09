"""What is there as the file server knows it.

A client of a network file system answers stat for up to a minute with what it was told before, while another client has
changed the file. Opening a file asks the server; fstat of one that is open, and stat by path, may not [measured].
A name that was once missed is missed for as long, until the directory that has it by now is listed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_FORCE_SYNC, _EMPTY_PATH, _NO_FOLLOW, _CWD = 0x2000, 0x1000, 0x100, -100
_BASIC = 0x7FF
_ANSWER_SIZE = 256  # of a struct statx
_UNKNOWN = (errno.ENOSYS, errno.EPERM)  # an old kernel, or a container that forbids what it does not know
_libc = ctypes.CDLL(None, use_errno=True)


def fresh_status(fd: int) -> os.stat_result:
    """As os.fstat, after asking the server. Raises OSError."""
    _ask(fd, b"", _EMPTY_PATH)
    return os.fstat(fd)


def ask_server(path: bytes) -> None:
    """Whatever this host knows of the file, links not followed, is what its server knows. Raises OSError."""
    _ask(_CWD, path, _NO_FOLLOW)


def is_listed(path: Path) -> bool:
    """Whether listings show it and all above it; then it can be opened, however often it was missed before."""
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        if path.parent == path or not is_listed(path.parent):
            return False
        names = os.listdir(path.parent)
    except OSError:
        return False  # what may not be listed is told when it is opened
    return path.name in names


def _ask(directory: int, path: bytes, flags: int) -> None:
    answer = ctypes.create_string_buffer(_ANSWER_SIZE)
    if hasattr(_libc, "statx") and _libc.statx(directory, path, flags | _FORCE_SYNC, _BASIC, answer):
        code = ctypes.get_errno()
        if code not in _UNKNOWN:
            raise OSError(code, os.strerror(code), path or None)
