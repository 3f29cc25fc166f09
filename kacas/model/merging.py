"""The rule of merging: which packs are small, when so many have piled up that they are copied into one, and its mark.

Packs have tiers: 0 as written by a put, n + 1 for one merged from packs of tier n. Small packs of one tier are merged
when there are `fan_in` of them, so each payload is copied once per tier: log(number of packs) times at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from kacas.model.digest import DIGEST_SIZE, ID_SIZE, SHA1_SIZE
from kacas.model.entry import MAX_CANCELS, Action, Entry, encoded_entries_of
from kacas.model.pack_format import CHUNK_RECORD, FOOTER_SIZE, HEADER_SIZE, PAYLOAD_HEADER_SIZE, Table

NOBODY = bytes(SHA1_SIZE)  # the SHA-1 of an entry that says something of a pack, not of content
RANDOM_SIZE = ID_SIZE - 2  # bytes of a merged pack's id that are random
_MAX_TIER = 15


@dataclass(frozen=True)
class MergeRule:
    """A pack is small below `max_size` bytes with at most `max_rows` chunk records and entries.

    A put waits for a merge: these numbers bound it to 32 MiB and 4,096 rows. A merge of 32 single texts takes
    10 ms, one of 1,024 merged before 50 ms.
    """

    fan_in: int = 32
    max_size: int = 1 << 20
    max_rows: int = 128

    def __post_init__(self) -> None:
        if self.fan_in < 2:
            raise ValueError("fewer than two packs cannot be merged")

    def is_small(self, table: Table) -> bool:
        """Whether the pack with this table is."""
        records = table.records
        if len(records) + table.entry_count > self.max_rows:
            return False
        payloads = int(records["payload_size"].sum()) + int(records["parameters_size"].sum())
        rows = (PAYLOAD_HEADER_SIZE + CHUNK_RECORD.itemsize) * len(records) + len(table.entries_data)
        return HEADER_SIZE + payloads + rows + FOOTER_SIZE < self.max_size


RULE = MergeRule()


def tier_of(pack_id: bytes) -> int:
    """What the id says: a hint (random ids of stores that were written before `plain_pack_id` may say anything)."""
    return pack_id[1] & 0x0F if pack_id[0] == 0xFF and pack_id[1] >= 0xF0 else 0


def plain_pack_id(random: bytes) -> bytes:
    """The id of a pack that nothing was merged into: it never looks like a merged one's, which one in 4,096 would."""
    return random if tier_of(random) == 0 else bytes((random[0] & 0x7F,)) + random[1:]


def merged_pack_id(tier: int, random: bytes) -> bytes:
    """The id of a merged pack. Descending, ids name merged packs before what they were merged from.

    So a reader that goes through them in this order need not open the sources, nor ask for the size of any file.
    """
    if len(random) != RANDOM_SIZE:
        raise ValueError(f"{RANDOM_SIZE} random bytes are needed")
    return bytes((0xFF, 0xF0 | min(tier, _MAX_TIER))) + random


def merged_entry(entry_id: bytes, time_ns: int, sources: list[bytes]) -> Entry:
    """The pack that carries it holds every payload and every entry of the packs `sources`."""
    if len(sources) > MAX_CANCELS:
        raise ValueError("too many packs are merged at once")
    return Entry(
        entry_id, NOBODY, bytes(DIGEST_SIZE), 0, time_ns, 0, b"", b"", Action.MERGED, cancels=tuple(sources)
    )  # fmt: skip


def sources_of(table: Table) -> frozenset[bytes]:
    """The packs that the pack with this table was merged from, and what they were merged from."""
    data = bytes(table.entries_data)
    if NOBODY not in data:
        return frozenset()
    merged = (entry for entry in encoded_entries_of(data, NOBODY) if entry.action == Action.MERGED)
    return frozenset(source for entry in merged for source in entry.cancels)
