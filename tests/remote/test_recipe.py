"""Recipes: exact bytes, and nothing but what was written is believed."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import NewerFormatError
from kacas.model.digest import checksum, chunk_digest
from kacas.model.manifest import Child
from kacas_remote.recipe import (
    MAX_FRONT_SIZE,
    ChunkPlace,
    DamagedRecipeError,
    Head,
    LyingRecipeError,
    RecipeError,
    decode_head,
    decode_recipe,
    encode_recipe,
    front_size,
)
from kacas_remote.signing import PrivateKey, Signature, sign, statement
from tests.remote.recipes import SHA1, chunk, encoded, leaves, opened, places_of, recipe_of, tree_of

chunks = st.lists(st.builds(chunk, st.integers(0, 20), st.integers(1, 3)), min_size=1, max_size=60)
heads = st.binary(max_size=40)
labels = st.binary(max_size=1024)


def resealed(data: bytes, start: int, stop: int) -> bytes:
    """With the sum of what is there, as a liar would write it."""
    return data[: stop - 16] + checksum(16, data[start : stop - 16]) + data[stop:]


@given(chunks, st.integers(1, 5), heads, labels, st.integers(0, 3), st.integers(0, 300))
def test_what_is_written_is_read(
    content: list[Child], fan_out: int, head: bytes, label: bytes, signed: int, packs: int
) -> None:
    fan_out = max(2, fan_out)
    signatures = tuple(Signature(bytes([number]) * 32, bytes(64)) for number in range(signed))
    member_packs = tuple(number.to_bytes(16, "big") for number in range(packs))
    fields = {"label": label, "time_ns": -5, "signatures": signatures, "member_packs": member_packs}
    content = [chunk(index % 7, 1 + index % 3) for index, _ in enumerate(content)]
    data = recipe_of(content, fan_out, head, **fields)
    recipe = opened(data)
    assert recipe.head == Head(SHA1, recipe.head.root, len(head) + sum(c.size for c in content), 1, **fields)  # type: ignore[arg-type]
    assert decode_head(data) == recipe.head
    found = list(leaves(data, recipe))
    assert [child for child, _ in found] == content
    for child, place in found:
        if place.pack_id is not None:
            assert [place] == places_of([child], 0)
        else:
            assert (place.size, child.digest[0] % 6) == (child.size, 5)


def test_content_of_one_chunk_has_one_record_and_no_page_more() -> None:
    head = Head(SHA1, chunk_digest(b"abc"), 3, 5)
    place = ChunkPlace(b"p" * 16, 64, 70)
    data = encode_recipe(head, [], lambda children, at: [place], lambda page: pytest.fail("there is no page"))
    assert list(leaves(data, opened(data))) == [(Child(head.root, 3), place)]


def test_chunks_of_a_plain_object_are_where_they_are_in_the_content() -> None:
    content = [chunk(number, 10) for number in range(10)]
    root, tree = tree_of(content, 3, b"head")
    pages: list[bytes] = []

    def locate(children: object, at: int) -> list[ChunkPlace]:
        return [ChunkPlace(None, at + 10 * index, 10) for index in range(len(children))]  # type: ignore[arg-type]

    data = encode_recipe(Head(SHA1, root, 104, 1), tree, locate, pages.append) + b"".join(pages)
    assert [place.offset for _, place in leaves(data, opened(data))] == list(range(4, 104, 10))


def test_any_flipped_bit_is_noticed() -> None:
    data = recipe_of(
        [chunk(number) for number in range(14)], label=b"name", signatures=(Signature(bytes(32), bytes(64)),)
    )
    wanted = list(leaves(data, opened(data)))
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises((RecipeError, NewerFormatError)):
            list(leaves(bytes(broken), decode_recipe(bytes(broken))))
    assert list(leaves(data, opened(data))) == wanted


def test_any_truncation_is_noticed_as_damage() -> None:
    data = recipe_of([chunk(number) for number in range(14)])
    for size in range(len(data)):
        with pytest.raises(DamagedRecipeError):
            list(leaves(data[:size], decode_recipe(data[:size])))


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_crash_a_reader_nor_take_memory(data: bytes, like: bool) -> None:
    whole = recipe_of([chunk(number) for number in range(14)])
    data = whole[:10] + data if like else data
    tracemalloc.start()
    try:
        assert front_size(data) <= MAX_FRONT_SIZE
        decode_recipe(data)
    except (RecipeError, NewerFormatError):
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


@given(st.data())
def test_a_head_that_is_written_anew_with_its_sum_never_crashes_nor_leads_elsewhere(data: st.DataObject) -> None:
    whole = recipe_of([chunk(number) for number in range(14)])
    recipe = opened(whole)
    head_size = recipe.front_size - int.from_bytes(whole[88:92], "little")
    at = data.draw(st.integers(10, head_size - 17))
    broken = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + 8 :]
    broken = resealed(broken[: len(whole)].ljust(len(whole), b"\0"), 0, head_size)
    try:
        found = decode_recipe(broken)
    except (RecipeError, NewerFormatError):
        return
    assert found.head.root == recipe.head.root
    assert found.head.size == recipe.head.size


@given(st.data())
def test_a_page_that_is_written_anew_with_its_sum_gives_the_right_chunks_or_an_error(data: st.DataObject) -> None:
    whole = recipe_of([chunk(number) for number in range(14)])
    recipe = opened(whole)
    wanted = [child for child, _ in leaves(whole, recipe)]
    child, (start, stop) = data.draw(st.sampled_from(list(recipe.top.nodes())))
    at = data.draw(st.integers(start, stop - 17))
    broken = bytearray(whole)
    broken[at] ^= data.draw(st.integers(1, 255))
    try:
        found = list(leaves(lying := resealed(bytes(broken), start, stop), opened(lying)))
    except RecipeError:
        return
    assert [child for child, _ in found] == wanted, child


def test_pages_that_point_to_one_another_end_in_an_error() -> None:
    content = [chunk(number) for number in range(30)]
    whole = recipe_of(content, 2)
    recipe = opened(whole)
    (_, (start, stop)), *_ = recipe.top.nodes()
    offset = (start - recipe.front_size).to_bytes(8, "little") + (stop - start).to_bytes(4, "little")
    lying = bytearray(whole)
    lying[stop - 16 - 32 : stop - 16 - 32 + 12] = offset  # its first child is itself
    with pytest.raises(LyingRecipeError, match="page"):
        list(leaves(sealed := resealed(bytes(lying), start, stop), opened(sealed)))


@pytest.mark.parametrize(
    "place",
    [
        ChunkPlace(None, 0, 2),
        ChunkPlace(None, 1, 1),
        ChunkPlace(b"p" * 16, 0, 100),
        ChunkPlace(b"p" * 16, 64, 1 << 31),
        ChunkPlace(b"p" * 16, 1 << 63, 100),
        ChunkPlace(b"p" * 16, 64, 10),
    ],
)
def test_a_place_that_cannot_be_is_not_written(place: ChunkPlace) -> None:
    head = Head(SHA1, chunk_digest(b"a"), 1, 5)
    with pytest.raises(LyingRecipeError):
        encode_recipe(head, [], lambda children, at: [place], lambda page: None)


def test_a_root_or_a_size_that_is_not_the_manifests_is_a_lie() -> None:
    content = [chunk(number) for number in range(4)]
    root, tree = tree_of(content)
    for head in (Head(SHA1, bytes(32), 4, 1), Head(SHA1, root, 5, 1), Head(SHA1, root, 1 << 63, 1)):
        with pytest.raises(LyingRecipeError):
            encoded(head, tree)
    with pytest.raises(LyingRecipeError, match="one chunk"):
        encoded(Head(SHA1, root, 1 << 30, 1), [])


def test_a_newer_recipe_asks_for_a_newer_kacas() -> None:
    whole = bytearray(recipe_of([chunk(1)]))
    whole[8] = 2
    with pytest.raises(NewerFormatError, match="upgrade"):
        decode_recipe(bytes(whole))


def test_a_repeated_node_has_one_page() -> None:
    data = recipe_of([chunk(number % 3) for number in range(27)])
    assert len(set(opened(data).top.places)) == 1
    assert len(list(leaves(data, opened(data)))) == 27


def test_a_recipe_of_a_large_array_is_made_in_little_memory() -> None:
    def growth(nodes: int) -> int:
        root, tree = tree_of([chunk(number, 1) for number in range(256 * nodes)], 256)
        tracemalloc.start()
        encode_recipe(Head(SHA1, root, 256 * nodes, 1), tree, places_of, len)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    # A page has 14,600 bytes: none of them may stay.
    assert growth(32) < growth(4) + 28 * 2_000


def test_signatures_travel_with_it() -> None:
    key = PrivateKey(bytes(range(32)))
    signature = sign(key, statement(SHA1, bytes(32), 3, 1))
    data = recipe_of([chunk(1)], signatures=(signature,))
    assert opened(data).head.signatures == (signature,)
