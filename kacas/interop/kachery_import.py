"""Moving in: what a directory of kachery-cloud holds is verified and kept by a store. The directory is not changed.

Contents come in batches, so an import that was interrupted is taken up by running it again: what the store surely has is not
read a second time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

from kacas.disk.identities import FileState, has_settled
from kacas.disk.identity_file import keep_key_pair
from kacas.errors import (
    CollisionError,
    InvalidSettingError,
    SourceChangedError,
    UnreadableSourceError,
    WrongIdentityError,
)
from kacas.formats.file import FileSource, file_layout
from kacas.formats.known_files import KnownFiles
from kacas.formats.link import LinkedSource, adopted_path
from kacas.ingest import identify
from kacas.interop.import_report import ImportReport
from kacas.interop.kachery_directory import KacheryDirectory, Linked, Stored, Strange
from kacas.interop.kachery_mutables import import_mutables
from kacas.interop.key_pair import kachery_key_pair
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.entry import Action, Kind, live
from kacas.model.uri import label_bytes
from kacas.settings import identity_file
from kacas.store import Store

ADOPT = ("links", "all", "nothing")
_TOGETHER = 512  # contents that are looked up at once
# What an interruption costs at most, beside the file at hand: a batch is published when it has so much.
_BATCH_SIZE = 256 << 20  # bytes, as a pack has
_BATCH_COUNT = 8192
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Watcher(Protocol):
    """Who is told how far the import has come; sizes in bytes."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...

    def expect(self, total: int | None) -> None: ...

    def begin(self, name: str) -> None: ...

    def finished(self, size: int) -> None: ...


def import_kachery(
    store: Store,
    directory: str | os.PathLike[str],
    *,
    adopt: str = "links",
    keys: bool = False,
    watcher: Watcher | None = None,
) -> ImportReport:
    """Keep what a directory of kachery-cloud holds. Every content is hashed first: its name is its SHA-1.

    adopt: what stays where it is, verified on every read, as by `link_file`. "links": the files that were linked there
    already, and lie elsewhere; all else is copied, so that the directory may be deleted afterwards. "all": the directory's own
    files, too, which takes no space and needs the directory for ever. "nothing": all is copied.
    keys: make the directory's key pair the user's identity, in the file that `kacas.settings.identity_file` names.
    What cannot be imported is in the report, and the rest is. Raises UnreadableSourceError if the directory is none of
    kachery-cloud, InvalidSettingError, and StoreError; what was imported until then stays.
    """
    if adopt not in ADOPT:
        raise InvalidSettingError(f"adopt={adopt!r} is none of {', '.join(ADOPT)}")
    source = KacheryDirectory(directory)
    if source.path.is_relative_to(os.path.realpath(store.path)):
        raise UnreadableSourceError(f"{source.path} lies in the store itself", path=str(source.path))
    report = ImportReport(str(source.path), others=source.others)
    importing = _Import(store, source, adopt, report, watcher)
    importing.run()
    import_mutables(store, source, report)
    _import_key_pair(source, report, wanted=keys)
    return report


def _import_key_pair(source: KacheryDirectory, report: ImportReport, *, wanted: bool) -> None:
    try:
        pair = kachery_key_pair(source)
        if pair is None:
            return
        report.key_pair = "not asked for"
        if wanted:
            report.key_pair = "imported" if keep_key_pair(pair, identity_file()) else "here"
    except (OSError, ValueError) as exc:
        report.key_pair = "left out"
        if wanted:
            why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            report.leave_out("key pair", str(source.path / "private.pem"), why)


