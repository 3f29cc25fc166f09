"""What became of an import: how much came in, and what was left out, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMA = 1
_MOST_NAMED = 10_000  # so that a directory full of damage does not fill the memory


@dataclass(frozen=True)
class LeftOut:
    """kind: "damaged" (the bytes have another SHA-1 than their name), "missing" (a linked file is gone), "changed" (a linked
    file has other bytes now, or a file changed while it was read), "unreadable", "strange" (no name or record of
    kachery-cloud), "collision" (the store has other content with this SHA-1), "mutable" (the store has another value) or
    "key pair". sha1: hex, "" where there is none."""

    kind: str
    path: str
    sha1: str
    message: str


@dataclass
class ImportReport:
    """directory: what was imported. copied, linked, here: contents that were copied into packs, that were linked where they
    are, and that the store had already; their sizes in bytes.

    mutables, mutables_here: that were set, and that the store has with the same value. left_out: the first 10,000;
    counts: of all of them, by kind. temporaries: files that kachery-cloud did not finish. others: names in the directory that
    are no contents, links, mutables or keys. key_pair: "none", "not asked for", "imported", "here" or "left out".
    """

    directory: str
    copied: int = 0
    copied_size: int = 0
    linked: int = 0
    linked_size: int = 0
    here: int = 0
    here_size: int = 0
    mutables: int = 0
    mutables_here: int = 0
    temporaries: int = 0
    others: list[str] = field(default_factory=list)
    key_pair: str = "none"
    counts: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    schema: int = SCHEMA

    @property
    def complete(self) -> bool:
        """Whether nothing was left out."""
        return not self.counts

    def leave_out(self, kind: str, path: str, message: str, sha1: bytes = b"") -> None:
        """Note what was not imported."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.left_out) < _MOST_NAMED:
            self.left_out.append(LeftOut(kind, path, sha1.hex(), message))
