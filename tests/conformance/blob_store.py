"""BlobStoreSuite: what every blob store promises. A backend's test inherits it and gives the fixture `blobs`."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import httpx
import pytest

from kacas.errors import InvalidKeyError, SizeLimitError
from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.errors import BlobNotFoundError, NotSupportedError

ODD_KEYS = (
    "a b/c d",
    "percent%2fescaped%20",
    "plus+and&and=",
    "hash#question?",
    "tilde~.dots..",
    "quote'\"",
    "[brackets]{braces}",
    "a*b|c<d>e",
    "UPPER/lower",
    ".hidden/.name",
    "n" * 200,
)
NO_KEYS = (
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "a/../b",
    "..",
    "ü",
    "a\nb",
    "a\0b",
    "a\\b",
    ".a.tmp.host.1.00000000",
    "x" * 201,
    "a/" * 500 + "a",
)


class ReadingSuite:
    """Of a store that is only read. `blobs`: opened at what `plant` fills."""

    @pytest.fixture
    def plant(self, blobs: BlobStore) -> Callable[[str, bytes], None]:
        """Put a blob there, by the store itself or behind its back."""
        return blobs.put

    def test_a_blob_is_read_as_it_was_put(self, blobs: BlobStore, plant: Callable[[str, bytes], None]) -> None:
        data = os.urandom(300_000)
        plant("a/b/c", data)
        assert blobs.get("a/b/c", len(data)) == data

    def test_an_empty_blob_is_one(self, blobs: BlobStore, plant: Callable[[str, bytes], None]) -> None:
        plant("empty", b"")
        assert blobs.get("empty", 0) == b""
        assert [bytes(part) for part in blobs.get_ranges("empty", [(0, 10), (5, 5)])] == [b"", b""]
        info = blobs.head("empty")
        assert info is not None
        assert info.size == 0

    def test_one_call_reads_many_ranges(self, blobs: BlobStore, plant: Callable[[str, bytes], None]) -> None:
        data = os.urandom(3 << 20)
        plant("blob", data)
        ranges = [(0, 1), (2 << 20, (2 << 20) + 1000), (5, 5), (0, 70_000), (1 << 20, (1 << 20) + 1), (10, 20)]
        ranges += [(n * 4096, n * 4096 + 16) for n in range(300)]
        assert [bytes(part) for part in blobs.get_ranges("blob", ranges)] == [data[a:b] for a, b in ranges]

    def test_a_range_beyond_the_end_gives_what_there_is(
        self, blobs: BlobStore, plant: Callable[[str, bytes], None]
    ) -> None:
        data = os.urandom(1000)
        plant("blob", data)
        ranges = [(900, 1100), (1000, 1001), (2 << 20, 3 << 20), (0, 1000), (0, 64 << 10), (5 << 40, 6 << 40)]
        assert [bytes(part) for part in blobs.get_ranges("blob", ranges)] == [data[a:b] for a, b in ranges]

    def test_what_is_not_there_is_said_not_to_be(self, blobs: BlobStore) -> None:
        assert blobs.head("a/missing") is None
        with pytest.raises(BlobNotFoundError, match="a/missing"):
            blobs.get("a/missing", 10)
        with pytest.raises(BlobNotFoundError, match="a/missing"):
            blobs.get_ranges("a/missing", [(0, 10)])

    def test_a_blob_that_is_too_large_is_not_read(self, blobs: BlobStore, plant: Callable[[str, bytes], None]) -> None:
        plant("large", bytes(100_001))
        with pytest.raises(SizeLimitError, match="large"):
            blobs.get("large", 100_000)
        assert len(blobs.get("large", 100_001)) == 100_001

    def test_head_tells_size_and_age(self, blobs: BlobStore, plant: Callable[[str, bytes], None]) -> None:
        plant("a/blob", b"12345")
        info = blobs.head("a/blob")
        assert info is not None
        assert (info.key, info.size) == ("a/blob", 5)
        assert abs(info.modified_s - time.time()) < 3600

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_odd_keys_are_keys(self, blobs: BlobStore, plant: Callable[[str, bytes], None], key: str) -> None:
        plant(key, key.encode())
        assert blobs.get(key, 1000) == key.encode()

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_what_leads_elsewhere_is_no_key(self, blobs: BlobStore, key: str) -> None:
        for call in (
            lambda: blobs.get(key, 1),
            lambda: blobs.head(key),
            lambda: blobs.get_ranges(key, [(0, 1)]),
        ):
            with pytest.raises(InvalidKeyError):
                call()

    def test_its_name_shows_no_secret(self, blobs: BlobStore) -> None:
        assert blobs.name
        for secret in self.secrets(blobs):
            assert secret not in blobs.name + repr(blobs) + str(vars(blobs))
            assert secret.encode() not in pickle.dumps(blobs)

    def secrets(self, blobs: BlobStore) -> list[str]:
        return []

    def test_it_goes_on_when_it_was_closed_or_pickled(
        self, blobs: BlobStore, plant: Callable[[str, bytes], None]
    ) -> None:
        plant("a", b"1")
        assert blobs.get("a", 1) == b"1"
        blobs.close()
        assert blobs.get("a", 1) == b"1"
        other = pickle.loads(pickle.dumps(blobs))
        assert other.get("a", 1) == b"1"
        other.close()


class BlobStoreSuite(ReadingSuite):
    """Of a store that is written, too. put_headers: that a signed URL to put needs."""

    put_headers: ClassVar[Mapping[str, str]] = {}
    signed_key = "a b/c+d"

    def test_an_absent_blob_is_put_once(self, blobs: BlobStore) -> None:
        assert blobs.put_if_absent("a", b"first")
        assert not blobs.put_if_absent("a", b"second")
        assert not blobs.put_if_absent("a", b"later")  # of the same size as the first
        assert blobs.get("a", 10) == b"first"

    def test_a_put_whose_reply_was_lost_is_ours(self, blobs: BlobStore) -> None:
        data = os.urandom(100_000)
        assert blobs.put_if_absent("a", data)
        assert blobs.put_if_absent("a", data)

    def test_of_sixteen_that_put_at_once_one_wins(self, blobs: BlobStore) -> None:
        for round_number in range(5):
            key, won = f"race/{round_number}", []
            start = threading.Barrier(16)

            def put(number: int, key: str = key, won: list[int] = won, start: threading.Barrier = start) -> None:
                start.wait()
                if blobs.put_if_absent(key, bytes([number]) * 1000):
                    won.append(number)

            threads = [threading.Thread(target=put, args=(number,)) for number in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1
            assert blobs.get(key, 1000) == bytes(won) * 1000

    def test_put_replaces(self, blobs: BlobStore) -> None:
        blobs.put("a", b"one")
        first = blobs.head("a")
        blobs.put("a", bytearray(b"other"))
        second = blobs.head("a")
        assert blobs.get("a", 10) == b"other"
        assert first is not None
        assert second is not None
        assert first.e_tag != second.e_tag
        blobs.put("a", memoryview(b"-third-")[1:-1])
        assert blobs.get("a", 10) == b"third"

    def test_parts_become_one_blob(self, blobs: BlobStore) -> None:
        parts = [os.urandom(9 << 20), memoryview(os.urandom(8 << 20)), bytearray(b"the rest")]
        blobs.put_parts("parts", iter(parts))
        assert blobs.get("parts", 64 << 20) == b"".join(parts)
        blobs.put_parts("none", iter([]))
        assert blobs.get("none", 0) == b""

    def test_parts_that_fail_put_nothing(self, blobs: BlobStore) -> None:
        def parts() -> Iterator[bytes]:
            yield bytes(9 << 20)
            yield bytes(40 << 20)
            raise LookupError("the disk that they come from is gone")

        with pytest.raises(LookupError, match="the disk that they come from"):
            blobs.put_parts("a", parts())
        assert blobs.head("a") is None
        blobs.put("b", b"before")
        with pytest.raises(LookupError):
            blobs.put_parts("b", parts())
        assert blobs.get("b", 10) == b"before"
        assert [info.key for info in blobs.list("")] == ["b"]

    def test_a_listing_has_the_keys_with_the_prefix_in_order(self, blobs: BlobStore) -> None:
        keys = ["packs/1.pack", "packs/0.pack", "packs/a/b", "recipes/ab/x", "recipes/ab/x.1", "recipes/ab/y", "top"]
        for key in keys:
            blobs.put(key, key.encode())
        assert [info.key for info in blobs.list("")] == sorted(keys)
        assert [info.key for info in blobs.list("packs/")] == ["packs/0.pack", "packs/1.pack", "packs/a/b"]
        assert [info.key for info in blobs.list("recipes/ab/x")] == ["recipes/ab/x", "recipes/ab/x.1"]
        assert [info.key for info in blobs.list("recipes/ab/x.")] == ["recipes/ab/x.1"]
        assert [info.key for info in blobs.list("packs/", after="packs/0.pack")] == ["packs/1.pack", "packs/a/b"]
        assert [info.key for info in blobs.list("recipes/ab/x", after="recipes/ab/x")] == ["recipes/ab/x.1"]
        assert [info.key for info in blobs.list("", after="packs/1.pack")] == sorted(keys)[2:]
        assert not [*blobs.list("nothing/")]
        assert not [*blobs.list("packs/", after="q")]
        assert {info.key: info.size for info in blobs.list("")} == {key: len(key) for key in keys}

    def test_a_listing_of_more_than_a_page_is_complete(self, blobs: BlobStore) -> None:
        keys = [f"many/{number:04}" for number in range(1234)]
        for key in keys:
            blobs.put(key, b"1")
        assert [info.key for info in blobs.list("many/")] == keys
        assert [info.key for info in blobs.list("many/", after="many/0999")] == keys[1000:]
        blobs.delete(keys)
        assert not [*blobs.list("many/")]

    def test_odd_keys_are_listed_and_deleted(self, blobs: BlobStore) -> None:
        for key in ODD_KEYS:
            blobs.put(key, b"1")
        assert {info.key for info in blobs.list("")} == set(ODD_KEYS)
        blobs.delete(ODD_KEYS)
        assert not [*blobs.list("")]

    def test_deleting_what_is_not_there_is_fine(self, blobs: BlobStore) -> None:
        blobs.put("a", b"1")
        blobs.delete(["missing", "a", "also/missing"])
        blobs.delete([])
        assert blobs.head("a") is None
        assert blobs.put_if_absent("a", b"2")

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_nothing_is_put_elsewhere(self, blobs: BlobStore, key: str) -> None:
        for call in (
            lambda: blobs.put(key, b""),
            lambda: blobs.put_if_absent(key, b""),
            lambda: blobs.put_parts(key, [b""]),
            lambda: blobs.delete([key]),
        ):
            with pytest.raises(InvalidKeyError):
                call()
        assert not [*blobs.list("")]

    def test_a_signed_url_is_used_by_anybody(self, blobs: BlobStore) -> None:
        blobs.put(self.signed_key, b"content")
        try:
            address = blobs.sign(self.signed_key, "GET", 600)
        except NotSupportedError:
            return  # it says so: that is all that is promised
        assert httpx.get(address).content == b"content"
        assert httpx.put(address, content=b"other", headers=self.put_headers).status_code == 403
        httpx.put(blobs.sign("new", "PUT", 600), content=b"by the URL", headers=self.put_headers).raise_for_status()
        assert blobs.get("new", 100) == b"by the URL"
