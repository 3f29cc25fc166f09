"""Directories as kachery-cloud lays them out, made here."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

# A pair that belongs together: test 1 of RFC 8032.
PRIVATE = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


class Kachery:
    """One directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def place(self, sha1: str, top: str = "sha1") -> Path:
        """Where the content of that name lies; its directories are made."""
        path = self.path / top / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, data: bytes) -> str:
        """Returns the URI."""
        self.place(sha1_of(data)).write_bytes(data)
        return f"sha1://{sha1_of(data)}"

    def link(self, path: Path) -> str:
        """Returns the URI."""
        status, sha1 = path.stat(), sha1_of(path.read_bytes())
        record = {"path": str(path), "size": status.st_size, "mtime": status.st_mtime, "sha1": sha1}
        self.place(sha1, "linked_files/sha1").write_text(json.dumps(record))
        return f"sha1://{sha1}"

    def mutable(self, key: str, value: str) -> None:
        path = self.path / "mutables" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value, encoding="utf-8")

    def keys(self, public: str = PUBLIC, private: str = PRIVATE) -> None:
        for name, which, front, key in (
            ("public.pem", "PUBLIC", "302a300506032b6570032100", public),
            ("private.pem", "PRIVATE", "302e020100300506032b657004220420", private),
        ):
            inside = base64.b64encode(bytes.fromhex(front + key)).decode()
            (self.path / name).write_text(f"-----BEGIN {which} KEY-----\n{inside}\n-----END {which} KEY-----")
        (self.path / "private.pem").chmod(0o600)

    def state(self) -> dict[str, tuple[int, ...]]:
        """What changes when anything in the directory is changed."""
        found = {}
        for path in [self.path, *self.path.rglob("*")]:
            status = os.lstat(path)
            found[str(path)] = (
                status.st_ino, status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
            )  # fmt: skip
        return found
