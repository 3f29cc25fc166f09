"""Recipes that are larger than memory should hold: pages go to a file without a name, and from there to the bucket.

A page comes before those that name it, and the front, which names them all, comes first in the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kacas.disk.spool import Spool
from kacas.model.codec import MIB
from kacas.model.digest import PayloadKind
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.recipe import Head, Locate, encode_recipe

PART_SIZE = 8 * MIB  # the least that a part of a large blob has
_GATHERED_SIZE = 1 * MIB  # pages are written to the file together


class RecipeSpool:
    """One recipe, encoded. A context manager; memory is a part and, as `encode_recipe` says, 200 bytes for each node."""

    def __init__(
        self, directory: Path, head: Head, tree: Iterable[tuple[bytes, PayloadKind, bytes]], locate: Locate
    ) -> None:
        """directory: on a local disk. The others: as for `encode_recipe`. Raises also NoSpaceError and WriteError."""
        self._spool = Spool(directory)
        gathered: list[bytes] = []
        waiting = 0

        def emit(page: bytes) -> None:
            nonlocal waiting
            gathered.append(page)
            waiting += len(page)
            if waiting >= _GATHERED_SIZE:
                write()

        def write() -> None:
            nonlocal waiting
            self._spool.append(gathered)
            gathered.clear()
            waiting = 0

        try:
            self._front = encode_recipe(head, tree, locate, emit)
            write()
        except BaseException:
            self._spool.close()
            raise

    def __enter__(self) -> RecipeSpool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._spool.close()

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return len(self._front) + self._spool.size

    def parts(self) -> Iterator[bytes]:
        """The object's bytes, in parts of PART_SIZE but for the last: for `put_parts`, or, if it is one, `put_if_absent`."""
        first = self._front + self._read(0, PART_SIZE - len(self._front))
        yield first
        for at in range(len(first) - len(self._front), self._spool.size, PART_SIZE):
            yield self._read(at, PART_SIZE)

    def put(self, blobs: BlobStore, key: str) -> None:
        """Also in place of another."""
        blobs.put_parts(key, self.parts(), size=self.size)

    def put_if_absent(self, blobs: BlobStore, key: str) -> bool:
        """False if another is there. No service puts many parts on condition: for a large recipe it is looked before. Of two
        that come at the same moment, the first is then replaced, and the next push of its root puts it beside the other."""
        if self.size <= PART_SIZE:
            return blobs.put_if_absent(key, next(self.parts()))
        if blobs.head(key) is not None:
            return False
        self.put(blobs, key)
        return True

    def _read(self, at: int, size: int) -> bytes:
        data = bytearray(max(0, min(size, self._spool.size - at)))
        self._spool.read_into(at, memoryview(data))
        return bytes(data)
