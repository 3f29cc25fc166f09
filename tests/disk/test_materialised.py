"""Materialised files: a safe name that keeps its extension, whole and verified, and there for a day at least."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kacas.disk.materialised import MaterialisedFiles, safe_name, write_out
from kacas.errors import DamagedPackError, StoreError
from kacas.model.uri import label_text

DAY_S = 24 * 3600


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


class Content:
    """Bytes, and how often they were read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def windows(self) -> Iterator[memoryview]:
        self.reads += 1
        for start in range(0, len(self.data), 100):
            yield memoryview(self.data[start : start + 100])


def get(files: MaterialisedFiles, content: Content, label: str = "a.bin") -> Path:
    return files.get(sha1(content.data), label, len(content.data), content.windows())


@pytest.fixture
def files(tmp_path: Path) -> MaterialisedFiles:
    return MaterialisedFiles(tmp_path, 1 << 30)


labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.binary(max_size=400).map(label_text)
hostile = st.lists(
    st.sampled_from(["..", ".", "/", "\\", " ", "\0", "\n", "\x85", "\u2003", "~", "-", "$HOME", "*", "a", ".npy", "é"])
).map("".join)


@settings(max_examples=300, deadline=None)
@given(labels | hostile)
@example(" ..")
@example("\u2003.")
@example(" .a.bin.json")
@example("x" * 250 + ".nwb")
@example("é" * 300)
@example("a." + "é" * 16)
@example("\udcff" * 300)
def test_a_name_made_of_any_label_is_safe(label: str) -> None:
    name = safe_name(label)
    encoded = os.fsencode(name)
    assert 0 < len(encoded) <= 200
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith("."), "hidden, or a way out"
    assert name == name.strip()
    assert all(character >= " " for character in name)


@settings(deadline=None)
@given(
    st.text("abcxyz 0-9_é", min_size=1, max_size=300).filter(str.strip),
    st.sampled_from([".npy", ".nwb", ".json", ".h5", ".tar.gz", ".very-long-ext"]),
)
def test_a_name_keeps_the_extension_of_its_label(stem: str, extension: str) -> None:
    assert safe_name(stem + extension).endswith("." + extension.rpartition(".")[2])
    assert safe_name("/data/raw/" + stem + extension).endswith("." + extension.rpartition(".")[2])


@pytest.mark.parametrize(
    "label, name",
    [
        ("a.npy", "a.npy"),
        ("naïve name (1).tif", "naïve name (1).tif"),
        ("/data/raw/a.npy", "a.npy"),
        ("C:\\data\\a.npy", "a.npy"),
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        ("/", "file"),
        ("", "file"),
        ("folder/", "folder"),
        (".hidden.npy", "hidden.npy"),
        ("a\nb\0c.npy", "a_b_c.npy"),
    ],
)
def test_known_labels_have_known_names(label: str, name: str) -> None:
    assert safe_name(label) == name


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels | hostile)
@example(" ..")
@example(" .a.bin.json")
def test_no_label_leads_out_of_the_directory(tmp_path: Path, files: MaterialisedFiles, label: str) -> None:
    content = Content(b"content of " + label.encode("utf-8", "surrogateescape"))
    path = get(files, content, label)
    assert path.read_bytes() == content.data
    assert path.parent == tmp_path / "files" / sha1(content.data).hex()
    assert not path.is_symlink()


def test_labels_of_one_content_do_not_disturb_each_other(files: MaterialisedFiles) -> None:
    content = Content(b"content")
    names = ["a.bin", " .a.bin.json", ".a.bin.json", "a.bin.json", "b", "b.json"]
    for _ in range(2):
        paths = [get(files, content, name) for name in names]
        assert [path.read_bytes() for path in paths] == [b"content"] * len(names)


