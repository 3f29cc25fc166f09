"""A state machine of a bucket: pushes that are slow, killed or asleep, removals, and collectors that are killed at any request.

The one promise: whatever was pushed, and not removed, loads whole.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kacas_remote.blobs.blob_store import BlobInfo, BlobStore
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.errors import DamagedRemoteError
from kacas_remote.layout import PACKS, recipe_key
from kacas_remote.remote import Remote, new_remote
from kacas_remote.removed import remove_entries
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.waiting import Clock
from tests.remote.group_keys import FixedKeys, rotate
from tests.remote.model_bucket import Pusher, load, places_in

CHUNKS = [bytes([65 + number]) * (3000 * (number + 1)) for number in range(4)]
contents = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple)  # numbers of chunks
ORDERS = [
    (*looks, *works, "publish", "end")
    for looks in permutations(("list_packs", "list_condemned"))
    for works in permutations(("confirm", "send"))
]  # what a push does at once comes in any order


class Killed(BaseException):
    """The collector is no more."""


class Interrupted(MemoryBlobs):
    """The same bucket, for a collector: before each request of its own thread something happens."""

    def happen(self) -> None:
        raise NotImplementedError

    def _before(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.happen()

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        self._before()
        return super().put_if_absent(key, data)

    def put_parts(self, key: str, parts: Iterable[bytes | bytearray | memoryview], *, size: int = 0) -> None:
        self._before()
        super().put_parts(key, parts, size=size)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self._before()
        return super().get_ranges(key, ranges)

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        self._before()
        return super().list(prefix, after=after)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._before()
            super().delete([key])


class Bucket(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bucket = MemoryBlobs()
        self.blobs = self.seen(self.bucket)
        self.remote = new_remote("lab", self.blobs)
        self.pushers: list[tuple[Pusher, tuple[str, ...], int]] = []  # its steps, and which one is next
        self.pushed: dict[bytes, bytes] = {}
        self.doubtful: set[Pusher] = set()  # pushes during which their content was removed
        self.has_zombie = False  # somebody who was taken for dead has published

    def seen(self, bucket: BlobStore) -> BlobStore:
        """The bucket, as one more who uses it sees it."""
        return bucket

    # --- pushes -------------------------------------------------------------------------------

    @rule(chunks=contents, by_table=st.booleans(), steps=st.sampled_from(ORDERS))
    def begin(self, chunks: tuple[int, ...], by_table: bool, steps: tuple[str, ...]) -> None:
        whole = [CHUNKS[number] for number in chunks]
        pusher = Pusher(self.seen(self.bucket), self.remote.remote_id, whole, by_table=by_table)
        self.pushers.append((pusher, steps, 0))

    @precondition(lambda self: self.pushers)
    @rule(which=st.integers(0, 9))
    def step(self, which: int) -> None:
        which %= len(self.pushers)
        pusher, steps, at = self.pushers.pop(which)
        result = getattr(pusher, steps[at])()
        if steps[at] == "publish" and not pusher.lease.is_held():
            self.has_zombie = True
        if steps[at] == "confirm" and not result:
            self.pushers.insert(which, (pusher, steps, 0))
        elif steps[at] != "end":
            self.pushers.insert(which, (pusher, steps, at + 1))
        elif result and pusher not in self.doubtful:
            self.pushed[pusher.sha1] = pusher.whole

    @rule(chunks=contents, by_table=st.booleans(), steps=st.sampled_from(ORDERS))
    def push_at_once(self, chunks: tuple[int, ...], by_table: bool, steps: tuple[str, ...] = ORDERS[0]) -> None:
        self.begin(chunks, by_table, steps)
        for _ in steps:
            self.step(len(self.pushers) - 1)

    @precondition(lambda self: self.pushers)
    @rule()
    def finish_the_last(self) -> None:
        pusher, *_ = self.pushers[-1]
        while self.pushers and self.pushers[-1][0] is pusher:
            self.step(len(self.pushers) - 1)

    @precondition(lambda self: self.pushers)
    @rule(which=st.integers(0, 9))
    def kill_pusher(self, which: int) -> None:
        self.pushers.pop(which % len(self.pushers))

    # --- removals -----------------------------------------------------------------------------

    @precondition(lambda self: self.pushed)
    @rule(which=st.integers(0, 9))
    def remove(self, which: int) -> None:
        sha1 = sorted(self.pushed)[which % len(self.pushed)]
        del self.pushed[sha1]
        self.doubtful |= {pusher for pusher, *_ in self.pushers if pusher.sha1 == sha1}
        self.blobs.delete([recipe_key(sha1)])
        _, entries = places_in(self.blobs, self.remote.remote_id)
        if sha1 in entries:
            remove_entries(self.blobs, {sha1: [entry.entry_id for entry, _ in entries[sha1]]})

    # --- collectors ---------------------------------------------------------------------------

    @rule(data=st.data(), repack=st.sampled_from([None, 0.3]), killed_at=st.none() | st.integers(0, 60))
    def collect(self, data: st.DataObject, repack: float | None, killed_at: int | None) -> None:
        """One that takes who does not beat for dead at once, or waits for all who live."""
        machine, happened = self, 0
        actions = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=16))
        at_last = data.draw(st.sampled_from([None, 7, 8]), label="what others do before a pack goes")

        class Bucketed(Interrupted):
            def happen(self) -> None:
                nonlocal happened
                happened += 1
                if happened == killed_at:
                    raise Killed
                if actions and actions[0][0] <= happened % 5:
                    machine.act(actions.pop(0)[1])

            def delete(self, keys: Iterable[str]) -> None:
                nonlocal at_last
                for key in keys:
                    if at_last is not None and key.startswith(PACKS):
                        at_last = machine.act(at_last)
                    super().delete([key])

        blobs = Bucketed()
        blobs._blobs = self.bucket._blobs
        now_s = 0.0

        def sleep(seconds: float) -> None:
            nonlocal now_s
            now_s += seconds
            if data.draw(st.booleans(), label="a push lives"):
                for pusher, *_ in machine.pushers:
                    if pusher.lease.is_held():
                        pusher.lease.beat()
                machine.act(now_s % 7)

        # Whoever lives beats within five looks; some sleep for longer.
        clock = Clock(lambda: now_s, sleep)
        how = CollectSettings(grace_s=0, repack=repack, wait_s=200.0, dead_after_s=50.0, beat_s=0, clock=clock)
        try:
            collect(Remote("lab", self.seen(blobs)), how)
        except Killed:
            pass
        except DamagedRemoteError:
            assert self.has_zombie, "nothing is damaged"
        finally:
            for key in [info.key for info in self.blobs.list("leases/collector")]:
                self.blobs.delete([key])  # its time is over, too

    def act(self, number: float) -> None:
        """What others do while a collector works."""
        if self.pushers and number < 6:
            self.step(int(number))
        elif number in (7, 8):
            self.begin((int(number) % 4, 0), number == 7, ORDERS[0])
            self.step(len(self.pushers) - 1)
        elif self.pushed and number == 9:
            self.remove(0)

    @invariant()
    def all_that_was_pushed_and_not_removed_loads(self) -> None:
        for sha1, whole in self.pushed.items():
            assert load(self.blobs, self.remote.remote_id, sha1) == whole


class PrivateBucket(Bucket):
    """Each who uses it is a member of a group, and hears of new epochs when it looks for them."""

    def __init__(self) -> None:
        self.group = secrets.token_hex(8)
        super().__init__()

    def seen(self, bucket: BlobStore) -> BlobStore:
        return SealedBlobs(bucket, FixedKeys(self.group), miss_s=0, list_s=0)

    @rule()
    def somebody_leaves(self) -> None:
        rotate(self.group)

    def act(self, number: float) -> None:
        if number == 3:
            self.somebody_leaves()
        super().act(number)


def test_whatever_happens_what_was_pushed_and_not_removed_loads() -> None:
    how = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Bucket, settings=how)


def test_the_same_if_all_is_sealed_and_epochs_begin_meanwhile() -> None:
    how = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(PrivateBucket, settings=how)


def test_the_same_in_a_directory() -> None:
    """A few steps on files: list, put and delete behave as in memory."""
    with tempfile.TemporaryDirectory() as directory:
        machine = Bucket()
        machine.blobs = machine.bucket = DirectoryBlobs(directory)  # type: ignore[assignment]
        machine.remote = new_remote("lab", machine.blobs)
        for number in range(3):
            machine.push_at_once((0, number + 1), number % 2 == 0)
        machine.remove(1)
        report = collect(machine.remote, CollectSettings(grace_s=0, repack=0.1, settle_s=0, beat_s=0))
        assert report.deleted
        machine.all_that_was_pushed_and_not_removed_loads()
