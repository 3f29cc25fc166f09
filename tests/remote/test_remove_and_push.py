"""What somebody removes is not what somebody else was told is there: removals before, after and during pushes that share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.digest import chunk_digest
from kacas.model.uri import parse_any_uri
from kacas_remote.blobs.blob_store import BlobInfo
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.layout import RECIPES, REMOVED, recipe_key
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.survey import Survey
from kacas_remote.upkeep.verify import verify
from tests.remote.model_bucket import load, sha1_of

MIB = 1 << 20
SMALL, LARGE = 3000, 17 * MIB


class Interrupted(MemoryBlobs):
    """Somebody else acts, once, just before something is put, or deleted, below a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.before_put: tuple[str, Callable[[], object]] | None = None
        self.before_delete: tuple[str, Callable[[], object]] | None = None

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        if self.before_put is not None and key.startswith(self.before_put[0]):
            act, self.before_put = self.before_put[1], None
            act()
        return super().put_if_absent(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        if self.before_delete is not None and any(key.startswith(self.before_delete[0]) for key in keys):
            act, self.before_delete = self.before_delete[1], None
            act()
        super().delete(keys)


def noise(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def sha1(uri: str) -> bytes:
    return parse_any_uri(uri).sha1


@pytest.fixture
def blobs() -> Interrupted:
    return Interrupted()


@pytest.fixture
def lab(blobs: Interrupted) -> Remote:
    return new_remote("lab", blobs)


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def shared(request: pytest.FixtureRequest) -> bytes:
    return noise(request.param, 7)


@pytest.fixture
def directories(store: kacas.Store, tmp_path: Path, shared: bytes) -> tuple[str, str]:
    """Two that share a member."""
    uris = []
    for name in ("one", "two"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "own").write_text(name)
        (tmp_path / name / "in" / "shared").write_bytes(shared)
        uris.append(store.store_dir(tmp_path / name))
    return uris[0], uris[1]


def collected(lab: Remote) -> None:
    collect(lab, CollectSettings(grace_s=0, settle_s=0, repack=0.01))
    assert verify(lab, deep=True).problems == []


def is_whole(lab: Remote, store: kacas.Store, uri: str) -> None:
    """Everything of a directory can be loaded from the bucket alone, also after a collection."""
    for _ in range(2):
        for name in ("own", "in/shared"):
            content = store.load_bytes(f"sha1dir://{sha1(uri).hex()}/{name}")
            member = sha1_of(content)
            assert load(lab.blobs, lab.remote_id, member) == content, name
        collected(lab)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("together", [1, 70])
@pytest.mark.parametrize("alone_first", [False, True])
def test_a_member_that_was_pushed_by_itself_too_stays_when_its_directory_is_removed(
    store: kacas.Store,
    lab: Remote,
    directories: tuple[str, str],
    shared: bytes,
    together: int,
    alone_first: bool,
    plain: bool,
) -> None:
    alone = [store.store_bytes(shared), *(store.store_bytes(noise(100, seed)) for seed in range(together - 1))]
    pushes = [alone, [directories[0]]] if alone_first else [[directories[0]], alone]
    for uris in pushes:
        push(store, lab, uris, plain=plain)
    found = remove(lab, [directories[0]])
    assert found is not None
    assert (sha1(alone[0]).hex(), "") in found.kept
    collected(lab)
    assert load(lab.blobs, lab.remote_id, sha1(alone[0])) == shared


def test_a_member_that_the_same_push_was_asked_for_by_its_root_stays_when_its_directory_is_removed(
    store: kacas.Store, lab: Remote, tmp_path: Path
) -> None:
    content = noise(SMALL, 8)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "member").write_bytes(content)
    directory = store.store_dir(tmp_path / "one")
    by_root = f"sha1://{sha1_of(content).hex()}?root={chunk_digest(content).hex()}"
    others = [store.store_bytes(noise(100, seed)) for seed in range(70)]  # so many that small contents have no recipes
    push(store, lab, [directory, by_root, *others])
    found = remove(lab, [directory])
    assert found is not None
    assert (sha1_of(content).hex(), "") in found.kept
    collected(lab)
    assert load(lab.blobs, lab.remote_id, sha1_of(content)) == content


def test_a_large_member_that_nobody_asked_for_goes_with_its_directory(
    store: kacas.Store, lab: Remote, directories: tuple[str, str]
) -> None:
    push(store, lab, [directories[0]])
    remove(lab, [directories[0]])
    collected(lab)
    assert not [info for info in lab.blobs.list("packs/") if info.size > MIB]
    assert not list(lab.blobs.list(RECIPES))


def test_a_directory_is_removed_just_before_another_one_that_shares_is_published(
    store: kacas.Store, lab: Remote, blobs: Interrupted, directories: tuple[str, str]
) -> None:
    push(store, lab, [directories[0]])
    blobs.before_put = recipe_key(sha1(directories[1])), lambda: remove(lab, [directories[0]])
    push(store, lab, [directories[1]])
    assert blobs.before_put is None
    is_whole(lab, store, directories[1])


def test_a_directory_is_pushed_while_another_one_that_shares_is_being_removed(
    store: kacas.Store, lab: Remote, blobs: Interrupted, directories: tuple[str, str]
) -> None:
    push(store, lab, [directories[0]])
    blobs.before_delete = RECIPES, lambda: push(store, lab, [directories[1]])
    remove(lab, [directories[0]])
    assert blobs.before_delete is None
    is_whole(lab, store, directories[1])


def test_a_member_is_removed_by_itself_while_its_directory_is_pushed(
    store: kacas.Store, lab: Remote, directories: tuple[str, str], shared: bytes
) -> None:
    alone = [store.store_bytes(shared), *(store.store_bytes(noise(100, seed)) for seed in range(69))]
    push(store, lab, alone)
    found = remove(lab, alone[:1], confirm=lambda _: bool(push(store, lab, [directories[0]])))
    assert found is not None
    assert found.kept == [(sha1(alone[0]).hex(), found.kept[0][1])]
    is_whole(lab, store, directories[0])


def test_a_member_is_pushed_by_itself_while_its_directory_is_removed(
    store: kacas.Store, lab: Remote, directories: tuple[str, str], shared: bytes
) -> None:
    alone = store.store_bytes(shared)
    push(store, lab, [directories[0]])
    remove(lab, [directories[0]], confirm=lambda _: bool(push(store, lab, [alone])))
    collected(lab)
    assert load(lab.blobs, lab.remote_id, sha1(alone)) == shared


def test_a_collector_gives_back_what_somebody_removed_who_was_killed_before_they_saw_that_it_is_held(
    store: kacas.Store, lab: Remote, directories: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(store, lab, [directories[0]])
    look, killed = Survey.read, []

    def read_once(survey: Survey) -> None:
        if killed:
            raise KeyboardInterrupt
        killed.append(1)
        look(survey)

    with monkeypatch.context() as patch:
        patch.setattr(Survey, "read", read_once)
        with pytest.raises(KeyboardInterrupt):
            remove(lab, [directories[0]], confirm=lambda _: bool(push(store, lab, [directories[1]])))
    assert list(lab.blobs.list(REMOVED))
    collected(lab)
    is_whole(lab, store, directories[1])


def test_a_recipe_that_is_replaced_while_it_is_read_is_not_damaged(
    store: kacas.Store, lab: Remote, blobs: Interrupted, shared: bytes
) -> None:
    uri = store.store_bytes(shared)
    push(store, lab, [uri])
    (info,) = lab.blobs.list(RECIPES)

    class Listed(Interrupted):
        def list(self, prefix: str, *, after: str = "") -> Iterator[BlobInfo]:
            return (one._replace(size=one.size - 16) if one.key == info.key else one for one in super().list(prefix))

    stale = Listed()
    stale._blobs = blobs._blobs
    assert verify(Remote("lab", stale)).problems == []
