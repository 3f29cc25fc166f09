"""A batch: nothing before its end, everything after, and each chunk once."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kacas.disk.batch import Batch
from kacas.disk.lookup import Lookup
from kacas.disk.pack_writer import Payload
from kacas.disk.volume import Volume, open_volume
from kacas.errors import StoreClosedError, WriteError
from kacas.model.codec import Codec
from kacas.model.digest import PayloadKind, chunk_digest
from kacas.model.entry import MAX_CANCELS, Action, Entry
from kacas.model.pack_format import PAYLOAD_HEADER_SIZE, PayloadHeader


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return open_volume(tmp_path / "store", create=True, durability="relaxed")


@pytest.fixture
def batch(volume: Volume, lookup: Lookup) -> Iterator[Batch]:
    started = Batch(volume, lookup)
    yield started
    started.discard()


def raw(i: int) -> bytes:
    return random.Random(i).randbytes(300)


def digest(i: int) -> bytes:
    return chunk_digest(raw(i))


def payload(i: int) -> Payload:
    return PayloadHeader(PayloadKind.CHUNK, Codec.RAW, 300, 300, digest(i)), raw(i)


def entry(i: int, **fields: object) -> Entry:
    return Entry(os.urandom(16), b"%020d" % i, digest(i), 300, 1000 + i, 0, b"me", b"label", **fields)  # type: ignore[arg-type]


def await_truth(is_so: Callable[[], object]) -> None:
    """A full pack is published beside its batch."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_nothing_is_published_before_the_end_and_everything_after(volume: Volume, lookup: Lookup, batch: Batch) -> None:
    e = entry(1)
    batch.append([payload(1), payload(2)])
    batch.add_entry(e)
    assert volume.list_packs() == set()
    assert lookup.proved_entries(e.sha1) == []
    batch.finish()
    (pack_id,) = volume.list_packs()
    assert lookup.entries(e.sha1) == [(e, pack_id)]
    assert lookup.locate([digest(1), digest(2)]).keys() == {digest(1), digest(2)}
    assert volume.list_orphans() == []


def test_what_is_pending_is_known_and_readable_in_its_own_batch_only(
    volume: Volume, lookup: Lookup, batch: Batch
) -> None:
    batch.append([payload(1)])
    assert batch.known([digest(1), digest(2)]) == {digest(1)}
    location = batch.pending([digest(1), digest(2)])[digest(1)]
    assert (batch.read(location) or b"")[PAYLOAD_HEADER_SIZE:] == raw(1)
    other = Batch(volume, lookup)
    assert other.known([digest(1)]) == set()
    assert other.pending([digest(1)]) == {}
    assert other.read(location) is None
    other.discard()
    batch.finish()
    assert batch.read(location) is None
    assert Batch(volume, lookup).known([digest(1)]) == {digest(1)}


def test_an_entry_is_published_even_if_every_chunk_was_there(volume: Volume, lookup: Lookup, batch: Batch) -> None:
    batch.append([payload(1)])
    batch.finish()
    (first,) = volume.list_packs()
    second = Batch(volume, lookup)
    assert second.known([digest(1)]) == {digest(1)}
    e = entry(1)
    second.add_entry(e)
    assert second.entries(e.sha1) == [e]
    second.finish()
    assert len(volume.list_packs()) == 2
    (pack_id,) = volume.list_packs() - {first}
    assert lookup.entries(e.sha1) == [(e, pack_id)]


def test_a_batch_without_anything_publishes_no_pack(volume: Volume, batch: Batch) -> None:
    batch.finish()
    assert os.listdir(volume.packs) == []


def test_a_discarded_batch_leaves_nothing(volume: Volume, lookup: Lookup, batch: Batch) -> None:
    batch.append([payload(1)])
    batch.add_entry(entry(1))
    batch.discard()
    batch.discard()
    assert os.listdir(volume.packs) == []
    assert lookup.locate([digest(1)]) == {}


def test_a_batch_that_has_ended_takes_nothing_more(batch: Batch) -> None:
    batch.finish()
    for call in (lambda: batch.append([payload(1)]), lambda: batch.add_entry(entry(1)), batch.finish):
        with pytest.raises(StoreClosedError, match="has ended"):
            call()


def test_a_full_pack_is_published_with_the_entries_of_the_puts_that_are_complete(
    volume: Volume, lookup: Lookup, batch: Batch
) -> None:
    """Entries of 1 MiB each stand for millions of small ones; a pack takes 16 MiB of them."""
    large = [entry(i, action=Action.FORGET, cancels=(b"c" * 16,) * MAX_CANCELS) for i in range(17)]
    batch.append([payload(1)])
    for e in large:
        batch.add_entry(e)
    await_truth(lambda: lookup.entries(large[0].sha1))
    (first,) = volume.list_packs()
    published = [e for e in large if lookup.entries(e.sha1)]
    assert published == large[: len(published)]
    assert len(published) >= 16
    assert batch.known([digest(1)]) == {digest(1)}
    batch.add_entry(entry(50))
    batch.finish()
    assert len(volume.list_packs()) == 2
    assert [e.sha1 for e, _ in lookup.entries(entry(50).sha1)] == [entry(50).sha1]
    assert lookup.locate([digest(1)])[digest(1)][0].pack_id == first