@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1])
def test_a_file_of_any_size_is_written_whole_read_only_and_once(files: MaterialisedFiles, size: int) -> None:
    content = Content((b"0123456" * (size // 7 + 1))[:size])
    path = get(files, content)
    assert path.read_bytes() == content.data
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    reads, inode = content.reads, path.stat().st_ino
    for _ in range(3):
        assert get(files, content) == path
    assert (content.reads, path.stat().st_ino) == (reads, inode)
    assert sorted(os.listdir(path.parent)) == [".a.bin.json", "a.bin"]


def test_the_directories_are_private(tmp_path: Path, files: MaterialisedFiles) -> None:
    path = get(files, Content(b"content"))
    for place in (path.parent, tmp_path / "files"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_touched_file_is_written_anew(files: MaterialisedFiles) -> None:
    content = Content(b"the content")
    path = get(files, content)

    def overwrite() -> None:
        status = path.stat()
        path.chmod(0o644)
        path.write_bytes(b"THE CONTENT")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # covers its tracks

    def swap() -> None:
        path.unlink()
        path.write_bytes(b"THE CONTENT")

    def link() -> None:
        (path.parent / "elsewhere").write_bytes(b"THE CONTENT")
        path.unlink()
        path.symlink_to("elsewhere")

    record = path.parent / ".a.bin.json"
    for touch in (
        overwrite,
        swap,
        link,
        path.unlink,
        record.unlink,
        lambda: record.write_text("{}"),
        lambda: record.write_text("not json"),
        lambda: record.write_text("[1]"),
    ):
        touch()
        time.sleep(0.01)
        assert get(files, content) == path
        assert path.read_bytes() == b"the content"
        assert not path.is_symlink()


def damaged() -> Iterator[memoryview]:
    yield memoryview(b"the front")
    raise DamagedPackError("a flipped bit", pack="00")


def test_a_content_that_cannot_be_read_leaves_no_file(tmp_path: Path, files: MaterialisedFiles) -> None:
    with pytest.raises(DamagedPackError):
        files.get(bytes(20), "a.bin", 100, damaged())
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


def age(path: Path, days: float) -> None:
    """As if it was handed out that long ago."""
    then = time.time() - days * DAY_S
    for name in os.listdir(path.parent):
        os.utime(path.parent / name, (then, then))


def there(*paths: Path) -> list[bool]:
    return [path.exists() for path in paths]


def test_what_was_handed_out_within_a_day_is_never_dropped(tmp_path: Path) -> None:
    files = MaterialisedFiles(tmp_path, 100)
    paths = [get(files, Content(b"%d" % i * 1000)) for i in range(4)]
    age(paths[0], 0.9)
    get(files, Content(b"new" * 1000))
    assert there(*paths) == [True] * 4


def test_beyond_the_budget_the_oldest_is_dropped_first(tmp_path: Path) -> None:
    files = MaterialisedFiles(tmp_path, 6000)
    contents = [Content(b"%d" % i * 1000) for i in range(4)]
    paths = [get(files, content) for content in contents]
    for path, days in zip(paths, [2, 5, 3, 0.1], strict=True):
        age(path, days)
    new = get(files, Content(b"n" * 1000))
    assert there(*paths, new) == [True] * 5, "all that fits stays, however old"
    newer = get(files, Content(b"m" * 1200))
    assert there(*paths, new, newer) == [True, False, True, True, True, True]
    get(files, Content(b"o" * 3000))
    assert there(*paths, new, newer) == [False, False, False, True, True, True]
    assert get(files, contents[1]).read_bytes() == contents[1].data


def test_a_file_of_a_clock_that_was_set_back_is_kept_for_a_day_and_not_until_then(tmp_path: Path) -> None:
    files = MaterialisedFiles(tmp_path, 100)
    path = get(files, Content(b"x" * 1000))
    age(path, -300)
    get(files, Content(b"new" * 1000))
    assert path.exists()
    assert all(entry.stat().st_mtime <= time.time() for entry in path.parent.glob(".*.json"))


def test_handing_out_again_begins_the_day_anew(tmp_path: Path) -> None:
    files = MaterialisedFiles(tmp_path, 100)
    content = Content(b"x" * 1000)
    path = get(files, content)
    age(path, 3)
    assert get(files, content) == path
    get(files, Content(b"new" * 1000))
    assert path.exists()


@pytest.mark.parametrize("label", ["a.bin", "b.bin"])
def test_an_old_content_can_be_handed_out_again_though_the_budget_is_spent(tmp_path: Path, label: str) -> None:
    """Its own directory is the one that would be dropped to make room."""
    files = MaterialisedFiles(tmp_path, 100)
    content = Content(b"x" * 1000)
    path = get(files, content, "a.bin")
    path.unlink()
    age(path, 3)
    assert get(files, content, label).read_bytes() == content.data


def test_a_stray_file_in_the_cache_disturbs_nobody(tmp_path: Path) -> None:
    files = MaterialisedFiles(tmp_path, 100)
    get(files, Content(b"x"))
    (tmp_path / "files" / ".DS_Store").write_bytes(b"stray")
    (tmp_path / "files" / "stray").mkdir()
    assert get(files, Content(b"y" * 200)).read_bytes() == b"y" * 200


def test_a_file_replaces_its_destination_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "copy.bin"
    target.write_bytes(b"the old one")
    seen: list[bytes] = []

    def windows() -> Iterator[memoryview]:
        seen.append(target.read_bytes())
        yield memoryview(b"n" * 20)

    write_out(target, 20, windows(), mode=0o640, sync=True)
    assert seen == [b"the old one"]
    assert target.read_bytes() == b"n" * 20
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["copy.bin"]


def test_a_destination_is_left_as_it_was_when_the_content_is_damaged(tmp_path: Path) -> None:
    target = tmp_path / "copy.bin"
    target.write_bytes(b"the old one")

    with pytest.raises(DamagedPackError):
        write_out(target, 9 << 20, damaged(), mode=0o640, sync=False)
    assert target.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["copy.bin"]


def test_a_destination_whose_directory_is_missing_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        write_out(tmp_path / "missing" / "copy.bin", 1, Content(b"x").windows(), mode=0o640, sync=False)


def test_a_directory_that_another_process_made_a_moment_ago_is_not_dropped(tmp_path: Path) -> None:
    """It will hold that process's file in a millisecond."""
    files = MaterialisedFiles(tmp_path, 100)
    get(files, Content(b"x" * 1000))
    other = tmp_path / "files" / ("ab" * 20)
    other.mkdir()
    get(files, Content(b"y" * 1000))
    assert other.is_dir()
