"""Catalog: what a bucket says of a SHA-1, in order; what lies or is damaged is named, and the next is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kacas.errors import NewerFormatError
from kacas.model.digest import checksum
from kacas.model.manifest import Child
from kacas.model.uri import Uri
from kacas_remote.catalog import Catalog, Claim
from kacas_remote.errors import BlobNotFoundError, DamagedRemoteError, RemoteUnavailableError
from kacas_remote.layout import other_recipe_key, recipe_key
from kacas_remote.removed import remove_entries
from kacas_remote.tables import Tables
from tests.remote.buckets import Bucket, entry_of, put_pack, sha1_of
from tests.remote.recipes import chunk, recipe_of

SHA1 = bytes(range(20))
URI = Uri(SHA1)
MANY = [chunk(number) for number in range(30)]


class Asked:
    """The bucket's blobs: counts what is asked for, and can be away."""

    def __init__(self, blobs) -> None:  # type: ignore[no-untyped-def]
        self._blobs, self.calls, self.away = blobs, [], False

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        if name in ("get_ranges", "list", "get", "head"):
            self.calls.append(name)
            if self.away:
                raise RemoteUnavailableError("the bucket is away", path="lab")
        return getattr(self._blobs, name)


@pytest.fixture
def bucket() -> Bucket:
    bucket = Bucket()
    bucket.blobs = Asked(bucket.blobs)  # type: ignore[assignment]
    return bucket


@pytest.fixture
def asked(bucket: Bucket) -> Asked:
    assert isinstance(bucket.blobs, Asked)
    return bucket.blobs


def opened(bucket: Bucket, tmp_path: Path) -> Catalog:
    return Catalog(bucket, Tables(bucket, tmp_path), tmp_path)


@pytest.fixture
def catalog(bucket: Bucket, tmp_path: Path) -> Catalog:
    return opened(bucket, tmp_path)


def chunks_of(catalog: Catalog, claim: Claim) -> list[Child]:
    assert claim.recipe is not None
    found = []
    stack = [claim.recipe.top]
    while stack:
        page = stack.pop()
        if page.level:
            stack += [catalog.page(claim, child, place, page.level) for child, place in reversed(list(page.nodes()))]
        else:
            found += [child for child, _ in page.chunks()]
    return found


def put_recipe(bucket: Bucket, data: bytes, key: str = "") -> None:
    bucket.blobs.put(key or recipe_key(SHA1), data)


def root_of(data: bytes) -> bytes:
    return data[40:72]


def test_a_recipe_is_found_with_one_request_and_every_page_with_one_more(
    bucket: Bucket, catalog: Catalog, asked: Asked
) -> None:
    put_recipe(bucket, recipe_of(MANY, label=b"name.npy"))
    claim = catalog.find(URI)
    assert claim is not None
    assert (claim.size, claim.label, claim.key) == (30, b"name.npy", recipe_key(SHA1))
    assert asked.calls == ["get_ranges"]
    assert chunks_of(catalog, claim) == MANY
    assert set(asked.calls) == {"get_ranges"}
    assert catalog.find(Uri(bytes(20))) is None


def test_a_second_look_needs_no_bucket_not_even_from_another_process(
    bucket: Bucket, catalog: Catalog, asked: Asked, tmp_path: Path
) -> None:
    put_recipe(bucket, recipe_of(MANY))
    assert chunks_of(catalog, catalog.find(URI)) == MANY  # type: ignore[arg-type]
    asked.away, asked.calls = True, []
    for one in (catalog, opened(bucket, tmp_path)):
        assert chunks_of(one, one.find(URI)) == MANY  # type: ignore[arg-type]
    assert asked.calls == []


def test_what_is_kept_is_read_anew_when_it_is_said_to_be_old(bucket: Bucket, catalog: Catalog) -> None:
    put_recipe(bucket, recipe_of(MANY, label=b"old"))
    catalog.find(URI)
    put_recipe(bucket, recipe_of(MANY, label=b"new"))
    assert catalog.find(URI).label == b"old"  # type: ignore[union-attr]
    catalog.renew(SHA1)
    assert catalog.find(URI).label == b"new"  # type: ignore[union-attr]


def test_a_flipped_bit_on_this_host_costs_a_look_at_the_bucket(
    bucket: Bucket, catalog: Catalog, tmp_path: Path
) -> None:
    put_recipe(bucket, recipe_of(MANY))
    catalog.find(URI)
    catalog._database.write(lambda connection: connection.execute("UPDATE parts SET data = substr(data, 2)"))
    again = opened(bucket, tmp_path)
    assert chunks_of(again, again.find(URI)) == MANY  # type: ignore[arg-type]


