"""Proofs: which root a SHA-1 has, as whole reads on this host have shown. They outlive what was read.

<cache>/remotes/proofs/    SQLite; disposable
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kacas.disk.host_database import HostDatabase
from kacas.model.digest import checksum

_VERSION = 1
_SCHEMA = "CREATE TABLE proofs (place INTEGER PRIMARY KEY, row BLOB NOT NULL UNIQUE)"
_MOST = 1_000_000  # about 100 bytes each
_CHECK_SIZE = 16


class Proofs:
    """Thread-safe, safe after fork; many processes share one cache."""

    def __init__(self, cache: Path) -> None:
        """cache: this user's cache directory."""
        self._database = HostDatabase(cache / "remotes" / "proofs", _VERSION, _SCHEMA)

    def close(self) -> None:
        """Release what is open. It may be used again."""
        self._database.close()

    def remember(self, sha1: bytes, root: bytes) -> None:
        """All of the content was read under this root, and had this SHA-1."""

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO proofs (row) VALUES (?)", (_row(sha1, root),))
            connection.execute("DELETE FROM proofs WHERE place <= (SELECT max(place) FROM proofs) - ?", (_MOST,))

        if not self.has(sha1, root):
            self._database.write(keep)

    def has(self, sha1: bytes, root: bytes) -> bool:
        """Whether that was remembered. A flipped bit of the cache forgets, and never remembers what was not."""
        row = _row(sha1, root)
        query = "SELECT row FROM proofs WHERE row = ?"
        return bool(self._database.read(lambda connection: connection.execute(query, (row,)).fetchone()) == (row,))


def _row(sha1: bytes, root: bytes) -> bytes:
    return sha1 + root + checksum(_CHECK_SIZE, sha1, root)
