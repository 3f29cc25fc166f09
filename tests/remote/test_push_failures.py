"""Push, when something goes wrong: what is good arrives, what is not is named, what failed is pending and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.errors import DamagedError
from kacas.model.uri import parse_any_uri, parse_uri
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import PushError, RemoteUnavailableError
from kacas_remote.layout import PACKS, recipe_key
from kacas_remote.pending import PendingPush, pending, taken, written_down
from kacas_remote.push import push, push_pending
from kacas_remote.remote import Remote, new_remote
from kacas_remote.tables import Tables
from tests.remote.counting import CountingBlobs
from tests.remote.faulty import FaultyBlobs
from tests.remote.proved import proved
from tests.remote.sources import blobs, damage, directory, recording, remote

__all__ = ["blobs", "remote"]


def test_what_is_damaged_here_is_named_and_all_else_is_pushed(
    store: kacas.Store, remote: Remote, tmp_path: Path
) -> None:
    good = [store.store_bytes(b"content %d" % number) for number in range(10)]
    bad = store.store_bytes(np.random.default_rng(1).bytes(100_000))
    damage(store, store.load_bytes(bad))
    with pytest.raises(PushError, match="all else is pushed") as caught:
        push(store, remote, [*good, bad])
    assert caught.value.uris == (bad,)
    assert [one.uris for one in pending()] == [(bad,)]
    assert proved(remote, good[9]) == b"content 9"
    assert not remote.blobs.head(recipe_key(parse_uri(bad).sha1))


def test_a_flipped_bit_in_what_is_compressed_here_never_leaves(
    store: kacas.Store, remote: Remote, tmp_path: Path
) -> None:
    uri = store.store_text("so many words, " * 5_000)
    lookup = store.repository.lookup
    root = lookup.entries(parse_uri(uri).sha1)[0][0].root
    place = lookup.locate([root])[root][0]
    pack = store.path / "packs" / f"{place.pack_id.hex()}.pack"
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.seek(place.stop - 1)
        last = file.read(1)[0]
        file.seek(place.stop - 1)
        file.write(bytes([last ^ 1]))
    with pytest.raises(PushError) as caught:
        push(store, remote, [uri])
    assert caught.value.uris == (uri,)
    tables = Tables(remote, tmp_path / "tables")
    tables.refresh()
    assert tables.locate([root]) == {}
    tables.close()


def test_a_directory_with_a_damaged_member_gets_no_recipe(store: kacas.Store, remote: Remote, tmp_path: Path) -> None:
    files = directory(tmp_path / "run7", 10)
    uri = store.store_dir(tmp_path / "run7")
    damage(store, files["large.dat"][:100_000])
    other = store.store_bytes(b"other")
    with pytest.raises(PushError) as caught:
        push(store, remote, [uri, other])
    assert caught.value.uris == (uri,)
    assert remote.blobs.head(recipe_key(parse_any_uri(uri).sha1)) is None
    assert proved(remote, other) == b"other"


def test_damaged_chunks_are_taken_from_another_pack(store: kacas.Store, remote: Remote) -> None:
    data = np.random.default_rng(1).bytes(100_000)
    uri = store.store_bytes(data)
    damage(store, data)
    with pytest.raises(DamagedError):
        store.load_bytes(uri)
    store.store_bytes(data)  # a second copy, which is believed to be the good one
    damage(store, data)  # the first is good again, the second is not
    push(store, remote, [uri])
    assert proved(remote, uri) == data


def test_what_is_taken_from_another_pack_is_named_too(store: kacas.Store, remote: Remote) -> None:
    contents = [np.random.default_rng(seed).bytes(3000) for seed in range(70)]  # so many that they have no recipes
    uris = [store.store_bytes(data) for data in contents]
    damage(store, contents[35])
    with pytest.raises(DamagedError):
        store.load_bytes(uris[35])
    store.store_bytes(contents[35])
    damage(store, contents[35])  # as above
    assert push(store, remote, uris).chunks_sent == 70
    assert [proved(remote, uri) for uri in uris] == contents


@pytest.mark.parametrize(
    "call, prefix", [("put", "packs/"), ("put", "recipes/"), ("list", "packs/"), ("put", "leases/")]
)
def test_a_push_that_failed_is_pending_and_goes_on(store: kacas.Store, call: str, prefix: str) -> None:
    faulty = FaultyBlobs(MemoryBlobs())
    counted = CountingBlobs(faulty)
    remote = new_remote("lab", counted)
    rule = faulty.fault("drop", call=call, prefix=prefix, times=None)
    uri = store.store_npy(recording())
    with pytest.raises(PushError, match="kacas push --pending") as caught:
        push(store, remote, [uri])
    assert caught.value.uris == (uri,)
    assert isinstance(caught.value.__cause__, RemoteUnavailableError)
    assert rule.met >= 1
    assert [one.uris for one in pending()] == [(uri,)]
    faulty.heal()
    with taken() as (note,):
        _, gone = push_pending(note, store, remote)
    assert (gone, pending()) == ([], [])
    put = sum(one.size for one in counted.take() if one.call == "put" and one.key.startswith(PACKS))
    arrived = sum(info.size for info in remote.blobs.list(PACKS))
    assert put == arrived if prefix != "packs/" else put <= 2 * arrived
    assert proved(remote, uri) == store.load_bytes(uri)


def test_what_was_noted_and_is_in_no_store_any_more_is_struck_out(store: kacas.Store, remote: Remote) -> None:
    uri = store.store_bytes(b"content")
    lost = "sha1://" + "ab" * 20
    with written_down(PendingPush(str(store.path), "lab", (uri, lost))):
        pass
    with taken() as (note,):
        _, gone = push_pending(note, store, remote)
    assert (gone, pending()) == ([lost], [])
    assert proved(remote, uri) == b"content"


def test_a_pending_push_that_somebody_is_busy_with_is_left_to_them(store: kacas.Store) -> None:
    with written_down(PendingPush(str(store.path), "lab", ("sha1://" + "ab" * 20,))):
        with taken() as notes:
            assert notes == []
        assert len(pending()) == 1
    with taken() as notes:
        assert len(notes) == 1


def test_pending_notes_are_for_nobody_else(store: kacas.Store, tmp_path: Path) -> None:
    with written_down(PendingPush(str(store.path), "lab", ("sha1://" + "ab" * 20,))):
        (path,) = (tmp_path / "state" / "kacas" / "pending").glob("*.json")
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_bytes())["remote"] == "lab"


def test_what_cannot_be_pushed_again_and_again_is_pending_once(
    store: kacas.Store, remote: Remote, tmp_path: Path
) -> None:
    (tmp_path / "linked").write_bytes(b"linked" * 100_000)
    bad, good = store.link_file(tmp_path / "linked"), store.store_bytes(b"good")
    (tmp_path / "linked").unlink()
    for uris in ([bad], [bad], [bad, good], [good, bad]):
        with pytest.raises(PushError, match="missing"):
            push(store, remote, uris)
    assert [one.uris for one in pending()] == [(bad,)]
    with taken() as (note,), pytest.raises(PushError, match="missing"):
        push_pending(note, store, remote)
    assert [one.uris for one in pending()] == [(bad,)]
