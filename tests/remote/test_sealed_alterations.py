"""Whoever has the bucket alters one byte after the other, cuts, swaps and moves: what is read is what was put, or it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import kacas
from kacas.errors import KacasError, NewerFormatError
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.blobs.sealed import SealedBlobs
from kacas_remote.errors import BlobNotFoundError, DamagedGroupError, DamagedRemoteError
from kacas_remote.groups.verbs import create_group
from kacas_remote.identity import own_or_new
from kacas_remote.sealing.segments import SEALED_SEGMENT_SIZE, SEGMENT_SIZE, Opener, SealBrokenError, content_key
from tests.remote.filled import put_content, upstream_on
from tests.remote.group_keys import FixedKeys, rotate

KEY = "packs/00112233445566778899aabbccddeeff.pack"
OTHER = "packs/ffeeddccbbaa99887766554433221100.pack"
TEXT = "what only members of the group may read, " * 3


class Bucket:
    """A bucket, and members' view of it. altered: replaces what lies there by other bytes, as its owner can."""

    def __init__(self, group: str) -> None:
        self.lies = MemoryBlobs()
        self.keys = FixedKeys(group)
        self.blobs = SealedBlobs(self.lies, self.keys, miss_s=0, list_s=0)

    def names(self) -> list[str]:
        return [info.key for info in self.lies.list("") if "/" in info.key]

    def sealed(self, name: str) -> bytes:
        return self.lies.get(name, 1 << 24)

    def replace(self, name: str, data: bytes) -> None:
        self.lies.put(name, data)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return Bucket(request.node.name)


def one_byte_altered(data: bytes, step: int = 1) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        for change in (1, 0x80):
            yield data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


@pytest.mark.parametrize("plain", [b"", b"x", TEXT.encode()], ids=["empty", "one byte", "text"])
def test_every_byte_of_an_object_that_is_altered_is_refused(bucket: Bucket, plain: bytes) -> None:
    bucket.blobs.put(KEY, plain)
    (name,) = bucket.names()
    sealed = bucket.sealed(name)
    for altered in one_byte_altered(sealed):
        bucket.replace(name, altered)
        with pytest.raises(DamagedRemoteError):
            bucket.blobs.get(KEY, 1 << 20)
        if plain:
            with pytest.raises(DamagedRemoteError):
                bucket.blobs.get_ranges(KEY, [(0, 1)])
    bucket.replace(name, sealed)
    assert bucket.blobs.get(KEY, 1 << 20) == plain


