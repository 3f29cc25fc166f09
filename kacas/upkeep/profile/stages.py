"""Where the time goes: each stage of storing and loading alone, in one thread, on the same bytes.

The stages are the very functions of the pipelines. In those they overlap, so the stages together take longer than the whole.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kacas.disk.durable import sync_directory
from kacas.disk.index import Index
from kacas.disk.index_places import place_in
from kacas.disk.pack_writer import PackWriter
from kacas.disk.volume import open_volume
from kacas.formats.array_source import copy_bytes
from kacas.model.codec import MIB, Codec, Decoder
from kacas.model.digest import PayloadKind, chunk_digest, new_sha1, payload_digest
from kacas.model.encoder import Encoded, Encoder
from kacas.model.pack_format import PayloadHeader, Table
from kacas.upkeep.profile.figures import Stage
from kacas.upkeep.profile.sample import Sample
from kacas.upkeep.profile.stopwatch import timed

_BLOCK = 4 * MIB
_GROUP = 16  # chunks that are looked up and appended at a time, about a block
_RUN = 1 * MIB  # bytes of one read
_FILES = 100  # in a directory

_fdatasync = getattr(os, "fdatasync", os.fsync)


class Stages:
    """Of one sample. Its chunks are encoded once, by the recipe of `auto`, and kept: at most the sample's size again.

    directory, cache: empty ones, for packs that are published without syncs, and for an index.
    """

    def __init__(self, sample: Sample, chunks: list[memoryview], threads: int, directory: Path, cache: Path) -> None:
        self._sample = sample
        self._chunks = chunks
        self._digests: list[bytes] = []
        self._encoder = Encoder(sample.layout().recipe, threads)
        self._encoded: list[Encoded] = []
        self._volume = open_volume(directory, create=True, durability="relaxed")
        self._files = self._volume.path / "files"
        self._index = Index(place_in(cache))
        self._published: list[tuple[bytes, Table]] = []

    def close(self) -> None:
        self._index.close()

    def of_storing(self, *, durable: bool) -> list[Stage]:
        """Raises StoreError. To be called before `of_loading`."""
        block = memoryview(bytearray(_BLOCK))
        stages = [
            Stage("source", "read the source", timed(lambda: self._sample.read(block))),
            Stage("sha1", "SHA-1", timed(self._hash)),
            Stage("cut", "cut into chunks", timed(self._sample.chunks)),
            Stage("blake3", "BLAKE3 of the chunks", timed(self._digest)),
            Stage("lookup", "look the chunks up", timed(self._look_up)),
            Stage("encode", "encode", timed(self._encode)),
        ]
        writer: list[PackWriter] = []
        try:
            stages.append(Stage("write", "write the pack", timed(lambda: self._write(writer), 1)))
            stages.append(Stage("publish", "publish it", timed(lambda: self._publish(writer), 1)))
        except BaseException:
            for one in writer:
                one.discard()
            raise
        if durable:
            stages.append(Stage("sync", "sync it", timed(self._sync, 1)))
        stages.append(Stage("index", "take it into the index", timed(lambda: self._index.add(self._published), 1)))
        return stages

    def of_loading(self, out: memoryview) -> list[Stage]:
        """out: room for the sample. The pack is warm. Of a directory its files are created, too."""
        stages = [
            Stage("lookup", "look the chunks up", timed(self._look_up)),
            Stage("read", "read the pack", timed(self._read)),
            Stage("decode", "decode", timed(lambda: self._decode(out))),
            Stage("verify", "verify (BLAKE3)", timed(self._verify)),
        ]
        if self._sample.path is not None and self._sample.path.is_dir():
            stages.append(Stage("files", "create the files", timed(self._create_files, 1)))
            shutil.rmtree(self._files)
        return stages

    def _hash(self) -> None:
        sha1, raw = new_sha1(), self._sample.raw
        for start in range(0, len(raw), _BLOCK):
            sha1.update(raw[start : start + _BLOCK])

    def _digest(self) -> None:
        self._digests = [chunk_digest(chunk) for chunk in self._chunks]

    def _look_up(self) -> None:
        for start in range(0, len(self._digests), _GROUP):
            self._index.locate(self._digests[start : start + _GROUP])

    def _encode(self) -> None:
        self._encoded = []  # of the round before: its memory is used again
        for chunk in self._chunks:
            self._encoded.append(self._encoder.encode(chunk))

    def _write(self, writer: list[PackWriter]) -> None:
        writer.append(PackWriter(self._volume))
        payloads = []
        for chunk, digest, (codec, parameters, payload) in zip(self._chunks, self._digests, self._encoded, strict=True):
            header = PayloadHeader(PayloadKind.CHUNK, codec, len(payload), len(chunk), digest, parameters)
            payloads.append((header, payload))
        for start in range(0, len(payloads), _GROUP):
            writer[0].append(payloads[start : start + _GROUP])

    def _publish(self, writer: list[PackWriter]) -> None:
        self._published = [(writer[0].pack_id, writer[0].finish([]))]

    def _sync(self) -> None:
        for pack_id, _ in self._published:
            fd = os.open(self._volume.pack_path(pack_id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                _fdatasync(fd)
            finally:
                os.close(fd)
        sync_directory(self._volume.packs)

    def _read(self) -> None:
        buffer = memoryview(bytearray(_RUN))
        for pack_id, _ in self._published:
            fd = os.open(self._volume.pack_path(pack_id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                at = 0
                while count := os.preadv(fd, [buffer], at):
                    at += count
            finally:
                os.close(fd)

    def _decode(self, out: memoryview) -> None:
        decoder, at = Decoder(), 0
        for chunk, (codec, parameters, payload) in zip(self._chunks, self._encoded, strict=True):
            target = out[at : at + len(chunk)]
            if codec == Codec.RAW:
                copy_bytes(target, chunk)
            else:
                decoder.decode_into(codec, parameters, memoryview(payload), target)
            at += len(chunk)

    def _create_files(self) -> None:
        start = 0
        below = self._files
        below.mkdir()
        for number, stop in enumerate(self._sample.ends):
            if number % _FILES == 0:
                below = self._files / str(number)
                below.mkdir()
            fd = os.open(below / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                while start < stop:
                    start += os.write(fd, self._sample.raw[start:stop])
            finally:
                os.close(fd)

    def _verify(self) -> None:
        for chunk in self._chunks:
            payload_digest(PayloadKind.CHUNK, chunk)
