"""Layouts: the contents under the roots of one SHA-1, whichever way each is laid out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from kacas.content import Content
from kacas.disk.adopted import AdoptedFiles, adopted_files
from kacas.disk.lookup import Lookup
from kacas.errors import DamagedContentError, DamagedError, NotFoundError
from kacas.fetch import Fetch
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import PayloadKind
from kacas.model.entry import Action, Entry
from kacas.model.manifest import Manifest, ManifestError, decode_manifest
from kacas.model.uri import Uri
from kacas.tiled_content import TiledContent

_CONTENTS_KEPT = 64


class Layouts:
    """Opens what entries name, and keeps the last contents open. Thread-safe; not across a fork."""

    def __init__(self, lookup: Lookup, fetch: Fetch) -> None:
        self._lookup = lookup
        self._fetch = fetch
        self._contents: OrderedDict[bytes, Content] = OrderedDict()
        self._lock = threading.Lock()

    def sequence(self, uri: Uri) -> tuple[Entry, Content]:
        """The newest that can be read and is a sequence that needs no file elsewhere; else the newest in tiles, else the
        newest. What it cannot read later it reads from the others. Raises as `readable`."""
        return best_first(self.readable(uri))

    def readable(self, uri: Uri) -> Iterator[tuple[Entry, Content]]:
        """Every layout that can be read, one at least, the newest first.

        Raises NotFoundError when every table says so, a DamagedError or NewerFormatError when one cannot be read.
        """
        damage: DamagedError | None = None
        for ask in (self._lookup.entries, self._lookup.proved_entries):
            damage, found = None, False  # what a hint led to is no damage: the pack may be gone, entry and all
            known = [entry for entry, _ in ask(uri.sha1)]
            for entry in _newest(uri, known):
                try:
                    content = self._open(entry, adopted_files(known, entry.size))
                except DamagedError as exc:
                    damage = exc
                else:
                    found = True
                    yield entry, content
            if found:
                return
        if damage is not None:
            raise damage
        raise NotFoundError(
            f"{Uri(uri.sha1, uri.label, uri.root)} is not in the store at {self._lookup.store_path}; "
            "store it here, or point KACAS_DIR to the store that has it",
            sha1=uri.sha1.hex(),
        )

    def _open(self, entry: Entry, adopted: AdoptedFiles | None) -> Content:
        with self._lock:
            content = self._contents.get(entry.root)
            if content is not None and (content.size, content.adopted) == (entry.size, adopted):
                self._contents.move_to_end(entry.root)
                return content
        content = open_content(self._fetch, entry.root, entry.size, adopted)
        with self._lock:
            self._contents[entry.root] = content
            while len(self._contents) > _CONTENTS_KEPT:
                self._contents.popitem(last=False)
        return content


def ordered(layouts: Iterable[tuple[Entry, Content]]) -> list[tuple[Entry, Content]]:
    """Those that cost least to read from front to back come first; each has the others as spares."""
    found = sorted(layouts, key=lambda one: _reluctance(one[1]))
    if len(found) == 1:
        return found
    return [
        (entry, content.with_spares(other for _, other in found if other is not content)) for entry, content in found
    ]


def best_first(layouts: Iterable[tuple[Entry, Content]]) -> tuple[Entry, Content]:
    """The first of `ordered`. There must be one."""
    return ordered(layouts)[0]


def _reluctance(content: Content) -> int:
    if content.tiling is not None:
        return 1
    return 0 if content.adopted is None else 2


def _newest(uri: Uri, entries: list[Entry]) -> list[Entry]:
    kept = [entry for entry in entries if entry.names_layout and uri.root in (None, entry.root)]
    # Layouts that need no file elsewhere come first.
    adopted = {entry.root for entry in entries if entry.action == Action.ADOPTED}
    newest = sorted(kept, key=lambda entry: (entry.root not in adopted, entry.time_ns), reverse=True)
    return list({entry.root: entry for entry in reversed(newest)}.values())[::-1]


def open_content(fetch: Fetch, root: bytes, size: int, adopted: AdoptedFiles | None = None) -> Content:
    """Open the layout with this root; size: what the entry says; adopted: the files that its entries name.

    Raises DamagedContentError, DamagedPackError or NewerFormatError.
    """
    # An adopted file of one chunk has no manifest, and normally nothing of it is in a pack.
    one_chunk = adopted is not None and size <= CHUNK_TARGET
    declared = fetch.declared(root, prove=not one_chunk)
    if declared is None and one_chunk:
        return Content(fetch, root, None, size, adopted)
    if declared is None:
        raise fetch.missing("root", root)
    if declared.kind == PayloadKind.CHUNK:
        found, content = declared.raw_size, Content(fetch, root, None, size, adopted)
    else:
        try:
            manifest = decode_manifest(fetch.payload(root, PayloadKind.MANIFEST, declared.raw_size))
        except ManifestError as exc:
            raise DamagedContentError(f"manifest {root.hex()}: {exc}", digest=root.hex()) from exc
        found, content = manifest.size, _of_manifest(fetch, root, manifest, adopted)
    if found != size:
        raise DamagedContentError(f"root {root.hex()} has {found} bytes, its entry says {size}", digest=root.hex())
    return content


def _of_manifest(fetch: Fetch, root: bytes, manifest: Manifest, adopted: AdoptedFiles | None) -> Content:
    if manifest.tiling is not None:
        return TiledContent(fetch, root, manifest, manifest.tiling)
    return Content(fetch, root, manifest, manifest.size, adopted)
