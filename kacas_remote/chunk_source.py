"""The payloads of one recipe: its pages say where they are, and are read when what is below them is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kacas.disk.forked import Forked
from kacas.errors import KacasError
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind
from kacas.model.location import Declared
from kacas.model.manifest import Child
from kacas.model.pack_format import PayloadHeader
from kacas.read_through import PartSource
from kacas_remote.blob_ranges import BlobRanges, Place
from kacas_remote.catalog import Catalog, Claim
from kacas_remote.errors import DamagedRemoteError, NotSupportedError
from kacas_remote.layout import pack_key, plain_key
from kacas_remote.recipe import DamagedRecipeError, Page, PagePlace, RecipeError
from kacas_remote.tables import Tables

_PAGES_KEPT = 384  # more than a Content keeps nodes: 60 KiB each
_LOOKS = 2  # at a place, before another one is looked for
_AHEAD = 32  # pages that are read at once of a tree that is wanted whole


class _Node(NamedTuple):
    """Where the page of a node is, and those behind it. level: of the node."""

    child: Child
    level: int
    place: PagePlace
    siblings: tuple[Child, ...]
    number: int


class RecipeSource:
    """See PartSource. Pages are proved by their digests when they are read; what they lead to is proved by who asks."""

    def __init__(
        self, ranges: BlobRanges, catalog: Catalog, tables: Tables, claim: Claim, elsewhere: PartSource
    ) -> None:
        """claim: a recipe's. elsewhere: gives what was rejected from other places of the remote."""
        assert claim.recipe is not None
        self.recipe = claim.recipe
        self._claim = claim
        self._catalog = catalog
        self._tables = tables
        self._ranges = ranges
        self._key = claim.key
        self._elsewhere = elsewhere
        self._nodes: dict[bytes, _Node] = {}
        self._pages: OrderedDict[bytes, Page] = OrderedDict()
        self._chunks: dict[bytes, tuple[Place, Page]] = {}  # and the page that named it last
        self._expected: dict[bytes, None] = {}
        self._rejected: dict[bytes, list[str]] = {}
        self._has_looked = False
        self._is_whole = False
        self._renew()
        self._forked = Forked(self._renew)
        self._learn(self.recipe.top)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def declared(self, digest: bytes) -> Declared | None:
        """See PartSource."""
        if digest == self.recipe.head.root:
            raw = self.recipe.top.raw
            return (
                Declared(PayloadKind.MANIFEST, len(raw)) if raw else Declared(PayloadKind.CHUNK, self.recipe.head.size)
            )
        page = self._pages_of([digest]).get(digest)
        return Declared(PayloadKind.NODE, len(page.raw)) if page is not None else None

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """See ChunkSource."""
        self._forked.check()
        found: dict[bytes, memoryview] = {}
        if self.recipe.top.raw and self.recipe.head.root in digests:
            found[self.recipe.head.root] = _payload(PayloadKind.MANIFEST, self.recipe.head.root, self.recipe.top.raw)
        for digest, page in self._pages_of([one for one in digests if one in self._nodes]).items():
            found[digest] = _payload(PayloadKind.NODE, digest, page.raw)
        wanted = [digest for digest in digests if digest not in found]
        places = self._places(wanted)
        data = self._ranges.read(places.values())
        for digest, place in places.items():
            if place in data:
                whole = data[place]
                is_plain = place.key == plain_key(self.recipe.head.sha1)
                found[digest] = _payload(PayloadKind.CHUNK, digest, whole) if is_plain else whole
            else:
                self._rejected[digest] = [f"{place.key} is not there"] * _LOOKS
        if left := [digest for digest in wanted if digest not in found]:
            self._look_elsewhere()
            found |= self._elsewhere.get_many(left)
        return found

    def _is_good(self, digest: bytes) -> bool:
        """Whether its place is worth a (second) look: what is wrong may have been so on the way here only."""
        return len(self._rejected.get(digest, ())) < _LOOKS

    def _look_elsewhere(self) -> None:
        if not self._has_looked:
            self._has_looked = True
            self._catalog.renew(self._claim.sha1)
            try:
                self._tables.refresh()
            except NotSupportedError:
                pass  # a web server lists nothing

    def _places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        with self._lock:
            places = {one: self._chunks[one][0] for one in digests if one in self._chunks and self._is_good(one)}
            lacking = [one for one in digests if one not in self._chunks]
            expected, self._expected = (list(self._expected), {}) if lacking else ([], self._expected)
        if not expected:
            return places
        self._pages_of(expected)
        return places | self._places(lacking)

    def expect(self, digest: bytes) -> None:
        """See PartSource."""
        self._forked.check()
        if digest in self._nodes and digest not in self._pages:
            with self._lock:
                self._expected[digest] = None

    def read_tree(self) -> None:
        """See PartSource."""
        self._is_whole = True

    def lies(self, digest: bytes) -> tuple[str, int] | None:
        """See PartSource."""
        known = self._chunks.get(digest)
        return None if known is None else (known[0].key, known[0].stop - known[0].start)

    def _pages_of(self, digests: Sequence[bytes]) -> dict[bytes, Page]:
        """Of nodes; read, and what they say learned, where that was not done. Raises DamagedRemoteError."""
        self._forked.check()
        with self._lock:
            found = {digest: self._pages[digest] for digest in digests if digest in self._pages}
            lacking = {
                digest: self._nodes[digest] for digest in digests if digest not in found and digest in self._nodes
            }
            if self._is_whole:
                for node in list(lacking.values()):
                    for sibling in node.siblings[node.number : node.number + _AHEAD]:
                        if sibling.digest not in self._pages:
                            lacking[sibling.digest] = self._nodes[sibling.digest]
        if lacking:
            pages = self._read_pages(list(lacking.values()))
            with self._lock:
                for digest, page in pages.items():
                    self._keep(digest, page)
            found |= {digest: pages[digest] for digest in digests if digest in pages}
        return found

    def _read_pages(self, nodes: Sequence[_Node]) -> dict[bytes, Page]:
        if len(nodes) == 1:  # which this host may know from the last time
            (node,) = nodes
            return {node.child.digest: self._catalog.page(self._claim, node.child, node.place, node.level)}
        places = {node.child.digest: Place(self._key, *node.place) for node in nodes}
        data = self._ranges.read(places.values())
        pages: dict[bytes, Page] = {}
        for node in nodes:
            place = places[node.child.digest]
            try:
                try:
                    pages[node.child.digest] = self._decoded(data.get(place), node)
                except DamagedRecipeError:  # on the way here, perhaps
                    pages[node.child.digest] = self._decoded(self._ranges.read([place]).get(place), node)
            except RecipeError as exc:
                raise self._damage(self._key, str(exc)) from exc
        return pages

    def _decoded(self, data: memoryview | None, node: _Node) -> Page:
        if data is None:
            raise DamagedRecipeError("it is not there any more")
        return self.recipe.decode_page(data, node.child, node.level)

    def _keep(self, digest: bytes, page: Page) -> None:
        if digest in self._pages:
            return
        self._pages[digest] = page
        self._learn(page)
        while len(self._pages) > _PAGES_KEPT:
            _, old = self._pages.popitem(last=False)
            if old.level == 0:
                for child in old.children:
                    if child.digest in self._chunks and self._chunks[child.digest][1] is old:
                        del self._chunks[child.digest]

    def _learn(self, page: Page) -> None:
        if page.level == 0:
            for child, at in page.chunks():
                key = pack_key(at.pack_id) if at.pack_id is not None else plain_key(self.recipe.head.sha1)
                self._chunks[child.digest] = Place(key, at.offset, at.stop), page
        else:
            for number, (child, where) in enumerate(page.nodes()):
                self._nodes[child.digest] = _Node(child, page.level, where, page.children, number)

    def reject(self, digest: bytes, why: str) -> None:
        """See PartSource."""
        known = self._chunks.get(digest)
        said = f"{known[0].key}: {why}" if known is not None else why
        if self._is_good(digest):
            self._rejected.setdefault(digest, []).append(said)
        else:
            self._elsewhere.reject(digest, why)

    def error(self, digest: bytes) -> KacasError:
        """See PartSource."""
        why = self._rejected.get(digest)
        if not why:
            return self._damage(self._key, f"it says of no place where {digest.hex()[:16]}… is")
        return self._damage(why[0], f"chunk {digest.hex()[:16]}… of the recipe {self._key}")

    def _damage(self, what: str, why: str) -> DamagedRemoteError:
        return DamagedRemoteError(
            f"remote {self._ranges.blobs.name}, {what} ({why}); it was not used. Look at the remote with: kacas remote "
            "verify --deep. What is lost there is removed (kacas remote rm), and pushed again from where it is whole"
        )


def _payload(kind: PayloadKind, digest: bytes, raw: bytes | memoryview) -> memoryview:
    """As a pack would have it."""
    header = PayloadHeader(kind, Codec.RAW, len(raw), len(raw), digest)
    return memoryview(header.encode(raw) + bytes(raw))
