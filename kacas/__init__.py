"""kacas: a content-addressed store for scientific data.

>>> import kacas
>>> uri = kacas.store_text("example text", label="a.txt")
>>> kacas.load_text(uri)
'example text'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kacas.asking import (
        describe,
        diff,
        exists,
        find,
        forget,
        history,
        list_dir,
    )
    from kacas.changing import (
        create_feed,
        delete_mutable,
        delete_mutable_folder,
        get_mutable,
        list_mutables,
        load_feed,
        mutable_history,
        set_mutable,
    )
    from kacas.default import default_store
    from kacas.encrypting import decrypt_uri, encrypt_uri
    from kacas.errors import (
        AccessDeniedError,
        AdoptedFileError,
        ArrayStreamError,
        CollisionError,
        DamagedContentError,
        DamagedError,
        DamagedPackError,
        DamagedRecordError,
        DestinationError,
        ExternalDataError,
        FeedNotFoundError,
        ForeignPackError,
        InvalidChunksError,
        InvalidKeyError,
        InvalidLabelError,
        InvalidProfileError,
        InvalidRangeError,
        InvalidSettingError,
        InvalidUriError,
        KacasError,
        LeaseLostError,
        LeaseUnusableError,
        MissingPackageError,
        MutableConflictError,
        MutableNotFoundError,
        NewerFormatError,
        NoLinksError,
        NoSpaceError,
        NotFoundError,
        ReadOnlyStoreError,
        SizeLimitError,
        SkippedWarning,
        SourceChangedError,
        StoreClosedError,
        StoreError,
        StoreNotFoundError,
        StrayError,
        UnreadableSourceError,
        UnsupportedDataError,
        WriteError,
        WrongIdentityError,
        WrongKindError,
    )
    from kacas.feeds import Feed
    from kacas.formats.lazy_array import LazyArray
    from kacas.formats.npy_writer import NpyWriter
    from kacas.loading import (
        load_bytes,
        load_dir,
        load_file,
        load_json,
        load_npy,
        load_pkl,
        load_text,
        open_file,
        open_h5,
        open_npy,
    )
    from kacas.model.description import (
        Claim,
        Description,
        Difference,
        DirectoryItem,
        Forgotten,
        Hdf5Item,
        HistoryItem,
        MutableChange,
        SegmentStats,
        StoreStats,
    )
    from kacas.store import Store
    from kacas.storing import (
        batch,
        link_dir,
        link_file,
        npy_writer,
        store_bytes,
        store_dir,
        store_file,
        store_json,
        store_npy,
        store_pkl,
        store_text,
    )
    from kacas.transferring import pull, push, push_pending, sync
    from kacas_remote.errors import (
        DamagedGroupError,
        GroupAccessError,
        GroupNotFoundError,
        InvalidRemoteError,
        PushError,
        RemoteNotFoundError,
        RemoteRefusedError,
        RemoteUnavailableError,
        UntrustedError,
    )

    __version__: str

# Names are fetched on first use: `kacas --help` and programs that want one corner start 0.2 s sooner.
_HOME = {
    "kacas.asking": (
        "describe",
        "diff",
        "exists",
        "find",
        "forget",
        "history",
        "list_dir",
    ),
    "kacas.changing": (
        "create_feed",
        "delete_mutable",
        "delete_mutable_folder",
        "get_mutable",
        "list_mutables",
        "load_feed",
        "mutable_history",
        "set_mutable",
    ),
    "kacas.default": ("default_store",),
    "kacas.encrypting": ("decrypt_uri", "encrypt_uri"),
    "kacas.errors": (
        "AccessDeniedError",
        "AdoptedFileError",
        "ArrayStreamError",
        "CollisionError",
        "DamagedContentError",
        "DamagedError",
        "DamagedPackError",
        "DamagedRecordError",
        "DestinationError",
        "ExternalDataError",
        "FeedNotFoundError",
        "ForeignPackError",
        "InvalidChunksError",
        "InvalidKeyError",
        "InvalidLabelError",
        "InvalidProfileError",
        "InvalidRangeError",
        "InvalidSettingError",
        "InvalidUriError",
        "KacasError",
        "MissingPackageError",
        "MutableConflictError",
        "MutableNotFoundError",
        "LeaseLostError",
        "LeaseUnusableError",
        "NewerFormatError",
        "NoLinksError",
        "NoSpaceError",
        "NotFoundError",
        "ReadOnlyStoreError",
        "SizeLimitError",
        "SkippedWarning",
        "SourceChangedError",
        "StoreClosedError",
        "StoreError",
        "StoreNotFoundError",
        "StrayError",
        "UnreadableSourceError",
        "UnsupportedDataError",
        "WriteError",
        "WrongIdentityError",
        "WrongKindError",
    ),
    "kacas.feeds": ("Feed",),
    "kacas.formats.lazy_array": ("LazyArray",),
    "kacas.formats.npy_writer": ("NpyWriter",),
    "kacas.loading": (
        "load_bytes",
        "load_dir",
        "load_file",
        "load_json",
        "load_npy",
        "load_pkl",
        "load_text",
        "open_file",
        "open_h5",
        "open_npy",
    ),
    "kacas.model.description": (
        "Claim",
        "Description",
        "Difference",
        "DirectoryItem",
        "Forgotten",
        "Hdf5Item",
        "HistoryItem",
        "MutableChange",
        "SegmentStats",
        "StoreStats",
    ),
    "kacas.store": ("Store",),
    "kacas.storing": (
        "batch",
        "link_dir",
        "link_file",
        "npy_writer",
        "store_bytes",
        "store_dir",
        "store_file",
        "store_json",
        "store_npy",
        "store_pkl",
        "store_text",
    ),
    "kacas.transferring": ("pull", "push", "push_pending", "sync"),
    "kacas_remote.errors": (
        "DamagedGroupError",
        "GroupAccessError",
        "GroupNotFoundError",
        "InvalidRemoteError",
        "PushError",
        "RemoteNotFoundError",
        "RemoteRefusedError",
        "RemoteUnavailableError",
        "UntrustedError",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("kacas")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'kacas' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF, "__version__"])


__all__ = [
    "AccessDeniedError", "AdoptedFileError", "ArrayStreamError", "Claim", "CollisionError", "DamagedContentError",
    "DamagedError", "DamagedGroupError", "DamagedPackError", "DamagedRecordError", "Description", "DestinationError",
    "Difference", "DirectoryItem", "ExternalDataError", "Feed", "FeedNotFoundError", "ForeignPackError", "Forgotten",
    "GroupAccessError", "GroupNotFoundError", "Hdf5Item", "HistoryItem", "InvalidChunksError", "InvalidKeyError",
    "InvalidLabelError", "InvalidProfileError", "InvalidRangeError", "InvalidRemoteError", "InvalidSettingError",
    "InvalidUriError", "KacasError", "LazyArray", "LeaseLostError", "LeaseUnusableError", "MissingPackageError",
    "MutableChange", "MutableConflictError", "MutableNotFoundError", "NewerFormatError", "NoLinksError", "NoSpaceError",
    "NotFoundError", "NpyWriter", "PushError", "ReadOnlyStoreError", "RemoteNotFoundError", "RemoteRefusedError",
    "RemoteUnavailableError", "SegmentStats", "SizeLimitError", "SkippedWarning", "SourceChangedError", "Store",
    "StoreClosedError", "StoreError", "StoreNotFoundError", "StoreStats", "StrayError", "UnreadableSourceError",
    "UnsupportedDataError", "UntrustedError", "WriteError", "WrongIdentityError", "WrongKindError", "batch",
    "create_feed", "decrypt_uri", "default_store", "delete_mutable", "delete_mutable_folder", "describe", "diff",
    "encrypt_uri", "exists", "find", "forget", "get_mutable", "history", "link_dir", "link_file", "list_dir",
    "list_mutables", "load_bytes", "load_dir", "load_feed", "load_file", "load_json", "load_npy", "load_pkl",
    "load_text", "mutable_history", "npy_writer", "open_file", "open_h5", "open_npy", "pull", "push", "push_pending",
    "set_mutable", "store_bytes", "store_dir", "store_file", "store_json", "store_npy", "store_pkl", "store_text",
    "sync",
]  # fmt: skip
