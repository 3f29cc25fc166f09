"""Private remotes: members push and pull as ever; in the bucket is nothing that tells anybody else what it is."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.uri import parse_any_uri
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.http import HttpBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.errors import GroupAccessError, InvalidRemoteError, NotSupportedError
from kacas_remote.layout import MARKER, PACKS, RECIPES
from kacas_remote.push import push
from kacas_remote.remote import Remote, new_remote
from kacas_remote.upkeep.collect import CollectSettings, collect
from kacas_remote.upkeep.index import index
from kacas_remote.upkeep.remove import remove
from kacas_remote.upkeep.usage import usage
from kacas_remote.upkeep.verify import verify
from tests.remote.counting import CountingBlobs, calls, moved
from tests.remote.group_keys import FixedKeys
from tests.remote.private import bucket as bucket
from tests.remote.private import found_in, host, private_remote
from tests.remote.private import group as group
from tests.remote.private import memory as memory
from tests.remote.servers import s3_bucket as s3_bucket
from tests.remote.servers import s3_server as s3_server
from tests.remote.sources import MIB, directory, recording
from tests.remote.web_server import web_server


def test_what_one_member_pushes_another_one_loads_and_the_bucket_tells_nothing(
    store: kacas.Store, bucket: CountingBlobs, group: str, tmp_path: Path
) -> None:
    values = recording()
    files = directory(tmp_path / "secret-session", 60)
    text = "the animal is called Konstantin, and nobody else may know that"
    uris = [
        store.store_npy(values, label="konstantin-voltages.npy", codec="raw"),
        store.store_dir(tmp_path / "secret-session", label="secret-session"),
        store.store_text(text, label="diary-of-konstantin.txt"),
    ]
    push(store, private_remote(bucket, group), uris)
    with host(tmp_path / "other", private_remote(bucket, group)) as other:
        assert np.array_equal(other.load_npy(uris[0]), values)
        assert other.load_text(uris[2]) == text
        other.load_dir(uris[1], tmp_path / "loaded")
        assert {name: (tmp_path / "loaded" / name).read_bytes() for name in files} == files

    secrets: list[bytes] = [
        b"konstantin",
        b"Konstantin",
        b"secret-session",
        b"animal is called",
        b"large.dat",
        b"0.dat",
    ]
    secrets += [b"recipes/", b"packs/", b"kacas-remote", b"leases/", b"sha1/", group.encode()]
    raw = values.tobytes()
    secrets += [raw[at : at + 64] for at in range(0, len(raw), MIB)]
    secrets += [data[:64] for data in files.values()] + [
        files["large.dat"][at : at + 64] for at in range(0, 17 * MIB, MIB)
    ]
    for uri in [*uris, *(store.describe(f"{uris[1].partition('?')[0]}/{name}").uri for name in files)]:
        sha1 = parse_any_uri(uri).sha1
        secrets += [sha1, sha1.hex().encode(), sha1.hex()[:12].encode()]
    for known in store.repository.lookup.entries_of_many([parse_any_uri(uri).sha1 for uri in uris]).values():
        secrets += [part for entry, _ in known for part in (entry.root, entry.root.hex().encode())]
    opened = private_remote(bucket, group)
    for info in opened.blobs.list(""):  # all that is there, recipes' and packs' magic numbers too
        secrets += [info.key.encode(), opened.blobs.get(info.key, 1 << 30)[:8]]
    for epoch in FixedKeys(group).epochs():
        secrets += [epoch.secret, epoch.content, epoch.name, epoch.directory]
    assert len(secrets) > 200
    assert found_in(bucket, secrets) == []
    assert found_in(bucket, [bucket.get(next(bucket.list("")).key, 1 << 30)[:16]])  # what is there is found
    marker = json.loads(bucket.get(MARKER, 1000))
    assert marker == {"format": 2, "scheme": "kacas-group-1", "group": f"ag_{FixedKeys(group).group_id.hex()}"}


def test_what_another_member_has_pushed_is_not_sent_again(
    store: kacas.Store, bucket: CountingBlobs, group: str, tmp_path: Path
) -> None:
    values = recording(size=40 * MIB)
    push(store, private_remote(bucket, group), [store.store_npy(values, codec="raw")])
    with kacas.Store.open(tmp_path / "theirs") as theirs:
        bucket.clear()
        assert push(theirs, private_remote(bucket, group), [theirs.store_npy(values, codec="raw")]).sent_size == 0
        assert bucket.moved < 100_000
        assert bucket.count <= 8
        values[: len(values) // 100] += 1
        bucket.clear()
        summary = push(theirs, private_remote(bucket, group), [theirs.store_npy(values, codec="raw")])
        assert summary.chunk_size < 2 * MIB
        assert bucket.moved < 3 * MIB


def test_a_slice_moves_its_chunks_and_no_more(
    store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).integers(0, 1000, 50 << 20)  # 400 MiB
    uri = store.store_npy(values, codec="zstd")
    push(store, private_remote(memory, group), [uri])
    with host(tmp_path / "other", private_remote(memory, group)) as other:
        memory.clear()
        lazy = other.open_npy(uri)
        assert np.array_equal(lazy[10_000_000:10_008_192], values[10_000_000:10_008_192])
        assert memory.count <= 5
        assert memory.moved <= 1 << 20
        memory.clear()
        assert np.array_equal(lazy[10_050_000:10_050_100], values[10_050_000:10_050_100])
        assert memory.count <= 1
        assert memory.moved <= 1 << 19


def test_a_push_asks_as_often_as_to_a_plain_remote_and_few_times_more(store: kacas.Store, group: str) -> None:
    uri = store.store_npy(recording(size=64 * MIB), codec="raw")
    plain, sealed = CountingBlobs(MemoryBlobs()), CountingBlobs(MemoryBlobs())
    push(store, Remote("lab", plain), [uri])
    push(store, private_remote(sealed, group, wait_s=60), [uri])
    more = calls(sealed.asked) - calls(plain.asked)
    assert 0 < more <= 10, (
        "the marker that all may read, whether plain blobs are there, and packs without a marker, once in the life of a bucket"
    )
    assert moved(sealed.asked) < 1.001 * moved(plain.asked) + 10_000
    plain.clear()
    sealed.clear()
    push(store, Remote("lab", plain), [uri])
    push(store, private_remote(sealed, group, wait_s=60), [uri])
    assert calls(sealed.asked) == calls(plain.asked)


def test_upkeep_is_as_of_any_remote_and_tells_of_what_is_not_the_groups(
    store: kacas.Store, bucket: CountingBlobs, group: str, tmp_path: Path
) -> None:
    remote = private_remote(bucket, group)
    uris = [store.store_bytes(os.urandom(2 * MIB)), store.store_bytes(os.urandom(MIB))]
    push(store, remote, uris)
    report = verify(remote, deep=True)
    assert (report.clean, report.recipes, report.strays) == (True, 2, 0)
    for key in ("stray", "0" * 20 + "/stray"):
        bucket.put(key, b"123")
    assert verify(remote).strays == 2
    assert verify(remote).clean
    used = usage(remote)
    assert (used.classes["not of the group"].count, used.classes["not of the group"].size) == (2, 6)
    assert used.contents.size == 3 * MIB
    assert remove(remote, uris[:1]) is not None
    assert collect(remote, CollectSettings(grace_s=0, settle_s=0, repack=0.5)).condemned
    assert usage(remote).classes["packs"].size < 1.1 * MIB
    assert verify(remote, deep=True).clean
    assert {info.key for info in bucket.list("")} > {"stray", "0" * 20 + "/stray"}
    with host(tmp_path / "other", remote) as other:
        assert other.load_bytes(uris[1]) == store.load_bytes(uris[1])


def test_what_is_altered_in_the_bucket_is_named_and_not_used(
    store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
) -> None:
    remote = private_remote(memory, group)
    uri = store.store_bytes(os.urandom(MIB))
    push(store, remote, [uri])
    sealed = {info.size: info.key for info in memory.list("")}
    largest = sealed[max(sealed)]
    good = memory.get(largest, 1 << 30)
    for at in (0, 16, 70_000, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 4
        memory.put(largest, bad)
        with host(tmp_path / f"other-{at}", remote) as other, pytest.raises(kacas.DamagedError, match="packs/"):
            other.load_bytes(uri)
    assert not verify(remote, deep=True).clean
    memory.put(largest, good[:-1])
    assert not verify(remote).clean
    memory.put(largest, good)
    assert verify(remote, deep=True).clean


def test_a_web_server_gives_members_what_has_a_recipe(store: kacas.Store, group: str, tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    values = recording(size=20 * MIB)
    uri = store.store_npy(values, codec="raw")
    push(store, private_remote(DirectoryBlobs(tmp_path / "bucket"), group), [uri])
    with web_server(tmp_path / "bucket") as server:
        blobs = HttpBlobs(server.url)
        with host(tmp_path / "other", private_remote(blobs, group)) as other:
            assert np.array_equal(other.open_npy(uri)[1000:2000], values[1000:2000])
            assert np.array_equal(other.load_npy(uri), values)
        blobs.close()


class TestWhatDoesNotFit:
    def test_a_plain_remote_is_not_made_private(self, store: kacas.Store, memory: CountingBlobs, group: str) -> None:
        new_remote("lab", memory)
        before = [info.key for info in memory.list("")]
        with pytest.raises(kacas.PushError, match="plain remote"):
            push(store, private_remote(memory, group), [store.store_text("text")])
        with pytest.raises(InvalidRemoteError, match="without --private"):
            bool(private_remote(memory, group).marked)
        assert [info.key for info in memory.list("")] == before

    @pytest.mark.parametrize("key", [f"{PACKS}{'0' * 32}.pack", f"{RECIPES}ab/cd/x", "sha1/ab/cd/ef/x"])
    def test_nor_is_one_without_a_marker_that_has_plain_blobs(
        self, memory: CountingBlobs, group: str, key: str
    ) -> None:
        memory.put(key, b"plain")
        with pytest.raises(InvalidRemoteError, match="plain remote"):
            private_remote(memory, group).blobs.put("a", b"1")
        assert [info.key for info in memory.list("")] == [key]

    def test_another_group_does_not_get_in_the_way(self, store: kacas.Store, memory: CountingBlobs, group: str) -> None:
        push(store, private_remote(memory, group), [store.store_text("text")])
        other = private_remote(memory, f"not-{group}")
        with pytest.raises(GroupAccessError, match=f"not to not-{group}"):
            bool(other.marked)
        with pytest.raises(GroupAccessError):
            other.blobs.put("a", b"1")
        with pytest.raises(GroupAccessError):
            list(other.blobs.list(""))

    def test_who_was_not_told_that_it_is_private_is(
        self, store: kacas.Store, memory: CountingBlobs, group: str
    ) -> None:
        push(store, private_remote(memory, group), [store.store_text("text")])
        before = [info.key for info in memory.list("")]
        with pytest.raises(kacas.PushError, match="--private GROUP"):
            push(store, Remote("lab", memory), [store.store_text("other")])
        assert [info.key for info in memory.list("")] == before

    def test_nor_does_what_is_there_seem_not_to_be(
        self, store: kacas.Store, memory: CountingBlobs, group: str, tmp_path: Path
    ) -> None:
        uri = store.store_text("text")
        with host(tmp_path / "other", Remote("lab", memory)) as other:
            assert not other.exists(uri)
            push(store, private_remote(memory, group), [uri])
            for ask in (other.load_text, other.exists, other.find):
                with pytest.raises(InvalidRemoteError, match="--private GROUP"):
                    ask(uri)

    def test_it_takes_no_plain_objects(self, store: kacas.Store, memory: CountingBlobs, group: str) -> None:
        remote = private_remote(memory, group)
        with pytest.raises(NotSupportedError, match="without --plain"):
            push(store, remote, [store.store_text("text")], plain=True)
        with pytest.raises(NotSupportedError, match="plain objects"):
            index(remote)
        with pytest.raises(NotSupportedError, match="no key of the group"):
            remote.blobs.sign("a", "GET", 60)
        assert list(memory.list("")) == []


def test_what_comes_in_parts_goes_in_parts_that_services_take(memory: CountingBlobs, group: str) -> None:
    blobs = private_remote(memory, group).blobs
    blobs.put("first", b"")
    for sizes in ([8 * MIB] * 3, [9 * MIB + 1, 20 * MIB, 5], [8 * MIB, 8 * MIB, 65_536], [8 * MIB], [3], []):
        parts = [os.urandom(size) for size in sizes]
        memory.clear()
        blobs.put_parts("parts", iter(parts), size=sum(sizes))
        sent = [one.size for one in memory.asked if one.call == "put"]
        assert all(size >= 8 * MIB for size in sent[:-1])
        assert blobs.get("parts", 64 * MIB) == b"".join(parts)


def test_every_object_has_a_salt_of_its_own(memory: CountingBlobs, group: str) -> None:
    """However it is put, and though it is put again: with the number of the segment it is the nonce."""
    blobs = private_remote(memory, group).blobs
    salts = []
    for number in range(30):
        for put in (
            lambda number=number: blobs.put("a", bytes([number])),
            lambda number=number: blobs.put_parts("a", [bytes([number])]),
            lambda number=number: blobs.put_if_absent(f"b/{number}", b"the same"),
            lambda: blobs.put("a", bytes(2 * MIB)),
        ):
            before = {info.key: info.e_tag for info in memory.list("")}
            put()
            changed = [info.key for info in memory.list("") if before.get(info.key) != info.e_tag]
            salts += [memory.get(key, 1 << 30)[:16] for key in changed if key != MARKER]
    assert len(salts) == len(set(salts)) == 120


def test_nothing_is_read_of_what_is_too_large(memory: CountingBlobs, group: str) -> None:
    blobs = private_remote(memory, group).blobs
    for size in (0, 1, 65_535, 65_536, 65_537, 200_000):
        blobs.put("a", bytes(size))
        assert len(blobs.get("a", size)) == size
        if size:
            memory.clear()
            with pytest.raises(kacas.KacasError, match="a has more than"):
                blobs.get("a", size - 1)
            assert memory.moved == 0


KILLED = """
import sys
import kacas
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.push import push
from pathlib import Path
from tests.remote.private import private_remote

