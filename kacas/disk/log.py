"""The log: an owner's keep entries, newest first, from wherever they are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from kacas.disk.index_entries import end_of_log, log_key
from kacas.model.entry import Entry

_PAGE = 1000

Pages = Callable[[bytes, int], Iterable[Entry]]  # before, count: that many of the newest whose log keys are less


def newest_first(owner: bytes, pages: Pages) -> Iterator[Entry]:
    """pages: entries may come in any order, and twice."""
    before = end_of_log(owner)
    while page := {log_key(entry): entry for entry in pages(before, _PAGE)}:
        # What is behind the first page of them all may be between others that did not come yet.
        keys = sorted(page, reverse=True)[:_PAGE]
        yield from (page[key] for key in keys)
        before = keys[-1]


def pages_of(entries: Iterable[Entry]) -> Pages:
    """Of entries that are all here."""
    known = {log_key(entry): entry for entry in entries}
    keys = sorted(known)

    def page(before: bytes, count: int) -> list[Entry]:
        stop = bisect_left(keys, before)
        return [known[key] for key in keys[max(0, stop - count) : stop]]

    return page