def test_a_discard_keeps_what_was_published_when_a_pack_filled_up(volume: Volume, lookup: Lookup, batch: Batch) -> None:
    large = [entry(i, action=Action.FORGET, cancels=(b"c" * 16,) * MAX_CANCELS) for i in range(16)]
    for e in large:
        batch.add_entry(e)
    late = entry(99)
    batch.add_entry(late)
    batch.discard()
    assert len(volume.list_packs()) == 1
    assert lookup.proved_entries(large[0].sha1)
    assert lookup.proved_entries(late.sha1) == []


def test_a_pack_that_vanishes_while_it_is_relied_on_is_an_error(volume: Volume, lookup: Lookup, batch: Batch) -> None:
    batch.append([payload(1)])
    batch.finish()
    (pack_id,) = volume.list_packs()
    second = Batch(volume, lookup)
    assert second.known([digest(1)]) == {digest(1)}
    volume.pack_path(pack_id).unlink()
    second.add_entry(entry(1))
    with pytest.raises(WriteError, match=rf"{pack_id.hex()}\.pack vanished"):
        second.finish()


def test_after_a_vanished_pack_was_noticed_storing_again_counts_on_it_no_more(
    volume: Volume, lookup: Lookup, batch: Batch
) -> None:
    batch.append([payload(1)])
    batch.finish()
    (pack_id,) = volume.list_packs()
    second = Batch(volume, lookup)
    second.known([digest(1)])
    volume.pack_path(pack_id).unlink()
    second.add_entry(entry(1))
    with pytest.raises(WriteError):
        second.finish()
    assert Batch(volume, lookup).known([digest(1)]) == set()


def test_threads_may_append_to_one_batch(volume: Volume, lookup: Lookup, batch: Batch) -> None:
    def put(i: int) -> None:
        batch.append([payload(i), payload(1000 + i)])
        batch.add_entry(entry(i))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(200)))
    batch.finish()
    (pack_id,) = volume.list_packs()
    table = lookup.packs.get(pack_id).read_table()
    assert {bytes(d) for d in table.records["digest"]} == {digest(i) for n in range(200) for i in (n, 1000 + n)}
    assert {e.sha1 for e in table.entries()} == {entry(i).sha1 for i in range(200)}
    reader = lookup.packs.get(pack_id)
    for key, (location,) in lookup.locate([digest(i) for i in range(200)]).items():
        data = bytearray(location.stop - location.offset)
        reader.read_into(memoryview(data), location.offset)
        assert chunk_digest(bytes(data[PAYLOAD_HEADER_SIZE:])) == key


def test_members_added_at_once_are_seen_in_the_batch_and_published(lookup: Lookup, batch: Batch) -> None:
    members = [entry(i)._replace(action=Action.MEMBER, owner=b"", label=b"") for i in (1, 2)]
    claim = entry(2)
    batch.append([payload(1), payload(2)])
    batch.add_entry(claim)
    batch.add_members({one.sha1: one.encode() for one in members})
    assert batch.has_entries([b"%020d" % i for i in (1, 2, 3)]) == {members[0].sha1, members[1].sha1}
    assert batch.entries(members[0].sha1) == [members[0]]
    assert batch.entries(claim.sha1) == [claim, members[1]]
    assert batch.own_entries() == [claim]
    batch.finish()
    assert [known for known, _ in lookup.entries(members[0].sha1)] == [members[0]]
    assert {known for known, _ in lookup.entries(claim.sha1)} == {claim, members[1]}


def test_a_pack_of_many_member_entries_is_published_before_the_end(
    volume: Volume, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kacas.disk.batch._PACK_ENTRIES_SIZE", 1000)
    for first in (0, 5):
        members = [entry(i)._replace(action=Action.MEMBER) for i in range(first, first + 5)]
        batch.add_members({one.sha1: one.encode() for one in members})
        assert first or not volume.list_packs()
    await_truth(volume.list_packs)


def test_a_batch_that_began_to_sync_can_still_be_discarded(tmp_path: Path, lookup: Lookup) -> None:
    durable = open_volume(tmp_path / "durable", create=True, durability="full")
    batch = Batch(durable, lookup)
    batch.write_back()  # nothing is there
    big = random.Random(0).randbytes(5 << 20)
    for part in (big[:100], big):
        header = PayloadHeader(PayloadKind.CHUNK, Codec.RAW, len(part), len(part), chunk_digest(part))
        batch.append([(header, part)])
        batch.write_back()
    batch.discard()
    assert not durable.list_packs()
    assert not list(durable.packs.iterdir())


def test_a_forked_child_cannot_use_its_parents_batch(volume: Volume, batch: Batch) -> None:
    batch.append([payload(1)])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            batch.add_entry(entry(1))
        except StoreClosedError as exc:
            batch.discard()  # must not touch what the parent writes
            code = 0 if "after the fork" in str(exc) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    batch.finish()
    assert len(volume.list_packs()) == 1
