"""docs/independent_reader.py: restores every file without kacas, names what is damaged, restores the rest."""

from __future__ import annotations

import ast
import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kacas
from kacas.codec_choice import EXPLICIT
from kacas.formats import pickles
from kacas.model.cuts import PeriodicCutter
from kacas.model.entry import Kind
from kacas.model.merging import MergeRule
from kacas.model.pack_format import FOOTER_SIZE, HEADER_SIZE, decode_footer
from kacas.model.source import BufferSource
from tests.formats import hdf5_files

READER = Path(__file__).resolve().parents[2] / "docs" / "independent_reader.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # -I: neither this directory nor PYTHONPATH is looked at, and so no kacas beside the reader.
    return subprocess.run([sys.executable, "-I", READER, *arguments], capture_output=True, text=True, check=False)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}


def test_it_restores_each_merged_content_once_and_without_the_sources(store: kacas.Store, tmp_path: Path) -> None:
    store.repository.lookup.rule = MergeRule(fan_in=3)
    expected = {}
    for number in range(9):
        text = f"text {number}"
        store.store_text(text, label="a")
        expected[sha1(text.encode())] = text.encode()
    store.store_text("text 0", label="a")  # publishes nothing, and merges what was merged
    listed = run(store.path, tmp_path / "unused", "--list")
    assert sorted(listed.stdout.split("\n")[:-1]) == sorted(f"{name} 6 a" for name in expected)
    for pack in (store.path / "packs").iterdir():
        if not pack.name.startswith("fff2"):
            pack.unlink()  # all is in the one merged pack of the second tier
    done = run(store.path, tmp_path / "restored")
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path / "restored") == expected


def test_it_imports_nothing_of_kacas_and_has_at_most_200_lines() -> None:
    text = READER.read_text("utf-8")
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
            assert node.level == 0
    assert imported - sys.stdlib_module_names == {"blake3", "zstandard", "numpy", "numcodecs", "pcodec"}
    assert "importlib" not in imported
    assert "__import__" not in text
    assert len(text.splitlines()) <= 200


