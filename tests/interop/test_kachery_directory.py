"""Reading kachery-cloud's directory: nothing in it is trusted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kacas.disk.small_file import read_small
from kacas.interop.kachery_directory import KacheryDirectory, Linked, Strange
from tests.interop.kachery import Kachery

SHA1 = "ab" * 20

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries(
    {},
    optional={
        "path": values | st.text().map(lambda text: "/" + text),
        "size": values | st.integers(0, 1 << 40),
        "mtime": values | st.floats(allow_nan=False),
        "sha1": values | st.just(SHA1),
    },
)


@given(st.binary(max_size=300) | records.map(lambda record: json.dumps(record).encode()))
def test_any_record_is_a_link_that_makes_sense_or_is_strange(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        kachery = Kachery(Path(place) / "kachery")
        kachery.place(SHA1, "linked_files/sha1").write_bytes(data)
        (found,) = KacheryDirectory(kachery.path).links()
    if isinstance(found, Linked):
        assert found.path.startswith("/")
        assert found.size >= 0
        assert found.sha1.hex() == SHA1
    else:
        assert isinstance(found, Strange)
        assert found.path.endswith(SHA1)


@given(st.text("0123456789abcdefABCDEF.tmp", min_size=1, max_size=50).filter(lambda name: name.strip(".")))
def test_any_name_is_a_content_or_is_strange(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        kachery = Kachery(Path(place) / "kachery")
        kachery.place(SHA1).with_name(name).write_bytes(b"")
        (found,) = KacheryDirectory(kachery.path).contents()
    assert isinstance(found, Strange) == (len(name) != 40 or not name.startswith("ababab") or name != name.lower())


def test_small_files_are_read_up_to_their_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_small(str(tmp_path / "file"), 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_small(str(tmp_path / "file"), 4)
    with pytest.raises(ValueError, match="not a regular file"):
        read_small("/dev/zero", 4)
