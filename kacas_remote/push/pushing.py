"""push: contents of a store go to a remote, what is missing of them in packs, then the recipes."""

from __future__ import annotations

from collections.abc import Iterable

from kacas.errors import KacasError, NotFoundError
from kacas.store import Store
from kacas_remote.errors import NotSupportedError, PushError
from kacas_remote.pending import Note, PendingPush, written_down
from kacas_remote.push.delivery import Delivery
from kacas_remote.push.plan import plan_of
from kacas_remote.push.summary import PushSummary, Silent, Watcher
from kacas_remote.remote import Remote


def push(
    store: Store,
    remote: Remote,
    uris: Iterable[str],
    *,
    plain: bool | None = None,
    dry_run: bool = False,
    limit_bytes_s: float | None = None,
    progress: Watcher | None = None,
) -> PushSummary:
    """Send what the remote lacks of contents and directories, and recipes of them.

    uris: sha1:// and sha1dir://, with paths in directories too. plain: as plain objects; None: as the remote's default is.
    dry_run: only find out what would be sent. What is to be pushed is noted durably first, and struck out at the end.
    Raises PushError, which has the URIs that are not there: of content that is damaged here, when all else is pushed; of
    all, if the remote fails. Raises NotSupportedError if it takes no pushes, or no plain objects; InvalidUriError, NotFoundError
    or WrongKindError, before anything is sent, for what cannot be pushed at all.
    """
    if not remote.configuration.writable:
        raise NotSupportedError(
            f"remote {remote.name} can only be read: nothing can be pushed to it; name another one",
            path=remote.blobs.name,
        )
    plan = plan_of(store.repository, uris)
    if plain is None:
        plain = remote.configuration.plain
    if plain:
        remote.check_plain()
    work = Delivery(store.repository, remote, plan, plain, limit_bytes_s, progress or Silent())
    if dry_run:
        return work.dry_run()
    with written_down(PendingPush(str(store.path), remote.name, tuple(plan.uris), plain)) as note:
        return finish(work, note)


def push_pending(
    note: Note, store: Store, remote: Remote, *, limit_bytes_s: float | None = None, progress: Watcher | None = None
) -> tuple[PushSummary, list[str]]:
    """Do what was noted, by this process or by one that is dead, and strike it out: see `taken`.

    Returns the URIs, too, that are in no store of this host any more: they are struck out, as nobody can push them.
    Raises as `push`.
    """
    plain = remote.configuration.plain if note.push.plain is None else note.push.plain
    if plain:
        remote.check_plain()
    gone: list[str] = []
    try:
        plan = plan_of(store.repository, note.push.uris)
    except NotFoundError:
        gone = [uri for uri in note.push.uris if not store.exists(uri)]
        plan = plan_of(store.repository, [uri for uri in note.push.uris if uri not in set(gone)])
    work = Delivery(store.repository, remote, plan, plain, limit_bytes_s, progress or Silent())
    return finish(work, note), gone


def finish(work: Delivery, note: Note) -> PushSummary:
    """Do the work that was noted, and strike it out. Raises PushError."""
    try:
        work.run()
    except (OSError, KacasError) as exc:
        raise PushError(
            f"{_named(work.uris)} could not be pushed to {work.name}: {exc}; nothing is lost, the local copy is "
            "safe: kacas push --pending goes on",
            uris=tuple(work.uris),
        ) from exc
    left = [work.uris[index] for index in sorted(work.failures)]
    note.strike_out(left)
    if left:
        first = work.failures[min(work.failures)]
        raise PushError(
            f"{_named(left)} could not be pushed to {work.name}: {first}; "
            f"{'all else is pushed' if len(left) < len(work.uris) else 'nothing was pushed'}",
            uris=tuple(left),
        ) from first
    return work.summary


def _named(uris: list[str]) -> str:
    return uris[0] if len(uris) == 1 else f"{uris[0]} and {len(uris) - 1:,} more"
