"""Collection of a bucket: what somebody needs stays, all else goes, whoever is killed or slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from kacas.errors import NewerFormatError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.condemned import condemned_packs
from kacas_remote.errors import CollectorBusyError, DamagedRemoteError
from kacas_remote.layout import CONDEMNED, PACKS, recipe_key
from kacas_remote.leases import Lease, list_leases
from kacas_remote.remote import Remote, new_remote
from kacas_remote.removed import read_removed, remove_entries
from kacas_remote.upkeep.collect import CollectReport, CollectSettings, collect
from kacas_remote.upkeep.survey import stop_at_faults
from kacas_remote.upkeep.waiting import Clock
from tests.remote.model_bucket import Pusher, encode_pack, load, payloads_of, places_in, push


class Time:
    """A clock that passes when somebody sleeps; `meanwhile` happens then."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.meanwhile: list[object] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()  # type: ignore[operator]


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return new_remote("lab", DirectoryBlobs(tmp_path))


def gc(
    remote: Remote, time: Time | None = None, *, grace_s: float = 0, repack: float | None = None, **more: object
) -> CollectReport:
    time = time or Time()
    clock = Clock(lambda: time.now_s, time.sleep)
    settings = CollectSettings(grace_s=grace_s, repack=repack, beat_s=0, clock=clock, **more)  # type: ignore[arg-type]
    return collect(remote, settings)


def packs(blobs: BlobStore) -> set[str]:
    return {info.key for info in blobs.list(PACKS)}


@pytest.mark.parametrize("by_table", [False, True])
def test_what_is_needed_stays_and_loads(remote: Remote, by_table: bool) -> None:
    sha1 = push(remote.blobs, remote.remote_id, [b"one" * 50, b"two" * 70], by_table=by_table)
    before = packs(remote.blobs)
    assert gc(remote).deleted == 0
    assert packs(remote.blobs) == before
    assert load(remote.blobs, remote.remote_id, sha1) == b"one" * 50 + b"two" * 70


def test_what_a_killed_push_left_goes_after_the_grace_and_not_before(remote: Remote) -> None:
    pusher = Pusher(remote.blobs, remote.remote_id, [b"left"], by_table=False)
    pusher.look()
    pusher.send()
    pusher.lease.release()
    assert gc(remote, grace_s=3600).deleted == 0
    assert len(packs(remote.blobs)) == 1
    assert gc(remote).deleted == 1
    assert not packs(remote.blobs)
    assert not condemned_packs(remote.blobs)


def test_a_removed_recipe_frees_its_packs(remote: Remote) -> None:
    sha1 = push(remote.blobs, remote.remote_id, [b"a" * 100])
    kept = push(remote.blobs, remote.remote_id, [b"b" * 100])
    remote.blobs.delete([recipe_key(sha1)])
    report = gc(remote)
    assert (report.deleted, len(packs(remote.blobs))) == (1, 1)
    assert load(remote.blobs, remote.remote_id, kept) == b"b" * 100


def test_a_removed_entry_frees_its_packs_and_the_record_of_it_goes_too(remote: Remote) -> None:
    sha1 = push(remote.blobs, remote.remote_id, [b"a" * 100], by_table=True)
    _, entries = places_in(remote.blobs, remote.remote_id)
    remove_entries(remote.blobs, {sha1: [entry.entry_id for entry, _ in entries[sha1]]})
    assert gc(remote).deleted == 2  # that of the payload, and that of the entry
    assert not read_removed(remote.blobs, stop_at_faults)


def test_what_is_pushed_again_after_it_was_removed_stays(remote: Remote) -> None:
    sha1 = push(remote.blobs, remote.remote_id, [b"a" * 100], by_table=True)
    _, entries = places_in(remote.blobs, remote.remote_id)
    remove_entries(remote.blobs, {sha1: [entry.entry_id for entry, _ in entries[sha1]]})
    assert push(remote.blobs, remote.remote_id, [b"a" * 100], by_table=True) == sha1
    gc(remote)
    assert load(remote.blobs, remote.remote_id, sha1) == b"a" * 100


@pytest.mark.parametrize("by_table", [False, True])
def test_a_push_that_relied_on_a_pack_before_it_was_condemned_keeps_it(remote: Remote, by_table: bool) -> None:
    first = push(remote.blobs, remote.remote_id, [b"shared" * 20])
    pusher = Pusher(remote.blobs, remote.remote_id, [b"shared" * 20, b"more"], by_table=by_table)
    pusher.look()
    remote.blobs.delete([recipe_key(first)])
    time = Time()

    def goes_on() -> None:
        assert condemned_packs(remote.blobs)
        pusher.lease.beat()
        pusher.send()

    def ends() -> None:
        pusher.publish()
        assert pusher.end()

    time.meanwhile = [goes_on, lambda: None, ends]
    report = gc(remote, time)
    assert (report.deleted, report.rescued.payloads) == (1, 1)
    assert load(remote.blobs, remote.remote_id, pusher.sha1) == pusher.whole
    assert gc(remote).deleted == 0


def test_a_push_that_begins_after_packs_were_condemned_does_not_rely_on_them(remote: Remote) -> None:
    first = push(remote.blobs, remote.remote_id, [b"shared" * 20])
    remote.blobs.delete([recipe_key(first)])
    time, found = Time(), []
    time.meanwhile = [lambda: found.append(push(remote.blobs, remote.remote_id, [b"shared" * 20, b"more"]))]
    assert gc(remote, time).deleted == 1
    assert load(remote.blobs, remote.remote_id, found[0]) == b"shared" * 20 + b"more"


