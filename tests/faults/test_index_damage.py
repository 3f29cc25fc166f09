"""The index damaged: never wrong data, never a false "not found"; it only costs speed, and is made anew."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.faults import contents
from tests.faults.children import NOBODY, become_nobody, fork, limit_memory, run
from tests.faults.examination import check_index, check_verified, flip, open_store
from tests.faults.indexed import Indexed, damage_and_look, make_indexed

PAGE = 4096
# LMDB trusts its pages: a flipped offset can make it read behind the end of its file, which is SIGBUS. Of bits
# chosen at random 1 in 2,100 did; of bits in the pages' headers and first offsets, 47 in 3,500. The limits leave
# room for chance: ids, and with them the pages, are other ones each time.
MOST_DEATHS_OF_RANDOM_FLIPS = 0.05
MOST_DEATHS_OF_FLIPS_IN_HEADERS = 0.1


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    return make_indexed(tmp_path_factory.mktemp("indexed"), 400)


@pytest.fixture
def indexed(shared: Indexed) -> Iterator[Indexed]:
    shared.restore()
    yield shared
    shared.restore()


class Draw:
    """Seeded choices."""

    def __init__(self, indexed: Indexed, seed: int) -> None:
        print(f"seed {seed}")
        self.generator = np.random.default_rng(seed)
        self.indexed = indexed
        self.all_uris = sorted(indexed.stored)

    def uris(self) -> list[str]:
        """Some, and always the array."""
        picked = self.generator.integers(len(self.all_uris), size=15)
        array = next(uri for uri, content in self.indexed.stored.items() if content.verb == "npy")
        return [self.all_uris[i] for i in picked] + [array]

    def positions(self, count: int) -> Iterator[int]:
        for _ in range(count):
            yield int(self.generator.integers(self.indexed.data.stat().st_size))

    def header_positions(self, count: int) -> Iterator[int]:
        """In the pages' headers and first offsets, and in the two pages that say where the trees begin."""
        for number in range(count):
            pages = self.indexed.data.stat().st_size // PAGE
            page = number % 2 if number % 4 < 2 else int(self.generator.integers(pages))
            yield page * PAGE + int(self.generator.integers(160 if page < 2 else 48))

    def flip(self, position: int) -> None:
        flip(self.indexed.data, position, int(self.generator.integers(8)))


def check_flips(indexed: Indexed, seed: int, count: int) -> None:
    draw = Draw(indexed, seed)
    deaths = damage_and_look(indexed, draw.positions(count), draw.flip, draw.uris)
    assert deaths.killed <= count * MOST_DEATHS_OF_RANDOM_FLIPS
    deaths = damage_and_look(indexed, draw.header_positions(count), draw.flip, draw.uris)
    assert deaths.killed <= count * MOST_DEATHS_OF_FLIPS_IN_HEADERS


def test_a_flipped_bit_in_the_index_is_never_wrong_data_nor_a_false_not_found(indexed: Indexed) -> None:
    check_flips(indexed, contents.SEED, 60)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(8))
def test_many_flipped_bits_in_the_index_are_never_wrong_data(indexed: Indexed, seed: int) -> None:
    check_flips(indexed, seed, 400)


