"""The functions that ask what the default store holds, who keeps it, and let go of it."""

from __future__ import annotations

from collections.abc import Iterator

from kacas.default import default_store
from kacas.model.description import Description, Difference, DirectoryItem, Forgotten, HistoryItem


def list_dir(uri: str, path: str = "") -> list[DirectoryItem]:
    """What a stored directory holds, or the directory at `path` in it, sorted by name.

    >>> _ = Path("box").mkdir(); _ = Path("box/a.txt").write_text("first")
    >>> [(item.type, item.name, item.size) for item in list_dir(store_dir("box"))]
    [('file', 'a.txt', 5)]
    """
    return default_store().list_dir(uri, path)


def diff(uri: str, other: str) -> Iterator[Difference]:
    """How the stored directory `other` differs from `uri`, path by path; equal subdirectories are not read.

    >>> _ = Path("v1").mkdir(); _ = Path("v1/a.txt").write_text("first")
    >>> before = store_dir("v1")
    >>> _ = Path("v1/a.txt").write_text("second"); _ = Path("v1/b.txt").write_text("new")
    >>> for found in diff(before, store_dir("v1")):
    ...     print(found.change, found.path)
    content a.txt
    added b.txt
    """
    return default_store().diff(uri, other)


def exists(uri: str) -> bool:
    """Whether the content can be loaded.

    >>> exists(store_text("example text")), exists("sha1://" + 40 * "0")
    (True, False)

    Raises a DamagedError or NewerFormatError if a pack that cannot be read might hold it.
    """
    return default_store().exists(uri)


def find(uri: str) -> Description | None:
    """What is known of the content, or None if it is not here.

    >>> find("sha1://" + 40 * "0") is None
    True
    """
    return default_store().find(uri)


def describe(uri: str) -> Description:
    """Kind, size, chunks, stored size, ratio and claims of the content.

    >>> describe(store_json({"example": "dict"})).size
    18
    """
    return default_store().describe(uri)


def forget(uri: str) -> Forgotten:
    """Drop my claim on the content and say who else keeps it.

    >>> forget(store_text("not needed any more")).kept_by
    ()

    The bytes stay readable until the store is collected; storing the content again claims it again.
    """
    return default_store().forget(uri)


def history() -> Iterator[HistoryItem]:
    """What I stored, newest first.

    >>> uri = store_text("the last thing", label="last.txt")
    >>> next(history()).label
    'last.txt'
    """
    return default_store().history()
