"""pull: contents and directories come from what is behind a store into it, whole and proved."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from kacas.ahead import Ahead
from kacas.errors import KacasError, NotFoundError
from kacas.formats.tree import Trees
from kacas.model.tree import TreeError
from kacas.model.uri import DirectoryUri, Uri
from kacas.private_uris import any_uris
from kacas.read_through import IN_FLIGHT
from kacas.store import Store
from kacas_remote.push.summary import Silent, Watcher

_ONE_BY_ONE = 4  # contents of which recipes are read; of more, the tables of all packs are, too


@dataclass
class PullSummary:
    """contents: that were asked for; contents_here: that needed nothing; failed: why which could not be had, by URI. raw_size:
    bytes of all that were had, as they are read. dry_run: nothing was fetched, and the figures say what would be.
    """

    dry_run: bool = False
    contents: int = 0
    contents_here: int = 0
    raw_size: int = 0
    raw_size_here: int = 0
    seconds: float = 0.0
    failed: dict[str, KacasError] = field(default_factory=dict)


def pull(store: Store, uris: Iterable[str], *, dry_run: bool = False, progress: Watcher | None = None) -> PullSummary:
    """Have all of these contents in the store; of a directory all that is below it. What is here already costs nothing, and
    what an interrupted pull fetched is not fetched again.

    uris: sha1:// and sha1dir://, with paths too. What cannot be had is told by the summary; all else is here then.
    Raises InvalidUriError before anything is asked for.
    """
    begun = time.monotonic()
    watcher = progress or Silent()
    texts = list(dict.fromkeys(uris))
    wanted = dict(zip(texts, any_uris(texts), strict=True))
    summary = PullSummary(dry_run=dry_run, contents=len(wanted))
    here = {text for text, uri in wanted.items() if isinstance(uri, Uri) and store.repository.tiers.is_here(uri)}
    if not dry_run:
        _bring_small(store, list(wanted.values()))
    watcher.expect(None if dry_run else _total(store, wanted))
    for text, uri in wanted.items():
        watcher.begin(text)
        size = 0
        try:
            size, was_here = _pull_one(store, text, uri, dry_run)
        except KacasError as exc:
            summary.failed[text] = exc
        else:
            summary.raw_size += size
            if was_here and (text in here or isinstance(uri, DirectoryUri)):
                summary.contents_here += 1
                summary.raw_size_here += size
        watcher.finished(size)
    summary.seconds = time.monotonic() - begun
    return summary


def _bring_small(store: Store, uris: Sequence[Uri | DirectoryUri]) -> None:
    """Together; who cannot be asked is told of when its contents are asked for one by one."""
    alone = [uri for uri in uris if isinstance(uri, Uri)]
    if len(alone) > _ONE_BY_ONE:
        with suppress(KacasError):
            store.repository.tiers.bring_many(alone)


def _total(store: Store, wanted: dict[str, Uri | DirectoryUri]) -> int | None:
    """Bytes of all contents; None if that cannot be told. Documents of directories are fetched for it, as they are anyway."""
    repository, trees = store.repository, Trees(store.repository)

    def size(one: tuple[str, Uri | DirectoryUri]) -> int | None:
        text, uri = one
        try:
            content = trees.content_uri(text, directory=True)
            if isinstance(uri, Uri) or not trees.is_directory(text):
                return repository.tiers.size(content)
            repository.tiers.bring_documents(content.sha1)
            return _tree_size(store, content.sha1, text)
        except KacasError:
            return None  # why, is told when it is pulled

    with Ahead(IN_FLIGHT, "kacas-sizes") as asking:
        sizes = list(asking.map(size, wanted.items()))
    known = [one for one in sizes if one is not None]
    return sum(known) if len(known) == len(sizes) else None


def _pull_one(store: Store, text: str, uri: Uri | DirectoryUri, dry_run: bool) -> tuple[int, bool]:
    """Its size, and whether it was here."""
    repository, trees = store.repository, Trees(store.repository)
    content = trees.content_uri(text, directory=True)
    is_directory = isinstance(uri, DirectoryUri) and trees.is_directory(text)
    check = (
        partial(repository.tiers.is_tree_here, content.sha1)
        if is_directory
        else partial(repository.tiers.is_here, content)
    )
    is_here = check()
    if dry_run or is_here:
        pass
    elif is_directory:
        repository.bring_tree(content.sha1)
    else:
        repository.bring(content)
    if not dry_run and not check():
        raise repository.tiers.turns.unkept or NotFoundError(
            f"{text}: not all of it could be had; `kacas load` tells what is missing",
            sha1=content.sha1.hex(),
        )
    size = _tree_size(store, content.sha1, text) if is_directory else repository.tiers.size(content)
    return size, is_here


def _tree_size(store: Store, sha1: bytes, text: str) -> int:
    """Bytes of all files below a directory, by the documents that were read for it anyway. Raises as `Trees.totals`."""
    tiers = store.repository.tiers
    try:
        return tiers.trees.total(sha1, tiers.sequence)
    except TreeError:
        return Trees(store.repository).totals(sha1, text).size  # which says what is wrong with it