def test_a_front_that_is_longer_than_the_first_read_takes_one_more(
    bucket: Bucket, catalog: Catalog, asked: Asked
) -> None:
    packs = tuple(number.to_bytes(16, "big") for number in range(10_000))
    put_recipe(bucket, recipe_of(MANY, member_packs=packs))
    assert catalog.find(URI).recipe.head.member_packs == packs  # type: ignore[union-attr]
    assert asked.calls == ["get_ranges", "get_ranges"]


def test_two_roots_of_one_sha1_are_both_found_and_each_by_its_name(bucket: Bucket, catalog: Catalog) -> None:
    first, second = recipe_of(MANY, 3), recipe_of(MANY, 4)
    put_recipe(bucket, first)
    put_recipe(bucket, second, other_recipe_key(SHA1, root_of(second)))
    assert [claim.root for claim in catalog.claims(URI)] == [root_of(first), root_of(second)]
    assert catalog.find(Uri(SHA1, root=root_of(second))).root == root_of(second)  # type: ignore[union-attr]
    assert catalog.find(Uri(SHA1, root=bytes(32))) is None


@pytest.mark.parametrize("lie", ["swapped", "cut", "flipped", "root", "nonsense"])
def test_a_recipe_that_lies_or_is_damaged_is_named_and_the_next_is_taken(
    bucket: Bucket, catalog: Catalog, lie: str
) -> None:
    good = recipe_of(MANY, 4)
    bad = {
        "swapped": good[:20] + b"x" * 20 + good[40:],
        "cut": good[:150],
        "flipped": good[:50] + bytes([good[50] ^ 1]) + good[51:],
        "root": good[:40] + bytes(32) + good[72:],
        "nonsense": b"<html>no such key</html>",
    }[lie]
    if lie in ("swapped", "root"):
        bad = bad[:100] + checksum(16, bad[:100]) + bad[116:]
    put_recipe(bucket, bad)
    with pytest.raises(DamagedRemoteError, match=f"{recipe_key(SHA1)} in the remote lab was refused"):
        catalog.find(URI)
    put_recipe(bucket, good, other_recipe_key(SHA1, root_of(good)))
    assert catalog.find(URI).root == root_of(good)  # type: ignore[union-attr]


def test_a_recipe_of_a_newer_kacas_says_so(bucket: Bucket, catalog: Catalog) -> None:
    data = bytearray(recipe_of(MANY))
    data[8] = 9
    put_recipe(bucket, bytes(data))
    with pytest.raises(NewerFormatError, match="upgrade"):
        catalog.find(URI)


def test_a_page_that_was_replaced_is_refused(bucket: Bucket, catalog: Catalog) -> None:
    put_recipe(bucket, recipe_of(MANY))
    claim = catalog.find(URI)
    assert claim is not None
    put_recipe(bucket, recipe_of([chunk(number + 7) for number in range(30)]))
    with pytest.raises(DamagedRemoteError, match="was refused"):
        chunks_of(catalog, claim)
    bucket.blobs.delete([recipe_key(SHA1)])
    with pytest.raises(BlobNotFoundError):
        chunks_of(catalog, claim)


def test_small_contents_are_found_by_table_after_recipes_and_newest_first(bucket: Bucket, catalog: Catalog) -> None:
    old, new = entry_of(b"one", time_ns=1), entry_of(b"one", time_ns=2, root=b"n" * 32)
    put_pack(bucket, [b"one"], [old, new])
    assert [claim.root for claim in catalog.claims(Uri(old.sha1))] == [new.root, old.root]
    assert catalog.find(Uri(old.sha1, root=old.root)) == Claim.of_entry(old)
    remove_entries(bucket.blobs, {old.sha1: [old.entry_id, new.entry_id]})
    catalog._tables.refresh()
    assert catalog.find(Uri(old.sha1)) is None


def test_many_are_found_by_table_with_one_look(bucket: Bucket, catalog: Catalog, asked: Asked) -> None:
    contents = [number.to_bytes(2, "big") for number in range(500)]
    put_pack(bucket, contents, [entry_of(data) for data in contents])
    sha1s = [sha1_of(data) for data in contents]
    assert set(catalog.by_table(sha1s)) == set(sha1s)
    calls = len(asked.calls)
    assert set(catalog.by_table(sha1s)) == set(sha1s)
    assert len(asked.calls) == calls <= 4


def test_a_bucket_that_is_away_is_no_bucket_without_it(bucket: Bucket, catalog: Catalog, asked: Asked) -> None:
    asked.away = True
    with pytest.raises(RemoteUnavailableError):
        catalog.find(URI)


def test_a_forked_child_reads_on(bucket: Bucket, catalog: Catalog) -> None:
    put_recipe(bucket, recipe_of(MANY))
    catalog.find(URI)
    pid = os.fork()
    if pid == 0:
        claim = catalog.find(URI)
        os._exit(0 if claim is not None and chunks_of(catalog, claim) == MANY else 1)
    assert os.waitpid(pid, 0)[1] == 0
