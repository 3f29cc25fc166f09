"""HDF5 files that are none, or damaged, or made to hurt: they are kept byte for byte, cut by content."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kacas
from kacas.formats import hdf5_extents
from kacas.formats.hdf5_process import Hdf5Process, hdf5_process
from kacas.model.hdf5_cuts import SIGNATURE
from tests.formats.hdf5_files import KINDS, links, plain, recording

ROOT = Path(__file__).parents[2]


def located(path: Path) -> int | None:
    """How many spans the process finds."""
    with path.open("rb") as file:
        found = hdf5_process.locate(file.fileno())
    return None if found is None else len(found.spans)


def assert_kept(store: kacas.Store, path: Path) -> str:
    uri = store.store_file(path, rehash=True)
    assert uri.startswith(f"sha1://{hashlib.sha1(path.read_bytes()).hexdigest()}")
    assert store.load_bytes(uri) == path.read_bytes()
    return uri


def test_a_file_that_is_hdf5_by_its_signature_only_is_kept(store: kacas.Store, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    for at in (0, 512, 32_768):
        path.write_bytes(bytes(at) + SIGNATURE + random.Random(at).randbytes(600_000))
        uri = assert_kept(store, path)
        assert located(path) == 0
        assert store.is_h5(uri)
        with pytest.raises(kacas.WrongKindError, match="h5py cannot read it"):
            store.open_h5(uri)
        with pytest.raises(kacas.WrongKindError, match="h5py cannot read it"):
            list(store.list_h5(uri))


damaged_files = settings(max_examples=40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("whole")
    for kind, make in KINDS.items():
        make(place / kind)
    return {kind: (place / kind).read_bytes() for kind in KINDS}


@damaged_files
@given(kind=st.sampled_from(sorted(KINDS)), share=st.floats(0, 1))
def test_a_file_cut_short_anywhere_is_kept(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, kind: str, share: float
) -> None:
    place = tmp_path_factory.mktemp("short")
    (place / "x.h5").write_bytes(whole[kind][: int(share * len(whole[kind]))])
    with kacas.Store.open(place / "store", durability="relaxed") as store:
        assert_kept(store, place / "x.h5")


@damaged_files
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 1 << 32),
    count=st.integers(1, 60),
    front=st.booleans(),
)
def test_a_file_with_random_damage_is_kept(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int, count: int, front: bool
) -> None:
    place = tmp_path_factory.mktemp("damaged")
    rng = random.Random(seed)
    data = bytearray(whole[kind])
    for _ in range(count):
        at = rng.randrange(8, 10_000 if front else len(data))  # metadata lies in front, mostly
        data[at] = rng.choice([0, 1, 0xFF, data[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
    (place / "x.h5").write_bytes(data)
    with kacas.Store.open(place / "store", durability="relaxed") as store:
        assert_kept(store, place / "x.h5")


def test_of_a_file_with_a_damaged_dataset_the_others_are_cut_as_before(store: kacas.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in "abc":
            file.create_dataset(name, data=recording(seed=ord(name)))
        header = h5py.h5o.get_info(file["b"].id).addr
    good = located(tmp_path / "x.h5")
    with (tmp_path / "x.h5").open("r+b") as raw:
        raw.seek(header)
        raw.write(b"\xff" * 16)
    assert_kept(store, tmp_path / "x.h5")
    assert good == 3
    assert located(tmp_path / "x.h5") == 2


def test_cycles_and_many_objects_come_to_an_end(store: kacas.Store, tmp_path: Path) -> None:
    links(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        for number in range(3_000):
            file.create_dataset(f"many/{number}", data=np.int8(1))
        group = file
        for _ in range(300):
            group = group.create_group("deep")
        group["top"] = file["/"]
    assert_kept(store, tmp_path / "x.h5")
    assert (located(tmp_path / "x.h5") or 0) >= 4
    assert len(list(store.list_h5(store.store_file(tmp_path / "x.h5")))) > 3_300


@pytest.mark.heavy
def test_a_hundred_thousand_datasets_and_a_million_chunks_are_read_in_bounded_time_and_memory(
    store: kacas.Store, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        for number in range(100_000):
            file.create_dataset(str(number), data=np.zeros(10, "i2"))
        chunks = file.create_dataset("chunks", shape=(1_000_000, 64), chunks=(1, 64), dtype="i1", maxshape=(None, 64))
        for start in range(0, 1_000_000, 100_000):
            chunks[start : start + 100_000] = 1 + start // 100_000
    assert (located(tmp_path / "x.h5") or 0) > 100
    assert_kept(store, tmp_path / "x.h5")


def test_links_to_other_files_and_external_storage_are_never_followed(store: kacas.Store, tmp_path: Path) -> None:
    plain(tmp_path / "other.h5")
    (tmp_path / "secret").write_bytes(recording().tobytes())
    fifo = tmp_path / "fifo.h5"
    os.mkfifo(fifo)  # who opens it waits for ever
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("own", data=recording())
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/contiguous")
        file["trap"] = h5py.ExternalLink(str(fifo), "/x")
        file["around"] = h5py.SoftLink("/elsewhere")
        file.create_dataset("raw", shape=(100,), dtype="i2", external=[(str(tmp_path / "secret"), 0, 200)])
        layout = h5py.VirtualLayout((100,), "i2")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "contiguous", (6000, 64))[:100, 0]
        file.create_virtual_dataset("virtual", layout)
        inside = h5py.VirtualLayout((100, 64), "i2")
        inside[:] = h5py.VirtualSource(".", "own", (6000, 64))[:100]
        file.create_virtual_dataset("inside", inside)
        file.create_group("group")["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    uri = assert_kept(store, tmp_path / "x.h5")
    assert located(tmp_path / "x.h5") == 1
    with store.open_h5(uri) as file:
        names = ("elsewhere", "trap", "around", "raw", "virtual", "group/elsewhere/contiguous", "/group/elsewhere")
        for name in names:
            with pytest.raises(kacas.ExternalDataError, match=r"are not (followed|opened)"):
                file[name]
        with pytest.raises(kacas.ExternalDataError):
            file["group"]["elsewhere"]
        assert "elsewhere" in file["group"]
        assert "elsewhere/contiguous" not in file["group"]
        assert file.get("trap", getclass=True) is None
        assert list(file["group"].values()) == [None]
        assert isinstance(file.get("trap", getlink=True), h5py.ExternalLink)
        np.testing.assert_array_equal(file["inside"][:], recording()[:100])
        found: list[str] = []
        file["group"].visititems(lambda name, item: found.append(name))
        assert not found
    shown = {item.path: item for item in store.list_h5(uri)}
    assert (shown["/trap"].type, shown["/trap"].target) == ("external link", f"{fifo}:/x")
    assert (shown["/raw"].storage, shown["/virtual"].storage, shown["/virtual"].shape) == ("external", "virtual", None)
    with pytest.raises(kacas.ExternalDataError):
        list(store.list_h5(uri, "group/elsewhere"))


def virtual(file: h5py.File, name: str, source: str, place: str = ".") -> None:
    layout = h5py.VirtualLayout((4,), "i2")
    layout[:] = h5py.VirtualSource(place, source, (4,), "i2")
    file.create_virtual_dataset(name, layout)


def test_a_virtual_dataset_of_one_that_may_lie_elsewhere_is_refused(store: kacas.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["own"] = np.full(4, 7, "i2")
    (tmp_path / "secret").write_bytes(b"secret!!")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["own"] = np.arange(4, dtype="i2")
        file["group/link"] = h5py.SoftLink("/own")
        file["outside"] = h5py.ExternalLink("other.h5", "/own")
        file["around"] = h5py.SoftLink("/outside")
        file.create_dataset("raw", shape=(4,), dtype="i2", external=[(str(tmp_path / "secret"), 0, 8)])
        virtual(file, "elsewhere", "own", "other.h5")
        virtual(file, "elsewhere%", "own", "other.h5")  # which a pattern means by "elsewhere%%"
        for source in (
            "own",
            "group/link",
            "nothing",
            "elsewhere",
            "outside",
            "around",
            "raw",
            "of own",
            "elsewhere%%",
        ):
            virtual(file, f"of {source}", source)
    with store.open_h5(store.store_file(tmp_path / "x.h5")) as file:
        for name in ("of own", "of group/link"):
            np.testing.assert_array_equal(file[name][:], np.arange(4))
        np.testing.assert_array_equal(file["of nothing"][:], np.zeros(4))
        for name in ("elsewhere", "outside", "around", "raw", "of own", "elsewhere%%"):
            with pytest.raises(kacas.ExternalDataError, match=r"are not (followed|opened)"):
                file[f"of {name}"][:]


def test_filters_that_h5py_does_not_have_do_not_matter(store: kacas.Store, tmp_path: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((1000, 64))
    made.set_filter(32_123, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple((6000, 64))
        dataset = h5py.h5d.create(file.id, b"d", h5py.h5t.STD_I16LE, space, made)
        for at in range(0, 6000, 1000):
            dataset.write_direct_chunk((at, 0), random.Random(at).randbytes(70_000))
    uri = assert_kept(store, tmp_path / "x.h5")
    assert (located(tmp_path / "x.h5") or 0) >= 1
    assert [item.filters for item in store.list_h5(uri, "d")] == [("filter 32123",)]


def test_without_permission_a_file_is_refused_as_any_other(store: kacas.Store, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        path = tmp_path / "x"
        path.mkdir()
    else:
        path = tmp_path / "x.h5"
        plain(path)
        path.chmod(0)
    with pytest.raises(kacas.UnreadableSourceError):
        store.store_file(path)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGALRM])
def test_a_process_that_crashes_costs_one_file_its_cuts_and_the_next_has_a_new_one(
    tmp_path: Path, number: signal.Signals
) -> None:
    plain(tmp_path / "x.h5")
    process = Hdf5Process()
    try:
        with (tmp_path / "x.h5").open("rb") as file:
            assert process.locate(file.fileno()) is not None
            assert process._process is not None
            os.kill(process._process.pid, number)
            process._process.wait()
            assert process.locate(file.fileno()) is None
            assert process.locate(file.fileno()) is not None
    finally:
        process.end()


def test_what_the_process_could_be_made_to_tell_is_not_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(tmp_path / "x.h5")
    monkeypatch.setenv("KACAS_PRIVATE_KEY", "secret" * 4)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret" * 5)
    process = Hdf5Process()
    try:
        with (tmp_path / "x.h5").open("rb") as file:
            assert process.locate(file.fileno()) is not None
        assert process._process is not None
        assert b"secret" not in Path(f"/proc/{process._process.pid}/environ").read_bytes()
    finally:
        process.end()


@pytest.mark.heavy
def test_a_process_that_ended_because_it_was_idle_costs_nothing(tmp_path: Path) -> None:
    plain(tmp_path / "x.h5")
    process = Hdf5Process()
    try:
        with (tmp_path / "x.h5").open("rb") as file:
            assert process.locate(file.fileno()) is not None
            first = process._process
            assert first is not None
            assert first.wait(hdf5_extents.IDLE_S + 20) == 0
            assert process.locate(file.fileno()) is not None
            assert process._process is not first
    finally:
        process.end()


@pytest.mark.parametrize(
    "limit, number", [("MOST_S", signal.SIGALRM), ("MOST_PROCESSOR_S", signal.SIGPROF)], ids=["waiting", "working"]
)
@pytest.mark.parametrize("inherited", ["nothing", "ignored", "blocked"])
def test_a_file_that_takes_too_long_is_given_up_by_the_process(
    tmp_path: Path, limit: str, number: signal.Signals, inherited: str
) -> None:
    def before() -> None:
        if inherited == "ignored":
            signal.signal(number, signal.SIG_IGN)
        elif inherited == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])

    program = (
        "import kacas.formats.hdf5_extents as extents\n"
        "def endless(fd):\n"
        "    while True: pass\n"
        f"extents.read_extents, extents.{limit} = endless, 1\n"
        "extents.main()\n"
    )
    ours, theirs = socket.socketpair()
    plain(tmp_path / "x.h5")
    with ours, theirs, (tmp_path / "x.h5").open("rb") as file:
        run = [sys.executable, "-c", program]
        child = subprocess.Popen(run, stdin=theirs.fileno(), cwd=ROOT, preexec_fn=before)
        try:
            theirs.close()
            socket.send_fds(ours, [b"?"], [file.fileno()])
            ours.settimeout(60)
            assert ours.recv(1) == b""
            assert child.wait() == -number
        finally:
            child.kill()
            child.wait()


def test_threads_and_forked_children_each_get_their_answers(tmp_path: Path) -> None:
    plain(tmp_path / "plain.h5")
    links(tmp_path / "links.h5")
    (tmp_path / "none.h5").write_bytes(SIGNATURE + bytes(1000))
    expected = {path: located(path) for path in sorted(tmp_path.glob("*.h5"))}
    found: list[bool] = []

    def ask() -> None:
        for path, count in [*expected.items()] * 5:
            found.append(located(path) == count)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    assert len(found) == 60
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(located(path) == count for path, count in expected.items()) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert all(located(path) == count for path, count in expected.items())


def test_without_h5py_files_are_cut_by_content_and_it_is_said_what_to_install(tmp_path: Path) -> None:
    plain(tmp_path / "x.h5")
    program = (
        "import sys\n"
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'h5py' else found(name, package)\n"
        "import kacas\n"
        "uri = kacas.store_file(sys.argv[1])\n"
        "try: kacas.open_h5(uri)\n"
        "except kacas.MissingPackageError as exc: print(exc.package, exc)\n"
        "print(kacas.describe(uri).chunks, kacas.load_bytes(uri) == open(sys.argv[1], 'rb').read(), 'h5py' in sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x.h5"], check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert found[0].startswith("h5py ")
    assert "pip install" in found[0]
    assert found[1].endswith("True False")


def test_a_frozen_application_does_not_start_itself_to_read_a_file(tmp_path: Path) -> None:
    plain(tmp_path / "x.h5")
    program = (
        "import sys\n"
        "import kacas, kacas.formats.hdf5_process as process\n"
        "sys.frozen = True\n"
        "uri = kacas.store_file(sys.argv[1])\n"
        "print(process.hdf5_process._process, kacas.load_bytes(uri) == open(sys.argv[1], 'rb').read())\n"
    )
    run = [sys.executable, "-c", program, tmp_path / "x.h5"]
    assert subprocess.run(run, check=True, cwd=ROOT, capture_output=True).stdout == b"None True\n"
