"""Content-defined cuts: as the page about the formats says, whatever the blocks, and an edit changes chunks nearby only."""

from __future__ import annotations

import hashlib
import random
import re
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from kacas.model.codec import MAX_CHUNK_SIZE, MIB
from kacas.model.content_cuts import CONTENT_CUTTER, ContentCutter

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text("utf-8")
MIN, NORMAL, MAX = 131_072, 262_144, 1_048_576


def noise(size: int, seed: str = "kacas") -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


NOISE = noise(16 * MIB)
# Noise is cut by its bytes, zeros and a short period only by the largest size.
MIXED = NOISE[: 3 * MIB] + bytes(5 * MIB // 2) + b"0123456789 and so on\n" * 50_000 + NOISE[: 2 * MIB + 1]


def whole(data: bytes) -> list[int]:
    return ContentCutter().cut(memoryview(data), True)


def chunks(data: bytes) -> list[bytes]:
    ends = whole(data)
    return [data[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def offered(data: bytes, arrivals: list[int]) -> list[int]:
    """Ends, if the data comes in blocks that end at `arrivals`: what is uncut is offered again, as a pipeline does."""
    cutter, ends = ContentCutter(), [0]
    for arrived in [*sorted(arrivals), len(data)]:
        found = cutter.cut(memoryview(data)[ends[-1] : arrived], False)
        ends += [ends[-1] + end for end in found]
    rest = cutter.cut(memoryview(data)[ends[-1] :], True)
    return ends[1:] + [ends[-1] + end for end in rest]


def as_the_page_says(data: bytes) -> list[int]:
    """Section 9.6 of docs/formats.md, word for word, and slow."""
    gear = [int.from_bytes(hashlib.md5(bytes([value]) * 64).digest()[:8], "big") for value in range(256)]
    small, large = 0x0000D91747537000, 0x0000D90303537000
    ends, start = [], 0
    while start < len(data):
        rest = min(MAX, len(data) - start)
        end, value = rest, 0
        for at in range(MIN, rest // 2 * 2):
            value = (2 * value + gear[data[start + at]]) % 2**64
            if value & (small if at < NORMAL else large) == 0:
                end = at
                break
        start += end
        ends.append(start)
    return ends


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", NOISE[:MIN], NOISE[: MIN + 1], NOISE[:NORMAL], NOISE[: NORMAL + 1], NOISE[: 3 * MIB],
        bytes(MAX), bytes(MAX + MIN + 3), b"the same line\n" * 60_000,
    ],
    ids=lambda data: f"{len(data)} bytes of {data[:3].hex()}",
)  # fmt: skip
def test_cuts_are_where_the_page_about_the_formats_says(data: bytes) -> None:
    assert whole(data) == as_the_page_says(data)


def test_the_page_names_the_cutter_and_its_numbers() -> None:
    for words in (f'cutter = "{CONTENT_CUTTER}"', "0000d91747537000", "0000d90303537000", f"{MIN:,}", f"{MAX:,}"):
        assert words in PAGE, words


def test_the_cuts_of_known_content_are_frozen() -> None:
    """A library that cuts in another way would store everything anew: it needs a cutter name of its own."""
    frozen = [
        466714, 744751, 1057040, 1406912, 1540839, 1861424, 2222956, 2522100, 2839580, 3146037, 3438714, 3706554, 3933313,
        4194304,
    ]  # fmt: skip
    assert whole(noise(4 * MIB)) == frozen
    shown = re.search(r"shake_256\(b.kacas.\).*?:\n\n([0-9,\s]+)\n\n", PAGE)
    assert shown, "the page gives them too"
    assert [int(end) for end in shown[1].split(",")] == frozen


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_cuts_do_not_depend_on_how_the_stream_is_split(data: st.DataObject) -> None:
    content = MIXED[data.draw(st.integers(0, 6 * MIB)) :]
    ends = whole(content)
    near = st.builds(lambda end, off: max(0, min(len(content), end + off)), st.sampled_from(ends), st.integers(-3, 3))
    arrivals = data.draw(st.lists(near | st.integers(0, len(content)), max_size=12))
    assert offered(content, arrivals) == ends


@pytest.mark.parametrize("block", [MIB // 3, MIB, 4 * MIB])
def test_even_blocks_give_the_cuts_of_the_whole(block: int) -> None:
    assert offered(MIXED, list(range(block, len(MIXED), block))) == whole(MIXED)


@pytest.mark.parametrize("content", ["noise", "zeros", "ones", "period"])
def test_a_mebibyte_of_data_always_gives_a_cut_within_the_bounds(content: str) -> None:
    data = {"noise": NOISE, "zeros": bytes(MAX), "ones": b"\xff" * MAX, "period": b"0123456789\n" * MAX}[content]
    ends = ContentCutter().cut(memoryview(data)[:MIB], False)
    assert ends
    assert MIN <= ends[0] <= MAX <= MAX_CHUNK_SIZE


def test_chunks_of_noise_have_the_wanted_size_and_keep_the_bounds() -> None:
    sizes = [len(chunk) for chunk in chunks(NOISE)]
    assert all(MIN <= size <= MAX for size in sizes[:-1])
    assert 0.8 * NORMAL < sum(sizes) / len(sizes) < 1.5 * NORMAL


HAVE = {blake3(chunk).digest() for chunk in chunks(NOISE)}
edits = st.tuples(st.sampled_from(["insert", "delete", "overwrite"]), st.integers(0, len(NOISE)), st.integers(1, 5000))


@settings(max_examples=60, deadline=None)
@given(st.lists(edits, min_size=1, max_size=5), st.integers(0, 1 << 30))
def test_random_edits_share_all_but_nearby_chunks(made: list[tuple[str, int, int]], seed: int) -> None:
    fresh, edited = random.Random(seed), NOISE
    for what, at, size in made:
        new = b"" if what == "delete" else fresh.randbytes(size)
        edited = edited[:at] + new + edited[at if what == "insert" else at + size :]
    first = min(at for _, at, _ in made)
    assert [end for end in whole(edited) if end < first] == [end for end in whole(NOISE) if end < first]
    # Of 6,000 single edits, 97.6 % changed one chunk; none changed more than 6.
    differ = sum(blake3(chunk).digest() not in HAVE for chunk in chunks(edited))
    assert differ <= 2 * len(made) + 8
