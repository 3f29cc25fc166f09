"""Push: what is missing goes there, recipes last; what is there already costs next to nothing."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.errors import NotFoundError, WrongKindError
from kacas.model.entry import decode_entry
from kacas.model.uri import parse_any_uri, parse_uri
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.condemned import condemn
from kacas_remote.configuration import RemoteConfiguration
from kacas_remote.errors import NotSupportedError
from kacas_remote.layout import PACKS, RECIPES, other_recipe_key, pack_id_of, plain_key, recipe_key
from kacas_remote.pack_tables import read_table
from kacas_remote.pending import pending
from kacas_remote.push import push
from kacas_remote.recipe import decode_recipe
from kacas_remote.remote import Remote, new_remote
from kacas_remote.tables import Tables
from tests.remote.counting import CountingBlobs, calls, moved
from tests.remote.proved import proved
from tests.remote.sources import MIB, blobs, directory, recording, remote

__all__ = ["blobs", "remote"]


def test_every_byte_of_an_array_can_be_read_by_its_recipe(store: kacas.Store, remote: Remote) -> None:
    uri = store.store_npy(recording(), label="run.npy")
    summary = push(store, remote, [uri])
    assert (summary.contents, summary.recipes, summary.packs) == (1, 1, 1)
    assert summary.raw_size == store.size(uri)
    assert summary.chunk_size < summary.raw_size
    assert proved(remote, uri) == store.load_bytes(uri)


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 17 * MIB])
def test_content_of_any_size_arrives(store: kacas.Store, remote: Remote, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    uri = store.store_bytes(data)
    push(store, remote, [uri])
    assert proved(remote, uri) == data


def test_an_array_in_tiles_arrives_in_tiles(store: kacas.Store, remote: Remote) -> None:
    array = recording().reshape(1024, -1)
    uri = store.store_npy(array, chunks=(100, 100))
    push(store, remote, [uri])
    recipe = decode_recipe(remote.blobs.get(recipe_key(parse_uri(uri).sha1), MIB))
    assert recipe.top.manifest is not None
    assert recipe.top.manifest.tiling is not None


def test_a_linked_file_is_encoded_on_its_way(store: kacas.Store, remote: Remote, tmp_path: Path) -> None:
    file = tmp_path / "recording.dat"
    file.write_bytes(recording().tobytes())
    uri = store.link_file(file)
    summary = push(store, remote, [uri])
    assert summary.chunk_size < summary.raw_size
    assert proved(remote, uri) == file.read_bytes()


def test_a_second_push_is_two_requests_at_once_and_sends_nothing(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    uri = store.store_npy(recording())
    push(store, remote, [uri])
    blobs.take()
    summary = push(store, remote, [uri])
    asked = blobs.take()
    assert [one.call for one in asked if one.call] == ["get", "get"]  # the recipe and the marker
    assert calls(asked, "put") == 0
    assert (summary.contents_there, summary.sent_size, summary.requests) == (1, 0, 2)


def test_of_a_changed_array_only_the_changed_chunks_are_sent(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    array = recording(size=32 * MIB)
    first = push(store, remote, [store.store_npy(array)])
    array[100_000:101_000] += 1
    blobs.take()
    uri = store.store_npy(array)
    summary = push(store, remote, [uri])
    assert summary.chunks_sent <= 3 + 1  # two chunks at most, and manifest or nodes
    assert moved(blobs.take(), PACKS) < first.chunk_size // 20
    assert summary.raw_size_there > 0.98 * summary.raw_size
    assert proved(remote, uri) == store.load_bytes(uri)


def test_another_host_with_the_same_content_sends_nothing_of_it(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    array = recording()
    push(store, remote, [store.store_npy(array)])
    with kacas.Store.open(tmp_path / "other-store") as other:
        blobs.take()
        # Another recipe, whose data are the same.
        array[-1] += 1
        summary = push(other, remote, [other.store_npy(array)])
    assert summary.chunks_sent <= 2
    assert summary.packs == 1


def test_a_directory_arrives_with_all_below_it(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    files = directory(tmp_path / "run7", 400)
    uri = store.store_dir(tmp_path / "run7")
    summary = push(store, remote, [uri])
    assert summary.contents == len(set(files.values())) + 3  # documents
    assert summary.recipes == 2  # the directory's, and that of the large file
    asked = blobs.take()
    assert calls(asked, "put", PACKS) <= 3
    assert calls(asked, "put", RECIPES) == 2
    for path, data in [*files.items()][::50]:
        member = uri.partition("?")[0] + "/" + path
        entry_uri = store.describe(member).uri
        assert proved(remote, entry_uri) == data
    blobs.take()
    assert push(store, remote, [uri]).requests == 2


def test_the_recipe_of_a_directory_names_the_packs_of_its_members(
    store: kacas.Store, remote: Remote, tmp_path: Path
) -> None:
    directory(tmp_path / "run7", 40)
    push(store, remote, [store.store_file(tmp_path / "run7" / "sub" / "7.dat")])
    uri = store.store_dir(tmp_path / "run7")
    push(store, remote, [uri])
    sha1 = parse_any_uri(uri).sha1
    recipe = decode_recipe(remote.blobs.get(recipe_key(sha1), MIB))
    packs = {info.key[6:38] for info in remote.blobs.list(PACKS)}
    assert {one.hex() for one in recipe.head.member_packs} == packs
    assert len(packs) >= 2


def test_one_file_of_a_directory_can_be_pushed(store: kacas.Store, remote: Remote, tmp_path: Path) -> None:
    files = directory(tmp_path / "run7", 5)
    uri = store.store_dir(tmp_path / "run7").partition("?")[0] + "/sub/3.dat"
    assert push(store, remote, [uri]).contents == 1
    assert proved(remote, store.describe(uri).uri) == files["sub/3.dat"]


def test_thousands_of_uris_are_a_few_packs_and_no_recipes(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    with store.batch():
        uris = [store.store_bytes(b"content %d" % number) for number in range(3000)]
    summary = push(store, remote, uris)
    asked = blobs.take()
    assert (summary.contents, summary.packs, summary.recipes) == (3000, 1, 0)
    assert calls(asked, "put", PACKS) == 1
    assert calls(asked, "put", RECIPES) == 0
    assert proved(remote, uris[2999]) == b"content 2999"
    again = push(store, remote, uris)
    assert (again.contents_there, again.chunks_sent, again.packs) == (3000, 0, 0)
    assert again.requests <= 12


def test_content_that_is_not_there_is_refused_before_anything_is_sent(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    uri = store.store_bytes(b"content")
    with pytest.raises(NotFoundError):
        push(store, remote, [uri, "sha1://" + "ab" * 20])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to("nowhere")
    with pytest.raises(WrongKindError, match="symbolic link"):
        push(store, remote, [store.store_dir(tmp_path / "run").partition("?")[0] + "/link"])
    assert blobs.take() == []
    assert pending() == []


def test_nothing_is_pushed_to_what_can_only_be_read(store: kacas.Store) -> None:
    remote = Remote("web", MemoryBlobs(), RemoteConfiguration("web", "https://data.example.org/kacas"))
    with pytest.raises(NotSupportedError, match="web can only be read"):
        push(store, remote, [store.store_bytes(b"content")])


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs, tmp_path: Path
) -> None:
    directory(tmp_path / "run7", 50)
    uris = [store.store_dir(tmp_path / "run7"), store.store_npy(recording())]
    told = push(store, remote, uris, dry_run=True)
    assert calls(blobs.take(), "put") == 0
    assert pending() == []
    done = push(store, remote, uris)
    for name in ("contents", "chunks_sent", "chunks_there", "chunk_size", "raw_size", "raw_size_there"):
        assert getattr(told, name) == getattr(done, name), name
    assert push(store, remote, uris, dry_run=True).sent_size == 0


def test_another_root_of_a_sha1_stands_beside_the_first(store: kacas.Store, remote: Remote) -> None:
    array = recording().reshape(1024, -1)
    uri = store.store_npy(array)
    push(store, remote, [uri])
    store.store_npy(array, chunks=(100, 100))
    summary = push(store, remote, [uri])
    assert summary.recipes == 1
    sha1 = parse_uri(uri).sha1
    root = decode_recipe(remote.blobs.get(recipe_key(sha1), MIB)).head.root
    keys = [info.key for info in remote.blobs.list(RECIPES)]
    assert len(keys) == 2
    assert keys[0] == recipe_key(sha1)
    assert keys[1] != other_recipe_key(sha1, root)
    assert push(store, remote, [uri]).sent_size == 0


def test_a_recipe_that_cannot_be_read_gets_another_one_beside_it(store: kacas.Store, remote: Remote) -> None:
    uri = store.store_npy(recording())
    sha1 = parse_uri(uri).sha1
    remote.blobs.put(recipe_key(sha1), b"nonsense")
    assert push(store, remote, [uri]).recipes == 1
    assert remote.blobs.get(recipe_key(sha1), MIB) == b"nonsense"
    assert push(store, remote, [uri]).sent_size == 0


def test_what_is_in_condemned_packs_is_sent_again(store: kacas.Store, remote: Remote) -> None:
    uris = [store.store_bytes(b"content %d" % number) for number in range(100)]
    push(store, remote, uris)
    (pack,) = remote.blobs.list(PACKS)
    condemn(remote.blobs, [bytes.fromhex(pack.key[6:38])])
    assert push(store, remote, uris).chunks_sent == 100
    remote.blobs.delete([pack.key])
    assert proved(remote, uris[50]) == b"content 50"


class CondemnsMeanwhile(CountingBlobs):
    """A collector that condemns every pack that is there when the first new one comes."""

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        if key.startswith(PACKS) and not list(self.list("condemned/")):
            condemn(self._blobs, [bytes.fromhex(one.key[6:38]) for one in self._blobs.list(PACKS)])
        return super().put_if_absent(key, data)


def test_what_is_condemned_while_it_is_pushed_is_sent_again_and_the_recipe_names_the_new_place(
    store: kacas.Store,
) -> None:
    blobs = MemoryBlobs()
    array = recording()
    push(store, new_remote("lab", blobs), [store.store_npy(array)])
    (pack,) = blobs.list(PACKS)
    array[-1] += 1
    uri = store.store_npy(array)
    remote = new_remote("lab", CondemnsMeanwhile(blobs))
    push(store, remote, [uri])
    blobs.delete([pack.key])
    assert proved(remote, uri) == store.load_bytes(uri)


def test_a_recipe_is_signed_by_the_identity_of_the_user(store: kacas.Store, remote: Remote, tmp_path: Path) -> None:
    from kacas_remote import identity
    from kacas_remote.signing import is_signed, statement

    me = identity.own_or_new()
    uri = store.store_npy(recording())
    push(store, remote, [uri])
    head = decode_recipe(remote.blobs.get(recipe_key(parse_uri(uri).sha1), MIB)).head
    (signature,) = head.signatures
    assert signature.publisher == me.public
    assert is_signed(statement(head.sha1, head.root, head.size, head.kind), signature)


def test_no_lease_is_left(store: kacas.Store, remote: Remote) -> None:
    push(store, remote, [store.store_npy(recording())])
    assert list(remote.blobs.list("leases/")) == []


# --- plain objects --------------------------------------------------------------------------


def test_a_plain_object_is_the_content_and_the_recipe_points_into_it(
    store: kacas.Store, remote: Remote, blobs: CountingBlobs
) -> None:
    uri = store.store_npy(recording(size=20 * MIB))
    summary = push(store, remote, [uri], plain=True)
    assert (summary.plain_objects, summary.recipes, summary.packs) == (1, 1, 0)
    data = store.load_bytes(uri)
    assert remote.blobs.get(plain_key(parse_uri(uri).sha1), 32 * MIB) == data
    assert proved(remote, uri) == data
    blobs.take()
    assert push(store, remote, [uri], plain=True).sent_size == 0
    assert calls(blobs.take()) == 3  # recipe, object, marker


def test_a_remote_may_be_plain_by_default(store: kacas.Store) -> None:
    remote = Remote("web", MemoryBlobs(), RemoteConfiguration("web", "memory://", plain=True))
    uri = store.store_bytes(b"<html>")
    push(store, remote, [uri])
    assert remote.blobs.get(plain_key(parse_uri(uri).sha1), 100) == b"<html>"


def test_a_plain_directory_is_one_object_for_each_file(store: kacas.Store, remote: Remote, tmp_path: Path) -> None:
    files = directory(tmp_path / "run7", 20)
    summary = push(store, remote, [store.store_dir(tmp_path / "run7")], plain=True)
    assert summary.plain_objects == len(set(files.values())) + 3
    assert list(remote.blobs.list(PACKS)) == []


def tables_of(remote: Remote, cache: Path) -> Tables:
    tables = Tables(remote, cache / "another cache")
    tables.refresh()
    return tables


class FirstComesLast(CountingBlobs):
    """The first pack arrives after the second: `names` and `digests` are of what is there by then."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        super().__init__(blobs)
        self._packs = itertools.count()
        self._second = threading.Event()
        self.names: set[bytes] = set()
        self.digests: set[bytes] = set()

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        if (pack_id := pack_id_of(key)) is None:
            return super().put_if_absent(key, data)
        number = next(self._packs)
        if number == 0:
            assert self._second.wait(60)
        made = super().put_if_absent(key, data)
        if number == 1:
            remote_id = Remote("lab", self._blobs).remote_id
            for piece in read_table(self._blobs, remote_id, pack_id, len(data)):
                self.digests.update(piece.records["digest"].tolist())
                self.names.update(decode_entry(encoded)[0].root for *_, encoded in piece.entries)
            self._second.set()
        return made


def test_nothing_is_named_before_all_of_it_is_there(store: kacas.Store, tmp_path: Path) -> None:
    blobs = FirstComesLast(MemoryBlobs())
    random = np.random.default_rng(0)
    with store.batch():
        uris = [store.store_bytes(random.bytes(MIB - number)) for number in range(66)]
    remote = new_remote("lab", blobs)
    push(store, remote, uris)
    assert len(blobs.names) > 10  # what is whole in one pack is named there
    assert blobs.names <= blobs.digests  # the manifest is always in the pack, as all is
    named = {entry.root for entries in tables_of(remote, tmp_path).named([parse_uri(uri).sha1 for uri in uris]).values()
             for entry, _ in entries}  # fmt: skip
    assert len(named) == 66
