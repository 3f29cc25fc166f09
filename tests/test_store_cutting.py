"""What is cut alike is shared: edited files, .npy files and their arrays; a store that is cut in an unknown way is only read."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas import NewerFormatError, Store
from kacas.model.content_cuts import CONTENT_CUTTER
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.npy_header import MAX_HEADER_SIZE
from kacas.model.uri import parse_uri

MIB = 1 << 20
MAX_CHUNK = MIB  # of the content-defined cutter

Array = np.ndarray[Any, Any]


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


# --- edited files -----------------------------------------------------------------------------


def test_an_edited_file_stores_the_chunks_around_its_edits_only(quick: Store, tmp_path: Path) -> None:
    fresh = random.Random(1)
    data = fresh.randbytes(40 * MIB)
    file = tmp_path / "data.bin"
    file.write_bytes(data)
    quick.store_file(file)
    before = quick.stats()
    third = len(data) // 3
    edited = data[:third] + b"inserted" + data[third : 2 * third] + b"overwritten" + data[2 * third + 11 :]
    file.write_bytes(edited)
    uri = quick.store_file(file)
    after = quick.stats()
    assert quick.load_bytes(uri) == edited
    assert after.raw_size - before.raw_size < 6 * MAX_CHUNK
    assert after.chunks - before.chunks <= 8 + 1, "a few chunks and the manifest"


def test_content_shares_its_chunks_with_files_and_streams_that_hold_it(quick: Store, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(10 * MIB)
    quick.store_bytes(data)
    before = quick.stats().raw_size
    (tmp_path / "archive").write_bytes(b"a header" + data + b"and a trailer")
    quick.store_file(tmp_path / "archive")
    quick.store_stream(io.BytesIO(b"another, longer header" * 1000 + data))
    assert quick.stats().raw_size - before < 6 * MAX_CHUNK


# --- .npy files -------------------------------------------------------------------------------


def write_npy(path: Path, array: Array, version: tuple[int, int] | None = None) -> Path:
    with warnings.catch_warnings(), open(path, "wb") as file:
        warnings.simplefilter("ignore")  # format 3.0, for field names that are not latin-1
        np.lib.format.write_array(file, array, version=version)
    return path


def numbers(*shape: int, dtype: str = "<i4") -> Array:
    return np.random.default_rng(1).integers(0, 1 << 30, shape).astype(dtype)


ARRAYS = {
    "C order": numbers(3000, 111),
    "Fortran order": np.asfortranarray(numbers(3000, 111)),
    "one axis": numbers(900_001, dtype=">f8"),
    "large rows": numbers(3, 7, 40_013),
    "Fortran slabs": np.asfortranarray(numbers(211, 3, 701, dtype="<u2")),
    "records": numbers(99_999, 4).view([("α", "<f8"), ("b", "<i2", (4,))]),
    "dates": numbers(200_000, dtype="<i8").view("<M8[us]"),
    "texts": numbers(30_000).astype("<U10"),
    "large items": np.frombuffer(numbers(300_000).tobytes(), "V400000"),
    "no axis": np.frombuffer(numbers(300_000).tobytes(), "V1200000").reshape(()),
    "just above one chunk": numbers((CHUNK_TARGET - 128) // 4 + 1),
    "just one chunk": numbers((CHUNK_TARGET - 128) // 4),
    "small": numbers(5, 5),
    "empty": numbers(0, 5),
}


@pytest.mark.parametrize("array_first", [True, False], ids=["array first", "file first"])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_and_its_npy_file_are_one_layout(quick: Store, tmp_path: Path, name: str, array_first: bool) -> None:
    array = ARRAYS[name]
    file = write_npy(tmp_path / "a.npy", array)
    stores = [lambda: quick.store_npy(array, label="a.npy"), lambda: quick.store_file(file)]
    first, second = stores if array_first else stores[::-1]
    uri = first()
    before, root = quick.stats(), quick.describe(uri).root
    assert second() == uri
    after = quick.stats()
    assert (quick.describe(uri).root, after.chunks, after.raw_size) == (root, before.chunks, before.raw_size)
    assert {claim.kind for claim in quick.describe(uri).claims} == {"npy", "file"}
    assert quick.load_bytes(uri) == file.read_bytes()
    assert quick.open_npy(uri).shape == array.shape


@pytest.mark.parametrize("name, size", [("C order", 584 * 111 * 4), ("Fortran order", 21 * 3000 * 4)])
def test_a_npy_file_is_cut_between_the_rows_of_its_order(quick: Store, tmp_path: Path, name: str, size: int) -> None:
    uri = quick.store_file(write_npy(tmp_path / "a.npy", ARRAYS[name]))
    _, content = quick.repository.resolve(parse_uri(uri))
    sizes = [chunk.size for chunk in content.chunks()]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert len(sizes) > 1


@pytest.mark.parametrize("version", [(2, 0), (3, 0)])
def test_a_header_that_we_would_not_write_has_its_own_identity_and_shares_the_data(
    quick: Store, tmp_path: Path, version: tuple[int, int]
) -> None:
    array = ARRAYS["C order"]
    uri = quick.store_npy(array)
    before = quick.stats()
    file = write_npy(tmp_path / "a.npy", array, version)
    other = quick.store_file(file, label="")
    assert other != uri
    assert quick.load_bytes(other) == file.read_bytes()
    np.testing.assert_array_equal(quick.load_npy(other), array)
    assert quick.stats().chunks == before.chunks + 1, "the manifest"


def test_a_npy_file_that_grew_shares_its_rows(quick: Store, tmp_path: Path) -> None:
    rows = numbers(30_000, 111)
    quick.store_file(write_npy(tmp_path / "a.npy", rows[:25_000]))
    before = quick.stats().raw_size
    quick.store_file(write_npy(tmp_path / "a.npy", rows))
    assert quick.stats().raw_size - before < rows[25_000:].nbytes + 2 * CHUNK_TARGET


def test_a_npy_file_from_a_stream_has_the_same_uri_and_loads_as_an_array(quick: Store, tmp_path: Path) -> None:
    """A stream does not tell its size before its end, so it is cut by its content."""
    file = write_npy(tmp_path / "a.npy", ARRAYS["C order"])
    uri = quick.store_stream(io.BytesIO(file.read_bytes()), label="a.npy")
    np.testing.assert_array_equal(quick.load_npy(uri), ARRAYS["C order"])
    assert quick.store_file(file) == uri
    np.testing.assert_array_equal(quick.load_npy(uri), ARRAYS["C order"])


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(["x" * CHUNK_TARGET, 1, None], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def with_header(text: bytes, data: bytes, version: bytes = b"\1\0") -> bytes:
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text + data


DATA = random.Random(3).randbytes(400_000)
HEADER = b"{'descr': '<i4', 'fortran_order': False, 'shape': (100000,), }\n"
LONG = HEADER + b" " * MAX_HEADER_SIZE

ODD = {
    "cut short": with_header(HEADER, DATA[:-1]),
    "longer": with_header(HEADER, DATA + b"x"),
    "objects": objects(),
    "an object field": with_header(HEADER.replace(b"'<i4'", b"[('a', 'O'), ('b', '<i4')]"), DATA),
    "other version": with_header(HEADER, DATA, b"\x09\0"),
    "no header": with_header(b"", DATA),
    "no literal": with_header(HEADER.replace(b"False", b"print(1)"), DATA),
    "no shape": with_header(HEADER.replace(b"'shape': (100000,), ", b""), DATA),
    "negative": with_header(HEADER.replace(b"(100000,)", b"(-1, -100000)"), DATA),
    "astronomic": with_header(HEADER.replace(b"(100000,)", b"(100000, 10000000000000000000000)"), DATA),
    "a text": with_header(HEADER.replace(b"(100000,)", b"'(100000,)'"), DATA),
    "a header too long": with_header(LONG, DATA, b"\2\0"),
    "a length that lies": b"\x93NUMPY\2\0" + b"\xff" * 4 + HEADER + DATA,
    "nested": with_header(b"[" * 60_000, DATA),
    "minus": with_header(b"-" * 60_000 + b"1", DATA),
    "nothing behind the magic": b"\x93NUMPY" + DATA,
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_that_is_not_quite_npy_is_stored_as_any_file(quick: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "odd.npy").write_bytes(ODD[name])
    uri = quick.store_file(tmp_path / "odd.npy")
    root = quick.describe(uri).root
    assert quick.load_bytes(uri) == ODD[name]
    assert quick.store_bytes(ODD[name], label="odd.npy") == uri
    assert quick.describe(uri).root == root


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 79), st.binary(max_size=3)), min_size=1, max_size=4))
def test_no_change_of_a_header_keeps_a_file_from_being_stored(
    quick: Store, tmp_path: Path, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(with_header(HEADER, DATA))
    for at, new in changes:
        content[at : at + len(new)] = new
    (tmp_path / "a.npy").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in a text warns, as in any Python literal
        assert quick.load_bytes(quick.store_file(tmp_path / "a.npy")) == content


# --- stores that are cut in another way -------------------------------------------------------


def reopened(store: Store, before: str, after: str) -> Store:
    """The same store with another line in its kacas.toml."""
    file = store.path / "kacas.toml"
    file.chmod(0o644)
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    return Store.open(store.path, create=False)


def test_a_store_from_before_cutters_had_names_is_cut_as_now(store: Store) -> None:
    data = random.Random(4).randbytes(3 * MIB)
    uri = store.store_bytes(data)
    root = store.describe(uri).root
    with reopened(store, f'cutter = "{CONTENT_CUTTER}"\n', "") as old:
        old.forget(uri)
        assert old.store_bytes(data) == uri
        assert old.describe(uri).root == root


def test_a_store_that_is_cut_in_an_unknown_way_is_read_and_not_written(store: Store, tmp_path: Path) -> None:
    text, array = "text " * 100_000, numbers(1000, 300)
    uris = store.store_text(text), store.store_npy(array)
    file = write_npy(tmp_path / "a.npy", array)
    with reopened(store, CONTENT_CUTTER, "rabin-1-mib") as other:
        assert other.load_text(uris[0]) == text
        np.testing.assert_array_equal(other.open_npy(uris[1])[5:7], array[5:7])
        for write in (
            lambda: other.store_text("new"), lambda: other.store_npy(array), lambda: other.store_file(file),
            lambda: other.store_text(text), lambda: other.store_stream(io.BytesIO(b"new")),
        ):  # fmt: skip
            with pytest.raises(NewerFormatError, match=r"cuts files by 'rabin-1-mib'.* Upgrade kacas") as caught:
                write()
            assert str(store.path) in str(caught.value)
        assert other.stats().packs == 2
        other.forget(uris[0])
        assert other.describe(uris[0]).claims == ()
