"""Claims: who keeps which content, what a new claim may not contradict, and how one ends."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from kacas.content import Content
from kacas.disk.adopted import adopted_files
from kacas.disk.batch import Batch
from kacas.disk.identities import Identity
from kacas.disk.lookup import Lookup
from kacas.errors import CollisionError, DamagedError, NewerFormatError, NotFoundError
from kacas.fetch import Fetch
from kacas.layouts import open_content
from kacas.model.description import Forgotten, HistoryItem
from kacas.model.digest import DIGEST_SIZE, ID_SIZE, PayloadKind
from kacas.model.entry import MAX_CANCELS, Action, Entry, Kind, live
from kacas.model.uri import Uri

_GROUP = 4096  # payloads that are looked for together


class Claims:
    """One owner's claims on one store's content. Thread-safe."""

    def __init__(self, lookup: Lookup, owner: bytes, threads: int, room: int) -> None:
        """threads, room: to compare contents; see Fetch."""
        self._lookup = lookup
        self.owner = owner
        self._threads = threads
        self._room = room

    def known(self, batch: Batch, sha1: bytes) -> list[Entry]:
        """Entries of the SHA-1, published and of this batch."""
        return [known for known, _ in self._lookup.entries(sha1)] + batch.entries(sha1)

    def claim(self, batch: Batch, entry: Entry) -> None:
        """Leave the entry, unless the same one is there and alive. Raises CollisionError."""
        if self.is_new(batch, entry):
            batch.add_entry(entry)

    def adopt(self, batch: Batch, entry: Entry, path: bytes) -> None:
        """Say that the file at the absolute `path` holds the entry's content; then claim the entry itself.

        Raises CollisionError.
        """
        adopted = entry._replace(entry_id=secrets.token_bytes(ID_SIZE), label=path, action=Action.ADOPTED)
        self.claim(batch, adopted._replace(owner=self.owner, kind=Kind.FILE))

    def is_new(self, batch: Batch, entry: Entry) -> bool:
        """False if the same entry is there and alive: the batch then relies on it. Raises CollisionError."""
        published = self._lookup.entries(entry.sha1)
        known = [known for known, _ in published] + batch.entries(entry.sha1)
        if not known:
            return True
        self.check_collision(batch, entry, known)
        if not has_same(entry, known):
            return True
        batch.rely(pack_id for _, pack_id in published)
        batch.skip_entry(entry)
        return False

    def whole(self, batch: Batch, identities: Collection[Identity]) -> set[Identity]:
        """Those that the store has, as an entry says, with every payload: they can be claimed without being read.

        The batch then relies on the packs of entry and root. What only an open batch has is left out.
        """
        self._lookup.refresh_soon()  # a pack that somebody deleted is noticed
        published = self._lookup.entries_of_many({identity.sha1 for identity in identities})
        named = {
            identity: packs
            for identity in identities
            if (packs := [pack_id for entry, pack_id in published.get(identity.sha1, ()) if _names(entry, identity)])
        }
        confirmed = self._lookup.confirmed({identity.root for identity in named})
        trees = {root for root, location in confirmed.items() if location.kind != PayloadKind.CHUNK}
        unsure = trees - self._lookup.whole(trees)
        incomplete = {i.root for i in named if i.root in unsure and not self._is_complete(i)}
        found = {identity for identity in named if identity.root in confirmed.keys() - incomplete}
        for identity in found:
            batch.rely([confirmed[identity.root].pack_id, *named[identity]])
        return found

    def keep_known(self, batch: Batch, labels: Mapping[bytes, bytes]) -> set[bytes]:
        """Claim contents by SHA-1, those of which packs surely have every byte; returns which.

        labels: for the claims; what the owner keeps already stays as it is.
        """
        published = self._lookup.entries_of_many(labels)
        named = {
            Identity(sha1, entry.root, entry.size): sha1
            for sha1, entries in published.items()
            for entry, _ in entries
            if entry.names_layout
        }
        found = {identity.sha1: identity for identity in self.whole(batch, named)}
        for sha1, (_, root, size) in found.items():
            if not any(entry.owner == self.owner for entry in live([entry for entry, _ in published[sha1]])):
                entry_id = secrets.token_bytes(ID_SIZE)
                self.claim(
                    batch, Entry(entry_id, sha1, root, size, time.time_ns(), Kind.FILE, self.owner, labels[sha1])
                )
        return set(found)

    def _is_complete(self, identity: Identity) -> bool:
        """Whether every payload of the tree is in a pack, seen now; that is remembered until damage or loss is found."""
        fetch = Fetch(self._lookup, self._threads, room=self._room)
        try:
            chunks = (child.digest for child in open_content(fetch, identity.root, identity.size).chunks())
            while group := set(islice(chunks, _GROUP)):
                if len(self._lookup.confirmed(group)) < len(group):
                    return False
        except (DamagedError, NewerFormatError):
            return False  # then the content is read and stored again, which heals it
        self._lookup.mark_whole({identity.root})
        return True

    def settle(self, batch: Batch) -> None:
        """A last look, before the batch ends, at what others stored and forgot meanwhile."""
        own = batch.own_entries()
        if not own and not batch.skipped:
            return
        # What we rely on may have been forgotten just now; a colliding SHA-1 may be noticed a little later.
        if batch.skipped:
            self._lookup.refresh()
        else:
            self._lookup.refresh_soon()
        found = self._lookup.entries_of_many({entry.sha1 for entry in own})
        for entry in own:
            if entry.sha1 in found:
                self.check_collision(batch, entry, [known for known, _ in found[entry.sha1]])
        for entry in batch.skipped:
            # Whoever forgot the entry that we counted on did so while we stored: the store wins.
            if not has_same(entry, self.known(batch, entry.sha1)):
                batch.add_entry(entry)

    def check_collision(self, batch: Batch, entry: Entry, known: list[Entry]) -> None:
        """A known SHA-1 with another root: equal bytes are a new layout, others a collision."""
        roots = {other.root: other.size for other in known if other.names_layout}
        if not roots or entry.root in roots:
            return
        fetch = Fetch(self._lookup, self._threads, batch, room=self._room)
        adopted = adopted_files([entry, *known, *batch.entries(entry.sha1)], entry.size)
        new = open_content(fetch, entry.root, entry.size, adopted)
        for root, size in roots.items():
            try:
                same = size == entry.size and same_bytes(new, open_content(fetch, root, size, adopted))
            except DamagedError:
                continue  # what cannot be read cannot contradict; the new layout was hashed as a whole just now
            if not same:
                raise CollisionError(
                    f"other content with the same SHA-1 {entry.sha1.hex()} is stored already; the new content was not "
                    "stored. Two different files with one SHA-1 are made on purpose: check where yours comes from",
                    sha1=entry.sha1.hex(),
                )
            return

    def forget(self, uri: Uri, add: Callable[[Entry], None]) -> Forgotten:
        """End the owner's claims on the content, naming their entries; `add` publishes the entry that does so."""
        known = [entry for entry, _ in self._lookup.proved_entries(uri.sha1)]
        if not any(entry.names_layout for entry in known):
            raise NotFoundError(
                f"{uri} is not in the store at {self._lookup.store_path}; nothing to forget", sha1=uri.sha1.hex()
            )
        # One forget entry names so many at most; the next forget ends the rest.
        mine = [entry for entry in live(known) if entry.owner == self.owner][:MAX_CANCELS]
        adopted = [entry for entry in live(known, Action.ADOPTED) if entry.owner == self.owner]
        others = sorted({entry.owner_text for entry in live(known) if entry.owner != self.owner})
        if ending := (mine + adopted)[:MAX_CANCELS]:
            add(
                Entry(
                    secrets.token_bytes(ID_SIZE), uri.sha1, bytes(DIGEST_SIZE), 0, time.time_ns(), ending[0].kind,
                    self.owner, b"", Action.FORGET, cancels=tuple(entry.entry_id for entry in ending),
                )
            )  # fmt: skip
        return Forgotten(str(uri), len(mine), tuple(others), any(entry.is_member for entry in known))

    def history(self) -> Iterator[HistoryItem]:
        """What the owner stored, newest first."""
        for entry in self._lookup.log(self.owner):
            known = [known for known, _ in self._lookup.entries(entry.sha1)]
            cancelled = {entry_id for other in known for entry_id in other.cancels}
            yield HistoryItem(
                entry.uri, entry.kind_name, entry.size, entry.time_ns / 1e9,
                entry.label_text, entry.entry_id in cancelled,
            )  # fmt: skip


def _names(entry: Entry, identity: Identity) -> bool:
    return entry.names_layout and (entry.root, entry.size) == (identity.root, identity.size)


def has_same(entry: Entry, known: list[Entry]) -> bool:
    """Whether a live entry says all that the entry says."""
    return any(
        (other.owner, other.root, other.kind, other.label) == (entry.owner, entry.root, entry.kind, entry.label)
        for other in live(known, Action(entry.action))
    )


def same_bytes(one: Content, other: Content) -> bool:
    """Compare byte by byte, in bounded memory."""
    if one.size != other.size:
        return False
    others = other.windows()
    theirs = memoryview(b"")
    for ours in one.windows():
        while ours:
            theirs = theirs or next(others)
            count = min(len(ours), len(theirs))
            if ours[:count] != theirs[:count]:
                return False
            ours, theirs = ours[count:], theirs[count:]
    return True
