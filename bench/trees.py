"""Deterministic trees of small files, and edits of a large one; the same arguments give the same bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bench.workloads import MIB, random_block

# Sixteen symbols, equally likely: text of numbers as tables have them, of which compression halves the size.
TABLE_TEXT = (b"0123456789.,-e \n") * 16
EDIT_STEP = 8192  # bytes: an edit lies in the first half of a step of its own, so that no two touch
LONGEST_EDIT = EDIT_STEP // 2


def small_file(rng: np.random.Generator, kind: int, size: int) -> bytes:
    """`size` bytes, by turns numbers as text (ratio 2), int16 samples (1.7) and noise (1)."""
    if kind % 3 == 0:
        return rng.bytes(size).translate(TABLE_TEXT)
    if kind % 3 == 1:
        return (rng.standard_normal(size // 2 + 1, dtype=np.float32) * 100).astype(np.int16).tobytes()[:size]
    return rng.bytes(size)


def make_tree(tree: Path, *, files: int, folders: int, sizes: tuple[int, int], seed: int = 0) -> None:
    """Make `tree`: `files` files in `folders` directories, sizes drawn from `sizes` (both ends included).

    A tree already there is kept: it was renamed to its name when it was complete.
    """
    if tree.exists():
        return
    unfinished = tree.with_name(tree.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng([4, seed])
    for folder in range(folders):
        place = unfinished / f"{folder:04d}"
        place.mkdir(parents=True)
        for number in range(folder, files, folders):
            content = small_file(rng, number // folders, int(rng.integers(sizes[0], sizes[1] + 1)))
            (place / f"{number:07d}.dat").write_bytes(content)
    unfinished.rename(tree)


def same_trees(one: Path, other: Path) -> bool:
    """Whether both hold the same names with the same bytes."""
    names = _names(one)
    return names == _names(other) and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@dataclass(frozen=True)
class Edit:
    """At `offset` of the old file `removed` bytes make room for `added`."""

    offset: int
    removed: int
    added: bytes


def random_edits(size: int, *, insertions: int, overwrites: int, seed: int = 0) -> list[Edit]:
    """Edits of 1 to 4,096 bytes at random places of a file of `size` bytes, in rising order; no two touch.

    Raises ValueError if the file is too small to hold them apart (8 KiB for each).
    """
    rng = np.random.default_rng([5, seed])
    count = insertions + overwrites
    steps = rng.choice(size // EDIT_STEP, count, replace=False)  # ValueError if there are fewer
    edits = []
    for number, step in enumerate(steps):
        added = rng.bytes(int(rng.integers(1, LONGEST_EDIT + 1)))
        offset = int(step) * EDIT_STEP + int(rng.integers(EDIT_STEP - LONGEST_EDIT))
        edits.append(Edit(offset, 0 if number < insertions else len(added), added))
    return sorted(edits, key=lambda edit: edit.offset)


def write_large_file(path: Path, size: int) -> None:
    """Noise, which no codec shrinks: whatever a second version adds is new. A file already there is kept."""

    def blocks() -> Iterator[memoryview]:
        for index in range(-(-size // (8 * MIB))):
            yield random_block(index).data.cast("B")[: size - index * 8 * MIB]

    _write(path, blocks())


def write_edited(source: Path, path: Path, edits: Sequence[Edit]) -> None:
    """Write `source` with `edits` (rising, apart) to `path`; a file already there is kept."""

    def parts(file: BinaryIO) -> Iterator[bytes]:
        for edit in edits:
            while file.tell() < edit.offset:
                yield file.read(min(MIB, edit.offset - file.tell()))
            yield edit.added
            file.seek(edit.removed, os.SEEK_CUR)
        while block := file.read(MIB):
            yield block

    with source.open("rb") as file:
        _write(path, parts(file))


def _write(path: Path, parts: Iterator[bytes | memoryview]) -> None:
    if path.exists():
        return
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        for part in parts:
            file.write(part)
    unfinished.rename(path)


def _names(tree: Path) -> list[Path]:
    return sorted(path.relative_to(tree) for path in tree.rglob("*") if not path.is_dir())
