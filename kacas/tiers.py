"""Tiers: content of this store, or else of the one behind it: read through, or fetched when all of it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TypeVar

from kacas.content import Content
from kacas.disk.batch import Batch
from kacas.disk.leases import Lease
from kacas.disk.lookup import Lookup
from kacas.disk.volume import Volume
from kacas.errors import (
    DamagedError,
    KacasError,
    MissingPackageError,
    NotFoundError,
    StoreError,
    WrongIdentityError,
)
from kacas.layouts import Layouts, best_first
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.description import Description
from kacas.model.digest import SHA1_SIZE, checksum
from kacas.model.entry import Entry, Kind
from kacas.model.pack_format import Purpose
from kacas.model.tiling import MAX_CONTENT_SIZE
from kacas.model.tree import TreeError
from kacas.model.uri import Uri
from kacas.near import NearStore
from kacas.pulling import Pull
from kacas.tree_members import Absent, TreeDocuments
from kacas.turns import Turns
from kacas.upstream import WHOLE_BELOW, Upstream
from kacas.upstream_chain import UNREADABLE, Behind, UpstreamChain, offered, size_in

T = TypeVar("T")
Report = Callable[[str, int, int | None], None]
_GROUP = 4096  # payloads that are looked for together
_PACK_SIZE = 64 << 20  # bytes of a pack: what is in one is not fetched again by who resumes


class Tiers:
    """One store and what is behind it. Thread-safe; not across a fork."""

    def __init__(
        self,
        volume: Volume,
        lookup: Lookup,
        layouts: Layouts,
        behind: UpstreamChain,
        *,
        threads: int,
        room: int,
        kept: int,
        report: Report,
        published: Callable[[], None],
    ) -> None:
        """threads, room: see Pull. kept: see Fetch. report: of progress. published: is called after a pack was."""
        self._volume = volume
        self._lookup = lookup
        self._layouts = layouts
        self._behind = behind
        self._near: NearStore | None = None
        self._kept = kept
        self._threads = threads
        self._room = room
        self._report = report
        self._published = published
        self.turns = Turns(volume, report, published)
        self._met: set[bytes] = set()  # SHA-1s of what was damaged here and came from the upstream
        self.trees = TreeDocuments()
        self.fetches = 0  # that this process published

    # --- reading ----------------------------------------------------------------------------

    @property
    def near(self) -> NearStore:
        """Reads from remotes; made when first needed."""
        if self._near is None:
            self._near = NearStore(
                self._volume, self._lookup, threads=self._threads, room=self._room, kept=self._kept,
                published=self._published,
            )  # fmt: skip
        return self._near

    def close(self) -> None:
        """Publish what was read through, and let threads end."""
        if self._near is not None:
            self._near.close()

    def sequence(self, uri: Uri) -> tuple[Entry, Content]:
        """As `Layouts.sequence`. What is damaged here is read from the upstream, without being asked again."""
        return self._first(uri, self._here, lambda there: best_first(self._believed(there, uri)))

    def _believed(self, upstream: Upstream, uri: Uri) -> list[tuple[Entry, Content]]:
        """Layouts of which a part may be read; each turns to the whole chain for what it cannot read."""
        if (found := self._vouched(upstream, uri)) is None:
            return [self._here(uri)]
        spare = Behind(self._behind.without(upstream), uri, self._parts, set())
        return [(entry, content.with_spares([spare])) for entry, content in found]

    def _vouched(self, upstream: Upstream, uri: Uri) -> list[tuple[Entry, Content]] | None:
        """Layouts of which a part may be read; None if it was small and is here now, since nobody vouches for any."""
        if not (found := upstream.believed(uri, self.near)):
            try:
                self._bring_from(uri, upstream, WHOLE_BELOW)
            except DamagedError:
                # What lied is known by now: for what is left somebody may vouch.
                if not (found := upstream.believed(uri, self.near)):
                    raise
            else:
                if self.is_here(uri):
                    return None
                upstream.prove(uri, self.near)
                found = upstream.believed(uri, self.near)
        return found

    def _parts(self, upstream: Upstream, uri: Uri) -> list[tuple[Entry, Content]]:
        return self._vouched(upstream, uri) or [self._layouts.sequence(uri)]

    def whole(self, uri: Uri) -> tuple[Entry, Content]:
        """As `sequence`, of what will be read as a whole: see `bring`."""
        if self._behind:
            try:
                return self._here(uri)  # hits are looked up once
            except (NotFoundError, DamagedError):
                self.bring(uri)
        return self.sequence(uri)

    def _here(self, uri: Uri) -> tuple[Entry, Content]:
        entry, content = self._layouts.sequence(uri)
        if not self._behind:
            return entry, content
        return entry, content.with_spares([Behind(self._behind, uri, self._parts, self._met)])

    def readable(self, uri: Uri) -> list[tuple[Entry, Content]]:
        """As `Layouts.readable`, and as `sequence`."""
        if not self._behind:
            return list(self._layouts.readable(uri))
        behind = Behind(self._behind, uri, self._parts, self._met)

        def here(uri: Uri) -> list[tuple[Entry, Content]]:
            return [(entry, content.with_spares([behind])) for entry, content in self._layouts.readable(uri)]

        return self._first(uri, here, lambda there: self._believed(there, uri))

    def described(self, uri: Uri, here: Callable[[Uri], Description]) -> Description:
        """What is known of the content, here or else behind."""
        return self._first(uri, here, lambda there: there.describe(uri, self.near))

    def _first(self, uri: Uri, here: Callable[[Uri], T], there: Callable[[Upstream], T]) -> T:
        """What this store says, or, if it has nothing that is good, the upstream."""
        try:
            return here(uri)
        except (NotFoundError, DamagedError) as exc:
            if not self._behind:
                raise
            try:
                return self._behind.first(there)
            except NotFoundError:
                if isinstance(exc, DamagedError):
                    raise exc from None
                ways = "push it there" if self._behind.is_far else "set KACAS_UPSTREAM to the store that has it"
                raise NotFoundError(
                    f"{uri} is neither in the store at {self._volume.path} nor in {self._behind.name}, which is its "
                    f"upstream; store it, or {ways}",
                    sha1=uri.sha1.hex(),
                ) from exc

    # --- fetching ---------------------------------------------------------------------------

    def bring(self, uri: Uri) -> None:
        """Have the whole content here: it is fetched, by one of all who want it. Where this store cannot be written, it is
        left where it is, to be read through.

        Raises NotFoundError if no tier has it, a DamagedError if none has it as it should be, StoreError.
        """
        if self._behind and not self.is_here(uri):
            self._first(uri, self._here, partial(self._bring_from, uri))

    def _bring_from(self, uri: Uri, upstream: Upstream, most: int = MAX_CONTENT_SIZE) -> None:
        """most: bytes; what is larger is not fetched."""
        upstream.bring(uri)
        size = size_in(upstream, uri, self.near)  # before a lease is taken: what nobody has is nobody's work
        self.turns.once(uri.sha1, lambda: self.is_here(uri), partial(self._fetch, upstream, uri, most=most), size)

    def is_here(self, uri: Uri) -> bool:
        """Whether this store has a layout of it."""
        try:
            self._layouts.sequence(uri)
        except (NotFoundError, DamagedError):
            return False
        return True

    def heal(self, uri: Uri) -> None:
        """All of it was read: if parts were damaged here, and came from the upstream, it is fetched, as storing it again would
        put good copies here. What was read is good whatever comes of this, so that is only warned of."""
        if not self._behind or uri.sha1 not in self._met:
            return
        self._met.discard(uri.sha1)
        try:
            size = self.sequence(uri)[0].size
            self._behind.first(
                lambda there: self.turns.once(
                    uri.sha1, lambda: self._is_sound(uri), partial(self._fetch, there, uri), size
                )
            )
        except (*UNREADABLE, StoreError) as exc:
            self.turns.warn_once(exc)

    def _is_sound(self, uri: Uri) -> bool:
        """Whether every chunk is in a pack, where no damage was found, though it may be there."""
        self._lookup.refresh_soon()
        try:
            chunks = (child.digest for child in self._layouts.sequence(uri)[1].chunks())
            while group := set(islice(chunks, _GROUP)):
                if len(self._lookup.confirmed(group)) < len(group):
                    return False
        except (NotFoundError, DamagedError):
            return False
        return True

    def _fetch(self, upstream: Upstream, uri: Uri, lease: Lease, *, most: int = MAX_CONTENT_SIZE) -> None:
        """From the first of the upstream's layouts of at most so many bytes that is good."""
        failure: KacasError | None = None
        try:
            for entry, content in offered(upstream, uri, self.near):
                if entry.size > most:
                    continue
                try:
                    self._publish(upstream, lease, entry.size, lambda pull: pull.content(entry, content))  # noqa: B023
                    upstream.remember(entry)
                    return
                except (DamagedError, MissingPackageError) as exc:
                    if isinstance(exc, WrongIdentityError):
                        upstream.refuse(entry, exc)
                    failure = failure or exc
        except UNREADABLE as exc:
            failure = failure or exc
        if (plain := upstream.plain(uri)) is not None and plain.size <= most:
            self._publish(upstream, lease, plain.size, lambda pull: pull.plain(uri, plain))
            return
        raise failure or NotFoundError(f"{uri}: {upstream.name} has only what is too large to be fetched unasked")

    def _publish(self, upstream: Upstream, lease: Lease, size: int, copy: Callable[[Pull], object]) -> None:
        """Publish what `copy` copies, unless somebody else has taken over by then."""

        def step(done: int) -> None:
            lease.check()
            self._report("fetching", done, size)

        cutter = self._volume.file_cutter()
        batch = Batch(self._volume, self._lookup, Purpose.FETCHED, _PACK_SIZE)
        try:
            copy(Pull(upstream, self._lookup, batch, self._threads, self._room, cutter, step))
            lease.confirm()
            batch.finish()
        except BaseException:
            batch.discard()
            raise
        self.fetches += 1

    # --- directories ------------------------------------------------------------------------

    def bring_tree(self, sha1: bytes) -> None:
        """As `bring`, for a directory and all below it, under one lease. What no tier has is left out: who reads it is told."""
        failures: list[tuple[str, KacasError]] = []
        helped = ""
        for upstream in self._behind.in_order:
            try:
                if self._bring_tree_from(upstream, sha1):
                    break
                helped = upstream.name
            except KacasError as exc:
                self._behind.failed(upstream, exc)
                failures.append((upstream.name, exc))
        if failures and self._absent(sha1).size is not None:
            raise failures[0][1]
        for name, why in failures if helped else ():
            self._behind.warn_once(name, helped, why)

    def _bring_tree_from(self, upstream: Upstream, sha1: bytes) -> bool:
        """True if nothing was left to be brought."""
        if upstream.is_far:
            self._bring_documents(upstream, sha1)
        absent = self._absent(sha1)
        if absent.size is None:
            return True
        upstream.bring_tree(sha1)
        self.turns.once(sha1, lambda: self._is_below_here(sha1), partial(self._fetch_tree, upstream, sha1), absent.size)
        return False

    def size(self, uri: Uri) -> int:
        """Bytes of the content, without any of them being read. Raises as `sequence`."""
        return self._first(uri, lambda uri: self._here(uri)[0].size, lambda there: size_in(there, uri, self.near))

    def is_tree_here(self, sha1: bytes) -> bool:
        """Whether this store has the directory and all below it, as far as its documents can be read."""
        return self.is_here(Uri(sha1)) and self._is_below_here(sha1)

    def bring_documents(self, sha1: bytes) -> None:
        """As `bring_tree`, only the documents that list names."""
        for upstream in self._behind.in_order:
            if upstream.is_far:
                with suppress(*UNREADABLE, StoreError):  # who reads them is told
                    self._bring_documents(upstream, sha1)

    def _bring_documents(self, upstream: Upstream, sha1: bytes) -> None:
        """Level by level, in few requests: one for each would be a long way to a remote."""
        if not self.is_here(Uri(sha1)):
            upstream.bring_tree(sha1)
            with suppress(*UNREADABLE, StoreError):  # the next upstream may have it; at last, who restores it is told
                self._bring_from(Uri(sha1), upstream)
        level, seen = {sha1}, set[bytes]()
        while level:
            self.bring_small(upstream, level, Kind.DIRECTORY)
            seen |= level
            below: set[bytes] = set()
            for one in level:
                try:
                    below.update(self.trees.read(one, self._layouts.sequence).directories)
                except (*UNREADABLE, TreeError):
                    continue
            level = below - seen

    def bring_small(self, upstream: Upstream, sha1s: Collection[bytes], kind: Kind) -> None:
        """Fetch those that the upstream knows at once to be one chunk, together; the others are left out."""
        wanted = [sha1 for sha1 in sha1s if not self.is_here(Uri(sha1))]
        sizes = upstream.small(wanted) if wanted else {}
        if sizes:
            whole, size = checksum(SHA1_SIZE, *sorted(sizes)), sum(sizes.values())
            self.turns.once(
                whole,
                lambda: not self._unknown(sizes),
                lambda lease: self._publish(upstream, lease, size, lambda pull: pull.small(sizes, kind)),
                size,
            )

    def bring_many(self, uris: Sequence[Uri]) -> None:
        """Have what is small of these contents here, in few requests; `bring` tells what became of each."""
        for upstream in self._behind.in_order:
            with suppress(*UNREADABLE, StoreError):
                self.bring_small(upstream, [uri.sha1 for uri in uris if uri.root is None], Kind.FILE)

    def _absent(self, sha1: bytes) -> Absent:
        return self.trees.absent(sha1, self.sequence, self._unknown)

    def _is_below_here(self, sha1: bytes) -> bool:
        return self.trees.is_here(sha1, self.sequence, self._unknown)

    def _unknown(self, sizes: dict[bytes, int]) -> dict[bytes, int]:
        known = self._lookup.roots(sizes)
        return {sha1: size for sha1, size in sizes.items() if sha1 not in known}

    def _fetch_tree(self, upstream: Upstream, sha1: bytes, lease: Lease) -> None:
        absent = self._absent(sha1)

        def copy(pull: Pull) -> None:
            if sha1 in absent.documents:
                self._copy_alone(upstream, pull, sha1, absent.documents[sha1])  # with its label
            for kind, sizes in ((Kind.DIRECTORY, absent.documents), (Kind.FILE, absent.files)):
                small = {one: size for one, size in sizes.items() if size <= CHUNK_TARGET and one != sha1}
                done = pull.small(small, kind)
                for one in sizes:
                    if one not in done and one != sha1:
                        self._copy_alone(upstream, pull, one, sizes[one])

        self._publish(upstream, lease, absent.size or 0, copy)

    def _copy_alone(self, upstream: Upstream, pull: Pull, sha1: bytes, size: int) -> None:
        """From the first layout that is good; without one of this size, it is left out.

        Raises WrongIdentityError for other content under the SHA-1: what is left out is read through, where no SHA-1 is compared.
        """
        wrong: WrongIdentityError | None = None
        try:
            for entry, content in offered(upstream, Uri(sha1), self.near):
                if entry.size != size:
                    continue
                try:
                    pull.content(entry, content)
                    return
                except WrongIdentityError as exc:
                    upstream.refuse(entry, exc)
                    wrong = exc
                except (DamagedError, MissingPackageError):
                    continue
        except UNREADABLE:
            pass
        with suppress(*UNREADABLE):
            if (plain := upstream.plain(Uri(sha1))) is not None:
                pull.plain(Uri(sha1), plain)
                return
        if wrong is not None:
            raise wrong
