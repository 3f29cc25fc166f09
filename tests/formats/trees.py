"""Directories made and read back, as nested dictionaries."""

from __future__ import annotations

import os
import random
from pathlib import Path

Tree = dict[bytes, object]  # name -> bytes (a file), (bytes,) (executable), str (a link), dict (a directory)


def make(place: Path | bytes, tree: Tree) -> None:
    place = os.fsencode(place)
    os.makedirs(place, exist_ok=True)
    for name, what in tree.items():
        path = os.path.join(place, name)
        if isinstance(what, dict):
            make(path, what)
        elif isinstance(what, str):
            os.symlink(what, path)
        else:
            data = what[0] if isinstance(what, tuple) else what
            assert isinstance(data, bytes)
            with open(path, "wb") as file:
                file.write(data)
            if isinstance(what, tuple):
                os.chmod(path, 0o755)


def read(place: Path | bytes) -> Tree:
    found: Tree = {}
    for entry in os.scandir(os.fsencode(place)):
        if entry.is_symlink():
            found[entry.name] = os.readlink(entry.path).decode()
        elif entry.is_dir():
            found[entry.name] = read(entry.path)
        else:
            data = Path(os.fsdecode(entry.path)).read_bytes()
            found[entry.name] = (data,) if entry.stat().st_mode & 0o100 else data
    return found


SMALL: Tree = {
    b"notes.txt": b"test-content\n",
    b"run.sh": (b"#!/bin/sh\n",),
    b"empty": b"",
    b"nothing here": {},
    b"raw": {b"a.bin": bytes(1000), b"deep": {b"b.txt": b"b", b"up": "../a.bin"}},
    b"latest": "raw/a.bin",
    b"dangling": "/no/such/file",
    b"\xff\xfe": b"not UTF-8",
    "naïve ☃".encode(): b"Unicode",
    b"large.bin": random.Random(1).randbytes(700_000),
}
