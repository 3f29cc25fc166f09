"""How much a store holds."""

from __future__ import annotations

from kacas.disk.segments import SegmentSet
from kacas.disk.tables import Tables
from kacas.disk.volume import Volume
from kacas.model.description import SegmentStats, StoreStats
from kacas.model.entry import Action


def count(volume: Volume, tables: Tables) -> StoreStats:
    """Counted from the tables of every pack that can be read."""
    chunks = raw_size = payload_size = 0
    contents, entries = set[bytes](), set[bytes]()
    for _, table in tables.uncovered():
        chunks += len(table.records)
        raw_size += int(table.records["raw_size"].sum())
        payload_size += int(table.records["payload_size"].sum())
        claims = [entry for entry in table.entries() if entry.action != Action.MERGED]
        entries.update(entry.entry_id for entry in claims)
        contents.update(entry.sha1 for entry in claims if entry.names_layout)
    packs = volume.list_packs() - tables.problems.keys()
    pack_size = sum(map(volume.pack_size, packs))
    settings = volume.settings
    return StoreStats(
        str(volume.path), settings.store_id, settings.format_version, settings.durability, len(packs),
        pack_size, chunks, raw_size, payload_size, len(entries), len(contents),
    )  # fmt: skip


def count_segments(volume: Volume, serving: SegmentSet) -> SegmentStats:
    """Counted from the footers."""
    footers = [segment.footer for segment in serving.segments]
    replaced = {replaced for segment in serving.segments for replaced in segment.replaced}
    return SegmentStats(
        len(footers), len(serving.held), sum(footer.record_count for footer in footers),
        sum(footer.entry_count for footer in footers), sum(footer.file_size for footer in footers),
        sum(map(volume.segment_size, replaced)),
    )  # fmt: skip
