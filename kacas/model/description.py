"""What the store says: the answers of `describe`, `history`, `forget`, `stats`, `mutable_history`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Claim:
    """One owner's live entry: somebody stored this content and wants it kept."""

    owner: str
    time_s: float  # seconds since the epoch
    label: str
    kind: str
    entry_id: str  # 32 hex


@dataclass(frozen=True)
class Description:
    """One content of the store.

    size: bytes of the exact content. stored_size: bytes its chunks, nodes and manifest take in packs (a chunk shared with other
    content counts in full); None if the content is only in a remote, where codecs and claims are not known either.
    chunks: number of distinct chunks; codecs: of those in packs, by codec.
    member: a directory was stored that it is a part of, and for which it is kept without claims of its own.
    shape, dtype: for arrays only, else None. tiles: the shape of an array's tiles, if it is stored in tiles, else None.
    adopted: paths of files that were linked and are read for the chunks that are in no pack. files, total_size: of all
    below a directory (its own size is that of the document that lists its names), else None. store: path of the store that
    has it, which may be the upstream of the one that was asked. fetched: it came there from an upstream.
    """

    uri: str
    sha1: str
    root: str
    kind: str
    size: int
    chunks: int
    stored_size: int | None
    claims: tuple[Claim, ...]
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    adopted: tuple[str, ...] = ()
    member: bool = False
    files: int | None = None
    total_size: int | None = None
    codecs: dict[str, int] = field(default_factory=dict)
    tiles: tuple[int, ...] | None = None
    store: str = ""
    fetched: bool = False

    @property
    def ratio(self) -> float | None:
        """Size over stored size; 1.0 for empty content, None if the stored size is not known."""
        if self.stored_size is None:
            return None
        return self.size / self.stored_size if self.size and self.stored_size else 1.0


@dataclass(frozen=True)
class HistoryItem:
    """One thing that I stored, as `history()` lists it."""

    uri: str
    kind: str
    size: int
    time_s: float
    label: str
    forgotten: bool


@dataclass(frozen=True)
class Forgotten:
    """What `forget` did. dropped: how many of my claims ended; kept_by: owners that still keep the content.

    member: a directory was stored that it is a part of.
    """

    uri: str
    dropped: int
    kept_by: tuple[str, ...]
    member: bool = False


@dataclass(frozen=True)
class StoreStats:
    """Sizes are bytes. raw_size: sum of distinct chunks before encoding; pack_size: of all pack files.

    packs, pack_size: all that are there; the rest is not counted again in packs that a merged one covers.
    """

    path: str
    store_id: str
    format_version: int
    durability: str
    packs: int
    pack_size: int
    chunks: int
    raw_size: int
    payload_size: int
    entries: int
    contents: int

    @property
    def ratio(self) -> float:
        return self.raw_size / self.payload_size if self.payload_size else 1.0


@dataclass(frozen=True)
class SegmentStats:
    """What segments hold, the sorted merges of packs' tables. size: bytes of their files.

    Those that were merged into larger ones are not counted, but in replaced_size: bytes of their files, which nobody reads.
    """

    segments: int
    packs: int
    chunks: int
    entries: int
    size: int
    replaced_size: int


@dataclass(frozen=True)
class DirectoryItem:
    """One name in a directory, as `list_dir` shows it.

    type: "file", "directory" or "link". size: bytes of a file, else None. uri: of a file or directory. target: of a link.
    """

    name: str
    type: str
    size: int | None
    executable: bool
    uri: str | None
    target: str | None


@dataclass(frozen=True)
class Hdf5Item:
    """One object or link in an HDF5 file, as `kacas ls` shows it.

    type: "group", "dataset", "datatype", "soft link", "external link", "hard link" (to an object shown before) or
    "unreadable". target: where a link leads. attributes: how many it has. Of a dataset: shape (None if it has none, or if it
    depends on other files), dtype in words, storage ("contiguous", "chunked", "compact", "virtual", "external"), the shape of a
    chunk, and the filters in their order.
    """

    path: str
    type: str
    target: str | None = None
    attributes: int = 0
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    storage: str | None = None
    chunks: tuple[int, ...] | None = None
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One path at which two directories differ.

    change: "added", "removed", "content", "mode" (the executable bit) or "type". before, after: types, None where absent.
    """

    path: str
    change: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class MutableChange:
    """One generation of a mutable: value is None if it was deleted then. time_s: by the clock of who did it."""

    generation: int
    value: str | None
    time_s: float  # seconds since the epoch
    owner: str
