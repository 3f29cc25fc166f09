"""docs/formats.md: the worked example is what the code writes, and what it reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kacas
from kacas.model.codec import MAX_CHUNK_SIZE, Decoder
from kacas.model.cuts import CHUNK_TARGET
from kacas.model.digest import MANIFEST_CONTEXT, NODE_CONTEXT
from kacas.model.entry import MAX_OWNER_SIZE, MAX_PATH_SIZE
from kacas.model.manifest import FAN_OUT, MAX_HEAD_SIZE, MAX_LEVEL
from kacas.model.pack_format import MAX_PARAMETERS_SIZE, MAX_TABLE_SIZE
from kacas.model.uri import MAX_LABEL_SIZE, MAX_URI_SIZE
from kacas.upkeep.verify import verify
from tests.docs import example_pack

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "formats.md").read_text("utf-8")
TEXT_SHA1 = "d9e989f651cdd269d7f9bb8a215d024d8d283688"
ARRAY_SHA1 = "3ebc8e6a334ee4e0d774bde888e86d15045fb994"


def pack_of_the_page() -> bytes:
    blocks = re.findall(r"^```hex\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 10
    return b"".join(bytes.fromhex(line.partition("#")[0]) for block in blocks for line in block.splitlines())


@pytest.fixture
def store_of_the_page(tmp_path: Path) -> Path:
    """A store directory made by hand from the page."""
    path = tmp_path / "store"
    (path / "packs").mkdir(parents=True)
    settings = re.search(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert settings
    (path / "kacas.toml").write_text(settings[1])
    (path / "packs" / f"{example_pack.PACK_ID.hex()}.pack").write_bytes(pack_of_the_page())
    return path


def test_the_page_shows_the_bytes_that_the_code_writes() -> None:
    assert pack_of_the_page() == example_pack.pack()


def test_the_page_shows_them_with_the_names_of_all_fields() -> None:
    assert PAGE.endswith(example_pack.section())


def test_the_encoded_chunks_of_the_page_decode() -> None:
    for size, frame in example_pack.ZEROS.items():
        raw = bytearray(b"\1" * size)
        Decoder().decode_into(1, b"", memoryview(frame), memoryview(raw))
        assert raw == bytes(size)


def test_a_store_made_from_the_page_loads_and_verifies(store_of_the_page: Path) -> None:
    with kacas.Store.open(store_of_the_page, create=False) as store:
        assert store.load_text(f"sha1://{TEXT_SHA1}") == "example text"
        array = store.load_npy(f"sha1://{ARRAY_SHA1}")
        assert array.dtype == np.float64
        assert array.shape == (75_000,)
        assert not array.any()
        assert verify(store).problems == []
        assert store.describe(f"sha1://{TEXT_SHA1}").claims == ()
        (claim,) = store.describe(f"sha1://{ARRAY_SHA1}").claims
        assert (claim.owner, claim.label, claim.kind) == ("ada", "zeros.npy", "npy")


def test_the_independent_reader_restores_it(store_of_the_page: Path, tmp_path: Path) -> None:
    restored = tmp_path / "restored"
    subprocess.run([sys.executable, DOCS / "independent_reader.py", store_of_the_page, restored], check=True)
    np.save(tmp_path / "zeros.npy", example_pack.ARRAY)
    assert {path.name: path.read_bytes() for path in restored.iterdir()} == {
        TEXT_SHA1: b"example text",
        ARRAY_SHA1: (tmp_path / "zeros.npy").read_bytes(),
    }


def test_the_store_makes_the_identities_and_root_of_the_page(store: kacas.Store) -> None:
    assert store.store_text("example text") == f"sha1://{TEXT_SHA1}"
    uri = store.store_npy(np.zeros(75_000))
    assert uri == f"sha1://{ARRAY_SHA1}"
    assert bytes.fromhex(store.describe(uri).root) in pack_of_the_page()


@pytest.mark.parametrize(
    "words",
    [
        f'`B3key("{NODE_CONTEXT}", decoded bytes)`',
        f'`B3key("{MANIFEST_CONTEXT}", decoded bytes)`',
        f"| chunk, raw or encoded | 16 MiB = {MAX_CHUNK_SIZE:,} bytes |",
        f"| parameters of a payload | {MAX_PARAMETERS_SIZE:,} bytes |",
        f"| table of a pack | {MAX_TABLE_SIZE >> 30} GiB |",
        f"| head of a manifest | {MAX_HEAD_SIZE >> 10} KiB |",
        f"| children of a manifest or node | {FAN_OUT} |",
        f"| level | {MAX_LEVEL} |",
        f"| owner, label | {MAX_OWNER_SIZE}, {MAX_LABEL_SIZE:,} bytes |",
        f"| path in an adopted entry | {MAX_PATH_SIZE:,} bytes |",
        f"if the whole content is at most {CHUNK_TARGET:,} bytes",
        f"At most {MAX_URI_SIZE:,} characters",
    ],
)
def test_the_page_names_the_limits_of_the_code(words: str) -> None:
    assert words in PAGE
