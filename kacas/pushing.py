"""What is stored is uploaded when it is stored, if the call, the user or the environment says so; a batch in one go at its end.

Content comes first: a remote that cannot be reached, opened or signed in to keeps nobody from storing. What is to be uploaded
is noted before it is published here, so who is killed in between finds it pending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from kacas.default import default_store
from kacas.errors import KacasError
from kacas.settings import Settings
from kacas.store import Store

if TYPE_CHECKING:
    from kacas_remote.configuration import RemoteConfiguration
    from kacas_remote.errors import PushError
    from kacas_remote.pending import Note
    from kacas_remote.push.summary import Watcher
    from kacas_remote.remote import Remote

Push = str | bool | None
"""To the remote of this name; None: to the one that stores push to, if there is one; True: to the default one; False: not."""

_opened: dict[str, tuple[Settings, Remote]] = {}


class Outgoing:
    """What one batch of a store is to upload, by remote. Used by one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uris: dict[RemoteConfiguration, list[str]] = {}
        self._notes: dict[RemoteConfiguration, Note | KacasError] = {}

    def add(self, uri: str, remote: RemoteConfiguration) -> None:
        self._uris.setdefault(remote, []).append(uri)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """A batch of the store. What was added is noted before it is published; if that fails, nothing is to be uploaded."""
        try:
            with self._store.batch():
                yield
                self.note()
        except BaseException:
            for note in self._notes.values():
                if not isinstance(note, KacasError):
                    note.strike_out()
                    note.release()
            raise

    def note(self) -> None:
        """Write down what was added. If it cannot be, `send` says so: it is to be stored all the same."""
        if not self._uris:
            return
        from kacas_remote.pending import PendingPush, write_down

        for remote, uris in self._uris.items():
            try:
                self._notes[remote] = write_down(PendingPush(str(self._store.path), remote.name, tuple(uris)))
            except KacasError as exc:
                self._notes[remote] = exc

    def send(self, progress: Watcher | None = None) -> None:
        """Upload what was noted, to each remote; if one fails the others are served all the same. Raises PushError."""
        failures: list[PushError] = []
        try:
            for remote, note in self._notes.items():
                failure = self._send(remote, note, progress)
                failures += [failure] if failure is not None else []
        finally:
            for note in self._notes.values():
                if not isinstance(note, KacasError):
                    note.release()
        if failures:
            raise joined(failures) from failures[0]

    def _send(
        self, configuration: RemoteConfiguration, note: Note | KacasError, progress: Watcher | None
    ) -> PushError | None:
        from kacas_remote.errors import PushError
        from kacas_remote.opening import packages_for

        uris, name = self._uris[configuration], configuration.name
        try:
            if isinstance(note, KacasError):
                raise note
            with packages_for(name):
                from kacas_remote.push.pushing import push_pending
            push_pending(note, self._store, opened(configuration, self._store.settings), progress=progress)
        except PushError as exc:
            return exc
        except KacasError as exc:
            again = f"kacas push --to {name} {uris[0]}" if isinstance(note, KacasError) else "kacas push --pending"
            why = f"{uris[0]} is stored, but was not pushed to {name}: {exc}; mend that, then: {again}"
            return PushError(why, uris=tuple(dict.fromkeys(uris)))
        return None


# One for each thread and asyncio task, as the batches of a store are.
_outgoing: ContextVar[Outgoing | None] = ContextVar("outgoing", default=None)


def pushed(push: Push, keep: Callable[[Store], str]) -> str:
    """Store in the default store and upload. Returns the URI.

    Raises PushError if it is stored, but not uploaded; before anything is stored, what `remote_to_push` raises.
    """
    store = default_store()
    remote = remote_to_push(push, store.settings)
    if remote is None:
        return keep(store)
    with pushed_batch():
        uri = keep(store)
        send_stored(uri, remote)
    return uri


def send_stored(uri: str, remote: RemoteConfiguration | None) -> None:
    """Upload what was stored, or, in a batch, at its end; nothing if the remote is None. Raises PushError."""
    if remote is None:
        return
    outgoing = _outgoing.get()
    if outgoing is not None:
        outgoing.add(uri, remote)
        return
    outgoing = Outgoing(default_store())
    outgoing.add(uri, remote)
    outgoing.note()
    outgoing.send()


@contextmanager
def pushed_batch() -> Iterator[None]:
    """A batch of the default store. What is to be uploaded is when all of it is safe; an inner batch joins the outer."""
    if _outgoing.get() is not None:
        with default_store().batch():
            yield
        return
    outgoing = Outgoing(default_store())
    _outgoing.set(outgoing)
    try:
        with outgoing.batch():
            yield
    finally:
        _outgoing.set(None)
    outgoing.send()


def joined(failures: Sequence[PushError]) -> PushError:
    """One error for several, with all their URIs."""
    from kacas_remote.errors import PushError

    named = dict.fromkeys(uri for failure in failures for uri in failure.uris)
    return PushError("; ".join(map(str, failures)), uris=tuple(named))


def remote_to_push(push: Push, settings: Settings) -> RemoteConfiguration | None:
    """The remote that is meant. Without remotes nothing of them is imported; whether it can be used is not known yet.

    Raises RemoteNotFoundError, InvalidRemoteError if it can only be read or if there is no default one, InvalidSettingError.
    """
    if push is False or (push is None and settings.remotes_file is None):
        return None
    from kacas_remote.configuration import default_remote, push_remote, read_remotes, remote_named
    from kacas_remote.errors import InvalidRemoteError

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
    return found


def opened(configuration: RemoteConfiguration, settings: Settings) -> Remote:
    """Nothing is asked of its service. Raises InvalidSettingError, MissingPackageError."""
    from kacas_remote.remote import open_configured

    found = _opened.get(configuration.name)
    if found is None or found[0] is not settings:  # read anew when the user's files or environment changed
        found = _opened[configuration.name] = settings, open_configured(configuration)
    return found[1]
