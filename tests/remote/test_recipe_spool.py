"""A large recipe is on disk until it is sent, and is the same bytes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.recipe import Head
from kacas_remote.recipe_spool import PART_SIZE, RecipeSpool
from tests.remote.recipes import SHA1, Tree, chunk, encoded, leaves, opened, places_of, tree_of


def large() -> tuple[Head, Tree, int]:
    count = 256 * 800
    root, tree = tree_of([chunk(number) for number in range(count)], 256)
    return Head(SHA1, root, count, 1), tree, count


@pytest.mark.parametrize("count", [1, 3, 30])
def test_a_small_recipe_is_one_part(tmp_path: Path, count: int) -> None:
    root, tree = tree_of([chunk(number) for number in range(count)])
    head = Head(SHA1, root, count, 1)
    with RecipeSpool(tmp_path, head, tree, places_of) as recipe:
        (part,) = recipe.parts()
        assert part == encoded(head, tree)
        assert recipe.size == len(part)


def test_a_large_recipe_comes_in_parts_and_in_little_memory(tmp_path: Path) -> None:
    head, tree, count = large()
    tracemalloc.start()
    with RecipeSpool(tmp_path, head, tree, places_of) as recipe:
        sizes = [len(part) for part in recipe.parts()]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(sizes) == recipe.size > PART_SIZE
        assert set(sizes[:-1]) == {PART_SIZE}
        assert 0 < sizes[-1] <= PART_SIZE
        assert peak < 4 * PART_SIZE
        data = b"".join(recipe.parts())
        blobs = MemoryBlobs()
        assert recipe.put_if_absent(blobs, "recipe")
        assert not recipe.put_if_absent(blobs, "recipe")
        assert blobs.get("recipe", len(data)) == data
    assert data == encoded(head, tree)
    assert sum(1 for _ in leaves(data, opened(data))) == count
    assert list(tmp_path.iterdir()) == []
