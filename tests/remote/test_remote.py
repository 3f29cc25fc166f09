"""A remote by its name: its id, its marker, and that opening it asks nothing of anybody."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.errors import KacasError, NewerFormatError
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.errors import DamagedRemoteError, RemoteNotFoundError
from kacas_remote.layout import MARKER
from kacas_remote.remote import Remote, new_remote, open_remote, parse_marker


def test_the_marker_is_made_once_and_read_by_all() -> None:
    blobs = MemoryBlobs()
    first = new_remote("lab", blobs)
    assert new_remote("other", blobs).remote_id == first.remote_id == first.mark()
    assert len(first.remote_id) == 16
    assert json.loads(blobs.get(MARKER, 1000))["format"] == 1


def test_of_several_who_mark_at_once_all_have_one_id(tmp_path: Path) -> None:
    place = tmp_path / "bucket"
    place.mkdir()
    ids: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: ids.append(new_remote("lab", DirectoryBlobs(place)).remote_id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_a_bucket_without_a_marker_is_read_and_has_one_from_the_first_push_on() -> None:
    blobs = MemoryBlobs()
    remote = Remote("kachery", blobs)
    before = remote.remote_id
    assert not remote.marked
    assert before == Remote("again", blobs).remote_id
    assert blobs.head(MARKER) is None
    marked = new_remote("lab", blobs).remote_id
    assert remote.remote_id == marked != before
    assert remote.marked


def test_two_buckets_have_two_ids() -> None:
    assert new_remote("a", MemoryBlobs()).remote_id != new_remote("b", MemoryBlobs()).remote_id
    assert Remote("a", MemoryBlobs("one")).remote_id != Remote("b", MemoryBlobs("two")).remote_id


def test_a_bucket_of_a_newer_kacas_is_refused_with_the_version_that_is_needed() -> None:
    blobs = MemoryBlobs()
    blobs.put(MARKER, b'{"format": 3, "anything": []}')
    with pytest.raises(NewerFormatError, match=r"format 3.*upgrade kacas") as caught:
        _ = Remote("lab", blobs).remote_id
    assert caught.value.needed == 3


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 0, "id": "00"}',
        b'{"format": 1, "id": 7}',
        b" " * 20_000,
    ],
)
def test_what_is_no_marker_is_damage_and_named(text: bytes) -> None:
    blobs = MemoryBlobs("damaged-marker")
    blobs.put(MARKER, text)
    with pytest.raises(DamagedRemoteError, match=r"memory://damaged-marker: kacas-remote\.json"):
        Remote("lab", blobs).mark()


@given(st.binary(max_size=200))
def test_any_bytes_give_an_id_or_a_typed_error(data: bytes) -> None:
    try:
        assert len(parse_marker(data, "there")) == 16
    except KacasError as exc:
        assert "there" in str(exc)


def test_opening_by_name_asks_nothing_of_the_service() -> None:
    change_remotes(lambda found: [RemoteConfiguration("lab", "file:///is/not/there", trusted=True)])
    remote = open_remote("lab")
    assert remote.name == "lab"
    assert remote.configuration.trusted
    with pytest.raises(RemoteNotFoundError, match="'web'; there are lab"):
        open_remote("web")


@pytest.mark.parametrize("work", ["import kacas; kacas.store_text('a')", "from kacas.cli.main import commands"])
def test_without_remotes_nothing_of_them_is_imported(work: str) -> None:
    look = (
        "import sys; print([m for m in sys.modules if m.split('.')[0] in ('kacas_remote', 'obstore', 'httpx', 'nacl')])"
    )
    done = subprocess.run([sys.executable, "-c", f"{work}; {look}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
