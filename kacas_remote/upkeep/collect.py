"""Collection: packs of a bucket that nobody needs go, and those that hold much garbage are written anew.

One look at all; condemned/<id>; wait for everybody who may rely on what is condemned; look again; rescue what is needed after
all; delete. Nothing is un-condemned, and every step may be the last one of a collector: the next goes on from what is there.
docs/design.md has the rules and why they suffice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from kacas_remote.blobs.blob_store import BlobStore
from kacas_remote.blobs.sealed import strict_of
from kacas_remote.condemned import condemn, read_condemned
from kacas_remote.errors import CollectorBusyError, RemoteUnavailableError
from kacas_remote.layout import PACKS, pack_key
from kacas_remote.leases import BEAT_S, Lease, left_beats, list_leases
from kacas_remote.remote import Remote
from kacas_remote.removed import give_back
from kacas_remote.upkeep.marking import mark
from kacas_remote.upkeep.rescue import Rescued, rescue
from kacas_remote.upkeep.survey import Progress, Survey, silent, stop_at_faults
from kacas_remote.upkeep.waiting import DEAD_AFTER_S, Clock, LeaseWatch

COLLECTOR = "collector"
GRACE_S = 24 * 3600.0
SETTLE_S = 10.0  # some services list what was just put a moment later
_REAL = Clock(time.monotonic, time.sleep)


@dataclass(frozen=True)
class CollectSettings:
    """grace_s: packs that are younger, by the service's clock, stay. repack: the share of garbage, 0 to 1, from which a pack is
    written anew; None: never. wait_s: how long to wait for pushes at most; None: until they end."""

    grace_s: float = GRACE_S
    repack: float | None = None
    wait_s: float | None = None
    dead_after_s: float = DEAD_AFTER_S
    settle_s: float = SETTLE_S
    beat_s: float = BEAT_S
    clock: Clock = _REAL


@dataclass
class CollectReport:
    """packs, size: all that there are. condemned: packs that this run condemned; condemned_size: bytes of them that go for good.
    deleted, deleted_size: packs that are gone. waiting: pushes that did not end in time: the next run goes on.
    incomplete: SHA-1s that lack chunks."""

    packs: int = 0
    size: int = 0
    condemned: int = 0
    condemned_size: int = 0
    deleted: int = 0
    deleted_size: int = 0
    waiting: int = 0
    incomplete: list[str] = field(default_factory=list)
    rescued: Rescued = field(default_factory=Rescued)


def collect(
    remote: Remote, settings: CollectSettings | None = None, *, dry_run: bool = False, progress: Progress = silent
) -> CollectReport:
    """Raises CollectorBusyError, DamagedRemoteError or NewerFormatError if anything cannot be read: then nothing is deleted. Nor
    if it is private and the record of its group cannot be looked at. Raises NotSupportedError if this user only reads there."""
    if not dry_run:
        remote.check_writable("deleted from it")
    return _Collection(remote.through(strict_of(remote.blobs)), settings or CollectSettings(), progress).run(dry_run)


class _Collection:
    def __init__(self, remote: Remote, settings: CollectSettings, progress: Progress) -> None:
        self._blobs: BlobStore = remote.blobs
        remote.check_marked()
        self._remote_id = remote.remote_id
        self._settings = settings
        self._progress = progress
        self._report = CollectReport()

    def run(self, dry_run: bool) -> CollectReport:
        if dry_run:
            with self._surveyed() as survey:
                self._choose(survey, self._newest(survey))
            return self._report
        with self._alone() as now_s:
            with self._surveyed() as survey:
                chosen = self._choose(survey, now_s)
                self._give_back(survey)
            if chosen:
                condemn(self._blobs, chosen)
            self._finish()
        return self._report

    @contextlib.contextmanager
    def _surveyed(self) -> Iterator[Survey]:
        with Survey(self._blobs, self._remote_id, stop_at_faults, self._progress) as survey:
            survey.read()
            marks = mark(survey)
            self._report.incomplete = sorted({sha1.hex() for sha1 in marks.incomplete})
            yield survey

    # --- one collector ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[float]:
        """The lease of the collector; yields the service's time. Two at once would do needless work, and no harm."""
        settings = self._settings
        lease = Lease.take(self._blobs, COLLECTOR, beat_s=settings.beat_s)
        if lease is None:
            watch = LeaseWatch(self._blobs, {f"leases/{COLLECTOR}"}, settings.clock, settings.dead_after_s)
            limit_s = settings.dead_after_s * 1.1
            if watch.wait(limit_s, lambda _: self._progress("waiting for another collector", 0, None)):
                lease = Lease.take(self._blobs, COLLECTOR, beat_s=settings.beat_s)
        if lease is None:
            raise CollectorBusyError(
                f"{self._blobs.name}: another collector is at work; wait until it is done", path=self._blobs.name
            )
        with lease:
            info = self._blobs.head(lease.key)
            if info is None:
                raise RemoteUnavailableError(
                    f"{self._blobs.name}: a lease that was just made is not there; try again", path=self._blobs.name
                )
            yield info.modified_s

    def _newest(self, survey: Survey) -> float:
        """A dry run writes nothing, so it has no clock but this host's, and what the service said of its packs."""
        (newest,) = survey.db.execute("SELECT max(modified_s) FROM packs").fetchone()
        return max(time.time(), newest or 0.0)

    # --- condemning ---------------------------------------------------------------------------

    def _choose(self, survey: Survey, now_s: float) -> list[bytes]:
        """Ids of packs to condemn."""
        db, settings, report = survey.db, self._settings, self._report
        rows = db.execute(
            "SELECT id, size, modified_s, condemned,"
            " (SELECT coalesce(sum(stored), 0) FROM payloads WHERE pack = number AND needed),"
            " (SELECT coalesce(sum(length(data)), 0) FROM entries WHERE pack = number AND needed) FROM packs"
        ).fetchall()
        chosen = []
        report.packs, report.size = len(rows), sum(row[1] for row in rows)
        for pack_id, size, modified_s, is_condemned, needed, entries in rows:
            if is_condemned or now_s - modified_s < settings.grace_s:
                continue
            garbage = 1.0 - (needed + entries) / size
            if not (needed or entries) or (settings.repack is not None and garbage >= settings.repack):
                chosen.append(pack_id)
                report.condemned_size += size - needed - entries if needed or entries else size
        report.condemned = len(chosen)
        return chosen

    # --- deleting -----------------------------------------------------------------------------

    def _finish(self) -> None:
        """Of every record that is there now, whoever wrote it, once nobody is left who was there before it."""
        settings = self._settings
        records = read_condemned(self._blobs)
        if records:
            settings.clock.sleep(settings.settle_s)
        # After the records: who takes a lease from now on sees them. Collectors that wait do not rely on packs.
        leases = set(list_leases(self._blobs)) - {f"leases/{COLLECTOR}"}
        watch = LeaseWatch(self._blobs, leases, settings.clock, settings.dead_after_s)
        if records and not watch.wait(
            settings.wait_s, lambda left: self._progress(f"waiting for {left} pushes", 0, None)
        ):
            self._report.waiting = len(watch.left)
            return
        if records:
            self._delete(records)
        self._blobs.delete(left_beats(self._blobs))

    def _delete(self, records: dict[str, frozenset[bytes]]) -> None:
        going = set().union(*records.values())
        lease = Lease.take(self._blobs, beat_s=self._settings.beat_s)
        assert lease is not None  # its name is random
        with lease, self._surveyed() as survey:
            self._report.rescued = rescue(survey, self._remote_id, going)
            lease.check()  # the new packs may be condemned if we were taken for dead
            there = {
                pack_id: size
                for pack_id, size in survey.db.execute("SELECT id, size FROM packs").fetchall()
                if pack_id in going
            }
            self._blobs.delete(pack_key(pack_id) for pack_id in there)
            self._report.deleted, self._report.deleted_size = len(there), sum(there.values())
            self._drop_removals(survey)
        # After the packs: who finds no record finds no pack either.
        left = {info.key for info in self._blobs.list(PACKS)}
        self._blobs.delete(
            key for key, packs in records.items() if not any(pack_key(pack_id) in left for pack_id in packs)
        )

    def _give_back(self, survey: Survey) -> None:
        """What a directory holds and nothing names: whoever was removing it was killed before it saw the directory."""
        held = {
            entry_id
            for (entry_id,) in survey.db.execute(
                "SELECT id FROM entries WHERE NOT live AND sha1 IN (SELECT sha1 FROM entries WHERE needed AND NOT live"
                " EXCEPT SELECT sha1 FROM entries WHERE live EXCEPT SELECT sha1 FROM recipes)"
            )
        }
        give_back(self._blobs, survey.removed, held)

    def _drop_removals(self, survey: Survey) -> None:
        """Records of removed entries that no table has any more."""
        stay = {
            entry_id
            for (entry_id,) in survey.db.execute(
                "SELECT entries.id FROM entries JOIN packs ON number = entries.pack WHERE NOT condemned AND NOT live"
            )
        }
        self._blobs.delete(key for key, ids in survey.removed.items() if not ids & stay)
