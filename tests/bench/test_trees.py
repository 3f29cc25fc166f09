"""What the benchmark of directories is fed with: the same bytes each time, and edits that are where they say."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.machine import delete_large_files
from bench.trees import EDIT_STEP, make_tree, random_edits, same_trees, write_edited, write_large_file
from bench.workloads import MIB


def contents(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_a_tree_has_the_files_asked_for_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_tree(tmp_path / name, files=60, folders=7, sizes=(100, 200))
    made = contents(tmp_path / "one")
    assert made == contents(tmp_path / "two")
    assert len(made) == len(set(made.values())) == 60
    assert len(list((tmp_path / "one").iterdir())) == 7
    assert all(100 <= len(content) <= 200 for content in made.values())


def test_another_seed_makes_another_tree_and_a_half_made_one_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "one.unfinished" / "0000").mkdir(parents=True)
    (tmp_path / "one.unfinished" / "0000" / "stray.dat").write_bytes(b"of a run that was killed")
    make_tree(tmp_path / "one", files=6, folders=2, sizes=(100, 100), seed=0)
    make_tree(tmp_path / "two", files=6, folders=2, sizes=(100, 100), seed=1)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_trees_with_one_other_byte_or_one_file_less_are_not_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_tree(tmp_path / name, files=6, folders=2, sizes=(100, 100))
    assert same_trees(tmp_path / "one", tmp_path / "two")
    victim = next(path for path in (tmp_path / "two").rglob("*") if path.is_file())
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not same_trees(tmp_path / "one", tmp_path / "two")
    victim.unlink()
    assert not same_trees(tmp_path / "one", tmp_path / "two")


@settings(deadline=None, max_examples=30)
@given(
    size=st.integers(20 * EDIT_STEP, 50 * EDIT_STEP + 17),
    insertions=st.integers(0, 10),
    overwrites=st.integers(0, 10),
    seed=st.integers(0, 1000),
)
def test_an_edited_file_is_the_file_with_those_edits(size: int, insertions: int, overwrites: int, seed: int) -> None:
    edits = random_edits(size, insertions=insertions, overwrites=overwrites, seed=seed)
    assert sum(edit.removed == 0 for edit in edits) == insertions
    assert all(edit.removed in (0, len(edit.added)) for edit in edits)
    with tempfile.TemporaryDirectory() as directory:
        first, second = Path(directory, "first"), Path(directory, "second")
        first.write_bytes(os.urandom(size))
        write_edited(first, second, edits)
        expected = bytearray(first.read_bytes())
        for edit in reversed(edits):
            expected[edit.offset : edit.offset + edit.removed] = edit.added
        same = second.read_bytes() == expected  # not within the assertion: pytest would explain each byte
    assert same


def test_a_large_file_is_as_large_as_asked_for_and_repeats_nothing(tmp_path: Path) -> None:
    write_large_file(tmp_path / "large", 8 * MIB + 4096)
    content = (tmp_path / "large").read_bytes()
    assert len(content) == 8 * MIB + 4096
    assert content.count(content[:4096]) == content.count(content[-4096:]) == 1


def test_edits_that_would_touch_are_refused() -> None:
    with pytest.raises(ValueError):
        random_edits(19 * EDIT_STEP, insertions=10, overwrites=10)


def test_only_large_files_are_deleted_between_turns(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs" / "large").write_bytes(bytes(1000))
    (tmp_path / "packs" / "small").write_bytes(bytes(999))
    delete_large_files(tmp_path, 1000)
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["small"]
