"""What the fault tests look at afterwards: what a program said, what is in a store, whether all of it is right."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kacas
from kacas.disk.index import Index
from kacas.disk.index_places import place_in
from kacas.settings import Settings
from kacas.upkeep.verify import VerifyReport, verify
from tests.faults import contents
from tests.faults.contents import Content

PACK = re.compile(r"[0-9a-f]{32}\.pack")
TEMPORARY = re.compile(r"(packs|segments)/\..+\.tmp\..+")


def open_store(path: Path, cache: Path, *, create: bool = False) -> kacas.Store:
    """Open with this cache directory; an index that cannot be used is an error here."""
    settings = replace(Settings.from_environment(), cache_directory=cache, threads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return kacas.Store.open(path, create=create, settings=settings)


def said(place: Path) -> list[dict[str, Any]]:
    """The events that a workload wrote before it ended or was killed."""
    file = place / "said"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def names(store: Path) -> set[str]:
    """Everything in a store's directory, temporaries too."""
    return {str(path.relative_to(store)) for path in store.rglob("*")}


def pack_bytes(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "packs").iterdir()}


def by_label(stored: Iterable[Content]) -> dict[str, Content]:
    return {content.label: content for content in stored}


@functools.cache
def known_contents() -> dict[str, Content]:
    """Every content that a workload may speak of."""
    return by_label(
        [
            contents.text("earlier"),
            contents.text("first"),
            *contents.stubborn(),
            contents.rolling(),
        ]
    )


def check_verified(store: kacas.Store) -> VerifyReport:
    """Clean but for orphans, and those are temporaries."""
    report = verify(store)
    assert report.problems == []
    assert all(TEMPORARY.fullmatch(name) for name in report.orphans), report.orphans
    return report


def check_index(store: kacas.Store) -> None:
    """The index knows exactly the packs that are there, by their tables, the merged pack that covers them or a segment."""
    index = Index(place_in(store.repository.cache))
    try:
        known = index.pack_ids() | index.covered_ids() | index.held_ids()
        assert known == store.repository.volume.list_packs()
    finally:
        index.close()


def check_sound(place: Path, stored: dict[str, Content], fresh_cache: Path) -> None:
    """Everything `stored` (URI → content) loads, verify is clean, the next put works, with old and with new index."""
    for cache in (place / "cache", fresh_cache):
        with open_store(place / "store", cache) as store:
            check_index(store)
            for uri, content in stored.items():
                assert store.exists(uri)
                content.check(store, uri)
            check_verified(store)
            after = contents.text(f"after in {cache.name}")
            after.check(store, after.put(store))
            check_index(store)


def make_store(place: Path, stored: Iterable[Content]) -> dict[str, Content]:
    """A store at place/store, made with a cache of its own that is not used again. Returns URI → content."""
    with open_store(place / "store", place / "cache-of-maker", create=True) as store:
        return {content.put(store): content for content in stored}


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file, whatever its mode."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))
