"""An index that somebody forged, with right checks: no memory is taken on its word, and content is read from where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import kacas
from kacas.disk.index import Index
from kacas.disk.index_places import place_in
from kacas.settings import Settings
from tests.faults import contents
from tests.faults.contents import MIB
from tests.faults.forging import Forgery
from tests.faults.test_bombs import forgery, poor  # noqa: F401


def forge_index(store: kacas.Store, payload_size: int) -> int:
    """Let every row of the index say this, with a right check. Returns how many there are."""
    lookup = store.repository.lookup
    tables = [(pack_id, lookup.tables.read(pack_id)) for pack_id in store.repository.volume.list_packs()]
    forged = []
    for pack_id, table in tables:
        records = table.records.copy()
        records["payload_size"] = payload_size
        forged.append((pack_id, replace(table, records=records)))
    index = Index(place_in(lookup.cache))
    try:
        index.remove(pack_id for pack_id, _ in forged)
        index.add(forged)
    finally:
        index.close()
    return sum(len(table.records) for _, table in forged)


@pytest.mark.parametrize("size", [5000, 3 * MIB], ids=["one chunk", "many chunks"])
def test_a_row_of_the_index_that_says_3_gib_takes_no_memory(forgery: Forgery, size: int) -> None:  # noqa: F811
    content = contents.random_bytes("honest bytes", size)
    uri = content.put(forgery.store)
    ways: dict[str, Callable[[kacas.Store], bytes]] = {
        "whole": lambda store: store.load_bytes(uri),
        "a part": lambda store: store.load_bytes(uri, 100, 200),
        "a file": lambda store: store.load_file(uri, dest=store.path.parent / "out").read_bytes(),
        "copied": lambda store: copied(store, uri),
    }

    def load(store: kacas.Store) -> None:
        for name, way in ways.items():
            assert forge_index(store, 3 << 30) > 0
            assert way(store) == (content.data[100:200] if name == "a part" else content.data), name

    poor(forgery, load)


def copied(store: kacas.Store, uri: str) -> bytes:
    """The content as another store has it that took it from this one."""
    settings = replace(Settings.from_environment(), cache_directory=store.path.parent / "cache of the copy")
    with kacas.Store.open(store.path.parent / "copy", create=True, settings=settings, upstream=store) as copy:
        return copy.load_bytes(uri)
