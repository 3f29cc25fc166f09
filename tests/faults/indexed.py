"""A store with an index of many pages, to be damaged again and again; looked at in children, which may die by a signal."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import kacas
from tests.faults import contents
from tests.faults.children import Outcome, run
from tests.faults.contents import Content
from tests.faults.examination import make_store, open_store

MISSING = "sha1://" + "00" * 20


@dataclass
class Indexed:
    """directory/store, and a cache with an index of it. stored: URI → content."""

    directory: Path
    stored: dict[str, Content]
    _files: dict[Path, bytes] = field(default_factory=dict)
    _packs: set[Path] = field(default_factory=set)

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def place(self) -> Path:
        """index/<pid namespace>"""
        (place,) = self.cache.glob("*/index/*")
        return place

    @property
    def sidecar(self) -> Path:
        return self.place / "current"

    @property
    def data(self) -> Path:
        """data.mdb of the generation that is used."""
        return self.place / json.loads(self.sidecar.read_text())["generation"] / "data.mdb"

    def renew(self) -> None:
        """A new, good index, made by a child: this process never maps what is damaged later."""
        shutil.rmtree(self.cache, ignore_errors=True)
        run(lambda: open_store(self.store, self.cache).close()).get()
        self._files = {path: path.read_bytes() for path in (self.sidecar, self.data)}
        self._packs = set((self.store / "packs").iterdir())

    def restore(self) -> None:
        """Good again: in place, so that inodes stay, unless the engine began a new index."""
        for pack in set((self.store / "packs").iterdir()) - self._packs:
            pack.unlink()
        sidecar, data = self._files
        if not data.exists() or not sidecar.exists() or sidecar.read_bytes() != self._files[sidecar]:
            self.renew()
            return
        with open(data, "r+b") as file:
            file.write(self._files[data])
            file.truncate()
        # Readers that died by a signal.
        data.with_name("lock.mdb").unlink(missing_ok=True)

    def look(self, uris: Iterable[str]) -> list[str]:
        """Ask for these, for one that is not there, and store something new. Returns the whole history."""
        warnings.simplefilter("ignore", RuntimeWarning)  # it may be said that the index is renewed
        os.environ["KACAS_CACHE_DIR"] = str(self.cache)
        with kacas.Store.open(self.store, create=False) as store:
            for uri in uris:
                assert store.exists(uri), f"a false 'not found': {uri}"
                assert store.load_bytes(uri) == self.stored[uri].data, f"wrong data: {uri}"
            assert not store.exists(MISSING)
            history = [item.uri for item in store.history()]
            content = contents.text(f"new {os.getpid()}")
            content.check(store, content.put(store))
            return history

    def look_in_child(self, uris: Iterable[str]) -> Outcome:
        return run(lambda: self.look(uris))


def make_indexed(directory: Path, count: int) -> Indexed:
    """count: JSON contents, in several packs; and an array in several chunks."""
    directory.mkdir(exist_ok=True)
    stored = make_store(directory, [contents.array("several chunks", rows=6000)])
    with open_store(directory / "store", directory / "cache-of-maker") as store:
        for first in range(0, count, 50):
            with store.batch():
                stored |= {c.put(store): c for c in map(contents.json, map(str, range(first, min(first + 50, count))))}
    indexed = Indexed(directory, stored)
    indexed.renew()
    return indexed


@dataclass
class Deaths:
    """What became of the children."""

    outcomes: Counter[str] = field(default_factory=Counter)
    killed_at: list[int] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return len(self.killed_at)

    def add(self, position: int, outcome: Outcome) -> None:
        self.outcomes[outcome.killed_by or "lived"] += 1
        if outcome.killed_by:
            self.killed_at.append(position)
        else:
            outcome.get()


def damage_and_look(
    indexed: Indexed, positions: Iterable[int], damage: Callable[[int], None], uris: Callable[[], list[str]]
) -> Deaths:
    """For each position: damage(position), look, restore."""
    deaths = Deaths()
    for position in positions:
        damage(position)
        deaths.add(position, indexed.look_in_child(uris()))
        indexed.restore()
    print(f"deaths: {dict(deaths.outcomes)} at {deaths.killed_at}")
    return deaths
