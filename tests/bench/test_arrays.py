"""The benchmark of arrays: it runs end to end, its slices never meet a chunk twice, its targets hold and fail where they should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.array_figures import Slices
from bench.array_report import fastest, markdown, targets
from bench.array_systems import whole_rows
from bench.array_worker import Stream, same
from bench.arrays import main
from bench.measure import Figures, Series
from bench.workloads import MIB
from kacas.codec_choice import EXPLICIT, GOALS

WHOLE = {"store_s": 1.0, "total_s": 1.0, "load_s": 1.0, "cold_s": 1.0, "disk_size": 1e6, "ratio": 2.0}


def figures(one: dict[str, float], systems: dict[str, float]) -> Figures:
    """The figures `one`, times a factor for each system, of three equal rounds."""
    return {
        system: {what: Series((value * (1 if what == "ratio" else factor),) * 3) for what, value in one.items()}
        for system, factor in systems.items()
    }


def test_it_measures_kacas_numpy_and_sha1_where_no_peer_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "arrays.json"
    main([
        "--size", "4", "--rounds", "1", "--only", "store,load,slices,tiles", "--own-pages",
        "--dir", str(tmp_path / "work"), "--json", str(output),
    ])  # fmt: skip
    report = json.loads(output.read_text())
    assert set(report["figures"]) == {"recording", "random", "field", "imaging", "slices", "tiles"}
    assert set(report["figures"]["recording"]) == {"kacas, auto", "kacas, fast", "numpy", "sha1"}
    auto = report["figures"]["recording"]["kacas, auto"]
    assert all(auto[what]["median"] > 0 for what in ("store_s", "load_s", "cold_s"))
    assert auto["ratio"]["median"] > 1.3
    assert set(report["figures"]["slices"]) == {"kacas, bits-lz4", "numpy"}
    captured = capsys.readouterr()
    for name in ("zarr", "icechunk", "h5py", "kachery-cloud"):
        assert f"{name}: left out" in captured.err
    assert "not measured" in captured.out
    assert not list((tmp_path / "work").glob("run-*"))


def test_it_measures_every_codec_of_kacas_on_every_workload(tmp_path: Path) -> None:
    output = tmp_path / "arrays.json"
    main([
        "--size", "8", "--rounds", "1", "--only", "codecs", "--dir", str(tmp_path / "work"), "--json", str(output),
    ])  # fmt: skip
    measured = json.loads(output.read_text())["figures"]
    assert set(measured) == {"recording by codec", "field by codec", "imaging by codec"}
    for by_codec in measured.values():
        assert set(by_codec) == {*(f"kacas, {codec}" for codec in (*GOALS, *EXPLICIT)), "numpy", "sha1"}
        assert by_codec["kacas, zstd"]["ratio"]["median"] > by_codec["kacas, raw"]["ratio"]["median"]


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "store,nothing", "--dir", str(tmp_path)])


@given(seed=st.integers(0, 1000), count=st.integers(1, 50), width=st.integers(1, 64), chunks=st.integers(1, 4))
def test_slices_of_different_windows_have_no_chunk_in_common(seed: int, count: int, width: int, chunks: int) -> None:
    chunk = 64
    slices = Slices(axis=0, width=width, count=count, window=chunks * chunk)
    met: list[int] = []
    for start in slices.starts(20 * chunk, seed):
        met += range(start // chunk, (start + width - 1) // chunk + 1)
    assert met
    assert len(met) == len(set(met))
    assert max(met) < 20


@given(seed=st.integers(0, 1000), width=st.integers(1, 100))
def test_slices_anywhere_lie_within_the_array_and_are_the_same_for_every_system(seed: int, width: int) -> None:
    slices = Slices(axis=0, width=width, count=20)
    starts = slices.starts(100, seed)
    assert starts == slices.starts(100, seed)
    assert len(starts) == 20
    assert all(0 <= start <= 100 - width for start in starts)


def test_a_stream_repeats_no_block_and_makes_each_the_same_again() -> None:
    stream = Stream(10 * 8 * MIB)
    assert (stream.count, stream.size, stream.shape) == (10, 80 * MIB, (10 * 32768, 128))
    made = [block.tobytes() for block in stream.blocks()]
    assert len(set(made)) == 10
    assert stream.block(9).tobytes() == made[9]
    rows = {made[number][at : at + 256] for number in (0, 8) for at in range(0, 8 * MIB, 256)}
    assert len(rows) == 2 * 32768


def test_arrays_that_differ_anywhere_are_not_the_same() -> None:
    array = np.arange(12, dtype=np.int16).reshape(4, 3)
    other = array.copy()
    assert same(array, other)
    other[3, 2] += 1
    assert not same(array, other)
    assert not same(array, array[:3])
    assert not same(array, array.astype(np.int32))


def test_whole_rows_fill_a_chunk_and_are_no_more_than_there_are() -> None:
    assert whole_rows(np.empty((10_000, 128), np.int16)) == (4096, 128)
    assert whole_rows(np.empty((10, 128), np.int16)) == (10, 128)
    assert whole_rows(np.empty((3, 1024, 1024), np.int16)) == (1, 1024, 1024)


GOOD = {
    **dict.fromkeys(("kacas, auto", "kacas, fast", "numpy", "sha1"), 1.0),
    "kachery-cloud": 2.0,
    "zarr, Blosc": 3.0,
    "h5py, Blosc": 2.6,
}
BAD = GOOD | {"kacas, auto": 3.0, "kacas, fast": 3.0, "kacas, raw": 1.0}


def test_the_fastest_that_compresses_is_compared_and_named() -> None:
    measured = figures(WHOLE, GOOD)
    assert fastest(measured, "total_s") == "h5py, Blosc"
    assert any(
        "the fastest that compresses: h5py, Blosc" in target.what for target in targets({"recording": measured}, {})
    )


def test_each_target_of_arrays_fails_beyond_its_limit_and_only_then() -> None:
    def all_targets(whole: dict[str, float], slow: float, memory: int) -> list[bool | None]:
        slices = {"different chunks": 1.0, "single columns": 1.0, "4 columns": 1.0}
        rates = {"kacas, bits-lz4": 5.0 / slow, "zarr, Blosc": 1.0, "h5py, Blosc": 1.0}
        measured = {
            "recording": figures(WHOLE | {"ratio": 2.0 / slow}, whole),
            "random": figures(WHOLE, whole | {"kacas, raw": 1.0}),
            "map": figures({"again_ms": 1.0}, {"kacas, auto": slow * 2, "numpy": 1.0}),
            "slices": figures(slices, rates),
            "tiles": figures(slices, rates | {"kacas, bits-lz4": 2.0 / slow}),
        }
        return [target.holds for target in targets(measured, {"a stream": memory})]

    good = all_targets(GOOD | {"zarr, Blosc": 2.6}, 1.0, 256 * MIB)
    assert good == [True] * len(good)
    assert len(good) == 8 + 6 + 2 + 1 + 2 + 2 + 1
    bad = all_targets(BAD, 1.25, 257 * MIB)
    assert bad == [False] * len(bad)


def test_the_page_has_a_row_for_each_codec_and_a_column_for_each_workload() -> None:
    one = figures({"ratio": 2.0, "store_s": 1.0, "load_s": 1.0}, {"kacas, auto": 1.0, "sha1": 1.0})
    del one["sha1"]["ratio"], one["sha1"]["load_s"]
    page = markdown({f"{name} by codec": one for name in ("recording", "field", "imaging")}, {}, "said", [])
    assert page.count("| recording ") == 3
    assert "| kacas, auto | 2 (2..2)  | 2 (2..2) | 2 (2..2) |" in page
    assert "| sha1        | -         | -        | -        |" in page


def test_a_page_without_peers_says_not_measured() -> None:
    measured = {"recording": figures(WHOLE, {"kacas, auto": 1, "kacas, fast": 1, "numpy": 1, "sha1": 1})}
    promised = targets(measured, {})
    assert {target.holds for target in promised if "compresses" in target.what} == {None}
    page = markdown(measured, {}, "said", promised)
    assert "not measured" in page
    assert "| kacas, auto | 1 (1..1)" in page
