"""The publish protocol: a file appears whole and exactly once, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kacas.disk.durable import Temporary, _await_mode, make_directory, publish_bytes, temporary_name, translate
from kacas.disk.ownership import user_name
from kacas.errors import AccessDeniedError, NoSpaceError, ReadOnlyStoreError, StoreError, WriteError


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("sync", [True, False])
def test_a_published_file_has_all_its_bytes_and_leaves_no_temporary(tmp_path: Path, sync: bool) -> None:
    temporary = Temporary(tmp_path, "a.pack", mode=0o444, sync=sync)
    temporary.append([b"one ", bytearray(b"two "), memoryview(b"three")])
    temporary.append([b"", b" four"])
    assert temporary.size == len(b"one two three four")
    assert not (tmp_path / "a.pack").exists()
    temporary.publish()
    assert os.listdir(tmp_path) == ["a.pack"]
    assert (tmp_path / "a.pack").read_bytes() == b"one two three four"


def test_on_a_network_a_temporary_goes_a_moment_later_also_where_no_thread_can_be_started(tmp_path: Path) -> None:
    Temporary(tmp_path, "a.pack", mode=0o444, sync=True, network=True).publish()
    before = threading.stack_size(1 << 46)  # as when the interpreter ends: no thread can be started
    try:
        Temporary(tmp_path, "b.pack", mode=0o444, sync=True, network=True).publish()
    finally:
        threading.stack_size(before)
    assert [name for name in os.listdir(tmp_path) if name.startswith(".b.pack")] == []
    end = time.monotonic() + 30
    while len(os.listdir(tmp_path)) > 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert sorted(os.listdir(tmp_path)) == ["a.pack", "b.pack"]


def test_a_temporary_is_beside_its_final_name_and_says_who_writes(tmp_path: Path) -> None:
    temporary = Temporary(tmp_path, "a.pack", mode=0o444, sync=False)
    assert temporary.path.parent == tmp_path
    assert temporary.path.name.startswith(".a.pack.tmp.")
    assert f".{os.getpid()}." in temporary.path.name
    assert mode_of(temporary.path) == 0o444
    temporary.discard()


def test_a_name_that_is_taken_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.pack").write_bytes(b"the first")
    temporary = Temporary(tmp_path, "a.pack", mode=0o444, sync=True)
    temporary.append([b"the second"])
    with pytest.raises(FileExistsError):
        temporary.publish()
    assert (tmp_path / "a.pack").read_bytes() == b"the first"
    assert os.listdir(tmp_path) == ["a.pack"]


def test_a_taken_name_stays_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "link"):
        with pytest.raises(FileExistsError):
            publish_bytes(tmp_path, name, b"data", mode=0o444, sync=False)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert not (tmp_path / "nowhere").exists()


def test_of_many_who_publish_one_name_exactly_one_succeeds(tmp_path: Path) -> None:
    won: list[bytes] = []
    lost: list[bytes] = []
    start = threading.Barrier(8)

    def publish(data: bytes) -> None:
        start.wait()
        try:
            publish_bytes(tmp_path, "record", data, mode=0o444, sync=False)
            won.append(data)
        except FileExistsError:
            lost.append(data)

    threads = [threading.Thread(target=publish, args=[b"from %d" % i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert (tmp_path / "record").read_bytes() == won[0]
    assert os.listdir(tmp_path) == ["record"]


@pytest.mark.parametrize("mode", [0o444, 0o664, 0o600])
def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    publish_bytes(tmp_path, "record", b"data", mode=mode, sync=True)
    assert mode_of(tmp_path / "record") == mode


def test_a_directorys_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    for mode in (0o700, 0o755, 0o770):
        make_directory(tmp_path / oct(mode), mode, sync=True)
        assert mode_of(tmp_path / oct(mode)) == mode
    make_directory(tmp_path / "a" / "b" / "c", 0o700, sync=False)
    assert [mode_of(tmp_path / part) for part in ("a", "a/b", "a/b/c")] == [0o755, 0o755, 0o700]


def test_making_a_directory_that_is_there_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o711)
    make_directory(tmp_path / "there", 0o700, sync=True)
    assert mode_of(tmp_path / "there") == 0o711


def test_a_file_in_the_place_of_a_directory_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        make_directory(tmp_path / "file", 0o700, sync=False)


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_discarded_leaves_nothing(tmp_path: Path, times: int) -> None:
    temporary = Temporary(tmp_path, "a.pack", mode=0o444, sync=True)
    temporary.append([b"data"])
    for _ in range(times):
        temporary.discard()
    assert os.listdir(tmp_path) == []
    with pytest.raises(OSError):
        os.fstat(temporary.fd)


def test_discarding_after_publishing_keeps_what_was_published(tmp_path: Path) -> None:
    temporary = Temporary(tmp_path, "a.pack", mode=0o444, sync=False)
    temporary.append([b"data"])
    temporary.publish()
    temporary.discard()
    assert (tmp_path / "a.pack").read_bytes() == b"data"


def test_replacing_gives_the_name_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "copy.bin").write_bytes(b"the old one")
    temporary = Temporary(tmp_path, "copy.bin", mode=0o640, sync=True)
    temporary.append([b"the new"])
    assert (tmp_path / "copy.bin").read_bytes() == b"the old one"
    temporary.replace()
    assert (tmp_path / "copy.bin").read_bytes() == b"the new"
    assert mode_of(tmp_path / "copy.bin") == 0o640
    assert os.listdir(tmp_path) == ["copy.bin"]


def test_replacing_a_directory_is_refused_and_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    temporary = Temporary(tmp_path, "folder", mode=0o640, sync=False)
    with pytest.raises(StoreError):
        temporary.replace()
    assert os.listdir(tmp_path) == ["folder"]


def test_a_directory_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"creating .*missing.* failed") as caught:
        Temporary(tmp_path / "missing", "a", mode=0o444, sync=False)
    assert str(tmp_path / "missing") in caught.value.path


@pytest.mark.parametrize(
    "number, kind",
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EROFS, ReadOnlyStoreError),
        (errno.EACCES, ReadOnlyStoreError),
        (errno.EIO, WriteError),
        (errno.ESTALE, WriteError),
    ],
)
def test_a_failed_call_becomes_an_error_that_says_what_and_where(number: int, kind: type[StoreError]) -> None:
    error = translate(OSError(number, os.strerror(number)), "/data/store/packs/x", "writing")
    assert type(error) is kind
    assert error.path == "/data/store/packs/x"
    assert str(error).startswith(f"writing /data/store/packs/x failed: {os.strerror(number)}; ")


def test_a_quota_that_is_used_up_is_said_to_be_so() -> None:
    words = str(translate(OSError(errno.EDQUOT, "x"), "/data/store/packs/x", "writing"))
    assert f"the disk quota of {user_name()}" in words
    assert "`quota -s`" in words
    assert "The store is intact" in words


@pytest.mark.parametrize("doing", ["listing", "reading", "looking at"])
def test_what_could_not_be_read_is_not_called_a_write(doing: str) -> None:
    error = translate(OSError(errno.EIO, "x"), "/data/store/packs", doing)
    assert type(error) is StoreError
    assert "published" not in str(error)


@pytest.mark.parametrize("text", [b"", b"more"])
def test_a_temporary_that_somebody_swept_is_said_to_be_gone(tmp_path: Path, text: bytes) -> None:
    temporary = Temporary(tmp_path, "a", mode=0o444, sync=True)
    temporary.path.unlink()
    temporary.append([text])
    with pytest.raises(WriteError, match=r"its temporary is gone: .*kacas doctor.*store again") as caught:
        temporary.publish()
    assert "Check the disk" not in str(caught.value)


@pytest.mark.parametrize("doing, gone", [("writing", True), ("syncing", True), ("creating", False)])
def test_of_a_temporary_that_a_server_calls_stale_it_is_said_that_it_is_gone(doing: str, gone: bool) -> None:
    error = translate(OSError(errno.ESTALE, "x"), f"/data/store/packs/{temporary_name('x')}", doing)
    assert ("its temporary is gone" in str(error), "Check the disk" in str(error)) == (gone, not gone)


def test_a_file_system_that_is_mounted_read_only_is_said_to_be_so() -> None:
    words = str(translate(OSError(errno.EROFS, "x"), "/data/store/packs/x", "writing"))
    assert "mounted read-only" in words


@pytest.mark.parametrize("doing, kind", [("listing", AccessDeniedError), ("creating", ReadOnlyStoreError)])
def test_a_refusal_names_the_directory_its_owner_and_who_asks(
    tmp_path: Path, doing: str, kind: type[StoreError]
) -> None:
    (tmp_path / "packs").mkdir(0o755)
    (tmp_path / "packs").chmod(0o550)
    error = translate(OSError(errno.EACCES, "x"), tmp_path / "packs" / "x", doing)
    assert type(error) is kind
    assert isinstance(error, PermissionError)
    assert f"{tmp_path / 'packs'} is {user_name()}'s, of the group " in str(error)
    assert "dr-xr-x---, and you are " in str(error)
    assert "kacas doctor" in str(error)


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct, indirect=True)
def test_directories_and_their_parents_have_the_modes_that_were_asked_for(tmp_path: Path, umask: int) -> None:
    make_directory(tmp_path / "a" / "b" / "c", 0o750, sync=True, parents_mode=0o711)
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o711, 0o711, 0o750]


def test_who_comes_second_waits_for_the_mode_that_the_first_sets(tmp_path: Path) -> None:
    """Between mkdir and chmod a directory may keep its own group out."""
    place = tmp_path / "a"
    place.mkdir(0o700)
    timer = threading.Timer(0.05, lambda: place.chmod(0o770))
    timer.start()
    _await_mode(place, 0o770)
    assert mode_of(place) == 0o770
    timer.join()


parts = st.lists(st.binary(max_size=40) | st.integers(0, 300).map(bytes), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts, max_size=5))
def test_any_parts_arrive_in_order(tmp_path: Path, calls: list[list[bytes]]) -> None:
    temporary = Temporary(tmp_path, "a", mode=0o444, sync=False)
    try:
        for call in calls:
            temporary.append(call)
        assert temporary.path.read_bytes() == b"".join(b"".join(call) for call in calls)
    finally:
        temporary.discard()


def test_more_parts_than_the_kernel_takes_at_once_arrive_in_order(tmp_path: Path) -> None:
    many = [b"%d," % i for i in range(5000)]
    publish = Temporary(tmp_path, "a", mode=0o444, sync=False)
    publish.append(many)
    publish.publish()
    assert (tmp_path / "a").read_bytes() == b"".join(many)


def test_a_file_that_was_swept_is_not_taken_for_another_that_has_its_inode_now(tmp_path: Path) -> None:
    temporary = Temporary(tmp_path, "7", mode=0o444, sync=False)
    temporary.append([b"mine"])
    os.link(temporary.path, tmp_path / "7")  # what a reused inode looks like
    os.unlink(temporary.path)
    with pytest.raises(WriteError):
        temporary.publish()
