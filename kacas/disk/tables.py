"""The packs' own tables, asked directly: the only proof that something is not in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import TypeVar

from kacas.disk.pack_reader import OpenPacks
from kacas.disk.volume import Volume
from kacas.errors import DamagedPackError, KacasError, NewerFormatError
from kacas.model.digest import DIGEST_SIZE
from kacas.model.entry import Action, Entry, entries_of
from kacas.model.location import Location
from kacas.model.merging import sources_of
from kacas.model.pack_format import CHUNK_RECORD, PackFormatError, Table

# Entries of packs are kept in memory up to this size, so that a second miss reads nothing: 64 MiB is
# about 500,000 entries. What does not fit is read again for each miss.
_KEPT_SIZE = 64 << 20
_NONE: frozenset[bytes] = frozenset()

T = TypeVar("T")


class Tables:
    """Reads and searches tables of listed packs. Thread-safe.

    `problems`: packs that could not be read, and why. What a readable merged pack covers is neither read nor a problem.
    """

    def __init__(self, volume: Volume, packs: OpenPacks, suspect: Callable[[bytes], None] = lambda _: None) -> None:
        """suspect: told each pack whose table is found damaged."""
        self._volume = volume
        self._packs = packs
        self._suspect = suspect
        self._kept: dict[bytes, bytes] = {}
        self._kept_size = 0
        self._malformed: dict[bytes, DamagedPackError] = {}
        self._sources: dict[bytes, frozenset[bytes]] = {}
        self.problems: dict[bytes, KacasError] = {}

    def read(self, pack_id: bytes) -> Table | None:
        """The pack's table, or None if it is gone or unreadable (then `problems` says why)."""
        try:
            table = self._packs.get(pack_id).read_table()
        except FileNotFoundError:
            self._sources.pop(pack_id, None)
            self.problems.pop(pack_id, None)
            return None
        except (DamagedPackError, NewerFormatError) as exc:
            # A pack replaced by a good copy is opened anew the next time.
            self._packs.forget(pack_id)
            self._sources.pop(pack_id, None)
            self._set_problem(pack_id, exc)
            return None
        self._set_problem(pack_id, self._malformed.get(pack_id))
        if sources := sources_of(table):
            self._sources[pack_id] = sources
        return table

    def sources(self, pack_id: bytes) -> frozenset[bytes]:
        """The packs that this one covers, as far as it was read and is good: all that they hold is in it."""
        return self._sources.get(pack_id, _NONE) if pack_id not in self.problems else _NONE

    def uncovered(self) -> Iterator[tuple[bytes, Table]]:
        """The packs that can be read, with their tables, but for those that a merged one covers."""
        return ((pack_id, table) for pack_id, table in self._uncovered(self.read) if table is not None)

    def _uncovered(
        self, look: Callable[[bytes], T | None], spared: Set[bytes] = _NONE
    ) -> Iterator[tuple[bytes, T | None]]:
        """What `look`, which must read the pack, says of each; merged packs come before what they cover.

        spared: packs that are left out.
        """
        covered: set[bytes] = set()
        for pack_id in sorted(self._volume.list_packs() - spared, reverse=True):
            if pack_id not in covered:
                found = look(pack_id)
                covered |= self.sources(pack_id)
                yield pack_id, found

    def read_whole(self, pack_id: bytes) -> Table | None:
        """As `read`, with every entry decoded. One that cannot be is a problem, though the digest matched."""
        table = self.read(pack_id)
        if table is None:
            return None
        try:
            for _ in table.entries():
                pass
        except PackFormatError as exc:
            self._malformed[pack_id] = DamagedPackError(
                f"pack {pack_id.hex()}.pack: {exc}; run `kacas verify`", pack=pack_id.hex()
            )
            self._set_problem(pack_id, self._malformed[pack_id])
            return None
        return table

    def _set_problem(self, pack_id: bytes, problem: KacasError | None) -> None:
        if problem is None:
            self.problems.pop(pack_id, None)
        else:
            self.problems[pack_id] = problem
            self._suspect(pack_id)

    def entries(self, sha1: bytes, spared: Set[bytes] = _NONE) -> list[tuple[Entry, bytes]]:
        """Every entry of the SHA-1 in any pack that is there now, with its pack, but for the packs that are spared."""
        found: dict[bytes, tuple[Entry, bytes]] = {}
        looked_at = set()
        for pack_id, data in self._uncovered(self._entries_data, spared):
            looked_at.add(pack_id)
            if data is not None and sha1 in data:
                # The bytes may stand anywhere, in a label too: only what begins where entries begin is one.
                found |= {entry.entry_id: (entry, pack_id) for entry in entries_of(data, sha1)}
        self._drop_others(looked_at, spared)
        return list(found.values())

    def kept_by(self, owner: bytes, *, most: int | None, spared: Set[bytes] = _NONE) -> list[Entry] | None:
        """The owner's keep entries in any order, but for those in packs that are spared; None if the tables hold more
        than `most` entries."""
        mine: dict[bytes, Entry] = {}
        total = 0
        for _, table in self._uncovered(self.read, spared):
            if table is None:
                continue
            total += table.entry_count
            if most is not None and total > most:
                return None
            for entry in table.entries():
                if entry.owner == owner and entry.action == Action.KEEP:
                    mine[entry.entry_id] = entry
        return list(mine.values())

    def _entries_data(self, pack_id: bytes) -> bytes | None:
        kept = self._kept.get(pack_id)
        if kept is not None:
            return kept
        table = self.read(pack_id)
        if table is None:
            return None
        data = bytes(table.entries_data)
        if self._kept_size + len(data) <= _KEPT_SIZE:
            # Two threads may count one pack twice: then a little less is kept. A lock would not survive a fork.
            self._kept[pack_id] = data
            self._kept_size += len(data)
        return data

    def _drop_others(self, looked_at: set[bytes], spared: Set[bytes]) -> None:
        """Forget packs that are gone, or covered."""
        for pack_id in self._kept.keys() - looked_at:
            self._kept_size -= len(self._kept.pop(pack_id, b""))
        for pack_id in self._sources.keys() - looked_at:
            self._sources.pop(pack_id, None)
        self.pardon(self.problems.keys() - looked_at - spared)

    def pardon(self, pack_ids: Set[bytes]) -> None:
        """Problems of these packs are none: they are gone, or all that they hold is in a merged pack."""
        for pack_id in self.problems.keys() & pack_ids:
            self.problems.pop(pack_id, None)

    def unreadable(self, sha1: bytes, trusted: Set[bytes]) -> KacasError:
        """The error of a SHA-1 that a problem may know of. trusted: packs whose problems do not matter."""
        problems = {pack_id: why for pack_id, why in self.problems.items() if pack_id not in trusted}
        pack_id, first = next(iter(sorted(problems.items())))
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        message = f"whether sha1://{sha1.hex()} is here cannot be told: {first}{more}"
        if isinstance(first, NewerFormatError):
            return NewerFormatError(message, needed=first.needed, pack=first.pack)
        return DamagedPackError(message, pack=pack_id.hex())

    def locations(self, digest: bytes) -> Iterator[Location]:
        """Where the payload is, from every table; in a pack whose table is damaged, by walking its payload headers.

        The last are the packs that those which have it were merged from: whoever asks on found no good copy before.
        """
        spare: set[bytes] = set()
        for pack_id, table in self._uncovered(self.read):
            places = list(self._locations_in(pack_id, table, digest))
            if places:
                spare |= self.sources(pack_id)
            yield from places
        for pack_id in sorted(spare & self._volume.list_packs()) if spare else ():
            yield from self._locations_in(pack_id, self.read(pack_id), digest)

    def _locations_in(self, pack_id: bytes, table: Table | None, digest: bytes) -> Iterator[Location]:
        if table is not None:
            yield from _locations_in(table, pack_id, digest)
        elif pack_id in self.problems and not isinstance(self.problems[pack_id], NewerFormatError):
            yield from self._walk(pack_id, digest)

    def _walk(self, pack_id: bytes, digest: bytes) -> Iterator[Location]:
        try:
            for offset, header in self._packs.get(pack_id).scan():
                if header.digest == digest:
                    yield Location(
                        pack_id, offset, header.payload_size, header.raw_size, len(header.parameters), header.kind,
                        header.codec,
                    )  # fmt: skip
        except (FileNotFoundError, DamagedPackError):
            return  # nothing more can be read of it; it is among the problems already


def _locations_in(table: Table, pack_id: bytes, digest: bytes) -> Iterator[Location]:
    data = table.records.tobytes()
    at = data.find(digest)
    while at >= 0:
        row, inside = divmod(at, CHUNK_RECORD.itemsize)
        if inside == 0:
            record = table.records[row]
            yield Location(
                pack_id, int(record["offset"]), int(record["payload_size"]), int(record["raw_size"]),
                int(record["parameters_size"]), int(record["kind"]), int(record["codec"]),
            )  # fmt: skip
        at = data.find(digest, at + DIGEST_SIZE)
