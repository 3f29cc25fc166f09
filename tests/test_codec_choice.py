"""The codec of an array is chosen by its data and the goal, or named; identity and content are the same."""

from __future__ import annotations

import hashlib
import io
import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import kacas
from bench.workloads import recording_block
from kacas.codec_choice import EXPLICIT, GOALS, Items, choose, sample_places
from kacas.model.codec import Codec, Decoder
from kacas.model.encoder import Denser, Encoder, Recipe
from kacas.model.row_delta import Difference, RowDelta
from kacas.settings import Settings
from kacas.upkeep.verify import verify

RNG = np.random.default_rng(1)
ROWS = RNG.integers(-50, 50, (20_000, 32), np.int16).cumsum(axis=0, dtype=np.int16)
NOISE = np.frombuffer(RNG.bytes(1 << 20), np.uint8)
ARRAYS: dict[str, NDArray[Any]] = {
    "rows": ROWS,
    "noise": NOISE,
    "smooth": np.sin(np.arange(200_000) / 100),
    "single": np.cumsum(RNG.standard_normal((100, 2000), np.float32), axis=0),
    "complex": np.exp(1j * np.arange(60_000) / 50),
    "records": np.rec.fromarrays([np.arange(50_000), np.arange(50_000) % 7], names="a,b"),
    "text": np.array(["some", "text", "naïve"] * 9000),
    "times": np.arange(100_000).astype("datetime64[s]"),
    "flags": RNG.random(300_000) > 0.9,
    "big-endian": ROWS.astype(">i2"),
    "Fortran": np.asfortranarray(ROWS),
    "every other": ROWS[::2, ::3],
    "empty": np.empty((0, 5)),
    "point": np.array(3.5),
    "zeros": np.zeros(1 << 20),
    "long rows": np.arange(300_000, dtype=np.int32).reshape(2, 150_000),
    "odd items": np.zeros(20_000, "V37"),
}


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_identity_and_content_do_not_depend_on_the_codec(store: kacas.Store, name: str) -> None:
    array = ARRAYS[name]
    expected = hashlib.sha1(npy(array)).hexdigest()
    for number, codec in enumerate((*GOALS, *EXPLICIT)):
        # Another store each time, or nothing would be encoded.
        with kacas.Store.open(store.path / f"{number}") as other:
            uri = other.store_npy(array, codec=codec)
            assert uri == f"sha1://{expected}"
            loaded = other.load_npy(uri)
            assert loaded.dtype == array.dtype
            assert loaded.tobytes() == array.tobytes()
            assert np.array_equal(
                other.open_npy(uri)[..., -3:] if array.ndim else array, array[..., -3:] if array.ndim else array
            )


NUMBERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "M8[s]", "?", "U3", "V5"]


@pytest.mark.parametrize("dtype", NUMBERS)
@given(data=st.data())
def test_every_recipe_gives_any_bytes_back(dtype: str, data: st.DataObject) -> None:
    """NaNs of every kind among them, items that are cut, rows that are longer than the chunk."""
    kind, item_size = np.dtype(dtype).kind, np.dtype(dtype).itemsize
    columns = data.draw(st.integers(1, 50))
    items = Items(kind, item_size, (columns * item_size, item_size)).parts()
    block = data.draw(st.binary(min_size=1, max_size=60))
    raw = (block * data.draw(st.integers(1, 60)))[: data.draw(st.integers(0, 3000))]
    decoder = Decoder()
    for delta in (None, *items.deltas()):
        for small in (False, True):
            for name, recipe in items.recipes(delta, small=small).items():
                codec, parameters, payload = Encoder(recipe).encode(memoryview(raw))
                assert len(payload) <= len(raw)
                assert decoder.decode(codec, parameters, memoryview(payload), len(raw)) == raw, name


def test_nans_keep_their_bits(store: kacas.Store) -> None:
    bits = np.array([0x7FF8000000000001, 0xFFF8000000000123, 0x7FF0000000000001, 1 << 63, 0x7FF << 52], np.uint64)
    array = np.tile(bits, 20_000).view(np.float64)
    for number, codec in enumerate(EXPLICIT):
        with kacas.Store.open(store.path / f"{number}") as other:
            assert other.load_npy(other.store_npy(array, codec=codec)).tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", EXPLICIT)
