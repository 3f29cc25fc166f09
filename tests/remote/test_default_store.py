"""The default store has the user's remotes behind it, and notices when they change."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest

import kacas
from kacas.errors import NotFoundError
from kacas_remote.blobs.directory import DirectoryBlobs
from kacas_remote.configuration import RemoteConfiguration, change_remotes
from kacas_remote.layout import plain_key

TEXT = "what kachery-cloud left in a bucket"


@pytest.fixture
def bucket(tmp_path: Path) -> RemoteConfiguration:
    """One that kachery-cloud filled: a plain object, no marker."""
    place = tmp_path / "bucket"
    place.mkdir()
    blobs = DirectoryBlobs(place)
    blobs.put(plain_key(hashlib.sha1(TEXT.encode()).digest()), TEXT.encode())
    return RemoteConfiguration("lab", f"file://{place}")


def uri_of(text: str) -> str:
    return f"sha1://{hashlib.sha1(text.encode()).hexdigest()}"


def test_a_remote_that_is_added_in_a_long_session_is_asked_from_then_on(bucket: RemoteConfiguration) -> None:
    with pytest.raises(NotFoundError):
        kacas.load_text(uri_of(TEXT))
    change_remotes(lambda found: [bucket])
    assert kacas.load_text(uri_of(TEXT)) == TEXT
    change_remotes(lambda found: [])
    assert kacas.load_text(uri_of(TEXT)) == TEXT  # it was kept


def test_a_bucket_of_kachery_cloud_is_only_read(bucket: RemoteConfiguration) -> None:
    change_remotes(lambda found: [bucket])
    kacas.load_text(uri_of(TEXT))
    assert [blob.key[:5] for blob in DirectoryBlobs(Path(bucket.url.removeprefix("file://"))).list("")] == ["sha1/"]


def test_a_remote_whose_credentials_cannot_be_read_does_not_hide_the_others(
    bucket: RemoteConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KACAS_REMOTE_BAD_ACCESS_KEY_ID", "half")
    change_remotes(lambda found: [RemoteConfiguration("bad", "s3://bucket"), bucket])
    with pytest.warns(RuntimeWarning, match="remote bad is left out.*KACAS_REMOTE_BAD_SECRET_ACCESS_KEY"):
        assert kacas.load_text(uri_of(TEXT)) == TEXT


def test_what_is_in_the_store_is_loaded_whatever_the_remotes_do() -> None:
    uri = kacas.store_text("mine")
    change_remotes(lambda found: [RemoteConfiguration("gone", "file:///is/not/there")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kacas.load_text(uri) == "mine"
