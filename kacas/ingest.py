"""The write pipeline: one pass over a source, SHA-1 and encoders side by side, in bounded memory.

The caller's thread reads into reused blocks; the threads of `block_workers.py` run SHA-1 over them, in large updates, and
digest, look up, compress and append their chunks. All of these release the GIL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from kacas.block_workers import BlockWorkers
from kacas.errors import WrongIdentityError
from kacas.model.codec import MIB
from kacas.model.cuts import CHUNK_TARGET, Cutter
from kacas.model.digest import PayloadKind, chunk_digest, new_sha1
from kacas.model.encoder import ZSTD, Encoder, Recipe
from kacas.model.manifest import Child, TreeBuilder
from kacas.model.pack_format import PayloadHeader
from kacas.model.source import Source
from kacas.model.tiling import Tiling

BLOCK_SIZE = 4 * MIB
_SHARE_OF_MEMORY = 4  # a quarter of it for the blocks in flight: reading, hashing, encoding and writing overlap
_LEAST_BLOCKS, _MOST_BLOCKS = 4, 8

Payload = tuple[PayloadHeader, bytes | memoryview]
Progress = Callable[[int, int | None], None]


class Sink(Protocol):
    """Where payloads go: a batch."""

    def known(self, digests: Iterable[bytes]) -> set[bytes]: ...

    def append(self, payloads: Sequence[Payload]) -> None: ...

    def note_whole(self, root: bytes) -> None: ...


class Ingested(NamedTuple):
    """sha1: of head and source. root: of the layout that was appended. size: bytes of the content."""

    sha1: bytes
    root: bytes
    size: int

    def check(self, expected: bytes | None) -> None:
        """Raises WrongIdentityError unless the SHA-1 is the expected one, if one is."""
        if expected not in (None, self.sha1):
            raise WrongIdentityError(f"the bytes have the SHA-1 {self.sha1.hex()}", found=self.sha1.hex())


def identify(raw: bytes) -> Ingested:
    """What `put` would return for content that fits in one chunk; nothing is appended."""
    sha1 = new_sha1()
    sha1.update(raw)
    return Ingested(sha1.digest(), chunk_digest(raw), len(raw))


class Ingest:
    """Holds the reusable blocks; one for a repository. Thread-safe."""

    def __init__(self, threads: int, memory: int) -> None:
        """threads: that encode. memory: bytes, of which a share is taken."""
        self._threads = threads
        self._blocks = max(_LEAST_BLOCKS, min(_MOST_BLOCKS, memory // _SHARE_OF_MEMORY // BLOCK_SIZE))
        self._free: list[bytearray] = []
        self._local = threading.local()

    def close(self) -> None:
        """Give the blocks back at once: whoever is closed may be garbage for long before it is collected."""
        self._free.clear()

    def put(
        self,
        source: Source,
        cutter: Cutter,
        sink: Sink,
        *,
        head: bytes = b"",
        description: dict[str, object] | None = None,
        recipe: Recipe = ZSTD,
        progress: Progress | None = None,
        store_chunks: bool = True,
    ) -> Ingested:
        """Read the source to its end and append everything its root needs to the sink; without `store_chunks`, only
        nodes and manifest: the chunks stay where they are.

        Raises what the source raises; nothing is published by this function.
        """
        if source.size is not None and len(head) + source.size <= CHUNK_TARGET:
            # One byte more than announced, to notice a source that grew.
            first = bytearray(len(head) + source.size + 1)
        else:
            first = self._take_block()
        first[: len(head)] = head
        view = memoryview(first)
        filled = _fill(source, view, len(head))
        if filled == len(first) < BLOCK_SIZE:
            # More came than was announced, as from files in /proc, which say that they are empty.
            first = self._take_block()
            first[:filled] = view
            view = memoryview(first)
            filled = _fill(source, view, filled)
        if filled <= CHUNK_TARGET:
            source.check_unchanged()
            return self._put_one(view[:filled], recipe, sink if store_chunks else None)
        chunks = sink if store_chunks else None
        return self._put_many(source, cutter, recipe, sink, chunks, head, description or {}, first, filled, progress)

    def _put_one(self, raw: memoryview, recipe: Recipe, sink: Sink | None) -> Ingested:
        """Content that fits in one chunk needs no node: its root is the chunk's digest."""
        sha1 = new_sha1()
        sha1.update(raw)
        (child,) = self.encode_chunks(raw, [len(raw)], recipe=recipe, sink=sink)
        return Ingested(sha1.digest(), child.digest, len(raw))

    def _put_many(
        self,
        source: Source,
        cutter: Cutter,
        recipe: Recipe,
        sink: Sink,
        chunks: Sink | None,
        head: bytes,
        description: dict[str, object],
        block: bytearray,
        filled: int,
        progress: Progress | None,
    ) -> Ingested:
        sha1 = new_sha1()
        tree = Tree(sink)
        start, hashed, done = len(head), 0, 0
        encode = partial(self.encode_chunks, recipe=recipe, sink=chunks)
        with BlockWorkers(self._threads, sha1.update, encode) as workers:
            while True:
                view = memoryview(block)[:filled]
                final = filled < len(block)
                ends = cutter.cut(view[start:], final)
                stop = start + ends[-1] if ends else start
                done += filled - hashed
                workers.give(block, view[hashed:], view[start:], ends)
                if progress is not None:
                    progress(done, None if source.size is None else source.size + len(head))
                if final:
                    break
                while workers.flying >= self._blocks:
                    self._land(workers, tree)
                block = self._take_block()
                # What the cutter left over begins the next block; SHA-1 has seen it already.
                rest = view[stop:]
                block[: len(rest)] = rest
                start, hashed = 0, len(rest)
                filled = _fill(source, memoryview(block), len(rest))
            source.check_unchanged()
            while workers.flying:
                self._land(workers, tree)
        root = tree.finish(head, description)
        if chunks is not None:
            sink.note_whole(root)
        return Ingested(sha1.digest(), root, done)

    def _land(self, workers: BlockWorkers, tree: Tree) -> None:
        block, children = workers.land()
        tree.add(children)
        if len(self._free) < self._blocks and len(block) == BLOCK_SIZE:
            self._free.append(block)

    def _take_block(self) -> bytearray:
        try:
            return self._free.pop()
        except IndexError:
            return bytearray(BLOCK_SIZE)

    def encode_chunks(self, data: memoryview, ends: Sequence[int], *, recipe: Recipe, sink: Sink | None) -> list[Child]:
        """Digest the chunks of one block; with a sink, look up, compress and append them."""
        chunks = [data[start:stop] for start, stop in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
        children = [Child(chunk_digest(chunk), len(chunk)) for chunk in chunks]
        if sink is None:
            return children
        encoder = self._encoder(recipe)
        known = sink.known(child.digest for child in children)
        payloads: list[Payload] = []
        for child, chunk in zip(children, chunks, strict=True):
            if child.digest in known:
                continue
            known.add(child.digest)
            codec, parameters, payload = encoder.encode(chunk)
            header = PayloadHeader(PayloadKind.CHUNK, codec, len(payload), child.size, child.digest, parameters)
            payloads.append((header, payload))
        if payloads:
            sink.append(payloads)
        return children

    def _encoder(self, recipe: Recipe) -> Encoder:
        """This thread's; the last one is kept, with its buffers."""
        kept: tuple[Recipe, Encoder] | None = getattr(self._local, "encoder", None)
        if kept is None or kept[0] != recipe:
            kept = self._local.encoder = recipe, Encoder(recipe, self._threads)
        return kept[1]


class Tree:
    """The content's tree under construction; its nodes go to the sink as they are complete."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._encoder = Encoder()
        self._builder = TreeBuilder(lambda digest, node: self._append(digest, PayloadKind.NODE, node.encode()))
        self.add = self._builder.add

    def finish(self, head: bytes, description: dict[str, object], tiling: Tiling | None = None) -> bytes:
        """Append the manifest; returns the root."""
        manifest, root = self._builder.finish(head, description, tiling)
        self._append(root, PayloadKind.MANIFEST, manifest.encode())
        return root

    def _append(self, digest: bytes, kind: PayloadKind, raw: bytes) -> None:
        if digest not in self._sink.known([digest]):
            codec, parameters, payload = self._encoder.encode(memoryview(raw))
            header = PayloadHeader(kind, codec, len(payload), len(raw), digest, parameters)
            self._sink.append([(header, payload)])


def _fill(source: Source, view: memoryview, filled: int) -> int:
    """Read until the view is full or the source ends; returns how far it is filled."""
    while filled < len(view):
        count = source.readinto(view[filled:])
        if count == 0:
            break
        filled += count
    return filled
