"""Delivery: the work of one push. What is missing goes in packs, under a lease; the recipes go last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice

from kacas.content import WINDOW_SIZE, Content
from kacas.errors import DamagedError, KacasError, LeaseLostError, MissingPackageError, NotFoundError
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.entry import Action, Entry
from kacas.model.uri import Uri, label_text
from kacas.repository import Repository
from kacas.settings import Settings
from kacas_remote.blobs.sealed import strict_of
from kacas_remote.blobs.throttled import Throttled
from kacas_remote.leases import Lease
from kacas_remote.push.counted import Counted
from kacas_remote.push.inventory import Inventory
from kacas_remote.push.packing import GROUP, Packing
from kacas_remote.push.plain import is_plain_there, plain_places, send_plain
from kacas_remote.push.plan import Plan, Target, layouts_of, newest_first, split
from kacas_remote.push.recipes import Recipes
from kacas_remote.push.sending import Sender
from kacas_remote.push.summary import PushSummary, Watcher
from kacas_remote.remote import Remote
from kacas_remote.tables import Tables

_AT_ONCE = 8
_TRIES = 3
_BAD_HERE = (DamagedError, MissingPackageError, NotFoundError)


class Delivery:
    """The work of one push. Used by one thread. failures: why, by the index of the URI."""

    def __init__(
        self,
        repository: Repository,
        remote: Remote,
        plan: Plan,
        plain: bool,
        limit_bytes_s: float | None,
        watcher: Watcher,
    ) -> None:
        self.name = remote.name
        self.uris = plan.uris
        self.failures: dict[int, KacasError] = {}
        self.summary = PushSummary(remote.name)
        self._plan = plan.with_recipes() if plain else plan
        self._repository = repository
        # Who does not see the newest epoch of a group does not see what is condemned in it, either.
        blobs = strict_of(remote.blobs)
        self._blobs = Counted(Throttled(blobs, limit_bytes_s) if limit_bytes_s else blobs)
        self._remote = remote.through(self._blobs)
        self._chosen: dict[tuple[bytes, bytes | None], bytes] = {}  # roots of what is pushed, or was there
        self._plain = plain
        self._limit_bytes_s = limit_bytes_s
        self._watcher = watcher
        self._recipes = Recipes(self._blobs, repository.cache)
        self._remote_id = b""  # in whose name packs are made
        self._lacked: set[tuple[bytes, bytes | None]] = set()  # of which the bucket had not all
        self._is_anew = False  # begun again, after this push was taken for dead
        self._begun = time.monotonic()

    def run(self) -> None:
        """Raises what the remote raises, LeaseLostError; what is wrong here goes to `failures`."""
        targets = self._to_do()
        if targets:
            self._remote.mark()  # before a lease is there
        if targets and self._plain:
            self._send_plain(targets)
        elif targets:
            self._send_under_lease(targets)
        self._end()

    def dry_run(self) -> PushSummary:
        """What `run` would send."""
        self.summary.dry_run = True
        targets = self._to_do()
        if targets:
            self._remote.check_marked()
        if targets and self._plain:
            for target in targets:
                if not is_plain_there(self._blobs, target):
                    self.summary.plain_objects += 1
                    self.summary.sent_size += target.size
        elif targets:
            self._estimate(targets)
        self._end()
        return self.summary

    def _end(self) -> None:
        self.summary.failed = len(self.failures)
        self.summary.requests = self._blobs.requests
        if not self.summary.dry_run:
            self.summary.sent_size = self._blobs.sent_size
        self.summary.seconds = time.monotonic() - self._begun

    # --- what is there already --------------------------------------------------------------

    def _to_do(self) -> list[Target]:
        """The targets whose recipe is not there; each URI whose recipe is there is done, members and all."""
        targets = list(self._plan.targets.values())
        self.summary.contents = len(targets)
        self.summary.raw_size = sum(target.size for target in targets)
        self._watcher.expect(self.summary.raw_size)
        asked = [target for target in targets if target.has_recipe and not target.is_member]
        roots = self._roots(asked)
        with ThreadPoolExecutor(_AT_ONCE, "kacas-push") as pool:
            marked = pool.submit(self._remote.look)  # what comes next wants its id
            there = list(pool.map(lambda target: self._is_there(target, roots[target.sha1]), asked))
            is_marked = marked.result() is not None
        settled = {index for target, is_there in zip(asked, there, strict=True) if is_there for index in target.asked}
        if settled and not is_marked:
            self._remote.check_marked()  # members of a directory that is there may be named by packs alone
        left = self._plan.without(settled)
        self.summary.contents_there = len(targets) - len(left)
        done = self.summary.raw_size - sum(target.size for target in left)
        self.summary.raw_size_there += done
        self._watcher.finished(done)
        return left

    def _is_there(self, target: Target, roots: set[bytes]) -> bool:
        there = self._recipes.is_there(target.sha1, roots, as_member=False)
        return there and (not self._plain or is_plain_there(self._blobs, target))

    def _roots(self, targets: list[Target]) -> dict[bytes, set[bytes]]:
        """Of the layout of each that would be pushed, by SHA-1: see `layouts_of`; as a plain object any will do."""
        known = self._repository.lookup.entries_of_many([target.sha1 for target in targets])
        roots = {}
        for target in targets:
            entries = [entry for entry, _ in known.get(target.sha1, ())]
            found = [entry.root for entry in newest_first(entries, target.root)]
            roots[target.sha1] = set(found if self._plain else found[:1])
        return roots

    def _unnamed(self, inventory: Inventory, targets: list[Target]) -> list[Target]:
        """Those that no table names as they are to be named; all, if entries of ours may name what is gone."""
        if self._is_anew:
            return targets
        named = inventory.named([target.sha1 for target in targets])
        roots = self._roots([target for target in targets if target.sha1 in named])
        # An entry may stand in another pack than what it names: that one may be lost.
        lost = inventory.missing(entry.root for entries in named.values() for entry, _ in entries)
        left = []
        for target in targets:
            wanted = roots.get(target.sha1, set()) - lost
            found = [one for one in named.get(target.sha1, ()) if _counts(one[0], target, wanted)]
            if not found:
                left.append(target)
                continue
            entry, pack_id = found[0]
            inventory.count_on([pack_id])
            self._chosen[target.key] = entry.root
            self.summary.contents_there += 1
            self.summary.raw_size_there += target.size
            self._watcher.finished(target.size)
        return left

    # --- packs ------------------------------------------------------------------------------

    def _send_under_lease(self, targets: list[Target]) -> None:
        for attempt in range(_TRIES):
            inventory = self._inventory()
            try:
                with _held(self._blobs) as lease:
                    self._send_packs(targets, inventory)
                    with ThreadPoolExecutor(2, "kacas-push") as pool:
                        held, same = pool.submit(lease.check), pool.submit(self._check_marker)
                        inventory.check()
                        held.result()
                        same.result()
                return
            except LeaseLostError:
                if attempt == _TRIES - 1:
                    raise
                # What this push published names what a collector may have taken. Or all of the bucket went.
                self._is_anew = True
                if self._remote.look() != self._remote_id:
                    inventory.take_back()

    def _check_marker(self) -> None:
        """Raises LeaseLostError if the bucket was emptied meanwhile: packs are believed only beside the marker that they name."""
        if self._remote.look() != self._remote_id:
            raise LeaseLostError(f"{self._blobs.name}: it was emptied, or made anew, during the push; push again")

    def _send_packs(self, targets: list[Target], inventory: Inventory) -> None:
        """All that is missing, and what names it."""
        self._remote_id = self._remote.mark()
        with Sender(self._blobs, self._limit_bytes_s, sum(target.size for target in targets)) as sender:
            packing = Packing(self._repository.lookup, inventory, sender, self._remote_id, self.summary)
            while True:
                inventory.look()
                self._pack(packing, self._unnamed(inventory, targets))
                with inventory.confirmed() as is_all_there:
                    packing.settle()
                if is_all_there():
                    break
                packing.begin_again()
            packing.name_late()
            self._write_recipes(targets, inventory)
            while unnamed := self._removed_meanwhile(inventory, targets):
                for target in unnamed:
                    packing.name(target, self._chosen[target.key])
                packing.name_late()
                self._write_recipes(unnamed, inventory)

    def _removed_meanwhile(self, inventory: Inventory, targets: list[Target]) -> list[Target]:
        """Those whose entries somebody removed who did not see yet what was just published, as a directory that holds them."""
        by_entry = [one for one in targets if one.key in self._chosen and (one.is_member or not one.has_recipe)]
        if not by_entry or not inventory.look_for_removals():
            return []
        named = inventory.named([target.sha1 for target in by_entry])
        return [
            target
            for target in by_entry
            if not any(_counts(entry, target, {self._chosen[target.key]}) for entry, _ in named.get(target.sha1, ()))
        ]

    def _inventory(self) -> Inventory:
        return Inventory(self._blobs, Tables(self._remote, Settings.from_environment().cache_directory))

    def _pack(self, packing: Packing, targets: list[Target]) -> None:
        others: list[Target] = []
        for at in range(0, len(targets), GROUP):
            small, places, rest = split(self._repository, targets[at : at + GROUP])
            self._chosen |= {target.key: root for target, root in small}
            bad = packing.small(small, places)
            others += [*rest, *bad]
            self._watcher.finished(sum(target.size for target, _ in small) - sum(target.size for target in bad))
        for target in others:
            step, before = self._step(target), self.summary.chunks_sent
            self._with_first_good(target, lambda content: packing.content(target, content, step))  # noqa: B023
            if self.summary.chunks_sent > before:
                self._lacked.add(target.key)
            self._watcher.finished(target.size)

    def _with_first_good(self, target: Target, send: Callable[[Content], None]) -> None:
        """Send the first layout that is good; without one, it is noted for each URI that needs it."""
        failure: KacasError | None = None
        try:
            for _, content in layouts_of(self._repository, target, plain=self._plain):
                try:
                    send(content)
                    self._chosen[target.key] = content.root
                    return
                except _BAD_HERE as exc:
                    failure = failure or exc
        except _BAD_HERE as exc:
            failure = failure or exc
        assert failure is not None
        for index in target.asked:
            self.failures.setdefault(index, failure)

    def _step(self, target: Target) -> Callable[[int], None]:
        self._watcher.begin(label_text(target.label) or target.sha1.hex())
        return lambda done: self._watcher("pushing", done, target.size)

    # --- recipes ----------------------------------------------------------------------------

    def _write_recipes(self, targets: list[Target], inventory: Inventory) -> None:
        def write(target: Target) -> bool:
            root = self._chosen[target.key]
            is_stale = self._is_anew or target.key in self._lacked  # a recipe that is there names what is gone
            if target.is_member and not is_stale and self._recipes.is_there(target.sha1, [root], as_member=True):
                return False
            packs = self._member_packs(target, inventory)
            return self._recipes.write(target, self._opened(target), inventory.places, packs, replace=is_stale)

        self._write_each(targets, write)

    def _write_each(self, targets: list[Target], write: Callable[[Target], bool]) -> None:
        """Those of the asked for that did not fail; of a directory the members first."""
        wanted = [one for one in targets if one.has_recipe and not self.failures.keys() >= set(one.asked)]
        for group in ([one for one in wanted if one.is_member], [one for one in wanted if not one.is_member]):
            with ThreadPoolExecutor(_AT_ONCE, "kacas-push") as pool:
                self.summary.recipes += sum(pool.map(write, group))

    def _opened(self, target: Target) -> Content:
        uri = Uri(target.sha1, root=self._chosen[target.key])
        return self._repository.readable(uri)[0][1]

    def _member_packs(self, target: Target, inventory: Inventory) -> set[bytes]:
        """The packs whose tables name the members of a directory, or have their parts."""
        below = self._plan.members.get(target.sha1)
        if below is None:
            return set()
        digests: set[bytes] = set()
        for sha1 in below:
            member = self._plan.targets.get((sha1, None))
            if member is None or member.has_recipe:
                continue
            digests.add(self._chosen[member.key])
            if member.size > CHUNK_TARGET:
                content = self._opened(member)
                digests |= {digest for digest, _, _ in content.tree()}
                digests |= {child.digest for child in content.chunks()}
        return inventory.packs_of(digests, below)

    # --- plain objects ----------------------------------------------------------------------

    def _send_plain(self, targets: list[Target]) -> None:
        small = [target for target in targets if target.size <= WINDOW_SIZE]
        with ThreadPoolExecutor(_AT_ONCE, "kacas-push") as pool:
            for target in pool.map(self._send_one_plain, [one for one in small if one.is_member]):
                self._watcher.finished(target.size)
        for target in targets:
            if target.size > WINDOW_SIZE or not target.is_member:
                self._send_one_plain(target, self._step(target))
                self._watcher.finished(target.size)
        self._write_each(targets, self._write_plain_recipe)

    def _send_one_plain(self, target: Target, step: Callable[[int], None] = lambda _: None) -> Target:
        if is_plain_there(self._blobs, target):
            self.summary.raw_size_there += target.size
            self._with_first_good(target, lambda _: None)
        elif not self.failures.keys() >= set(target.asked):
            self._with_first_good(target, lambda content: send_plain(self._blobs, target, content, step))
            self.summary.plain_objects += 1
        return target

    def _write_plain_recipe(self, target: Target) -> bool:
        content = self._opened(target)
        if content.tiling is not None:  # the chunks are not one behind the other in the object: it is read whole
            return False
        return self._recipes.write(target, content, plain_places, ())

    # --- nothing is sent --------------------------------------------------------------------

    def _estimate(self, targets: list[Target]) -> None:
        inventory = self._inventory()
        inventory.look()
        targets, others = self._unnamed(inventory, targets), list[Target]()
        for at in range(0, len(targets), GROUP):
            small, _, rest = split(self._repository, targets[at : at + GROUP])
            self._estimate_payloads(inventory, {root: target.size for target, root in small})
            others += rest
        for target in others:
            self._with_first_good(target, lambda content: self._estimate_content(inventory, content))

    def _estimate_content(self, inventory: Inventory, content: Content) -> None:
        self._estimate_payloads(inventory, {digest: len(raw) for digest, _, raw in content.tree()})
        chunks = content.chunks()
        while group := {child.digest: child.size for child in islice(chunks, GROUP)}:
            self._estimate_payloads(inventory, group)

    def _estimate_payloads(self, inventory: Inventory, sizes: dict[bytes, int]) -> None:
        missing = inventory.missing(sizes)
        places = self._repository.lookup.locate(missing)
        inventory.sent(missing)
        for digest, size in sizes.items():
            if digest not in missing:
                self.summary.chunks_there += 1
                self.summary.raw_size_there += size
                continue
            self.summary.chunks_sent += 1
            stored = places[digest][0].stop - places[digest][0].offset if digest in places else size
            self.summary.chunk_size += stored
            self.summary.sent_size += stored


def _counts(entry: Entry, target: Target, roots: set[bytes]) -> bool:
    """Whether it names the target. A member's entry goes with its directories: what is asked for has its own, or a recipe."""
    return entry.root in roots and (target.is_member or target.has_recipe or entry.action == Action.KEEP)


@contextmanager
def _held(blobs: Counted) -> Iterator[Lease]:
    """A lease for the block. If it cannot be given back, a collector ends it: what went wrong before is what is told."""
    lease = Lease.take(blobs)
    assert lease is not None  # its name is random
    try:
        yield lease
    finally:
        with suppress(OSError):
            lease.release()
