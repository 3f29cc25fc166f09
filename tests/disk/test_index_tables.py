"""Tables on their way into the index: large ones in several transactions, and the roots that their entries name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kacas.disk.index import Index
from kacas.disk.index_environment import IndexUnusableError
from kacas.disk.index_intake import Intake
from kacas.disk.index_tables import TableRows
from kacas.model.entry import Action
from tests.disk.test_index import data_file, digest, entry, location, pack_id, table

ENTRIES = [entry(i) for i in range(100)]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setattr("kacas.disk.index._PER_TRANSACTION", 7)
    opened = Index(tmp_path / "index")
    yield opened
    opened.close()


def everything(index: Index) -> tuple[int, int, int]:
    located = index.locate([digest(i) for i in range(100)])
    entries = index.entries_of_many([e.sha1 for e in ENTRIES])
    return len(located), sum(len(known) for known in entries.values()), len(index.log(b"me")[0])


def test_a_large_table_takes_several_transactions(index: Index) -> None:
    index.add([(pack_id(1), table(range(60), ENTRIES[:60])), (pack_id(2), table(range(60, 100), ENTRIES[60:]))])
    assert everything(index) == (100, 100, 100)
    assert index.locate([digest(3), digest(70)]) == {digest(3): [location(3, 1)], digest(70): [location(70, 2)]}


def test_a_pack_of_which_not_all_rows_are_in_is_not_known(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = Intake.put_rows, [5]

    def interrupted(self: Intake, txn: lmdb.Transaction[Any], rows: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        real(self, txn, rows)

    tables = [(pack_id(1), table(range(100), ENTRIES))]
    with monkeypatch.context() as patch:
        patch.setattr(Intake, "put_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add(tables)
    assert everything(index) == (0, 0, 0)
    assert index.unknown([pack_id(1)]) == {pack_id(1)}
    index.add(tables)
    assert everything(index) == (100, 100, 100)


def test_the_same_pack_added_by_another_in_the_meantime_is_entered_once(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [(pack_id(1), table(range(100), ENTRIES))]
    real, overtaken = Intake.enter, []

    def enter(self: Intake, txn: lmdb.Transaction[Any], numbered: Any, rule: Any) -> None:
        if not overtaken:  # as if another process had entered the pack under a number of its own
            overtaken.append(True)
            real(self, txn, [(b"\0\0\0\x63", pack_id, table) for _, pack_id, table in numbered], rule)
        real(self, txn, numbered, rule)

    monkeypatch.setattr(Intake, "enter", enter)
    index.add(tables)
    assert index.pack_ids() == {pack_id(1)}
    assert everything(index) == (0, 0, 0), "the rows of the number that was not entered do not count"


def test_the_root_is_that_of_an_entry_with_the_size(index: Index) -> None:
    sha1, other = ENTRIES[1].sha1, digest(999)
    member = ENTRIES[1]._replace(entry_id=bytes(16), root=other, size=77, action=Action.MEMBER)
    forget = ENTRIES[2]._replace(action=Action.FORGET, root=bytes(32))
    index.add([(pack_id(1), table([], [ENTRIES[1], member, forget]))])
    assert index.roots({sha1: ENTRIES[1].size}) == {sha1: ENTRIES[1].root}
    assert index.roots({sha1: 77, ENTRIES[2].sha1: forget.size, bytes(20): 1}) == {sha1: other}
    assert index.roots({sha1: 78}) == {}
    index.remove([pack_id(1)])
    assert index.roots({sha1: 77}) == {}


def test_an_entry_with_any_flipped_bit_names_no_root(tmp_path: Path) -> None:
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table([], [ENTRIES[1]]))])
    index.close()
    key, value = flipped_entry(place, None)
    for bit in range(len(value) * 8):
        flipped_entry(place, bit)
        index = Index(place)
        assert index.roots({ENTRIES[1].sha1: ENTRIES[1].size}) == {}, f"bit {bit}"
        index.close()
        flipped_entry(place, bit)
    assert key.startswith(ENTRIES[1].sha1)


def flipped_entry(place: Path, bit: int | None) -> tuple[bytes, bytes]:
    with lmdb.open(str(data_file(place)), max_dbs=9) as environment:
        entries = environment.open_db(b"entries", create=False)
        with environment.begin(entries, write=True) as txn:
            [(key, value)] = list(txn.cursor())
            changed = bytearray(value)
            if bit is not None:
                changed[bit // 8] ^= 1 << bit % 8
            txn.put(key, bytes(changed))
    return bytes(key), bytes(value)


def test_rows_of_other_sizes_are_damage_and_not_a_crash(tmp_path: Path) -> None:
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table(range(3)))])
    index.close()
    with lmdb.open(str(data_file(place)), max_dbs=9) as environment:
        chunks = environment.open_db(b"chunks", dupsort=True, dupfixed=True, create=False)
        with environment.begin(chunks, write=True) as txn:
            txn.drop(chunks, delete=False)
            for i in range(3):
                txn.put(digest(i)[:16], random.Random(i).randbytes(35))
    index = Index(place)
    try:
        assert index.locate([digest(i) for i in range(3)]) == {}
    except IndexUnusableError:
        pass
    index.close()


def test_a_flipped_bit_in_the_name_of_a_pack_is_no_pack(tmp_path: Path) -> None:
    """Whoever relied on it would be told that a pack vanished, again and again."""
    place = tmp_path / "index"
    index = Index(place)
    index.add([(pack_id(1), table([1], [ENTRIES[1]]))])
    index.close()
    with lmdb.open(str(data_file(place)), max_dbs=9) as environment:
        packs = environment.open_db(b"packs", create=False)
        with environment.begin(packs, write=True) as txn:
            [(number, stored)] = [row for row in txn.cursor() if len(row[1]) == 16]
            txn.put(number, bytes([stored[0] ^ 1]) + bytes(stored[1:]))
    index = Index(place)
    assert index.locate([digest(1)]) == {}
    assert index.entries(ENTRIES[1].sha1) == []
    index.close()


def test_rows_that_are_shed_on_their_way_in_are_put_in_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sheds = TableRows.parts, [True]

    def parts(rows: TableRows, size: int) -> Iterator[TableRows]:
        for part in real(rows, size):
            yield part
            if sheds and sheds.pop():  # another process made a segment meanwhile
                with ThreadPoolExecutor(1) as other:
                    assert other.submit(index.shed, set(), []).result(timeout=20)

    monkeypatch.setattr(TableRows, "parts", parts)
    index.add([(pack_id(1), table(range(100), ENTRIES))])
    assert everything(index) == (100, 100, 100)
    assert index.sheds() == 1


def test_what_is_not_held_stays_when_the_rest_is_shed(index: Index) -> None:
    kept = pack_id(2), table(range(60, 65), ENTRIES[60:65])
    index.add([(pack_id(1), table(range(60), ENTRIES[:60])), kept])
    index.mark_damaged(digest(61), location(61, 2))
    assert not index.shed({pack_id(1)}, [])
    assert everything(index) == (65, 65, 65)
    assert index.shed({pack_id(1)}, [kept])
    assert everything(index) == (5, 5, 5)
    assert index.pack_ids() == {pack_id(2)}
    assert index.locate([digest(61)])[digest(61)] == [location(61, 2)._replace(damaged=True)]
    assert index.load() == (10, 0)
