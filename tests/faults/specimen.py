"""A small store with every kind of payload in one pack, and another pack beside it: to be damaged byte by byte."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import kacas
from kacas.model.cuts import PeriodicCutter
from kacas.model.digest import PayloadKind
from kacas.model.entry import Kind
from kacas.model.source import BufferSource
from kacas.model.uri import Uri
from kacas.upkeep.verify import verify
from tests.faults import contents
from tests.faults.contents import Content
from tests.faults.examination import open_store

Stored = dict[str, Content]  # URI → content


@dataclass
class Specimen:
    """store: its directory. pack: the one that is damaged; inside: what it holds; outside: what another pack holds."""

    store: Path
    pack: Path
    inside: Stored
    outside: Stored

    @property
    def caches(self) -> Path:
        return self.store.parent / "caches"

    def open(self, name: str = "cache") -> kacas.Store:
        """With the cache directory of that name."""
        return open_store(self.store, self.caches / name)

    def open_fresh(self) -> kacas.Store:
        """With a cache directory that was never used."""
        shutil.rmtree(self.caches, ignore_errors=True)
        return self.open()

    def check_loads(self, store: kacas.Store) -> list[str]:
        """Right bytes, or a typed error that names the pack. Returns the URIs that did not load."""
        failed = []
        for uri, content in self.inside.items():
            try:
                assert store.load_bytes(uri) == content.data, f"wrong data from {uri}"
            except kacas.NotFoundError as exc:
                raise AssertionError(f"a damaged pack made a load say: {exc}") from exc
            except kacas.KacasError as exc:
                assert self.pack.stem in str(exc), f"{type(exc).__name__} does not name the pack: {exc}"
                assert getattr(exc, "pack", "") == self.pack.stem
                failed.append(uri)
        for uri, content in self.outside.items():
            assert store.load_bytes(uri) == content.data, "another pack's content was disturbed"
        return failed

    def check_verify(self, store: kacas.Store) -> None:
        """A problem that names the pack is found."""
        problems = verify(store).problems
        assert self.pack.stem in {problem.pack for problem in problems}, problems

    def check_healed(self) -> None:
        """With an index that never saw the damage found, everything loads."""
        with self.open_fresh() as store:
            for uri, content in (self.inside | self.outside).items():
                assert store.load_bytes(uri) == content.data

    def store_again(self, store: kacas.Store) -> None:
        with store.batch():
            for content in self.inside.values():
                put(store, content)


def put(store: kacas.Store, content: Content) -> str:
    """Store it; the content labelled "tree" in pieces so small that it has nodes and a manifest."""
    if content.label != "tree":
        return content.put(store)
    source = BufferSource(content.data)
    entry = store.repository.put(source, Kind.BYTES, content.label, cutter=PeriodicCutter(1000))
    return str(Uri(entry.sha1, content.label or ""))


def tree() -> Content:
    """All pieces but the last are the same: 300 children, two nodes and a manifest take a few hundred bytes."""
    data = b"0123456789" * 29_950
    return Content("bytes", "tree", data, data)


def make(directory: Path) -> Specimen:
    store_path = directory / "store"
    inside = [contents.text("raw"), contents.text("zstd", repeat=20), tree()]
    outside = [contents.text("outside"), contents.json("outside")]
    with open_store(store_path, directory / "maker", create=True) as store:
        with store.batch():
            stored = {put(store, content): content for content in inside}
        (pack,) = (store_path / "packs").iterdir()
        beside = {content.put(store): content for content in outside}
        records = store.repository.lookup.tables.read(bytes.fromhex(pack.stem)).records
    assert set(records["kind"]) == {PayloadKind.CHUNK, PayloadKind.NODE, PayloadKind.MANIFEST}
    assert set(records["codec"]) == {0, 1}
    os.chmod(pack, 0o644)
    return Specimen(store_path, pack, stored, beside)
