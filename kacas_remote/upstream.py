"""The upstream that is a remote: what its recipes, its tables and its plain objects say, and what of it may be believed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kacas.content import Content
from kacas.errors import DamagedError, KacasError, NewerFormatError, NotFoundError
from kacas.formats.npy import recognised
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.description import Description
from kacas.model.digest import ID_SIZE, new_sha1
from kacas.model.entry import Action, Entry, Origin, Proof
from kacas.model.uri import Uri, label_bytes
from kacas.read_through import PartSource
from kacas.settings import Settings
from kacas.upstream import WHOLE_BELOW, Near, Plain
from kacas_remote.blob_ranges import BlobRanges
from kacas_remote.catalog import Catalog, Claim
from kacas_remote.chunk_source import RecipeSource
from kacas_remote.errors import DamagedRemoteError, NotSupportedError
from kacas_remote.layout import plain_key
from kacas_remote.plain_source import PlainSource
from kacas_remote.proofs import Proofs
from kacas_remote.remote import Remote
from kacas_remote.table_source import TableSource
from kacas_remote.tables import Tables
from kacas_remote.trust import Trust, untrusted

_OPEN = 64  # sources that are kept
_REFUSED = 1024  # layouts that are known to lie
_GROUP = 4096  # contents that are looked up together


class _Found(NamedTuple):
    """A layout that the bucket claims."""

    entry: Entry
    source: PartSource
    claim: Claim

    @property
    def is_small(self) -> bool:
        """Whether a table names it, as one chunk."""
        return self.claim.recipe is None and self.entry.size <= CHUNK_TARGET


class RemoteUpstream:
    """See Upstream. Picklable; thread-safe, safe after fork."""

    def __init__(self, remote: Remote, settings: Settings) -> None:
        """settings: of which the cache directory is used. Nothing is asked of the service."""
        self.remote = remote
        self._settings = settings
        self._cache = Path(settings.cache_directory)
        self._ranges = BlobRanges(remote.blobs)
        self._proofs = Proofs(self._cache)
        self._tables: Tables | None = None
        self._catalog: Catalog | None = None
        self._by_table: TableSource | None = None
        self._open: dict[tuple[bytes, bytes, str], _Found] = {}
        self._refused: dict[tuple[bytes, bytes], DamagedError] = {}

    def __reduce__(self) -> tuple[Callable[..., RemoteUpstream], tuple[Any, ...]]:
        return RemoteUpstream, (self.remote, self._settings)

    @property
    def name(self) -> str:
        """See Upstream."""
        return f"remote {self.remote.name} ({self.remote.blobs.name})"

    @property
    def is_far(self) -> bool:
        """See Upstream."""
        return True

    # --- finding ----------------------------------------------------------------------------

    @property
    def tables(self) -> Tables:
        """Of the packs of the bucket; opened when first needed."""
        if self._tables is None:
            self._tables = Tables(self.remote, self._cache)
        return self._tables

    @property
    def catalog(self) -> Catalog:
        """What the bucket says of a SHA-1; opened when first needed."""
        if self._catalog is None:
            self._catalog = Catalog(self.remote, self.tables, self._cache)
        return self._catalog

    @property
    def by_table(self) -> TableSource:
        """Payloads by their digests."""
        if self._by_table is None:
            self._by_table = TableSource(self._ranges, self.tables)
        return self._by_table

    def _found(self, uri: Uri) -> Iterator[_Found]:
        """Every layout that the bucket claims, but those that were refused. Small ones that tables name come first: most likely
        there is no recipe to be asked for. Sources of those that were asked for last are kept, with what they learned.

        Raises NotFoundError if there is none, a DamagedError or NewerFormatError if none can be used.
        """
        seen: set[bytes] = set()
        refused: DamagedError | None = None
        for claim in self._claims(uri):
            if claim.root in seen:
                continue
            seen.add(claim.root)
            if (why := self._refused.get((claim.sha1, claim.root))) is None:
                yield self._opened(claim)
            else:
                refused = why
        if refused is not None and all((uri.sha1, root) in self._refused for root in seen):
            raise refused
        if not seen:
            raise NotFoundError(f"{uri} is not in {self.name}", sha1=uri.sha1.hex())

    def _claims(self, uri: Uri) -> Iterator[Claim]:
        for entry in self.tables.entries([uri.sha1]).get(uri.sha1, ()):
            if entry.size <= CHUNK_TARGET and uri.root in (None, entry.root):
                yield Claim.of_entry(entry)
        yield from self.catalog.claims(uri)

    def _opened(self, claim: Claim) -> _Found:
        key = claim.sha1, claim.root, claim.key
        kept = self._open.get(key)
        if kept is not None and kept.claim.recipe is claim.recipe:
            return kept
        entry = Entry(
            bytes(ID_SIZE), claim.sha1, claim.root, claim.size, claim.time_ns, claim.kind, b"", claim.label,
            Action.MEMBER, Origin.FETCHED, Proof.CLAIMED,
        )  # fmt: skip
        source: PartSource = self.by_table
        if claim.recipe is not None:
            source = RecipeSource(self._ranges, self.catalog, self.tables, claim, self.by_table)
        found = _Found(entry, source, claim)
        if len(self._open) >= _OPEN:
            self._open = {}  # anew rather than in order: a lock would not survive a fork
        self._open[key] = found
        return found

    # --- what an upstream does --------------------------------------------------------------

    def bring(self, uri: Uri) -> None:
        """See Upstream: nothing is behind a remote."""

    def bring_tree(self, sha1: bytes) -> None:
        """See Upstream: the tables that name a directory's members are read."""
        try:
            found = next(self._found(Uri(sha1)))
        except KacasError:
            return
        if found.claim.recipe is not None and found.claim.recipe.head.member_packs:
            self.tables.learn(found.claim.recipe.head.member_packs)
        else:
            with suppress(NotSupportedError):
                self.tables.refresh()

    def readable(self, uri: Uri, near: Near) -> Iterator[tuple[Entry, Content]]:
        """See Upstream."""
        refused: KacasError | None = None
        found = False
        for one in self._found(uri):
            try:
                content = near.open(one.entry, one.source)
            except DamagedError as exc:
                refused = refused or exc
                continue
            found = True
            yield one.entry, content
            if one.is_small:
                return  # nobody looks for others before this one is refused
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
                    if one.is_small:
                        break
                    continue
                try:
                    content = near.open(one.entry, one.source)
                except DamagedError as exc:
                    refused = refused or exc
                    continue
                return [(one.entry, content.with_spares([_Others(self, uri, near, one.entry.root)]))]
        except (NotFoundError, DamagedError, NewerFormatError):
            if (plain := self.plain(uri)) is None:
                raise
            if plain.size > WHOLE_BELOW:
                raise untrusted(Claim(uri.sha1, b"", plain.size, 0, b"", 0), self.remote.name, _asked(uri)) from None
            return []
        if not doubtful:
            assert refused is not None
            raise refused
        if min(one.entry.size for one in doubtful) > WHOLE_BELOW:
            raise untrusted(doubtful[0].claim, self.remote.name, _asked(uri))
        return []

    def _is_believed(self, uri: Uri, one: _Found) -> bool:
        claim = one.claim
        if self.remote.configuration.trusted or uri.root == claim.root or self._proofs.has(claim.sha1, claim.root):
            return True
        return bool(claim.signatures) and Trust.of_user().voucher(claim) is not None

    def remember(self, entry: Entry) -> None:
        """See Upstream."""
        self._proofs.remember(entry.sha1, entry.root)

    def refuse(self, entry: Entry, why: DamagedError) -> None:
        """See Upstream."""
        if len(self._refused) >= _REFUSED:
            self._refused = {}
        self._refused[entry.sha1, entry.root] = why

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
                self.remember(entry)
                return
            other = DamagedRemoteError(
                f"{self.name} has other content under {uri} (root {entry.root.hex()}); it was not used"
            )
            self.refuse(entry, other)
            failure = failure or other
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

    def small(self, sha1s: Collection[bytes]) -> dict[bytes, int]:
        """See Upstream."""
        found = self.tables.layouts(sha1s)
        if len(found) < len(set(sha1s)):
            with suppress(NotSupportedError):  # a web server lists nothing
                self.tables.refresh()
            found = self.tables.layouts(sha1s)
        return {sha1: layout.size for sha1, layout in found.items() if layout.size <= CHUNK_TARGET}

    def roots(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """See Upstream."""
        sha1s: dict[bytes, bytes] = {}  # by root
        wanted = sorted(sizes)
        for at in range(0, len(wanted), _GROUP):
            layouts = self.tables.layouts(wanted[at : at + _GROUP])
            sha1s |= {layout.root: sha1 for sha1, layout in layouts.items() if layout.size == sizes[sha1]}
        return {sha1s[root]: root for root in self.by_table.foresee(sha1s)}

    def describe(self, uri: Uri, near: Near) -> Description:
        """See Upstream."""
        entry, content = next(self.readable(uri, near))
        if content.source is not None:
            content.source.read_tree()
        chunks = {child.digest for child in content.chunks()}
        header = recognised(content.head, entry.size) if content.head else None
        shape, dtype = (None, None) if header is None else (header.shape, str(header.dtype))
        return Description(
            uri=entry._replace(label=label_bytes(uri.label or entry.label_text)).uri, sha1=uri.sha1.hex(),
            root=entry.root.hex(), kind=entry.kind_name, size=entry.size, chunks=len(chunks), codecs={},
            stored_size=None, claims=(), member=False, adopted=(), store=self.name, fetched=False, shape=shape, dtype=dtype,
        )  # fmt: skip

    def close(self) -> None:
        """See Upstream."""
        self._ranges.close()
        self._proofs.close()
        for opened in (self._catalog, self._tables):
            if opened is not None:
                opened.close()
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
            for one in self._upstream._found(self._uri):
                if one.entry.root == self._but or not self._upstream._is_believed(self._uri, one):
                    continue
                if self._near.open(one.entry, one.source).fills(start, out):
                    return True
        except KacasError:
            pass
        return False


def _asked(uri: Uri) -> str:
    """As a command takes it: without a query, whose & the shell would take for its own."""
    return uri.given or f"sha1://{uri.sha1.hex()}"
