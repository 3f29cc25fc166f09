"""One flipped bit in any byte of a pack: right bytes or a typed error that names the pack, and verify finds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.upkeep.verify import verify
from tests.faults import contents
from tests.faults.children import Child, fork
from tests.faults.examination import flip, open_store
from tests.faults.specimen import Specimen, make


def bits(size: int, seed: int = contents.SEED) -> list[int]:
    """Which bit of each byte is flipped."""
    print(f"seed {seed}")
    return np.random.default_rng(seed).integers(8, size=size).tolist()


def in_processes(directory: Path, positions: list[int], check: object) -> None:
    """check(specimen, positions) in two processes, on a specimen each."""
    children: list[Child] = []
    for half in range(2):
        place = directory / str(half)
        place.mkdir()
        children.append(fork(lambda place=place, half=half: check(make(place), positions[half::2])))  # type: ignore[misc, operator]
    for child in children:
        child.wait(timeout_s=280).get()


def damage_each(damaged: Specimen, positions: Iterable[int], all_bits: list[int]) -> None:
    for position in positions:
        flip(damaged.pack, position, all_bits[position])
        try:
            with damaged.open_fresh() as store:
                damaged.check_loads(store)
                damaged.check_verify(store)
        except BaseException as exc:
            exc.add_note(f"bit {all_bits[position]} of byte {position} of {damaged.pack.stat().st_size}")
            raise
        finally:
            flip(damaged.pack, position, all_bits[position])


def test_a_flipped_bit_in_any_byte_of_a_pack_is_never_data_and_verify_names_the_pack(
    tmp_path: Path, specimen: Specimen
) -> None:
    size = specimen.pack.stat().st_size
    assert 1000 < size < 5000
    all_bits = bits(size + 200)  # the labels and digests are the same, so that the sizes are
    in_processes(tmp_path, list(range(size)), lambda damaged, part: damage_each(damaged, part, all_bits))


@pytest.mark.heavy
@pytest.mark.parametrize("bit", range(8))
def test_each_bit_of_every_byte_of_a_pack(tmp_path: Path, specimen: Specimen, bit: int) -> None:
    size = specimen.pack.stat().st_size
    in_processes(tmp_path, list(range(size)), lambda damaged, part: damage_each(damaged, part, [bit] * size))


def heal_each(damaged: Specimen, positions: Iterable[int], all_bits: list[int], found_by: str) -> None:
    """Flip, find, store again, look with new eyes."""
    packs = set(damaged.pack.parent.iterdir())
    for position in positions:
        if found_by == "verify with an old index":
            # It knows what the table said before the damage.
            damaged.open_fresh().close()
        flip(damaged.pack, position, all_bits[position])
        try:
            with damaged.open() if found_by == "verify with an old index" else damaged.open_fresh() as store:
                if found_by == "load":
                    damaged.check_loads(store)
                else:
                    damaged.check_verify(store)
                damaged.store_again(store)
                for uri, content in damaged.inside.items():
                    assert store.load_bytes(uri) == content.data
            damaged.check_healed()
        except BaseException as exc:
            exc.add_note(f"bit {all_bits[position]} of byte {position} of {damaged.pack.stat().st_size}")
            raise
        finally:
            flip(damaged.pack, position, all_bits[position])
            for new in set(damaged.pack.parent.iterdir()) - packs:
                new.unlink()


FOUND_BY = ["load", "verify", "verify with an old index"]


@pytest.mark.parametrize("found_by", FOUND_BY)
def test_storing_content_again_after_its_damage_was_found_heals_it(specimen: Specimen, found_by: str) -> None:
    size = specimen.pack.stat().st_size
    heal_each(specimen, range(0, size, 41), bits(size), found_by)


@pytest.mark.heavy
@pytest.mark.parametrize("found_by", FOUND_BY)
def test_storing_content_again_heals_damage_at_many_bytes(tmp_path: Path, specimen: Specimen, found_by: str) -> None:
    size = specimen.pack.stat().st_size
    all_bits = bits(size + 200)

    def heal(damaged: Specimen, part: list[int]) -> None:
        heal_each(damaged, part, all_bits, found_by)

    in_processes(tmp_path, list(range(3, size, 7)), heal)


def test_damage_under_an_open_store_is_never_data(specimen: Specimen) -> None:
    size = specimen.pack.stat().st_size
    all_bits = bits(size)
    with specimen.open() as store:
        assert specimen.check_loads(store) == []
        for position in range(0, size, 7):
            flip(specimen.pack, position, all_bits[position])
            specimen.check_loads(store)
            flip(specimen.pack, position, all_bits[position])
        assert specimen.check_loads(store) == [], "a pack that is good again was not read again"


LOADS: list[Callable[[kacas.Store, str, contents.Content, int], bool]] = [
    lambda store, uri, array, _: np.array_equal(store.load_npy(uri), array.value),
    lambda store, uri, array, at: np.array_equal(store.open_npy(uri)[at : at + 1000], array.value[at : at + 1000]),
    lambda store, uri, array, _: store.load_file(uri).read_bytes() == array.data,
    lambda store, uri, array, _: store.open_file(uri).read() == array.data,
]


def check_large(directory: Path, flips: int) -> None:
    """Random bits in a pack with an array of many chunks: each load whole, sliced and by file."""
    array = contents.array("many chunks", rows=20_000)
    with open_store(directory / "store", directory / "maker", create=True) as store:
        uri = array.put(store)
    (pack,) = (directory / "store" / "packs").iterdir()
    generator = np.random.default_rng(contents.SEED + 1)
    print(f"seed {contents.SEED + 1}")
    good = 0
    for number in range(flips):
        position, bit = int(generator.integers(pack.stat().st_size)), int(generator.integers(8))
        start = int(generator.integers(19_000))
        flip(pack, position, bit)
        with open_store(directory / "store", directory / f"cache-{number}") as store:
            for load in LOADS:
                try:
                    assert load(store, uri, array, start), f"wrong data with bit {bit} of byte {position}"
                    good += 1
                except kacas.DamagedPackError as exc:
                    assert exc.pack == pack.stem
                except kacas.NewerFormatError as exc:
                    assert exc.pack == pack.stem
            assert pack.stem in {problem.pack for problem in verify(store).problems}
        flip(pack, position, bit)
    # Slices that do not touch the damage are not disturbed.
    assert flips // 4 < good < flips * 4


def test_a_flipped_bit_in_a_large_pack_is_never_data(tmp_path: Path) -> None:
    check_large(tmp_path, 25)


@pytest.mark.heavy
def test_many_flipped_bits_in_a_large_pack_are_never_data(tmp_path: Path) -> None:
    check_large(tmp_path, 600)


def test_a_materialised_file_that_was_touched_is_written_anew(store: kacas.Store) -> None:
    content = contents.array("materialised", rows=3000)
    uri = content.put(store)
    path = store.load_file(uri)
    for position in (0, 200, 40_000):
        before = path.stat()
        flip(path, position, 3)
        os.chmod(path, 0o444)
        # Whoever changes it may even put the time of change back; the time of the inode he cannot.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        path = store.load_file(uri)
        assert path.read_bytes() == content.data
