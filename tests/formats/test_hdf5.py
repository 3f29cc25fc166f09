"""HDF5 files: whatever writes them, they come back byte for byte, and h5py reads the same from the store."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pynwb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynwb.ecephys import ElectricalSeries

import kacas
import kacas.model.manifest
import kacas.model.uri
from kacas.formats.hdf5_process import hdf5_process
from tests.formats.hdf5_files import KINDS, ROWS, assert_same, links, plain, recording

MIB = 1 << 20


def nwb(path: Path) -> None:
    session = pynwb.NWBFile(
        session_description="a session", identifier="session 7", session_start_time=datetime(2026, 1, 2, tzinfo=UTC)
    )
    device = session.create_device(name="probe")
    group = session.create_electrode_group(name="shank", description="one", location="CA1", device=device)
    for _ in range(64):
        session.add_electrode(group=group, location="CA1")
    electrodes = session.create_electrode_table_region(region=list(range(64)), description="all")
    data = pynwb.H5DataIO(recording(), compression="gzip", chunks=(1000, 64), maxshape=(None, 64))
    session.add_acquisition(ElectricalSeries(name="raw", data=data, electrodes=electrodes, rate=30_000.0))
    session.add_acquisition(pynwb.TimeSeries(name="speed", data=recording(3000), unit="cm/s", rate=10.0))
    for start in range(20):
        session.add_trial(start_time=float(start), stop_time=start + 0.5)
    session.add_unit(spike_times=[0.1, 0.2])
    session.add_unit(spike_times=[0.3])
    with pynwb.NWBHDF5IO(path=path, mode="w") as writer:
        writer.write(session)


def netcdf(path: Path) -> None:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", None)
        file.createDimension("channel", 64)
        for name, how in {"plain": {}, "packed": {"compression": "zlib", "shuffle": True}}.items():
            file.createVariable(name, "i2", ("time", "channel"), chunksizes=(1000, 64), **how)[:] = recording()
        file.createVariable("fixed", "f8", ("channel",))[:] = 1.0
        file.title = "a title"


ALL = {**KINDS, "nwb": nwb, "netcdf": netcdf}


def sha1_of(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def stored(store: kacas.Store, path: Path) -> tuple[str, int]:
    """The URI, and how many bytes are new, after a comparison of all of them."""
    before = store.stats().raw_size
    uri = store.store_file(path, rehash=True)
    assert uri.startswith(f"sha1://{sha1_of(path)}")
    assert store.load_bytes(uri) == path.read_bytes()
    return uri, store.stats().raw_size - before


def dataset_chunks(path: Path, name: str) -> list[bytes]:
    """The bytes of a dataset's chunks as they are in the file."""
    found: list[tuple[int, int]] = []
    with h5py.File(path) as file:
        file[name].id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    raw = path.read_bytes()
    return [raw[start : start + size] for start, size in found]


