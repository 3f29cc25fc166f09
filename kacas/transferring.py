"""The functions that move content between the default store and remotes, after it was stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kacas.default import default_store
from kacas.errors import KacasError
from kacas.pushing import joined, opened, remote_to_push
from kacas.store import Store

if TYPE_CHECKING:
    from kacas_remote.pulling import PullSummary
    from kacas_remote.push.summary import PushSummary


def push(uris: str | Iterable[str], to: str | None = None, *, plain: bool | None = None) -> PushSummary:
    """Upload what the remote lacks of these contents and directories, so that their URIs resolve wherever it is known.

    >>> push(store_text("for all of us"), to="lab").contents
    1

    to: the name of the remote, else the default one. plain: as whole objects, for browsers and kachery clients; None: as the
    remote's default is. Raises PushError with the URIs that are not there, which stay pending; NotFoundError, InvalidUriError,
    RemoteNotFoundError and InvalidRemoteError before anything is sent.
    """
    store = default_store()
    configuration = remote_to_push(True if to is None else to, store.settings)
    assert configuration is not None
    remote = opened(configuration, store.settings)
    from kacas_remote.push import pushing

    return pushing.push(store, remote, _several(uris), plain=plain)


def sync(to: str | None = None, *, plain: bool | None = None) -> PushSummary:
    """Upload all that I stored and did not forget. What the remote has is not sent again. Arguments and errors are those of push.

    >>> _ = store_text("for all of us"), store_text("this too")
    >>> sync("lab").contents >= 2
    True
    """
    return push((item.uri for item in default_store().history() if not item.forgotten), to, plain=plain)


def push_pending() -> list[PushSummary]:
    """Upload what could not be uploaded when it should have been, from whatever store; what other processes have in hand is left.

    >>> push_pending()
    []

    Raises PushError with all URIs that still are not there, when everything else was tried.
    """
    from kacas_remote.errors import PushError
    from kacas_remote.pending import taken
    from kacas_remote.push import pushing
    from kacas_remote.remote import open_remote

    default, done, failures = default_store(), [], []
    with taken() as notes:
        for note in notes:
            try:
                remote = open_remote(note.push.remote, default.settings)
                with _store_at(note.push.store, default) as store:
                    done.append(pushing.push_pending(note, store, remote)[0])
            except PushError as exc:
                failures.append(exc)
            except KacasError as exc:
                failures.append(note.stays(exc))
    if failures:
        raise joined(failures) from failures[0]
    return done


def pull(uris: str | Iterable[str], source: str | None = None) -> PullSummary:
    """Fetch whole contents and directories into the default store, checked against their SHA-1; what is here is not fetched again.

    >>> pull(store_text("for all of us")).contents_here
    1

    source: the name of the remote to ask, else all that are behind the store, in their order. What is fetched is cache: nobody
    keeps it until it is stored. Raises, when all else is here, the error of the first that could not be had: NotFoundError,
    DamagedError, StoreError if nothing answers; before anything is asked for, InvalidUriError and RemoteNotFoundError.
    """
    from kacas_remote import pulling

    with _store_before(source) as store:
        summary = pulling.pull(store, _several(uris))
    for error in summary.failed.values():
        raise error
    return summary


def _several(uris: str | Iterable[str]) -> list[str]:
    return [uris] if isinstance(uris, str) else list(uris)


@contextmanager
def _store_at(path: str, default: Store) -> Iterator[Store]:
    if path == str(default.path):
        yield default
    else:
        with Store.open(path, create=False, settings=default.settings) as store:
            yield store


@contextmanager
def _store_before(source: str | None) -> Iterator[Store]:
    """The default store, with nothing but this remote behind it, if one is named."""
    default = default_store()
    if source is None:
        yield default
        return
    from kacas_remote.configured import configured_upstreams

    behind = configured_upstreams(default.settings, source)
    with Store.open(default.path, settings=default.settings, behind=behind) as store:
        yield store