def test_a_named_codec_is_taken_and_said(store: kacas.Store, codec: str) -> None:
    uri = store.store_npy(ROWS, codec=codec)
    name = {"raw": "raw", "zstd": "zstd", "pcodec": "pcodec"}.get(codec, "row delta" if "delta" in codec else "Blosc")
    description = store.describe(uri)
    assert description.codecs == {name: description.chunks}


def test_the_axis_whose_neighbours_are_alike_is_found() -> None:
    """Channels by time: neighbours in time are alike, channels are not."""
    steps = RNG.integers(-9, 9, (64, 8000), np.int16)
    wide = steps.cumsum(axis=1, dtype=np.int16) + RNG.integers(-9000, 9000, (64, 1), np.int16)
    for array, row_size in ((wide, 2), (np.ascontiguousarray(wide.T), 128)):
        rows = [array.shape[1] * 2, 2]
        recipe = choose("delta-bits-lz4", [array.data.cast("B")[: 1 << 18]], "i", 2, rows)
        assert recipe.delta is not None
        assert recipe.delta.row_size == row_size


def test_data_between_noise_is_found_by_any_goal(store: kacas.Store) -> None:
    """Where the samples are taken there is nothing but noise."""
    noise = np.frombuffer(RNG.bytes(8 << 20), np.int16).reshape(-1, 64).copy()
    rows = len(noise) // 8
    noise[:rows] = 7
    for start, size in sample_places(noise.nbytes):
        assert start > rows * 128 or start + size < 0
    for codec in GOALS:
        with kacas.Store.open(store.path / codec) as other:
            codecs = other.describe(other.store_npy(noise, codec=codec)).codecs
            assert codecs["raw"] == 28
            assert other.stats().payload_size < 7.1 * (1 << 20)


WITHOUT = """
import sys
sys.modules["pcodec"] = None  # as if it were not installed
import numpy as np, pytest, kacas
from kacas.upkeep.verify import verify
array = np.arange(50_000, dtype=np.float32)
with kacas.Store.open(sys.argv[1]) as store:
    for ask in (lambda: store.store_npy(array, codec="pcodec"), lambda: store.load_npy(sys.argv[2])):
        with pytest.raises(kacas.MissingPackageError, match="pip install pcodec") as caught:
            ask()
        assert caught.value.package == "pcodec"
        assert isinstance(caught.value, ImportError)
    report = verify(store)
    assert (report.problems, report.unchecked, report.contents, report.clean) == ([], {"pcodec": 2}, 2, False)
    uri = store.store_npy(array, codec="small")
    assert np.array_equal(store.load_npy(uri), array)
    assert "pcodec" not in store.describe(uri).codecs
    assert store.describe(sys.argv[2]).codecs == {"pcodec": 2}
print("done")
"""


def test_without_its_package_a_codec_is_named_and_nothing_is_damaged(store: kacas.Store) -> None:
    scaled = (RNG.integers(-500, 500, 100_000) * np.float32(0.195)).astype(np.float32)
    uri = store.store_npy(scaled, codec="small")
    assert store.describe(uri).codecs == {"pcodec": 2}, "nothing else finds the factor"
    store.store_text("what needs no package is checked all the same")
    command = [sys.executable, "-c", WITHOUT, store.path, uri]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("done\n", "")
    assert np.array_equal(store.load_npy(uri), scaled)
    assert verify(store).clean


def test_what_compresses_is_compressed_and_noise_is_not(store: kacas.Store) -> None:
    store.store_npy(ROWS, codec="auto")
    assert store.stats().payload_size < 0.62 * ROWS.nbytes
    store.store_npy(NOISE, codec="auto")
    assert store.stats().payload_size > NOISE.nbytes