@pytest.mark.parametrize("kind", ALL)
def test_h5py_reads_the_same_from_the_store_and_from_a_restored_file(
    store: kacas.Store, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x.nwb"
    ALL[kind](path)
    uri, _ = stored(store, path)
    restored = store.load_file(uri, dest=tmp_path / "restored.h5")
    with h5py.File(path) as original:
        with store.open_h5(uri) as opened:
            compared = assert_same(original, opened)
        with h5py.File(store.open_file(uri)) as by_hand, h5py.File(restored) as copy:
            assert assert_same(original, by_hand) == assert_same(original, copy) == compared > 0


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_of_file_is_cut_at_its_datasets(store: kacas.Store, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.nwb"
    ALL[kind](path)
    with path.open("rb") as file:
        located = hdf5_process.locate(file.fileno())
    assert located is not None
    assert len(located.spans) > 0


def test_pynwb_reads_from_the_store(store: kacas.Store, tmp_path: Path) -> None:
    nwb(tmp_path / "x.nwb")
    uri = store.store_file(tmp_path / "x.nwb")
    with store.open_h5(uri) as file, pynwb.NWBHDF5IO(file=file, mode="r") as reader:
        np.testing.assert_array_equal(reader.read().acquisition["raw"].data[100:200], recording()[100:200])


@pytest.mark.parametrize("opened", ["store.open_h5(uri)", "h5py.File(store.open_file(uri))"])
def test_garbage_with_datasets_in_it_does_not_stop_reads_that_threads_share(
    store: kacas.Store, tmp_path: Path, opened: str
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(40):
            file[str(number)] = recording(20_000, number)
    uri = store.store_file(tmp_path / "x.h5", codec="bits-lz4")
    program = (
        "import gc, h5py, kacas, sys\n"
        "store, uri = kacas.Store.open(sys.argv[1]), sys.argv[2]\n"
        "for allocations in (50, 200, 700):\n"
        "    gc.set_threshold(allocations)\n"
        f"    file = {opened}\n"
        "    for number in range(40):\n"
        "        data = file[str(number)]\n"
        "        box = [data]\n"
        "        box.append(box)\n"
        "        data[:]\n"
        "        assert gc.isenabled()\n"
    )
    environment = os.environ | {"KACAS_THREADS": "4"}
    run = [sys.executable, "-c", program, store.path, uri]
    subprocess.run(run, check=True, cwd=Path(__file__).parents[2], env=environment, timeout=120)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("how", [{"compression": "gzip"}, {}])
def test_appended_rows_and_changed_attributes_store_what_is_new(
    store: kacas.Store, tmp_path: Path, libver: str, how: dict[str, str]
) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("grows", data=recording(60_000), chunks=(2_000, 64), maxshape=(None, 64), **how)
        file.create_dataset("other", data=recording(seed=5))
    stored(store, path)
    program = (
        "import h5py, numpy, sys\n"
        "from tests.formats.hdf5_files import recording\n"
        "with h5py.File(sys.argv[1], 'a', libver=sys.argv[2]) as file:\n"
        "    file['grows'].resize(80_000, axis=0)\n"
        "    file['grows'][60_000:] = recording(20_000, 9)\n"
        "    file['grows'].attrs['note'] = 'x' * 5_000\n"
        "    file.create_group('new').attrs['more'] = 1\n"
    )
    other = "latest" if libver == "earliest" else "v108"
    subprocess.run([sys.executable, "-c", program, path, other], check=True, cwd=Path(__file__).parents[2])
    appended = sum(map(len, dataset_chunks(path, "grows")[30:]))
    _, new = stored(store, path)
    assert new <= 1.1 * appended


def test_a_recording_with_its_channels_first_grows_by_what_is_appended(store: kacas.Store, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    data = recording(220_000).T
    with h5py.File(path, "w") as file:
        file.create_dataset("grows", data=data[:, :200_000], chunks=(1, 5_000), maxshape=(64, None))
    stored(store, path)
    with h5py.File(path, "a") as file:
        file["grows"].resize(220_000, axis=1)
        file["grows"][:, 200_000:] = data[:, 200_000:]
    _, new = stored(store, path)
    assert new < 1.4 * data[:, 200_000:].nbytes


def test_a_file_written_anew_shares_its_data(store: kacas.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "one.h5", "w") as file:
        for name in ("a", "b"):
            file.create_dataset(name, data=recording(40_000, ord(name)), chunks=(1_500, 64), compression="gzip")
        file.create_dataset("c", data=recording(20_000, 3))
    stored(store, tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as old, h5py.File(tmp_path / "two.h5", "w", libver="latest") as file:
        file["before"] = recording(2_500, 4)
        for name in ("c", "b", "a"):
            old.copy(name, file)
    _, new = stored(store, tmp_path / "two.h5")
    assert new < 320_000 + 0.05 * os.path.getsize(tmp_path / "two.h5")


def test_a_dataset_stored_as_an_array_shares_its_chunks_with_the_file(store: kacas.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("contiguous", data=recording(40_000, 1))
        file.create_dataset("chunked", data=recording(40_000, 2), chunks=(1024, 64))
    stored(store, tmp_path / "x.h5")
    before = store.stats().raw_size
    with h5py.File(tmp_path / "x.h5") as file:
        for name in ("contiguous", "chunked"):
            store.store_npy(file[name])
    # Of the chunked one, the last chunk is full in the file and not in the array; the rest are nodes and manifests.
    assert store.stats().raw_size - before < 2 * (256 << 10)


def test_each_chunk_above_256_kib_is_one_of_ours(store: kacas.Store, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", data=recording(40_000), chunks=(4_000, 64), compression="gzip")
    uri, _ = stored(store, path)
    _, content = store.repository.resolve(kacas.model.uri.parse_any_uri(uri))
    sizes = [child.size for child in content.chunks()]
    assert [size for size in sizes if size > 200_000] == [len(chunk) for chunk in dataset_chunks(path, "d")]


def test_data_that_hdf5_compressed_is_kept_as_it_is_and_other_data_is_compressed(
    store: kacas.Store, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("packed", data=recording(40_000), chunks=(4_000, 64), compression="gzip", shuffle=True)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("plain", data=recording(40_000, 1))
    packed = store.describe(store.store_file(tmp_path / "x.h5"))
    assert packed.codecs["raw"] >= 10
    plain = store.describe(store.store_file(tmp_path / "y.h5", codec="bits-lz4"))
    assert plain.codecs["Blosc"] >= 15
    assert plain.ratio > 1.3


def test_files_in_a_directory_and_linked_files_are_cut_the_same_way(store: kacas.Store, tmp_path: Path) -> None:
    (tmp_path / "data/sub").mkdir(parents=True)
    plain(tmp_path / "data/sub/x.nwb")
    uri = store.store_dir(tmp_path / "data")
    before = store.stats().raw_size
    name = f"{uri.partition('?')[0]}/sub/x.nwb"
    single = store.store_file(tmp_path / "data/sub/x.nwb", rehash=True)
    assert store.stats().raw_size == before
    assert store.describe(single).root == store.describe(name).root
    with store.open_h5(name) as file:
        np.testing.assert_array_equal(file["blocks"][10:20], recording()[10:20])
    with kacas.Store.open(tmp_path / "links") as other:
        linked = other.link_file(tmp_path / "data/sub/x.nwb")
        assert other.describe(linked).root == store.describe(single).root
        with other.open_h5(linked) as file:
            np.testing.assert_array_equal(file["contiguous"][-5:], recording()[-5:])


def test_a_stream_has_the_same_uri_and_is_cut_by_content(store: kacas.Store, tmp_path: Path) -> None:
    plain(tmp_path / "x.h5")
    with (tmp_path / "x.h5").open("rb") as stream:
        uri = store.store_stream(stream, label="x.h5")
    root = store.describe(uri).root
    assert store.store_file(tmp_path / "x.h5") == uri
    assert store.describe(uri).root != root
    with store.open_h5(uri) as file:
        np.testing.assert_array_equal(file["contiguous"][:], recording())


def test_a_file_that_another_process_has_open_for_writing_is_cut_too(store: kacas.Store, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    program = (
        "import h5py, sys\n"
        "from tests.formats.hdf5_files import recording\n"
        "with h5py.File(sys.argv[1], 'w', libver='latest') as file:\n"
        "    data = file.create_dataset('d', data=recording(40_000), chunks=(4_000, 64), maxshape=(None, 64))\n"
        "    if sys.argv[2] == 'swmr': file.swmr_mode = True\n"
        "    file.flush()\n"
        "    print('ready', flush=True); sys.stdin.read()\n"
    )
    for mode in ("swmr", "alone"):
        with subprocess.Popen(
            [sys.executable, "-c", program, path, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdin is not None
            assert writer.stdout.readline() == b"ready\n"
            uri, _ = stored(store, path)
            assert max(child.size for child in chunks_of(store, uri)) <= 256 << 10
            writer.stdin.close()


def test_a_file_whose_writer_crashed_is_cut_at_its_datasets(store: kacas.Store, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    program = (
        "import h5py, os, sys\n"
        "from tests.formats.hdf5_files import recording\n"
        "file = h5py.File(sys.argv[1], 'w', libver='latest')\n"
        "file.create_dataset('d', data=recording(40_000), chunks=(2_048, 64), maxshape=(None, 64))\n"
        "file.flush()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(OSError, match="already open"):
        h5py.File(path)
    uri, _ = stored(store, path)
    assert [child.size for child in chunks_of(store, uri)].count(256 << 10) >= 18
    with store.open_h5(uri) as file:
        np.testing.assert_array_equal(file["d"][:], recording(40_000))


def chunks_of(store: kacas.Store, uri: str) -> list[kacas.model.manifest.Child]:
    return list(store.repository.resolve(kacas.model.uri.parse_any_uri(uri))[1].chunks())


def test_the_default_store_opens_a_file_and_closing_it_closes_all(tmp_path: Path) -> None:
    links(tmp_path / "x.h5")
    file = kacas.open_h5(kacas.store_file(tmp_path / "x.h5"))
    assert file["soft"].shape == (ROWS, 64)
    reader = file._reader
    file.close()
    assert reader.closed
    assert not file


@given(
    shape=st.tuples(st.integers(1, 400), st.integers(1, 60), st.integers(1, 8)),
    chunk=st.none() | st.tuples(st.integers(1, 50), st.integers(1, 60), st.integers(1, 8)),
    dtype=st.sampled_from(["u1", "i2", ">i4", "f8"]),
    how=st.sampled_from([{}, {"compression": "lzf"}, {"compression": "gzip", "shuffle": True}, {"fletcher32": True}]),
    libver=st.sampled_from(["earliest", "v110", "latest"]),
    more=st.integers(1, 100),
)
def test_random_files_come_back_and_grown_ones_share(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int] | None,
    dtype: str,
    how: dict[str, str],
    libver: str,
    more: int,
) -> None:
    place = tmp_path_factory.mktemp("random")
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    chunks = tuple(map(min, chunk, shape)) if chunk else None
    with h5py.File(place / "x.h5", "w", libver=libver) as file:
        file.create_dataset(
            "d", data=values, chunks=chunks, maxshape=(None, *shape[1:]) if chunks else None, **(how if chunks else {})
        )
        file.create_dataset("e", data=values[::-1].repeat(3, axis=0))
    with kacas.Store.open(place / "store", durability="relaxed") as store:
        stored(store, place / "x.h5")
        with h5py.File(place / "x.h5", "a") as file:
            if chunks:
                file["d"].resize(shape[0] + more, axis=0)
            file.attrs["changed"] = more
            size = file.id.get_filesize()
        again, new = stored(store, place / "x.h5")
        with h5py.File(place / "x.h5") as original, store.open_h5(again) as opened:
            assert assert_same(original, opened) == 2
        assert new <= size
