"""kacas: a content-addressed store for scientific data.

>>> import kacas
>>> uri = kacas.store_text("example text", label="a.txt")
>>> kacas.load_text(uri)
'example text'
"""

from importlib.metadata import version as _version

from kacas.api import (
    batch,
    default_store,
    describe,
    exists,
    find,
    forget,
    history,
    load_bytes,
    load_file,
    load_json,
    load_npy,
    load_pkl,
    load_text,
    open_file,
    open_npy,
    store_bytes,
    store_file,
    store_json,
    store_npy,
    store_pkl,
    store_text,
)
from kacas.errors import (
    CollisionError,
    DamagedContentError,
    DamagedError,
    DamagedPackError,
    ForeignPackError,
    InvalidLabelError,
    InvalidRangeError,
    InvalidSettingError,
    InvalidUriError,
    KacasError,
    NewerFormatError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyStoreError,
    SizeLimitError,
    SourceChangedError,
    StoreClosedError,
    StoreError,
    StoreNotFoundError,
    UnreadableSourceError,
    UnsupportedDataError,
    WriteError,
    WrongKindError,
)
from kacas.formats.npy import LazyArray
from kacas.model.description import Claim, Description, Forgotten, HistoryItem, StoreStats
from kacas.store import Store

__version__ = _version("kacas")

__all__ = [
    "Claim", "CollisionError", "DamagedContentError", "DamagedError", "DamagedPackError", "Description",
    "ForeignPackError", "Forgotten", "HistoryItem", "InvalidLabelError", "InvalidRangeError", "InvalidSettingError",
    "InvalidUriError", "KacasError", "LazyArray", "NewerFormatError", "NoSpaceError", "NotFoundError",
    "ReadOnlyStoreError", "SizeLimitError", "SourceChangedError", "Store", "StoreClosedError", "StoreError",
    "StoreNotFoundError", "StoreStats", "UnreadableSourceError", "UnsupportedDataError", "WriteError",
    "WrongKindError", "batch", "default_store", "describe", "exists", "find", "forget", "history", "load_bytes",
    "load_file", "load_json", "load_npy", "load_pkl", "load_text", "open_file", "open_npy", "store_bytes",
    "store_file", "store_json", "store_npy", "store_pkl", "store_text",
]  # fmt: skip
