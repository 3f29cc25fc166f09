"""A bucket whose marker was deleted while its packs stay: nobody makes a new one beside them, and it can be put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kacas
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import DamagedRemoteError, PushError
from kacas_remote.layout import MARKER, PACKS
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.tables import Tables
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.usage import usage
from kacas_remote.upkeep.verify import verify
from tests.remote.group_keys import FixedKeys
from tests.remote.private import private_remote
from tests.remote.test_push_and_emptied import Emptied, contents, is_there_for_others

GONE = "`kacas remote mark lab` puts it back"


class Meanwhile(MemoryBlobs):
    """Before packs are listed, once, something happens."""

    happens: Callable[[], None] | None = None

    def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
        if self.happens is not None and prefix == PACKS:
            happens, self.happens = self.happens, None
            happens()
        return super().list(prefix, after=after)


def keys(blobs: MemoryBlobs) -> set[str]:
    return {info.key for info in blobs.list("")}


@pytest.fixture(params=["plain", "private"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[MemoryBlobs], Remote]:
    """The remote on these blobs, as another process has it."""
    if request.param == "plain":
        return lambda blobs: Remote("lab", blobs)
    return lambda blobs: private_remote(blobs, tmp_path.name, keys=FixedKeys(tmp_path.name))


@pytest.mark.parametrize("is_known", [False, True])
def test_a_push_makes_no_new_marker_beside_packs_and_goes_on_when_it_is_put_back(
    store: kacas.Store, opened: Callable[[MemoryBlobs], Remote], is_known: bool
) -> None:
    blobs = MemoryBlobs()
    remote = opened(blobs)
    first = contents(store)
    push(store, remote, first)
    remote_id = remote.remote_id
    packs = len(list(remote.blobs.list(PACKS)))
    remote.blobs.delete([MARKER])
    before = keys(blobs)
    remote = remote if is_known else opened(blobs)
    uri = store.store_bytes(b"new" * 1000)
    for uris in ([uri], [*first, uri]):
        with pytest.raises(PushError, match="kacas remote mark") as caught:
            push(store, remote, uris)
        assert isinstance(caught.value.__cause__, DamagedRemoteError)
        assert keys(blobs) == before
    assert opened(blobs).mark_again() == remote_id
    assert push(store, remote, [*first, uri]).contents_there == len(first)
    assert remote.remote_id == remote_id
    assert len(list(remote.blobs.list(PACKS))) == packs + 1
    assert verify(opened(blobs), deep=True).clean


def test_a_directory_whose_members_nobody_believes_is_not_called_there(store: kacas.Store, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number in range(80):
        (tmp_path / "files" / f"{number}.txt").write_text(f"file {number}")
    uri = store.store_dir(tmp_path / "files")
    blobs = MemoryBlobs()
    push(store, Remote("lab", blobs), [uri])
    blobs.delete([MARKER])
    for dry_run in (True, False):
        with pytest.raises((PushError, DamagedRemoteError), match=GONE):
            push(store, Remote("lab", blobs), [uri], dry_run=dry_run)


def test_who_looks_after_the_bucket_is_told_and_verify_names_nothing_but_the_marker(store: kacas.Store) -> None:
    blobs = MemoryBlobs()
    uris = contents(store)
    push(store, Remote("lab", blobs), uris)
    blobs.delete([MARKER])
    before = keys(blobs)
    (problem,) = verify(Remote("lab", blobs), deep=True).problems
    assert (problem.kind, problem.key) == ("missing", MARKER)
    assert "kacas remote mark lab" in problem.message
    for work in (
        lambda: usage(Remote("lab", blobs)),
        lambda: remove(Remote("lab", blobs), uris[:1]),
        lambda: collect(Remote("lab", blobs), CollectSettings(grace_s=0, settle_s=0)),
    ):
        with pytest.raises(DamagedRemoteError, match=GONE):
            work()
    assert keys(blobs) == before


def test_a_marker_that_goes_during_a_push_ends_it_and_nothing_is_lost(store: kacas.Store, tmp_path: Path) -> None:
    blobs = Emptied()
    remote = Remote("lab", blobs)
    first = contents(store)
    push(store, remote, first)
    before = keys(blobs)
    blobs.prefix, blobs.happens = PACKS, lambda: blobs.delete([MARKER])
    uris = contents(store, 100)
    with pytest.raises(PushError, match=GONE):
        push(store, remote, uris)
    assert keys(blobs) == before - {MARKER}
    Remote("lab", blobs).mark_again()
    push(store, remote, uris)
    assert is_there_for_others(blobs, [*first, *uris], tmp_path / "other")


def test_a_first_push_is_not_kept_out_by_another_one_that_was_quicker(store: kacas.Store, tmp_path: Path) -> None:
    blobs = Meanwhile()
    first, second = contents(store), contents(store, 100)
    blobs.happens = lambda: push(store, Remote("quicker", blobs), first) and None
    push(store, Remote("lab", blobs), second)
    assert is_there_for_others(blobs, [*first, *second], tmp_path / "other")


def test_of_packs_of_several_remotes_the_user_chooses_whose_count(store: kacas.Store) -> None:
    blobs = MemoryBlobs()
    push(store, new_remote("lab", blobs), contents(store))
    old = Remote("lab", blobs).remote_id
    blobs.delete([MARKER])
    others = MemoryBlobs()
    push(store, new_remote("others", others), contents(store, 100))
    for info in others.list(PACKS):
        blobs.put(info.key, others.get(info.key, 1 << 30))
    with pytest.raises(DamagedRemoteError, match="of several remotes") as caught:
        Remote("lab", blobs).mark_again()
    assert old.hex() in str(caught.value)
    with pytest.raises(DamagedRemoteError, match="of several remotes"):
        Remote("lab", blobs).mark_again(b"x" * 16)
    assert Remote("lab", blobs).mark_again(old) == old
    (problem,) = verify(Remote("lab", blobs)).problems
    assert "belongs to" in problem.message


@pytest.mark.parametrize("they_are", ["damaged", "under another name"])
def test_packs_that_name_no_id_put_back_none(store: kacas.Store, they_are: str) -> None:
    blobs = MemoryBlobs()
    push(store, new_remote("lab", blobs), contents(store))
    blobs.delete([MARKER])
    for info in list(blobs.list(PACKS)):
        data = blobs.get(info.key, 1 << 30)
        blobs.delete([info.key])
        if they_are == "damaged":
            blobs.put(info.key, bytes(info.size))
        else:
            blobs.put(f"{PACKS}{'7' * 32}.pack", data)
    with pytest.raises(DamagedRemoteError, match="no pack names an id"):
        Remote("lab", blobs).mark_again()
    assert not Remote("lab", blobs).marked


def test_who_reads_is_told_that_the_marker_is_missing_and_not_that_packs_are_foreign(
    store: kacas.Store, opened: Callable[[MemoryBlobs], Remote], tmp_path: Path
) -> None:
    blobs = MemoryBlobs()
    remote = opened(blobs)
    push(store, remote, contents(store))
    remote.blobs.delete([MARKER])
    refused = Tables(opened(blobs), tmp_path / "reader").refresh().refused
    assert refused
    for why in refused.values():
        assert MARKER in why
        assert "kacas remote mark lab" in why
        assert "another remote" not in why
    opened(blobs).mark_again()
    assert not Tables(opened(blobs), tmp_path / "another").refresh().refused
