"""Every exception that kacas raises on purpose.

All derive from `KacasError`; most are also the built-in exception that a Python user would catch
(`FileNotFoundError` for missing content, `ValueError` for a malformed URI, ...). A message says
what failed, on what, and what to do next; ids that a program may want are attributes.
"""

from __future__ import annotations


class KacasError(Exception):
    """Base of all errors raised by kacas. `exit_code` is what the command line returns for it."""

    exit_code = 1

    def __str__(self) -> str:
        # OSError subclasses would otherwise print errno tuples; here the message is always args[0].
        return str(self.args[0]) if self.args else self.__class__.__name__


class InvalidUriError(KacasError, ValueError):
    """The text is not a kacas URI; the message shows the nearest valid form."""

    exit_code = 2

    def __init__(self, message: str, *, uri: str) -> None:
        super().__init__(message)
        self.uri = uri


class InvalidKeyError(KacasError, ValueError):
    """The text is no key or folder of mutables; the message says why. `key` is what was given."""

    exit_code = 2

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class InvalidLabelError(KacasError, ValueError):
    """The label cannot be kept (too long, or not encodable)."""

    exit_code = 2


class InvalidRangeError(KacasError, ValueError):
    """A byte range that is not a range."""

    exit_code = 2


class InvalidSettingError(KacasError, ValueError):
    """An environment variable or a line of kacas.toml has a value that cannot be used."""

    exit_code = 2


class InvalidChunksError(KacasError, ValueError):
    """The tiles that an array is to be cut into are no tiles of that array; the message says why."""

    exit_code = 2


class InvalidProfileError(KacasError, ValueError):
    """A file that is to be compared with is no profile of `kacas bench --json`; the message says where."""

    exit_code = 2


class UnsupportedDataError(KacasError, TypeError):
    """The value given to a store_* function cannot be kept by it; the message names the part."""

    exit_code = 2


class ArrayStreamError(KacasError, ValueError):
    """An array that comes in parts is not what was declared: other rows, more or fewer. Nothing of it is stored."""

    exit_code = 2


class NotFoundError(KacasError, FileNotFoundError):
    """No readable pack of this store holds the content. `sha1` is its identity in hex."""

    exit_code = 3

    def __init__(self, message: str, *, sha1: str = "") -> None:
        super().__init__(message)
        self.sha1 = sha1


class MutableNotFoundError(NotFoundError):
    """There is no mutable with this key, or it was deleted. `key` is its name."""

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class FeedNotFoundError(NotFoundError):
    """There is no such feed in the store. `uri` names it."""

    def __init__(self, message: str, *, uri: str) -> None:
        super().__init__(message)
        self.uri = uri


class MutableConflictError(KacasError):
    """The mutable is not what the caller expected; nothing was changed. `key`, and as values or None: `expected`, `found`."""

    exit_code = 12

    def __init__(self, message: str, *, key: str, expected: str | None, found: str | None) -> None:
        super().__init__(message)
        self.key = key
        self.expected = expected
        self.found = found


class WrongKindError(KacasError, ValueError):
    """The content exists but is not what this function loads (a text is not an array)."""

    exit_code = 4

    def __init__(self, message: str, *, sha1: str = "") -> None:
        super().__init__(message)
        self.sha1 = sha1


class CollisionError(KacasError):
    """Two different contents have one SHA-1. The new content was not stored."""

    exit_code = 5

    def __init__(self, message: str, *, sha1: str) -> None:
        super().__init__(message)
        self.sha1 = sha1


class DamagedError(KacasError, OSError):
    """Stored bytes are not what was written. Never returned as data."""

    exit_code = 5


class DamagedPackError(DamagedError):
    """A pack (or a part of it) fails its checks. `pack` is its id in hex, `digest` the part's, if one."""

    def __init__(self, message: str, *, pack: str, digest: str = "") -> None:
        super().__init__(message)
        self.pack = pack
        self.digest = digest


class ForeignPackError(DamagedPackError):
    """A file in packs/ is not a pack of this store."""


class DamagedContentError(DamagedError):
    """A manifest or node contradicts itself, or names a chunk that no pack holds."""

    def __init__(self, message: str, *, sha1: str = "", digest: str = "") -> None:
        super().__init__(message)
        self.sha1 = sha1
        self.digest = digest


class WrongIdentityError(DamagedError):
    """Bytes that come with a SHA-1 have another one, `found`; they were not stored."""

    def __init__(self, message: str, *, found: str) -> None:
        super().__init__(message)
        self.found = found


class AdoptedFileError(DamagedError):
    """Linked content cannot be read from its file. `path` names it; `state`: "missing", "changed" or "unreadable"."""

    def __init__(self, message: str, *, path: str, state: str) -> None:
        super().__init__(message)
        self.path = path
        self.state = state


class DamagedRecordError(DamagedError):
    """A record of a mutable, feed or lease fails its checks, or one is missing. `path` names it; `number` is its number."""

    def __init__(self, message: str, *, path: str, number: int) -> None:
        super().__init__(message)
        self.path = path
        self.number = number


class NewerFormatError(KacasError):
    """Written by a newer kacas. `needed` is the format version that must be understood."""

    exit_code = 6

    def __init__(self, message: str, *, needed: int, pack: str = "") -> None:
        super().__init__(message)
        self.needed = needed
        self.pack = pack


class MissingPackageError(KacasError, ImportError):
    """A codec, or HDF5, needs a package that is not installed. `package` is what to install."""

    exit_code = 6

    def __init__(self, message: str, *, package: str) -> None:
        super().__init__(message)
        self.package = package


class ExternalDataError(KacasError, KeyError):
    """In an HDF5 file, a link or a dataset leads into another file, which is not opened."""

    exit_code = 4


class SizeLimitError(KacasError, MemoryError):
    """The declared size is more than may be taken; nothing was allocated."""

    exit_code = 7


class SourceChangedError(KacasError, OSError):
    """A file changed while it was being stored; nothing was published for it. `path` names it."""

    exit_code = 8

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class UnreadableSourceError(KacasError, OSError):
    """A file to be stored or linked cannot be read, or is none that can be kept. `path` names it."""

    exit_code = 8

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class DestinationError(KacasError, OSError):
    """The place that content is to be written to cannot be used. `path` names it."""

    exit_code = 8

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class StoreError(KacasError, OSError):
    """The store directory itself cannot be used. `path` names it."""

    exit_code = 9

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the path."""


class ReadOnlyStoreError(StoreError, PermissionError):
    """The store can be read but not written by this user."""


class AccessDeniedError(StoreError, PermissionError):
    """This user may not read the store, or something in it."""


class NoSpaceError(StoreError):
    """The disk (or the quota) is full. The store is as it was."""


class WriteError(StoreError):
    """The file system refused a write or a sync. The store is as it was."""


class NoLinksError(WriteError):
    """The file system cannot give a file a name that is certainly free: mutables, feeds and leases are not kept on it."""


class LeaseUnusableError(StoreError):
    """This user may have no leases in the store, or what lies there is none: content from an upstream is not kept."""


class StrayError(StoreError):
    """Where a directory of the store belongs, there is a file or a link. `path` names it."""


class StoreClosedError(KacasError, ValueError):
    """The store, batch or reader was closed, or belongs to another process (after fork)."""


class LeaseLostError(KacasError):
    """Another process took a lease over, as this one was silent for too long; what it did meanwhile does not count."""

    exit_code = 9


class SkippedWarning(UserWarning):
    """Parts of a directory were not stored: sockets and devices, or, with `partial`, what cannot be read."""
