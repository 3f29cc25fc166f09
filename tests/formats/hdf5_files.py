"""HDF5 files of every kind, and how they are compared: by h5py, dataset by dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ROWS = 6_000


def recording(rows: int = ROWS, seed: int = 0) -> NDArray[np.int16]:
    """Noise with few values, 64 channels: 128 bytes a row."""
    return np.random.default_rng(seed).integers(-200, 200, (rows, 64), dtype=np.int16)


def filters(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, how in {
            "gzip": {"compression": "gzip"},
            "lzf": {"compression": "lzf", "shuffle": True},
            "checked": {"fletcher32": True},
            "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
            "scaled": {"scaleoffset": 0},
        }.items():
            file.create_dataset(name, data=recording(), chunks=(500, 64), **how)


def plain(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("contiguous", data=recording())
        file.create_dataset("chunked", data=recording(), chunks=(500, 64), maxshape=(None, 64))
        file.create_dataset("blocks", data=recording(), chunks=(700, 20), maxshape=(None, None))
        file.create_dataset("large", data=recording(12_000), chunks=(12_000, 64))


def types(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["compound"] = np.zeros(30_000, [("a", "i4"), ("b", "f8", (2,)), ("c", "S5")])
        file["big-endian"] = recording().astype(">f4")
        file["enum"] = np.zeros(5, h5py.enum_dtype({"no": 0, "yes": 1}, "u1"))
        file["bool"] = np.ones(400_000, bool)
        file["complex"] = np.ones(50_000, "c8")
        file["scalar"] = 1.5
        file["null"] = h5py.Empty("f4")
        file.create_dataset("nothing", shape=(0, 5), maxshape=(None, 5), dtype="i2")
        file.create_dataset("unwritten", shape=(1 << 40,), dtype="i2", chunks=(1 << 20,))
        file.create_dataset("texts", data=["one", "two"] * 20_000, dtype=h5py.string_dtype(), chunks=(1000,))
        ragged = file.create_dataset("ragged", shape=(3000,), dtype=h5py.vlen_dtype("i4"), chunks=(100,))
        for at in range(0, 3000, 7):
            ragged[at] = np.arange(at)


def links(path: Path) -> None:
    plain(path)
    with h5py.File(path, "a") as file:
        group = file.create_group("a/b")
        group["up"] = file["/"]  # a cycle
        group["again"] = file["chunked"]
        file["soft"] = h5py.SoftLink("/a/b/again")
        file["nowhere"] = h5py.SoftLink("/not/there")
        file["reference"] = file["contiguous"].ref
        file.create_dataset("region", data=file["contiguous"].regionref[:5], dtype=h5py.regionref_dtype)


def user_block(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=1024) as file:
        file.create_dataset("chunked", data=recording(), chunks=(500, 64), compression="lzf")
        file.create_dataset("contiguous", data=recording())
    with path.open("r+b") as raw:
        raw.write(b"what a user wants to say")


def latest(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        for name, most in {"fixed": (ROWS, 64), "grows": (None, 64), "both": (None, None)}.items():
            file.create_dataset(name, data=recording(), chunks=(500, 64), maxshape=most, compression="lzf")
        file.create_dataset("single", data=recording(), chunks=(ROWS, 64))
        file.attrs["many"] = np.zeros(100_000)  # in dense storage


def paged(path: Path) -> None:
    with h5py.File(path, "w", fs_strategy="page", fs_page_size=8192, fs_persist=True) as file:
        file.create_dataset("chunked", data=recording(), chunks=(1000, 64), compression="gzip")
        file.create_dataset("plain", data=recording(), chunks=(1000, 64))


def swmr(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        grows = file.create_dataset("grows", shape=(0, 64), chunks=(500, 64), maxshape=(None, 64), dtype="i2")
        file.swmr_mode = True
        for part in range(0, ROWS, 1000):
            grows.resize(part + 1000, axis=0)
            grows[part:] = recording(1000, part)
            grows.flush()


KINDS: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (filters, plain, types, links, user_block, latest, paged, swmr)
}


def assert_same(one: Any, other: Any) -> int:
    """h5py finds the same in two open files; returns the number of datasets that were compared."""
    names: list[list[str]] = [[], []]
    for found, file in zip(names, (one, other), strict=True):
        file.visit(found.append)
    assert names[0] == names[1]
    compared = 0
    for name in [*names[0], "/"]:
        left, right = one[name], other[name]
        assert dict.fromkeys(left.attrs) == dict.fromkeys(right.attrs)
        for key in left.attrs:
            assert_equal(left.attrs[key], right.attrs[key])
        if isinstance(left, h5py.Dataset):
            compared += 1
            assert (left.shape, left.dtype, left.chunks) == (right.shape, right.dtype, right.chunks)
            if left.size is None:
                continue
            part = slice(0, 10) if left.size > 1 << 30 else ()
            assert_equal(left[part], right[part])
    return compared


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, h5py.Reference | h5py.RegionReference):
        assert bool(one) == bool(other)
        return
    one, other = np.asarray(one), np.asarray(other)
    assert str(one.dtype) == str(other.dtype)
    if one.dtype.names and one.dtype.hasobject:
        for name in one.dtype.names:
            assert_equal(one[name], other[name])
    elif one.dtype.hasobject:
        assert one.shape == other.shape
        for left, right in zip(one.flat, other.flat, strict=True):
            assert_equal(left, right) if not isinstance(left, bytes | str) else _same(left, right)
    else:
        np.testing.assert_array_equal(one, other)


def _same(left: object, right: object) -> None:
    assert left == right
