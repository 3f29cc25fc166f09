"""The exact bytes of a record: a small file that is created once, numbered and chained to the one before it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from kacas.model.digest import DIGEST_SIZE, ID_SIZE, checksum, chunk_digest

RECORD_VERSION = 1
MAX_BODY_SIZE = 4 << 20  # bytes
MAX_NUMBER = 10**18 - 1
_HEADER = struct.Struct(
    "<8sHBxIQq16s16s32s"
)  # magic, version, kind, body size, number, time, write id, subject, previous
_MAGIC = b"KACASREC"
_CHECK_SIZE = 16
MAX_RECORD_SIZE = _HEADER.size + MAX_BODY_SIZE + _CHECK_SIZE
NO_DIGEST = bytes(DIGEST_SIZE)
assert _HEADER.size == 96


class RecordKind(IntEnum):
    """What the sequence is."""

    MUTABLE = 1
    FEED = 2
    LEASE = 3
    GROUP = 4


class RecordFormatError(ValueError):
    """Bytes that are no record, or not the one that belongs here."""


class NewerRecordError(RecordFormatError):
    def __init__(self, version: int) -> None:
        super().__init__(f"it has format version {version}, this kacas reads up to {RECORD_VERSION}")
        self.version = version


@dataclass(frozen=True)
class Mark:
    """What the next record follows. number: of a record; digest: BLAKE3-256 of all its bytes."""

    number: int
    digest: bytes


BEGINNING = Mark(0, NO_DIGEST)


def subject_of(name: str) -> bytes:
    """Which sequence a record belongs to. name: the sequence's directory below the store, with slashes."""
    return checksum(ID_SIZE, name.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class Record:
    """number: from 1, without gaps. time: ns since 1970 by the writer's clock, for people only.

    write_id: 16 random bytes, by which a writer knows its own record. subject: of which sequence. previous: digest of the
    record before it, zeros for the first (and behind one that was damaged). digest: BLAKE3-256 of all bytes of this one.
    """

    kind: int
    number: int
    time: int
    write_id: bytes
    subject: bytes
    previous: bytes
    body: bytes
    digest: bytes = NO_DIGEST

    @property
    def mark(self) -> Mark:
        return Mark(self.number, self.digest)

    def encode(self) -> bytes:
        """The file's bytes. Raises ValueError if the body is too large or the number none."""
        if len(self.body) > MAX_BODY_SIZE:
            raise ValueError(f"a record holds at most {MAX_BODY_SIZE} bytes, not {len(self.body)}")
        if not 1 <= self.number <= MAX_NUMBER:
            raise ValueError(f"records have numbers from 1 to {MAX_NUMBER}, not {self.number}")
        header = _HEADER.pack(
            _MAGIC, RECORD_VERSION, self.kind, len(self.body), self.number, self.time,
            self.write_id, self.subject, self.previous,
        )  # fmt: skip
        return b"".join((header, self.body, checksum(_CHECK_SIZE, header, self.body)))


def decode_record(data: bytes) -> Record:
    """The inverse of `encode`, with the digest. Raises RecordFormatError; NewerRecordError for a later version."""
    if len(data) < _HEADER.size + _CHECK_SIZE:
        raise RecordFormatError("it is too short for a record")
    if len(data) > MAX_RECORD_SIZE:
        raise RecordFormatError("it is too long for a record")
    magic, version, kind, size, number, time, write_id, subject, previous = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise RecordFormatError("it does not begin as a record does")
    if version > RECORD_VERSION:
        raise NewerRecordError(version)
    # The check covers every byte before it, so a version 0, a byte that should be zero or a size cannot differ unnoticed.
    if checksum(_CHECK_SIZE, memoryview(data)[:-_CHECK_SIZE]) != data[-_CHECK_SIZE:]:
        raise RecordFormatError("its check does not match its bytes")
    if version != RECORD_VERSION or size != len(data) - _HEADER.size - _CHECK_SIZE or not 1 <= number <= MAX_NUMBER:
        raise RecordFormatError("it contradicts itself")
    body = data[_HEADER.size : -_CHECK_SIZE]
    return Record(kind, number, time, write_id, subject, previous, body, chunk_digest(data))
