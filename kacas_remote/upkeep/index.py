"""Indexing: recipes for plain objects that have none, as in a bucket that kachery-cloud filled; then their parts can be read.

Each object is streamed once and checked against the SHA-1 that is its name; it stays as it is. Cut is as `store_file` cuts, so
the roots are those of the same file in a store.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from kacas.errors import KacasError, SourceChangedError
from kacas.formats.file import FileSource
from kacas.formats.hdf5 import hdf5_layout
from kacas.formats.npy import Layout, array_layout, recognised
from kacas.ingest import Ingest, Payload
from kacas.model.codec import MIB, Decoder
from kacas.model.content_cuts import ContentCutter
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import PayloadKind
from kacas.model.entry import Kind
from kacas.model.hdf5_cuts import signature_at
from kacas.model.manifest import decode_manifest, decode_node
from kacas.model.npy_header import MAX_HEADER_SIZE
from kacas.model.source import Source
from kacas.model.tiling import Tiling
from kacas_remote import identity
from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.layout import PLAIN, RECIPES, plain_key, recipe_key
from kacas_remote.push.plain import plain_places
from kacas_remote.recipe import Head
from kacas_remote.recipe_spool import RecipeSpool
from kacas_remote.remote import Remote
from kacas_remote.signing import sign, statement
from kacas_remote.upkeep.reading import damage
from kacas_remote.upkeep.survey import Progress, batched, silent

_AT_ONCE = 2  # objects; each takes its blocks and parts, some 50 MiB
_PART = 4 * MIB
_AHEAD = 3  # parts that are asked for while one is used
_MEMORY = 64 * MIB


@dataclass
class IndexReport:
    """objects: without recipe. size: bytes of them, all of which are read. made: recipes. problems: objects that are not what
    their name says, and get none."""

    objects: int = 0
    size: int = 0
    made: int = 0
    problems: list[str] = field(default_factory=list)


def index(remote: Remote, *, dry_run: bool = False, progress: Progress = silent) -> IndexReport:
    """Make the recipes. Those that are made stay if it is ended half-way. Raises what the service raises, and
    NotSupportedError for a private remote."""
    remote.check_plain()
    report = IndexReport()
    for info in without_recipe(remote.blobs):
        report.objects += 1
        report.size += info.size
    if dry_run or not report.objects:
        return report
    remote.mark()
    done = 0
    with ThreadPoolExecutor(_AT_ONCE, "kacas-index") as pool:
        for part in batched(without_recipe(remote.blobs), _AT_ONCE * 4):
            for info, problem in zip(part, pool.map(lambda info: _indexed(remote.blobs, info), part), strict=True):
                done += info.size
                report.made += not problem
                report.problems += [problem] if problem else []
            progress("indexing", done, report.size)
    return report


def without_recipe(blobs: BlobStore) -> Iterator[BlobInfo]:
    """Plain objects whose SHA-1 has no recipe. Both listings are in the order of the SHA-1s: neither is kept."""
    recipes = (info.key.rpartition("/")[2].partition(".")[0] for info in blobs.list(RECIPES))
    recipe = next(recipes, None)
    for info in blobs.list(PLAIN):
        name = info.key.rpartition("/")[2]
        if len(name) != 40 or set(name) - set("0123456789abcdef") or info.key != plain_key(bytes.fromhex(name)):
            continue
        while recipe is not None and recipe < name:
            recipe = next(recipes, None)
        if recipe != name:
            yield info


def _indexed(blobs: BlobStore, info: BlobInfo) -> str:
    """What is wrong with the object; nothing if it has a recipe now."""
    sha1 = bytes.fromhex(info.key.rpartition("/")[2])
    nodes = Nodes()
    with ObjectSource(blobs, info) as source:
        try:
            front = source.peek(MAX_HEADER_SIZE)
            if info.size > CHUNK_TARGET and signature_at(front) is not None:
                found = _indexed_hdf5(source, nodes)
            else:
                found = _put(source, _layout(front, source), nodes)
        except SourceChangedError as exc:
            return str(exc)
        except KacasError as exc:
            return str(damage(blobs, info.key, exc, "run it again"))
    if found.sha1 != sha1:
        why = f"its bytes have the SHA-1 {found.sha1.hex()}; it gets no recipe"
        return str(damage(blobs, info.key, why, "delete it, and push what it should be"))
    head = Head(sha1, found.root, found.size, Kind.FILE, time_ns=time.time_ns())
    if (me := identity.find()) is not None:
        signature = sign(me.key, statement(sha1, found.root, found.size, Kind.FILE))
        head = Head(sha1, found.root, found.size, Kind.FILE, b"", head.time_ns, (signature,))
    with RecipeSpool(Path(tempfile.gettempdir()), head, nodes.tree(found.root), plain_places) as recipe:
        recipe.put_if_absent(blobs, recipe_key(sha1))
    return ""


@dataclass(frozen=True)
class _Found:
    sha1: bytes
    root: bytes
    size: int


def _layout(front: bytes, source: ObjectSource) -> Layout:
    header = recognised(front, source.info.size) if source.info.size > CHUNK_TARGET else None
    if header is None:
        return Layout()
    source.start_at(header.size)
    return array_layout(front[: header.size], header, lambda start, size: memoryview(b""))


def _put(source: Source, layout: Layout, nodes: Nodes) -> _Found:
    cutter = layout.cutter or ContentCutter()
    assert not isinstance(cutter, Tiling)  # only who asks for tiles gets them
    found = Ingest(1, _MEMORY).put(
        source, cutter, nodes, head=layout.head, description=layout.description, store_chunks=False
    )
    return _Found(found.sha1, found.root, found.size)


def _indexed_hdf5(source: ObjectSource, nodes: Nodes) -> _Found:
    """Where its datasets are cut is asked of h5py, which wants a file."""
    with tempfile.NamedTemporaryFile(prefix="kacas-index-") as file:
        part = memoryview(bytearray(_PART))
        while count := source.readinto(part):
            file.write(part[:count])
        file.flush()
        source.check_unchanged()
        local = FileSource(Path(file.name))
        try:
            return _put(local, hdf5_layout(local.fileno(), local.sample), nodes)
        finally:
            local.close()


class Nodes:
    """A sink that keeps nodes and manifest: some 40 bytes for each chunk."""

    def __init__(self) -> None:
        self._raws: dict[bytes, bytes] = {}
        self._decoder = Decoder()

    def known(self, digests: Iterable[bytes]) -> set[bytes]:
        return {digest for digest in digests if digest in self._raws}

    def append(self, payloads: Sequence[Payload]) -> None:
        for header, payload in payloads:
            view = memoryview(payload)
            self._raws[header.digest] = self._decoder.decode(header.codec, header.parameters, view, header.raw_size)

    def note_whole(self, root: bytes) -> None:
        """Nothing is deduplicated here."""

    def tree(self, root: bytes) -> Iterator[tuple[bytes, PayloadKind, bytes]]:
        """Manifest and nodes, parents first, each once; nothing if the content is one chunk."""
        if root not in self._raws:
            return
        manifest = decode_manifest(self._raws[root])
        yield root, PayloadKind.MANIFEST, self._raws[root]
        seen: set[bytes] = set()
        todo = [(child, manifest.level) for child in reversed(manifest.children) if manifest.level]
        while todo:
            child, level = todo.pop()
            if child.digest in seen:
                continue
            seen.add(child.digest)
            raw = self._raws[child.digest]
            yield child.digest, PayloadKind.NODE, raw
            if level > 1:
                below = decode_node(raw, level=level, size=child.size).children
                todo += [(one, level - 1) for one in reversed(below)]


class ObjectSource:
    """A blob, read from front to back by ranges, a few of them ahead. A context manager."""

    def __init__(self, blobs: BlobStore, info: BlobInfo) -> None:
        self.info = info
        self._blobs = blobs
        self._at = 0
        self._start = 0
        self._part = memoryview(b"")
        self._asked = 0
        self._parts: list[Future[memoryview]] = []
        self._pool = ThreadPoolExecutor(_AHEAD, "kacas-object")

    def __enter__(self) -> ObjectSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def size(self) -> int:
        return self.info.size - self._start

    def peek(self, size: int) -> bytes:
        """At most `size` of the first bytes, which are still to be read."""
        return (
            bytes(self._blobs.get_ranges(self.info.key, [(0, min(size, self.info.size))])[0]) if self.info.size else b""
        )

    def start_at(self, offset: int) -> None:
        """Leave out what comes before; to be called before anything is read."""
        self._start = self._asked = offset

    def readinto(self, buffer: memoryview) -> int:
        if not len(self._part):
            while self._asked < self.info.size and len(self._parts) < _AHEAD:
                stop = min(self._asked + _PART, self.info.size)
                self._parts.append(self._pool.submit(self._read, self._asked, stop))
                self._asked = stop
            if not self._parts:
                return 0
            self._part = self._parts.pop(0).result()
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count

    def _read(self, start: int, stop: int) -> memoryview:
        (data,) = self._blobs.get_ranges(self.info.key, [(start, stop)])
        if len(data) != stop - start:
            raise self._changed()
        return data

    def check_unchanged(self) -> None:
        found = self._blobs.head(self.info.key)
        if found is None or (found.size, found.e_tag) != (self.info.size, self.info.e_tag or found.e_tag):
            raise self._changed()

    def _changed(self) -> SourceChangedError:
        return SourceChangedError(
            f"{self._blobs.name}: {self.info.key} changed while it was read; run it again", path=self.info.key
        )
