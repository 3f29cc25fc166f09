"""Directories and thousands of small files of a remote come in few large requests."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.errors import WrongKindError
from kacas.model.uri import parse_uri
from kacas.upkeep.verify import verify
from kacas_remote.blobs.memory import MemoryBlobs
from kacas_remote.layout import PACKS
from kacas_remote.pulling import pull
from kacas_remote.push import push
from kacas_remote.remote import new_remote
from tests.remote.counting import CountingBlobs
from tests.remote.faulty import FaultyBlobs
from tests.remote.filled import upstream_on
from tests.remote.sources import directory


@pytest.fixture
def lab(tmp_path: Path) -> kacas.Store:
    return kacas.Store.open(tmp_path / "lab")


@pytest.fixture
def blobs() -> CountingBlobs:
    return CountingBlobs(MemoryBlobs())


def tree(path: Path, folders: int, files: int) -> dict[str, bytes]:
    made = {
        f"folder {folder}/inner/file {number}.txt": b"%d of %d\n" % (number, folder) * (1 + number % 50)
        for folder in range(folders)
        for number in range(files)
    }
    for name, data in made.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return made


def test_a_directory_of_many_small_files_comes_in_few_requests(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    made = tree(tmp_path / "tree", 40, 50)
    uri = lab.store_dir(tmp_path / "tree").partition("?")[0]
    push(lab, new_remote("lab", blobs), [uri])
    upstream = upstream_on(blobs, tmp_path / "cache", trusted=False)
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        node.load_dir(uri, tmp_path / "copy")
        assert blobs.count < 20
        for name, data in made.items():
            assert (tmp_path / "copy" / name).read_bytes() == data
        blobs.clear()
        assert [item.name for item in node.list_dir(uri)] == [item.name for item in lab.list_dir(uri)]
        assert blobs.count == 0


def test_the_size_of_what_is_pulled_counts_a_file_under_each_of_its_names(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    made = directory(tmp_path / "run7", 20)  # one of them twice
    for name, data in made.items():
        (tmp_path / "both" / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "both" / "b" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "both" / "a" / name).write_bytes(data)
        (tmp_path / "both" / "b" / name).write_bytes(data)
    uri = lab.store_dir(tmp_path / "both")
    file = lab.store_text("no directory").replace("sha1://", "sha1dir://")
    push(lab, new_remote("lab", blobs), [uri, file.replace("sha1dir://", "sha1://")])
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache", trusted=True)]) as node:
        summary = pull(node, [uri, file])
        assert summary.raw_size == 2 * sum(map(len, made.values()))
        assert [type(why) for why in summary.failed.values()] == [WrongKindError]


def test_a_small_content_with_a_header_that_was_altered_is_kept_with_a_good_one(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    made = tree(tmp_path / "tree", 1, 50)
    uri = lab.store_dir(tmp_path / "tree")
    push(lab, new_remote("lab", blobs), [uri])
    wanted = made["folder 0/inner/file 7.txt"]
    digest = bytes.fromhex(lab.describe(f"{uri.partition('?')[0]}/folder 0/inner/file 7.txt").root)
    (pack,) = [info.key for info in blobs.list(PACKS) if digest in blobs.get(info.key, 1 << 20)]
    data = bytearray(blobs.get(pack, 1 << 20))
    data[data.index(digest) + len(digest)] ^= 1  # its check; the content is what it was
    blobs.put(pack, data)
    upstream = upstream_on(blobs, tmp_path / "cache", trusted=True)
    with kacas.Store.open(tmp_path / "node", behind=[upstream]) as node:
        assert not pull(node, [uri]).failed
    with kacas.Store.open(tmp_path / "node") as node:
        assert node.load_bytes(f"{uri.partition('?')[0]}/folder 0/inner/file 7.txt") == wanted
        assert verify(node).clean


def test_a_path_in_a_directory_of_a_remote_leads_to_its_file(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs
) -> None:
    tree(tmp_path / "tree", 3, 3)
    uri = lab.store_dir(tmp_path / "tree").partition("?")[0]
    push(lab, new_remote("lab", blobs), [uri])
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache", trusted=False)]) as node:
        assert node.is_dir(uri)
        assert node.load_text(f"{uri}/folder 1/inner/file 2.txt").startswith("2 of 1")
        assert node.exists(f"{uri}/folder 1/inner/file 1.txt")
        assert not node.exists(f"{uri}/folder 1/inner/file 9.txt")


def test_thousands_of_uris_come_in_few_requests(tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs) -> None:
    with lab.batch():
        uris = [lab.store_text(f"text {number}") for number in range(3000)]
    push(lab, new_remote("lab", blobs), uris)
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
        node.repository.tiers.bring_many([parse_uri(uri) for uri in uris])
        assert blobs.count < 40
        blobs.clear()
        assert [node.load_text(uri) for uri in uris] == [f"text {number}" for number in range(3000)]
        assert blobs.count == 0


def test_a_remote_says_what_it_has(tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs) -> None:
    uri, absent = lab.store_text("here"), lab.store_text("only in the lab")
    push(lab, new_remote("lab", blobs), [uri])
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache")]) as node:
        assert node.exists(uri)
        assert not node.exists(absent)
        assert node.find(absent) is None
        found = node.describe(uri)
        assert (found.size, found.store) == (4, f"remote lab ({blobs.name})")
        with pytest.raises(kacas.NotFoundError, match="nor in remote lab"):
            node.load_text(absent)


def test_to_ask_about_content_moves_none_of_it(tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs) -> None:
    values = np.arange(4 << 20)
    uri = lab.store_npy(values, codec="raw")
    push(lab, new_remote("lab", blobs), [uri])
    blobs.clear()
    with kacas.Store.open(tmp_path / "node", behind=[upstream_on(blobs, tmp_path / "cache", trusted=False)]) as node:
        assert node.exists(uri)
        assert node.size(uri) == (32 << 20) + 128
        found = node.describe(uri)
        assert (found.shape, found.dtype, found.chunks) == ((4 << 20,), "int64", lab.describe(uri).chunks)
    assert blobs.moved < 1 << 20


@pytest.mark.parametrize("parts", ["all", "a path", "a file"])
def test_a_directory_comes_from_the_next_remote_where_one_is_away(
    tmp_path: Path, lab: kacas.Store, blobs: CountingBlobs, parts: str
) -> None:
    away = FaultyBlobs(MemoryBlobs())
    files = directory(tmp_path / "data", 12)
    uri = lab.store_dir(tmp_path / "data").partition("?")[0]
    push(lab, new_remote("lab", blobs), [uri])
    away.fault("drop", times=None)
    behind = [upstream_on(away, tmp_path / "cache", "away"), upstream_on(blobs, tmp_path / "cache", "there")]
    with kacas.Store.open(tmp_path / "node", behind=behind) as node, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        if parts == "all":
            node.load_dir(uri, tmp_path / "restored")
            for name, data in files.items():
                assert (tmp_path / "restored" / name).read_bytes() == data
        elif parts == "a path":
            node.load_dir(f"{uri}/sub", tmp_path / "restored")
            assert (tmp_path / "restored" / "3.dat").read_bytes() == files["sub/3.dat"]
        else:
            assert node.load_bytes(f"{uri}/sub/3.dat") == files["sub/3.dat"]
