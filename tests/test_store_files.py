"""Files: stored whole around every boundary, loaded to a path, read by ranges and as file objects."""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas import DestinationError, InvalidRangeError, Store, StoreError, UnreadableSourceError
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.uri import label_text, parse_uri

MIB = 1 << 20
SIZES = [
    0, 1, CHUNK_TARGET - 1, CHUNK_TARGET, CHUNK_TARGET + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 5 * MIB, 25 * MIB + 3,
]  # fmt: skip

one_example_store = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    """A store without syncs, for properties."""
    return Store.open(tmp_path / "quick", durability="relaxed")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("content", ["noise", "text", "zeros"])
def test_a_file_of_any_size_keeps_every_byte(store: Store, tmp_path: Path, size: int, content: str) -> None:
    text = b"0123456789 and so on\n"
    data = {"noise": noise(size), "text": (text * (size // len(text) + 1))[:size], "zeros": bytes(size)}[content]
    (tmp_path / "file.bin").write_bytes(data)
    sha1 = hashlib.sha1(data).hexdigest()
    uri = store.store_file(tmp_path / "file.bin")
    assert uri == f"sha1://{sha1}?label=file.bin"
    assert store.load_bytes(uri) == data
    assert store.load_file(uri).read_bytes() == data
    with store.open_file(uri) as file:
        assert file.read() == data
    before = store.stats()
    assert store.store_stream(io.BytesIO(data)) == store.store_bytes(data) == f"sha1://{sha1}"
    assert store.stats().chunks == before.chunks, "the same bytes are cut in the same way, whatever they come from"
    description = store.describe(uri)
    assert (description.size, description.kind) == (size, "bytes")
    if content != "noise" and size > 100:
        assert description.ratio > 5


class Trickle(io.RawIOBase):
    """A pipe: gives what it has, in pieces of every size."""

    def __init__(self, data: bytes) -> None:
        self._rest, self._random = io.BytesIO(data), random.Random(5)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._rest.readinto(memoryview(buffer)[: self._random.randint(1, 100_000)])


@pytest.mark.parametrize("size", SIZES)
def test_a_stream_that_trickles_is_stored_whole(quick: Store, size: int) -> None:
    data = noise(size)
    stream: BinaryIO = Trickle(data)  # type: ignore[assignment]
    assert parse_uri(quick.store_stream(stream, label="stdin")).sha1 == hashlib.sha1(data).digest()
    assert quick.load_bytes("sha1://" + hashlib.sha1(data).hexdigest()) == data


def test_a_file_with_a_hole_is_its_bytes(quick: Store, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.seek(10 * MIB)
        file.write(b"end")
    uri = quick.store_file(tmp_path / "sparse")
    assert quick.load_bytes(uri) == bytes(10 * MIB) + b"end"
    assert quick.describe(uri).stored_size < MIB


@pytest.mark.timeout(60)
def test_files_that_say_that_they_are_empty_are_read_to_their_end(quick: Store) -> None:
    """As those in /proc do. However many were stored, large content is stored after them."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no /proc here")
    for _ in range(8):
        uri = quick.store_file("/proc/self/cmdline")
        assert quick.load_bytes(uri) == Path("/proc/self/cmdline").read_bytes()
    for size in (100_003, 5 * MIB + 17):
        array = np.frombuffer(noise(size * 6), f"V{size}")
        quick.store_npy(array)
        np.testing.assert_array_equal(quick.load_npy(quick.store_npy(array)), array)


def test_the_label_is_the_files_name_unless_given(store: Store, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/na\xefve n\xc3\xa4me.bin"
    with open(name, "wb") as file:
        file.write(b"content")
    uri = store.store_file(os.fsdecode(name))
    assert parse_uri(uri).label == label_text(b"na\xefve n\xc3\xa4me.bin")
    assert store.load_bytes(uri) == b"content"
    assert parse_uri(store.store_file(os.fsdecode(name), label="x.bin")).label == "x.bin"
    assert parse_uri(store.store_file(os.fsdecode(name), label="")).label == ""


def test_a_link_is_followed_and_the_label_is_the_links_name(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert parse_uri(store.store_file(tmp_path / "link")).label == "link"


def test_what_is_no_readable_file_is_refused_and_named(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", Path("/dev/null"), tmp_path / "loop"):
        with pytest.raises(UnreadableSourceError) as caught:
            store.store_file(path)
        assert str(path) in str(caught.value)
        assert caught.value.path == str(path)
    assert store.stats().packs == 0


# --- load_file --------------------------------------------------------------------------------


def test_a_loaded_file_has_its_label_and_so_its_extension(store: Store) -> None:
    uri = store.store_bytes(b"content", label="/data/rec 1.nwb")
    path = store.load_file(uri)
    assert (path.name, path.read_bytes()) == ("rec 1.nwb", b"content")
    assert path.parent.name == parse_uri(uri).sha1.hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert store.path not in path.parents, "the cache is not in the store"
    plain = f"sha1://{parse_uri(uri).sha1.hex()}"
    assert store.load_file(plain).name == "rec 1.nwb", "without a label in the URI, the label it was stored with"
    assert store.load_file(plain + "?label=other.h5").name == "other.h5"
    assert store.load_file(store.store_bytes(b"no label")).name == hashlib.sha1(b"no label").hexdigest()


def test_a_file_is_materialised_once(store: Store) -> None:
    uri = store.store_bytes(noise(3 * MIB), label="a.bin")
    path = store.load_file(uri)
    before = path.stat()
    assert store.load_file(uri) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_was_changed_in_the_cache_is_written_anew(store: Store) -> None:
    uri = store.store_bytes(b"the content", label="a.bin")
    path = store.load_file(uri)
    path.chmod(0o644)
    path.write_bytes(b"THE CONTENT")
    assert store.load_file(uri).read_bytes() == b"the content"


def test_a_destination_is_written_in_one_step_with_the_users_own_mode(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "copy.bin"
    target.write_bytes(b"an old file that is longer than the new")
    uri = store.store_bytes(b"content", label="a.bin")
    before = os.umask(0o027)
    try:
        assert store.load_file(uri, dest=target) == target
        assert os.umask(0o027) == 0o027, "the umask is as it was"
    finally:
        os.umask(before)
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy.bin"]
    target.write_bytes(b"the copy is mine to change")
    assert store.load_bytes(uri) == b"content"


def test_a_destination_that_is_a_directory_gets_the_file_under_its_label(store: Store, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    uri = store.store_bytes(b"content", label="../../up/a.bin")
    assert store.load_file(uri, dest=tmp_path / "folder") == tmp_path / "folder" / "a.bin"
    assert (tmp_path / "folder" / "a.bin").read_bytes() == b"content"
    assert os.listdir(tmp_path / "folder") == ["a.bin"]


@pytest.mark.parametrize("label", ["..", " ..", ".", "/", "\0", "a\\..", ". ."], ids=repr)
def test_no_label_leads_out_of_a_destination_directory(store: Store, tmp_path: Path, label: str) -> None:
    (tmp_path / "folder").mkdir()
    written = store.load_file(store.store_bytes(b"content", label=label), dest=tmp_path / "folder")
    assert written.parent == tmp_path / "folder"
    assert written.read_bytes() == b"content"


def test_a_relative_destination_is_relative_to_where_i_am(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.load_file(store.store_bytes(b"content"), dest="copy.bin") == tmp_path / "copy.bin"


@pytest.mark.parametrize("length", [1, 190, 230, 255])
def test_a_destination_may_have_any_name_that_the_file_system_takes(store: Store, tmp_path: Path, length: int) -> None:
    target = tmp_path / ("x" * length)
    assert store.load_file(store.store_bytes(b"content"), dest=target).read_bytes() == b"content"


def test_a_destination_that_cannot_be_written_is_a_typed_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    uri = store.store_bytes(b"content")
    for target in (tmp_path / "missing" / "copy", tmp_path / "file" / "copy", Path("/proc/copy")):
        with pytest.raises((DestinationError, StoreError)) as caught:
            store.load_file(uri, dest=target)
        assert str(target.parent) in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"mine"


# --- ranges and file objects ------------------------------------------------------------------

CONTENT = b"".join(b"line %d of the file\n" % i for i in range(40_000))
bounds = st.none() | st.integers(-len(CONTENT) - 50, len(CONTENT) + 50) | st.sampled_from([0, CHUNK_TARGET, -1])


@one_example_store
@given(bounds, bounds)
def test_a_range_of_bytes_is_a_python_slice(quick: Store, start: int | None, stop: int | None) -> None:
    uri = quick.store_bytes(CONTENT)
    assert quick.load_bytes(uri, start, stop) == CONTENT[start:stop]


@pytest.mark.parametrize("data", [b"", b"x"])
def test_a_range_of_little_or_nothing_is_a_python_slice(store: Store, data: bytes) -> None:
    uri = store.store_bytes(data)
    for start in (None, -2, -1, 0, 1, 2, 2**70):
        for stop in (None, -2, -1, 0, 1, 2, -(2**70)):
            assert store.load_bytes(uri, start, stop) == data[start:stop]


def test_a_range_may_be_numpy_integers(store: Store) -> None:
    uri = store.store_bytes(CONTENT)
    assert store.load_bytes(uri, np.int64(5), np.uint8(9)) == CONTENT[5:9]  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [1.0, "1", b"1", [1], np.float64(1)], ids=repr)
def test_a_range_that_is_none_is_refused(store: Store, bad: Any) -> None:
    uri = store.store_bytes(b"content")
    for bounds in ((bad, None), (None, bad)):
        with pytest.raises(InvalidRangeError, match="whole numbers"):
            store.load_bytes(uri, *bounds)


numbers = st.integers(0, 2000) | st.integers(0, len(CONTENT) + 1000)
operations = st.lists(
    st.tuples(st.sampled_from(["read", "readinto", "seek", "seek_end", "skip", "back"]), numbers)
    | st.tuples(st.sampled_from(["tell", "readline", "read_all", "next"]), st.just(0)),
    max_size=25,
)


def do(file: Any, name: str, number: int) -> object:
    """One step on a file, and what can be seen of it."""
    if name == "readinto":
        buffer = bytearray(number)
        return file.readinto(buffer), bytes(buffer)
    if name == "seek":
        return file.seek(number)
    if name == "seek_end":
        return file.seek(-min(number, len(CONTENT)), os.SEEK_END)
    if name == "skip":
        return file.seek(number, os.SEEK_CUR)
    if name == "back":
        return file.seek(-min(number, file.tell()), os.SEEK_CUR)
    if name == "next":
        return next(file, b"")
    if name == "read_all":
        return file.read()
    return getattr(file, name)(*([number] if name == "read" else []))


@one_example_store
@given(operations)
def test_an_open_file_behaves_as_the_same_bytes_in_memory(quick: Store, steps: list[tuple[str, int]]) -> None:
    memory = io.BytesIO(CONTENT)
    with quick.open_file(quick.store_bytes(CONTENT)) as file:
        for name, number in steps:
            assert do(file, name, number) == do(memory, name, number), (name, number)
            assert file.tell() == memory.tell()


def test_an_open_file_says_what_it_can_do(store: Store) -> None:
    uri = store.store_bytes(CONTENT, label="a.txt")
    with store.open_file(uri) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.peek(5)[:5] == CONTENT[:5]
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(OSError, match="before the start"):
            file.seek(-1)
        with pytest.raises(OSError):
            file.seek(-len(CONTENT) - 1, os.SEEK_END)
        with pytest.raises(ValueError):
            file.seek(0, 9)
        assert file.tell() == 0
        assert file.seek(len(CONTENT) + 100) == len(CONTENT) + 100
        assert file.read() == file.read(10) == b""
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_an_open_file_serves_text_readers_and_numpy(store: Store) -> None:
    with io.TextIOWrapper(store.open_file(store.store_bytes(CONTENT))) as lines:
        assert [line for line, _ in zip(lines, range(3), strict=False)] == CONTENT.decode().splitlines(True)[:3]
    array = np.arange(100_000).reshape(100, 1000)
    with store.open_file(store.store_npy(array)) as file:
        np.testing.assert_array_equal(np.load(file), array)
    with store.open_file(store.store_bytes(b"")) as file:
        assert file.read() == b""