def test_an_object_that_is_cut_or_longer_or_of_another_order_is_refused(bucket: Bucket) -> None:
    plain = bytes(range(256)) * (3 * SEGMENT_SIZE // 256) + b"rest"
    bucket.blobs.put(KEY, plain)
    (name,) = bucket.names()
    sealed = bucket.sealed(name)
    rows = [sealed[at : at + SEALED_SEGMENT_SIZE] for at in range(0, len(sealed), SEALED_SEGMENT_SIZE)]
    assert len(rows) == 4
    others = [
        b"",
        sealed[:-1],
        sealed + b"\0",
        sealed + sealed[:32],
        sealed + sealed,
        rows[1] + rows[0] + rows[2] + rows[3],
    ]
    others += [b"".join(rows[:count]) for count in (1, 2, 3)]
    others += [b"".join(rows[:without] + rows[without + 1 :]) for without in range(4)]
    others += [b"".join([*rows[:3], rows[2], rows[3]]), b"".join(rows[1:] + rows[:1]), sealed[16:], b"\0" * len(sealed)]
    for altered in others:
        bucket.replace(name, altered)
        with pytest.raises(DamagedRemoteError):
            bucket.blobs.get(KEY, 1 << 20)


def test_what_was_refused_is_not_lent_to_anybody_any_more() -> None:
    """A memoryview that is, and that the garbage collector finds in the frames of an exception, crashes CPython."""
    (epoch,) = FixedKeys("lent").epochs()
    sealed = memoryview(bytearray(100))
    with pytest.raises(SealBrokenError) as refused:
        Opener(content_key(epoch, KEY)).open(sealed, 0, at_end=True)
    sealed.release()  # BufferError, if it is
    assert refused.value.__traceback__


def test_parts_of_two_objects_do_not_make_one(bucket: Bucket) -> None:
    """Both under one key: the later one replaced the earlier, whose bytes the bucket's owner kept."""
    first, second = b"a" * (2 * SEGMENT_SIZE), b"b" * (2 * SEGMENT_SIZE)
    bucket.blobs.put(KEY, first)
    (name,) = bucket.names()
    kept = bucket.sealed(name)
    bucket.blobs.put(KEY, second)
    bucket.replace(name, kept[:SEALED_SEGMENT_SIZE] + bucket.sealed(name)[SEALED_SEGMENT_SIZE:])
    with pytest.raises(DamagedRemoteError, match="swapped"):
        bucket.blobs.get(KEY, 1 << 20)
    with pytest.raises(DamagedRemoteError, match="swapped"):
        bucket.blobs.get_ranges(KEY, [(SEGMENT_SIZE - 1, SEGMENT_SIZE + 1)])


def test_an_object_is_refused_under_every_name_but_its_own(bucket: Bucket) -> None:
    bucket.blobs.put(KEY, b"this")
    bucket.blobs.put(OTHER, b"that")
    one, two = bucket.names()
    this, that = bucket.sealed(one), bucket.sealed(two)
    bucket.replace(one, that)
    bucket.replace(two, this)
    for key in (KEY, OTHER):
        with pytest.raises(DamagedRemoteError):
            bucket.blobs.get(key, 100)


def test_an_object_is_refused_in_another_epoch_and_in_another_group(bucket: Bucket) -> None:
    bucket.blobs.put(KEY, b"of the first epoch")
    (old,) = bucket.names()
    rotate(bucket.keys.group_name)
    bucket.keys.refresh()
    bucket.blobs.put(OTHER, b"of the second epoch")
    bucket.blobs.put(KEY, b"replaced")
    sealed_of_old = Bucket(bucket.keys.group_name + " of others")
    sealed_of_old.blobs.put(KEY, b"of others")
    (foreign,) = sealed_of_old.names()
    (name,) = [
        one for one in bucket.names() if bucket.lies.get(one, 100)[-1:] and one != old and _holds(bucket, one, KEY)
    ]
    for theirs in (sealed_of_old.sealed(foreign), b"of the first epoch"):
        bucket.replace(name, theirs)
        with pytest.raises(DamagedRemoteError):
            bucket.blobs.get(KEY, 100)
    bucket.lies.delete([name])
    bucket.replace(foreign, sealed_of_old.sealed(foreign))
    with pytest.raises(BlobNotFoundError):
        bucket.blobs.get(KEY, 100)
    assert [info.key for info in bucket.blobs.list("packs/")] == [OTHER]


def _holds(bucket: Bucket, name: str, key: str) -> bool:
    from kacas_remote.sealing.sealed_name import opened_name

    return any(opened_name(epoch, name) == key for epoch in bucket.keys.epochs())


def test_every_character_of_a_name_that_is_altered_hides_the_object_and_shows_no_other(bucket: Bucket) -> None:
    bucket.blobs.put(KEY, b"here")
    (name,) = bucket.names()
    sealed = bucket.sealed(name)
    bucket.lies.delete([name])
    for at, character in enumerate(name):
        if character == "/":
            continue
        altered = name[:at] + ("a" if character != "a" else "b") + name[at + 1 :]
        bucket.replace(altered, sealed)
        assert list(bucket.blobs.list("")) == []
        assert bucket.blobs.head(KEY) is None
        bucket.lies.delete([altered])


def test_content_is_loaded_as_it_was_or_not_at_all_whatever_byte_of_the_bucket_is_altered(
    bucket: Bucket, tmp_path: Path
) -> None:
    lab = kacas.Store.open(tmp_path / "lab")
    uri = lab.store_text(TEXT)
    put_content(lab, uri, bucket.blobs)
    assert len(bucket.names()) == 3  # the remote's own marker, a pack and a recipe
    loaded = refused = 0
    for name in bucket.names():
        sealed = bucket.sealed(name)
        for number, altered in enumerate(one_byte_altered(sealed, step=11)):
            bucket.replace(name, altered)
            place = tmp_path / f"{name[-8:]}-{number}"
            with kacas.Store.open(place / "store", behind=[upstream_on(bucket.blobs, place / "cache")]) as node:
                try:
                    assert node.load_text(uri) == TEXT
                    loaded += 1
                except KacasError as exc:
                    assert TEXT[:20] not in str(exc)
                    refused += 1
        bucket.replace(name, sealed)
    # The pack's own table says, too, what the recipe says: content without its recipe is found by it.
    assert refused > loaded


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of which this user is a member; its record is in a file."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    own_or_new()
    create_group("lab", at=f"file:{tmp_path / 'lab.group'}")
    return "lab"


def test_every_character_of_a_uri_that_is_altered_is_refused_and_says_nothing_of_what_it_named(group: str) -> None:
    plain = "sha1dir://3ebc8e6a334ee4e0d774bde888e86d15045fb994/night/spikes.npy?label=patient-12"
    text = kacas.encrypt_uri(plain, access_group=group)
    assert kacas.decrypt_uri(text) == plain
    for at, character in enumerate(text):
        for other in {"0", "a", "%", "/"} - {character}:
            with pytest.raises(KacasError) as refused:
                kacas.decrypt_uri(text[:at] + other + text[at + 1 :])
            assert "3ebc8e6a" not in str(refused.value)


def test_every_byte_of_a_record_that_is_altered_is_refused_and_no_uri_is_opened(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a host that has seen nothing yet; one that has goes on with what it saw, or says that it was rewritten."""
    text = kacas.encrypt_uri("sha1://3ebc8e6a334ee4e0d774bde888e86d15045fb994", access_group=group)
    record = tmp_path / "lab.group"
    whole = record.read_bytes()
    for at in range(len(whole)):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"host-{at}"))
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((DamagedGroupError, NewerFormatError)):  # another scheme is a newer one
            kacas.decrypt_uri(text)
    record.write_bytes(whole)
    assert kacas.decrypt_uri(text) == "sha1://3ebc8e6a334ee4e0d774bde888e86d15045fb994"
