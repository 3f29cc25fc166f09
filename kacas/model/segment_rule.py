"""When tables are merged into segments, and segments into larger ones, for users who do nothing special."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SegmentRule:
    """A segment is due when `rows` chunk records and entries, or `packs` packs, are in no segment: a host that has no index
    reads them in half a second. `most`: cost of what is merged without being asked, in 10 s or so. `share`: how much larger than
    all smaller ones together a segment must be to stay.
    """

    rows: int = 1 << 18
    packs: int = 1024
    most: int = 1 << 24
    share: int = 2

    def is_due(self, rows: int, packs: int) -> bool:
        """For so much that no segment holds."""
        return rows >= self.rows or packs >= self.packs

    def is_worth_it(self, rows: int, packs: int) -> bool:
        """Whether a segment of so little should be made, when one is due: other hosts may have made those of the rest."""
        return self.is_due(rows * 4, packs * 4)

    @staticmethod
    def cost(records: int, entries: int) -> int:
        """Of merging so many: as that of chunk records, of which two million take a second."""
        return records + 12 * entries

    def brief(self) -> SegmentRule:
        """For merges that end in a second or so."""
        return replace(self, most=self.most >> 3)

    def thorough(self) -> SegmentRule:
        """For who asks for it, perhaps each day: what is large is not written again for what is little."""
        return replace(self, most=1 << 62, share=4)

    def to_merge(self, sizes: Sequence[int]) -> int:
        """How many of the smallest segments are merged into one; 0 for none. sizes: costs of each, rising.

        Each that stays is more than `share` times as large as all smaller ones together. With twice, of n rows there are
        log₃(n / rows) segments or so, and as each merge makes half as much again of the largest, a row is written anew
        log₁.₅(n / rows) times at most.
        """
        count = total = 0
        for number, size in enumerate(sizes, start=1):
            if number > 1 and size <= self.share * total and total + size <= self.most:
                count = number
            total += size
        return count


SEGMENT_RULE = SegmentRule()