def test_pages_of_garbage_or_zeros_in_the_index_are_never_wrong_data(indexed: Indexed) -> None:
    draw = Draw(indexed, contents.SEED)

    def overwrite(position: int) -> None:
        with open(indexed.data, "r+b") as file:
            file.seek(position // PAGE * PAGE)
            file.write(bytes(PAGE) if draw.generator.integers(2) else draw.generator.bytes(PAGE))

    deaths = damage_and_look(indexed, draw.positions(25), overwrite, draw.uris)
    print(f"{deaths.killed} of 25 died")


def test_a_damaged_index_does_not_shorten_the_history(indexed: Indexed) -> None:
    draw = Draw(indexed, contents.SEED)
    whole = sorted(indexed.look_in_child([]).get())
    indexed.restore()
    for position in draw.positions(60):
        draw.flip(position)
        outcome = indexed.look_in_child([])
        if not outcome.killed_by:
            assert sorted(outcome.get()) == whole, f"byte {position} of the index"
        indexed.restore()


def test_an_index_that_killed_a_process_does_not_kill_the_next(indexed: Indexed) -> None:
    # Offsets inside the last pages that point behind the end of the file.
    with open(indexed.data, "r+b") as file:
        pages = indexed.data.stat().st_size // PAGE
        for page in range(max(2, pages - 12), pages):
            for offset in range(17, 64, 2):
                file.seek(page * PAGE + offset)
                file.write(b"\xff")
    outcomes = [indexed.look_in_child(sorted(indexed.stored)).killed_by for _ in range(4)]
    print(outcomes)
    assert "" in outcomes, "every process dies until the cache is deleted"


@pytest.mark.parametrize("pages", [0, 0.5, 1, 1.5, 2, 3, 5, -1, -2, -5, -20])
def test_a_truncated_index_is_made_anew(indexed: Indexed, pages: float) -> None:
    size = indexed.data.stat().st_size
    os.truncate(indexed.data, int(pages * PAGE) if pages >= 0 else size + int(pages * PAGE))
    history = indexed.look_in_child(sorted(indexed.stored)).get()
    assert len(history) == len(indexed.stored)


def test_garbage_in_place_of_the_index_is_replaced(indexed: Indexed) -> None:
    # In place: the inode that the sidecar knows stays.
    size = indexed.data.stat().st_size
    with open(indexed.data, "r+b") as file:
        file.write(np.random.default_rng(contents.SEED).bytes(size))
    indexed.look_in_child(sorted(indexed.stored)).get()
    with open_store(indexed.store, indexed.cache) as store:
        check_index(store)


def change_sidecar(indexed: Indexed, **fields: object) -> None:
    indexed.sidecar.write_text(json.dumps(json.loads(indexed.sidecar.read_text()) | fields))


@pytest.mark.parametrize(
    "field, value",
    [
        ("boot", "00000000-0000-0000-0000-000000000000"),
        ("uid", 12345),
        ("inode", 1),
        ("version", 0),
        ("version", 99),
        ("generation", "0123456789abcdef"),
    ],
)
def test_an_index_of_another_boot_user_file_or_version_is_not_opened(
    indexed: Indexed, field: str, value: object
) -> None:
    old = indexed.data
    # It must not even be mapped: this would be SIGBUS, or wrong at best.
    os.truncate(old, 3 * PAGE)
    change_sidecar(indexed, **{field: value})
    indexed.look_in_child(sorted(indexed.stored)).get()
    assert indexed.data != old
    assert (
        json.loads(indexed.sidecar.read_text())["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    )
    with open_store(indexed.store, indexed.cache) as store:
        check_index(store)


def test_indexes_of_earlier_boots_do_not_pile_up(indexed: Indexed) -> None:
    for boot in range(3):
        change_sidecar(indexed, boot=f"boot-{boot}")
        indexed.look_in_child(sorted(indexed.stored)[:3]).get()
    assert len(list(indexed.place.glob("*/data.mdb"))) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 300,
        b"{",
        b"[]",
        b"null",
        b'{"generation": 5}',
        b'{"generation": "../../../../etc"}',
        b"\xff\xfe",
        b"{}",
    ],
)
def test_a_garbage_sidecar_is_replaced(indexed: Indexed, garbage: bytes) -> None:
    indexed.sidecar.write_bytes(garbage)
    indexed.look_in_child(sorted(indexed.stored)).get()
    sidecar = json.loads(indexed.sidecar.read_text())
    assert (indexed.place / sidecar["generation"] / "data.mdb").stat().st_ino == sidecar["inode"]


def test_a_sidecar_that_is_a_directory_costs_nothing_but_speed(indexed: Indexed) -> None:
    indexed.sidecar.unlink()
    indexed.sidecar.mkdir()
    indexed.look_in_child(sorted(indexed.stored)).get()
    shutil.rmtree(indexed.sidecar)


def test_an_index_that_is_deleted_under_an_open_store_costs_nothing_but_speed(indexed: Indexed) -> None:
    def use() -> None:
        with open_store(indexed.store, indexed.cache) as store:
            uris = sorted(indexed.stored)
            assert store.load_bytes(uris[0]) == indexed.stored[uris[0]].data
            shutil.rmtree(indexed.cache)
            for uri in uris:
                assert store.load_bytes(uri) == indexed.stored[uri].data
            content = contents.text("after the deletion")
            content.check(store, content.put(store))
            with open_store(indexed.store, indexed.cache) as second:
                check_index(second)
                content.check(second, content.put(second))

    run(use).get()


def as_other_user(indexed: Indexed, mode: int) -> list[str]:
    """Look as somebody who may read the store, and whose own cache has an index directory of this mode."""
    for path in (indexed.directory, indexed.store, indexed.store / "packs"):
        path.chmod(0o777)
    indexed.directory.parent.chmod(0o755)
    for path in [indexed.cache, *indexed.cache.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    indexed.place.chmod(mode)
    become_nobody(indexed.directory)
    return indexed.look(sorted(indexed.stored))


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_an_index_directory_that_may_not_be_written_costs_nothing_but_speed(mode: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can take a child's rights away and give its files back")
    # Not in tmp_path, whose parents are closed to others.
    directory = Path(f"/var/tmp/kacas-test-{os.getpid()}-{mode:o}")
    directory.mkdir(mode=0o755)
    try:
        indexed = make_indexed(directory / "indexed", 20)
        history = run(lambda: as_other_user(indexed, mode)).get()
        assert history == []  # he stored nothing yet
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("size", [64 << 20, 200 << 20, 700 << 20, 6 << 30, 80 << 30])
def test_little_address_space_is_enough(indexed: Indexed, size: int) -> None:
    def use() -> None:
        limit_memory(size)
        indexed.look(sorted(indexed.stored))

    run(use).get()
    # Processes with and without the limit share the index.
    indexed.look_in_child(sorted(indexed.stored)).get()


@pytest.mark.parametrize("spoil", ["another boot", "no sidecar", "garbage", "no index"])
def test_processes_that_renew_the_index_at_once_all_work(indexed: Indexed, spoil: str) -> None:
    for round_number in range(4):
        if spoil == "another boot":
            change_sidecar(indexed, boot="another")
        elif spoil == "no sidecar":
            indexed.sidecar.unlink()
        elif spoil == "garbage":
            indexed.sidecar.write_bytes(b"garbage")
        else:
            shutil.rmtree(indexed.cache)
        children = [fork(lambda: indexed.look(sorted(indexed.stored)[:40])) for _ in range(6)]
        for child in children:
            history = child.wait().get()
            assert len(history) >= len(indexed.stored), round_number
    with open_store(indexed.store, indexed.cache) as store:
        check_index(store)
        check_verified(store)