class _Import:
    def __init__(
        self, store: Store, source: KacheryDirectory, adopt: str, report: ImportReport, watcher: Watcher | None
    ) -> None:
        self._repository = store.repository
        self._identities = store.identities
        self._files = KnownFiles(store.identities, rehash=False)
        self._source = source
        self._adopt = adopt
        self._report = report
        self._watcher = watcher

    def run(self) -> None:
        if self._watcher is not None:
            self._watcher.expect(self._total(self._watcher))
        found = self._sound()
        while group := list(islice(found, _TOGETHER)):
            with self._repository.batch():
                size = count = 0
                while group:
                    size += self._take_many(group)
                    count += len(group)
                    if size >= _BATCH_SIZE or count >= _BATCH_COUNT:
                        break
                    group = list(islice(found, _TOGETHER))
            self._files.flush()

    def _total(self, watcher: Watcher) -> int:
        """Bytes of all that is there: a look at every name, which takes a while where there are millions."""
        total = 0
        found = self._found()
        while group := list(islice(found, _TOGETHER)):
            total += sum(one.size for one in group if not isinstance(one, Strange))
            watcher("counting", total, None)
        return total

    def _found(self) -> Iterator[Stored | Linked | Strange]:
        return chain(self._source.contents(), self._source.links())

    def _sound(self) -> Iterator[Stored | Linked]:
        for found in self._found():
            if not isinstance(found, Strange):
                yield found
            elif found.kind == "temporary":
                self._report.temporaries += 1
            else:
                self._report.leave_out(found.kind, found.path, found.why)

    def _take_many(self, group: list[Stored | Linked]) -> int:
        """Import a group within a batch; returns how many bytes were read."""
        batch = self._repository.current_batch.get()
        assert batch is not None
        batch.flush()  # what is on its way is not stored again
        here = self._repository.claims.keep_known(batch, {found.sha1: label_bytes(_label(found)) for found in group})
        size = 0
        for found in group:
            if self._watcher is not None:
                self._watcher.begin(_label(found) or found.sha1.hex()[:12])
            if found.sha1 in here or batch.entries(found.sha1):
                self._report.here += 1
                self._report.here_size += found.size
            else:
                self._take(found)
                size += found.size
            if self._watcher is not None:
                self._watcher.finished(found.size)
        return size

    def _take(self, found: Stored | Linked) -> None:
        """Import one content, or note why not."""
        report, sha1 = self._report, found.sha1
        try:
            if isinstance(found, Linked):
                self._take_linked(found)
            elif self._adopt == "all":
                self._link(found, os.stat(found.path, follow_symlinks=False))
            else:
                self._copy(found, _OPEN)
        except WrongIdentityError as exc:
            kind, whose = ("damaged", "its name") if isinstance(found, Stored) else ("changed", "what was linked")
            report.leave_out(kind, found.path, f"{exc}, not that of {whose}", sha1)
        except SourceChangedError as exc:
            report.leave_out("changed", found.path, str(exc), sha1)
        except CollisionError as exc:
            report.leave_out("collision", found.path, str(exc), sha1)
        except UnreadableSourceError as exc:
            report.leave_out("unreadable", found.path, str(exc), sha1)
        except OSError as exc:
            if exc.filename != found.path:
                raise  # the store's trouble
            kind = "missing" if isinstance(exc, FileNotFoundError | NotADirectoryError) else "unreadable"
            report.leave_out(kind, found.path, os.strerror(exc.errno or 0), sha1)

    def _take_linked(self, found: Linked) -> None:
        """Raises OSError of its path, and as `_link` and `_copy`."""
        status = os.stat(found.path)
        if status.st_size != found.size:
            raise SourceChangedError(
                f"it has {status.st_size:,} bytes, not the {found.size:,} that were linked", path=found.path
            )
        inside = Path(os.path.realpath(found.path)).is_relative_to(self._source.path)
        if self._adopt == "all" or (self._adopt == "links" and not inside):
            self._link(found, status)
        else:
            self._copy(found, _OPEN & ~os.O_NOFOLLOW)

    def _copy(self, found: Stored | Linked, flags: int) -> None:
        source = FileSource(Path(found.path), os.open(found.path, flags))
        try:
            if source.size > CHUNK_TARGET:
                layout = file_layout(source)._asdict()
                self._repository.put(source, Kind.FILE, _label(found), expected=found.sha1, **layout)
            else:
                raw = _whole(source)
                identify(raw).check(found.sha1)
                self._repository.put_small(raw, Kind.FILE, _label(found))
            self._report.copied += 1
            self._report.copied_size += found.size
        finally:
            source.close()

    def _link(self, found: Stored | Linked, status: os.stat_result) -> None:
        if not status.st_size:
            self._copy(found, _OPEN & ~os.O_NOFOLLOW)  # there is nothing to leave elsewhere
            return
        place = adopted_path(self._repository, found.path)
        if self._is_adopted(found, place, status):
            self._report.here += 1
            self._report.here_size += found.size
            return
        source = LinkedSource(place, sync=False)
        try:
            status, synced_ns = self._files.sync(source.fileno(), os.fstat(source.fileno()))
            source.state = FileState.of(status)
            # The store has no copy: what was not synced for the identity cache, by itself or with all others, is synced here.
            if self._repository.volume.durable and not (synced_ns and has_settled(source.state, synced_ns)):
                source.make_durable()
            layout = file_layout(source)._asdict()
            entry = self._repository.put(
                source, Kind.FILE, _label(found), adopted_path=os.fsencode(place), expected=found.sha1, **layout
            )
            self._files.remember(status, (entry.sha1, entry.root, entry.size), synced_ns)
            self._report.linked += 1
            self._report.linked_size += found.size
        finally:
            source.close()

    def _is_adopted(self, found: Stored | Linked, place: Path, status: os.stat_result) -> bool:
        """Whether it was linked from here before, and is as it was then, as far as that can be told without reading it."""
        owner = self._repository.claims.owner
        known = [entry for entry, _ in self._repository.lookup.entries(found.sha1)]
        mine = [
            entry for action in (Action.KEEP, Action.ADOPTED) for entry in live(known, action) if entry.owner == owner
        ]
        adopted = any(
            entry.action == Action.ADOPTED and entry.label == os.fsencode(place) and entry.size == status.st_size
            for entry in mine
        )
        if not adopted or not any(entry.action == Action.KEEP for entry in mine):
            return False
        # Both say that it has not changed since: kachery-cloud when it was linked there, the cache when it was here.
        if isinstance(found, Stored) or found.mtime == status.st_mtime:
            return True
        state = FileState.of(status)
        identity = self._identities.get_many([state]).get(state)
        return identity is not None and identity.sha1 == found.sha1


def _label(found: Stored | Linked) -> str:
    """Contents have no names in the directory; links have that of their file."""
    return os.path.basename(found.path) if isinstance(found, Linked) else ""


def _whole(source: FileSource) -> bytes:
    """All bytes of a small file. One more is asked for, to notice a file that grew."""
    raw = bytearray(source.size + 1)
    filled = 0
    while filled < len(raw) and (count := source.readinto(memoryview(raw)[filled:])):
        filled += count
    source.check_unchanged()
    return bytes(memoryview(raw)[:filled])
