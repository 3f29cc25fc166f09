"""The verbs for what changes, on the default store: mutables and feeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, overload

from kacas.default import default_store
from kacas.feeds import Feed
from kacas.model.description import MutableChange
from kacas.mutables import ANYTHING, Anything

T = TypeVar("T")


def set_mutable(key: str, value: str, *, expect: str | Anything | None = ANYTHING) -> None:
    """Give a key a value: text of at most 100,000 characters, such as a URI. All who share the store see it.

    >>> set_mutable("@lab/@run7/best", "sha1://" + 40 * "0")
    >>> set_mutable("@lab/@run7/state", "started", expect=None)
    >>> set_mutable("@lab/@run7/state", "done", expect="started")
    >>> get_mutable("@lab/@run7/state")
    'done'

    A key is a name in folders, which begin with @. expect: change it only if its value is this one, or, with None, if it is
    not there: of several who do so at once, one succeeds, and the others get a MutableConflictError. Raises also
    InvalidKeyError, UnsupportedDataError, ReadOnlyStoreError and other StoreErrors. It does not wait for the end of a batch.
    """
    default_store().set_mutable(key, value, expect=expect)


@overload
def get_mutable(key: str) -> str: ...
@overload
def get_mutable(key: str, *, default: T) -> str | T: ...
def get_mutable(key: str, *, default: T | Anything = ANYTHING) -> str | T:
    """The value of a key.

    >>> get_mutable("@lab/nothing", default="none yet")
    'none yet'

    Raises MutableNotFoundError if it is not there and there is no default.
    """
    return (
        default_store().get_mutable(key) if default is ANYTHING else default_store().get_mutable(key, default=default)
    )


def delete_mutable(key: str, *, expect: str | Anything | None = ANYTHING) -> bool:
    """Delete a key. Returns whether it was there. expect: as in `set_mutable`.

    >>> set_mutable("@lab/draft", "a")
    >>> delete_mutable("@lab/draft"), delete_mutable("@lab/draft")
    (True, False)

    Its history stays, for a while.
    """
    return default_store().delete_mutable(key, expect=expect)


def delete_mutable_folder(folder: str) -> int:
    """Delete all keys that are in a folder, and in the folders in it. Returns how many there were.

    >>> set_mutable("@trial/@1/state", "done")
    >>> delete_mutable_folder("@trial")
    1

    They go one by one: a key that somebody sets meanwhile may stay.
    """
    return default_store().delete_mutable_folder(folder)


def list_mutables(folder: str = "") -> list[str]:
    """The keys that are in a folder, and in the folders in it, sorted; those of all folders if none is given.

    >>> set_mutable("@lab/@run8/state", "started")
    >>> list_mutables("@lab/@run8")
    ['@lab/@run8/state']
    """
    return default_store().list_mutables(folder)


def mutable_history(key: str) -> Iterator[MutableChange]:
    """What a key was set to, by whom and when, newest first; value is None where it was deleted.

    >>> set_mutable("@lab/counter", "1")
    >>> set_mutable("@lab/counter", "2")
    >>> [(change.generation, change.value) for change in mutable_history("@lab/counter")]
    [(2, '2'), (1, '1')]

    The last hundred changes are kept, and all of the last hour.
    """
    return default_store().mutable_history(key)


def create_feed() -> str:
    """Make a feed, a log of messages that many can append to and follow. Returns its URI.

    >>> uri = create_feed()
    >>> uri
    'kachery-feed://...'
    >>> load_feed(uri).append_message({"step": 1})
    0
    """
    return default_store().create_feed()


def load_feed(uri: str) -> Feed:
    """A feed, at its first message.

    >>> feed = load_feed(create_feed())
    >>> feed.append_messages([{"step": 1}, {"step": 2}])
    0
    >>> feed.get_next_messages(timeout_s=10)
    [{'step': 1}, {'step': 2}]
    >>> feed.get_next_messages(), feed.position
    ([], 2)
    >>> feed.set_position(1)
    >>> feed.get_next_messages()
    [{'step': 2}]

    Raises FeedNotFoundError, InvalidUriError.
    """
    return default_store().load_feed(uri)
