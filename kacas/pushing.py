"""What is stored is uploaded when it is stored, if the call, the user or the environment says so; a batch in one go at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from kacas.default import default_store
from kacas.errors import KacasError
from kacas.settings import Settings
from kacas.store import Store

if TYPE_CHECKING:
    from kacas_remote.remote import Remote

Push = str | bool | None
"""To the remote of this name; None: to the one that stores push to, if there is one; True: to the default one; False: not."""

# URIs by the remote that they go to; one for each thread and asyncio task, as the batches of a store are.
_gathered: ContextVar[dict[Remote, list[str]] | None] = ContextVar("gathered", default=None)
_opened: dict[str, tuple[Settings, Remote]] = {}


def pushed(push: Push, keep: Callable[[Store], str]) -> str:
    """Store in the default store and upload. Returns the URI.

    Raises PushError if it is stored, but not uploaded; before anything is stored, what `remote_to_push` raises.
    """
    store = default_store()
    remote = remote_to_push(push, store.settings)
    uri = keep(store)
    send_stored(uri, remote)
    return uri


def send_stored(uri: str, remote: Remote | None) -> None:
    """Upload what was stored, or, in a batch, at its end; nothing if the remote is None. Raises PushError."""
    if remote is None:
        return
    gathered = _gathered.get()
    if gathered is None:
        _send({remote: [uri]})
    else:
        gathered.setdefault(remote, []).append(uri)


@contextmanager
def pushed_batch() -> Iterator[None]:
    """A batch of the default store. What is to be uploaded is when all of it is safe; an inner batch joins the outer."""
    if _gathered.get() is not None:
        with default_store().batch():
            yield
        return
    gathered: dict[Remote, list[str]] = {}
    _gathered.set(gathered)
    try:
        with default_store().batch():
            yield
    finally:
        _gathered.set(None)
    if gathered:
        _send(gathered)


def _send(uris: Mapping[Remote, Sequence[str]]) -> None:
    """Upload to each remote; if one fails the others are served all the same. Raises PushError."""
    from kacas_remote.errors import PushError
    from kacas_remote.push.pushing import push

    store = default_store()
    failures: list[PushError] = []
    for remote, some in uris.items():
        try:
            push(store, remote, some)
        except PushError as exc:
            failures.append(exc)
        except KacasError as exc:
            why = f"{some[0]} is stored, but was not pushed to {remote.name}: {exc}; mend that, then: kacas push {some[0]}"
            failures.append(PushError(why, uris=tuple(some)))
    if failures:
        named = dict.fromkeys(uri for failure in failures for uri in failure.uris)
        raise PushError("; ".join(map(str, failures)), uris=tuple(named)) from failures[0]


def remote_to_push(push: Push, settings: Settings) -> Remote | None:
    """The remote that is meant. Without remotes nothing of them is imported; nothing is asked of its service.

    Raises RemoteNotFoundError, InvalidRemoteError if it can only be read or if there is no default one, InvalidSettingError,
    MissingPackageError.
    """
    if push is False or (push is None and settings.remotes_file is None):
        return None
    from kacas_remote.configuration import default_remote, push_remote, read_remotes, remote_named
    from kacas_remote.errors import InvalidRemoteError
    from kacas_remote.remote import open_configured

    remotes = read_remotes(settings)
    if push is None:
        found = push_remote(remotes)
    elif isinstance(push, str):
        found = remote_named(push, remotes)
    else:
        found = default_remote(remotes)
        if found is None:
            raise InvalidRemoteError(
                "there is no default remote to push to: name one, or choose it by kacas remote default NAME"
            )
    if found is None:
        return None
    if not found.writable:
        raise InvalidRemoteError(f"remote {found.name} can only be read: nothing can be pushed to it")
    opened = _opened.get(found.name)
    if opened is None or opened[0] is not settings:  # read anew when the user's files or environment changed
        opened = _opened[found.name] = settings, open_configured(found)
    return opened[1]
