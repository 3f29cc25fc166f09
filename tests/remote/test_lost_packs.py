"""A bucket that lost packs: a rule expired them, or somebody deleted one that was damaged, as `kacas remote verify` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import DamagedRemoteError, RemoteUnavailableError
from kacas_remote.layout import PACKS
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.verify import verify
from tests.remote.faulty import FaultyBlobs
from tests.remote.proved import proved

MIB = 1 << 20


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "bucket").mkdir()
    return new_remote("lab", DirectoryBlobs(tmp_path / "bucket"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "session"
    root.mkdir()
    (root / "small.txt").write_text("small")
    (root / "large.bin").write_bytes(np.random.default_rng(1).bytes(17 * MIB))
    return root


def test_what_was_in_them_is_removed_and_pushed_again(store: kacas.Store, remote: Remote, directory: Path) -> None:
    uris = [store.store_dir(directory), store.store_bytes(np.random.default_rng(2).bytes(3 * MIB))]
    push(store, remote, uris)
    remote.blobs.delete([info.key for info in remote.blobs.list(PACKS)])
    assert not verify(remote).clean
    remove(remote, uris)  # though nobody can read any more what is in the directory
    push(store, remote, uris)
    assert verify(remote, deep=True).problems == []
    large = store.store_file(directory / "large.bin")  # a member, with a recipe of its own
    assert proved(remote, large) == store.load_bytes(large)


def test_what_a_directory_that_stays_and_cannot_be_read_may_hold_is_not_removed(
    store: kacas.Store, remote: Remote, directory: Path
) -> None:
    goes = store.store_dir(directory)
    push(store, remote, [goes])
    before = {info.key for info in remote.blobs.list(PACKS)}
    (directory / "more.txt").write_text("more")
    push(
        store, remote, [store.store_dir(directory)]
    )  # its document, and all that is new of it, are in a pack of its own
    remote.blobs.delete({info.key for info in remote.blobs.list(PACKS)} - before)
    there = {info.key for info in remote.blobs.list("")}
    with pytest.raises(DamagedRemoteError, match="sha1dir://"):
        remove(remote, [goes])
    assert {info.key for info in remote.blobs.list("")} == there


def test_a_push_does_not_count_on_names_of_what_was_in_them(store: kacas.Store, remote: Remote) -> None:
    uris = [store.store_text(f"note {number}") for number in range(70)]
    push(store, remote, uris)
    first = [info.key for info in remote.blobs.list(PACKS)]
    remove(remote, uris)
    push(store, remote, uris)  # names them in a pack of its own
    remote.blobs.delete(first)
    push(store, remote, uris)
    assert verify(remote, deep=True).problems == []
    assert [proved(remote, uri) for uri in uris] == [store.load_bytes(uri) for uri in uris]


def test_a_directory_that_cannot_be_read_now_is_not_taken_for_lost(store: kacas.Store, directory: Path) -> None:
    blobs = FaultyBlobs(MemoryBlobs("bucket"))
    remote = new_remote("lab", blobs)
    uri = store.store_dir(directory)
    push(store, remote, [uri])
    tables = 2 * len(list(blobs.list(PACKS)))  # each is read in two steps, before the directory
    fault = blobs.fault("drop", call="get", prefix=PACKS, times=None, spare=tables)
    with pytest.raises(RemoteUnavailableError):
        remove(remote, [uri], dry_run=True)  # which reads nothing more
    assert fault.met
