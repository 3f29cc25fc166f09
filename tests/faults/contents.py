"""Contents that the fault tests store: each made from its label alone, so that any process can tell what is right."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejson

import kacas

SEED = 20261122
MIB = 1 << 20


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Content:
    """verb: which store_* takes it. data: the exact bytes that the URI stands for."""

    verb: str
    label: str
    value: Any
    data: bytes

    @property
    def sha1(self) -> str:
        return sha1_of(self.data)

    def put(self, store: kacas.Store) -> str:
        uri: str = getattr(store, f"store_{self.verb}")(self.value, label=self.label)
        assert kacas.model.uri.parse_uri(uri).sha1.hex() == self.sha1
        return uri

    def check(self, store: kacas.Store, uri: str) -> None:
        """Load it as what it was stored as, and as bytes."""
        assert store.load_bytes(uri) == self.data
        if self.verb != "bytes":
            loaded = getattr(store, f"load_{self.verb}")(uri)
            assert np.array_equal(loaded, self.value) if self.verb == "npy" else loaded == self.value


def _random(label: str) -> np.random.Generator:
    return np.random.default_rng([SEED, *label.encode()])


def text(label: str, repeat: int = 1) -> Content:
    value = f"text {label} – äöü 数\n" * repeat
    return Content("text", label, value, value.encode())


def json(label: str) -> Content:
    value = {"label": label, "trials": [int(v) for v in _random(label).integers(1000, size=8)], "ok": True}
    data = simplejson.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Content("json", label, value, data.encode())


def random_bytes(label: str, size: int) -> Content:
    """Bytes that nothing compresses: their payloads are raw."""
    value = _random(label).bytes(size)
    return Content("bytes", label, value, value)


def array(label: str, rows: int, columns: int = 64) -> Content:
    """int16 noise of small range, so that it is compressed; rows × columns × 2 bytes."""
    value = _random(label).integers(-500, 500, (rows, columns), dtype=np.int16)
    file = io.BytesIO()
    np.save(file, value)
    return Content("npy", label, value, file.getvalue())


def noise(label: str, rows: int, columns: int = 64) -> Content:
    """An int16 array that nothing compresses."""
    value = _random(label).integers(-32768, 32767, (rows, columns), dtype=np.int16)
    file = io.BytesIO()
    np.save(file, value)
    return Content("npy", label, value, file.getvalue())


def singles() -> list[Content]:
    return [text("single-text"), json("single-json"), random_bytes("single-bytes", 3000)]


def batch() -> list[Content]:
    """The last repeats the first: pending chunks are shared."""
    contents = [json(f"batch-{i}") for i in range(20)] + [array("batch-array", 3000)]
    return [*contents, contents[0]]


def large() -> Content:
    """More than two blocks of the write pipeline: 9 MiB."""
    return noise("large", 9 * MIB // 128)


def stubborn() -> list[Content]:
    return [*singles(), *batch(), large()]


def rolling() -> Content:
    """More than is written before a sync begins in the background: 34 MiB."""
    return noise("rolling", 34 * MIB // 128)
