"""HDF5 and NWB files: how they are kept, and one opened where it lies in the store."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from kacas.codec_choice import choose, sample_places
from kacas.content import Content
from kacas.errors import KacasError, MissingPackageError, NotFoundError
from kacas.formats.content_reader import ContentReader
from kacas.formats.hdf5_process import hdf5_process
from kacas.formats.npy import Layout, Sample
from kacas.model.content_cuts import ContentCutter
from kacas.model.description import Hdf5Item
from kacas.model.encoder import ZSTD, Recipe
from kacas.model.hdf5_cuts import MAX_USER_BLOCK, Hdf5Cutter, signature_at
from kacas.model.uri import Uri
from kacas.repository import Repository

PACKAGE = "h5py"


def hdf5_layout(fd: int, sample: Sample, codec: str = "auto") -> Layout:
    """Of an open file with the signature: cut at the chunks of its datasets. Without h5py, and where it cannot read the file,
    as any other file. codec: for data that HDF5 itself does not compress."""
    # In a frozen application, `sys.executable` is that application, and cannot be the process that reads the file.
    located = hdf5_process.locate(fd) if find_spec(PACKAGE) and not getattr(sys, "frozen", False) else None
    if located is None or not len(located.spans):
        return Layout()
    try:
        cutter = Hdf5Cutter(located.spans, ContentCutter())
    except ValueError:
        return Layout()
    return Layout(cutter, recipe=_recipe(located.largest, sample, codec))


def _recipe(largest: dict[str, Any], sample: Sample, codec: str) -> Recipe:
    """The one that suits the largest dataset without filters: for all of the file, as what it is not made for becomes zstd."""
    if not largest:
        return ZSTD
    item_size = int(largest["item_size"])
    samples = [found for place in _places(largest["areas"], item_size) if (found := sample(*place))]
    return choose(codec, samples, str(largest["kind"]), item_size, [int(size) for size in largest["row_sizes"]])


def _places(areas: Sequence[Sequence[int]], item_size: int) -> Iterator[tuple[int, int]]:
    """Where to take samples of whole items from, start and size; areas: where some of the data lies."""
    total = sum(stop - start for start, stop in areas)
    for place, size in sample_places(total):
        for start, stop in areas:
            length = stop - start
            if place < length:
                place -= place % item_size
                most = min(size, length - place)
                if most >= item_size:
                    yield start + place, most - most % item_size
                break
            place -= length


def is_stored_hdf5(content: Content) -> bool:
    """Whether content begins as HDF5 files do."""
    front = bytearray(min(MAX_USER_BLOCK, content.size))
    content.read_into(0, memoryview(front))
    return signature_at(bytes(front)) is not None


def open_h5(repository: Repository, uri: Uri) -> Any:
    """The content as h5py's File, read-only: each read fetches and verifies the chunks it needs. Closing it closes all.

    Data and links that lead into other files are refused with an ExternalDataError. Raises MissingPackageError without h5py,
    WrongKindError for what h5py cannot open.
    """
    if not find_spec(PACKAGE):
        raise MissingPackageError(
            f"HDF5 is read by the package {PACKAGE}: pip install {PACKAGE}, or pip install kacas[hdf5]", package=PACKAGE
        )
    from kacas.formats.hdf5_open import StoredFile

    _, content = repository.resolve(uri)
    if not is_stored_hdf5(content):
        raise repository.wrong_kind(uri, "it does not begin as HDF5 files do")
    reader = io.BufferedReader(ContentReader(content, str(uri)), buffer_size=content.read_ahead)
    try:
        return StoredFile(reader)
    except (KeyError, OSError, RuntimeError, ValueError) as exc:
        reader.close()
        if isinstance(exc, KacasError):
            raise
        raise repository.wrong_kind(uri, f"h5py cannot read it as HDF5: {exc}") from exc
    except BaseException:
        reader.close()
        raise


def list_h5(repository: Repository, uri: Uri, path: str) -> Iterator[Hdf5Item]:
    """What the file holds at `path` and below it. Raises as `open_h5`, and NotFoundError."""
    with open_h5(repository, uri) as file:
        from kacas.formats.hdf5_open import UNREADABLE
        from kacas.formats.hdf5_outline import outline

        try:
            yield from outline(file, path)
        except KacasError:
            raise
        except UNREADABLE as exc:
            raise NotFoundError(
                f"{uri} has no {path!r}, or not one that can be read; see what is in it without a path",
                sha1=uri.sha1.hex(),
            ) from exc
