"""Merging: small packs that have piled up are copied into one, so that many small puts open as fast as one large.

The sources stay until collection removes them. A merge only copies: whenever it ends, the store is right.
"""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Iterable

from kacas.disk.alone import alone, free_size
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import Framed, PackWriter
from kacas.disk.volume import Volume
from kacas.errors import DamagedPackError, KacasError, NewerFormatError
from kacas.model.codec import Codec
from kacas.model.digest import ID_SIZE, payload_digest
from kacas.model.merging import RANDOM_SIZE, merged_entry, merged_pack_id, tier_of
from kacas.model.pack_format import (
    HEADER_SIZE,
    PAYLOAD_HEADER_SIZE,
    PackFormatError,
    Purpose,
    check_payload,
    decode_header,
    decode_payload_header,
)

_LOCK_NAME = "merge.lock"
_PAUSE_S = 600  # after a merge that failed
_LEFT_FREE = 256 << 20  # bytes of the disk that no merge takes: it saves time, they may be needed to store


class Merger:
    """Merges the small packs of one store when they are due. Thread-safe, safe after fork."""

    def __init__(self, volume: Volume, lookup: Lookup) -> None:
        self._volume = volume
        self._lookup = lookup
        self._not_before = 0.0  # on the monotonic clock
        self._warned = False

    def merge_if_due(self) -> None:
        """One merge at most: what a put that has just published waits for. It never fails the put; it may warn."""
        if not self._lookup.piled_up() or time.monotonic() < self._not_before:
            return
        try:
            if free_size(self._volume.packs) < _LEFT_FREE:
                return
            with alone(self._lookup.cache / _LOCK_NAME) as is_alone:
                if is_alone:
                    if self._volume.network:
                        self._lookup.refresh()  # another host may have merged them just now; this host's index knows
                    self._merge(self._lookup.piled_up())
        except (KacasError, OSError) as exc:
            self._not_before = time.monotonic() + _PAUSE_S
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"small packs could not be merged ({exc}); all that was stored is there, and merging is tried again later",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _merge(self, small: list[bytes]) -> None:
        if not small:
            return
        purposes = {pack_id: self._purpose(pack_id) for pack_id in small}
        for purpose in Purpose:
            self._merge_alike([pack_id for pack_id in small if purposes[pack_id] == purpose], purpose)
        self._lookup.set_aside({pack_id for pack_id in small if purposes[pack_id] not in set(Purpose)})

    def _merge_alike(self, small: list[bytes], purpose: Purpose) -> None:
        """What was fetched may be dropped and fetched again, what was stored may not: they stay apart."""
        if not small:
            return
        pack_id = merged_pack_id(tier_of(small[0]) + 1, secrets.token_bytes(RANDOM_SIZE))
        writer = PackWriter(self._volume, purpose, pack_id)
        try:
            sources, entries = self._copy(small, writer)
            # What cannot be merged now must not be tried at every put.
            self._lookup.set_aside(set(small) - set(sources))
            if len(sources) < 2:
                writer.discard()
                return
            mark = merged_entry(secrets.token_bytes(ID_SIZE), time.time_ns(), sources)
            table = writer.finish([*entries, mark.encode()])
        except BaseException:
            writer.discard()
            raise
        self._lookup.settled([writer.pack_id])
        self._lookup.published(writer.pack_id, table)

    def _copy(self, small: list[bytes], writer: PackWriter) -> tuple[list[bytes], Iterable[bytes]]:
        """Copy the payloads of all packs that are good. Returns these packs, and their entries as they are encoded."""
        digests: set[bytes] = set()
        entries: dict[bytes, bytes] = {}
        sources = []
        for pack_id in small:
            try:
                payloads, own_entries = self._read(pack_id)
            except (FileNotFoundError, DamagedPackError, NewerFormatError, PackFormatError):
                continue
            new = {header.digest: (header, payload) for header, payload in payloads if header.digest not in digests}
            writer.append_framed(list(new.values()))
            digests |= new.keys()
            entries |= own_entries
            sources.append(pack_id)
        return sources, entries.values()

    def _purpose(self, pack_id: bytes) -> int | None:
        """None if it cannot be read."""
        try:
            header = memoryview(bytearray(HEADER_SIZE))
            self._lookup.packs.get(pack_id).read_into(header, 0)
            return decode_header(header).purpose
        except (FileNotFoundError, DamagedPackError, PackFormatError):
            return None

    def _read(self, pack_id: bytes) -> tuple[list[Framed], dict[bytes, bytes]]:
        """All that the pack holds: payloads as they are encoded, each checked, and entries by their ids.

        Raises FileNotFoundError, DamagedPackError, NewerFormatError or PackFormatError unless all of it is good.
        """
        self._lookup.packs.forget(pack_id)  # what is on the disk now
        table = self._lookup.tables.read(pack_id)
        if table is None:
            raise self._lookup.tables.problems.get(pack_id) or FileNotFoundError(pack_id.hex())
        reader = self._lookup.packs.get(pack_id)
        data = memoryview(bytearray(reader.size))
        reader.read_into(data, 0)
        payloads = [_payload_of(data, record) for record in table.records.tolist()]
        return payloads, {entry.entry_id: bytes(encoded) for entry, encoded in table.encoded_entries()}


def _payload_of(data: memoryview, record: tuple[bytes, int, int, int, int, int, int, int]) -> Framed:
    """The payload that a chunk record names. Raises PackFormatError if it is not exactly that, or damaged."""
    digest, start, payload_size, raw_size, parameters_size, kind, codec, _ = record
    header = decode_payload_header(data, start)
    expected = (kind, codec, payload_size, raw_size, digest, b"")
    if header._replace(parameters=b"") != expected or len(header.parameters) != parameters_size:
        raise PackFormatError(f"payload {digest.hex()} and the table disagree")
    payload = data[start + PAYLOAD_HEADER_SIZE + parameters_size : start + header.total_size]
    check_payload(header, data, payload, start)
    try:
        if codec == Codec.RAW and payload_digest(kind, payload) != digest:
            raise PackFormatError(f"payload {digest.hex()} does not have its digest")
    except PackFormatError:
        raise
    except ValueError as exc:
        raise PackFormatError(str(exc)) from exc
    return header, (data[start : start + header.total_size],)
