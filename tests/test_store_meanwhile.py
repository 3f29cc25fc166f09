"""What others do between a put's first look at the store and its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

import kacas
from kacas.disk.lookup import Lookup
from kacas.model.digest import chunk_digest
from kacas.model.entry import Entry
from kacas.model.location import Location
from kacas.settings import Settings


def open_as(path: Path, cache: Path) -> kacas.Store:
    """A store with an index of its own, as on another host."""
    return kacas.Store.open(path, settings=replace(Settings.from_environment(), cache_directory=cache))


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_a_forget_that_runs_while_a_batch_stores_the_same_loses(tmp_path: Path, in_a_batch: bool) -> None:
    mine, other = (open_as(tmp_path / "store", tmp_path / name) for name in ("a", "b"))
    uri = mine.store_text("wanted", label="x.txt")
    if in_a_batch:
        with mine.batch():
            assert mine.store_text("wanted", label="x.txt") == uri
            assert other.forget(uri).dropped == 1
    else:
        assert other.forget(uri).dropped == 1
        assert mine.store_text("wanted", label="x.txt") == uri
    assert len(other.describe(uri).claims) == 1


def test_a_collision_with_what_another_host_stored_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def update(self, data: object) -> None: ...

        def digest(self) -> bytes:
            return b"\x11" * 20

    monkeypatch.setattr("kacas.ingest.new_sha1", Constant)
    one, other = (open_as(tmp_path / "store", tmp_path / name) for name in ("a", "b"))
    uri = one.store_bytes(b"content of one")
    time.sleep(0.5)  # a put looks at other hosts' packs from time to time
    with pytest.raises(kacas.CollisionError):
        other.store_bytes(b"content of the other")
    for store in (one, other, open_as(tmp_path / "store", tmp_path / "c")):
        assert store.load_bytes(uri) == b"content of one"


def test_many_puts_do_not_list_the_packs_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_as(tmp_path / "store", tmp_path / "cache")
    listings = []

    def slow_listing(path: object) -> list[str]:
        if path == store.repository.volume.packs:
            listings.append(path)
            time.sleep(0.01)
        return real(path)  # type: ignore[call-overload, no-any-return]

    real = os.listdir
    monkeypatch.setattr("kacas.disk.volume.os.listdir", slow_listing)
    begun = time.monotonic()
    for number in range(100):
        store.store_text(f"one of many: {number}")
    # Ten milliseconds of looking, a hundred of work.
    assert 0 < len(listings) <= 2 + (time.monotonic() - begun) / 0.1


def test_a_label_cannot_pose_as_an_entry(store: kacas.Store) -> None:
    evil = b"evil bytes"
    victim = hashlib.sha1(b"what the victim has not stored").digest()
    fake = Entry(b"A" * 16, victim, chunk_digest(evil), len(evil), time.time_ns(), 5, b"ada", b"x").encode()
    store.store_bytes(evil)
    store.store_text("harmless", label=os.fsdecode(fake))
    uri = "sha1://" + victim.hex()
    assert not store.exists(uri)
    with pytest.raises(kacas.NotFoundError):
        store.load_bytes(uri)


def test_a_batch_of_one_task_does_not_swallow_the_puts_of_another(store: kacas.Store) -> None:
    async def failing() -> None:
        with store.batch():
            store.store_text("lost with its batch")
            await asyncio.sleep(0.05)
            raise ValueError("failed")

    async def other() -> str:
        await asyncio.sleep(0.01)
        return store.store_text("kept")

    async def both() -> list[object]:
        return await asyncio.gather(failing(), other(), return_exceptions=True)

    error, uri = asyncio.run(both())
    assert isinstance(error, ValueError)
    assert isinstance(uri, str)
    assert store.load_text(uri) == "kept"


def test_a_pack_that_was_replaced_is_not_relied_on(store: kacas.Store) -> None:
    uri = store.store_bytes(b"some content that is needed", label="a")
    assert store.load_bytes(uri)
    (pack,) = (store.path / "packs").glob("*.pack")
    pack.chmod(0o644)
    os.truncate(pack, 100)
    with pytest.raises(kacas.WriteError, match="store again"):
        store.store_bytes(b"some content that is needed", label="a")
    again = store.store_bytes(b"some content that is needed", label="a")
    with kacas.Store.open(store.path) as fresh:
        assert fresh.load_bytes(again) == b"some content that is needed"


def test_a_repeated_node_is_walked_once(store: kacas.Store) -> None:
    """A file of zeros: one chunk, one node, repeated."""
    uri = store.store_bytes(bytes(600 * 256 * 1024))
    description = store.describe(uri)
    assert description.chunks == 1
    assert description.size == 600 * 256 * 1024
    assert not any(store.load_bytes(uri, 300 << 18, (300 << 18) + 10))


def test_small_puts_of_a_batch_are_looked_up_and_written_in_groups(
    store: kacas.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    real = Lookup.locate

    def counting(self: Lookup, digests: Iterable[bytes]) -> dict[bytes, list[Location]]:
        wanted = list(digests)
        looked_up.append(len(wanted))
        return real(self, wanted)

    monkeypatch.setattr(Lookup, "locate", counting)
    with store.batch():
        uris = [store.store_json({"number": number % 1500}) for number in range(3000)]
    assert len([count for count in looked_up if count]) <= 3 + 3000 // 512
    assert [store.load_json(uri) for uri in uris[::100]] == [
        {"number": number % 1500} for number in range(0, 3000, 100)
    ]
    assert len(list(store.history())) == 1500


def store_whatever_fails(store: kacas.Store, size: int) -> None:
    """Whoever goes on after an error is told again at the end."""
    for number in range(1000):
        with contextlib.suppress(kacas.NoSpaceError):
            store.store_text(f"{number:0{size}}")


@pytest.mark.parametrize("size, call", [(100, "append_framed"), (20_000, "append_framed"), (20_000, "write_gathered")])
def test_a_group_that_cannot_be_written_fails_the_whole_batch(
    store: kacas.Store, size: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **_options: object) -> None:
        raise kacas.NoSpaceError("no space left", path="packs")

    kept = store.store_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(f"kacas.disk.pack_writer.PackWriter.{call}", no_space)
        with pytest.raises(kacas.NoSpaceError), store.batch():
            store_whatever_fails(store, size)
    assert [item.uri for item in store.history()] == [kept]
    assert store.repository.volume.list_orphans() == []
