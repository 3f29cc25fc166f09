"""Usage: what takes how much room in a bucket, what deduplication and compression saved, and what nobody needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from kacas.errors import KacasError
from kacas.model.digest import PayloadKind
from kacas.model.entry import Action
from kacas_remote.blobs.sealed import strays_of
from kacas_remote.layout import CONDEMNED, GROUPS, LEASES, MARKER, PACKS, PLAIN, PROBES, RECIPES, REMOVED
from kacas_remote.remote import Remote
from kacas_remote.signing import publisher_text
from kacas_remote.upkeep.marking import mark
from kacas_remote.upkeep.survey import Progress, Survey, silent

_CLASSES = {
    PACKS: "packs",
    RECIPES: "recipes",
    PLAIN: "plain objects",
    LEASES: "leases",
    CONDEMNED: "condemned packs' records",
    REMOVED: "removals' records",
    PROBES: "probes",
    GROUPS: "records of access groups",
    MARKER: "the marker",
}
_OTHERS = "others"
_STRAYS = "not of the group"


@dataclass
class Held:
    """count: blobs, or contents. size: bytes."""

    count: int = 0
    size: int = 0


@dataclass
class Usage:
    """Sizes in bytes.

    classes: blobs by what they are; of a private remote those, too, that open with no key of its group. contents: that are
    kept, and their size as their readers see it. publishers: the same, by who signed the recipe; "" for nobody. chunks: that are
    needed, raw and once each, stored_size: as they are in packs. deduplicated_size, compressed_size: what was saved.
    garbage_size: of packs, what nobody needs; about, as pushes go on. condemned: packs that a collector is about to
    delete. problems: what could not be read and is not counted.
    """

    classes: dict[str, Held] = field(default_factory=dict)
    contents: Held = field(default_factory=Held)
    publishers: dict[str, Held] = field(default_factory=dict)
    chunks: Held = field(default_factory=Held)
    stored_size: int = 0
    deduplicated_size: int = 0
    compressed_size: int = 0
    garbage_size: int = 0
    condemned: Held = field(default_factory=Held)
    problems: list[str] = field(default_factory=list)


def usage(remote: Remote, progress: Progress = silent) -> Usage:
    """Reads every table and recipe; nothing is changed. What cannot be read is a problem of the report."""
    report = Usage()
    for info in remote.blobs.list(""):
        prefix = info.key if info.key == MARKER else info.key.partition("/")[0] + "/"
        held = report.classes.setdefault(_CLASSES.get(prefix, _OTHERS), Held())
        held.count += 1
        held.size += info.size
    for info in strays_of(remote.blobs):
        held = report.classes.setdefault(_STRAYS, Held())
        held.count += 1
        held.size += info.size

    def note(key: str, exc: KacasError) -> None:
        report.problems.append(str(exc))

    remote.check_marked()
    with Survey(remote.blobs, remote.remote_id, note, progress) as survey:
        survey.read()
        mark(survey)
        _count(survey, report)
    return report


def _count(survey: Survey, report: Usage) -> None:
    db = survey.db
    kept = (
        "SELECT sha1, max(size) AS size, max(publisher) AS publisher FROM (SELECT sha1, size, publisher FROM recipes UNION ALL"
        f" SELECT sha1, size, x'' FROM entries WHERE needed AND action IN ({int(Action.KEEP)}, {int(Action.MEMBER)})"
        " UNION ALL SELECT sha1, size, x'' FROM plain) GROUP BY sha1"
    )
    for publisher, count, size in db.execute(f"SELECT publisher, count(*), sum(size) FROM ({kept}) GROUP BY publisher"):
        report.publishers[publisher_text(publisher) if publisher else ""] = Held(count, size)
    report.contents = Held(
        sum(held.count for held in report.publishers.values()), sum(held.size for held in report.publishers.values())
    )
    count, raw, stored = db.execute(
        "SELECT count(*), coalesce(sum(raw), 0), coalesce(sum(stored), 0) FROM payloads WHERE needed AND kind = ?",
        (int(PayloadKind.CHUNK),),
    ).fetchone()
    report.chunks, report.stored_size = Held(count, raw), stored
    (plain,) = db.execute("SELECT coalesce(sum(size), 0) FROM plain").fetchone()
    report.deduplicated_size = max(0, report.contents.size - raw - plain)
    report.compressed_size = max(0, raw - stored)
    (garbage,) = db.execute("SELECT coalesce(sum(stored), 0) FROM payloads WHERE NOT needed").fetchone()
    report.garbage_size = garbage
    report.condemned = Held(
        *db.execute("SELECT count(*), coalesce(sum(size), 0) FROM packs WHERE condemned").fetchone()
    )
