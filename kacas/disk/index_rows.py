"""What the index's rows look like: a location as a key and a value of fixed size, under a check of its own."""

from __future__ import annotations

import operator
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kacas.model.codec import MAX_PAYLOAD_SIZE
from kacas.model.pack_format import Records

KEY_SIZE = 16  # of a digest's 32 bytes; 8 more are in the value
TAIL_STOP = 24
_VALUE = np.dtype(
    [
        ("tail", "V8"), ("pack", "<u4"), ("payload_size", "<u4"), ("raw_size", "<u4"), ("offset_low", "<u4"),
        ("offset_high", "<u4"), ("parameters_size", "<u2"), ("kind", "u1"), ("codec", "u1"), ("check", "<u4"),
    ]
)  # fmt: skip
_ROW_STRUCT = struct.Struct("<16s8sIIIIIHBBI")  # key and value
_PACK = struct.Struct("<8xI")
# Odd factors: the sum changes with any single flipped bit.
_FACTORS = (np.random.Generator(np.random.PCG64(20261122)).integers(1 << 31, size=12) * 2 + 1).astype(np.uint32)
_FACTOR_LIST = [int(factor) for factor in _FACTORS]
_WORDS = struct.Struct("=13I")
_ROW = np.dtype([("key", "V16"), *((name, _VALUE.fields[name][0]) for name in _VALUE.names or ())])  # type: ignore[index]
VALUE_SIZE = _VALUE.itemsize
assert KEY_SIZE + VALUE_SIZE == _ROW.itemsize == _ROW_STRUCT.size == 52


class Row(NamedTuple):
    """A decoded row. key, tail: the digest's first 16 bytes and the next 8; pack: the number that the index gave it."""

    key: bytes
    tail: bytes
    pack: int
    offset: int
    payload_size: int
    raw_size: int
    parameters_size: int
    kind: int
    codec: int


def encode_rows(records: Records, number: int) -> NDArray[np.void]:
    """The table's records as keys and values, one 52-byte row each."""
    rows = np.zeros(len(records), _ROW)
    digests = np.ascontiguousarray(records["digest"]).view(np.uint8).reshape(-1, 32)
    rows["key"] = np.ascontiguousarray(digests[:, :16]).view("V16").ravel()
    rows["tail"] = np.ascontiguousarray(digests[:, 16:24]).view("V8").ravel()
    rows["pack"] = number
    for name in ("payload_size", "raw_size", "parameters_size", "kind", "codec"):
        rows[name] = records[name]
    rows["offset_low"] = records["offset"] & np.uint64(0xFFFFFFFF)
    rows["offset_high"] = records["offset"] >> np.uint64(32)
    return _seal(rows)


def _seal(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Fill in the checks; returns the rows as opaque 52-byte items."""
    words = rows.view(np.uint32).reshape(-1, 13)
    words[:, 12] = (words[:, :12] * _FACTORS).sum(axis=1, dtype=np.uint32)
    return rows.view("V52")


def decode_rows(rows: memoryview | bytes) -> list[Row]:
    """Keys with values, one after the other; those that are damaged, or say more than a payload may have, are left out: whoever
    reads what they say takes memory for it first. Raises ValueError for half a row."""
    if len(rows) == _ROW_STRUCT.size:  # what a small read asks for: without NumPy it takes 2 µs instead of 10
        *words, check = _WORDS.unpack(rows)
        whole = [sum(map(operator.mul, words, _FACTOR_LIST)) & 0xFFFFFFFF == check]
    elif rows:
        words_of = np.frombuffer(rows, np.uint32).reshape(-1, 13)
        whole = ((words_of[:, :12] * _FACTORS).sum(axis=1, dtype=np.uint32) == words_of[:, 12]).tolist()
    else:
        return []  # soon: for what is looked for and not there, the rest takes as long as looking
    return [
        Row(key, tail, pack, high << 32 | low, payload_size, raw_size, parameters_size, kind, codec)
        for is_whole, (key, tail, pack, payload_size, raw_size, low, high, parameters_size, kind, codec, _) in zip(
            whole, _ROW_STRUCT.iter_unpack(rows), strict=True
        )
        if is_whole and payload_size <= MAX_PAYLOAD_SIZE
    ]


def pack_number_of(value: bytes) -> int:
    """The pack's number in an encoded value. Raises struct.error if it is too short to have one."""
    (number,) = _PACK.unpack_from(value)
    return int(number)
