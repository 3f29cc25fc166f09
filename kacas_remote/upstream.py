"""The upstream that is a remote: what its recipes, its tables and its plain objects say, and what of it may be believed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kacas.content import Content
from kacas.errors import DamagedError, KacasError, NewerFormatError, NotFoundError
from kacas.layouts import best_first
from kacas.model.codec import MIB
from kacas.model.description import Description
from kacas.model.digest import ID_SIZE, new_sha1
from kacas.model.entry import Action, Entry, Origin, Proof
from kacas.model.uri import Uri
from kacas.settings import Settings
from kacas.upstream import Near, Plain
from kacas_remote.blob_ranges import BlobRanges, Place
from kacas_remote.chunk_source import RecipeSource
from kacas_remote.errors import DamagedRemoteError, UntrustedError
from kacas_remote.layout import other_recipe_key, other_recipes_prefix, plain_key, recipe_key
from kacas_remote.plain_source import PlainSource
from kacas_remote.recipe import FIRST_READ_SIZE, DamagedRecipeError, Head, RecipeError, decode_recipe, front_size
from kacas_remote.remote import Remote
from kacas_remote.signing import publisher_text
from kacas_remote.table_source import TableSource

if TYPE_CHECKING:
    from kacas_remote.tables import Tables

WHOLE_BELOW = 64 * MIB  # bytes of content that nobody vouches for, which is fetched whole when a part is asked for
_OPEN = 64
_MOST_OTHERS = 16
_MOST_PAUSE_S = 0.5


class _Found(NamedTuple):
    """A layout. head: of its recipe; None if a table names it."""

    entry: Entry
    source: RecipeSource | TableSource
    head: Head | None


class RemoteUpstream:
    """See Upstream. Picklable; thread-safe, safe after fork."""

    def __init__(self, remote: Remote, settings: Settings) -> None:
        """settings: of which the cache directory is used. Nothing is asked of the service."""
        self.remote = remote
        self._settings = settings
        self._ranges = BlobRanges(remote.blobs)
        self._tables: Tables | None = None
        self._by_table: TableSource | None = None
        self._open: OrderedDict[tuple[bytes, bytes | None], list[_Found]] = OrderedDict()
        self._proved: set[tuple[bytes, bytes]] = set()
        self._look_again = 0.0

    def __reduce__(self) -> tuple[Callable[..., RemoteUpstream], tuple[Any, ...]]:
        return RemoteUpstream, (self.remote, self._settings)

    @property
    def name(self) -> str:
        """See Upstream."""
        return f"remote {self.remote.name} ({self.remote.blobs.name})"

    # --- finding ----------------------------------------------------------------------------

    def _layouts(self, uri: Uri) -> Iterator[_Found]:
        """The first recipe, then others, then what tables say. What is refused is left out, and raised if nothing else is
        there."""
        refused: KacasError | None = None
        found = False
        key = recipe_key(uri.sha1) if uri.root is None else other_recipe_key(uri.sha1, uri.root)
        keys = [recipe_key(uri.sha1)] if uri.root is None else [recipe_key(uri.sha1), key]
        tried: set[str] = set()
        for key in (*keys, *self._others(uri)):
            if key in tried:
                continue
            tried.add(key)
            try:
                one = self._recipe(key, uri)
            except (DamagedError, NewerFormatError) as exc:
                refused = refused or exc
                continue
            if one is not None:
                found = True
                yield one
        if not found:
            for one in self._named_by_tables(uri):
                found = True
                yield one
        if not found:
            raise refused or NotFoundError(f"{uri} is not in {self.name}", sha1=uri.sha1.hex())

    def _others(self, uri: Uri) -> Iterator[str]:
        """Keys of other recipes of the SHA-1: listed when they are needed."""
        for number, info in enumerate(self.remote.blobs.list(other_recipes_prefix(uri.sha1))):
            if number >= _MOST_OTHERS:
                return
            yield info.key

    def _recipe(self, key: str, uri: Uri) -> _Found | None:
        data = self._front(key)
        if data is None:
            return None
        try:
            try:
                recipe = decode_recipe(data)
            except DamagedRecipeError:  # on the way here, perhaps
                data = self._front(key)
                if data is None:
                    return None
                recipe = decode_recipe(data)
            if recipe.head.sha1 != uri.sha1:
                raise DamagedRecipeError(f"it is that of {recipe.head.sha1.hex()}")
        except RecipeError as exc:
            raise DamagedRemoteError(
                f"{self.name}, {key}: {exc}; it was not used. Push the content again from where it is whole"
            ) from exc
        head = recipe.head
        if uri.root not in (None, head.root):
            return None
        entry = Entry(
            bytes(ID_SIZE), head.sha1, head.root, head.size, head.time_ns, head.kind, b"", head.label,
            Action.MEMBER, Origin.FETCHED, Proof.CLAIMED,
        )  # fmt: skip
        return _Found(entry, RecipeSource(self._ranges, key, recipe, self.get_many), head)

    def _front(self, key: str) -> memoryview | None:
        """Head and top page of a recipe, in one request nearly always."""
        first = Place(key, 0, FIRST_READ_SIZE)
        data = self._ranges.read([first]).get(first)
        if data is None:
            return None
        try:
            size = front_size(data)
        except RecipeError:
            return data  # `decode_recipe` says why
        if size > len(data) == FIRST_READ_SIZE:
            more = Place(key, FIRST_READ_SIZE, size)
            data = memoryview(bytes(data) + bytes(self._ranges.read([more]).get(more, b"")))
        return data

    def _named_by_tables(self, uri: Uri) -> list[_Found]:
        tables = self.tables
        entries = tables.entries([uri.sha1]).get(uri.sha1, [])
        if not entries:
            self._refresh_soon()
            entries = tables.entries([uri.sha1]).get(uri.sha1, [])
        by_root = {entry.root: entry for entry in reversed(entries) if uri.root in (None, entry.root)}
        return [_Found(entry, self.by_table, None) for entry in reversed(by_root.values())]

    @property
    def tables(self) -> Tables:
        """Of the packs of the bucket; opened when first needed."""
        if self._tables is None:
            from kacas_remote.tables import Tables  # SQLite is not needed by who has recipes only

            self._tables = Tables(self.remote, Path(self._settings.cache_directory))
        return self._tables

    @property
    def by_table(self) -> TableSource:
        """Payloads by their digests."""
        if self._by_table is None:
            self._by_table = TableSource(self._ranges, self.tables)
        return self._by_table

    def _refresh_soon(self) -> None:
        """Looking takes a tenth of the time at most."""
        begun = time.monotonic()
        if begun >= self._look_again:
            self.tables.refresh()
            ended = time.monotonic()
            self._look_again = ended + min(_MOST_PAUSE_S, 10 * (ended - begun))

    # --- what an upstream does --------------------------------------------------------------

    def bring(self, uri: Uri) -> None:
        """See Upstream: nothing is behind a remote."""

    def bring_tree(self, sha1: bytes) -> None:
        """See Upstream: the tables that name a directory's members are read."""
        try:
            found = next(self._found(Uri(sha1)))
        except KacasError:
            return
        if found.head is not None and found.head.member_packs:
            self.tables.learn(found.head.member_packs)
        else:
            self._refresh_soon()

    def _found(self, uri: Uri) -> Iterator[_Found]:
        """As `_layouts`; the first ones of those that were asked for last are kept."""
        key = uri.sha1, uri.root
        kept = list(self._open.get(key, ()))
        yield from kept
        known = {(one.entry.root, one.head is None) for one in kept}
        if kept:
            for one in self._layouts(uri):
                if (one.entry.root, one.head is None) not in known:
                    yield one
            return
        for number, one in enumerate(self._layouts(uri)):
            if number == 0:
                self._open[key] = [one]
                while len(self._open) > _OPEN:
                    self._open.popitem(last=False)
            yield one

    def readable(self, uri: Uri, near: Near) -> Iterator[tuple[Entry, Content]]:
        """See Upstream."""
        refused: KacasError | None = None
        found = False
        for one in self._found(uri):
            try:
                content = near.open(one.entry, one.source)
            except DamagedError as exc:
                refused = refused or exc
                self._open.pop((uri.sha1, uri.root), None)
                continue
            found = True
            yield one.entry, content
        if not found and refused is not None:
            raise refused

    def believed(self, uri: Uri, near: Near) -> list[tuple[Entry, Content]]:
        """See Upstream."""
        doubtful: list[_Found] = []
        refused: KacasError | None = None
        try:
            for one in self._found(uri):
                if not self._is_believed(uri, one):
                    doubtful.append(one)
                    continue
                try:
                    content = near.open(one.entry, one.source)
                except DamagedError as exc:
                    refused = refused or exc
                    continue
                return [(one.entry, content.with_spares([_Others(self, uri, near, one.entry.root)]))]
        except NotFoundError:
            if (plain := self.plain(uri)) is None:
                raise
            if plain.size > WHOLE_BELOW:
                raise self._untrusted(uri, plain.size, None) from None
            return []
        if not doubtful:
            assert refused is not None
            raise refused
        if min(one.entry.size for one in doubtful) > WHOLE_BELOW:
            raise self._untrusted(uri, doubtful[0].entry.size, doubtful[0].head)
        return []

    def _is_believed(self, uri: Uri, one: _Found) -> bool:
        if self.remote.configuration.trusted or uri.root == one.entry.root:
            return True
        return (one.entry.sha1, one.entry.root) in self._proved

    def _untrusted(self, uri: Uri, size: int, head: Head | None) -> UntrustedError:
        signers = ", ".join(publisher_text(one.publisher) for one in head.signatures) if head is not None else ""
        signed = (
            f"its recipe is signed by {signers}, whom you do not trust" if signers else "nobody has signed its recipe"
        )
        return UntrustedError(
            f"a part of {uri} ({size:,} bytes) in {self.name} cannot be checked against its SHA-1, and {signed}. Load all of "
            "it once; or ask its publisher for the URI with &root=, or for the key, and: kacas trust add KEY; or, if whoever "
            f"can write to {self.remote.name} is to be believed: kacas remote add --trusted"
        )

    def prove(self, uri: Uri, near: Near) -> None:
        """See Upstream."""
        failure: KacasError | None = None
        for entry, content in self.readable(uri, near):
            sha1 = new_sha1()
            try:
                for window in content.windows():
                    sha1.update(window)
            except DamagedError as exc:
                failure = failure or exc
                continue
            if sha1.digest() == entry.sha1:
                self._proved.add((entry.sha1, entry.root))
                return
            failure = failure or DamagedRemoteError(
                f"{self.name} has other content under {uri} (root {entry.root.hex()}); it was not used"
            )
        if failure is not None:
            raise failure

    def plain(self, uri: Uri) -> Plain | None:
        """See Upstream."""
        key = plain_key(uri.sha1)
        info = self.remote.blobs.head(key)
        if info is None:
            return None
        return Plain(info.size, b"", lambda: PlainSource(self.remote.blobs, key, info.size))

    def get_many(self, digests: Sequence[bytes]) -> dict[bytes, memoryview]:
        """See ChunkSource."""
        return self.by_table.get_many(digests)

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """See Upstream."""
        return {
            sha1: entry.root
            for sha1, entries in self.tables.entries(sizes).items()
            for entry in entries[:1]
            if entry.size == sizes[sha1]
        }

    def describe(self, uri: Uri, near: Near) -> Description:
        """See Upstream."""
        entry, content = best_first([next(self.readable(uri, near))])
        if content.source is not None:
            content.source.read_tree()
        chunks = {child.digest for child in content.chunks()}
        return Description(
            uri=entry._replace(label=uri.label.encode() if uri.label else entry.label).uri, sha1=uri.sha1.hex(),
            root=entry.root.hex(), kind=entry.kind_name, size=entry.size, chunks=len(chunks), codecs={},
            stored_size=0, claims=(), member=False, adopted=(), store=self.name, fetched=False,
        )  # fmt: skip

    def close(self) -> None:
        """See Upstream."""
        self._ranges.close()
        if self._tables is not None:
            self._tables.close()
        self.remote.close()


class _Others:
    """Other recipes of the same remote, for what one cannot give."""

    def __init__(self, upstream: RemoteUpstream, uri: Uri, near: Near, but: bytes) -> None:
        self._upstream = upstream
        self._uri = uri
        self._near = near
        self._but = but

    def fills(self, start: int, out: memoryview) -> bool:
        """See Spare."""
        try:
            for one in self._upstream._layouts(self._uri):
                if one.entry.root == self._but or not self._upstream._is_believed(self._uri, one):
                    continue
                if self._near.open(one.entry, one.source).fills(start, out):
                    return True
        except KacasError:
            pass
        return False
