"""Reading published packs: tables, payloads, and what can be read of a pack whose table is damaged."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from kacas.disk.ownership import whose
from kacas.disk.volume import Volume
from kacas.errors import DamagedPackError, ForeignPackError, NewerFormatError
from kacas.model.digest import chunk_digest
from kacas.model.location import Location
from kacas.model.pack_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    MAX_PARAMETERS_SIZE,
    PAYLOAD_HEADER_SIZE,
    Footer,
    NewerPackError,
    PackFormatError,
    PayloadHeader,
    Table,
    decode_footer,
    decode_header,
    decode_payload_header,
    decode_table,
)

MAX_OPEN_PACKS = 64
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block us


class PackReader:
    """One open pack. The descriptor closes with the last reference, so a thread never reads from a reused one."""

    def __init__(self, path: Path, pack_id: bytes, store_id: bytes) -> None:
        """Raises FileNotFoundError if the pack is not there, DamagedPackError if it cannot be opened."""
        self.pack_id = pack_id
        self.name = path.name
        self._path = path
        self._store_id = store_id
        self._fd = -1
        try:
            self._fd = os.open(path, _OPEN)
            status = os.fstat(self._fd)
        except FileNotFoundError as exc:
            if os.path.lexists(path):
                raise self.damage("it is a link that leads nowhere") from exc
            raise
        except OSError as exc:
            refused = f" ({whose(path)}); `kacas doctor` tells more" if exc.errno == errno.EACCES else ""
            raise self.damage(f"it cannot be opened: {exc.strerror}{refused}") from exc
        if not stat.S_ISREG(status.st_mode):
            raise self.damage("it is not a regular file")
        self.size = status.st_size
        self._identity = (status.st_dev, status.st_ino)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def is_file(self, status: os.stat_result) -> bool:
        """Whether this is the status of the file that is open here, and of the same size."""
        return (status.st_dev, status.st_ino, status.st_size) == (*self._identity, self.size)

    def damage(self, why: str, *, digest: bytes = b"") -> DamagedPackError:
        """The error that names this pack; raise it."""
        part = f" (chunk {digest.hex()[:16]}…)" if digest else ""
        return DamagedPackError(
            f"pack {self.name}{part}: {why}; run `kacas verify` to see what else is affected, and store the content again",
            pack=self.pack_id.hex(),
            digest=digest.hex(),
        )

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from `offset`; raises DamagedPackError if the pack ends before, or the disk fails."""
        done, is_anew = 0, False
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as exc:
                if exc.errno != errno.ESTALE or is_anew or not self._open_anew():
                    raise self.damage(f"reading failed: {exc.strerror}") from exc
                done, is_anew = 0, True
                continue
            if count == 0:
                raise self.damage(f"it ends at byte {offset + done}, content was expected there")
            done += count

    def _open_anew(self) -> bool:
        """On NFS: another host put a file in its place, from a backup perhaps, and the server knows the old one no more."""
        try:
            fd = os.open(self._path, _OPEN)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            os.dup2(fd, self._fd, inheritable=False)  # in one step, for other threads
        finally:
            os.close(fd)
        self.size, self._identity = status.st_size, (status.st_dev, status.st_ino)
        return True

    def read_ahead(self, offset: int, size: int) -> None:
        """Let the disk begin with what will be read soon."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_WILLNEED)

    def _read(self, offset: int, size: int) -> bytes:
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_footer(self) -> Footer:
        """Header and footer, checked. Raises DamagedPackError, ForeignPackError or NewerFormatError."""
        if self.size < HEADER_SIZE + FOOTER_SIZE:
            raise self.damage(f"it has only {self.size} bytes")
        header_data = self._read(0, HEADER_SIZE)
        try:
            header = decode_header(header_data)
            footer = decode_footer(self._read(self.size - FOOTER_SIZE, FOOTER_SIZE), header_data, self.size)
        except NewerPackError as exc:
            raise NewerFormatError(
                f"pack {self.name}: {exc}; upgrade kacas to read it", needed=exc.version, pack=self.pack_id.hex()
            ) from exc
        except PackFormatError as exc:
            raise self.damage(str(exc)) from exc
        if header.store_id != self._store_id:
            raise ForeignPackError(
                f"pack {self.name} belongs to the store with id {header.store_id.hex()}; move it back there",
                pack=self.pack_id.hex(),
            )
        if not header.pack_id == footer.pack_id == self.pack_id:
            raise ForeignPackError(
                f"pack {self.name} is really {header.pack_id.hex()}.pack; give it its own name back",
                pack=self.pack_id.hex(),
            )
        return footer

    def read_table(self) -> Table:
        """The table, checked against footer and digest. Raises as read_footer."""
        footer = self.read_footer()
        data = self._read(footer.table_offset, footer.table_size)
        if chunk_digest(data) != footer.table_digest:
            raise self.damage("its table is damaged")
        try:
            return decode_table(data, footer)
        except PackFormatError as exc:
            raise self.damage(str(exc)) from exc

    def confirms(self, location: Location, digest: bytes) -> bool:
        """Whether the payload header at the location is that of the digest: one small read proves a hint."""
        try:
            front = self._read(location.offset, PAYLOAD_HEADER_SIZE + location.parameters_size)
            header = decode_payload_header(memoryview(front))
        except (PackFormatError, DamagedPackError):
            return False
        return (
            header.digest == digest
            and header.raw_size == location.raw_size
            and header.payload_size == location.payload_size
            and location.stop <= self.size
        )

    def scan(self) -> Iterator[tuple[int, PayloadHeader]]:
        """Walk the payload headers from the front without the table, as far as they follow one another."""
        offset = HEADER_SIZE
        while offset + PAYLOAD_HEADER_SIZE <= self.size:
            front = self._read(offset, min(PAYLOAD_HEADER_SIZE + MAX_PARAMETERS_SIZE, self.size - offset))
            try:
                header = decode_payload_header(memoryview(front))
            except PackFormatError:
                return  # the table begins here, or the damage: what lies behind cannot be found without the table
            yield offset, header
            offset += header.total_size


class OpenPacks:
    """The packs that are open, at most MAX_OPEN_PACKS, the least recently used closed first. Thread-safe."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lock = threading.Lock()
        self._readers: OrderedDict[bytes, PackReader] = OrderedDict()
        self._pid = os.getpid()

    def get(self, pack_id: bytes) -> PackReader:
        """Raises FileNotFoundError or DamagedPackError."""
        if os.getpid() != self._pid:
            # Another thread of the parent may have held the lock when it forked.
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            reader = self._readers.get(pack_id)
            if reader is not None:
                self._readers.move_to_end(pack_id)
                return reader
        reader = PackReader(self._volume.pack_path(pack_id), pack_id, self._volume.store_id)
        with self._lock:
            self._readers[pack_id] = reader
            while len(self._readers) > MAX_OPEN_PACKS:
                self._readers.popitem(last=False)
        return reader

    def is_current(self, pack_id: bytes) -> bool:
        """Whether the pack's name still leads to the file that is open here, as long as it was."""
        try:
            return self.get(pack_id).is_file(os.stat(self._volume.pack_path(pack_id)))
        except (OSError, DamagedPackError):
            return False

    def forget(self, pack_id: bytes) -> None:
        """Close it at the next chance: it was found missing or replaced."""
        with self._lock:
            self._readers.pop(pack_id, None)

    def close(self) -> None:
        with self._lock:
            self._readers.clear()