def test_a_push_that_begins_just_before_the_record_is_written_is_waited_for() -> None:
    begun: list[Pusher] = []

    class Watched(MemoryBlobs):
        def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
            if key.startswith(CONDEMNED):
                begun.append(Pusher(self, watched.remote_id, [b"shared" * 20, b"more"], by_table=False))
                begun[0].look()
            return super().put_if_absent(key, data)

    watched = new_remote("lab", Watched())
    gone = push(watched.blobs, watched.remote_id, [b"shared" * 20])
    watched.blobs.delete([recipe_key(gone)])
    time = Time()

    def ends() -> None:
        begun[0].send()
        begun[0].publish()
        assert begun[0].end()

    time.meanwhile = [lambda: None, ends]
    assert gc(watched, time).rescued.payloads == 1
    assert load(watched.blobs, watched.remote_id, begun[0].sha1) == begun[0].whole


def test_a_push_that_was_taken_for_dead_knows_it_however_late_it_wakes(remote: Remote) -> None:
    first = push(remote.blobs, remote.remote_id, [b"shared" * 20])
    pusher = Pusher(remote.blobs, remote.remote_id, [b"shared" * 20, b"more"], by_table=False)
    pusher.look()
    remote.blobs.delete([recipe_key(first)])
    time = Time()
    assert gc(remote, time).deleted == 1
    assert time.now_s > 1200
    pusher.lease.beat()  # it brings nothing back
    pusher.send()
    pusher.publish()
    assert not pusher.end()
    assert push(remote.blobs, remote.remote_id, [b"shared" * 20, b"more", b"!"]) is not None


def test_a_push_that_beats_is_waited_for(remote: Remote) -> None:
    push(remote.blobs, remote.remote_id, [b"x"])
    remote.blobs.delete([info.key for info in remote.blobs.list("recipes/")])
    pusher = Pusher(remote.blobs, remote.remote_id, [b"slow"], by_table=False)
    time = Time()
    time.meanwhile = [pusher.lease.beat] * 1000
    report = gc(remote, time, wait_s=5000.0)
    assert (report.waiting, report.deleted) == (1, 0)
    assert pusher.end()
    assert gc(remote).deleted == 1  # the next run goes on


def test_repacking_leaves_the_garbage_behind_and_replaces_recipes(remote: Remote) -> None:
    kept, gone = [b"k" * 5000], [b"g" * 20000]
    payloads = [*payloads_of(kept)[1], *payloads_of(gone)[1]]
    pack_id, data = encode_pack(remote.remote_id, payloads)
    remote.blobs.put_if_absent(f"packs/{pack_id.hex()}.pack", data)
    by_recipe = push(remote.blobs, remote.remote_id, kept)
    before = remote.blobs.get(recipe_key(by_recipe), 1 << 20)
    assert len(packs(remote.blobs)) == 1
    assert gc(remote, repack=0.9).deleted == 0
    report = gc(remote, repack=0.5)
    assert (report.deleted, report.rescued.payloads, report.rescued.recipes) == (1, 1, 1)
    assert remote.blobs.get(recipe_key(by_recipe), 1 << 20) != before
    assert sum(info.size for info in remote.blobs.list(PACKS)) < 6000
    assert load(remote.blobs, remote.remote_id, by_recipe) == kept[0]


def test_a_damaged_table_or_recipe_stops_it_and_nothing_is_deleted(remote: Remote, tmp_path: Path) -> None:
    kept = push(remote.blobs, remote.remote_id, [b"kept" * 10])
    gone = push(remote.blobs, remote.remote_id, [b"gone" * 10])
    remote.blobs.delete([recipe_key(gone)])
    for key in [next(iter(packs(remote.blobs))), recipe_key(kept)]:
        whole = remote.blobs.get(key, 1 << 20)
        broken = bytearray(whole)
        broken[-50] ^= 1
        remote.blobs.put(key, broken)
        with pytest.raises(DamagedRemoteError, match=key):
            gc(remote)
        remote.blobs.put(key, whole)
        assert len(packs(remote.blobs)) == 2
    newer = b"\xff" + b"\0" * 7
    key = recipe_key(kept)
    remote.blobs.put(key, whole[:8] + newer[:2] + whole[10:])
    with pytest.raises(NewerFormatError):
        gc(remote)
    assert not condemned_packs(remote.blobs)


def test_one_collector_at_a_time_and_a_dead_one_is_taken_over(remote: Remote) -> None:
    other = Lease.take(remote.blobs, "collector", beat_s=0)
    assert other is not None
    time = Time()
    time.meanwhile = [other.beat] * 1000
    with pytest.raises(CollectorBusyError):
        gc(remote, time)
    assert gc(remote, Time()).deleted == 0
    assert not other.is_held()
    assert not list_leases(remote.blobs)


def test_a_dry_run_changes_nothing_and_says_what_would_go(remote: Remote) -> None:
    gone = push(remote.blobs, remote.remote_id, [b"gone" * 10])
    remote.blobs.delete([recipe_key(gone)])
    before = sorted(remote.blobs.list(""))
    report = collect(remote, CollectSettings(grace_s=0), dry_run=True)
    assert report.condemned == 1
    assert sorted(remote.blobs.list("")) == before