def test_it_restores_every_file_of_a_store(store: kacas.Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = np.arange(9_200_000, dtype=np.int64)  # 281 chunks: two nodes
    program = rng.bytes(900_001)
    (tmp_path / "program").write_bytes(program)
    (tmp_path / "empty").touch()
    value = {"rates": [1.5, None], "ünit": 7}
    plain = {"fit": np.arange(5), "name": "unit 7"}
    small = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    fortran = np.asfortranarray(rng.normal(size=(300, 400)))
    tiled = np.asfortranarray(rng.integers(0, 99, (300, 40, 50), np.int32))
    many_tiles = rng.integers(0, 99, (2100, 1000), np.uint8)  # 273 tiles: two nodes
    nested = bytes(range(256)) * 4400 + b"end"  # in chunks of 16 bytes: 70,401 chunks, nodes of two levels

    store.store_text("example text")
    store.store_text("example text", label="the same under another name.txt")
    store.store_json(value)
    store.store_pkl(plain)
    store.store_bytes(b"")
    store.store_file(tmp_path / "program")
    hdf5_files.plain(tmp_path / "x.h5")
    store.store_file(tmp_path / "x.h5")
    store.store_file(tmp_path / "empty")
    with store.batch():
        store.store_npy(small, label="naïve ☃.npy")
        store.store_npy(fortran)
        store.store_npy(np.float32(3))
        store.store_npy(large)
        store.store_npy(large[:5_000_000])
        store.store_npy(tiled, chunks=(70, 40, 7))
        store.store_npy(many_tiles, chunks=(100, 77))
    store.forget(store.store_text("forgotten"))
    store.repository.put(BufferSource(nested), Kind.BYTES, "nested", cutter=PeriodicCutter(16))

    originals = [
        b"example text", b'{"rates":[1.5,null],"\\u00fcnit":7}', pickles.dumps(plain), b"", program,
        npy(small), npy(fortran), npy(np.float32(3)), npy(large), npy(large[:5_000_000]), b"forgotten",
        npy(tiled), npy(many_tiles), nested, (tmp_path / "x.h5").read_bytes(),
    ]  # fmt: skip
    done = run(store.path, tmp_path / "restored")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_in(tmp_path / "restored") == {sha1(original): original for original in originals}


def test_it_restores_arrays_of_every_codec(store: kacas.Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(-9, 9, (9000 + n, 16), np.int16).cumsum(axis=0, dtype=np.int16) for n in range(len(EXPLICIT))
    ]
    arrays += [np.cumsum(array, axis=0, dtype=np.float32) for array in arrays]
    for array, codec in zip(arrays, EXPLICIT * 2, strict=True):
        store.store_npy(array, codec=codec)
    done = run(store.path, tmp_path / "restored")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_in(tmp_path / "restored") == {sha1(npy(array)): npy(array) for array in arrays}


def test_it_lists_what_it_would_restore(store: kacas.Store, tmp_path: Path) -> None:
    store.store_text("example text", label="b.txt")
    store.store_text("example text", label="a.txt")
    done = run(store.path, "--list")
    assert done.stdout == "d9e989f651cdd269d7f9bb8a215d024d8d283688 12 a.txt b.txt\n"
    assert done.returncode == 0


class TestOneFlippedByte:
    """A store of two packs: the first holds `first`, the second `second` and `third`."""

    first = np.random.default_rng(1).bytes(700_000)
    second = b"second " * 60_000
    third = b"third"

    @pytest.fixture
    def damage(self, store: kacas.Store, tmp_path: Path) -> Any:
        """Flip a byte of the second pack at the place that a function of its footer names."""
        store.store_bytes(self.first)
        before = store.repository.volume.list_packs()
        with store.batch():
            store.store_bytes(self.second)
            store.store_bytes(self.third)
        (pack_id,) = store.repository.volume.list_packs() - before
        path = store.repository.volume.pack_path(pack_id)
        data = bytearray(path.read_bytes())
        footer = decode_footer(data[-FOOTER_SIZE:], data[:HEADER_SIZE], len(data))

        def flip(at: int) -> tuple[subprocess.CompletedProcess[str], dict[str, bytes]]:
            data[at] ^= 0x10
            path.chmod(0o644)
            path.write_bytes(data)
            done = run(store.path, tmp_path / "restored")
            assert done.returncode == 1
            assert path.name in done.stderr
            return done, files_in(tmp_path / "restored")

        return flip, data, footer

    def restored(self, *contents: bytes) -> dict[str, bytes]:
        return {sha1(content): content for content in contents}

    @pytest.mark.parametrize("at", [3, 20, 40, 60], ids=["magic", "pack id", "store id", "reserved"])
    def test_in_the_header_costs_nothing(self, damage: Any, at: int) -> None:
        flip, _, _ = damage
        assert flip(at)[1] == self.restored(self.first, self.second, self.third)

    @pytest.mark.parametrize("at", [-128, -90, -60, -20, -1])
    def test_in_the_footer_costs_nothing(self, damage: Any, at: int) -> None:
        flip, _, _ = damage
        assert flip(at)[1] == self.restored(self.first, self.second, self.third)

    def test_in_a_chunk_record_costs_nothing(self, damage: Any) -> None:
        flip, _, footer = damage
        assert flip(footer.table_offset + 60)[1] == self.restored(self.first, self.second, self.third)

    def test_in_an_entry_costs_the_entries_from_there_on(self, damage: Any) -> None:
        flip, data, _ = damage
        third = data.rindex(hashlib.sha1(self.third, usedforsecurity=False).digest())
        assert flip(third)[1] == self.restored(self.first, self.second)

    @pytest.mark.parametrize("at", [0, 4, 5, 9, 20, 50, 66], ids=str)
    def test_in_a_chunk_costs_the_files_that_need_it(self, damage: Any, at: int) -> None:
        flip, _, _ = damage
        done, restored = flip(HEADER_SIZE + at)
        assert restored == self.restored(self.first, self.third)
        assert f"sha1://{sha1(self.second)}" in done.stderr

    def test_in_a_manifest_costs_its_file(self, damage: Any) -> None:
        flip, data, _ = damage
        at = next(at for at in range(HEADER_SIZE, len(data)) if data[at : at + 5] == b"KPAY\x02")
        assert flip(at + 80)[1] == self.restored(self.first, self.third)

    def test_in_one_of_two_copies_costs_nothing(self, damage: Any, store: kacas.Store, tmp_path: Path) -> None:
        flip, _, _ = damage
        flip(HEADER_SIZE + 66)
        with pytest.raises(kacas.DamagedError):
            store.load_bytes(f"sha1://{sha1(self.second)}")
        store.store_bytes(self.second)
        run(store.path, tmp_path / "healed")
        assert files_in(tmp_path / "healed") == self.restored(self.first, self.second, self.third)


def test_a_pack_cut_short_gives_what_is_in_front(store: kacas.Store, tmp_path: Path) -> None:
    store.store_text("whole")
    before = store.repository.volume.list_packs()
    store.store_bytes(bytes(700_000))
    (pack_id,) = store.repository.volume.list_packs() - before
    path = store.repository.volume.pack_path(pack_id)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:300])
    done = run(store.path, tmp_path / "restored")
    assert (done.returncode, files_in(tmp_path / "restored")) == (1, {sha1(b"whole"): b"whole"})
    assert path.name in done.stderr


def test_a_store_without_its_settings_is_restored(store: kacas.Store, tmp_path: Path) -> None:
    store.store_text("example text")
    (store.path / "kacas.toml").unlink()
    assert run(store.path, tmp_path / "restored").returncode == 0
    assert list(files_in(tmp_path / "restored").values()) == [b"example text"]


def test_a_linked_file_is_restored_from_where_it_is(store: kacas.Store, tmp_path: Path) -> None:
    contents = {name: np.random.default_rng(2).bytes(900_000) + name.encode() for name in ("right", "gone", "copied")}
    contents |= {"changed": b"small", "na\udcffme": b"other"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        store.link_file(tmp_path / name)
    assert str(tmp_path / "gone") in run(store.path, "--list").stdout
    store.store_file(tmp_path / "copied")
    for name in ("gone", "copied"):
        (tmp_path / name).unlink()
    done = run(store.path, tmp_path / "restored")
    assert f"{tmp_path / 'gone'}: it is not there" in done.stderr
    assert done.returncode == 1
    (tmp_path / "changed").write_bytes(b"SMALL")
    done = run(store.path, tmp_path / "again")
    assert f"{tmp_path / 'changed'}: its SHA-1 is another" in done.stderr
    assert files_in(tmp_path / "restored") == {sha1(data): data for name, data in contents.items() if name != "gone"}
    assert files_in(tmp_path / "again").keys() == {sha1(contents[name]) for name in ("right", "copied", "na\udcffme")}


def test_a_linked_file_that_is_gone_costs_nothing_if_it_is_stored(store: kacas.Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    store.link_file(tmp_path / "file")
    store.store_file(tmp_path / "file")
    (tmp_path / "file").unlink()
    assert run(store.path, tmp_path / "restored").returncode == 0
    assert files_in(tmp_path / "restored") == {sha1(b"content"): b"content"}
