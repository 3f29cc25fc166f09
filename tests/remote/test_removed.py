"""Records of removals: few for many contents, and what is given back of one does not bring back the rest, at no moment."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kacas
from bench.trees import make_tree
from kacas.model.uri import parse_any_uri
from kacas_remote import removed
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.layout import REMOVED, recipe_key
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.removed import give_back, read_removed, remove_entries
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.survey import stop_at_faults
from kacas_remote.upkeep.verify import verify
from tests.remote.counting import CountingBlobs, calls
from tests.remote.model_bucket import places_in, sha1_of

contents = st.dictionaries(
    st.binary(min_size=20, max_size=20), st.sets(st.binary(min_size=16, max_size=16), max_size=5)
)


class Watched(MemoryBlobs):
    """After each change, what is removed in the eyes of somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[bytes]] = []

    def _look(self) -> None:
        self.seen.append(removed_ids(self))

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        created = super().put_if_absent(key, data)
        self._look()
        return created

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            super().delete([key])
            self._look()


def removed_ids(blobs: MemoryBlobs) -> set[bytes]:
    return set(chain.from_iterable(read_removed(blobs, stop_at_faults).values()))


@given(entry_ids=contents, together=st.integers(1, 8), data=st.data())
def test_what_is_given_back_counts_and_nothing_else_does_at_any_moment(
    entry_ids: dict[bytes, set[bytes]], together: int, data: st.DataObject
) -> None:
    blobs = Watched()
    every = set(chain.from_iterable(entry_ids.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(removed, "_TOGETHER", together)
        records = remove_entries(blobs, entry_ids)
    assert records == read_removed(blobs, stop_at_faults)
    assert removed_ids(blobs) == every
    assert all(len(ids) <= max(together, 5) for ids in records.values())
    back = data.draw(st.sets(st.sampled_from(sorted(every)))) if every else set()
    blobs.seen.clear()
    give_back(blobs, records, back)
    assert removed_ids(blobs) == every - back
    assert all(seen >= every - back for seen in blobs.seen)
    assert len(read_removed(blobs, stop_at_faults)) <= len(records)


def test_a_directory_of_many_files_is_removed_and_pushed_again_with_few_requests(
    store: kacas.Store, tmp_path: Path
) -> None:
    files = 1500
    blobs = CountingBlobs(MemoryBlobs())
    lab = new_remote("lab", blobs)
    make_tree(tmp_path / "tree", files=files, folders=3, sizes=(100, 1000))
    uri = store.store_dir(tmp_path / "tree")
    push(store, lab, [uri])
    blobs.clear()
    found = remove(lab, [uri])
    assert found is not None
    assert found.members >= files
    asked = blobs.take()
    assert calls(asked, "put", REMOVED) == 1
    assert calls(asked) <= files // 20
    push(store, lab, [uri])
    assert calls(blobs.take()) <= files // 50
    assert verify(lab, deep=True).problems == []


@pytest.mark.parametrize("repack", [None, 0.01])
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_member_is_given_back_and_the_others_stay_removed(
    store: kacas.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool, repack: float | None
) -> None:
    """is_killed: who removes is, and a collector gives it back; in the pack where it is, if that is not written anew."""
    lab = new_remote("lab", MemoryBlobs())
    parts = {name: np.random.default_rng(seed).bytes(500) for seed, name in enumerate(("shared", "a", "b"))}

    def named(lab: Remote) -> set[str]:
        _, entries = places_in(lab.blobs, lab.remote_id)
        return {name for name, content in parts.items() if sha1_of(content) in entries}

    for directory, names in (("one", ("shared", "a", "b")), ("two", ("shared",))):
        (tmp_path / directory).mkdir()
        for name in names:
            (tmp_path / directory / name).write_bytes(parts[name])
    one, two = (store.store_dir(tmp_path / name) for name in ("one", "two"))
    push(store, lab, [one])

    def killed(blobs: MemoryBlobs, entry_ids: dict[bytes, list[bytes]]) -> None:
        remove_entries(blobs, entry_ids)
        raise KeyboardInterrupt

    def meanwhile(_: object) -> bool:
        """Who pushes finds the member named, and names it no more."""
        return push(store, lab, [two]).contents_there > 0

    if is_killed:
        monkeypatch.setattr("kacas_remote.upkeep.remove.remove_entries", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(lab, [one], confirm=meanwhile)
        lab.blobs.delete([recipe_key(parse_any_uri(one).sha1)])  # else all of it is held
    else:
        assert remove(lab, [one], confirm=meanwhile) is not None
        assert named(lab) == {"shared"}
    collect(lab, CollectSettings(grace_s=0, settle_s=0, repack=repack))
    assert verify(lab, deep=True).problems == []
    assert named(lab) == {"shared"}


def test_a_record_of_one_content_as_it_was_written_before_is_given_back_whole(store: kacas.Store) -> None:
    blobs = MemoryBlobs()
    old = f"{REMOVED}{'ab' * 20}.{'0' * 32}"
    blobs.put_if_absent(old, b"1" * 16 + b"2" * 16)
    records = read_removed(blobs, stop_at_faults)
    give_back(blobs, records, [b"1" * 16, b"2" * 16, b"3" * 16])
    assert not list(blobs.list(REMOVED))
