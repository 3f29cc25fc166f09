"""This host: the index, the cache and its budget, and the space on its disks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from kacas.disk.file_systems import recognise
from kacas.disk.index import Index
from kacas.disk.index_environment import IndexUnusableError, generation_of
from kacas.disk.index_places import place_in
from kacas.disk.materialised import MaterialisedFiles
from kacas.disk.volume import Volume
from kacas.errors import StoreError
from kacas.settings import Settings
from kacas.store import Store
from kacas.upkeep.doctor.finding import Finding, Severity

_LEAST_FREE = {"store": 512 << 20, "cache": 256 << 20}
_TAKES = {"store": "a pack takes up to 256 MiB, and so does merging", "cache": "the index and load_file write there"}
_LEAST_FREE_NAMES = 1000


def look_at_host(volume: Volume, settings: Settings, facts: dict[str, str]) -> Iterator[Finding]:
    """Opens the store as anybody does; what it warns of is a finding. facts: gets what was counted."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with Store.open(volume.path, create=False, settings=settings) as store:
                cache = store.repository.cache
                yield from _look_at_index(volume, cache, facts)
        except StoreError as exc:
            yield Finding("not-opened", Severity.PROBLEM, str(exc), "nothing can be stored or loaded from this host")
            return
    for text in dict.fromkeys(str(warning.message) for warning in warned):
        yield Finding("warned", Severity.WARNING, text, "opening the store said so")
    yield from _look_at_cache(cache, settings, facts)
    yield from _look_at_space("the store", "store", volume.path, facts)
    yield from _look_at_space("the cache", "cache", cache, facts)


def _look_at_index(volume: Volume, cache: Path, facts: dict[str, str]) -> Iterator[Finding]:
    place = place_in(cache)
    try:
        index = Index(place)
        try:
            rows = index.counts()
            # What is only closed to this user is told by its mode.
            suspects = [one for one in index.suspects() if os.access(volume.pack_path(one), os.R_OK)]
        finally:
            index.close()
    except IndexUnusableError as exc:
        yield Finding(
            "index-unusable", Severity.WARNING, f"the index in {place} cannot be used: {exc}",
            "everything works, but slowly", "set KACAS_CACHE_DIR to a directory on a local disk with space", "you",
        )  # fmt: skip
        return
    facts["index"] = (
        f"{place}, generation {generation_of(place)}: {rows['chunks']:,} chunks and {rows['entries']:,} entries of "
        f"{rows['pack_numbers']:,} packs that no segment holds"
    )
    if rows["damaged"] or suspects:
        yield Finding(
            "damage-known", Severity.PROBLEM,
            f"{rows['damaged']:,} damaged payloads and {len(suspects):,} packs with damaged tables were met from this host",
            "what they hold may be lost", "kacas verify tells which URIs; store them again, or restore the packs",
        )  # fmt: skip


def _look_at_cache(cache: Path, settings: Settings, facts: dict[str, str]) -> Iterator[Finding]:
    where = recognise(cache)
    facts["cache"] = f"{cache}, on {where.name or 'an unknown file system'}"
    if where.shared:
        yield Finding(
            "cache-shared", Severity.PROBLEM, f"{cache} is on a network file system ({where.name})",
            "the index is mapped into memory, which breaks there", "set KACAS_CACHE_DIR to a directory on a local disk", "you",
        )  # fmt: skip
    used = MaterialisedFiles(cache, settings.cache_size).used_size()
    facts["materialised files"] = f"{used >> 20:,} of {settings.cache_size >> 20:,} MiB"
    if used > settings.cache_size:
        yield Finding(
            "cache-over-budget", Severity.NOTE, f"materialised files take {used >> 20:,} MiB, more than KACAS_CACHE_SIZE",
            "those handed out within a day are kept for whoever reads them", "nothing: the next load_file drops the oldest",
        )  # fmt: skip


def _look_at_space(noun: str, name: str, path: Path, facts: dict[str, str]) -> Iterator[Finding]:
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    facts[f"free for the {name}"] = f"{free >> 20:,} of {disk.f_blocks * disk.f_frsize >> 20:,} MiB"
    if free < _LEAST_FREE[name]:
        yield Finding(
            f"{name}-disk-full", Severity.WARNING, f"{free >> 20:,} MiB are free where {noun} lies ({path})",
            _TAKES[name], "free space, or ask for more: `quota -s` shows what you may take",
        )  # fmt: skip
    # Some file systems have no limit of names, and say 0.
    if disk.f_files and disk.f_favail < _LEAST_FREE_NAMES:
        yield Finding(
            f"{name}-names-full", Severity.WARNING, f"{disk.f_favail:,} inodes are free where {noun} lies ({path})",
            "every pack and every materialised file takes one", "remove files, or ask for more inodes",
        )  # fmt: skip
