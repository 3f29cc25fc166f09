"""Arrays as tiles: the same identity and file, slices along any axis that read their own tiles only."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import kacas
from kacas import Store
from kacas.content import Content
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.tiling import LEAST_TILE_SIZE
from kacas.model.uri import parse_uri
from kacas.tiled_content import TiledContent
from kacas.upkeep.verify import verify
from tests.faults.examination import flip

Array = np.ndarray[Any, Any]

on_one_store = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


def saved(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def noise(shape: tuple[int, ...], dtype: Any = "u1", seed: int = 0) -> Array:
    """Random items, none equal to another chunk's."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).view(dtype).reshape(shape)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays that are too large for one chunk, of several dtypes, in C or Fortran order or in neither."""
    dtype = np.dtype(
        draw(st.sampled_from(["u1", "<i2", ">f4", "f8", "c16", "S3", "M8[s]", [("a", "u1"), ("b", "<f8")]]))
    )
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=40))
    axis = draw(st.integers(0, len(shape) - 1))
    least = -(-(CHUNK_TARGET + 1) // (math.prod(shape) // shape[axis] * dtype.itemsize))
    longer = (*shape[:axis], least + draw(st.integers(0, least)), *shape[axis + 1 :])
    array = noise(longer, dtype, seed=draw(st.integers(0, 100)))
    layout = draw(st.sampled_from(["c", "f", "reversed", "strided"]))
    if layout == "f":
        return np.asfortranarray(array)
    if layout == "reversed":
        return array[::-1]
    return np.repeat(array, 2, axis=-1)[..., ::2] if layout == "strided" else array


@st.composite
def chunks_of(draw: st.DrawFn, array: Array) -> tuple[int | None, ...]:
    """Tiles that are neither too small nor so many that a test takes long."""
    least = max(LEAST_TILE_SIZE, array.nbytes // 200)
    chunks = [draw(st.integers(1, length)) for length in array.shape]
    for axis in draw(st.permutations(range(array.ndim))):
        if math.prod(chunks) * array.dtype.itemsize >= least:
            break
        chunks[axis] = array.shape[axis]
    return tuple(
        None if length == whole and draw(st.booleans()) else length
        for length, whole in zip(chunks, array.shape, strict=True)
    )


def tiled(store: Store, uri: str) -> TiledContent:
    return next(content for content in layouts(store, uri) if isinstance(content, TiledContent))


def layouts(store: Store, uri: str) -> list[Content]:
    return [content for _, content in store.repository.readable(parse_uri(uri))]


@on_one_store
@given(st.data())
def test_tiles_give_back_the_array_the_file_and_every_part_of_both(quick: Store, data: st.DataObject) -> None:
    array = data.draw(arrays())
    file = saved(array)
    uri = quick.store_npy(array, chunks=data.draw(chunks_of(array)))
    assert parse_uri(uri).sha1 == hashlib.sha1(file).digest()
    content = tiled(quick, uri)
    assert b"".join(bytes(part) for part in content.windows()) == file
    out = bytearray(len(file))
    content.read_into(0, memoryview(out))
    assert out == file
    start = data.draw(st.integers(0, len(file)))
    part = bytearray(data.draw(st.integers(0, len(file) - start)))
    content.read_into(start, memoryview(part))
    assert part == file[start : start + len(part)]
    loaded = quick.load_npy(uri)
    assert saved(loaded) == file
    lazy = quick.open_npy(uri)
    index = data.draw(hnp.basic_indices(array.shape, allow_newaxis=True))
    assert np.asarray(lazy[index]).tobytes() == np.asarray(np.load(io.BytesIO(file))[index]).tobytes()
    assert parse_uri(quick.store_npy(array)).sha1 == parse_uri(uri).sha1


def test_the_file_is_exactly_that_of_np_save(store: Store, tmp_path: Path) -> None:
    array = noise((300, 40, 50), "<i2")
    uri = store.store_npy(array, chunks=(100, 16, 50), label="a.npy")
    assert store.load_file(uri).read_bytes() == saved(array)
    assert store.load_file(uri, dest=tmp_path / "b.npy").read_bytes() == saved(array)
    assert store.load_bytes(uri) == saved(array)
    with store.open_file(uri) as file:
        assert b"".join(iter(lambda: file.read(10_007), b"")) == saved(array)
    assert store.describe(uri).tiles == (100, 16, 50)
    assert store.describe(uri).chunks == 3 * 3
    assert verify(store).clean
    for out in (np.empty_like(array), np.empty_like(array, order="F"), np.empty((300, 40, 100), "<i2")[..., ::2]):
        assert store.load_npy(uri, out=out) is out
        assert np.array_equal(out, array)


def damage(store: Store, digest: bytes) -> None:
    (location,) = store.repository.lookup.locate([digest])[digest]
    path = store.path / "packs" / f"{location.pack_id.hex()}.pack"
    path.chmod(0o644)
    flip(path, location.stop - 1, 0)


@pytest.mark.parametrize("fortran_order", [False, True])
@pytest.mark.parametrize(
    "index",
    [
        np.s_[5], np.s_[:, 33], np.s_[..., 99], np.s_[10:20, 30:40, 90:100], np.s_[:, [3, 55], 7], np.s_[:, 20:5:-3],
        np.s_[29, 59, 99],
    ],
    ids=str,
)  # fmt: skip
def test_a_slice_reads_only_the_tiles_that_it_touches(store: Store, fortran_order: bool, index: Any) -> None:
    array = np.asarray(noise((30, 60, 100), "<i2"), order="F" if fortran_order else "C")
    chunks = (8, 16, 30)
    uri = store.store_npy(array, chunks=chunks, codec="raw")
    numbers = np.zeros(array.shape, int)
    grid = tuple(-(-length // step) for length, step in zip(array.shape, chunks, strict=True))
    for place in np.ndindex(grid):
        corner = tuple(slice(at * step, (at + 1) * step) for at, step in zip(place, chunks, strict=True))
        numbers[corner] = np.ravel_multi_index(
            place[::-1] if fortran_order else place, grid[::-1] if fortran_order else grid
        )
    touched = set(np.unique(numbers[index]).tolist())
    children = list(tiled(store, uri).chunks())
    assert len(children) == math.prod(grid) > len(touched)
    for number, child in enumerate(children):
        if number not in touched:
            damage(store, child.digest)
    assert np.array_equal(store.open_npy(uri)[index], array[index])
    with pytest.raises(kacas.DamagedError):
        store.load_npy(uri)
    damage(store, children[min(touched)].digest)
    with Store.open(store.path) as again, pytest.raises(kacas.DamagedError):
        again.open_npy(uri)[index]


def test_verify_names_a_damaged_tile(store: Store) -> None:
    uri = store.store_npy(noise((600, 600)), chunks=(100, 100))
    digest = next(iter(tiled(store, uri).chunks())).digest
    damage(store, digest)
    problems = verify(store).problems
    assert {problem.digest for problem in problems} == {digest.hex()}
    assert any(uri in problem.uris for problem in problems)


# --- two layouts of one array -----------------------------------------------------------------


def damage_all(store: Store, content: Content) -> None:
    for child in content.chunks():
        damage(store, child.digest)


def test_each_selection_is_read_from_the_layout_that_decodes_less(store: Store) -> None:
    array = noise((2000, 500), "<i2")
    uri = store.store_npy(array)
    assert store.store_npy(array, chunks=(500, 20)) == uri
    sequence, tiles = sorted(layouts(store, uri), key=lambda content: content.tiling is not None)
    lazy = store.open_npy(uri)
    assert lazy.tiles == (500, 20)
    # What a damaged layout cannot give is read from the other: so each is asked alone.
    read = {id(sequence): 0, id(tiles): 0}

    class Counting:
        """Counts the calls of a content's `read_into` and `read_box`."""

        def __init__(self, content: Content) -> None:
            self.content = content

        def __call__(self, name: str) -> Any:
            plain = getattr(self.content, name)

            def counted(*arguments: Any) -> None:
                read[id(self.content)] += 1
                plain(*arguments)

            return counted

    for content in (sequence, tiles):
        content.read_into = Counting(content)("read_into")  # type: ignore[method-assign]
    tiles.read_box = Counting(tiles)("read_box")  # type: ignore[attr-defined]
    for index, expected in (
        (np.s_[:, 3], tiles),
        (np.s_[:1500, 100:110], tiles),
        (np.s_[100:130, 7], tiles),
        (np.s_[100:400], sequence),
        (np.s_[:], sequence),
    ):
        read.update(dict.fromkeys(read, 0))
        assert np.array_equal(lazy[index], array[index])
        assert [key for key, count in read.items() if count] == [id(expected)], index
    read.update(dict.fromkeys(read, 0))
    store.load_bytes(uri)
    store.load_npy(uri)
    assert read[id(tiles)] == 0


@pytest.mark.parametrize("first", [True, False])
def test_one_damaged_layout_leaves_the_other(store: Store, first: bool) -> None:
    array = noise((2000, 500), "<i2")
    uri = store.store_npy(array)
    store.store_npy(array, chunks=(500, 20))
    found = sorted(layouts(store, uri), key=lambda content: content.tiling is not None)
    damage_all(store, found[0 if first else 1])
    lazy = store.open_npy(uri)
    for index in (np.s_[:, 3], np.s_[100:400], np.s_[:]):
        assert np.array_equal(lazy[index], array[index])
    assert np.array_equal(store.load_npy(uri), array)
    damage_all(store, found[1 if first else 0])
    with Store.open(store.path) as again, pytest.raises(kacas.DamagedError):  # one that has nothing decoded
        again.open_npy(uri)[:, 3]


def test_a_uri_with_a_root_is_read_through_that_layout(store: Store) -> None:
    array = noise((2000, 500), "<i2")
    uri = store.store_npy(array)
    store.store_npy(array, chunks=(500, 20))
    root = tiled(store, uri).root.hex()
    assert [content.tiling is None for content in layouts(store, f"{uri}?root={root}")] == [False]
    assert store.load_bytes(f"{uri}?root={root}") == saved(array)
    assert np.array_equal(store.open_npy(f"{uri}?root={root}")[3:5], array[3:5])


def test_other_tiles_of_the_same_array_are_one_more_layout(store: Store) -> None:
    array = noise((2000, 500), "<i2")
    uri = store.store_npy(array, chunks=(500, 20))
    assert store.store_npy(array, chunks=(20, 500)) == uri
    assert store.store_npy(array, chunks=(20, None)) == uri
    assert len(layouts(store, uri)) == 2
    lazy = store.open_npy(uri)
    assert lazy.tiles == (20, 500)
    assert np.array_equal(lazy[:, 3], array[:, 3])
    assert verify(store).clean


# --- what is not tiled, and what is refused ----------------------------------------------------


@pytest.mark.parametrize("array", [np.arange(10), np.zeros((0, 5)), np.float64(3)], ids=str)
def test_a_small_array_stays_one_chunk(store: Store, array: Any) -> None:
    uri = store.store_npy(array)
    assert store.store_npy(array, chunks=(3,) * np.ndim(array)) == uri
    description = store.describe(uri)
    assert (description.chunks, description.tiles) == (1, None)


@pytest.mark.parametrize("chunks", [(3,), (3, 0), (3, None, 2), (2.5, 2), "ab"], ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (1000, 1000)])
def test_wrong_chunks_store_nothing(store: Store, chunks: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(kacas.InvalidChunksError, match="chunks="):
        store.store_npy(np.zeros(shape), chunks=chunks)
    assert not list((store.path / "packs").iterdir())


def test_an_npy_file_is_stored_as_tiles_and_another_file_is_not(store: Store, tmp_path: Path) -> None:
    array = np.asfortranarray(noise((500, 700), "<f4"))
    np.save(tmp_path / "a.npy", array)
    uri = store.store_file(tmp_path / "a.npy", chunks=(100, 100))
    assert uri.partition("?")[0] == store.store_npy(array, chunks=(100, 100))
    assert store.describe(uri).tiles == (100, 100)
    assert len(layouts(store, uri)) == 1
    assert store.load_file(uri).read_bytes() == (tmp_path / "a.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(bytes(1_000_000))
    with pytest.raises(kacas.InvalidChunksError, match=r"no \.npy file"):
        store.store_file(tmp_path / "b.npy", chunks=(100, 100))
    np.save(tmp_path / "c.npy", np.arange(10))
    assert store.describe(store.store_file(tmp_path / "c.npy", chunks=5)).chunks == 1


def test_storing_tiles_again_stores_nothing(store: Store) -> None:
    array = noise((2000, 500), "<i2")
    uri = store.store_npy(array, chunks=(500, 20))
    before = sorted((store.path / "packs").iterdir())
    assert store.store_npy(array, chunks=(500, 20)) == uri
    assert sorted((store.path / "packs").iterdir()) == before
    assert {claim.owner for claim in store.describe(uri).claims} == {store.describe(uri).claims[0].owner}


def test_a_linked_file_does_not_stand_in_for_tiles(store: Store, tmp_path: Path) -> None:
    """A tile is no run of the file's bytes; the sequence of the same array is."""
    array = noise((2000, 500), "<i2")
    np.save(tmp_path / "a.npy", array)
    uri = store.link_file(tmp_path / "a.npy")
    store.store_npy(array, chunks=(500, 20))
    tiles = tiled(store, uri)
    assert np.array_equal(store.open_npy(uri)[:, 7], array[:, 7])
    (tmp_path / "a.npy").unlink()
    assert np.array_equal(store.open_npy(uri)[:], array)
    damage(store, next(iter(tiles.chunks())).digest)
    with pytest.raises(kacas.DamagedError):
        store.load_npy(uri)


def test_both_layouts_can_be_stored_in_one_batch(store: Store) -> None:
    """Their bytes are compared though neither is published."""
    array = noise((2000, 500), "<i2")
    with store.batch():
        uris = {
            store.store_npy(array),
            store.store_npy(array, chunks=(500, 20)),
            store.store_npy(array, chunks=(20, 500)),
        }
    (uri,) = uris
    assert len(layouts(store, uri)) == 3
    assert np.array_equal(store.load_npy(uri), array)
    assert verify(store).clean


def test_a_tile_that_is_read_in_parts_is_decoded_once_and_is_gone_with_the_store(store: Store) -> None:
    array = noise((4096, 64), "<i4")
    uri = store.store_npy(array, chunks=(4096, 8), codec="raw")
    lazy = store.open_npy(uri)
    assert (lazy[:, 3] == array[:, 3]).all()
    for pack in (store.path / "packs").glob("*.pack"):  # all payloads, not the table
        pack.chmod(0o600)
        with open(pack, "r+b") as file:
            file.seek(64)
            file.write(bytes(array.nbytes // 2))
    assert (lazy[:, 4:6] == array[:, 4:6]).all()  # of the tile that is known
    with pytest.raises(kacas.DamagedError):
        lazy[:, 8]
    store.close()
    with Store.open(store.path) as again, pytest.raises(kacas.DamagedError):
        again.open_npy(uri)[:, 4]


@pytest.mark.parametrize("first", [True, False])
def test_bytes_and_files_are_read_from_the_other_layout_where_one_is_damaged(
    store: Store, tmp_path: Path, first: bool
) -> None:
    array = noise((2000, 500), "<i2")
    uri = store.store_npy(array, label="a.npy")
    store.store_npy(array, chunks=(500, 20))
    sequence, tiles = sorted(layouts(store, uri), key=lambda content: content.tiling is not None)
    damage_all(store, sequence if first else tiles)
    data = saved(array)
    assert store.load_bytes(uri) == data
    assert store.load_bytes(uri, 300_000, 900_000) == data[300_000:900_000]
    assert store.load_file(uri, dest=tmp_path / "b.npy").read_bytes() == data
    assert np.array_equal(store.load_npy(uri, mmap=True), array)
    with store.open_file(uri) as file:
        assert file.read() == data
    damaged = sequence if first else tiles
    with pytest.raises(kacas.DamagedError):  # a root names one layout: what is read is proved by it
        store.load_bytes(f"{uri}&root={damaged.root.hex()}")