store_path, uri, bucket, group = sys.argv[1:]
with kacas.Store.open(store_path) as store:
    print("begins", flush=True)
    push(store, private_remote(DirectoryBlobs(Path(bucket)), group), [uri], limit_bytes_s=20 << 20)
"""


def test_a_push_that_is_killed_goes_on(store: kacas.Store, group: str, tmp_path: Path) -> None:
    place = tmp_path / "bucket"
    place.mkdir()
    data = os.urandom(60 * MIB)
    uri = store.store_bytes(data)
    command = [sys.executable, "-c", KILLED, str(store.path), uri, str(place), group]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    bucket = DirectoryBlobs(place)
    sent = 0
    end_s = time.monotonic() + 60
    while sent < 20 * MIB and time.monotonic() < end_s and process.poll() is None:
        sent = sum(info.size for info in bucket.list(""))
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    remote = private_remote(bucket, group)
    with host(tmp_path / "early", remote) as early, pytest.raises(kacas.NotFoundError):
        early.load_bytes(uri)
    assert push(store, remote, [uri]).chunk_size < 50 * MIB
    with host(tmp_path / "other", remote) as other:
        assert other.load_bytes(uri) == data
    assert verify(remote).clean


def test_no_key_is_in_a_repr_or_a_pickle(memory: CountingBlobs, group: str) -> None:
    remote = private_remote(MemoryBlobs(group), group)
    remote.blobs.put("a", b"1")
    keys = [key for epoch in FixedKeys(group).epochs() for key in (epoch.secret, epoch.content, epoch.name, epoch.uri)]
    again = pickle.loads(pickle.dumps(remote.blobs))
    assert again.get("a", 1) == b"1"
    shown = repr(remote) + repr(remote.blobs) + repr(vars(remote.blobs)) + repr(FixedKeys(group).epochs())
    for key in keys:
        assert key not in pickle.dumps(remote.blobs)
        assert repr(key) not in shown
        assert key.hex() not in shown
