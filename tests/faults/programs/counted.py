"""A program whose system calls are counted: python -m tests.faults.programs.counted STORE OPERATIONS...

Each operation is preceded by a mark in the trace, and followed by the mark "other".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np

import kacas
from tests.faults import contents

KNOWN = contents.text("known")
ARRAY = contents.noise("large array", 9 * contents.MIB // 128)
UNCHANGED = {"small-file": 1000, "large-file": 3 * contents.MIB}  # name: size
MISSING = "sha1://" + "00" * 20


def mark(name: str) -> None:
    """A system call that does nothing but name what follows."""
    try:
        os.readlink(f"/mark/{name}")
    except OSError:
        pass


def uri(content: contents.Content) -> str:
    return f"sha1://{content.sha1}"


def put_batch(store: kacas.Store) -> None:
    with store.batch():
        for number in range(1000):
            store.store_json({"trial": number, "of": "a batch"})


def slice_64_kib(store: kacas.Store) -> None:
    """512 rows of 128 bytes from the middle."""
    lazy = store.open_npy(uri(ARRAY))
    mark("slice")
    assert np.array_equal(lazy[30_000:30_512], ARRAY.value[30_000:30_512])


def miss(store: kacas.Store) -> None:
    assert not store.exists(MISSING)


def check(found: bool) -> None:
    assert found


def put_unchanged(store: kacas.Store) -> None:
    """The files beside the store that the test has stored already, one of one chunk and one of many."""
    for name in UNCHANGED:
        store.store_file(store.path.parent / name)


OPERATIONS: dict[str, Callable[[kacas.Store], object]] = {
    "single-put": lambda store: store.store_text("counted"),
    "repeated-put": lambda store: store.store_text("counted"),
    "known-put": lambda store: KNOWN.put(store),
    "other-label": lambda store: store.store_text("counted", label="another"),
    "array-put": lambda store: store.store_npy(ARRAY.value[::-1]),
    "known-array-put": lambda store: ARRAY.put(store),
    "batch": put_batch,
    "load": lambda store: check(store.load_bytes(uri(KNOWN)) == KNOWN.data),
    "load-array": lambda store: check(np.array_equal(store.load_npy(uri(ARRAY)), ARRAY.value)),
    "slice-open": slice_64_kib,
    "range": lambda store: check(store.load_bytes(uri(ARRAY), 5_000_000, 5_065_536) == ARRAY.data[5_000_000:5_065_536]),
    "exists": lambda store: check(store.exists(uri(KNOWN))),
    "miss": miss,
    "second-miss": miss,
    "unchanged-files": put_unchanged,
}


def main() -> None:
    mark("open")
    with kacas.Store.open(sys.argv[1]) as store:
        for name in sys.argv[2:]:
            mark(name)
            OPERATIONS[name](store)
            mark("other")
    mark("end")


if __name__ == "__main__":
    main()
