"""The functions that keep content in the default store: `$KACAS_DIR`, else `~/.kacas`.

All take `push`: what is stored is uploaded, too, to the remote of that name; with None, the default, to the one that the user
marked for it (`kacas remote default lab --push`, or KACAS_REMOTE), if there is one; with True to the default remote; with
False it is not. A remote that cannot be meant is refused before anything is stored (RemoteNotFoundError, InvalidRemoteError).
A failed upload raises PushError: the URI in it is safe in the store, and `kacas push --pending` sends it later.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from kacas.default import default_store
from kacas.formats.npy_writer import NpyWriter
from kacas.model.tiling import Chunks
from kacas.pushing import Push, pushed, pushed_batch, remote_to_push, send_stored


def batch() -> AbstractContextManager[None]:
    """Publish many puts at once, a hundred times faster than singly; URIs bind when the block ends.

    What is to be pushed to a remote is pushed then, all of it in one go.

    >>> with batch():
    ...     uris = [store_json({"trial": i}) for i in range(100)]
    >>> load_json(uris[42])
    {'trial': 42}
    """
    return pushed_batch()


def store_file(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    rehash: bool = False,
    codec: str = "auto",
    chunks: Chunks | None = None,
    push: Push = None,
) -> str:
    """Store a file; returns its permanent URI. The label is the file's name unless given.

    >>> _ = Path("notes.txt").write_text("test-content" + chr(10))
    >>> store_file("notes.txt")
    'sha1://b971c6ef19b1d70ae8f0feb989b106c319b36230?label=notes.txt'

    A file that was stored before and has not changed since, as its size and times say, is not read again; with
    `rehash` it is. codec, chunks: as in `store_npy`, for a .npy file; the codec also for what an HDF5 file does not
    compress itself. Other files are always compressed with zstd.
    Raises UnreadableSourceError, SourceChangedError (somebody wrote to it meanwhile), StoreError.
    """
    return pushed(push, lambda store: store.store_file(path, label=label, rehash=rehash, codec=codec, chunks=chunks))


def store_dir(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    exclude: Iterable[str] = (),
    partial: bool = False,
    rehash: bool = False,
    push: Push = None,
) -> str:
    """Store a directory with all below it; returns its permanent URI, sha1dir://….

    >>> Path("run7/raw").mkdir(parents=True)
    >>> _ = Path("run7/raw/notes.txt").write_text("test-content" + chr(10))
    >>> uri = store_dir("run7")
    >>> uri
    'sha1dir://3638713307c09caf30febcd7ece07c78ba38075a?label=run7'
    >>> load_text("sha1dir://" + uri[10:50] + "/raw/notes.txt")
    'test-content\\n'

    Kept are names, content, the executable bit, symbolic links (as links: what they lead to is not), and empty directories.
    Not kept: times, owners, other modes. Sockets, pipes and devices are skipped with a SkippedWarning, as is a kacas
    store itself. exclude: shell patterns, held against names ("*.tmp"), or, with a slash, against paths ("raw/*.bak").
    rehash: read files that are known to be unchanged, too.
    Raises UnreadableSourceError if a part cannot be read, or changes again and again; with `partial`, the
    rest is stored and a SkippedWarning names what is missing.
    """
    return pushed(
        push, lambda store: store.store_dir(path, label=label, exclude=exclude, partial=partial, rehash=rehash)
    )


def link_file(path: str | os.PathLike[str], *, label: str | None = None, push: Push = None) -> str:
    """Keep a file where it is: its bytes are not copied, only what verifies them is stored.

    >>> _ = Path("huge.dat").write_bytes(bytes(1_000_000))
    >>> uri = link_file("huge.dat")
    >>> load_bytes(uri, -2) == bytes(2)
    True
    >>> describe(uri).adopted == (str(Path("huge.dat").absolute()),)
    True

    It must stay there as it is: when it is gone, or changed, loading raises AdoptedFileError, which names it; never
    other bytes. Link it again where it is now, or store it, and the same URI works again.
    Raises UnreadableSourceError, SourceChangedError (somebody wrote to it meanwhile), StoreError.
    """
    return pushed(push, lambda store: store.link_file(path, label=label))


def link_dir(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    exclude: Iterable[str] = (),
    partial: bool = False,
    push: Push = None,
) -> str:
    """Keep a directory whose files stay where they are: `store_dir` with `link_file` for each of them.

    >>> _ = Path("huge").mkdir(); _ = Path("huge/a.dat").write_bytes(bytes(2_000_000))
    >>> uri = link_dir("huge")
    >>> load_bytes(uri.partition("?")[0] + "/a.dat", -2) == bytes(2)
    True

    Raises as both.
    """
    return pushed(push, lambda store: store.link_dir(path, label=label, exclude=exclude, partial=partial))


def store_bytes(data: bytes | bytearray | memoryview, *, label: str | None = None, push: Push = None) -> str:
    """Store bytes.

    >>> store_bytes(b"raw data", label="x.bin")
    'sha1://6c38030c3ddfd3dd47159e57dce1e17f892c1680?label=x.bin'
    """
    return pushed(push, lambda store: store.store_bytes(data, label=label))


def store_text(text: str, *, label: str | None = None, push: Push = None) -> str:
    """Store text as UTF-8.

    >>> store_text("example text")
    'sha1://d9e989f651cdd269d7f9bb8a215d024d8d283688'
    """
    return pushed(push, lambda store: store.store_text(text, label=label))


def store_json(value: Any, *, label: str | None = None, push: Push = None) -> str:
    """Store a value as canonical JSON (sorted keys, no spaces): equal values have equal URIs.

    >>> store_json({"example": "dict"})
    'sha1://d0d9555e376ff13a08c6d56072808e27ca32d54a'

    Raises UnsupportedDataError for NaN, infinity and what JSON cannot say.
    """
    return pushed(push, lambda store: store.store_json(value, label=label))


def store_npy(
    array: Any, *, label: str | None = None, codec: str = "auto", chunks: Chunks | None = None, push: Push = None
) -> str:
    """Store an array: its identity is that of the .npy file which np.save writes.

    >>> import numpy as np
    >>> store_npy(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16), label="example.npy")
    'sha1://bb55205a2482c6db2ace544fc7d8397551110701?label=example.npy'

    Any dtype without Python objects, in any order. A memmap, an HDF5 dataset of h5py, an array of dask or zarr is read block
    by block, and never held. So is an iterator of blocks of rows, joined as by np.concatenate: as their number is not known
    before the end, they wait in a temporary file below KACAS_CACHE_DIR, which takes as much of that disk as the array.

    >>> store_npy(np.full((1000, 4), i) for i in range(5)) == store_npy(np.repeat(np.arange(5), 4000).reshape(-1, 4))
    True

    Raises UnsupportedDataError, as for the name of a file, which `store_file` stores; ArrayStreamError for blocks that do not
    fit together.
    If another thread changes the array meanwhile the stored bytes may mix old and new; the identity is
    always that of the bytes that were stored.

    codec: "auto", "fast" and "small" try them on samples and keep the best for that goal. These name one: "raw", "zstd";
    items shuffled by "bytes" or "bits", then "lz4" or "zstd": "bytes-lz4", "bits-zstd"...; differences of rows, likewise:
    "delta-bytes-lz4"...; and "pcodec", with the package of that name. Raises InvalidSettingError for another name,
    MissingPackageError without that package.
    chunks: the shape of tiles, None in it for a whole axis: a slice along any axis then reads only the tiles that it
    touches. The identity stays the same. Raises InvalidChunksError.
    """
    return pushed(push, lambda store: store.store_npy(array, label=label, codec=codec, chunks=chunks))


def npy_writer(
    shape: int | Sequence[int | None] | None,
    dtype: Any,
    *,
    label: str | None = None,
    codec: str = "auto",
    chunks: Chunks | None = None,
    push: Push = None,
) -> NpyWriter:
    """Store an array row by row, without holding it: a block in which `append` takes rows, or blocks of them.

    >>> import numpy as np
    >>> with npy_writer((1000, 4), np.float32, label="trace.npy") as writer:
    ...     for second in range(10):
    ...         writer.append(np.full((100, 4), second, np.float32))
    >>> open_npy(writer.uri)[500]
    array([5., 5., 5., 5.], dtype=float32)

    It is stored when the block ends, if it has exactly the rows that were declared; else ArrayStreamError. When the block is
    left by an exception, nothing is stored. shape: begins with None if the number of rows is not known: they then wait in a
    temporary file below KACAS_CACHE_DIR, which takes as much of that disk as the array has bytes (NoSpaceError if it is
    full). dtype: of the array; rows may be of another of which every value fits. codec, chunks: as for `store_npy`; of rows
    whose number is known, the samples come from the first 4 MiB. In the block of `batch`, the array belongs to the batch.
    """
    store = default_store()
    remote = remote_to_push(push, store.settings)
    writer = store.npy_writer(shape, dtype, label=label, codec=codec, chunks=chunks)
    writer.when_stored(lambda uri: send_stored(uri, remote))
    return writer


def store_pkl(value: Any, *, label: str | None = None, push: Push = None) -> str:
    """Store plain data and NumPy arrays (dicts, lists, tuples, sets, numbers, text, bytes) as a pickle.

    >>> import numpy as np
    >>> load_pkl(store_pkl({"rates": np.arange(3), "name": "unit 7"}))["name"]
    'unit 7'

    Raises UnsupportedDataError naming anything else. Equal values may get different URIs: that of a set of strings, whose order
    Python changes with each process, is another one each time (store sorted(it) instead), and that of a dict depends on its
    order. For an identity that depends on the value alone, use store_json.
    """
    return pushed(push, lambda store: store.store_pkl(value, label=label))
