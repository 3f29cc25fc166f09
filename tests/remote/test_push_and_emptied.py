"""A bucket that is emptied, or made anew, while a Remote lives, or while it pushes: nothing is left without a marker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import kacas
from kacas.settings import Settings
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import InvalidRemoteError, PushError
from kacas_remote.layout import LEASES, MARKER, PACKS, RECIPES
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.verify import verify
from kacas_remote.upstream import RemoteUpstream
from tests.remote.counting import CountingBlobs
from tests.remote.group_keys import FixedKeys
from tests.remote.private import private_remote


class Emptied(MemoryBlobs):
    """Before the first thing is put below `prefix`, once, something happens to the bucket."""

    prefix = ""
    happens: Callable[[], None] | None = None

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        if self.happens is not None and key.startswith(self.prefix):
            happens, self.happens = self.happens, None
            happens()
        return super().put_if_absent(key, data)


def empty(blobs: MemoryBlobs | CountingBlobs) -> None:
    blobs.delete([info.key for info in blobs.list("")])


def is_there_for_others(blobs: MemoryBlobs, uris: list[str], place: Path) -> bool:
    """Whether another host finds it all, also what only tables name, and nothing is amiss."""
    remote = Remote("lab", blobs)
    settings = Settings.from_environment({"KACAS_CACHE_DIR": str(place / "cache"), "HOME": str(place)})
    with kacas.Store.open(place / "store", settings=settings, behind=[RemoteUpstream(remote, settings)]) as other:
        return all(other.exists(uri) for uri in uris) and verify(remote, deep=True).problems == []


def contents(store: kacas.Store, first: int = 0) -> list[str]:
    return [store.store_bytes(bytes([number]) * 5000) for number in range(first, first + 70)]


@pytest.mark.parametrize("made_anew", [False, True])
def test_who_pushes_again_to_a_bucket_that_was_emptied_marks_it(
    store: kacas.Store, tmp_path: Path, made_anew: bool
) -> None:
    blobs = MemoryBlobs()
    remote = Remote("lab", blobs)
    push(store, remote, contents(store))
    before = remote.remote_id
    empty(blobs)
    if made_anew:
        new_remote("lab", blobs)
    uris = contents(store)
    push(store, remote, uris)
    assert blobs.head(MARKER) is not None
    assert remote.remote_id != before
    assert is_there_for_others(blobs, uris, tmp_path / "other")


@pytest.mark.parametrize("made_anew", [False, True])
@pytest.mark.parametrize("prefix", [LEASES, PACKS, RECIPES])
def test_a_bucket_that_is_emptied_during_a_push_has_all_of_it_and_a_marker_when_the_push_ends(
    store: kacas.Store, tmp_path: Path, prefix: str, made_anew: bool
) -> None:
    blobs = Emptied()
    remote = Remote("lab", blobs)
    push(store, remote, [store.store_bytes(b"before")])

    def happens() -> None:
        empty(blobs)
        if made_anew:
            new_remote("lab", blobs)

    blobs.prefix, blobs.happens = prefix, happens
    uris = contents(store) if prefix != RECIPES else [store.store_bytes(bytes(3_000_000))]
    push(store, remote, uris)
    assert blobs.happens is None
    assert is_there_for_others(blobs, uris, tmp_path / "other")


def test_nothing_plain_goes_to_a_bucket_that_was_made_private_meanwhile(store: kacas.Store, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    remote = Remote("lab", blobs)
    push(store, remote, contents(store))
    empty(blobs)
    push(store, private_remote(blobs, tmp_path.name), [store.store_bytes(b"sealed")])
    before = {info.key for info in blobs.list("")}
    with pytest.raises(PushError, match="is private to the access group") as caught:
        push(store, remote, [store.store_bytes(b"plain")])
    assert isinstance(caught.value.__cause__, InvalidRemoteError)
    assert {info.key for info in blobs.list("")} == before


def test_a_private_bucket_that_was_emptied_is_claimed_again_and_one_that_is_plain_now_gets_nothing(
    store: kacas.Store, tmp_path: Path
) -> None:
    blobs = MemoryBlobs()
    remote = private_remote(blobs, tmp_path.name, keys=FixedKeys(tmp_path.name))
    push(store, remote, contents(store))
    assert not list(remote.blobs.list(LEASES))  # who finds nothing sees whose it is
    empty(blobs)
    push(store, remote, contents(store))
    with pytest.raises(InvalidRemoteError, match="is private to the access group"):
        Remote("plain", blobs).marked  # noqa: B018
    assert not list(remote.blobs.list(LEASES))  # who finds nothing sees whose it is
    empty(blobs)
    new_remote("plain", blobs)
    with pytest.raises(PushError, match="is a plain remote"):
        push(store, remote, contents(store, 100))
    assert [info.key for info in blobs.list("")] == [MARKER]