def test_goals_and_names_choose(store: kacas.Store) -> None:
    samples = [memoryview(ROWS.tobytes())[: 1 << 18]]
    shape = ("i", 2, [64, 2])
    assert choose("small", samples, *shape).codec == Codec.DELTA
    quick = choose("fast", samples, *shape)
    assert quick.codec == Codec.RAW or quick.compressor == "lz4"
    assert choose("raw", samples, *shape).codec == Codec.RAW
    assert choose("zstd", samples, *shape).codec == Codec.ZSTD
    assert (choose("bits-lz4", samples, *shape).codec, choose("bits-lz4", samples, *shape).compressor) == (2, "lz4")
    assert choose("delta-bytes-zstd", samples, *shape).delta is not None
    assert choose("delta-bytes-zstd", samples, "S", 37, [37]).codec == Codec.ZSTD, "not made for such items"
    for name in ("gzip", "", "AUTO"):
        with pytest.raises(
            kacas.InvalidSettingError, match=r"the codec .* is unknown; there are fast, auto, small, raw"
        ):
            store.store_npy(ROWS, codec=name)
    assert list(store.history()) == []


@pytest.mark.parametrize("size", [0, 1000, 1 << 16, 1 << 20, 1 << 24, 1 << 30, 1 << 40])
def test_samples_are_few_and_spread(size: int) -> None:
    places = sample_places(size)
    assert all(0 <= start <= start + count <= size for start, count in places)
    assert sum(count for _, count in places) <= max(size // 256, 1 << 16)
    assert sum(count for _, count in places) <= 1 << 20
    if size >= 1 << 26:
        assert len(places) == 4
        assert places[0][0] > size // 10
        assert places[-1][0] < size - size // 10


def test_a_stored_npy_file_is_encoded_as_its_array(store: kacas.Store, tmp_path: Any) -> None:
    (tmp_path / "a.npy").write_bytes(npy(ROWS))
    uri = store.store_file(tmp_path / "a.npy")
    assert store.stats().payload_size < 0.62 * ROWS.nbytes
    size = store.stats().payload_size
    assert store.store_npy(ROWS).partition("?")[0] == uri.partition("?")[0]
    assert store.stats().payload_size == size, "the chunks are shared"


def test_a_npy_file_is_encoded_by_the_codec_that_was_named(store: kacas.Store, tmp_path: Any) -> None:
    (tmp_path / "a.npy").write_bytes(npy(ROWS))
    (tmp_path / "a.txt").write_text("text " * 100_000)
    chunks = store.describe(store.store_file(tmp_path / "a.npy", codec="bits-lz4")).codecs
    assert chunks == {"Blosc": 5}
    text = store.describe(store.store_file(tmp_path / "a.txt", codec="bits-lz4"))
    assert text.codecs == {"zstd": text.chunks}
    with pytest.raises(kacas.InvalidSettingError, match="the codec 'lzma' is unknown"):
        store.store_file(tmp_path / "a.txt", codec="lzma")


def test_out_is_filled_and_returned(store: kacas.Store) -> None:
    for array in (ROWS, np.asfortranarray(ROWS), ARRAYS["records"], ARRAYS["point"], ARRAYS["empty"]):
        uri = store.store_npy(array)
        out = np.ones_like(array)
        assert store.load_npy(uri, out=out) is out
        assert np.array_equal(out, array)
    uri = store.store_npy(ROWS)
    for out in (np.ones(ROWS.shape, ROWS.dtype, order="F"), np.ones((40_000, 64), np.int16)[::2, ::2]):
        store.load_npy(uri, out=out)
        assert np.array_equal(out, ROWS)


@pytest.mark.parametrize(
    "out",
    [np.empty((20_000, 31), np.int16), np.empty(ROWS.shape, np.uint16), [1, 2], np.empty(ROWS.shape, ">i2")],
    ids=["shape", "dtype", "a list", "byte order"],
)
def test_an_out_that_does_not_fit_is_refused(store: kacas.Store, out: Any) -> None:
    uri = store.store_npy(ROWS)
    with pytest.raises(ValueError, match="out is"):
        store.load_npy(uri, out=out)
    out = np.empty_like(ROWS)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        store.load_npy(uri, out=out)


def test_what_is_read_often_gets_a_recipe_that_decodes_fast() -> None:
    """Row delta gives the fewest bytes for these rows, but takes many passes to undo."""
    rng = np.random.default_rng(0)
    rows = np.cumsum(rng.integers(-40, 40, (2048, 64)), axis=0).astype(np.int16)
    samples = [memoryview(rows.tobytes())]
    assert choose("auto", samples, "i", 2, (128, 2)).delta is not None
    assert choose("auto", samples, "i", 2, (128, 2), readings=1000).delta is None


def test_auto_makes_as_many_chunks_denser_as_the_threads_have_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With recipes and costs as they were measured once: measuring again may choose others."""
    recipes = Items("i", 2, (256, 2)).recipes(RowDelta(Difference.SUBTRACT, 2, 256))
    denser = Denser(recipes["delta-bytes-zstd"], cost=2.4, quick_cost=0.8)
    monkeypatch.setattr("kacas.formats.npy.choose", lambda *_: recipes["bits-lz4"]._replace(denser=denser))
    array = np.concatenate([recording_block(number) for number in range(4)])
    codecs = []
    for threads in (1, 2, 8):
        settings = replace(Settings.from_environment(), threads=threads)
        with kacas.Store.open(tmp_path / str(threads), settings=settings) as store:
            uri = store.store_npy(array)
            np.testing.assert_array_equal(store.load_npy(uri), array)
            codecs.append(store.describe(uri).ratio)
    assert codecs[0] <= codecs[1] <= codecs[2]
    assert codecs[2] > 1.1 * codecs[0]


def test_what_one_sample_alone_saves_counts_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried twice, and is as large as it was."""
    ticks = itertools.count()
    monkeypatch.setattr("kacas.codec_choice.time.thread_time", lambda: float(next(ticks)))  # all take as long
    sample = memoryview(np.random.default_rng(0).integers(0, 120, 40_000, np.uint8).tobytes())
    assert choose("auto", [sample], "u", 1, ()) == choose("auto", [sample, sample], "u", 1, ())
    assert choose("auto", [sample], "u", 1, ()).compressor != "lz4", "that is for noise"


def test_the_share_of_denser_chunks_is_spread_evenly() -> None:
    dense = Recipe(Codec.ZSTD, level=9)
    recipe = Recipe(Codec.ZSTD)._replace(denser=Denser(dense, cost=2.0, quick_cost=1.0))
    assert recipe.denser is not None
    assert [recipe.denser.share(threads) for threads in (1, 4)] == [0.0, 1.0]
    assert Denser(dense, cost=9.0, quick_cost=3.0).share(2) == pytest.approx(1 / 6), "however slow the clock was"
    share = recipe.denser.share(2)
    assert 0 < share < 1
    raw = memoryview(ROWS.tobytes())[:10_000]
    sizes = [len(Encoder(one).encode(raw).payload) for one in (recipe._replace(denser=None), dense)]
    encoder = Encoder(recipe, threads=2)
    denser = [sizes.index(len(encoder.encode(raw).payload)) for _ in range(100)]
    assert all(abs(sum(denser[:count]) - share * count) <= 1 for count in range(100))


@pytest.mark.parametrize("goal", GOALS)
def test_where_the_clock_does_not_move_an_array_is_compressed_all_the_same(
    store: kacas.Store, goal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kacas.codec_choice.time.thread_time", lambda: 1.0)
    uri = store.store_npy(ROWS, codec=goal)
    np.testing.assert_array_equal(store.load_npy(uri), ROWS)
    assert store.describe(uri).ratio > 1.2


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("tiles", [None, (100, 16)])
def test_an_array_is_loaded_into_an_out_of_any_kind_of_array(
    store: kacas.Store, tmp_path: Path, order: Any, tiles: Any
) -> None:
    array = np.arange(2000 * 64, dtype="i4").reshape((2000, 64), order=order)
    uri = store.store_npy(array, chunks=tiles)
    outs = [
        np.matrix(np.zeros_like(array)),  # contiguous
        np.matrix(np.zeros((64, 2000), "i4")).T,
        np.matrix(np.zeros((4000, 128), "i4"))[::2, ::2],
        np.memmap(tmp_path / "out", "i4", "w+", shape=array.shape),
    ]
    for out in outs:
        assert store.load_npy(uri, out=out) is out
        assert (np.asarray(out) == array).all()
    masked = np.ma.masked_equal(np.zeros_like(array), 0)
    with pytest.raises(ValueError, match=r"\.data"):
        store.load_npy(uri, out=masked)
    assert store.load_npy(uri, out=masked.data)[-1, -1] == masked.data[-1, -1] == array[-1, -1]
